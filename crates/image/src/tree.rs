//! The files of an image, for those who do not mount it: its tree, and what is in it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use layer::{Changeset, Content, Limits, MergedTree, Place};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use state::ImageRecord;
use store::{LayerFiles, Lease, Object, StoreError};

use crate::root::{label, parse};
use crate::{ImageError, Images, Result};

/// The layers of an image, opened. They stay where they are as long as this is there.
#[derive(Debug)]
pub struct ImageTree {
    label: String,
    changesets: Vec<Changeset>,
    contents: Vec<LayerContents>,
    _lease: Lease,
}

/// Where the contents of one layer are.
#[derive(Debug)]
struct LayerContents {
    data: File,
    packed: File,
}

impl Images {
    /// Opens the layers of an image.
    ///
    /// # Errors
    ///
    /// [`ImageError::Damaged`] where a layer is not what it was.
    pub fn tree(&self, image: &ImageRecord) -> Result<ImageTree> {
        let diff_ids = image.layers.iter().map(|layer| parse(image, &layer.diff_id)).collect::<Result<Vec<_>>>()?;
        let objects: Vec<_> = diff_ids.iter().copied().map(Object::layer).collect();
        let lease = self.store.lease(&objects)?;
        let limits = Limits::default();
        let (mut changesets, mut contents) = (Vec::new(), Vec::new());
        for (diff_id, record) in diff_ids.iter().zip(&image.layers) {
            let layer = self.whole_layer(image, diff_id, record.data_length)?;
            changesets.push(self.changeset(&layer, &limits)?);
            contents.push(LayerContents::open(&layer)?);
        }
        Ok(ImageTree { label: label(image), changesets, contents, _lease: lease })
    }
}

impl LayerContents {
    fn open(layer: &LayerFiles) -> Result<Self> {
        let open = |path| File::open(path).map_err(|e| StoreError::io("open", path, e));
        Ok(Self { data: open(&layer.data)?, packed: open(&layer.packed)? })
    }

    /// The file that a content is in, and where.
    fn file(&self, content: &Content) -> (&File, u64) {
        match content.place {
            Place::Data { offset } => (&self.data, offset),
            Place::Packed { offset } => (&self.packed, offset),
        }
    }
}

impl ImageTree {
    /// The tree that the layers make.
    ///
    /// # Errors
    ///
    /// [`ImageError::Merge`].
    pub fn merged(&self) -> Result<MergedTree<'_>> {
        layer::merge(&self.changesets, &Limits::default())
            .map_err(|source| ImageError::Merge { image: self.label.clone(), source })
    }

    /// Fills `buffer` from byte `offset` of a content of a layer on, which must be within the content.
    ///
    /// # Errors
    ///
    /// Where that cannot be read.
    pub fn read_at(&self, layer: usize, content: &Content, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let layer = self.contents.get(layer).ok_or(io::ErrorKind::NotFound)?;
        let (file, start) = layer.file(content);
        file.read_exact_at(buffer, start + offset)
    }

    /// The ranges of a content that are not holes, ascending: what is between them is zeros.
    ///
    /// # Errors
    ///
    /// Where the file cannot be looked at.
    pub fn data(&self, layer: usize, content: &Content) -> io::Result<Vec<Range<u64>>> {
        let layer = self.contents.get(layer).ok_or(io::ErrorKind::NotFound)?;
        let (file, start) = layer.file(content);
        let end = start + content.size;
        let mut ranges = Vec::new();
        let mut at = start;
        while at < end {
            let from = match seek(file, SeekFrom::Data(at)) {
                Ok(from) if from < end => from,
                Ok(_) | Err(Errno::NXIO) => break,
                Err(errno) => return Err(errno.into()),
            };
            at = seek(file, SeekFrom::Hole(from))?.min(end);
            ranges.push(from - start..at - start);
        }
        Ok(ranges)
    }
}
