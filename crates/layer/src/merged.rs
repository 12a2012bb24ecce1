//! The tree of a whole image.

use std::fmt;
use std::ops::Range;

use crate::changeset::{Inode, Kind};
use crate::path;
use crate::sources::{Address, IMPLIED, Sources};

/// The file tree that all layers of an image make together. Made by [`merge`](crate::merge()), never changed.
///
/// Inodes are numbered from 0, the root, without gaps; the children of a directory have neighbouring numbers as far
/// as hard links allow. The same layers always give the same numbers.
///
/// Names and attributes stay in the changesets and are decoded when they are asked for; the tree itself takes 4 bytes
/// for an inode, 12 for a name and 16 for a directory.
pub struct MergedTree<'a> {
    pub(crate) sources: Sources<'a>,
    /// The record of each inode.
    pub(crate) records: Vec<Address>,
    /// Ascending by number.
    pub(crate) directories: Vec<MergedDirectory>,
    /// The entries of all directories, those of one directory together and sorted by name.
    pub(crate) entries: Vec<MergedEntry>,
    /// Inodes that have more than one name, and how many. Ascending.
    pub(crate) linked: Vec<(u32, u32)>,
}

/// What only directories have.
#[derive(Debug)]
pub(crate) struct MergedDirectory {
    /// Its number as an inode, and that of the directory above it.
    pub(crate) number: u32,
    pub(crate) parent: u32,
    /// Its first entry; they end where those of the next directory begin.
    pub(crate) first: u32,
    pub(crate) links: u32,
}

/// A name in a directory.
#[derive(Debug)]
pub(crate) struct MergedEntry {
    pub(crate) name: Address,
    pub(crate) child: u32,
    pub(crate) length: u8,
}

/// Number of an inode in its [`MergedTree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(u32);

impl InodeId {
    /// The root directory.
    pub const ROOT: Self = Self(0);

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The number as an index into a table of all inodes.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// An inode of the merged tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergedInode<'a> {
    /// Attributes, type, and for a file where its content lies in layer `layer`.
    pub inode: Inode<'a>,
    /// The layer whose entry describes the inode, counted from 0 at the bottom; 0 for a directory that none does.
    pub layer: usize,
    /// How many names the inode has; for a directory, as on every Unix file system, two and one for each directory
    /// in it.
    pub links: u32,
}

impl<'a> MergedTree<'a> {
    /// How many inodes there are; at least one, the root.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Never: there is always a root.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// All inodes in the order of their numbers.
    pub fn inodes(&self) -> impl ExactSizeIterator<Item = (InodeId, MergedInode<'a>)> {
        let id = |index| InodeId(u32::try_from(index).unwrap_or(u32::MAX));
        (0..self.records.len()).map(move |index| (id(index), self.inode(id(index))))
    }

    /// One inode.
    ///
    /// # Panics
    ///
    /// If `id` is of another tree.
    pub fn inode(&self, id: InodeId) -> MergedInode<'a> {
        let record = self.records[id.index()];
        let inode = self.sources.inode(record);
        let links = match inode.kind {
            Kind::Directory => self.directory(id).map_or(0, |(directory, _)| directory.links),
            _ => self.linked.binary_search_by_key(&id.0, |(id, _)| *id).map_or(1, |at| self.linked[at].1),
        };
        let layer = if record == IMPLIED { 0 } else { self.sources.layer_of(record) };
        MergedInode { inode, layer, links }
    }

    /// The type of an inode, and what belongs to it.
    ///
    /// # Panics
    ///
    /// If `id` is of another tree.
    pub fn kind(&self, id: InodeId) -> Kind<'a> {
        self.sources.inode(self.records[id.index()]).kind
    }

    /// The entries of a directory, sorted by name; none for other types. `.` and `..` are not among them.
    pub fn entries(&self, id: InodeId) -> impl ExactSizeIterator<Item = (&'a [u8], InodeId)> {
        self.entries[self.entry_range(id)].iter().map(|entry| (self.name(entry), InodeId(entry.child)))
    }

    /// The directory that a directory is in; the root is in itself.
    pub fn parent(&self, id: InodeId) -> InodeId {
        InodeId(self.directory(id).map_or(0, |(directory, _)| directory.parent))
    }

    /// The inode at a path, without following symbolic links.
    pub fn lookup(&self, path: &[u8]) -> Option<InodeId> {
        path::clean(path).ok()?.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).try_fold(
            InodeId::ROOT,
            |directory, name| {
                let entries = &self.entries[self.entry_range(directory)];
                let at = entries.binary_search_by(|entry| self.name(entry).cmp(name)).ok()?;
                Some(InodeId(entries[at].child))
            },
        )
    }

    fn name(&self, entry: &MergedEntry) -> &'a [u8] {
        self.sources.bytes(entry.name, entry.length.into())
    }

    /// A directory, and where among all directories it is.
    fn directory(&self, id: InodeId) -> Option<(&MergedDirectory, usize)> {
        let at = self.directories.binary_search_by_key(&id.0, |directory| directory.number).ok()?;
        Some((&self.directories[at], at))
    }

    fn entry_range(&self, id: InodeId) -> Range<usize> {
        let Some((directory, at)) = self.directory(id) else { return 0..0 };
        let end = self.directories.get(at + 1).map_or(self.entries.len(), |next| next.first as usize);
        directory.first as usize..end
    }
}

impl fmt::Debug for MergedTree<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MergedTree").field("inodes", &self.len()).finish_non_exhaustive()
    }
}
