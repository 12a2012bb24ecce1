//! The tables, and how a connection is set up.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

/// How long a connection waits for others.
const PATIENCE: Duration = Duration::from_secs(20);

/// What brings the schema from version n to n + 1, for n from 0.
const MIGRATIONS: &[&str] = &[FIRST, SECOND, THIRD, FOURTH];

/// The version of the schema that this code reads and writes.
#[allow(clippy::cast_possible_wrap, reason = "a handful")]
pub(crate) const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

const FIRST: &str = "
    CREATE TABLE images (
        id          TEXT PRIMARY KEY,           -- digest of the configuration
        manifest    TEXT,                       -- digest of the manifest
        loaded_at   INTEGER NOT NULL,           -- ns since 1970
        record      TEXT NOT NULL               -- ImageRecord as JSON, without what has a column or table
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX images_by_manifest ON images (manifest);
    CREATE TABLE names (
        name        TEXT PRIMARY KEY,           -- docker.io/library/busybox:latest
        image       TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX names_by_image ON names (image);
    CREATE TABLE containers (
        id          TEXT PRIMARY KEY,
        name        TEXT NOT NULL UNIQUE,
        image       TEXT NOT NULL REFERENCES images (id) ON DELETE RESTRICT,
        created_at  INTEGER NOT NULL,           -- ns since 1970
        state       TEXT NOT NULL CHECK (state IN ('created', 'running', 'exited')),
        record      TEXT NOT NULL               -- ContainerRecord as JSON
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX containers_by_image ON containers (image);
";

const SECOND: &str = "
    CREATE TABLE digests (
        reference   TEXT PRIMARY KEY,           -- docker.io/library/busybox@sha256:...
        image       TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX digests_by_image ON digests (image);
";

/// States of containers that restart and stand still, and the diagram of [`crate::ContainerState`] as constraints;
/// events.
const THIRD: &str = "
    CREATE TABLE containers_3 (
        id          TEXT PRIMARY KEY,
        name        TEXT NOT NULL UNIQUE,
        image       TEXT NOT NULL REFERENCES images (id) ON DELETE RESTRICT,
        created_at  INTEGER NOT NULL,           -- ns since 1970
        state       TEXT NOT NULL CHECK (state IN ('created', 'running', 'paused', 'restarting', 'exited')),
        record      TEXT NOT NULL,              -- ContainerRecord as JSON
        CHECK (record ->> '$.state' = state AND record ->> '$.id' = id),
        CHECK (state NOT IN ('running', 'paused', 'restarting')
            OR (record ->> '$.keeper' IS NOT NULL AND record ->> '$.started_at' IS NOT NULL)),
        CHECK (state NOT IN ('restarting', 'exited')
            OR (record ->> '$.exit_code' IS NOT NULL AND record ->> '$.finished_at' IS NOT NULL))
    ) STRICT, WITHOUT ROWID;
    INSERT INTO containers_3 SELECT id, name, image, created_at, state, record FROM containers;
    DROP TABLE containers;
    ALTER TABLE containers_3 RENAME TO containers;
    CREATE INDEX containers_by_image ON containers (image);
    CREATE TRIGGER containers_begin BEFORE INSERT ON containers
        WHEN NEW.state <> 'created'
        BEGIN SELECT RAISE(ABORT, 'a container begins as created'); END;
    CREATE TRIGGER containers_move BEFORE UPDATE ON containers
        WHEN OLD.state || ' ' || NEW.state NOT IN (
            'created created', 'created running', 'created exited',
            'running running', 'running paused', 'running restarting', 'running exited',
            'paused paused', 'paused running', 'paused restarting', 'paused exited',
            'restarting restarting', 'restarting running', 'restarting exited',
            'exited exited', 'exited running')
        BEGIN SELECT RAISE(ABORT, 'no such transition of a container'); END;
    CREATE TRIGGER containers_claim BEFORE UPDATE ON containers
        WHEN OLD.record ->> '$.keeper' <> NEW.record ->> '$.keeper' AND OLD.record ->> '$.claim' IS NOT 'start'
        BEGIN SELECT RAISE(ABORT, 'another process is responsible for the container'); END;
    CREATE TRIGGER containers_end BEFORE DELETE ON containers
        WHEN OLD.state IN ('running', 'paused', 'restarting')
        BEGIN SELECT RAISE(ABORT, 'a container that lives is not removed'); END;
    CREATE TABLE events (
        seq         INTEGER PRIMARY KEY AUTOINCREMENT,
        at          INTEGER NOT NULL,           -- ns since 1970
        kind        TEXT NOT NULL CHECK (kind IN ('container', 'image', 'volume')),
        action      TEXT NOT NULL,
        id          TEXT NOT NULL,
        attributes  TEXT NOT NULL               -- JSON object of texts
    ) STRICT;
    CREATE TRIGGER events_bound AFTER INSERT ON events
        BEGIN DELETE FROM events WHERE seq <= NEW.seq - 10000; END;
";

/// Volumes, and which container uses which. A container that goes takes its uses along; a volume in use stays.
const FOURTH: &str = "
    CREATE TABLE volumes (
        name        TEXT PRIMARY KEY,
        created_at  INTEGER NOT NULL,           -- ns since 1970
        record      TEXT NOT NULL               -- VolumeRecord as JSON
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE volume_uses (
        container   TEXT NOT NULL REFERENCES containers (id) ON DELETE CASCADE,
        volume      TEXT NOT NULL REFERENCES volumes (name) ON DELETE RESTRICT,
        PRIMARY KEY (container, volume)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX uses_by_volume ON volume_uses (volume);
";

pub(crate) enum SchemaError {
    Newer(i64),
    Database(rusqlite::Error),
    Io(io::Error),
}

impl From<rusqlite::Error> for SchemaError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

pub(crate) fn open(path: &Path) -> Result<Connection, SchemaError> {
    // SQLite makes its -wal and -shm files with the mode of the file itself.
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(SchemaError::Io)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let path = path.canonicalize().map_err(SchemaError::Io)?;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    refuse_newer(&connection)?;
    use_wal(&connection)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // Commands are short: folding the log into the file at each one's end would cost it several syncs. It is folded
    // when it has grown to 64 pages: whoever opens the database alone reads all of it.
    connection.pragma_update(None, "wal_autocheckpoint", 64)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    migrate(&mut connection)?;
    Ok(connection)
}

fn version(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn refuse_newer(connection: &Connection) -> Result<(), SchemaError> {
    match version(connection)? {
        found if found > SCHEMA_VERSION => Err(SchemaError::Newer(found)),
        _ => Ok(()),
    }
}

/// Switches to WAL mode. While another process does so SQLite answers "busy" at once whatever the time-out, so the
/// waiting is ours.
fn use_wal(connection: &Connection) -> Result<(), rusqlite::Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let result = connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()));
        match result.as_ref().map_err(rusqlite::Error::sqlite_error_code) {
            Err(Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            _ => return result,
        }
    }
}

fn migrate(connection: &mut Connection) -> Result<(), SchemaError> {
    if version(connection)? == SCHEMA_VERSION {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Somebody else may have done it while we waited.
    refuse_newer(&transaction)?;
    let found = version(&transaction)?;
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()?;
    Ok(())
}
