//! Directory entries, packed into blocks.

use layer::{InodeId, MergedTree};

use crate::erofs_format::{BLOCK_USIZE, DIRENT_LEN, FileType};

/// A directory entry before it is packed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) target: InodeId,
    pub(crate) file_type: FileType,
}

/// The entries of a directory, `.` and `..` in their places among the others.
pub(crate) fn entries<'a>(tree: &MergedTree<'a>, id: InodeId) -> Vec<Entry<'a>> {
    let directory = |name, target| Entry { name, target, file_type: FileType::Directory };
    let children = tree.entries(id);
    let mut entries = Vec::with_capacity(children.len() + 2);
    entries.extend(children.map(|(name, target)| Entry {
        name,
        target,
        file_type: FileType::of(tree.inode(target).inode.kind),
    }));
    for (name, target) in [(&b"."[..], id), (b"..", tree.parent(id))] {
        let at = entries.partition_point(|entry| entry.name < name);
        entries.insert(at, directory(name, target));
    }
    entries
}

/// How large a directory is: its full blocks, and the bytes in the last, partial one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) full_blocks: u64,
    pub(crate) tail: usize,
}

/// Measures a directory without packing it.
pub(crate) fn size(tree: &MergedTree<'_>, id: InodeId) -> Size {
    let mut size = Size { full_blocks: 0, tail: 0 };
    let mut dots = [&b"."[..], b".."].into_iter().peekable();
    let mut add = |name: &[u8]| {
        if size.tail + DIRENT_LEN + name.len() > BLOCK_USIZE {
            size.full_blocks += 1;
            size.tail = 0;
        }
        size.tail += DIRENT_LEN + name.len();
    };
    for (name, _) in tree.entries(id) {
        while let Some(dot) = dots.next_if(|dot| *dot < name) {
            add(dot);
        }
        add(name);
    }
    dots.for_each(add);
    size
}

/// Packs entries into blocks; all but the last are full blocks, padded with zeros.
pub(crate) fn pack(entries: &[Entry<'_>], nid_of: impl Fn(InodeId) -> u64) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        packed.resize(packed.len().next_multiple_of(BLOCK_USIZE), 0);
        let mut used = 0;
        let fits = |entry: &&Entry<'_>| {
            used += DIRENT_LEN + entry.name.len();
            used <= BLOCK_USIZE
        };
        let count = rest.iter().take_while(fits).count();
        let (block, after) = rest.split_at(count);
        pack_block(&mut packed, block, &nid_of);
        rest = after;
    }
    packed
}

fn pack_block(packed: &mut Vec<u8>, block: &[Entry<'_>], nid_of: impl Fn(InodeId) -> u64) {
    let mut name_offset = block.len() * DIRENT_LEN;
    for entry in block {
        packed.extend_from_slice(&nid_of(entry.target).to_le_bytes());
        // Offsets lie within a block of 4096 bytes.
        packed.extend_from_slice(&u16::try_from(name_offset).unwrap_or(u16::MAX).to_le_bytes());
        packed.extend_from_slice(&[entry.file_type.dirent(), 0]);
        name_offset += entry.name.len();
    }
    for entry in block {
        packed.extend_from_slice(entry.name);
    }
}
