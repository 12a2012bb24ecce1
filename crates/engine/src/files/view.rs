//! A container's tree as the container sees it: the image's, and over it what overlayfs keeps in the upper directory.
//!
//! Linux `Documentation/filesystems/overlayfs.rst`; guest init mounts without redirects, metadata-only copies and
//! indexes, so that the upper directory is complete in itself:
//!
//! | in the upper directory | means |
//! |---|---|
//! | a character device 0:0 | what the image has under that name is gone |
//! | a directory with `trusted.overlay.opaque` = `y` | what the image has in that directory is gone |
//! | any other directory | its attributes, and its names beside those that the image has there |
//! | anything else | it, instead of what the image has |

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::PathBuf;

use ext4::{FileSystem, Inode};
use image::ImageTree;
use layer::{InodeId, MergedTree};

use super::error::FilesError;
use super::path_of;

type Result<T> = std::result::Result<T, FilesError>;

/// Attributes by which overlayfs speaks to itself.
const OVERLAY: &[u8] = b"trusted.overlay.";
const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// Those that say that a name in the upper directory is not all there is to it.
const REFUSED: [&[u8]; 2] = [b"trusted.overlay.redirect", b"trusted.overlay.metacopy"];

/// The name of the upper directory on a scratch disk.
const UPPER: &[u8] = b"upper";

/// Extended attributes, sorted by name.
pub(crate) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a name of the tree is.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// It is the image's.
    Lower(InodeId),
    /// It is in the upper directory.
    Upper(Box<Upper>),
}

/// An inode in the upper directory.
#[derive(Debug, Clone)]
pub(crate) struct Upper {
    pub(crate) inode: Inode,
    /// Of a directory, the image's that it is over and that shows through.
    pub(crate) below: Option<InodeId>,
    pub(crate) xattrs: Xattrs,
}

/// Type of a node, and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    Socket,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) kind: Kind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bytes of a file's content; 0 for others.
    pub(crate) size: u64,
    /// Seconds since 1970 and nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Xattrs,
}

/// Names the inode behind a node, for hard links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Identity {
    Lower(InodeId),
    Upper(u32),
}

/// What a directory of the upper directory has under a name.
pub(crate) enum Entry {
    /// The image's is gone.
    Whiteout,
    /// It.
    Inode(Inode),
}

/// A container's tree.
pub(crate) struct View<'a> {
    /// The container's name.
    pub(crate) container: &'a str,
    pub(crate) image: &'a ImageTree,
    pub(crate) lower: &'a MergedTree<'a>,
    pub(crate) disk: &'a FileSystem<File>,
    /// The upper directory; none before the container's first start.
    pub(crate) upper: Option<Inode>,
}

impl<'a> View<'a> {
    pub(crate) fn open(
        container: &'a str,
        image: &'a ImageTree,
        lower: &'a MergedTree<'a>,
        disk: &'a FileSystem<File>,
    ) -> Result<Self> {
        let mut view = Self { container, image, lower, disk, upper: None };
        let root = view.disk(disk.root())?;
        let entries = view.disk(disk.read_dir(&root))?;
        if let Ok(at) = entries.binary_search_by(|entry| entry.name[..].cmp(UPPER)) {
            let upper = view.disk(disk.inode(entries[at].inode))?;
            if !upper.is_dir() {
                return Err(view.damaged(b"", "the upper directory is none"));
            }
            view.upper = Some(upper);
        }
        Ok(view)
    }

    /// What the disk says.
    pub(crate) fn disk<T>(&self, result: std::result::Result<T, ext4::Ext4Error>) -> Result<T> {
        result.map_err(|source| FilesError::Disk { container: self.container.to_owned(), source })
    }

    pub(crate) fn damaged(&self, path: &[u8], problem: &'static str) -> FilesError {
        FilesError::Damaged { container: self.container.to_owned(), path: path_of(path), problem }
    }

    /// The root directory.
    pub(crate) fn root(&self) -> Result<Node> {
        match &self.upper {
            None => Ok(Node::Lower(InodeId::ROOT)),
            Some(upper) => self.node(b"", upper.clone(), Some(InodeId::ROOT)),
        }
    }

    /// An inode of the upper directory as a node, over what the image has under the same name.
    pub(crate) fn node(&self, path: &[u8], inode: Inode, lower: Option<InodeId>) -> Result<Node> {
        let mut xattrs = self.disk(self.disk.xattrs(&inode))?;
        if REFUSED.iter().any(|name| xattrs.contains_key(*name)) {
            return Err(self.damaged(path, "its content is elsewhere"));
        }
        let is_opaque = xattrs.get(OPAQUE).is_some_and(|value| value == b"y");
        let shows = inode.is_dir() && !is_opaque;
        let below = lower.filter(|lower| shows && self.lower.kind(*lower) == layer::Kind::Directory);
        xattrs.retain(|name, _| !name.starts_with(OVERLAY));
        Ok(Node::Upper(Box::new(Upper { inode, below, xattrs })))
    }

    /// What a directory of the upper directory has, sorted by name.
    pub(crate) fn upper_entries(&self, directory: &Inode) -> Result<Vec<(Vec<u8>, Entry)>> {
        let entries = self.disk(self.disk.read_dir(directory))?;
        let entry = |entry: ext4::DirEntry| {
            let inode = self.disk(self.disk.inode(entry.inode))?;
            let is_whiteout =
                matches!(inode.kind, ext4::Kind::CharDevice(device) if device.major == 0 && device.minor == 0);
            Ok((entry.name, if is_whiteout { Entry::Whiteout } else { Entry::Inode(inode) }))
        };
        entries.into_iter().map(entry).collect()
    }

    /// What a directory of the image has.
    pub(crate) fn lower_children(&self, directory: Option<InodeId>) -> HashMap<&'a [u8], InodeId> {
        directory.into_iter().flat_map(|directory| self.lower.entries(directory)).collect()
    }

    /// What is in a directory, sorted by name. Nothing is in what is no directory.
    pub(crate) fn children(&self, path: &[u8], node: &Node) -> Result<Vec<(Vec<u8>, Node)>> {
        let (below, upper) = match node {
            Node::Lower(id) => (Some(*id), None),
            Node::Upper(upper) => (upper.below, Some(&upper.inode).filter(|inode| inode.is_dir())),
        };
        let below = below.into_iter().flat_map(|below| self.lower.entries(below));
        let mut children: BTreeMap<Vec<u8>, Node> =
            below.map(|(name, child)| (name.to_vec(), Node::Lower(child))).collect();
        let entries = upper.map(|upper| self.upper_entries(upper)).transpose()?.unwrap_or_default();
        for (name, entry) in entries {
            match entry {
                Entry::Whiteout => drop(children.remove(&name)),
                Entry::Inode(inode) => {
                    let lower = match children.get(&name) {
                        Some(Node::Lower(lower)) => Some(*lower),
                        _ => None,
                    };
                    let node = self.node(&join(path, &name), inode, lower)?;
                    children.insert(name, node);
                }
            }
        }
        Ok(children.into_iter().collect())
    }

    /// What is known of a node.
    pub(crate) fn attributes(&self, node: &Node) -> Result<Attributes> {
        match node {
            Node::Lower(id) => Ok(self.lower_attributes(*id)),
            Node::Upper(upper) => self.upper_attributes(&upper.inode, upper.xattrs.clone()),
        }
    }

    fn upper_attributes(&self, inode: &Inode, xattrs: Xattrs) -> Result<Attributes> {
        let kind = match inode.kind {
            ext4::Kind::Directory => Kind::Directory,
            ext4::Kind::File => Kind::File,
            ext4::Kind::Symlink => Kind::Symlink(self.disk(self.disk.read_link(inode))?),
            ext4::Kind::CharDevice(device) => Kind::Char(device.major, device.minor),
            ext4::Kind::BlockDevice(device) => Kind::Block(device.major, device.minor),
            ext4::Kind::Fifo => Kind::Fifo,
            ext4::Kind::Socket => Kind::Socket,
        };
        Ok(Attributes {
            size: if kind == Kind::File { inode.size } else { 0 },
            kind,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            mtime: (inode.mtime.seconds, inode.mtime.nanoseconds),
            xattrs,
        })
    }

    pub(crate) fn lower_attributes(&self, id: InodeId) -> Attributes {
        let inode = self.lower.inode(id).inode;
        let (kind, size) = match inode.kind {
            layer::Kind::Directory => (Kind::Directory, 0),
            layer::Kind::File(content) => (Kind::File, content.size),
            layer::Kind::Symlink(target) => (Kind::Symlink(target.to_vec()), 0),
            layer::Kind::CharDevice(device) => (Kind::Char(device.major, device.minor), 0),
            layer::Kind::BlockDevice(device) => (Kind::Block(device.major, device.minor), 0),
            layer::Kind::Fifo => (Kind::Fifo, 0),
        };
        Attributes {
            kind,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            size,
            mtime: (inode.mtime.seconds, inode.mtime.nanoseconds),
            xattrs: inode.xattrs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
        }
    }

    /// Which inode a node is, if it has other names.
    pub(crate) fn identity(&self, node: &Node) -> Option<Identity> {
        match node {
            Node::Lower(id) if self.lower.inode(*id).links > 1 => Some(Identity::Lower(*id)),
            Node::Upper(upper) if upper.inode.links > 1 => Some(Identity::Upper(upper.inode.number)),
            _ => None,
        }
    }

    /// The content of a file.
    pub(crate) fn content(&self, path: &[u8], node: &Node) -> Result<Content<'_>> {
        match node {
            Node::Upper(upper) => {
                let content = self.disk(self.disk.content(&upper.inode))?;
                Ok(Content::Upper { container: self.container, content })
            }
            Node::Lower(id) => {
                let inode = self.lower.inode(*id);
                let layer::Kind::File(content) = inode.inode.kind else {
                    return Err(self.damaged(path, "it is no file"));
                };
                Ok(Content::Lower { image: self.image, layer: inode.layer, content, path: path_of(path) })
            }
        }
    }
}

/// The content of a file, wherever it is.
pub(crate) enum Content<'a> {
    Upper { container: &'a str, content: ext4::Content<'a, File> },
    Lower { image: &'a ImageTree, layer: usize, content: layer::Content, path: PathBuf },
}

impl Content<'_> {
    /// The ranges that are not holes.
    pub(crate) fn data(&self) -> Result<Vec<Range<u64>>> {
        match self {
            Self::Upper { content, .. } => Ok(content.data()),
            Self::Lower { image, layer, content, path } => {
                image.data(*layer, content).map_err(|source| FilesError::Image { path: path.clone(), source })
            }
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Upper { container, content } => content
                .read_at(buffer, offset)
                .map_err(|source| FilesError::Disk { container: (*container).to_owned(), source }.into()),
            Self::Lower { image, layer, content, path } => image
                .read_at(*layer, content, buffer, offset)
                .map_err(|source| FilesError::Image { path: path.clone(), source }.into()),
        }
    }

    /// Reads ranges, one behind the other.
    pub(crate) fn reader<'c>(&'c self, ranges: &'c [Range<u64>]) -> impl Read + 'c {
        RangeReader { content: self, ranges, at: ranges.first().map_or(0, |range| range.start) }
    }
}

struct RangeReader<'c> {
    content: &'c Content<'c>,
    ranges: &'c [Range<u64>],
    at: u64,
}

impl Read for RangeReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(range) = self.ranges.first() {
            let count = usize::try_from(range.end.saturating_sub(self.at)).unwrap_or(usize::MAX).min(buffer.len());
            if count > 0 || buffer.is_empty() {
                self.content.read_at(&mut buffer[..count], self.at)?;
                self.at += count as u64;
                return Ok(count);
            }
            self.ranges = &self.ranges[1..];
            self.at = self.ranges.first().map_or(0, |range| range.start);
        }
        Ok(0)
    }
}

/// A path and a name in it.
pub(crate) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(path.len() + 1 + name.len());
    joined.extend_from_slice(path);
    if !path.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}
