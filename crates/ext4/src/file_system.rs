//! A file system: what its inodes are, and what belongs to them.

use crate::attributes::{self, Xattrs};
use crate::blocks::{Blocks, ReadAt};
use crate::content::Content;
use crate::directory::{self, DirEntry};
use crate::error::{Ext4Error, Place};
use crate::inode::{self, Inode, Kind, flags};
use crate::superblock::{self, Superblock};
use crate::{journal, map};

type Result<T> = std::result::Result<T, Ext4Error>;

/// Longest target of a symbolic link: `PATH_MAX` with its terminator.
const MAX_TARGET: u64 = 4096;

/// Bytes of the block map of an inode, which may hold a target instead.
const MAP: u64 = 60;

/// An ext4 file system, as it would be after its journal was replayed.
///
/// It is opened for one task, such as reading all of it: how many blocks can be asked for over its life is bounded by a
/// small multiple of what the disk has, so that blocks which many files share cannot keep a reader busy for ever.
#[derive(Debug)]
pub struct FileSystem<S> {
    superblock: Superblock,
    blocks: Blocks<S>,
}

impl<S: ReadAt> FileSystem<S> {
    /// Opens the file system of a disk. Nothing is written.
    ///
    /// # Errors
    ///
    /// [`Ext4Error::NotExt4`], [`Ext4Error::Unsupported`], or what is damaged of the superblock or the journal.
    pub fn open(source: S) -> Result<Self> {
        let length = source.length().map_err(|source| Ext4Error::Read { offset: 0, source })?;
        let superblock = Superblock::parse(&superblock::read(&source)?, length)?;
        let mut blocks = Blocks::new(source, superblock.block_size, superblock.blocks);
        let Some(journal) = superblock.dirty_journal else { return Ok(Self { superblock, blocks }) };
        blocks.is_stale = true;
        blocks.newer = journal::replay(&superblock, &blocks, journal)?;
        blocks.is_stale = false;
        // The superblock may be one of the blocks.
        let mut bytes = vec![0; superblock::LENGTH];
        blocks.read(&mut bytes, 0, superblock::OFFSET)?;
        let replayed = Superblock::parse(&bytes, length)?;
        let is_same = replayed.block_size == superblock.block_size && replayed.blocks == superblock.blocks;
        Place::Superblock.check(is_same, "the journal changes its size")?;
        Ok(Self { superblock: replayed, blocks })
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.superblock.block_size
    }

    /// Blocks of the disk.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.superblock.blocks
    }

    /// How many blocks are read from the journal, because they had not reached their place.
    #[must_use]
    pub fn replayed_blocks(&self) -> usize {
        self.blocks.newer.len()
    }

    /// The root directory.
    ///
    /// # Errors
    ///
    /// Where it is damaged.
    pub fn root(&self) -> Result<Inode> {
        let root = self.inode(inode::ROOT)?;
        Place::Inode(inode::ROOT).check(root.is_dir(), "it is no directory")?;
        Ok(root)
    }

    /// An inode that a directory names.
    ///
    /// # Errors
    ///
    /// Where there is none of that number in use, or it is damaged.
    pub fn inode(&self, number: u32) -> Result<Inode> {
        Inode::read(&self.superblock, &self.blocks, number)
    }

    /// The entries of a directory, sorted by name, without `.` and `..`.
    ///
    /// # Errors
    ///
    /// Where it is damaged, or no directory.
    pub fn read_dir(&self, directory: &Inode) -> Result<Vec<DirEntry>> {
        directory::read(&self.superblock, &self.blocks, directory)
    }

    /// What a symbolic link points at: one to 4095 bytes without NUL.
    ///
    /// # Errors
    ///
    /// Where it is damaged, or no symbolic link.
    pub fn read_link(&self, link: &Inode) -> Result<Vec<u8>> {
        let place = Place::Symlink(link.number);
        place.check(link.kind == Kind::Symlink, "it is none")?;
        place.check((1..MAX_TARGET).contains(&link.size), "its length is none that it can have")?;
        let length = usize::try_from(link.size).unwrap_or_default();
        let mut target = vec![0; length];
        if link.size < MAP && link.flags & flags::EXTENTS == 0 {
            target.copy_from_slice(&link.map[..length]);
        } else {
            self.map(link)?.read_at(&mut target, 0)?;
        }
        place.check(!target.contains(&0), "there is a NUL byte in it")?;
        Ok(target)
    }

    /// The extended attributes of an inode.
    ///
    /// # Errors
    ///
    /// Where they are damaged.
    pub fn xattrs(&self, inode: &Inode) -> Result<Xattrs> {
        attributes::read(&self.superblock, &self.blocks, inode)
    }

    /// The content of a regular file.
    ///
    /// # Errors
    ///
    /// Where its map is damaged, or it is no file.
    pub fn content(&self, file: &Inode) -> Result<Content<'_, S>> {
        Place::Inode(file.number).check(file.kind == Kind::File, "it is no file")?;
        self.map(file)
    }

    fn map(&self, inode: &Inode) -> Result<Content<'_, S>> {
        let runs = map::runs(&self.superblock, &self.blocks, inode)?;
        Ok(Content::new(&self.blocks, runs, inode.size))
    }
}
