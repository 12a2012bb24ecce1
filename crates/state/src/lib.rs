//! Crash-safe records of images and containers and of what happens to them, in SQLite.
//!
//! # Design
//!
//! One file, `H/state.db`, in WAL mode: every command and every keeper opens it for itself, and SQLite's locks are the
//! only ones there are. A record is a row with the columns that are searched or constrained, and the rest as JSON:
//! what must be unique or refer to something is held by the database, what merely is stored costs no migration.
//!
//! What changes images is synced to disk before it returns (`synchronous=FULL`): the files that a row names were
//! made durable before it. What changes containers is not (`NORMAL`): after a power cut the last transitions may be
//! missing, never torn, and what is left of such a container is found by the next command as after any other crash.
//!
//! `PRAGMA user_version` is the version of the schema. An older one is brought up to date when it is opened; a newer
//! one is refused, and nothing is written.
//!
//! # Modules
//!
//! [`image`], [`container`] and [`event`] hold the records as plain data, with the state machine of containers; the
//! queries are methods of [`State`]. `claims` is how a command gets a container to itself, `events` what happened:
//! transitions write their events themselves. Nothing here touches images' files or processes.
//!
//! # Threats
//!
//! | from | threat | answer |
//! |---|---|---|
//! | a full disk | nothing can be removed, because that takes room to record | room set aside for it |
//! | crashes | half-made changes | one transaction for each change |
//! | other commands | names taken twice, transitions of what has moved on, two that start or remove the same container | constraints, triggers and checks inside the transaction, typed errors; claims |
//! | whatever happens very often | events without end | the newest 10,000 are kept, by a trigger |
//! | a damaged disk | records that cannot be read | [`StateError::Corrupt`] with the file's name; nothing is repaired by guessing |

mod claims;
pub mod container;
mod containers;
mod error;
pub mod event;
mod events;
pub mod image;
mod images;
mod reserve;
mod schema;
pub mod volume;
mod volumes;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Transaction, TransactionBehavior};

pub use container::{Claim, ContainerRecord, ContainerState, ProcessRef};
pub use error::StateError;
pub use event::{Attributes, Event, EventKind, EventQuery};
pub use image::{ImageRecord, LayerRecord, RootRecord};
pub use volume::VolumeRecord;

type Result<T, E = StateError> = std::result::Result<T, E>;

/// The records. Can be shared between threads.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    connection: Mutex<Connection>,
}

/// How far a change has got when its function returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    /// It survives a power cut.
    Disk,
    /// It survives the death of processes.
    System,
}

impl State {
    /// Opens the records in the file `path`, making it where it is missing.
    ///
    /// # Errors
    ///
    /// [`StateError::NewerSchema`], [`StateError::Corrupt`], or that the file cannot be used.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || schema::open(path).map_err(|e| StateError::from_schema(path, e));
        let connection = match open() {
            Err(StateError::NoSpace { .. }) if reserve::spend(path) => open()?,
            result => result?,
        };
        reserve::keep(path);
        Ok(Self { path: path.to_owned(), connection: Mutex::new(connection) })
    }

    /// The file of the records.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong with the file, as far as SQLite can tell by reading all of it; nothing where all is well.
    ///
    /// # Errors
    ///
    /// Where it cannot be read at all.
    pub fn integrity(&self) -> Result<Vec<String>> {
        self.read(|transaction| {
            let mut statement = transaction.prepare("PRAGMA quick_check(10)")?;
            let texts = statement.query_map([], |row| row.get::<_, String>(0))?;
            let texts = texts.collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(texts.into_iter().filter(|text| text != "ok").collect())
        })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic elsewhere has rolled its transaction back: the connection is as good as before.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, query: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>) -> Result<T> {
        let mut connection = self.connection();
        let run = || -> Result<T, Failure> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
            query(&transaction)
        };
        run().map_err(|e| e.at(&self.path))
    }

    /// One change, one transaction. It takes the write lock at its beginning, so that what it reads is what it
    /// changes.
    fn write<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T> {
        let mut connection = self.connection();
        let run = || -> Result<T, Failure> {
            let synchronous = if durability == Durability::Disk { "FULL" } else { "NORMAL" };
            connection.pragma_update(None, "synchronous", synchronous)?;
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = change(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        run().map_err(|e| e.at(&self.path))
    }
}

/// Removals, which are what makes room.
impl State {
    /// As [`State::write`], with room that was set aside where the disk is full.
    fn remove<T>(&self, durability: Durability, change: impl Fn(&Transaction<'_>) -> Result<T, Failure>) -> Result<T> {
        match self.write(durability, &change) {
            Err(StateError::NoSpace { .. }) if reserve::spend(&self.path) => self.write(durability, &change),
            result => result,
        }
    }
}

/// What ends a query: an answer of ours, or an error of the database that has yet to learn the file's name.
enum Failure {
    State(StateError),
    Database(rusqlite::Error),
    Json(serde_json::Error),
}

impl Failure {
    fn at(self, path: &Path) -> StateError {
        match self {
            Self::State(error) => error,
            Self::Database(error) => StateError::database(path, error),
            Self::Json(error) => StateError::Corrupt { path: path.to_owned(), source: Box::new(error) },
        }
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}
