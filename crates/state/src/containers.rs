//! Queries and changes of containers.

use rusqlite::{OptionalExtension as _, Transaction, params};

use crate::events;
use crate::images::image_by_id;
use crate::{ContainerRecord, ContainerState, Durability, Failure, Result, State, StateError};

impl State {
    /// Records a new container.
    ///
    /// # Errors
    ///
    /// [`StateError::NameInUse`], [`StateError::NoSuchImage`] where its image is gone,
    /// [`StateError::ForbiddenTransition`] where it is not in the state `Created`.
    pub fn insert_container(&self, record: &ContainerRecord) -> Result<()> {
        if record.state != ContainerState::Created {
            return Err(StateError::ForbiddenTransition {
                id: record.id.clone(),
                from: ContainerState::Created,
                to: record.state,
            });
        }
        self.write(Durability::System, |transaction| {
            if image_by_id(transaction, &record.image_id)?.is_none() {
                return Err(StateError::NoSuchImage { image: record.image_ref.clone() }.into());
            }
            if by_id(transaction, &record.id)?.is_some() {
                return Err(StateError::IdInUse { id: record.id.clone() }.into());
            }
            check_name(transaction, record)?;
            transaction.execute(
                "INSERT INTO containers (id, name, image, created_at, state, record) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    record.id,
                    record.name,
                    record.image_id,
                    record.created_at,
                    record.state.as_str(),
                    serde_json::to_string(record)?
                ],
            )?;
            events::of_container(transaction, record, "create", &[])
        })
    }

    /// Changes a container that is in one of the states `from`, in one transaction with the events that the
    /// change is (see `events`). `change` gets the record as it is then, and may change anything but its id and its
    /// image. Returns the record as it is now.
    ///
    /// # Errors
    ///
    /// [`StateError::StaleTransition`] where it is in another state by now, [`StateError::ForbiddenTransition`],
    /// [`StateError::Incomplete`], [`StateError::NameInUse`], [`StateError::NoSuchContainer`]. Nothing has changed then.
    pub fn transition(
        &self,
        id: &str,
        from: &[ContainerState],
        change: impl FnOnce(&mut ContainerRecord),
    ) -> Result<ContainerRecord> {
        self.write(Durability::System, |transaction| {
            let before = by_id(transaction, id)?;
            let before = before.ok_or_else(|| StateError::NoSuchContainer { name: id.to_owned() })?;
            if !from.contains(&before.state) {
                let (id, expected) = (id.to_owned(), from.to_vec());
                return Err(StateError::StaleTransition { id, expected, found: before.state }.into());
            }
            let mut after = before.clone();
            change(&mut after);
            (after.id, after.image_id) = (before.id.clone(), before.image_id.clone());
            after.created_at = before.created_at;
            check_change(before.state, &after)?;
            if after.name != before.name {
                check_name(transaction, &after)?;
            }
            update(transaction, &after)?;
            events::of_change(transaction, &before, &after)?;
            Ok(after)
        })
    }

    /// Changes a container whatever state it is in.
    ///
    /// # Errors
    ///
    /// As [`State::transition`].
    pub fn update_container(&self, id: &str, change: impl FnOnce(&mut ContainerRecord)) -> Result<ContainerRecord> {
        self.transition(id, &ContainerState::ALL, change)
    }

    /// Removes a container's record, whoever has claimed it.
    ///
    /// # Errors
    ///
    /// [`StateError::ContainerRunning`], [`StateError::NoSuchContainer`].
    pub fn remove_container(&self, id: &str) -> Result<ContainerRecord> {
        self.remove(Durability::System, |transaction| {
            let record = by_id(transaction, id)?;
            let record = record.ok_or_else(|| StateError::NoSuchContainer { name: id.to_owned() })?;
            if record.state.is_live() {
                let (name, state) = (record.name, record.state);
                return Err(StateError::ContainerRunning { id: record.id, name, state }.into());
            }
            events::of_container(transaction, &record, "destroy", &[])?;
            transaction.execute("DELETE FROM containers WHERE id = ?1", [id])?;
            Ok(record)
        })
    }

    /// The container of that id, of that name, or else of the only id that begins so.
    ///
    /// # Errors
    ///
    /// [`StateError::NoSuchContainer`], [`StateError::Ambiguous`].
    pub fn container(&self, name: &str) -> Result<ContainerRecord> {
        self.read(|transaction| {
            if let Some(record) = by_id(transaction, name)? {
                return Ok(record);
            }
            if let Some(record) = by_name(transaction, name)? {
                return Ok(record);
            }
            let is_prefix = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            let query = "SELECT record FROM containers WHERE id >= ?1 AND id < ?1 || '~'";
            let mut found = if is_prefix { many(transaction, query, [name])? } else { Vec::new() };
            match found.len() {
                0 => Err(StateError::NoSuchContainer { name: name.to_owned() }.into()),
                1 => Ok(found.remove(0)),
                count => Err(StateError::Ambiguous { prefix: name.to_owned(), count }.into()),
            }
        })
    }

    /// All containers, those made last first.
    ///
    /// # Errors
    ///
    /// Where they cannot be read.
    pub fn containers(&self) -> Result<Vec<ContainerRecord>> {
        self.read(|transaction| many(transaction, "SELECT record FROM containers ORDER BY created_at DESC, id", []))
    }
}

fn check_change(before: ContainerState, after: &ContainerRecord) -> Result<()> {
    if !before.may_become(after.state) {
        return Err(StateError::ForbiddenTransition { id: after.id.clone(), from: before, to: after.state });
    }
    match after.missing() {
        Some(missing) => Err(StateError::Incomplete { id: after.id.clone(), state: after.state, missing }),
        None => Ok(()),
    }
}

fn check_name(transaction: &Transaction<'_>, record: &ContainerRecord) -> Result<(), Failure> {
    match by_name(transaction, &record.name)? {
        Some(other) => Err(StateError::NameInUse { name: record.name.clone(), by: other.id }.into()),
        None => Ok(()),
    }
}

pub(crate) fn update(transaction: &Transaction<'_>, record: &ContainerRecord) -> Result<(), Failure> {
    transaction.execute(
        "UPDATE containers SET name = ?2, state = ?3, record = ?4 WHERE id = ?1",
        params![record.id, record.name, record.state.as_str(), serde_json::to_string(record)?],
    )?;
    Ok(())
}

pub(crate) fn by_id(transaction: &Transaction<'_>, id: &str) -> Result<Option<ContainerRecord>, Failure> {
    one(transaction, "SELECT record FROM containers WHERE id = ?1", id)
}

fn by_name(transaction: &Transaction<'_>, name: &str) -> Result<Option<ContainerRecord>, Failure> {
    one(transaction, "SELECT record FROM containers WHERE name = ?1", name)
}

fn one(transaction: &Transaction<'_>, query: &str, key: &str) -> Result<Option<ContainerRecord>, Failure> {
    let text: Option<String> = transaction.query_row(query, [key], |row| row.get(0)).optional()?;
    Ok(text.map(|t| serde_json::from_str(&t)).transpose()?)
}

fn many(
    transaction: &Transaction<'_>,
    query: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<ContainerRecord>, Failure> {
    let mut statement = transaction.prepare(query)?;
    let texts = statement.query_map(parameters, |row| row.get::<_, String>(0))?;
    texts.map(|text| Ok(serde_json::from_str(&text?)?)).collect()
}
