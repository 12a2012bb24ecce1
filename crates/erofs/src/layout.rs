//! Where everything goes: two passes over the tree, before a byte is written.
//!
//! ```text
//!  0    1024   1152                                     s                d                          m blocks
//!  │ –  │ sb   │ inodes, each with its attributes and    │ shared         │ directory blocks and     │
//!                its inline data                           attributes       long link targets
//! ```
//!
//! The first pass finds what inodes have in common: attributes that are worth sharing, and the time that goes into
//! the superblock. The second gives every inode its place, in the order of their numbers but for holes that are filled
//! ([`Places`]). The children of a directory have neighbouring numbers, so what `ls -l` needs lies together.

use std::io;

use layer::{InodeId, Kind, MergedInode, MergedTree, Place, Timestamp};

use crate::directory;
use crate::erofs_format::{BLOCK, BLOCK_USIZE, COMPACT_INODE_LEN, INODE_LEN, SLOT};
use crate::mtime::Frequent;
use crate::places::Places;
use crate::xattr::{self, Count, Shared};

/// Why a tree cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// The destination failed.
    #[error("cannot write the metadata image")]
    Write(#[from] io::Error),
    /// The packed content of a file cannot be read.
    #[error("cannot read the content of inode {inode} from the packed contents of layer {layer}")]
    Packed {
        /// Number of the inode in the merged tree.
        inode: u32,
        /// The layer, counted from 0.
        layer: usize,
        /// Why.
        source: io::Error,
    },
    /// A file's content is not where its changeset says, for instance because index and data file do not belong
    /// together.
    #[error("the content of inode {inode} lies outside the data of layer {layer}")]
    Content {
        /// Number of the inode in the merged tree.
        inode: u32,
        /// The layer, counted from 0.
        layer: usize,
    },
    /// More than 2³² blocks.
    #[error("the image's device would have more than 2³² blocks")]
    TooLarge,
    /// Attributes that no inode can carry.
    #[error("inode {inode} has too many extended attributes")]
    Xattrs {
        /// Number of the inode in the merged tree.
        inode: u32,
    },
}

/// What an inode takes in the metadata image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// 32 bytes instead of 64.
    pub(crate) compact: bool,
    /// Bytes of attributes beside the inode.
    pub(crate) xattr_size: usize,
    /// Size of the data, as the inode states it.
    pub(crate) size: u64,
    /// Bytes of data that follow the inode and its attributes: the end of it, beyond the last full block.
    pub(crate) inline: usize,
    /// Blocks of data elsewhere in the metadata image.
    pub(crate) blocks: u64,
}

impl Shape {
    /// Bytes of inode and attributes.
    fn head(&self) -> usize {
        self.xattr_size + if self.compact { COMPACT_INODE_LEN } else { INODE_LEN }
    }

    /// Bytes of inode, attributes and inline data.
    pub(crate) fn len(&self) -> usize {
        self.head() + self.inline
    }
}

/// Places of all inodes, and what they have in common.
#[derive(Debug)]
pub(crate) struct Layout<'a> {
    nids: Vec<u32>,
    /// Inodes with data that are neither inline nor a layer's.
    pub(crate) with_blocks: Vec<InodeId>,
    /// The time of all compact inodes.
    pub(crate) time: Timestamp,
    pub(crate) shared: Shared<'a>,
    /// First block of the shared attributes.
    pub(crate) shared_block: u64,
    /// First block of directories and link targets.
    pub(crate) data_block: u64,
    /// Length of the metadata.
    pub(crate) blocks: u32,
    /// Length of the whole device.
    pub(crate) device_blocks: u32,
    /// First block of each layer's data and their number.
    layers: Vec<(u64, u64)>,
}

impl<'a> Layout<'a> {
    pub(crate) fn new(tree: &MergedTree<'a>, layer_data_blocks: &[u64]) -> Result<Self, ErofsError> {
        let (time, shared) = in_common(tree);
        let nids = Vec::with_capacity(tree.len());
        let mut layout = Self {
            nids,
            with_blocks: Vec::new(),
            time,
            shared,
            shared_block: 0,
            data_block: 0,
            blocks: 0,
            device_blocks: 0,
            layers: Vec::with_capacity(layer_data_blocks.len()),
        };
        let mut places = Places::new();
        let mut data_blocks = 0;
        for (id, inode) in tree.inodes() {
            let shape = layout.shape(tree, id, &inode)?;
            let nid = places.take(shape.len()) / SLOT;
            layout.nids.push(u32::try_from(nid).map_err(|_| ErofsError::TooLarge)?);
            if shape.blocks > 0 {
                layout.with_blocks.push(id);
                data_blocks += shape.blocks;
            }
        }
        layout.shared_block = places.blocks;
        layout.data_block = places.blocks + layout.shared.size.div_ceil(BLOCK);
        layout.blocks = block_number(layout.data_block + data_blocks)?;
        let mut start = u64::from(layout.blocks);
        for &blocks in layer_data_blocks {
            layout.layers.push((start, blocks));
            start = start.checked_add(blocks).ok_or(ErofsError::TooLarge)?;
        }
        layout.device_blocks = block_number(start)?;
        Ok(layout)
    }

    /// Where an inode is, in units of [`SLOT`].
    pub(crate) fn nid(&self, id: InodeId) -> u64 {
        self.nids[id.index()].into()
    }

    /// What an inode takes. The same each time it is asked for.
    pub(crate) fn shape(
        &self,
        tree: &MergedTree<'a>,
        id: InodeId,
        merged: &MergedInode<'a>,
    ) -> Result<Shape, ErofsError> {
        let inode = &merged.inode;
        let xattr_size = self.shared.size_beside(inode.xattrs);
        xattr::count_field(xattr_size).ok_or(ErofsError::Xattrs { inode: id.get() })?;
        let (size, here) = match inode.kind {
            Kind::Directory => (directory::size(tree, id), true),
            Kind::Symlink(target) => (target.len() as u64, true),
            Kind::File(content) => (content.size, matches!(content.place, Place::Packed { .. })),
            Kind::CharDevice(_) | Kind::BlockDevice(_) | Kind::Fifo => (0, false),
        };
        let compact = inode.mtime == self.time && can_be_compact(merged) && u32::try_from(size).is_ok();
        let mut shape = Shape { compact, xattr_size, size, inline: 0, blocks: 0 };
        if here {
            let tail = usize::try_from(size % BLOCK).unwrap_or(0);
            // Inline data must lie in one block, so the inode does as well.
            shape.inline = if shape.head() + tail <= BLOCK_USIZE { tail } else { 0 };
            shape.blocks = (size - shape.inline as u64).div_ceil(BLOCK);
        }
        Ok(shape)
    }

    /// First block of a file's content among a layer's data.
    pub(crate) fn block_of(&self, id: InodeId, merged: &MergedInode<'_>) -> Result<u32, ErofsError> {
        let Kind::File(content) = merged.inode.kind else { return Ok(0) };
        let Place::Data { offset } = content.place else { return Ok(0) };
        if content.size == 0 {
            return Ok(0);
        }
        let outside = ErofsError::Content { inode: id.get(), layer: merged.layer };
        let Some(&(start, blocks)) = self.layers.get(merged.layer) else { return Err(outside) };
        let first = offset / BLOCK;
        match first.checked_add(content.size.div_ceil(BLOCK)) {
            Some(end) if end <= blocks && offset.is_multiple_of(BLOCK) => block_number(start + first),
            _ => Err(outside),
        }
    }
}

/// The time and the attributes that are worth stating once.
fn in_common<'a>(tree: &MergedTree<'a>) -> (Timestamp, Shared<'a>) {
    let mut times = Frequent::default();
    let mut attributes = Count::default();
    for (_, merged) in tree.inodes() {
        attributes.add(merged.inode.xattrs);
        if can_be_compact(&merged) {
            times.add(merged.inode.mtime);
        }
    }
    (times.most(), attributes.share())
}

/// Whether a compact inode can hold owner and links.
fn can_be_compact(merged: &MergedInode<'_>) -> bool {
    [merged.inode.uid, merged.inode.gid, merged.links].into_iter().all(|field| u16::try_from(field).is_ok())
}

/// A block number; the highest one means "hole" to EROFS.
pub(crate) fn block_number(block: u64) -> Result<u32, ErofsError> {
    u32::try_from(block).ok().filter(|&block| block != u32::MAX).ok_or(ErofsError::TooLarge)
}
