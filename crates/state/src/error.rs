//! What can go wrong with records.

use std::error::Error;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::schema::{SCHEMA_VERSION, SchemaError};
use crate::{Claim, ContainerState, reserve};

/// An error of the records.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A container of that name exists.
    #[error("the name {name:?} is in use by container {by}")]
    NameInUse {
        /// The name.
        name: String,
        /// Id of the container that has it.
        by: String,
    },
    /// A container of that id exists.
    #[error("container {id} exists already")]
    IdInUse {
        /// The id.
        id: String,
    },
    /// No container has that name or id.
    #[error("no such container: {name}")]
    NoSuchContainer {
        /// What was asked for.
        name: String,
    },
    /// Several containers have ids that begin so.
    #[error("{count} containers have an id that begins with {prefix:?}")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// How many there are.
        count: usize,
    },
    /// The container is not in the state from which the change was to begin: somebody else was faster.
    #[error("container {id} is {found}, not {}", one_of(.expected))]
    StaleTransition {
        /// The container.
        id: String,
        /// The states that would have done.
        expected: Vec<ContainerState>,
        /// The one it is in.
        found: ContainerState,
    },
    /// A change that the state machine does not have.
    #[error("container {id} cannot go from {from} to {to}")]
    ForbiddenTransition {
        /// The container.
        id: String,
        /// Its state.
        from: ContainerState,
        /// The one it was to get.
        to: ContainerState,
    },
    /// A record without what its state needs.
    #[error("container {id} cannot be {state} without {missing}")]
    Incomplete {
        /// The container.
        id: String,
        /// The state it was to get.
        state: ContainerState,
        /// The field.
        missing: &'static str,
    },
    /// A container that lives cannot be removed, started, or taken to itself by a command.
    #[error("container {name} is {state}")]
    ContainerRunning {
        /// The container.
        id: String,
        /// Its name.
        name: String,
        /// Its state, one of the living.
        state: ContainerState,
    },
    /// Another process has the container to itself.
    #[error("container {name} is {claim} by process {pid}")]
    Claimed {
        /// The container.
        id: String,
        /// Its name.
        name: String,
        /// What for.
        claim: Claim,
        /// That process.
        pid: u32,
    },
    /// No volume has that name.
    #[error("no such volume: {name}")]
    NoSuchVolume {
        /// What was asked for.
        name: String,
    },
    /// Containers use the volume, running or not.
    #[error("volume {name} is used by {}", containers(.by))]
    VolumeInUse {
        /// The volume.
        name: String,
        /// Ids of those containers.
        by: Vec<String>,
    },
    /// The volume is being removed.
    #[error("volume {name} is being removed")]
    VolumeGoes {
        /// The volume.
        name: String,
    },
    /// No image has that id.
    #[error("no such image: {image}")]
    NoSuchImage {
        /// What was asked for.
        image: String,
    },
    /// An image that a container was made from.
    #[error("image {image} is used by container {container}")]
    ImageInUse {
        /// The image.
        image: String,
        /// Name of one such container.
        container: String,
        /// Whether that container runs.
        running: bool,
    },
    /// The records were written by a newer version of Coracle.
    #[error("{} has schema version {found}; this version of Coracle knows up to {SCHEMA_VERSION}", path.display())]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// The file is damaged, or not ours.
    #[error("the records in {} are damaged", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The disk is full.
    #[error("no space left to write {}", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// What the database or the system said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Another process holds the records for longer than anyone should.
    #[error("the records in {} are locked by another process", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
        /// What the database said.
        source: rusqlite::Error,
    },
    /// The database refuses what its constraints and triggers forbid.
    #[error("the records in {} refuse a change", path.display())]
    Forbidden {
        /// The file.
        path: PathBuf,
        /// What they say.
        source: rusqlite::Error,
    },
    /// The file cannot be used.
    #[error("cannot use the records in {}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl StateError {
    pub(crate) fn database(path: &Path, error: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path, source: Box::new(error) }
            }
            code if is_no_space(&path, code, &error) => Self::NoSpace { path, source: Box::new(error) },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path, source: error },
            Some(ErrorCode::ConstraintViolation) => Self::Forbidden { path, source: error },
            _ => Self::Unusable { path, source: Box::new(error) },
        }
    }

    pub(crate) fn from_schema(path: &Path, error: SchemaError) -> Self {
        match error {
            SchemaError::Newer(found) => Self::NewerSchema { path: path.to_owned(), found },
            SchemaError::Database(error) => Self::database(path, error),
            SchemaError::Io(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                Self::NoSpace { path: path.to_owned(), source: Box::new(error) }
            }
            SchemaError::Io(error) => Self::Unusable { path: path.to_owned(), source: Box::new(error) },
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NameInUse { by, .. } => {
                format!("remove it with `coracle rm {}`, or choose another name", by.get(..12).unwrap_or(by))
            }
            Self::ContainerRunning { name, .. } => format!("stop it first: `coracle stop {name}`"),
            Self::ImageInUse { container, .. } => format!("remove the container first: `coracle rm {container}`"),
            Self::VolumeInUse { by, .. } => {
                let first = by.first().map_or("", String::as_str);
                format!("remove the container first: `coracle rm {}`", first.get(..12).unwrap_or(first))
            }
            Self::VolumeGoes { .. } => "try again in a moment".to_owned(),
            Self::NewerSchema { .. } => {
                "use the newer version of Coracle, or another directory in CORACLE_HOME".to_owned()
            }
            Self::Corrupt { path, .. } => format!(
                "move {} and its -wal and -shm files away, then load the images again; layers are not lost",
                path.display()
            ),
            Self::NoSpace { .. } => {
                "free some space on that disk; `coracle system prune` removes what nobody needs".to_owned()
            }
            Self::Unusable { .. } => "set CORACLE_HOME to a directory that you can write to".to_owned(),
            _ => return None,
        };
        Some(hint)
    }
}

/// SQLite calls a full disk by that name only where it writes to a file. Where it makes one, or an index in shared
/// memory, the error is one of many.
fn is_no_space(path: &Path, code: Option<ErrorCode>, error: &rusqlite::Error) -> bool {
    match code {
        Some(ErrorCode::DiskFull) => true,
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => {
            let extended = error.sqlite_error().map(|error| error.extended_code);
            extended == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) || reserve::is_full(path)
        }
        _ => false,
    }
}

fn containers(ids: &[String]) -> String {
    let short: Vec<_> = ids.iter().map(|id| id.get(..12).unwrap_or(id)).collect();
    format!("container{} {}", if short.len() == 1 { "" } else { "s" }, short.join(", "))
}

fn one_of(states: &[ContainerState]) -> String {
    states.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}
