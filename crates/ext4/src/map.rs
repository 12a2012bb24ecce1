//! From an inode's content to blocks: extent trees, and the block maps of ext2 and ext3.
//!
//! Linux `Documentation/filesystems/ext4/ifork.rst`.
//!
//! Both are walked from left to right, by [`extents`](crate::extents) and [`indirect`](crate::indirect), into a list
//! of [`Run`]s. That the walk ends follows from what is checked: logical blocks only ever ascend, no block of the map
//! is used twice, and no more blocks are mapped than the disk has.

use std::collections::HashSet;

use crate::blocks::{Blocks, ReadAt};
use crate::error::{Ext4Error, Place};
use crate::extents;
use crate::indirect;
use crate::inode::{Inode, flags};
use crate::superblock::Superblock;

type Result<T> = std::result::Result<T, Ext4Error>;

/// Blocks of content that lie one behind the other on the disk. What no run covers is zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first block within the content.
    pub(crate) logical: u64,
    /// The first block on the disk.
    pub(crate) physical: u64,
    /// How many.
    pub(crate) length: u64,
}

/// A map while it is read.
pub(crate) struct Mapping<'a, S> {
    pub(crate) superblock: &'a Superblock,
    pub(crate) blocks: &'a Blocks<S>,
    pub(crate) inode: &'a Inode,
    /// Blocks of the content, the last one perhaps in part.
    pub(crate) end: u64,
    runs: Vec<Run>,
    mapped: u64,
    nodes: HashSet<u64>,
}

/// Most runs of one content: 24 bytes of memory each. Larger files are in pieces of 128 MiB, or of what their writer
/// was given; this is for 64 GiB of single blocks of 4 KiB.
const MAX_RUNS: usize = 16 << 20;

/// The blocks of an inode's content, ascending.
pub(crate) fn runs<S: ReadAt>(superblock: &Superblock, blocks: &Blocks<S>, inode: &Inode) -> Result<Vec<Run>> {
    let size = u64::from(blocks.size);
    let end = inode.size.div_ceil(size);
    let place = Place::Map(inode.number);
    // Logical blocks have 32 bits; so has the classic map fewer.
    place.check(end <= 1 << 32, "the content is larger than a file can be")?;
    let mut mapping = Mapping { superblock, blocks, inode, end, runs: Vec::new(), mapped: 0, nodes: HashSet::new() };
    if inode.flags & flags::EXTENTS != 0 {
        extents::walk(&mut mapping)?;
    } else {
        indirect::walk(&mut mapping)?;
    }
    blocks.charge(mapping.mapped.saturating_add(mapping.nodes.len() as u64))?;
    Ok(mapping.runs)
}

impl<S: ReadAt> Mapping<'_, S> {
    pub(crate) fn place(&self) -> Place {
        Place::Map(self.inode.number)
    }

    pub(crate) fn check(&self, holds: bool, problem: &'static str) -> Result<()> {
        self.place().check(holds, problem)
    }

    /// A block of the map itself, which none is twice.
    pub(crate) fn node(&mut self, block: u64) -> Result<Vec<u8>> {
        self.check(self.superblock.has_blocks(block, 1), "a block of the map is not on the disk")?;
        let is_new = self.nodes.insert(block);
        self.check(is_new, "a block of the map is used twice")?;
        self.blocks.block(block)
    }

    /// Adds a run behind the others, without what is beyond the content's end.
    pub(crate) fn push(&mut self, run: Run) -> Result<()> {
        self.check(self.superblock.has_blocks(run.physical, run.length), "it maps blocks that are not on the disk")?;
        let length = run.length.min(self.end.saturating_sub(run.logical));
        self.mapped = self.mapped.saturating_add(length);
        self.check(self.mapped <= self.superblock.blocks, "it maps more blocks than there are")?;
        match self.runs.last_mut() {
            _ if length == 0 => {}
            Some(last) if last.logical + last.length == run.logical && last.physical + last.length == run.physical => {
                last.length += length;
            }
            _ => {
                self.check(self.runs.len() < MAX_RUNS, "the content is in too many pieces")?;
                self.runs.push(Run { length, ..run });
            }
        }
        Ok(())
    }
}
