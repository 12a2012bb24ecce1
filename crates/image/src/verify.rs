//! Verifying: everything is read and hashed again; what is damaged is made again where that can be, and otherwise put
//! out of the way, so that the next pull or load makes it again.
//!
//! ```text
//! documents, blobs     sha256 of their bytes is their name                        healed by a pull or load
//! layers               files against their digests, the archive that they give
//!                      back against the diff id, its conversion against the tree  healed from the kept blob, or from
//!                                                                                 the archive if that is whole
//! metadata images      written again, compared byte by byte                       always healed, if the layers are whole
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;

use state::ImageRecord;
use store::{Digest, Kind, LayerFiles, Lease, Object, StoreError};

use crate::check::{self, Finding};
use crate::convert::Converter;
use crate::root::{label, parse, root_digest};
use crate::workers::in_parallel;
use crate::{Event, Images, Progress, Result};

/// What is to be verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyRequest {
    /// The images; with none, all of them, and what is in the store beside them.
    pub names: Vec<String>,
    /// Whether what is damaged is only told, and stays as it is.
    pub report_only: bool,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Each thing that was looked at, sorted.
    pub checks: Vec<Check>,
    /// What no image needs and no command is about to need, sorted. It is removed, unless only a report was asked for.
    pub unneeded: Vec<Object>,
}

/// What was found of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The thing.
    pub object: Object,
    /// The images that need it, as people call them.
    pub images: Vec<String>,
    /// How it is.
    pub outcome: Outcome,
}

/// How a thing is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it was.
    Whole,
    /// Not as it was.
    Damaged {
        /// What is wrong with it.
        problem: String,
        /// Whether it was made again, and is whole now.
        healed: bool,
    },
    /// A metadata image cannot be compared while the layers that it is made from are damaged.
    Unchecked,
}

impl Report {
    /// Whether everything is whole, be it only now.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.checks.iter().all(|check| matches!(check.outcome, Outcome::Whole | Outcome::Damaged { healed: true, .. }))
    }

    /// What was damaged, healed or not.
    pub fn damaged(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| matches!(check.outcome, Outcome::Damaged { .. }))
    }
}

impl Images {
    /// Reads and hashes everything that images need.
    ///
    /// # Errors
    ///
    /// [`crate::ImageError::NoSuchImage`]; where the records or the store cannot be used. That something is damaged is
    /// no error.
    pub fn verify(&self, request: &VerifyRequest, progress: &dyn Progress) -> Result<Report> {
        let mut report = Report::default();
        let lease = self.store.lease(&[])?;
        let images = self.hold(&lease, self.to_verify(request)?)?;
        let needed = self.users(&images)?;
        let verify = Verify { images: self, request, lease: &lease, progress, needed: &needed };
        report.checks.extend(verify.blobs(&images)?);
        report.checks.extend(verify.layers(&images)?);
        let roots = verify.roots(&images, &report.checks)?;
        report.checks.extend(roots);
        drop(lease);
        report.checks.sort_by_key(|check| check.object);
        if request.names.is_empty() {
            report.unneeded = self.unneeded(request, &needed)?;
        }
        progress.event(Event::Done);
        Ok(report)
    }

    /// Leases what the images need, and returns those that are still there then: what those need has not gone before.
    fn hold(&self, lease: &Lease, images: Vec<ImageRecord>) -> Result<Vec<ImageRecord>> {
        let mut held = Vec::with_capacity(images.len());
        for image in images {
            lease.add(&self.objects_of(&image)?)?;
            if let Some(image) = self.state.image(&image.id)? {
                lease.add(&self.objects_of(&image)?)?;
                held.push(image);
            }
        }
        Ok(held)
    }

    /// What images need, and which of them do.
    fn users(&self, images: &[ImageRecord]) -> Result<BTreeMap<Object, Vec<String>>> {
        let mut needed: BTreeMap<Object, Vec<String>> = BTreeMap::new();
        for image in images {
            let label = label(image);
            for object in self.objects_of(image)? {
                let users = needed.entry(object).or_default();
                if users.last() != Some(&label) {
                    users.push(label.clone());
                }
            }
        }
        Ok(needed)
    }

    fn to_verify(&self, request: &VerifyRequest) -> Result<Vec<ImageRecord>> {
        if request.names.is_empty() {
            return self.list();
        }
        let mut images: Vec<ImageRecord> = Vec::new();
        for name in &request.names {
            let image = self.resolve(name)?;
            if images.iter().all(|known| known.id != image.id) {
                images.push(image);
            }
        }
        Ok(images)
    }

    fn unneeded(&self, request: &VerifyRequest, needed: &BTreeMap<Object, Vec<String>>) -> Result<Vec<Object>> {
        if !request.report_only {
            return Ok(self.collect()?.objects);
        }
        let mut unneeded = self.store.objects()?;
        unneeded.retain(|object| !needed.contains_key(object));
        unneeded.sort();
        Ok(unneeded)
    }
}

struct Verify<'a> {
    images: &'a Images,
    request: &'a VerifyRequest,
    lease: &'a Lease,
    progress: &'a dyn Progress,
    /// And by which images.
    needed: &'a BTreeMap<Object, Vec<String>>,
}

impl Verify<'_> {
    fn check(&self, object: Object, finding: Finding, healed: bool) -> Check {
        let outcome = match finding {
            None => Outcome::Whole,
            Some(problem) => Outcome::Damaged { problem, healed },
        };
        Check { object, images: self.needed.get(&object).cloned().unwrap_or_default(), outcome }
    }

    /// Documents must be there; layers as they came need not.
    fn blobs(&self, images: &[ImageRecord]) -> Result<Vec<Check>> {
        let is_document = |digest: &Digest| {
            let text = digest.to_string();
            images.iter().any(|image| image.id == text || image.manifest_digest.as_ref() == Some(&text))
        };
        let store = &self.images.store;
        let mut checks = Vec::new();
        for object in self.needed.keys().filter(|object| object.kind == Kind::Blob) {
            if !is_document(&object.digest) && !store.path(object).exists() {
                continue;
            }
            let finding = check::blob(store, &object.digest);
            if finding.is_some() && !self.request.report_only {
                store.discard(object)?;
            }
            checks.push(self.check(*object, finding, false));
        }
        Ok(checks)
    }

    fn layers(&self, images: &[ImageRecord]) -> Result<Vec<Check>> {
        let layers: Vec<(usize, Object)> =
            self.needed.keys().filter(|object| object.kind == Kind::Layer).copied().enumerate().collect();
        let lengths = self.lengths(images);
        let length = |object: &Object| lengths.get(&object.digest).copied().unwrap_or(0);
        let bytes = layers.iter().map(|(_, object)| length(object)).sum();
        let name = match images {
            [image] => label(image),
            images => format!("{} images", images.len()),
        };
        self.progress.event(Event::Image { name: &name, layers: layers.len(), bytes });
        // Healing is rare, and one at a time is enough for it.
        let healing = Mutex::new(());
        let cancel = AtomicBool::new(false);
        in_parallel(self.images.options.parallel_layers, &layers, &cancel, |(index, object)| {
            let (index, total) = (*index, length(object));
            self.progress.event(Event::LayerStarted { index, digest: &object.digest.to_string(), total });
            let on_bytes = |done: u64| {
                self.progress.event(Event::LayerBytes { index, done: done.min(total), total });
            };
            let finding = check::layer(&self.images.store, &object.digest, &on_bytes);
            let healed = finding.is_some() && !self.request.report_only && {
                let _one = healing.lock().unwrap_or_else(PoisonError::into_inner);
                self.heal_layer(images, &object.digest)?
            };
            self.progress.event(Event::LayerDone { index, shared: false });
            Ok(self.check(*object, finding, healed))
        })
    }

    /// Bytes of the layers' archives, where they are known.
    fn lengths(&self, images: &[ImageRecord]) -> BTreeMap<Digest, u64> {
        let layers = images.iter().flat_map(|image| &image.layers).filter_map(|layer| layer.diff_id.parse().ok());
        let known = |diff_id: Digest| {
            let layer = self.images.store.layer(&diff_id).ok().flatten()?;
            Some((diff_id, layer.facts.unpacked_length))
        };
        layers.filter_map(known).collect()
    }

    /// Makes a damaged layer again from what gives its archive, if anything does. Otherwise it is gone: what is
    /// missing, the next pull or load brings.
    fn heal_layer(&self, images: &[ImageRecord], diff_id: &Digest) -> Result<bool> {
        let store = &self.images.store;
        let object = Object::layer(*diff_id);
        let _lock = store.lock_conversion(diff_id, || ())?;
        // Opened before the layer goes: they can be read all the same.
        let archive = check::open_archive(store, diff_id).ok();
        let kept = self.kept_blobs(images, diff_id).into_iter().filter_map(|blob| self.open_kept(&blob));
        let sources: Vec<Box<dyn Read + Send>> =
            kept.chain(archive.map(|archive| Box::new(archive) as Box<dyn Read + Send>)).collect();
        store.discard(&object)?;
        for source in sources {
            let cancel = AtomicBool::new(false);
            let converter =
                Converter { store, lease: self.lease, options: &self.images.options, cancel: &cancel, progress: &() };
            match converter.stream(&object.to_string(), source) {
                Ok(layer) if layer.diff_id == *diff_id => return Ok(true),
                // Another layer, then: nobody's, and collected as such.
                Ok(_) => {}
                Err(crate::ImageError::Store(error @ (StoreError::NoSpace { .. } | StoreError::Io { .. }))) => {
                    return Err(error.into());
                }
                Err(_) => {}
            }
        }
        Ok(false)
    }

    fn kept_blobs(&self, images: &[ImageRecord], diff_id: &Digest) -> Vec<Digest> {
        let text = diff_id.to_string();
        let layers = images.iter().flat_map(|image| &image.layers).filter(|layer| layer.diff_id == text);
        let mut blobs: Vec<Digest> = layers.filter_map(|layer| layer.blob_digest.as_ref()?.parse().ok()).collect();
        blobs.sort();
        blobs.dedup();
        blobs
    }

    fn open_kept(&self, blob: &Digest) -> Option<Box<dyn Read + Send>> {
        let file = File::open(self.images.store.path(&Object::blob(*blob))).ok()?;
        Some(Box::new(file))
    }

    /// `checked` are the layers, among others.
    fn roots(&self, images: &[ImageRecord], checked: &[Check]) -> Result<Vec<Check>> {
        let is_whole = |layer: Object| {
            let of_it = checked.iter().find(|check| check.object == layer);
            of_it.is_none_or(|check| matches!(check.outcome, Outcome::Whole | Outcome::Damaged { healed: true, .. }))
        };
        let mut checks: Vec<Check> = Vec::new();
        for image in images {
            let object = Object::root(parse(image, &image.root.digest)?);
            if checks.iter().any(|check| check.object == object) {
                continue;
            }
            let layers = image.layers.iter().map(|layer| Ok(Object::layer(parse(image, &layer.diff_id)?)));
            let layers = layers.collect::<Result<Vec<_>>>()?;
            if layers.iter().all(|layer| is_whole(*layer)) {
                let (finding, healed) = self.root(image, object, &layers)?;
                checks.push(self.check(object, finding, healed));
            } else {
                let unchecked = self.check(object, None, false);
                checks.push(Check { outcome: Outcome::Unchecked, ..unchecked });
            }
        }
        Ok(checks)
    }

    fn root(&self, image: &ImageRecord, object: Object, layers: &[Object]) -> Result<(Finding, bool)> {
        let store = &self.images.store;
        let files =
            layers.iter().map(|layer| store.layer(&layer.digest)).collect::<Result<Option<Vec<LayerFiles>>, _>>();
        let Ok(Some(files)) = files else { return Ok((Some("a layer of it is missing".to_owned()), false)) };
        if root_digest(&files) != object.digest {
            // Of another version: whoever uses the image writes it anew.
            return Ok((None, false));
        }
        let (ingest, _) = self.images.write_root(&label(image), &files)?;
        let path = store.path(&object);
        let finding = match File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Some("it is missing".to_owned()),
            Err(e) => Some(format!("it cannot be read: {e}")),
            Ok(mut found) => {
                let mut written = File::open(ingest.shown()).map_err(|e| StoreError::io("open", ingest.shown(), e))?;
                match check::is_same(&mut found, &mut written) {
                    Ok(true) => None,
                    Ok(false) => Some("it is not what its layers make".to_owned()),
                    Err(e) => Some(format!("it cannot be read: {e}")),
                }
            }
        };
        if finding.is_none() || self.request.report_only {
            return Ok((finding, false));
        }
        store.discard(&object)?;
        ingest.publish(self.lease, &object)?;
        Ok((finding, true))
    }
}
