//! Queries and changes of images.

use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use crate::{Durability, Failure, ImageRecord, Result, RootRecord, State, StateError};

const SELECT: &str = "SELECT images.record FROM images ";

impl State {
    /// Records an image and gives it its names and digests; where another image has one of them, that image loses it.
    /// An image of that id that exists keeps its other names and digests, and takes the rest from `record`; but a
    /// record without a manifest leaves the image the one it has, with what that says of layers.
    ///
    /// # Errors
    ///
    /// Where it cannot be written.
    pub fn put_image(&self, record: &ImageRecord) -> Result<()> {
        self.write(Durability::Disk, |transaction| {
            let mut record = record.clone();
            if let Some(known) = image_by_id(transaction, &record.id)? {
                keep_manifest(&mut record, known);
            }
            transaction.execute(
                "INSERT INTO images (id, manifest, loaded_at, record) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (id) DO UPDATE SET manifest = ?2, loaded_at = ?3, record = ?4",
                params![record.id, record.manifest_digest, record.loaded_at, serde_json::to_string(&record)?],
            )?;
            record.names.iter().try_for_each(|name| set_name(transaction, name, &record.id))?;
            record.digests.iter().try_for_each(|reference| set_digest(transaction, reference, &record.id))
        })
    }

    /// Says that an image was pulled as, or pushed to, `reference`: a repository, `@`, and the digest of a manifest or
    /// an index. Where another image was, it no longer is.
    ///
    /// # Errors
    ///
    /// [`StateError::NoSuchImage`].
    pub fn add_digest(&self, reference: &str, id: &str) -> Result<()> {
        self.write(Durability::Disk, |transaction| {
            image_by_id(transaction, id)?.ok_or_else(|| StateError::NoSuchImage { image: id.to_owned() })?;
            set_digest(transaction, reference, id)
        })
    }

    /// Takes a repository's digest away. Returns the image that had it, as it is without.
    ///
    /// # Errors
    ///
    /// [`StateError::NoSuchImage`] where no image has it.
    pub fn remove_digest(&self, reference: &str) -> Result<ImageRecord> {
        self.take(reference, "DELETE FROM digests WHERE reference = ?1 RETURNING image")
    }

    /// Says where an image's metadata image is now, if the image is still there.
    ///
    /// # Errors
    ///
    /// Where it cannot be written.
    pub fn set_root(&self, id: &str, root: &RootRecord) -> Result<()> {
        self.write(Durability::Disk, |transaction| {
            if let Some(mut record) = image_by_id(transaction, id)? {
                record.root = root.clone();
                let text = serde_json::to_string(&record)?;
                transaction.execute("UPDATE images SET record = ?2 WHERE id = ?1", [id, &text])?;
            }
            Ok(())
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
        self.take(name, "DELETE FROM names WHERE name = ?1 RETURNING image")
    }

    /// Runs a removal of `key` that returns the id of the image that had it.
    fn take(&self, key: &str, removal: &str) -> Result<ImageRecord> {
        self.remove(Durability::Disk, |transaction| {
            let id: Option<String> = transaction.query_row(removal, [key], |row| row.get(0)).optional()?;
            let image = id.map(|id| image_by_id(transaction, &id)).transpose()?.flatten();
            image.ok_or_else(|| StateError::NoSuchImage { image: key.to_owned() }.into())
        })
    }

    /// Removes an image and all its names.
    ///
    /// # Errors
    ///
    /// [`StateError::ImageInUse`] where a container was made from it, [`StateError::NoSuchImage`].
    pub fn remove_image(&self, id: &str) -> Result<ImageRecord> {
        self.remove(Durability::Disk, |transaction| {
            let record = image_by_id(transaction, id)?;
            let record = record.ok_or_else(|| StateError::NoSuchImage { image: id.to_owned() })?;
            if let Some((container, running)) = user_of(transaction, id)? {
                return Err(StateError::ImageInUse { image: id.to_owned(), container, running }.into());
            }
            transaction.execute("DELETE FROM images WHERE id = ?1", [id])?;
            Ok(record)
        })
    }

    /// Removes an image and all its names, if no container was made from it and `may_go` says so of it as it is now.
    /// `None` where it stays, or is gone already.
    ///
    /// # Errors
    ///
    /// Where the records fail.
    pub fn remove_unused_image(&self, id: &str, may_go: impl Fn(&ImageRecord) -> bool) -> Result<Option<ImageRecord>> {
        self.remove(Durability::Disk, |transaction| {
            let record = image_by_id(transaction, id)?.filter(&may_go);
            if record.is_none() || user_of(transaction, id)?.is_some() {
                return Ok(None);
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

    /// The image that was pulled as, or pushed to, that normalised reference with a digest.
    ///
    /// # Errors
    ///
    /// Where it cannot be read.
    pub fn image_by_digest(&self, reference: &str) -> Result<Option<ImageRecord>> {
        self.read(|transaction| {
            let query = format!("{SELECT} JOIN digests ON digests.image = images.id WHERE digests.reference = ?1");
            one(transaction, &query, reference)
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

/// A container that was made from the image, one that runs if there is one, and whether it does.
fn user_of(transaction: &Transaction<'_>, id: &str) -> Result<Option<(String, bool)>, Failure> {
    let query = "SELECT name, state IN ('running', 'paused', 'restarting') AS live FROM containers WHERE image = ?1
                 ORDER BY live DESC LIMIT 1";
    let user = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    Ok(transaction.query_row(query, [id], user).optional()?)
}

fn set_name(transaction: &Transaction<'_>, name: &str, id: &str) -> Result<(), Failure> {
    transaction.execute(
        "INSERT INTO names (name, image) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET image = ?2",
        [name, id],
    )?;
    Ok(())
}

fn set_digest(transaction: &Transaction<'_>, reference: &str, id: &str) -> Result<(), Failure> {
    transaction.execute(
        "INSERT INTO digests (reference, image) VALUES (?1, ?2) ON CONFLICT (reference) DO UPDATE SET image = ?2",
        [reference, id],
    )?;
    Ok(())
}

/// Fills in what only a manifest says and `record`, of the same image, does not know.
fn keep_manifest(record: &mut ImageRecord, known: ImageRecord) {
    if record.manifest_digest.is_some() || known.manifest_digest.is_none() {
        return;
    }
    record.manifest_digest = known.manifest_digest;
    for (layer, known) in record.layers.iter_mut().zip(known.layers) {
        if layer.diff_id == known.diff_id {
            layer.blob_digest = known.blob_digest;
            layer.blob_size = known.blob_size;
            layer.media_type = known.media_type;
        }
    }
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
    let mut digests = transaction.prepare("SELECT reference FROM digests WHERE image = ?1 ORDER BY reference")?;
    let mut records = Vec::with_capacity(texts.len());
    for text in texts {
        let mut record: ImageRecord = serde_json::from_str(&text)?;
        record.names = names.query_map([&record.id], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        record.digests = digests.query_map([&record.id], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        records.push(record);
    }
    Ok(records)
}
