//! Having a container to oneself.

use state::{Claim, ContainerRecord, ProcessRef, StateError};

use crate::{
    Engine,
    error::Error,
    home::{self, Home},
    process, reconcile, volumes,
};

/// What becomes of a claimed container whose claim is dropped before it is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Otherwise {
    /// It is removed with all that is its own.
    Remove,
    /// It stays, and is free again.
    Release,
}

/// A container that this process has to itself until this is dropped, or finished.
#[derive(Debug)]
pub(crate) struct Claimed<'a> {
    engine: &'a Engine,
    holder: ProcessRef,
    otherwise: Otherwise,
    finished: bool,
    /// Its record as it was claimed.
    pub(crate) record: ContainerRecord,
}

impl<'a> Claimed<'a> {
    /// The claim that is in a record that this process has written.
    pub(crate) fn written(engine: &'a Engine, record: ContainerRecord, holder: ProcessRef) -> Self {
        Self { engine, holder, otherwise: Otherwise::Remove, finished: false, record }
    }

    /// Somebody else is responsible from now on, or nobody has to be.
    pub(crate) fn finish(mut self) {
        self.finished = true;
    }

    /// Gives the container back.
    pub(crate) fn release(mut self) -> Result<(), Error> {
        self.finished = true;
        Ok(self.engine.state().release(&self.record.id, &self.holder)?)
    }

    /// Removes it: its files before the record that names them, so that a crash in between leaves a record that can be
    /// removed again and never files that nothing names.
    ///
    /// With `volumes`, those go too that it has alone and that nobody named.
    pub(crate) fn remove(mut self, volumes: bool) -> Result<(), Error> {
        self.remove_files_and_record(volumes)?;
        self.finished = true;
        Ok(())
    }

    fn remove_files_and_record(&self, volumes: bool) -> Result<(), Error> {
        let (state, home, id) = (self.engine.state(), self.engine.home(), &self.record.id);
        let own = if volumes { volumes::own_volumes(state, id) } else { Vec::new() };
        remove_files(home, id)?;
        match state.remove_claimed(id, &self.holder) {
            Ok(_) | Err(StateError::NoSuchContainer { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        volumes::remove_own(state, home, &own);
        Ok(())
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // What stays now is found by the next command: this process is responsible, and ends.
            let _ = match self.otherwise {
                Otherwise::Remove => self.remove_files_and_record(true),
                Otherwise::Release => self.engine.state().release(&self.record.id, &self.holder).map_err(Error::from),
            };
        }
    }
}

/// Removes all files and directories of a container.
pub(crate) fn remove_files(home: &Home, id: &str) -> Result<(), Error> {
    for directory in [home.container(id), home.run_container(id)] {
        home::remove_directory(&directory).map_err(|source| Error::home("remove", &directory, source))?;
    }
    Ok(())
}

impl Engine {
    /// This process, as records name it.
    pub(crate) fn own_process(&self) -> Result<ProcessRef, Error> {
        process::current().map_err(|source| Error::Host("reading /proc", source))
    }

    /// Gets a container that does not live for this process alone. It is free again when the claim is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::State`], saying who has it, or that it lives.
    pub(crate) fn claim(&self, id: &str, claim: Claim) -> Result<Claimed<'_>, Error> {
        let holder = self.own_process()?;
        let claimed = match self.state().claim(id, claim, &holder) {
            // Who has it may be dead.
            Err(StateError::Claimed { .. } | StateError::ContainerRunning { .. }) => {
                reconcile::reconcile(self.state(), self.home())?;
                self.state().claim(id, claim, &holder)
            }
            claimed => claimed,
        };
        let record = claimed?;
        Ok(Claimed { engine: self, holder, otherwise: Otherwise::Release, finished: false, record })
    }
}
