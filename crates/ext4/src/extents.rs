//! Extent trees.
//!
//! ```text
//! header   magic 0xF30A, entries, capacity, depth       12 bytes; the root is in the inode
//! index    first logical block, block of the node       12 bytes each, where the depth is not 0
//! extent   first logical block, length, first block     12 bytes each; unwritten where the length is above 32,768
//! tail     CRC-32C of the node                          4 bytes behind the capacity, not in the root
//! ```

use crate::blocks::ReadAt;
use crate::bytes::{u16_at, u32_at, wide};
use crate::checksum::crc32c;
use crate::error::Ext4Error;
use crate::map::{Mapping, Run};
use crate::superblock::Checksums;

type Result<T> = std::result::Result<T, Ext4Error>;

const MAGIC: u16 = 0xF30A;
const ENTRY: usize = 12;
/// As the kernel has it: with five levels of nodes of 1 KiB every block of a file can be mapped alone.
const MAX_DEPTH: u16 = 5;
const MAX_WRITTEN: u16 = 32_768;

/// A node on the way from the root to the leaf that is being read.
struct Node {
    bytes: Vec<u8>,
    depth: u16,
    entries: u16,
    next: u16,
    /// Where the logical blocks end that are the node's.
    end: u64,
}

impl Node {
    fn entry(&self, index: u16) -> &[u8] {
        let at = ENTRY * (usize::from(index) + 1);
        self.bytes.get(at..at + ENTRY).unwrap_or_default()
    }

    fn first_block(&self, index: u16) -> u64 {
        u32_at(self.entry(index), 0).into()
    }
}

pub(crate) fn walk<S: ReadAt>(mapping: &mut Mapping<'_, S>) -> Result<()> {
    let root = mapping.inode.map.to_vec();
    let root = parse(mapping, root, None, 1 << 32)?;
    // The first logical block that the next extent may have.
    let mut at = 0;
    let mut way = vec![root];
    while let Some(node) = way.last_mut() {
        if node.next == node.entries {
            way.pop();
            continue;
        }
        let index = node.next;
        node.next += 1;
        let first = node.first_block(index);
        mapping.check(first >= at && first < node.end, "its extents are not in order")?;
        if node.depth == 0 {
            at = leaf(mapping, node, index, first)?;
            continue;
        }
        at = first;
        let end = if node.next < node.entries { node.first_block(node.next) } else { node.end };
        mapping.check(end > first, "its extents are not in order")?;
        let (child, depth, end) = (child(node.entry(index)), node.depth - 1, end.min(node.end));
        let bytes = mapping.node(child)?;
        let child = parse(mapping, bytes, Some(depth), end)?;
        mapping.check(child.entries > 0 && child.first_block(0) == first, "a node is not what leads to it says")?;
        way.push(child);
    }
    Ok(())
}

/// Takes an extent and returns where it ends.
fn leaf<S: ReadAt>(mapping: &mut Mapping<'_, S>, node: &Node, index: u16, first: u64) -> Result<u64> {
    let entry = node.entry(index);
    let stated = u16_at(entry, 4);
    let (length, is_written) = if stated > MAX_WRITTEN { (stated - MAX_WRITTEN, false) } else { (stated, true) };
    let end = first + u64::from(length);
    mapping.check(length > 0 && end <= node.end, "an extent is empty or too long")?;
    let physical = wide(u16_at(entry, 6).into(), u32_at(entry, 8));
    if is_written {
        mapping.push(Run { logical: first, physical, length: length.into() })?;
    }
    Ok(end)
}

/// The block that an index leads to.
fn child(entry: &[u8]) -> u64 {
    wide(u16_at(entry, 8).into(), u32_at(entry, 4))
}

/// Checks a node; `depth` is what the node above it says, `None` for the root.
fn parse<S: ReadAt>(mapping: &Mapping<'_, S>, bytes: Vec<u8>, depth: Option<u16>, end: u64) -> Result<Node> {
    let check = |holds, problem| mapping.check(holds, problem);
    check(u16_at(&bytes, 0) == MAGIC, "a node is none")?;
    let (entries, capacity, found) = (u16_at(&bytes, 2), u16_at(&bytes, 4), u16_at(&bytes, 6));
    check(found <= MAX_DEPTH && depth.is_none_or(|depth| depth == found), "a node has another depth than it must")?;
    let tail = ENTRY * (usize::from(capacity) + 1);
    check(entries <= capacity && tail <= bytes.len(), "a node has more entries than it can")?;
    if depth.is_some() && mapping.superblock.checksums == Checksums::All {
        let covered = bytes.get(..tail).unwrap_or_default();
        let is_right = bytes.len() >= tail + 4 && u32_at(&bytes, tail) == crc32c(mapping.inode.seed, covered);
        check(is_right, "the checksum of a node is wrong")?;
    }
    Ok(Node { bytes, depth: found, entries, next: 0, end })
}
