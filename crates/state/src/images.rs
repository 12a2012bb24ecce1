//! Queries and changes of images.

use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use crate::{Durability, Failure, ImageRecord, Result, State, StateError};

const SELECT: &str = "SELECT images.record FROM images ";

impl State {
    /// Records an image and gives it its names; where another image has one of them, that image loses it. An image of
    /// that id that exists keeps its other names, and takes the rest from `record`.
    ///
    /// # Errors
    ///
    /// Where it cannot be written.
    pub fn put_image(&self, record: &ImageRecord) -> Result<()> {
        self.write(Durability::Disk, |transaction| {
            transaction.execute(
                "INSERT INTO images (id, manifest, loaded_at, record) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (id) DO UPDATE SET manifest = coalesce(?2, manifest), loaded_at = ?3, record = ?4",
                params![record.id, record.manifest_digest, record.loaded_at, serde_json::to_string(record)?],
            )?;
            record.names.iter().try_for_each(|name| set_name(transaction, name, &record.id))
        })
    }

    /// Gives an image a name; where another has it, that one loses it.
    ///
    /// # Errors
    ///
    /// [`StateError::NoSuchImage`].
    pub fn name_image(&self, name: &str, id: &str) -> Result<()> {
        self.write(Durability::Disk, |transaction| {
            image_by_id(transaction, id)?.ok_or_else(|| StateError::NoSuchImage { image: id.to_owned() })?;
            set_name(transaction, name, id)
        })
    }

    /// Takes a name away. Returns the image that had it, as it is without.
    ///
    /// # Errors
    ///
    /// [`StateError::NoSuchImage`] where no image has it.
    pub fn unname_image(&self, name: &str) -> Result<ImageRecord> {
        self.write(Durability::Disk, |transaction| {
            let id: Option<String> = transaction
                .query_row("DELETE FROM names WHERE name = ?1 RETURNING image", [name], |row| row.get(0))
                .optional()?;
            let image = id.map(|id| image_by_id(transaction, &id)).transpose()?.flatten();
            image.ok_or_else(|| StateError::NoSuchImage { image: name.to_owned() }.into())
        })
    }

    /// Removes an image and all its names.
    ///
    /// # Errors
    ///
    /// [`StateError::ImageInUse`] where a container was made from it, [`StateError::NoSuchImage`].
    pub fn remove_image(&self, id: &str) -> Result<ImageRecord> {
        self.write(Durability::Disk, |transaction| {
            let record = image_by_id(transaction, id)?;
            let record = record.ok_or_else(|| StateError::NoSuchImage { image: id.to_owned() })?;
            let user = transaction
                .query_row(
                    "SELECT name, state FROM containers WHERE image = ?1 ORDER BY state = 'running' DESC LIMIT 1",
                    [id],
                    |row| Ok((row.get(0)?, row.get::<_, String>(1)? == "running")),
                )
                .optional()?;
            if let Some((container, running)) = user {
                return Err(StateError::ImageInUse { image: id.to_owned(), container, running }.into());
            }
            transaction.execute("DELETE FROM images WHERE id = ?1", [id])?;
            Ok(record)
        })
    }

    /// The image of that id.
    ///
    /// # Errors
    ///
    /// Where it cannot be read.
    pub fn image(&self, id: &str) -> Result<Option<ImageRecord>> {
        self.read(|transaction| image_by_id(transaction, id))
    }

    /// The image that has that normalised name.
    ///
    /// # Errors
    ///
    /// Where it cannot be read.
    pub fn image_named(&self, name: &str) -> Result<Option<ImageRecord>> {
        self.read(|transaction| {
            let query = format!("{SELECT} JOIN names ON names.image = images.id WHERE names.name = ?1");
            one(transaction, &query, name)
        })
    }

    /// The images whose id begins with `prefix` (`sha256:` and at least one digit).
    ///
    /// # Errors
    ///
    /// Where they cannot be read.
    pub fn images_with_prefix(&self, prefix: &str) -> Result<Vec<ImageRecord>> {
        // A prefix is a range: '~' comes after every character of a digest.
        self.read(|transaction| {
            many(transaction, &format!("{SELECT} WHERE id >= ?1 AND id < ?1 || '~' ORDER BY id"), [prefix])
        })
    }

    /// The images that have that manifest.
    ///
    /// # Errors
    ///
    /// Where they cannot be read.
    pub fn images_with_manifest(&self, digest: &str) -> Result<Vec<ImageRecord>> {
        self.read(|transaction| many(transaction, &format!("{SELECT} WHERE manifest = ?1 ORDER BY id"), [digest]))
    }

    /// All images, those loaded last first.
    ///
    /// # Errors
    ///
    /// Where they cannot be read.
    pub fn images(&self) -> Result<Vec<ImageRecord>> {
        self.read(|transaction| many(transaction, &format!("{SELECT} ORDER BY loaded_at DESC, id"), []))
    }
}

fn set_name(transaction: &Transaction<'_>, name: &str, id: &str) -> Result<(), Failure> {
    transaction.execute(
        "INSERT INTO names (name, image) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET image = ?2",
        [name, id],
    )?;
    Ok(())
}

pub(crate) fn image_by_id(transaction: &Transaction<'_>, id: &str) -> Result<Option<ImageRecord>, Failure> {
    one(transaction, &format!("{SELECT} WHERE id = ?1"), id)
}

fn one(transaction: &Transaction<'_>, query: &str, key: &str) -> Result<Option<ImageRecord>, Failure> {
    Ok(many(transaction, query, [key])?.pop())
}

fn many(
    transaction: &Transaction<'_>,
    query: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<ImageRecord>, Failure> {
    let mut statement = transaction.prepare(query)?;
    let text = |row: &Row<'_>| row.get::<_, String>(0);
    let texts = statement.query_map(parameters, text)?.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut names = transaction.prepare("SELECT name FROM names WHERE image = ?1 ORDER BY name")?;
    let mut records = Vec::with_capacity(texts.len());
    for text in texts {
        let mut record: ImageRecord = serde_json::from_str(&text)?;
        record.names = names.query_map([&record.id], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        records.push(record);
    }
    Ok(records)
}
