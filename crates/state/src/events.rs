//! Queries and changes of events.
//!
//! What the records themselves can see becomes an event by itself, in the transaction that makes it true:
//!
//! | change of a container | events |
//! |---|---|
//! | inserted | `create` |
//! | to `Running` from `Paused` | `unpause` |
//! | to `Running` from elsewhere | `start` |
//! | from `Running` to `Paused` | `pause` |
//! | another `finished_at` | `oom` if `oom_killed`, then `die` with `exitCode` and `execDuration` (seconds) |
//! | another name | `rename` with `oldName` |
//! | another status in `health`, but `starting` and `none` | `health_status: healthy`, `health_status: unhealthy` |
//! | removed | `destroy` |
//!
//! A volume's record makes its `create` and `destroy` in the same way.
//!
//! Everything else (`stop`, `kill`, `restart`, `update`, `exec_…`, `attach`, …) is written by whoever does it:
//! [`State::container_event`], [`State::insert_event`].

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Row, Transaction, params};

use crate::{
    Attributes, ContainerRecord, ContainerState, Durability, Event, EventKind, EventQuery, Failure, Result, State,
};

/// How often is looked for what others wrote.
const POLL: Duration = Duration::from_millis(50);

impl State {
    /// Records that something happened.
    ///
    /// # Errors
    ///
    /// Where it cannot be written.
    pub fn insert_event(&self, kind: EventKind, action: &str, id: &str, attributes: &Attributes) -> Result<()> {
        self.write(Durability::System, |transaction| insert(transaction, kind, action, id, attributes))
    }

    /// Records that something happened to a container; its name, its image and its labels are added to `attributes`.
    ///
    /// # Errors
    ///
    /// Where it cannot be written.
    pub fn container_event(
        &self,
        container: &ContainerRecord,
        action: &str,
        attributes: &[(&str, String)],
    ) -> Result<()> {
        self.write(Durability::System, |transaction| of_container(transaction, container, action, attributes))
    }

    /// The events that are wanted, oldest first.
    ///
    /// # Errors
    ///
    /// Where they cannot be read.
    pub fn events(&self, query: &EventQuery) -> Result<Vec<Event>> {
        self.read(|transaction| {
            let mut statement = transaction.prepare(
                "SELECT seq, at, kind, action, id, attributes FROM events
                 WHERE seq > ?1 AND at >= ?2 AND at <= ?3 ORDER BY seq",
            )?;
            let (since, until) = (query.since.unwrap_or(i64::MIN), query.until.unwrap_or(i64::MAX));
            let mut rows = statement.query(params![query.after, since, until])?;
            let mut events = Vec::new();
            while let Some(row) = rows.next()? {
                events.push(event(row)?);
            }
            Ok(events)
        })
    }

    /// The number of the last event that was written; 0 where there was none.
    ///
    /// # Errors
    ///
    /// Where it cannot be read.
    pub fn last_event(&self) -> Result<i64> {
        self.read(|transaction| {
            let query = "SELECT coalesce(max(seq), 0) FROM events";
            Ok(transaction.query_row(query, [], |row| row.get(0))?)
        })
    }

    /// The events that are wanted, as soon as there are some; none when `patience` is over.
    ///
    /// # Errors
    ///
    /// Where they cannot be read.
    pub fn wait_for_events(&self, query: &EventQuery, patience: Duration) -> Result<Vec<Event>> {
        let deadline = Instant::now() + patience;
        loop {
            let seen = self.data_version()?;
            let events = self.events(query)?;
            if !events.is_empty() || !self.wait_for_change(seen, deadline)? {
                return Ok(events);
            }
        }
    }

    /// A number that changes with what other connections write (`PRAGMA data_version`).
    ///
    /// # Errors
    ///
    /// Where it cannot be read.
    pub fn data_version(&self) -> Result<i64> {
        let version = self.connection().pragma_query_value(None, "data_version", |row| row.get(0));
        version.map_err(|error| Failure::from(error).at(&self.path))
    }

    /// Waits until another connection has written something since [`State::data_version`] was `seen`, costing next to
    /// nothing meanwhile. `false`: the deadline came first.
    ///
    /// # Errors
    ///
    /// Where the records cannot be read.
    pub fn wait_for_change(&self, seen: i64, deadline: Instant) -> Result<bool> {
        while self.data_version()? == seen {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            std::thread::sleep(left.min(POLL));
        }
        Ok(true)
    }
}

fn event(row: &Row<'_>) -> Result<Event, Failure> {
    let kind: String = row.get(2)?;
    let unknown = || <serde_json::Error as serde::de::Error>::custom(format!("no kind of event: {kind:?}"));
    Ok(Event {
        seq: row.get(0)?,
        at: row.get(1)?,
        kind: EventKind::of(&kind).ok_or_else(unknown)?,
        action: row.get(3)?,
        id: row.get(4)?,
        attributes: serde_json::from_str(&row.get::<_, String>(5)?)?,
    })
}

fn insert(
    transaction: &Transaction<'_>,
    kind: EventKind,
    action: &str,
    id: &str,
    attributes: &Attributes,
) -> Result<(), Failure> {
    transaction.execute(
        "INSERT INTO events (at, kind, action, id, attributes) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![now(), kind.as_str(), action, id, serde_json::to_string(attributes)?],
    )?;
    Ok(())
}

/// An event of a container, as part of a transaction.
pub(crate) fn of_container(
    transaction: &Transaction<'_>,
    container: &ContainerRecord,
    action: &str,
    attributes: &[(&str, String)],
) -> Result<(), Failure> {
    let mut all = container.labels.clone();
    all.insert("image".to_owned(), container.image_ref.clone());
    all.insert("name".to_owned(), container.name.clone());
    all.extend(attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    insert(transaction, EventKind::Container, action, &container.id, &all)
}

/// An event of a volume, as part of a transaction.
pub(crate) fn of_volume(transaction: &Transaction<'_>, action: &str, name: &str) -> Result<(), Failure> {
    let attributes = [("driver".to_owned(), "block".to_owned())].into();
    insert(transaction, EventKind::Volume, action, name, &attributes)
}

/// The events that a change of a container is.
pub(crate) fn of_change(
    transaction: &Transaction<'_>,
    before: &ContainerRecord,
    after: &ContainerRecord,
) -> Result<(), Failure> {
    use ContainerState::{Paused, Running};
    let say = |action: &str, attributes: &[(&str, String)]| of_container(transaction, after, action, attributes);
    if before.name != after.name {
        say("rename", &[("oldName", before.name.clone())])?;
    }
    match (before.state, after.state) {
        (Running, Paused) => say("pause", &[])?,
        (Paused, Running) => say("unpause", &[])?,
        (Running, Running) | (Paused, Paused) => {}
        (_, Running) => say("start", &[])?,
        _ => {}
    }
    if let Some(status) = new_health(before, after) {
        say(&format!("health_status: {status}"), &[])?;
    }
    if after.finished_at.is_some() && after.finished_at != before.finished_at {
        if after.oom_killed {
            say("oom", &[])?;
        }
        say("die", &[("exitCode", after.exit_code.unwrap_or(0).to_string()), ("execDuration", seconds(after))])?;
    }
    Ok(())
}

fn new_health<'a>(before: &ContainerRecord, after: &'a ContainerRecord) -> Option<&'a str> {
    fn status(record: &ContainerRecord) -> Option<&str> {
        record.health.as_ref()?.get("Status")?.as_str()
    }
    status(after).filter(|new| matches!(*new, "healthy" | "unhealthy") && status(before) != Some(new))
}

/// How long it ran.
fn seconds(record: &ContainerRecord) -> String {
    let ran = record.finished_at.zip(record.started_at).map_or(0, |(to, from)| to.saturating_sub(from).max(0));
    (ran / 1_000_000_000).to_string()
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
