//! Loading images from archives and directories.

use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use state::{ImageRecord, LayerRecord};
use store::{LayerFiles, Lease};

use crate::convert::Converter;
use crate::origin::Origin;
use crate::plan::{ImagePlan, LayerPlan, plan};
use crate::workers::in_parallel;
use crate::{Event, ImageError, Images, Platform, Progress, Result};

/// What to load from.
pub enum LoadSource {
    /// An OCI layout directory, or an archive. A FIFO or a device is read as a stream.
    Path(PathBuf),
    /// An archive that comes once, in order: the standard input.
    Stream(Box<dyn Read + Send>),
}

impl fmt::Debug for LoadSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The complete names that it got, sorted; none where the archive has none for it.
    pub names: Vec<String>,
    /// Its id.
    pub id: String,
}

impl Images {
    /// Loads all images of an archive that are for `platform`, this host's if none is given.
    ///
    /// The documents of all images are checked before the first is loaded. Each image is loaded whole or not at all.
    ///
    /// # Errors
    ///
    /// What is wrong with the archive, or why it cannot be stored. Images that were loaded before stay; of the one
    /// that failed nothing does.
    pub fn load(
        &self,
        source: LoadSource,
        progress: &dyn Progress,
        platform: Option<&Platform>,
    ) -> Result<Vec<Loaded>> {
        self.under_lease(|lease| self.load_under(lease, source, progress, platform))
    }

    /// Takes something in under a lease of its own. Where that fails, what the lease alone held is collected.
    pub(crate) fn under_lease<T>(&self, take_in: impl FnOnce(&Lease) -> Result<T>) -> Result<T> {
        let lease = self.store.lease(&[])?;
        let result = take_in(&lease);
        drop(lease);
        match &result {
            // Nobody knows now what the records will say. Who opens them next sees it, and collects by that.
            Ok(_) | Err(ImageError::State(_)) => {}
            // The error that matters is the first.
            Err(_) => drop(self.collect()),
        }
        result
    }

    fn load_under(
        &self,
        lease: &Lease,
        source: LoadSource,
        progress: &dyn Progress,
        platform: Option<&Platform>,
    ) -> Result<Vec<Loaded>> {
        let host = Platform::host();
        let origin = Origin::open(source, &self.store, progress)?;
        let plans = plan(&origin, platform.unwrap_or(&host))?;
        let load = |plan| {
            let loaded = self.load_image(lease, plan, progress)?;
            self.tell("load", &loaded.id, loaded.names.first().unwrap_or(&loaded.id));
            Ok(loaded)
        };
        plans.into_iter().map(load).collect()
    }

    pub(crate) fn load_image(&self, lease: &Lease, plan: ImagePlan, progress: &dyn Progress) -> Result<Loaded> {
        let label = plan.label();
        let bytes = plan.layers.iter().map(|l| l.source.length()).sum();
        progress.event(Event::Image { name: &label, layers: plan.layers.len(), bytes });
        let layers = self.load_layers(lease, &plan, progress)?;
        progress.event(Event::Assembling);
        let root = self.assemble(&label, &layers, lease)?;
        self.ingest(lease, &plan.config_digest, &plan.config)?;
        if let Some((digest, bytes)) = &plan.manifest {
            self.ingest(lease, digest, bytes)?;
        }
        let record = ImageRecord {
            id: plan.config_digest.to_string(),
            names: plan.names,
            digests: plan.digests,
            manifest_digest: plan.manifest.as_ref().map(|(digest, _)| digest.to_string()),
            layers: plan.layers.iter().zip(&layers).map(|(plan, files)| layer_record(plan, files)).collect(),
            platform: plan.platform.to_string(),
            created: plan.created,
            loaded_at: now(),
            size: layers.iter().map(|files| files.facts.unpacked_length).sum(),
            root,
        };
        self.state.put_image(&record)?;
        progress.event(Event::Done);
        Ok(Loaded { names: record.names, id: record.id })
    }

    /// Puts all layers into the store, several at once, begun from the bottom.
    fn load_layers(&self, lease: &Lease, plan: &ImagePlan, progress: &dyn Progress) -> Result<Vec<LayerFiles>> {
        let cancel = AtomicBool::new(false);
        let converter = Converter { store: &self.store, lease, options: &self.options, cancel: &cancel, progress };
        in_parallel(self.options.parallel_layers, &plan.layers, &cancel, |layer| load_layer(&converter, layer))
    }

    fn ingest(&self, lease: &Lease, digest: &store::Digest, mut bytes: &[u8]) -> Result<()> {
        let size = bytes.len() as u64;
        self.store.ingest_blob(lease, &mut bytes, Some(digest), Some(size))?;
        Ok(())
    }
}

fn load_layer(converter: &Converter<'_>, layer: &LayerPlan) -> Result<LayerFiles> {
    let (index, total) = (layer.index, layer.source.length());
    let digest = layer.blob.unwrap_or(layer.diff_id).to_string();
    converter.progress.event(Event::LayerStarted { index, digest: &digest, total });
    let (files, converted) = converter.layer(layer)?;
    converter.progress.event(Event::LayerDone { index, shared: !converted });
    Ok(files)
}

fn layer_record(plan: &LayerPlan, files: &LayerFiles) -> LayerRecord {
    LayerRecord {
        diff_id: files.diff_id.to_string(),
        blob_digest: plan.blob.map(|b| b.to_string()),
        blob_size: plan.blob.map(|_| plan.source.length()),
        media_type: plan.media_type.clone(),
        data_length: files.facts.data_length,
        packed_length: files.facts.packed_length,
    }
}

/// Now, in ns since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
