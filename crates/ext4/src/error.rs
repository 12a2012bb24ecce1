//! Why a file system, or something in it, cannot be read.

use std::fmt;
use std::io;

/// An error of a file system.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ext4Error {
    /// The disk cannot be read there.
    #[error("cannot read the disk at byte {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// Not an ext2, ext3 or ext4 file system.
    #[error("the disk holds no ext4 file system")]
    NotExt4,
    /// A file system that this reader does not know how to read.
    #[error("the file system has {what}, which is not supported")]
    Unsupported {
        /// What it has.
        what: String,
    },
    /// Something is not as it must be.
    #[error("{place} is damaged: {problem}")]
    Damaged {
        /// What.
        place: Place,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// More blocks were asked for than a file system of this size can have in use: some are used many times.
    #[error("the file system is damaged: its files use more blocks than it has")]
    Amplified,
}

/// A part of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The superblock.
    Superblock,
    /// A descriptor of a block group.
    Group(u64),
    /// An inode.
    Inode(u32),
    /// The map from an inode's content to blocks.
    Map(u32),
    /// A directory.
    Directory(u32),
    /// A symbolic link's target.
    Symlink(u32),
    /// Extended attributes of an inode.
    Attributes(u32),
    /// The journal.
    Journal,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superblock => f.write_str("the superblock"),
            Self::Group(group) => write!(f, "the descriptor of block group {group}"),
            Self::Inode(inode) => write!(f, "inode {inode}"),
            Self::Map(inode) => write!(f, "the block map of inode {inode}"),
            Self::Directory(inode) => write!(f, "the directory of inode {inode}"),
            Self::Symlink(inode) => write!(f, "the symbolic link of inode {inode}"),
            Self::Attributes(inode) => write!(f, "the extended attributes of inode {inode}"),
            Self::Journal => f.write_str("the journal"),
        }
    }
}

impl Place {
    /// What is wrong here.
    pub(crate) fn damaged(self, problem: &'static str) -> Ext4Error {
        Ext4Error::Damaged { place: self, problem }
    }

    /// Fails unless `holds`.
    pub(crate) fn check(self, holds: bool, problem: &'static str) -> Result<(), Ext4Error> {
        if holds { Ok(()) } else { Err(self.damaged(problem)) }
    }
}

/// For readers of contents.
impl From<Ext4Error> for io::Error {
    fn from(error: Ext4Error) -> Self {
        let kind = match &error {
            Ext4Error::Read { source, .. } => source.kind(),
            Ext4Error::Unsupported { .. } => io::ErrorKind::Unsupported,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}
