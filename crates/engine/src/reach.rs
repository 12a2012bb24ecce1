//! Reaching the keeper of a container.

use std::{
    thread,
    time::{Duration, Instant},
};

use state::{ContainerRecord, ContainerState};

use crate::{Engine, error::Error, keeper::client::Connection, process, reconcile};

/// How long a keeper that lives may take until it listens, and who starts a container until there is one.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often is looked again.
const POLL: Duration = Duration::from_millis(10);

impl Engine {
    /// Whether the process that is responsible for a container lives.
    pub(crate) fn is_kept(&self, record: &ContainerRecord) -> Result<bool, Error> {
        let boot_id = process::boot_id().map_err(|source| Error::Host("reading the boot id", source))?;
        Ok(record.keeper.as_ref().is_some_and(|keeper| process::is_alive(keeper, &boot_id)))
    }

    /// A connection to the keeper of a container that lives, or is about to. `None`: there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Keeper`] where there is one that does not answer.
    pub(crate) fn reach(&self, id: &str) -> Result<Option<Connection>, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let record = self.container(id)?;
            if record.keeper.is_none() || record.claim.is_some_and(|claim| claim != state::Claim::Start) {
                return Ok(None);
            }
            if !self.is_kept(&record)? {
                reconcile::reconcile(self.state(), self.home())?;
                return Ok(None);
            }
            match Connection::open(&record.id, &self.home().control_socket(&record.id)) {
                Ok(connection) => return Ok(Some(connection)),
                Err(error @ Error::KeeperVersion { .. }) => return Err(error),
                Err(error) if Instant::now() >= deadline => return Err(error),
                // It does not listen yet, or no longer.
                Err(_) => thread::sleep(POLL),
            }
        }
    }

    /// The record of a container whose process runs, and a connection to its keeper.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`], [`Error::Paused`], [`Error::Keeper`].
    pub(crate) fn reach_running(&self, name: &str) -> Result<(ContainerRecord, Connection), Error> {
        let (record, connection) = self.reach_live(name)?;
        match record.state {
            ContainerState::Running => Ok((record, connection)),
            ContainerState::Paused => Err(Error::Paused(record.name)),
            state => Err(Error::NotRunning { name: record.name, state }),
        }
    }

    /// The record of a container that lives, and a connection to its keeper.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`], [`Error::Keeper`].
    pub(crate) fn reach_live(&self, name: &str) -> Result<(ContainerRecord, Connection), Error> {
        let found = self.container(name)?;
        if !found.state.is_live() {
            return Err(Error::NotRunning { name: found.name, state: found.state });
        }
        let connection = self.reach(&found.id)?;
        let record = self.container(&found.id)?;
        match connection {
            Some(connection) if record.state.is_live() => Ok((record, connection)),
            _ => Err(Error::NotRunning { name: record.name, state: record.state }),
        }
    }
}
