//! Where everything goes: the first of two passes over the tree.
//!
//! ```text
//!  0    1024   1152                                     m blocks
//!  │ –  │ sb   │ inodes, each with its attributes and    │ directory blocks and long link targets │
//!                its inline data, in order of their numbers
//! ```
//!
//! The children of a directory have neighbouring numbers, so what `ls -l` needs lies together.

use std::io;

use layer::{InodeId, Kind, MergedInode, MergedTree};

use crate::erofs_format::{BLOCK, BLOCK_USIZE, INODE_LEN, SLOT, SUPERBLOCK_LEN, SUPERBLOCK_OFFSET};
use crate::{directory, xattr};

/// Data up to this length is kept beside its inode. Longer tails would tear holes into the inode area that cost more
/// than the block that they save.
const INLINE_MAX: usize = BLOCK_USIZE / 2;

/// Why a tree cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// The destination failed.
    #[error("cannot write the metadata image")]
    Write(#[from] io::Error),
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

/// Where an inode and its data are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Byte offset of the inode.
    pub(crate) offset: u64,
    pub(crate) xattr_size: usize,
    /// Size of the data, as the inode states it.
    pub(crate) size: u64,
    /// First block of the data, or of its full blocks.
    pub(crate) block: u32,
    /// The last, partial block follows the inode.
    pub(crate) inline: bool,
}

impl Place {
    pub(crate) fn nid(&self) -> u64 {
        self.offset / SLOT
    }

    /// Byte offset of the inline data.
    pub(crate) fn inline_offset(&self) -> u64 {
        self.offset + (INODE_LEN + self.xattr_size) as u64
    }
}

/// Places of all inodes, by number.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) places: Vec<Place>,
    /// Length of the metadata.
    pub(crate) blocks: u32,
    /// Length of the whole device.
    pub(crate) device_blocks: u32,
}

/// What data an inode has in the metadata image: full blocks and a tail.
struct Data {
    full_blocks: u64,
    tail: usize,
}

impl Layout {
    pub(crate) fn new(tree: &MergedTree<'_>, layer_data_blocks: &[u64]) -> Result<Self, ErofsError> {
        let mut places = Vec::with_capacity(tree.len());
        let mut offset = (SUPERBLOCK_OFFSET + SUPERBLOCK_LEN) as u64;
        let mut data_blocks = 0;
        for (id, inode) in tree.inodes() {
            let mut place = place_inode(tree, id, &inode, offset)?;
            offset = place.inline_offset() + if place.inline { place.size % BLOCK } else { 0 };
            let blocks = match inode.inode.kind {
                Kind::Directory | Kind::Symlink(_) if place.inline => place.size / BLOCK,
                Kind::Directory | Kind::Symlink(_) => place.size.div_ceil(BLOCK),
                _ => 0,
            };
            // For now relative to the end of the inodes.
            place.block = block_number(data_blocks)?;
            data_blocks += blocks;
            places.push(place);
        }
        let inode_blocks = offset.div_ceil(BLOCK);
        let blocks = block_number(inode_blocks + data_blocks)?;
        let starts = Starts::new(blocks, layer_data_blocks)?;
        for ((id, inode), place) in tree.inodes().zip(&mut places) {
            place.block = match inode.inode.kind {
                Kind::Directory | Kind::Symlink(_) => block_number(u64::from(place.block) + inode_blocks)?,
                Kind::File(_) => starts.block_of(id, &inode)?,
                _ => 0,
            };
        }
        Ok(Self { places, blocks, device_blocks: starts.end })
    }
}

/// Puts an inode at the first suitable offset.
fn place_inode(tree: &MergedTree<'_>, id: InodeId, inode: &MergedInode<'_>, offset: u64) -> Result<Place, ErofsError> {
    let xattr_size = xattr::size(inode.inode.xattrs);
    xattr::count_field(xattr_size).ok_or(ErofsError::Xattrs { inode: id.get() })?;
    let data = match inode.inode.kind {
        Kind::Directory => {
            let directory::Size { full_blocks, tail } = directory::size(tree, id);
            Data { full_blocks, tail }
        }
        Kind::Symlink(target) => Data { full_blocks: 0, tail: target.len() },
        _ => Data { full_blocks: 0, tail: 0 },
    };
    let head = INODE_LEN + xattr_size;
    let inline = (1..=INLINE_MAX).contains(&data.tail) && head + data.tail <= BLOCK_USIZE;
    // An inode lies within one block, and with it what is inline; attributes alone may cross.
    let together = if inline { head + data.tail } else { INODE_LEN };
    let offset = offset.next_multiple_of(SLOT);
    let fits = offset % BLOCK + together as u64 <= BLOCK;
    let offset = if fits { offset } else { offset.next_multiple_of(BLOCK) };
    let size = match inode.inode.kind {
        Kind::File(content) => content.size,
        _ => data.full_blocks * BLOCK + data.tail as u64,
    };
    Ok(Place { offset, xattr_size, size, block: 0, inline })
}

/// First blocks of the layers' data on the device.
struct Starts {
    layers: Vec<(u64, u64)>,
    end: u32,
}

impl Starts {
    fn new(metadata_blocks: u32, layer_data_blocks: &[u64]) -> Result<Self, ErofsError> {
        let mut start = u64::from(metadata_blocks);
        let mut layers = Vec::with_capacity(layer_data_blocks.len());
        for &blocks in layer_data_blocks {
            layers.push((start, blocks));
            start = start.checked_add(blocks).ok_or(ErofsError::TooLarge)?;
        }
        Ok(Self { layers, end: block_number(start)? })
    }

    fn block_of(&self, id: InodeId, inode: &MergedInode<'_>) -> Result<u32, ErofsError> {
        let Kind::File(content) = inode.inode.kind else { return Ok(0) };
        if content.size == 0 {
            return Ok(0);
        }
        let outside = ErofsError::Content { inode: id.get(), layer: inode.layer };
        let Some(&(start, blocks)) = self.layers.get(inode.layer) else { return Err(outside) };
        let layer::Place::Data { offset } = content.place else { return Err(outside) };
        let first = offset / BLOCK;
        match first.checked_add(content.size.div_ceil(BLOCK)) {
            Some(end) if end <= blocks && offset.is_multiple_of(BLOCK) => block_number(start + first),
            _ => Err(outside),
        }
    }
}

/// A block number; the highest one means "hole" to EROFS.
fn block_number(block: u64) -> Result<u32, ErofsError> {
    u32::try_from(block).ok().filter(|&block| block != u32::MAX).ok_or(ErofsError::TooLarge)
}
