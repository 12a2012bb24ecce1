//! Pushing: an image's layers, configuration and manifest to a registry.
//!
//! For each layer the cheapest way that leaves its blob as it came:
//!
//! ```text
//!   the repository has the blob ──▶ nothing to do
//!   another repository there has it ──▶ mounted
//!   the blob was kept, or is the plain archive, which the layer gives back ──▶ sent
//!   otherwise ──▶ the archive is made again, compressed on its way, and becomes another blob
//! ```
//!
//! When all blobs are as they came, so is the manifest, with its digest. Otherwise one is made anew; the configuration,
//! and with it the image's id, is always the same.

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::AtomicBool;

use flate2::read::GzEncoder;
use registry::{Client, Reference, RegistryError, Upload};
use state::{ImageRecord, LayerRecord};
use store::{Digest, LayerFiles, Lease, Object};

use crate::limits::{CONFIG_BYTES, MANIFEST_BYTES};
use crate::manifest::media_type;
use crate::new_manifest::{Described, GZIP_TYPE, TAR_TYPE, new_manifest};
use crate::rebuild::rebuilt;
use crate::root::{label, parse};
use crate::workers::in_parallel;
use crate::{Event, ImageError, Images, Progress, Result, familiar};

/// An image that was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The complete name under which it is there.
    pub name: String,
    /// Its manifest's digest.
    pub digest: String,
    /// Bytes of its manifest.
    pub size: u64,
    /// Whether the manifest is another than the one that it came with, because layers were compressed anew.
    pub is_remade: bool,
}

impl Images {
    /// Pushes an image under one of its names.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoSuchImage`], [`ImageError::Transfer`], [`ImageError::Damaged`].
    pub fn push(&self, client: &Client, name: &str, progress: &dyn Progress) -> Result<Pushed> {
        let target = Reference::parse(name)?;
        if target.digest().is_some() {
            let problem = "what is pushed gets a tag; the digest follows from its content";
            return Err(crate::ReferenceError { text: name.to_owned(), problem }.into());
        }
        let image = self.state.image_named(&target.to_string())?;
        let image = image.ok_or_else(|| ImageError::NoSuchImage { name: familiar(&target.to_string()).to_owned() })?;
        let root = self.root_device(&image)?;
        let push = Push { images: self, client, target: &target, image: &image, lease: &root.lease, progress };
        let pushed = push.run()?;
        self.tell("push", &target.to_string(), &target.to_string());
        Ok(pushed)
    }
}

struct Push<'a> {
    images: &'a Images,
    client: &'a Client,
    target: &'a Reference,
    image: &'a ImageRecord,
    /// On all that the image needs.
    lease: &'a Lease,
    progress: &'a dyn Progress,
}

impl Push<'_> {
    fn run(&self) -> Result<Pushed> {
        let name = self.target.to_string();
        let layers: Vec<_> = self.image.layers.iter().enumerate().collect();
        let bytes = self.image.layers.iter().map(|l| l.blob_size.unwrap_or(0)).sum();
        self.progress.event(Event::Image { name: &name, layers: layers.len(), bytes });
        let cancel = AtomicBool::new(false);
        let workers = self.images.options.parallel_layers;
        let pushed = in_parallel(workers, &layers, &cancel, |(index, layer)| self.layer(*index, layer))?;
        let config_size = self.config()?;
        let as_it_came = pushed.iter().zip(&self.image.layers).all(|(p, l)| Some(&p.digest) == l.blob_digest.as_ref());
        let came_with = if as_it_came { self.manifest()? } else { None };
        let is_remade = came_with.is_none() && self.image.manifest_digest.is_some();
        let manifest = match came_with {
            Some(manifest) => manifest,
            None => new_manifest(&parse(self.image, &self.image.id)?, config_size, pushed.clone()),
        };
        let kind = media_type(&label(self.image), &manifest)?;
        let digest =
            self.client.push_manifest(self.target, &kind, &manifest).map_err(|e| self.failed("manifest", e))?;
        self.record(&digest, &manifest, pushed)?;
        self.progress.event(Event::Done);
        Ok(Pushed { name, digest: digest.to_string(), size: manifest.len() as u64, is_remade })
    }

    /// Remembers where the image is now; and what its manifest is, if it had none.
    fn record(&self, digest: &Digest, mut manifest: &[u8], pushed: Vec<Described>) -> Result<()> {
        let Images { store, state, .. } = self.images;
        if self.image.manifest_digest.is_none() {
            store.ingest_blob(self.lease, &mut manifest, Some(digest), None)?;
            let mut record = self.image.clone();
            record.manifest_digest = Some(digest.to_string());
            for (layer, pushed) in record.layers.iter_mut().zip(pushed) {
                layer.blob_digest = Some(pushed.digest);
                layer.blob_size = Some(pushed.size);
                layer.media_type = Some(pushed.media_type);
            }
            state.put_image(&record)?;
        }
        Ok(state.add_digest(&self.target.at(*digest).to_string(), &self.image.id)?)
    }

    fn failed(&self, what: &str, error: RegistryError) -> ImageError {
        ImageError::transfer(&format!("the {what} of {}", familiar(&self.target.to_string())), error)
    }

    /// The manifest that the image came with, while there is one.
    fn manifest(&self) -> Result<Option<Vec<u8>>> {
        let Some(digest) = &self.image.manifest_digest else { return Ok(None) };
        Ok(self.images.store.read_blob(&parse(self.image, digest)?, MANIFEST_BYTES)?)
    }

    fn config(&self) -> Result<u64> {
        let digest = parse(self.image, &self.image.id)?;
        let bytes = self.images.store.read_blob(&digest, CONFIG_BYTES)?;
        let problem = || "its configuration is missing".to_owned();
        let bytes = bytes.ok_or_else(|| ImageError::Damaged { image: label(self.image), problem: problem() })?;
        let size = bytes.len() as u64;
        let failed = |e| self.failed("configuration", e);
        if self.client.has_blob(self.target, &digest).map_err(failed)?.is_none() {
            let open = || Ok(Box::new(&bytes[..]) as Box<dyn Read + Send + '_>);
            let upload = Upload::Known { digest, size, open: &open };
            self.client.push_blob(self.target, upload).map_err(failed)?;
        }
        Ok(size)
    }

    fn layer(&self, index: usize, layer: &LayerRecord) -> Result<Described> {
        let total = layer.blob_size.unwrap_or(0);
        let digest = layer.blob_digest.as_ref().unwrap_or(&layer.diff_id);
        self.progress.event(Event::LayerStarted { index, digest, total });
        let (described, shared) = match self.as_it_came(index, layer)? {
            Some(done) => done,
            None => (self.compressed(index, layer)?, false),
        };
        self.progress.event(Event::LayerDone { index, shared });
        Ok(described)
    }

    /// Gets the blob there that the layer came in, if that can be; and whether it was there.
    fn as_it_came(&self, index: usize, layer: &LayerRecord) -> Result<Option<(Described, bool)>> {
        let (Some(digest), Some(size)) = (&layer.blob_digest, layer.blob_size) else { return Ok(None) };
        let is_plain = *digest == layer.diff_id;
        let Some(media_type) = layer.media_type.clone().or_else(|| is_plain.then(|| TAR_TYPE.to_owned())) else {
            return Ok(None);
        };
        let described = Described { media_type, digest: digest.clone(), size };
        let digest = parse(self.image, digest)?;
        let failed = |e| self.failed(&format!("layer {}", index + 1), e);
        if self.client.has_blob(self.target, &digest).map_err(failed)?.is_some()
            || self.mount(&digest).map_err(failed)?
        {
            return Ok(Some((described, true)));
        }
        let path = self.images.store.path(&Object::blob(digest));
        let kept = std::fs::metadata(&path).is_ok_and(|m| m.len() == size);
        if !kept && !is_plain {
            return Ok(None);
        }
        let files = self.files(layer)?;
        let open = || -> io::Result<Box<dyn Read + Send + '_>> {
            if kept {
                return Ok(Box::new(self.sent(index, size, File::open(&path)?)));
            }
            Ok(Box::new(self.sent(index, size, rebuilt(&files).map_err(io::Error::other)?)))
        };
        self.client.push_blob(self.target, Upload::Known { digest, size, open: &open }).map_err(failed)?;
        Ok(Some((described, false)))
    }

    /// Takes the blob from another repository of the registry that is known to have the image.
    fn mount(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let elsewhere = self.image.digests.iter().filter_map(|text| Reference::parse(text).ok());
        for other in elsewhere {
            let same = other.domain() == self.target.domain() && other.path() != self.target.path();
            if same && self.client.mount_blob(self.target, digest, &other)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn compressed(&self, index: usize, layer: &LayerRecord) -> Result<Described> {
        let files = self.files(layer)?;
        let archive = self.sent(index, files.facts.unpacked_length, rebuilt(&files)?);
        let upload = Upload::Stream(Box::new(GzEncoder::new(archive, flate2::Compression::default())));
        let pushed = self.client.push_blob(self.target, upload);
        let (digest, size) = pushed.map_err(|e| self.failed(&format!("layer {}", index + 1), e))?;
        Ok(Described { media_type: GZIP_TYPE.to_owned(), digest: digest.to_string(), size })
    }

    fn files(&self, layer: &LayerRecord) -> Result<LayerFiles> {
        let diff_id = parse(self.image, &layer.diff_id)?;
        let problem = || format!("layer {diff_id} is missing");
        let files = self.images.store.layer(&diff_id)?;
        files.ok_or_else(|| ImageError::Damaged { image: label(self.image), problem: problem() })
    }

    fn sent<R>(&self, index: usize, total: u64, reader: R) -> Sent<'_, R> {
        Sent { reader, index, done: 0, told: 0, total, progress: self.progress }
    }
}

/// A blob on its way.
struct Sent<'a, R> {
    reader: R,
    index: usize,
    done: u64,
    told: u64,
    total: u64,
    progress: &'a dyn Progress,
}

impl<R: Read> Read for Sent<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.done += count as u64;
        if self.done - self.told >= 1 << 20 || count == 0 {
            self.told = self.done;
            self.progress.event(Event::LayerBytes { index: self.index, done: self.done, total: self.total });
        }
        Ok(count)
    }
}
