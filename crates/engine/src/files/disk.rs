//! A container's disk at rest: nobody writes to it as long as somebody looks at it.
//!
//! ```text
//!  not live   claimed for its files: it is not started or removed meanwhile
//!  live       frozen by its keeper: the guest has written everything out and waits
//! ```

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use ext4::FileSystem;
use state::{Claim, ContainerRecord, ProcessRef, StateError};

use super::error::FilesError;
use super::view::View;
use crate::{Engine, error::Error, process};

/// How long another command may have the container's files, before this one gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is asked.
const INTERVAL: Duration = Duration::from_millis(20);

/// A container whose disk is at rest as long as this is there.
pub(crate) struct AtRest<'a> {
    engine: &'a Engine,
    pub(crate) record: ContainerRecord,
    hold: Hold,
}

/// What keeps it at rest.
enum Hold {
    Claim(ProcessRef),
}

impl Engine {
    /// Brings a container's disk to rest.
    pub(crate) fn at_rest(&self, name: &str) -> Result<AtRest<'_>, Error> {
        let id = self.container(name)?.id;
        let own = process::current().map_err(|source| Error::Host("reading /proc", source))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.state().claim(&id, Claim::Files, &own) {
                Ok(record) => return Ok(AtRest { engine: self, record, hold: Hold::Claim(own) }),
                Err(StateError::Claimed { claim: Claim::Files, .. }) if Instant::now() < deadline => {
                    thread::sleep(INTERVAL);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Looks at a container's tree.
    pub(crate) fn with_view<T>(
        &self,
        name: &str,
        look: impl FnOnce(&View<'_>, &ContainerRecord) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let container = self.at_rest(name)?;
        let image = self.images().resolve(&container.record.image_id)?;
        let image = self.images().tree(&image)?;
        let lower = image.merged()?;
        let disk = container.disk()?;
        let view = View::open(&container.record.name, &image, &lower, &disk)?;
        look(&view, &container.record)
    }
}

impl AtRest<'_> {
    fn disk(&self) -> Result<FileSystem<File>, FilesError> {
        let container = || self.record.name.clone();
        let path = self.engine.home().container(&self.record.id).join(volume::SCRATCH_NAME);
        let file = File::open(path).map_err(|source| FilesError::Open { container: container(), source })?;
        FileSystem::open(file).map_err(|source| FilesError::Disk { container: container(), source })
    }
}

impl Drop for AtRest<'_> {
    fn drop(&mut self) {
        match &self.hold {
            // What is left now is found by the next command: this process ends.
            Hold::Claim(own) => drop(self.engine.state().release(&self.record.id, own)),
        }
    }
}
