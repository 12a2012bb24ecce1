//! Directories: a list of entries in each block. The index of large ones is not used: its blocks look like empty ones.
//!
//! Linux `Documentation/filesystems/ext4/directory.rst`.
//!
//! ```text
//! entry   inode, length of the entry, length of the name, type, name       8 bytes and the name, in fours
//! tail    an entry of 12 bytes of inode 0 and type 0xDE: CRC-32C of the block before it
//! index   entries `.` and `..` or one that is empty, then pairs of hash and block, then a tail
//! ```

use crate::blocks::{Blocks, ReadAt};
use crate::bytes::{u16_at, u32_at};
use crate::checksum::crc32c;
use crate::error::{Ext4Error, Place};
use crate::inode::{Inode, flags};
use crate::map;
use crate::superblock::{Checksums, Superblock};

type Result<T> = std::result::Result<T, Ext4Error>;

const TAIL: usize = 12;
const TAIL_TYPE: u8 = 0xDE;

/// Most bytes of one directory, which is read whole: names of a million files are some 30 MiB.
const MAX_SIZE: u64 = 1 << 30;

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// One to 255 bytes, none of them `/` or NUL; never `.` or `..`.
    pub name: Vec<u8>,
    /// The inode that has the name.
    pub inode: u32,
}

/// The entries of a directory, sorted by name.
pub(crate) fn read<S: ReadAt>(superblock: &Superblock, blocks: &Blocks<S>, inode: &Inode) -> Result<Vec<DirEntry>> {
    let place = Place::Directory(inode.number);
    let size = u64::from(blocks.size);
    place.check(inode.is_dir(), "it is none")?;
    place.check(
        inode.size > 0 && inode.size.is_multiple_of(size) && inode.size <= MAX_SIZE,
        "its size is none that it can have",
    )?;
    let reader = Reader { superblock, inode, place };
    let mut entries = Vec::new();
    let mut next = 0;
    for run in map::runs(superblock, blocks, inode)? {
        place.check(run.logical == next, "it has a hole")?;
        next = run.logical + run.length;
        for index in 0..run.length {
            let block = blocks.block(run.physical + index)?;
            reader.block(&block, run.logical + index == 0, &mut entries)?;
        }
    }
    place.check(next == inode.size / size, "it has a hole")?;
    entries.sort_unstable();
    place.check(entries.windows(2).all(|pair| pair[0].name != pair[1].name), "it has a name twice")?;
    Ok(entries)
}

struct Reader<'a> {
    superblock: &'a Superblock,
    inode: &'a Inode,
    place: Place,
}

impl Reader<'_> {
    fn block(&self, block: &[u8], is_first: bool, entries: &mut Vec<DirEntry>) -> Result<()> {
        if self.superblock.checksums == Checksums::All {
            self.place.check(self.sum_is_right(block, is_first), "the checksum of a block is wrong")?;
        }
        let mut rest = block;
        while !rest.is_empty() {
            let length = self.length(u16_at(rest, 4), block.len());
            let name_length = self.name_length(rest);
            let fits = length >= 8 + name_length.next_multiple_of(4).max(4)
                && length.is_multiple_of(4)
                && length <= rest.len();
            // The last entry of a block may end in less than the shortest entry has; nothing is in use there.
            let is_unused = u32_at(rest, 0) == 0 && length >= 8 && length.is_multiple_of(4) && length <= rest.len();
            self.place.check(fits || is_unused, "an entry has no length that it can have")?;
            let (entry, after) = rest.split_at(length);
            if u32_at(entry, 0) != 0 {
                entries.extend(self.entry(entry, name_length)?);
            }
            rest = after;
        }
        Ok(())
    }

    /// The lengths that 16 bits cannot hold, with blocks of 64 KiB, are coded in the two lowest bits.
    fn length(&self, stated: u16, block: usize) -> usize {
        match usize::from(stated) {
            0 | 0xFFFF if block > 0xFFFF => block,
            stated if block > 0xFFFF => stated & 0xFFFC | (stated & 3) << 16,
            stated => stated,
        }
    }

    fn name_length(&self, entry: &[u8]) -> usize {
        if self.superblock.has_file_types {
            entry.get(6).copied().map_or(0, usize::from)
        } else {
            u16_at(entry, 6).into()
        }
    }

    /// An entry that is in use, unless it is one of the two that all directories have.
    fn entry(&self, entry: &[u8], length: usize) -> Result<Option<DirEntry>> {
        let inode = u32_at(entry, 0);
        let name = entry.get(8..8 + length).unwrap_or_default();
        match name {
            b"." => self.place.check(inode == self.inode.number, "its `.` is another").map(|()| None),
            b".." => Ok(None),
            name => {
                let is_name = (1..=255).contains(&name.len()) && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
                self.place.check(is_name, "it has a name that is none")?;
                let is_usable = (self.superblock.first_inode..=self.superblock.inodes).contains(&inode);
                self.place.check(is_usable, "it names an inode that no file can have")?;
                Ok(Some(DirEntry { name: name.to_vec(), inode }))
            }
        }
    }

    fn sum_is_right(&self, block: &[u8], is_first: bool) -> bool {
        let is_one_entry = self.length(u16_at(block, 4), block.len()) == block.len();
        let is_indexed = self.inode.flags & flags::INDEXED != 0;
        if is_indexed && (is_first || is_one_entry) && self.index_sum_is_right(block).unwrap_or(false) {
            return true;
        }
        // A directory that shrank to one block, or lost its index, has the flag without one.
        let Some((covered, tail)) = block.split_at_checked(block.len() - TAIL) else { return false };
        let is_tail = u32_at(tail, 0) == 0 && u16_at(tail, 4) == 12 && tail[6] == 0 && tail[7] == TAIL_TYPE;
        is_tail && u32_at(tail, 8) == crc32c(self.inode.seed, covered)
    }

    /// `None` where the block is no block of an index.
    fn index_sum_is_right(&self, block: &[u8]) -> Option<bool> {
        let is_node = self.length(u16_at(block, 4), block.len()) == block.len();
        let first = if is_node { 8 } else { 0x20 };
        if !is_node && (u16_at(block, 4) != 12 || u32_at(block, 0x18) != 0 || *block.get(0x1D)? != 8) {
            return None;
        }
        let (limit, count) = (usize::from(u16_at(block, first)), usize::from(u16_at(block, first + 2)));
        let tail = block.get(first + limit * 8..first + limit * 8 + 8)?;
        let covered = block.get(..first + count * 8).filter(|_| count <= limit)?;
        let sum = crc32c(crc32c(crc32c(self.inode.seed, covered), &tail[..4]), &[0; 4]);
        Some(u32_at(tail, 4) == sum)
    }
}
