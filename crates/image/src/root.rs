//! The metadata image of an image, and the root device that it makes together with its layers' data.

use std::fs::File;
use std::path::PathBuf;

use erofs::{ErofsError, PackedFiles, Source};
use layer::{Changeset, Limits};
use state::{ImageRecord, RootRecord};
use store::{Digest, FileIngest, LayerFiles, Lease, Object, StoreError};

use crate::{ImageError, Images, Result};

/// What the guest sees as one read-only block device: the extents, one after the other.
#[derive(Debug)]
pub struct RootDevice {
    /// In device order: the metadata image, then the data of each layer that has any, bottom first.
    pub extents: Vec<RootExtent>,
    /// Keeps the files where they are. Must live as long as the device is used.
    pub lease: Lease,
}

/// A range of a file, in bytes. Offset and length are multiples of 4096. What lies beyond the end of the file reads as
/// zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootExtent {
    /// The file.
    pub path: PathBuf,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub length: u64,
}

impl Images {
    /// The root device of an image, and a lease on it. A metadata image that is gone or damaged is written again.
    ///
    /// # Errors
    ///
    /// [`ImageError::Damaged`] where a layer is not what it was.
    pub fn root_device(&self, image: &ImageRecord) -> Result<RootDevice> {
        let root_digest = parse(image, &image.root.digest)?;
        let diff_ids =
            image.layers.iter().map(|layer| parse(image, &layer.diff_id)).collect::<Result<Vec<Digest>>>()?;
        let mut objects: Vec<_> = diff_ids.iter().copied().map(Object::layer).collect();
        objects.push(Object::root(root_digest));
        let lease = self.store.lease(&objects)?;
        let mut layers = Vec::with_capacity(diff_ids.len());
        for (diff_id, record) in diff_ids.iter().zip(&image.layers) {
            layers.push(self.whole_layer(image, diff_id, record.data_length)?);
        }
        let path = self.store.path(&Object::root(root_digest));
        let root = if std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == image.root.length) {
            RootExtent { path, offset: 0, length: image.root.length }
        } else {
            self.rewrite_root(image, &root_digest, &layers, &lease)?
        };
        let data = layers.into_iter().filter(|l| l.facts.data_length > 0);
        let data = data.map(|l| RootExtent { path: l.data, offset: 0, length: l.facts.data_length });
        Ok(RootDevice { extents: std::iter::once(root).chain(data).collect(), lease })
    }

    pub(crate) fn whole_layer(&self, image: &ImageRecord, diff_id: &Digest, data_length: u64) -> Result<LayerFiles> {
        let damaged = |problem: String| ImageError::Damaged { image: label(image), problem };
        match self.store.layer(diff_id) {
            Ok(Some(layer)) if layer.facts.data_length == data_length => Ok(layer),
            Ok(Some(layer)) => {
                let found = layer.facts.data_length;
                Err(damaged(format!("the data of layer {diff_id} should be {data_length} bytes long and is {found}")))
            }
            // What was removed before it was leased is no damage.
            Ok(None) if self.state.image(&image.id)?.is_none() => Err(ImageError::NoSuchImage { name: label(image) }),
            Ok(None) => Err(damaged(format!("layer {diff_id} is missing"))),
            Err(e @ StoreError::Damaged { .. }) => Err(damaged(e.to_string())),
            Err(e) => Err(e.into()),
        }
    }

    /// Everything that the metadata image is made from is in the layers.
    fn rewrite_root(
        &self,
        image: &ImageRecord,
        recorded: &Digest,
        layers: &[LayerFiles],
        lease: &Lease,
    ) -> Result<RootExtent> {
        self.store.discard(&Object::root(*recorded))?;
        let root = self.assemble(&label(image), layers, lease)?;
        let digest = parse(image, &root.digest)?;
        if root != image.root {
            // Another version of the format than when it was loaded.
            self.state.set_root(&image.id, &root)?;
        }
        Ok(RootExtent { path: self.store.path(&Object::root(digest)), offset: 0, length: root.length })
    }

    /// Makes the metadata image for layers, bottom first, unless the store has it.
    pub(crate) fn assemble(&self, image: &str, layers: &[LayerFiles], lease: &Lease) -> Result<RootRecord> {
        let digest = root_digest(layers);
        let object = Object::root(digest);
        lease.add(&[object])?;
        let path = self.store.path(&object);
        if let Ok(found) = std::fs::metadata(&path)
            && found.len() > 0
            && found.len().is_multiple_of(erofs::BLOCK)
        {
            return Ok(RootRecord { digest: digest.to_string(), length: found.len() });
        }
        self.store.discard(&object)?;
        let (ingest, length) = self.write_root(image, layers)?;
        ingest.publish(lease, &object)?;
        Ok(RootRecord { digest: digest.to_string(), length })
    }

    /// Writes the metadata image for layers, bottom first, without publishing it; and its length.
    pub(crate) fn write_root(&self, image: &str, layers: &[LayerFiles]) -> Result<(FileIngest, u64)> {
        let limits = Limits::default();
        let changesets = layers.iter().map(|layer| self.changeset(layer, &limits)).collect::<Result<Vec<_>>>()?;
        let tree = layer::merge(&changesets, &limits)
            .map_err(|source| ImageError::Merge { image: image.to_owned(), source })?;
        let blocks: Vec<_> = layers.iter().map(|l| l.facts.data_length / erofs::BLOCK).collect();
        let packed = PackedFiles::new(layers.iter().map(open_packed).collect::<Result<_>>()?);
        let name = root_digest(layers).to_string();
        let source = Source { tree: &tree, layer_data_blocks: &blocks, packed: &packed, name: name.as_bytes() };
        let ingest = self.store.ingest_file()?;
        let written = erofs::write_metadata(&source, &mut ingest.file()).map_err(|source| match source {
            ErofsError::Write(source) => StoreError::io("write", ingest.shown(), source).into(),
            source => ImageError::Metadata { image: image.to_owned(), source },
        })?;
        Ok((ingest, written.blocks * erofs::BLOCK))
    }

    pub(crate) fn changeset(&self, layer: &LayerFiles, limits: &Limits) -> Result<Changeset> {
        let bytes = self.store.read_tree(layer)?;
        let changeset =
            Changeset::decode(bytes, limits).map_err(|source| ImageError::Tree { diff_id: layer.diff_id, source })?;
        let lengths = (changeset.data_bytes(), changeset.packed_bytes());
        if lengths != (layer.facts.data_length, layer.facts.packed_length) {
            return Err(ImageError::Damaged {
                image: format!("with layer {}", layer.diff_id),
                problem: "the layer's tree and contents do not belong together".into(),
            });
        }
        Ok(changeset)
    }
}

/// A layer's packed contents, and their length in bytes.
fn open_packed(layer: &LayerFiles) -> Result<(File, u64)> {
    let file = File::open(&layer.packed).map_err(|e| StoreError::io("open", &layer.packed, e))?;
    Ok((file, layer.facts.packed_length))
}

/// Names a metadata image by all that it depends on.
pub(crate) fn root_digest(layers: &[LayerFiles]) -> Digest {
    let mut text = format!("coracle root\nchangeset {}\nerofs {}\n", layer::FORMAT_VERSION, erofs::FORMAT_VERSION);
    for layer in layers {
        text.push_str(&layer.diff_id.to_string());
        text.push('\n');
    }
    Digest::of(text.as_bytes())
}

/// What people call an image that has a record.
pub(crate) fn label(image: &ImageRecord) -> String {
    image.names.first().map_or_else(|| image.id.clone(), |name| crate::familiar(name).to_owned())
}

/// Digests in records were written by us, but a record is a file.
pub(crate) fn parse(image: &ImageRecord, text: &str) -> Result<Digest> {
    text.parse().map_err(|e: store::DigestError| ImageError::Damaged { image: label(image), problem: e.to_string() })
}
