//! The tree of a whole image.

use std::fmt;
use std::ops::Range;

use crate::changeset::{Inode, Kind};
use crate::path;

/// The file tree that all layers of an image make together. Made by [`merge`](crate::merge()), never changed.
///
/// Inodes are numbered from 0, the root, without gaps; the children of a directory have neighbouring numbers as far
/// as hard links allow. The same layers always give the same numbers.
#[derive(Default)]
pub struct MergedTree<'a> {
    pub(crate) inodes: Vec<MergedInode<'a>>,
    /// The entries of all directories, those of one directory together and sorted by name.
    pub(crate) entries: Vec<(&'a [u8], u32)>,
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
#[derive(Debug, Clone)]
pub struct MergedInode<'a> {
    /// Attributes, type, and for a file where its content lies in the data of layer `layer`.
    pub inode: Inode<'a>,
    /// The layer that the inode comes from, counted from 0 at the bottom.
    pub layer: usize,
    /// How many names the inode has; for a directory, as on every Unix file system, two and one for each directory
    /// in it.
    pub links: u32,
    pub(crate) entries: Range<usize>,
    pub(crate) parent: u32,
}

impl<'a> MergedTree<'a> {
    /// How many inodes there are; at least one, the root.
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Never: there is always a root.
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
    }

    /// All inodes in the order of their numbers.
    pub fn inodes(&self) -> impl ExactSizeIterator<Item = (InodeId, &MergedInode<'a>)> {
        self.inodes.iter().enumerate().map(|(id, inode)| (InodeId(u32::try_from(id).unwrap_or(u32::MAX)), inode))
    }

    /// One inode.
    ///
    /// # Panics
    ///
    /// If `id` is of another tree.
    pub fn inode(&self, id: InodeId) -> &MergedInode<'a> {
        &self.inodes[id.index()]
    }

    /// The entries of a directory, sorted by name; none for other types. `.` and `..` are not among them.
    pub fn entries(&self, id: InodeId) -> impl ExactSizeIterator<Item = (&'a [u8], InodeId)> {
        self.entries[self.inode(id).entries.clone()].iter().map(|&(name, id)| (name, InodeId(id)))
    }

    /// The directory that a directory is in; the root is in itself.
    pub fn parent(&self, id: InodeId) -> InodeId {
        InodeId(self.inode(id).parent)
    }

    /// The inode at a path, without following symbolic links.
    pub fn lookup(&self, path: &[u8]) -> Option<InodeId> {
        path::clean(path).ok()?.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).try_fold(
            InodeId::ROOT,
            |directory, name| {
                let entries = &self.entries[self.inode(directory).entries.clone()];
                let at = entries.binary_search_by_key(&name, |&(name, _)| name).ok()?;
                Some(InodeId(entries[at].1))
            },
        )
    }

    /// Fills in link counts and parents.
    pub(crate) fn count_links(&mut self) {
        let Self { inodes, entries } = self;
        for directory in 0..inodes.len() {
            if inodes[directory].inode.kind != Kind::Directory {
                continue;
            }
            inodes[directory].links += if directory == 0 { 2 } else { 1 };
            for &(_, id) in &entries[inodes[directory].entries.clone()] {
                let child = &mut inodes[id as usize];
                child.links += 1;
                if child.inode.kind == Kind::Directory {
                    child.parent = u32::try_from(directory).unwrap_or(0);
                    inodes[directory].links += 1;
                }
            }
        }
    }
}

impl fmt::Debug for MergedTree<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MergedTree").field("inodes", &self.inodes.len()).finish_non_exhaustive()
    }
}
