//! The block maps of ext2 and ext3: 12 pointers to blocks, then one each to a block of pointers to blocks, of pointers
//! to such, and of pointers to those. A pointer that is zero is a hole. They have no checksums.

use crate::blocks::ReadAt;
use crate::bytes::u32_at;
use crate::error::Ext4Error;
use crate::map::{Mapping, Run};

type Result<T> = std::result::Result<T, Ext4Error>;

const DIRECT: usize = 12;

/// A block of pointers on the way to those that are being read.
struct Node {
    bytes: Vec<u8>,
    next: usize,
    /// What its pointers lead to: 0 for content.
    level: u32,
}

pub(crate) fn walk<S: ReadAt>(mapping: &mut Mapping<'_, S>) -> Result<()> {
    let per_node = u64::from(mapping.blocks.size) / 4;
    let map = mapping.inode.map;
    let mut at = 0;
    for (index, level) in (0..DIRECT).map(|index| (index, 0)).chain([(12, 1), (13, 2), (14, 3)]) {
        // A symbolic link or a device has no map; what is beyond the content's end is not looked at.
        if at >= mapping.end {
            break;
        }
        let pointer = u64::from(u32_at(&map, index * 4));
        subtree(mapping, pointer, level, per_node, &mut at)?;
    }
    mapping.check(at >= mapping.end, "the content is larger than its map can be")
}

/// Everything that a pointer leads to.
fn subtree<S: ReadAt>(
    mapping: &mut Mapping<'_, S>,
    pointer: u64,
    level: u32,
    per_node: u64,
    at: &mut u64,
) -> Result<()> {
    let mut way: Vec<Node> = Vec::new();
    let mut current = Some((pointer, level));
    loop {
        match current.take() {
            Some((0, level)) => *at = at.saturating_add(per_node.pow(level)),
            Some((pointer, 0)) => {
                mapping.push(Run { logical: *at, physical: pointer, length: 1 })?;
                *at += 1;
            }
            Some((pointer, level)) => {
                let bytes = mapping.node(pointer)?;
                way.push(Node { bytes, next: 0, level: level - 1 });
            }
            None => {}
        }
        let Some(node) = way.last_mut() else { return Ok(()) };
        if node.next * 4 >= node.bytes.len() || *at >= mapping.end {
            way.pop();
            continue;
        }
        current = Some((u32_at(&node.bytes, node.next * 4).into(), node.level));
        node.next += 1;
    }
}
