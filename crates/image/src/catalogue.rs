//! Names and ids: finding, listing, tagging, removing images, and collecting what no image needs.

use std::collections::HashSet;

use state::{ImageRecord, StateError};
use store::{Collected, Digest, Object};

use crate::{ImageError, Images, Reference, Result, familiar};

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Complete names, and digests of repositories, that were taken away.
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
    /// as Docker does; with a digest, it was pulled as that or pushed to it, or is called like the repository and has
    /// that manifest), an unambiguous beginning of an id.
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
        if let Some(image) = self.state.image_by_digest(&format!("{repository}@{digest}"))? {
            return Ok(Some(image));
        }
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
        self.tell("tag", &image.id, &target.to_string());
        Ok(target.to_string())
    }

    /// Removes a name, or a digest of a repository; with the last one, or by id, the image; and then what no other
    /// image needs. With the last tag of a repository its digests go too.
    ///
    /// An image from which containers were made stays. Without `force` that is an error; with it only its names go.
    /// By id, several names go only with `force`.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoSuchImage`], [`ImageError::SeveralNames`], [`StateError::ImageInUse`].
    pub fn remove(&self, name: &str, force: bool) -> Result<Removed> {
        match self.remove_resolved(name, force) {
            // Somebody else was faster, and the user never gave the id.
            Err(ImageError::State(StateError::NoSuchImage { .. })) => {
                Err(ImageError::NoSuchImage { name: name.to_owned() })
            }
            result => result,
        }
    }

    fn remove_resolved(&self, name: &str, force: bool) -> Result<Removed> {
        let image = self.resolve(name)?;
        let mut removed = Removed::default();
        match asked(name, &image) {
            Some(asked) => {
                let going = going_with(asked, &image);
                if going.len() < image.names.len() + image.digests.len() {
                    self.untag(&going, &mut removed)?;
                } else {
                    self.remove_record(&image, force, &mut removed)?;
                }
            }
            None if !force && has_several_names(&image) => {
                let names = references(&image).map(|n| familiar(n).to_owned()).collect();
                return Err(ImageError::SeveralNames { id: image.id, names });
            }
            None => self.remove_record(&image, force, &mut removed)?,
        }
        let collected = self.collect()?;
        removed.layers = collected.objects.iter().filter(|o| o.kind == store::Kind::Layer).count();
        removed.bytes = collected.bytes;
        Ok(removed)
    }

    fn untag(&self, references: &[String], removed: &mut Removed) -> Result<()> {
        for reference in references {
            if reference.contains('@') {
                self.state.remove_digest(reference)?;
            } else {
                let image = self.state.unname_image(reference)?;
                self.tell("untag", &image.id, reference);
            }
            removed.untagged.push(reference.clone());
        }
        Ok(())
    }

    fn remove_record(&self, image: &ImageRecord, force: bool, removed: &mut Removed) -> Result<()> {
        match self.state.remove_image(&image.id) {
            Ok(image) => {
                image.names.iter().for_each(|name| self.tell("untag", &image.id, name));
                self.tell("delete", &image.id, &image.id);
                removed.untagged = references(&image).cloned().collect();
                removed.deleted = Some(image.id);
                Ok(())
            }
            Err(StateError::ImageInUse { .. }) if force && references(image).next().is_some() => {
                let all: Vec<String> = references(image).cloned().collect();
                self.untag(&all, removed)
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
            needed.extend(self.objects_of(&image)?);
        }
        Ok(needed)
    }

    /// What an image needs, as far as it is in the store: the blobs of its layers are kept only where that was asked
    /// for.
    pub(crate) fn objects_of(&self, image: &ImageRecord) -> Result<Vec<Object>> {
        let digest = |text: &str| crate::root::parse(image, text);
        let mut objects = vec![Object::blob(digest(&image.id)?), Object::root(digest(&image.root.digest)?)];
        if let Some(manifest) = &image.manifest_digest {
            objects.push(Object::blob(digest(manifest)?));
        }
        for layer in &image.layers {
            objects.push(Object::layer(digest(&layer.diff_id)?));
            if let Some(blob) = &layer.blob_digest {
                objects.push(Object::blob(digest(blob)?));
            }
        }
        Ok(objects)
    }
}

/// All names and digests of an image.
fn references(image: &ImageRecord) -> impl Iterator<Item = &String> {
    image.names.iter().chain(&image.digests)
}

/// Which of the image's names or digests a user means, if any.
fn asked<'a>(name: &str, image: &'a ImageRecord) -> Option<&'a String> {
    let reference = Reference::parse(name).ok()?;
    let complete = match reference.digest() {
        Some(digest) => format!("{}@{digest}", reference.repository()),
        None => reference.to_string(),
    };
    references(image).find(|known| **known == complete)
}

/// What goes when `asked` goes: with the last tag of a repository, the digests that it had there.
fn going_with(asked: &str, image: &ImageRecord) -> Vec<String> {
    let repository = |name: &str| Reference::parse(name).map(|r| r.repository()).unwrap_or_default();
    let ours = repository(asked);
    let mut going = vec![asked.to_owned()];
    let is_tag = !asked.contains('@');
    if is_tag && !image.names.iter().any(|name| name != asked && repository(name) == ours) {
        going.extend(image.digests.iter().filter(|digest| repository(digest) == ours).cloned());
    }
    going
}

/// Whether an id could mean more than one name. Digests beside one tag of the same repository do not count.
fn has_several_names(image: &ImageRecord) -> bool {
    let repositories: HashSet<_> =
        references(image).filter_map(|name| Some(Reference::parse(name).ok()?.repository())).collect();
    image.names.len() > 1 || repositories.len() > 1
}
