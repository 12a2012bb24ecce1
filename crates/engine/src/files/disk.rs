//! A container's disk at rest: nobody writes to it as long as somebody looks at it.
//!
//! ```text
//!  not live   claimed for its files: it is not started or removed meanwhile
//!  running    frozen by its guest, which has written everything out and lets writers wait; thawed at the end, and if it
//!             had thawed by itself before, what was read is not used; one that is being stopped is waited for
//!  paused     refused: what its guest has not written out yet nobody can ask it for
//! ```

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use ext4::FileSystem;
use state::{Claim, ContainerRecord, StateError};

use super::error::FilesError;
use super::view::View;
use crate::{
    Engine,
    claim::Claimed,
    error::Error,
    keeper::{client::Frozen, wire::DOES_NOT_RUN},
};

/// How long another command may have the container's files, before this one gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often it is asked.
const INTERVAL: Duration = Duration::from_millis(20);

/// A container whose disk is at rest as long as this is there.
pub(crate) struct AtRest<'a> {
    engine: &'a Engine,
    pub(crate) record: ContainerRecord,
    hold: Hold<'a>,
}

/// What keeps it at rest.
enum Hold<'a> {
    Claim(Box<Claimed<'a>>),
    Frozen(Frozen),
}

impl Engine {
    /// Brings a container's disk to rest.
    pub(crate) fn at_rest(&self, name: &str) -> Result<AtRest<'_>, Error> {
        let id = self.container(name)?.id;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.claim(&id, Claim::Files) {
                Ok(claimed) => {
                    let record = claimed.record.clone();
                    return Ok(AtRest { engine: self, record, hold: Hold::Claim(Box::new(claimed)) });
                }
                Err(Error::State(StateError::Claimed { claim: Claim::Files, .. })) if Instant::now() < deadline => {
                    thread::sleep(INTERVAL);
                }
                Err(Error::State(StateError::ContainerRunning { .. })) => match self.frozen(&id) {
                    Err(error) if Instant::now() < deadline && self.is_about_to_end(&id, &error)? => {
                        thread::sleep(INTERVAL);
                    }
                    frozen => return frozen,
                },
                Err(error) => return Err(error),
            }
        }
    }

    fn frozen(&self, id: &str) -> Result<AtRest<'_>, Error> {
        let (record, connection) = self.reach_running(id)?;
        Ok(AtRest { engine: self, record, hold: Hold::Frozen(connection.freeze()?) })
    }

    /// Whether a container could not be frozen because it is being stopped, or was: its files can be had in a moment.
    fn is_about_to_end(&self, id: &str, error: &Error) -> Result<bool, Error> {
        let stops = matches!(error, Error::Refused { reason, .. } if reason == DOES_NOT_RUN);
        Ok(stops || !self.container(id)?.state.is_live())
    }

    /// Looks at a container's tree.
    pub(crate) fn with_view<T>(
        &self,
        name: &str,
        look: impl FnOnce(&View<'_>, &ContainerRecord) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let container = self.at_rest(name)?;
        let seen = self.look(&container, look);
        // What was seen of a disk that did not rest is of no use, not even where it was damaged.
        container.end()?;
        seen
    }

    /// Tells of what was done with a container's files. It is done, whether that can be written or not.
    pub(crate) fn tell_of_files(&self, record: &ContainerRecord, action: &str, attributes: &[(&str, String)]) {
        let _ = self.state().container_event(record, action, attributes);
    }

    fn look<T>(
        &self,
        container: &AtRest<'_>,
        look: impl FnOnce(&View<'_>, &ContainerRecord) -> Result<T, Error>,
    ) -> Result<T, Error> {
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

    /// Lets it go, and says whether it rested until now.
    fn end(self) -> Result<(), Error> {
        match self.hold {
            Hold::Claim(claimed) => claimed.release(),
            Hold::Frozen(frozen) => match frozen.thaw() {
                Err(Error::Refused { .. }) => Err(FilesError::Changed { container: self.record.name }.into()),
                result => result,
            },
        }
    }
}
