//! Names and ids: finding, listing, tagging, removing images, and collecting what no image needs.

use std::collections::HashSet;

use state::{ImageRecord, StateError};
use store::{Collected, Digest, Object};

use crate::{ImageError, Images, Reference, Result, familiar};

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Complete names that were taken away.
    pub untagged: Vec<String>,
    /// The image, if it is gone.
    pub deleted: Option<String>,
    /// How many layers went with it, because no other image uses them.
    pub layers: usize,
    /// Bytes on disk that are free now.
    pub bytes: u64,
}

impl Images {
    /// All images, those loaded last first.
    ///
    /// # Errors
    ///
    /// Where the records cannot be read.
    pub fn list(&self) -> Result<Vec<ImageRecord>> {
        Ok(self.state.images()?)
    }

    /// Finds an image by what a user calls it, in this order: an id or a manifest's digest in full, a name (completed
    /// as Docker does; with a digest it must have that manifest), an unambiguous beginning of an id.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoSuchImage`], [`ImageError::Ambiguous`].
    pub fn resolve(&self, name: &str) -> Result<ImageRecord> {
        let nothing = || ImageError::NoSuchImage { name: name.chars().take(300).collect() };
        let digest = name.parse().ok().or_else(|| Digest::from_hex(name).ok());
        if let Some(digest) = digest {
            let digest = digest.to_string();
            if let Some(image) = self.state.image(&digest)? {
                return Ok(image);
            }
            return self.state.images_with_manifest(&digest)?.pop().ok_or_else(nothing);
        }
        if let Ok(reference) = Reference::parse(name)
            && let Some(image) = self.find_named(&reference)?
        {
            return Ok(image);
        }
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if hex.is_empty() || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(nothing());
        }
        let mut found = self.state.images_with_prefix(&format!("sha256:{hex}"))?;
        match found.len() {
            0 => Err(nothing()),
            1 => Ok(found.remove(0)),
            count => Err(ImageError::Ambiguous { prefix: name.to_owned(), count }),
        }
    }

    fn find_named(&self, reference: &Reference) -> Result<Option<ImageRecord>> {
        let Some(digest) = reference.digest() else {
            return Ok(self.state.image_named(&reference.to_string())?);
        };
        // As for Docker, the tag beside a digest does not count.
        let repository = reference.repository();
        let in_repository = |name: &String| Reference::parse(name).is_ok_and(|r| r.repository() == repository);
        let found = self.state.images_with_manifest(&digest.to_string())?;
        Ok(found.into_iter().find(|image| image.names.iter().any(in_repository)))
    }

    /// Gives the image `source` the name `target` too, and returns that in full; an image that had it loses it.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoSuchImage`], [`ImageError::Reference`].
    pub fn tag(&self, source: &str, target: &str) -> Result<String> {
        let target = Reference::parse(target)?;
        if target.digest().is_some() {
            let problem = "a name that is given cannot have a digest";
            return Err(crate::ReferenceError { text: target.to_string(), problem }.into());
        }
        let image = self.resolve(source)?;
        self.state.name_image(&target.to_string(), &image.id)?;
        Ok(target.to_string())
    }

    /// Removes a name; with the last one, or by id, the image; and then what no other image needs.
    ///
    /// An image from which containers were made stays. Without `force` that is an error; with it only its names go.
    /// By id, several names go only with `force`.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoSuchImage`], [`ImageError::SeveralNames`], [`StateError::ImageInUse`].
    pub fn remove(&self, name: &str, force: bool) -> Result<Removed> {
        let image = self.resolve(name)?;
        let asked = Reference::parse(name).ok().map(|r| r.to_string()).filter(|n| image.names.contains(n));
        let mut removed = Removed::default();
        match asked {
            Some(asked) if image.names.len() > 1 => {
                self.state.unname_image(&asked)?;
                removed.untagged.push(asked);
            }
            None if image.names.len() > 1 && !force => {
                let names = image.names.iter().map(|n| familiar(n).to_owned()).collect();
                return Err(ImageError::SeveralNames { id: image.id, names });
            }
            _ => self.remove_record(&image, force, &mut removed)?,
        }
        let collected = self.collect()?;
        removed.layers = collected.objects.iter().filter(|o| o.kind == store::Kind::Layer).count();
        removed.bytes = collected.bytes;
        Ok(removed)
    }

    fn remove_record(&self, image: &ImageRecord, force: bool, removed: &mut Removed) -> Result<()> {
        match self.state.remove_image(&image.id) {
            Ok(image) => {
                removed.untagged = image.names;
                removed.deleted = Some(image.id);
                Ok(())
            }
            Err(StateError::ImageInUse { .. }) if force && !image.names.is_empty() => {
                for name in &image.names {
                    self.state.unname_image(name)?;
                    removed.untagged.push(name.clone());
                }
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Removes what no image needs and nobody leases: layers, metadata images, documents, and what crashes left.
    ///
    /// # Errors
    ///
    /// Where the records or the store fail.
    pub fn collect(&self) -> Result<Collected> {
        self.store.collect(|| self.needed())
    }

    fn needed(&self) -> Result<HashSet<Object>> {
        let mut needed = HashSet::new();
        for image in self.state.images()? {
            // A record that cannot be understood must not cost the layers of the others, nor its own.
            let digest = |text: &str| crate::root::parse(&image, text);
            needed.insert(Object::blob(digest(&image.id)?));
            needed.insert(Object::root(digest(&image.root.digest)?));
            if let Some(manifest) = &image.manifest_digest {
                needed.insert(Object::blob(digest(manifest)?));
            }
            for layer in &image.layers {
                needed.insert(Object::layer(digest(&layer.diff_id)?));
            }
        }
        Ok(needed)
    }
}
