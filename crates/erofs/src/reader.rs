//! Reads EROFS images of the kind that this crate writes: uncompressed and flat.
//!
//! The image is untrusted: every offset and length is checked, a directory is read up to [`MAX_DIRECTORY`] bytes, and
//! nothing recurses.

use std::collections::BTreeMap;
use std::io;

use layer::{Device, EntryName, Timestamp};

use crate::crc32c::crc32c;
use crate::device::ReadAt;
use crate::erofs_format::{
    BLOCK, BLOCK_BITS, BLOCK_USIZE, COMPACT_INODE_LEN, COMPAT_CHECKSUM, DIRENT_LEN, EXTENDED, FLAT_INLINE, FLAT_PLAIN,
    FileType, INODE_LEN, MAGIC, SLOT, SUPERBLOCK_LEN, SUPERBLOCK_OFFSET, XATTR_ENTRY_LEN, XATTR_HEADER_LEN,
    XATTR_PREFIXES, decode_device,
};

/// Largest directory that is read, in bytes.
pub const MAX_DIRECTORY: u64 = 256 << 20;
/// Longest target of a symbolic link.
const MAX_LINK: u64 = 4095;
/// Most symbolic links followed in one look-up.
const MAX_LINKS_FOLLOWED: u32 = 40;

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The device failed or is too short.
    #[error("cannot read the image")]
    Io(#[from] io::Error),
    /// No EROFS, or a damaged one.
    #[error("damaged image: {0}")]
    Damaged(&'static str),
    /// EROFS with features that this reader does not have.
    #[error("unsupported image: {0}")]
    Unsupported(&'static str),
    /// A component of a path that is looked up is no directory.
    #[error("{0} is not a directory")]
    NotADirectory(EntryName),
    /// Too many symbolic links.
    #[error("too many levels of symbolic links in {0}")]
    SymlinkLoop(EntryName),
    /// An operation that the inode's type does not have.
    #[error("inode {nid} is not a {expected}")]
    WrongType {
        /// The inode.
        nid: u64,
        /// What it would have to be.
        expected: &'static str,
    },
}

/// An open image.
#[derive(Debug)]
pub struct Image<D> {
    device: D,
    root: u64,
    build_time: Timestamp,
    /// Byte offset of the shared attributes.
    shared_xattrs: u64,
    /// Number of inodes, as the superblock has it.
    inodes: u64,
    uuid: [u8; 16],
}

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Its place in the image.
    pub nid: u64,
    /// Its type.
    pub file_type: FileType,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last modification.
    pub mtime: Timestamp,
    /// Size of its data in bytes.
    pub size: u64,
    /// Number of names.
    pub links: u32,
    /// The device that a device node stands for, else 0:0.
    pub device: Device,
    block: u32,
    inline: bool,
    xattr_offset: u64,
    xattr_size: usize,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// The inode.
    pub nid: u64,
    /// The inode's type, as the directory states it.
    pub file_type: FileType,
}

/// Reads fields one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let (field, rest) = self.0.split_first_chunk().ok_or(ReadError::Damaged("short structure"))?;
        self.0 = rest;
        Ok(*field)
    }

    fn u8(&mut self) -> Result<u8, ReadError> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, ReadError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, ReadError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, ReadError> {
        self.array().map(u64::from_le_bytes)
    }
}

impl<D: ReadAt> Image<D> {
    /// Opens an image: checks the superblock and its checksum.
    pub fn open(device: D) -> Result<Self, ReadError> {
        let mut block = vec![0; BLOCK_USIZE];
        device.read_exact_at(&mut block, 0)?;
        let superblock = &mut block[SUPERBLOCK_OFFSET..];
        let mut fields = Fields(&superblock[..SUPERBLOCK_LEN]);
        let (magic, checksum, compat) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (block_bits, _extension_slots) = (fields.u8()?, fields.u8()?);
        let (root, inodes) = (fields.u16()?, fields.u64()?);
        let build_time = Timestamp { seconds: fields.u64()?.cast_signed(), nanoseconds: fields.u32()? };
        let (_blocks, meta_block, xattr_block) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (uuid, _volume_name) = (fields.array()?, fields.array::<16>()?);
        let incompat = fields.u32()?;
        if magic != MAGIC {
            return Err(ReadError::Damaged("not an EROFS image"));
        }
        superblock[4..8].fill(0);
        if compat & COMPAT_CHECKSUM != 0 && crc32c(superblock) != checksum {
            return Err(ReadError::Damaged("wrong superblock checksum"));
        }
        if block_bits != BLOCK_BITS || incompat != 0 || meta_block != 0 {
            return Err(ReadError::Unsupported("block size or features"));
        }
        let shared_xattrs = u64::from(xattr_block) * BLOCK;
        Ok(Self { device, root: root.into(), build_time, shared_xattrs, inodes, uuid })
    }

    /// The root directory.
    pub fn root(&self) -> Result<Inode, ReadError> {
        self.inode(self.root)
    }

    /// Number of inodes, as the superblock states it.
    pub fn inode_count(&self) -> u64 {
        self.inodes
    }

    /// The file system's UUID.
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// Reads an inode.
    pub fn inode(&self, nid: u64) -> Result<Inode, ReadError> {
        let offset = nid.checked_mul(SLOT).ok_or(ReadError::Damaged("inode number out of range"))?;
        let mut bytes = [0; INODE_LEN];
        let (compact, rest) = bytes.split_at_mut(COMPACT_INODE_LEN);
        self.device.read_exact_at(compact, offset)?;
        let format = u16::from_le_bytes([compact[0], compact[1]]);
        let extended = format & EXTENDED != 0;
        if extended {
            self.device.read_exact_at(rest, offset + COMPACT_INODE_LEN as u64)?;
        }
        let inline = match format >> 1 {
            FLAT_PLAIN => false,
            FLAT_INLINE => true,
            _ => return Err(ReadError::Unsupported("data layout")),
        };
        let mut fields = Fields(&bytes[2..]);
        let (xattr_count, mode) = (fields.u16()?, fields.u16()?);
        let file_type = FileType::from_mode(mode).ok_or(ReadError::Damaged("unknown file type"))?;
        let links_or_zero = fields.u16()?;
        let size = if extended { fields.u64()? } else { u64::from(fields.u32()?) };
        if !extended {
            fields.u32()?;
        }
        let (block, _ino) = (fields.u32()?, fields.u32()?);
        let (uid, gid, mtime, links);
        if extended {
            (uid, gid) = (fields.u32()?, fields.u32()?);
            mtime = Timestamp { seconds: fields.u64()?.cast_signed(), nanoseconds: fields.u32()? };
            links = fields.u32()?;
        } else {
            (uid, gid) = (fields.u16()?.into(), fields.u16()?.into());
            (mtime, links) = (self.build_time, links_or_zero.into());
        }
        if size > i64::MAX.cast_unsigned() {
            return Err(ReadError::Damaged("negative size"));
        }
        let xattr_size = match usize::from(xattr_count) {
            0 => 0,
            count => XATTR_HEADER_LEN + (count - 1) * XATTR_ENTRY_LEN,
        };
        let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
        let length = if extended { INODE_LEN } else { COMPACT_INODE_LEN };
        Ok(Inode {
            nid,
            file_type,
            mode: mode & 0o7777,
            uid,
            gid,
            mtime,
            size,
            links,
            device: decode_device(if is_device { block } else { 0 }),
            block,
            inline,
            xattr_offset: offset + length as u64,
            xattr_size,
        })
    }

    /// Reads data of a file, directory or symbolic link from `offset` on. Shorter than `buffer` only at the end.
    pub fn read(&self, inode: &Inode, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        if !matches!(inode.file_type, FileType::Regular | FileType::Directory | FileType::Symlink) {
            return Err(ReadError::WrongType { nid: inode.nid, expected: "file" });
        }
        let left = inode.size.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..length];
        let in_blocks = if inode.inline { inode.size.saturating_sub(1) / BLOCK * BLOCK } else { inode.size };
        let here = usize::try_from(in_blocks.saturating_sub(offset)).unwrap_or(usize::MAX).min(length);
        let (blocks, tail) = buffer.split_at_mut(here);
        if !blocks.is_empty() {
            // 32 bits of blocks and a positive size cannot overflow.
            self.device.read_exact_at(blocks, u64::from(inode.block) * BLOCK + offset)?;
        }
        if !tail.is_empty() {
            let start = inode.xattr_offset + inode.xattr_size as u64;
            let skip = offset.max(in_blocks) - in_blocks;
            self.device.read_exact_at(tail, start + skip)?;
        }
        Ok(length)
    }

    /// Reads a whole file of at most `limit` bytes.
    pub fn read_file(&self, inode: &Inode, limit: u64) -> Result<Vec<u8>, ReadError> {
        if inode.file_type != FileType::Regular {
            return Err(ReadError::WrongType { nid: inode.nid, expected: "regular file" });
        }
        self.read_all(inode, limit)
    }

    /// The target of a symbolic link.
    pub fn read_link(&self, inode: &Inode) -> Result<Vec<u8>, ReadError> {
        if inode.file_type != FileType::Symlink {
            return Err(ReadError::WrongType { nid: inode.nid, expected: "symbolic link" });
        }
        self.read_all(inode, MAX_LINK)
    }

    /// Reads everything, piece by piece so that a lying size costs no memory that the device does not back.
    fn read_all(&self, inode: &Inode, limit: u64) -> Result<Vec<u8>, ReadError> {
        const PIECE: usize = 1 << 20;
        if inode.size > limit {
            return Err(ReadError::Unsupported("larger than the limit"));
        }
        let mut data = Vec::new();
        while (data.len() as u64) < inode.size {
            let start = data.len();
            let left = usize::try_from(inode.size - start as u64).unwrap_or(PIECE);
            data.resize(start + left.min(PIECE), 0);
            self.read(inode, start as u64, &mut data[start..])?;
        }
        Ok(data)
    }

    /// The entries of a directory, `.` and `..` included, in the order of their names.
    pub fn read_dir(&self, directory: &Inode) -> Result<Vec<DirEntry>, ReadError> {
        let mut entries = Vec::new();
        self.visit_blocks(directory, |block| {
            parse_block(block, |name, nid, file_type| {
                entries.push(DirEntry { name: name.to_vec(), nid, file_type });
            })
            .map(|()| true)
        })?;
        Ok(entries)
    }

    /// The inode of one name in a directory.
    pub fn lookup_in(&self, directory: &Inode, wanted: &[u8]) -> Result<Option<Inode>, ReadError> {
        let mut found = None;
        self.visit_blocks(directory, |block| {
            parse_block(block, |name, nid, _| {
                if name == wanted {
                    found = Some(nid);
                }
            })?;
            Ok(found.is_none())
        })?;
        found.map(|nid| self.inode(nid)).transpose()
    }

    /// Calls `visit` for each block of a directory until it returns false.
    fn visit_blocks(
        &self,
        directory: &Inode,
        mut visit: impl FnMut(&[u8]) -> Result<bool, ReadError>,
    ) -> Result<(), ReadError> {
        if directory.file_type != FileType::Directory {
            return Err(ReadError::WrongType { nid: directory.nid, expected: "directory" });
        }
        if directory.size > MAX_DIRECTORY {
            return Err(ReadError::Unsupported("directory too large"));
        }
        let mut block = [0; BLOCK_USIZE];
        let mut offset = 0;
        while offset < directory.size {
            let length = self.read(directory, offset, &mut block)?;
            if !visit(&block[..length])? {
                return Ok(());
            }
            offset += length as u64;
        }
        Ok(())
    }

    /// The inode at an absolute path, without following symbolic links. `None` if there is none.
    pub fn lookup(&self, path: &[u8]) -> Result<Option<Inode>, ReadError> {
        let mut inode = self.root()?;
        for name in components(path) {
            if inode.file_type != FileType::Directory {
                return Err(ReadError::NotADirectory(path.into()));
            }
            match self.lookup_in(&inode, name)? {
                Some(child) => inode = child,
                None => return Ok(None),
            }
        }
        Ok(Some(inode))
    }

    /// The inode at an absolute path, symbolic links followed within the image, as a process with this root would.
    pub fn resolve(&self, path: &[u8]) -> Result<Option<Inode>, ReadError> {
        let mut pending: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        let mut inode = self.root()?;
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if inode.file_type != FileType::Directory {
                return Err(ReadError::NotADirectory(path.into()));
            }
            let Some(child) = self.lookup_in(&inode, &name)? else { return Ok(None) };
            if child.file_type != FileType::Symlink {
                inode = child;
                continue;
            }
            links += 1;
            if links > MAX_LINKS_FOLLOWED {
                return Err(ReadError::SymlinkLoop(path.into()));
            }
            let target = self.read_link(&child)?;
            if target.starts_with(b"/") {
                inode = self.root()?;
            }
            pending.extend(components(&target).rev().map(<[u8]>::to_vec));
        }
        Ok(Some(inode))
    }

    /// The extended attributes of an inode: full names and values, as stored.
    pub fn xattrs(&self, inode: &Inode) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, ReadError> {
        if inode.xattr_size == 0 {
            return Ok(BTreeMap::new());
        }
        let mut bytes = vec![0; inode.xattr_size];
        self.device.read_exact_at(&mut bytes, inode.xattr_offset)?;
        let (header, rest) = bytes.split_at(XATTR_HEADER_LEN);
        let ids = usize::from(header[4]) * XATTR_ENTRY_LEN;
        let (ids, mut rest) = rest.split_at_checked(ids).ok_or(ReadError::Damaged("extended attributes"))?;
        let mut xattrs = BTreeMap::new();
        for id in ids.as_chunks().0 {
            let (name, value) = self.shared_xattr(u32::from_le_bytes(*id))?;
            xattrs.insert(name, value);
        }
        while !rest.is_empty() {
            let (name, value, length) = parse_xattr(rest)?;
            xattrs.insert(name, value);
            rest = rest.get(length..).ok_or(ReadError::Damaged("extended attributes"))?;
        }
        Ok(xattrs)
    }

    /// Name and value of a shared attribute.
    fn shared_xattr(&self, id: u32) -> Result<(Vec<u8>, Vec<u8>), ReadError> {
        let offset = self.shared_xattrs + u64::from(id) * XATTR_ENTRY_LEN as u64;
        let mut header = [0; XATTR_ENTRY_LEN];
        self.device.read_exact_at(&mut header, offset)?;
        let [name_length, _, size_low, size_high] = header;
        let length = usize::from(name_length) + usize::from(u16::from_le_bytes([size_low, size_high]));
        let mut entry = vec![0; XATTR_ENTRY_LEN + length];
        self.device.read_exact_at(&mut entry, offset)?;
        parse_xattr(&entry).map(|(name, value, _)| (name, value))
    }
}

/// Full name and value of the attribute that `bytes` begin with, and its length in bytes, padding included.
fn parse_xattr(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>, usize), ReadError> {
    let damaged = || ReadError::Damaged("extended attributes");
    let mut fields = Fields(bytes);
    let (name_length, index, value_size) = (fields.u8()?, fields.u8()?, fields.u16()?);
    let (suffix, after) = fields.0.split_at_checked(name_length.into()).ok_or_else(damaged)?;
    let value = after.get(..value_size.into()).ok_or_else(damaged)?;
    let prefix = XATTR_PREFIXES.iter().find(|(known, _)| *known == index).ok_or_else(damaged)?.1;
    let length = (XATTR_ENTRY_LEN + suffix.len() + value.len()).next_multiple_of(XATTR_ENTRY_LEN);
    Ok(([prefix, suffix].concat(), value.to_vec(), length))
}

/// Calls `visit` with name, nid and type of each entry in a directory block.
fn parse_block(block: &[u8], mut visit: impl FnMut(&[u8], u64, FileType)) -> Result<(), ReadError> {
    const DAMAGED: ReadError = ReadError::Damaged("directory block");
    let first = block.get(8..10).map(|field| usize::from(u16::from_le_bytes([field[0], field[1]]))).ok_or(DAMAGED)?;
    if first == 0 || !first.is_multiple_of(DIRENT_LEN) || first > block.len() {
        return Err(DAMAGED);
    }
    let (entries, _) = block[..first].as_chunks::<DIRENT_LEN>();
    let offset_of = |entry: &[u8; DIRENT_LEN]| usize::from(u16::from_le_bytes([entry[8], entry[9]]));
    for (at, entry) in entries.iter().enumerate() {
        let mut fields = Fields(entry);
        let (nid, start, file_type) = (fields.u64()?, usize::from(fields.u16()?), fields.u8()?);
        let name = match entries.get(at + 1) {
            Some(next) => block.get(start..offset_of(next)).ok_or(DAMAGED)?,
            None => block.get(start..).and_then(|rest| rest.split(|&byte| byte == 0).next()).ok_or(DAMAGED)?,
        };
        if name.is_empty() || name.len() > 255 {
            return Err(DAMAGED);
        }
        visit(name, nid, FileType::from_dirent(file_type).ok_or(DAMAGED)?);
    }
    Ok(())
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|component| !component.is_empty())
}
