//! Directory entries, packed into blocks, one block at a time.

use std::iter::Peekable;

use layer::{InodeId, MergedTree};

use crate::erofs_format::{BLOCK_USIZE, DIRENT_LEN, FileType};

/// A directory entry before it is packed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    name: &'a [u8],
    target: InodeId,
}

impl Entry<'_> {
    fn len(&self) -> usize {
        DIRENT_LEN + self.name.len()
    }
}

/// The entries of a directory, `.` and `..` in their places among the others.
fn entries<'a>(tree: &MergedTree<'a>, id: InodeId) -> impl Iterator<Item = Entry<'a>> {
    let dots = [(&b"."[..], id), (b"..", tree.parent(id))].map(|(name, target)| Entry { name, target });
    let mut dots = dots.into_iter().peekable();
    let mut children = tree.entries(id).map(|(name, target)| Entry { name, target }).peekable();
    std::iter::from_fn(move || match children.peek() {
        Some(child) => dots.next_if(|dot| dot.name < child.name).or_else(|| children.next()),
        None => dots.next(),
    })
}

/// The entries of a directory as they share blocks: as many as fit.
struct Blocks<'a, I: Iterator<Item = Entry<'a>>> {
    entries: Peekable<I>,
}

fn blocks<'a>(tree: &MergedTree<'a>, id: InodeId) -> Blocks<'a, impl Iterator<Item = Entry<'a>>> {
    Blocks { entries: entries(tree, id).peekable() }
}

impl<'a, I: Iterator<Item = Entry<'a>>> Iterator for Blocks<'a, I> {
    type Item = Vec<Entry<'a>>;

    fn next(&mut self) -> Option<Vec<Entry<'a>>> {
        let mut used = 0;
        let mut block = Vec::new();
        while let Some(entry) = self.entries.next_if(|entry| used + entry.len() <= BLOCK_USIZE) {
            used += entry.len();
            block.push(entry);
        }
        (!block.is_empty()).then_some(block)
    }
}

/// Bytes of a directory: all blocks but the last are full ones.
pub(crate) fn size(tree: &MergedTree<'_>, id: InodeId) -> u64 {
    let (mut full, mut used) = (0, 0);
    for entry in entries(tree, id) {
        if used + entry.len() > BLOCK_USIZE {
            (full, used) = (full + 1, 0);
        }
        used += entry.len();
    }
    (full * BLOCK_USIZE + used) as u64
}

/// The packed blocks of a directory; none but the last is shorter than a block.
pub(crate) fn packed<'a>(
    tree: &MergedTree<'a>,
    id: InodeId,
    nid_of: impl Fn(InodeId) -> u64,
) -> impl Iterator<Item = Vec<u8>> {
    let mut blocks = blocks(tree, id).peekable();
    std::iter::from_fn(move || {
        let mut packed = pack(tree, &blocks.next()?, &nid_of);
        if blocks.peek().is_some() {
            packed.resize(BLOCK_USIZE, 0);
        }
        Some(packed)
    })
}

/// The last block of a directory.
pub(crate) fn packed_tail(tree: &MergedTree<'_>, id: InodeId, nid_of: impl Fn(InodeId) -> u64) -> Vec<u8> {
    pack(tree, &blocks(tree, id).last().unwrap_or_default(), nid_of)
}

fn pack(tree: &MergedTree<'_>, block: &[Entry<'_>], nid_of: impl Fn(InodeId) -> u64) -> Vec<u8> {
    let mut packed = Vec::with_capacity(BLOCK_USIZE);
    let mut name_offset = block.len() * DIRENT_LEN;
    for entry in block {
        packed.extend_from_slice(&nid_of(entry.target).to_le_bytes());
        // Offsets lie within a block of 4096 bytes.
        packed.extend_from_slice(&u16::try_from(name_offset).unwrap_or(u16::MAX).to_le_bytes());
        packed.extend_from_slice(&[FileType::of(tree.kind(entry.target)).dirent(), 0]);
        name_offset += entry.name.len();
    }
    for entry in block {
        packed.extend_from_slice(entry.name);
    }
    packed
}
