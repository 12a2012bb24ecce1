//! Ending what runs in a container, with and without a new beginning.

use std::time::Duration;

use state::{ContainerRecord, ContainerState};

use crate::{
    Engine,
    create::Spec,
    error::Error,
    keeper::client::Connection,
    life,
    request::AcceleratorChoice,
    signals,
    start::{StartOptions, StartOutcome},
};

impl Engine {
    /// Stops a container: its stop signal or `signal`, a wait of at most `timeout` or its own stop timeout, then
    /// SIGKILL, and a clean power-off of its machine. Returns when that is recorded; at once where it does not run.
    ///
    /// # Errors
    ///
    /// [`Error::Keeper`], [`Error::Refused`].
    pub fn stop(&self, name: &str, signal: Option<u8>, timeout: Option<Duration>) -> Result<(), Error> {
        let record = self.container(name)?;
        let Some(connection) = self.reach(&record.id)? else { return Ok(()) };
        self.say(&record, "kill", &[("signal", signal.unwrap_or_else(|| stop_signal(&record)).to_string())])?;
        self.end(&record, connection, signal, timeout)?;
        self.say(&record, "stop", &[])
    }

    /// Waits for the end that is asked for.
    fn end(
        &self,
        record: &ContainerRecord,
        connection: Connection,
        signal: Option<u8>,
        timeout: Option<Duration>,
    ) -> Result<(), Error> {
        if connection.stop(signal, timeout)?.is_none() {
            self.ending_of_lost(&record.id);
        }
        Ok(())
    }

    /// Stops a container and starts it again; one that does not run is started. Returns when its process runs.
    ///
    /// # Errors
    ///
    /// As [`Engine::stop`] and [`Engine::start`].
    pub fn restart(
        &self,
        name: &str,
        signal: Option<u8>,
        timeout: Option<Duration>,
        accelerator: AcceleratorChoice,
    ) -> Result<(), Error> {
        let record = self.container(name)?;
        // A keeper starts the machine that it has; another one is for a start from here.
        let is_changed = Spec::of(&record)?.launched.is_some();
        if is_changed {
            self.stop(&record.id, signal, timeout)?;
        }
        match self.reach(&record.id)? {
            Some(connection) => connection.restart(signal, timeout)?,
            None => {
                let options = StartOptions { accelerator, ..StartOptions::default() };
                if let StartOutcome::Launched(run) = self.start(&record.id, &options)?
                    && let Some(ending) = run.detach()?
                    && let Some(reason) = ending.error
                {
                    return Err(Error::Refused { id: record.id, reason });
                }
            }
        }
        self.say(&record, "restart", &[])
    }

    /// Sends a signal to the process of a container. SIGKILL, and its stop signal, end it for good whatever its restart
    /// policy says; SIGKILL also where it is paused.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`], [`Error::Paused`] for other signals than SIGKILL, [`Error::Keeper`].
    pub fn kill(&self, name: &str, signal: u8) -> Result<(), Error> {
        let (record, connection) = self.reach_live(name)?;
        let event = || self.say(&record, "kill", &[("signal", signal.to_string())]);
        if signal == signals::KILL {
            event()?;
            return self.end(&record, connection, Some(signal), Some(Duration::ZERO));
        }
        match record.state {
            ContainerState::Running => {}
            ContainerState::Paused => return Err(Error::Paused(record.name)),
            state => return Err(Error::NotRunning { name: record.name, state }),
        }
        connection.signal(signal)?;
        event()
    }

    /// Stops the clock of a container: its vCPUs.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`], [`Error::Paused`], [`Error::Keeper`].
    pub fn pause(&self, name: &str) -> Result<(), Error> {
        self.reach_running(name)?.1.pause()
    }

    /// Lets a paused container go on.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`], [`Error::NotPaused`], [`Error::Keeper`].
    pub fn unpause(&self, name: &str) -> Result<(), Error> {
        let (record, connection) = self.reach_live(name)?;
        if record.state != ContainerState::Paused {
            return Err(Error::NotPaused(record.name));
        }
        connection.unpause()
    }

    /// Writes an event of a container, as it is now if it still is there.
    pub(crate) fn say(
        &self,
        record: &ContainerRecord,
        action: &str,
        attributes: &[(&str, String)],
    ) -> Result<(), Error> {
        Ok(self.state().container_event(record, action, attributes)?)
    }
}

/// The signal that a container is stopped with.
fn stop_signal(record: &ContainerRecord) -> u8 {
    let resolved = Spec::of(record).ok().and_then(|spec| life::stop(&spec.resolved.stop_signal, None).ok());
    resolved.map_or(signals::TERM, |stop| stop.signal)
}
