//! Queries and changes of volumes.
//!
//! A volume's row is there before its disk and goes after it. Which container uses which volume is a table, so that
//! the database itself refuses to remove one in use, and a container that goes takes its uses along.

use rusqlite::{OptionalExtension as _, Transaction, params};

use crate::{Durability, Failure, Result, State, StateError, VolumeRecord};

impl State {
    /// Records a volume where there is none of that name. Returns the one that is there then, and whether it is new.
    ///
    /// # Errors
    ///
    /// [`StateError::VolumeGoes`] where one of that name is being removed.
    pub fn insert_volume(&self, record: &VolumeRecord) -> Result<(VolumeRecord, bool)> {
        self.write(Durability::Disk, |transaction| insert(transaction, record))
    }

    /// Says that a container uses `volumes`, recording those that are not there. Returns them as they are then, in
    /// that order, each with whether it is new.
    ///
    /// # Errors
    ///
    /// [`StateError::NoSuchContainer`], [`StateError::VolumeGoes`]. Nothing has changed then.
    pub fn use_volumes(&self, container: &str, volumes: &[VolumeRecord]) -> Result<Vec<(VolumeRecord, bool)>> {
        self.write(Durability::Disk, |transaction| {
            if crate::containers::by_id(transaction, container)?.is_none() {
                return Err(StateError::NoSuchContainer { name: container.to_owned() }.into());
            }
            let mut used = Vec::with_capacity(volumes.len());
            for record in volumes {
                let found = insert(transaction, record)?;
                let query = "INSERT OR IGNORE INTO volume_uses (container, volume) VALUES (?1, ?2)";
                transaction.execute(query, params![container, record.name])?;
                used.push(found);
            }
            Ok(used)
        })
    }

    /// The volume of that name.
    ///
    /// # Errors
    ///
    /// [`StateError::NoSuchVolume`].
    pub fn volume(&self, name: &str) -> Result<VolumeRecord> {
        self.read(|transaction| existing(transaction, name))
    }

    /// All volumes by name, those that are being removed included.
    ///
    /// # Errors
    ///
    /// Where they cannot be read.
    pub fn volumes(&self) -> Result<Vec<VolumeRecord>> {
        self.read(|transaction| {
            let mut statement = transaction.prepare("SELECT record FROM volumes ORDER BY name")?;
            let texts = statement.query_map([], |row| row.get::<_, String>(0))?;
            texts.map(|text| Ok(serde_json::from_str(&text?)?)).collect()
        })
    }

    /// Ids of the containers that use a volume, whether they run or not.
    ///
    /// # Errors
    ///
    /// Where they cannot be read.
    pub fn users_of_volume(&self, name: &str) -> Result<Vec<String>> {
        self.read(|transaction| users(transaction, name))
    }

    /// The volumes that a container uses, by name.
    ///
    /// # Errors
    ///
    /// Where they cannot be read.
    pub fn volumes_of(&self, container: &str) -> Result<Vec<VolumeRecord>> {
        self.read(|transaction| {
            let query =
                "SELECT record FROM volumes JOIN volume_uses ON volume = name WHERE container = ?1 ORDER BY name";
            let mut statement = transaction.prepare(query)?;
            let texts = statement.query_map([container], |row| row.get::<_, String>(0))?;
            texts.map(|text| Ok(serde_json::from_str(&text?)?)).collect()
        })
    }

    /// Changes a volume; its name stays.
    ///
    /// # Errors
    ///
    /// [`StateError::NoSuchVolume`].
    pub fn update_volume(&self, name: &str, change: impl FnOnce(&mut VolumeRecord)) -> Result<VolumeRecord> {
        self.write(Durability::Disk, |transaction| {
            let mut record = existing(transaction, name)?;
            change(&mut record);
            record.name = name.to_owned();
            update(transaction, &record)?;
            Ok(record)
        })
    }

    /// Begins to remove a volume that no container uses: from now on nobody gets it. [`State::forget_volume`] ends it
    /// when its disk is gone.
    ///
    /// # Errors
    ///
    /// [`StateError::VolumeInUse`], [`StateError::NoSuchVolume`].
    pub fn begin_volume_removal(&self, name: &str) -> Result<VolumeRecord> {
        self.remove(Durability::Disk, |transaction| {
            let mut record = existing(transaction, name)?;
            let users = users(transaction, name)?;
            if !users.is_empty() {
                return Err(StateError::VolumeInUse { name: name.to_owned(), by: users }.into());
            }
            if !record.removing {
                record.removing = true;
                update(transaction, &record)?;
            }
            Ok(record)
        })
    }

    /// Removes the record of a volume whose removal was begun. One that is gone already is fine.
    ///
    /// # Errors
    ///
    /// Where it cannot be written.
    pub fn forget_volume(&self, name: &str) -> Result<()> {
        self.remove(Durability::Disk, |transaction| {
            let query = "DELETE FROM volumes WHERE name = ?1 AND record ->> '$.removing'";
            if transaction.execute(query, [name])? > 0 {
                crate::events::of_volume(transaction, "destroy", name)?;
            }
            Ok(())
        })
    }
}

fn insert(transaction: &Transaction<'_>, record: &VolumeRecord) -> Result<(VolumeRecord, bool), Failure> {
    match by_name(transaction, &record.name)? {
        Some(found) if found.removing => Err(StateError::VolumeGoes { name: found.name }.into()),
        Some(found) => Ok((found, false)),
        None => {
            transaction.execute(
                "INSERT INTO volumes (name, created_at, record) VALUES (?1, ?2, ?3)",
                params![record.name, record.created_at, serde_json::to_string(record)?],
            )?;
            crate::events::of_volume(transaction, "create", &record.name)?;
            Ok((record.clone(), true))
        }
    }
}

fn update(transaction: &Transaction<'_>, record: &VolumeRecord) -> Result<(), Failure> {
    let text = serde_json::to_string(record)?;
    transaction.execute("UPDATE volumes SET record = ?2 WHERE name = ?1", params![record.name, text])?;
    Ok(())
}

fn by_name(transaction: &Transaction<'_>, name: &str) -> Result<Option<VolumeRecord>, Failure> {
    let query = "SELECT record FROM volumes WHERE name = ?1";
    let text: Option<String> = transaction.query_row(query, [name], |row| row.get(0)).optional()?;
    Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
}

fn existing(transaction: &Transaction<'_>, name: &str) -> Result<VolumeRecord, Failure> {
    by_name(transaction, name)?.ok_or_else(|| StateError::NoSuchVolume { name: name.to_owned() }.into())
}

fn users(transaction: &Transaction<'_>, name: &str) -> Result<Vec<String>, Failure> {
    let mut statement =
        transaction.prepare("SELECT container FROM volume_uses WHERE volume = ?1 ORDER BY container")?;
    let ids = statement.query_map([name], |row| row.get(0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}
