//! What images cost on disk.

use std::collections::{HashMap, HashSet};

use state::ImageRecord;
use store::{Kind, Object};

use crate::{Images, Result};

/// What images and their content cost, in bytes on disk: blocks in use, holes not counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Each image, those loaded last first.
    pub images: Vec<ImageUsage>,
    /// How many of them have containers.
    pub active: usize,
    /// Bytes of everything that images need.
    pub size: u64,
    /// Bytes that would be free if all images without containers were removed, and what no image needs.
    pub reclaimable: u64,
    /// Converted layers.
    pub layers: Amount,
    /// Manifests, configurations, and layers as they came.
    pub blobs: Amount,
    /// Metadata images.
    pub roots: Amount,
    /// What no image needs. Some of it may be about to be needed.
    pub unneeded: Amount,
    /// Bytes of unfinished downloads.
    pub partial: u64,
    /// Bytes of what is being taken in, and of what killed commands left.
    pub temporary: u64,
}

/// How many, and how much.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub count: usize,
    /// Bytes on disk.
    pub bytes: u64,
}

/// What one image costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUsage {
    /// The image.
    pub image: ImageRecord,
    /// How many containers were made from it.
    pub containers: usize,
    /// Bytes of all that it needs.
    pub size: u64,
    /// Bytes of it that other images need too.
    pub shared: u64,
}

impl ImageUsage {
    /// Bytes that this image alone needs.
    #[must_use]
    pub fn unique(&self) -> u64 {
        self.size - self.shared
    }
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

impl Images {
    /// Measures all images.
    ///
    /// # Errors
    ///
    /// Where the records or the store cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        let records = self.list()?;
        let mut containers: HashMap<String, usize> = HashMap::new();
        for container in self.state.containers()? {
            *containers.entry(container.image_id).or_default() += 1;
        }
        let stored = self.store.usage()?;
        let bytes: HashMap<Object, u64> = stored.objects.into_iter().collect();
        // A layer may be in an image twice.
        let needs = records.iter().map(|image| Ok(self.objects_of(image)?.into_iter().collect()));
        let needs = needs.collect::<Result<Vec<HashSet<Object>>>>()?;
        let mut users: HashMap<Object, usize> = HashMap::new();
        let mut active: HashSet<Object> = HashSet::new();
        for (image, objects) in records.iter().zip(&needs) {
            objects.iter().for_each(|object| *users.entry(*object).or_default() += 1);
            if containers.contains_key(&image.id) {
                active.extend(objects);
            }
        }
        let mut usage = Usage { partial: stored.partial, temporary: stored.temporary, ..Usage::default() };
        for (object, bytes) in &bytes {
            usage.count(object, *bytes, users.contains_key(object), active.contains(object));
        }
        for (image, objects) in records.into_iter().zip(needs) {
            let of = |object: &Object| bytes.get(object).copied().unwrap_or(0);
            let shared =
                objects.iter().filter(|object| users.get(object).is_some_and(|users| *users > 1)).map(of).sum();
            let containers = containers.get(&image.id).copied().unwrap_or(0);
            usage.active += usize::from(containers > 0);
            usage.images.push(ImageUsage { image, containers, size: objects.iter().map(of).sum(), shared });
        }
        Ok(usage)
    }
}

impl Usage {
    fn count(&mut self, object: &Object, bytes: u64, is_needed: bool, is_active: bool) {
        match object.kind {
            Kind::Layer => self.layers.add(bytes),
            Kind::Blob => self.blobs.add(bytes),
            Kind::Root => self.roots.add(bytes),
        }
        if is_needed {
            self.size += bytes;
        } else {
            self.unneeded.add(bytes);
        }
        if !is_active {
            self.reclaimable += bytes;
        }
    }
}
