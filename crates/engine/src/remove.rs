//! Removing a container.

use std::{
    thread,
    time::{Duration, Instant},
};

use state::{Claim, ContainerRecord, StateError};

use crate::{Engine, error::Error, process};

/// How long a keeper may take to end a machine before it is killed itself.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How a container is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// One that lives is killed first.
    pub force: bool,
    /// Its anonymous volumes go with it.
    pub volumes: bool,
}

impl Engine {
    /// Removes a container.
    ///
    /// # Errors
    ///
    /// [`Error::Running`] without `force`; [`Error::State`] where another command has it; whatever keeps its files from
    /// being removed.
    pub fn remove_container(&self, name: &str, options: &RemoveOptions) -> Result<(), Error> {
        let mut killed = false;
        let record = self.container(name)?;
        let deadline = Instant::now() + KILL_PATIENCE;
        loop {
            match self.claim(&record.id, Claim::Remove) {
                Ok(claimed) => return claimed.remove(options.volumes || record.auto_remove),
                // Its keeper removed it.
                Err(Error::State(StateError::NoSuchContainer { .. })) if killed => {
                    return Ok(());
                }
                Err(Error::State(StateError::ContainerRunning { name, .. })) if !options.force => {
                    return Err(Error::Running(name));
                }
                Err(Error::State(StateError::ContainerRunning { .. })) => {}
                // What another command starts can be killed as soon as it has a keeper.
                Err(Error::State(StateError::Claimed { claim: Claim::Start, .. }))
                    if options.force && Instant::now() < deadline => {}
                // It is called here as it was asked for.
                Err(Error::State(StateError::NoSuchContainer { .. })) => {
                    return Err(StateError::NoSuchContainer { name: name.to_owned() }.into());
                }
                Err(error) => return Err(error),
            }
            killed = true;
            self.kill_keeper_of(&self.container(&record.id).unwrap_or_else(|_| record.clone()))?;
        }
    }

    /// Ends a container's machine through its keeper; through the host where the keeper does not answer.
    fn kill_keeper_of(&self, record: &ContainerRecord) -> Result<(), Error> {
        let Some(keeper) = record.keeper.as_ref().filter(|_| record.claim.is_none()) else {
            thread::sleep(Duration::from_millis(10));
            return Ok(());
        };
        let boot_id = process::boot_id().map_err(|source| Error::Host("reading the boot id", source))?;
        let deadline = Instant::now() + KILL_PATIENCE;
        if let Ok(Some(connection)) = self.reach(&record.id) {
            // Its answer is not waited for: what counts is the end of the process.
            if let Ok(attachment) = connection.wait() {
                attachment.control().kill();
            }
        }
        while process::is_alive(keeper, &boot_id) {
            if Instant::now() >= deadline {
                process::kill(keeper, &boot_id);
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.look_after(&record.id)
    }
}
