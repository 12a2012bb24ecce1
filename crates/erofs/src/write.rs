//! Fills the places of a [`Layout`] in: the second pass over the tree.

use std::io::Write;

use layer::{InodeId, Kind, MergedInode, MergedTree};
use sha2::{Digest, Sha256};

use crate::crc32c::crc32c;
use crate::erofs_format::{
    BLOCK, BLOCK_BITS, BLOCK_USIZE, COMPAT_CHECKSUM, COMPAT_MTIME, EXTENDED, FLAT_INLINE, FLAT_PLAIN, FileType,
    INODE_LEN, MAGIC, SUPERBLOCK_LEN, SUPERBLOCK_OFFSET, encode_device,
};
use crate::layout::{ErofsError, Layout, Place};
use crate::{directory, xattr};

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataImage {
    /// Length of the metadata image in blocks of [`BLOCK`] bytes.
    pub blocks: u64,
    /// Length of the whole device, all layers' data included, in blocks.
    pub device_blocks: u64,
    /// Number of inodes.
    pub inodes: u64,
    /// The file system's UUID: a hash of the metadata, in the form of RFC 9562 version 8.
    pub uuid: [u8; 16],
}

/// Writes the metadata image of `tree` to `out`, front to back: [`MetadataImage::blocks`] times [`BLOCK`] bytes.
///
/// `layer_data_blocks` holds the length of each layer's data in blocks, bottom layer first; the device consists of
/// the metadata image and these data, in order. Memory: the image itself. Equal trees give equal bytes.
pub fn write_metadata(
    tree: &MergedTree<'_>,
    layer_data_blocks: &[u64],
    out: &mut impl Write,
) -> Result<MetadataImage, ErofsError> {
    let layout = Layout::new(tree, layer_data_blocks)?;
    let length = usize::try_from(u64::from(layout.blocks) * BLOCK).map_err(|_| ErofsError::TooLarge)?;
    let mut image = vec![0; length];
    for (id, inode) in tree.inodes() {
        write_inode(&mut image, tree, &layout, id, &inode)?;
    }
    let uuid = write_superblock(&mut image, tree, &layout);
    out.write_all(&image)?;
    Ok(MetadataImage {
        blocks: layout.blocks.into(),
        device_blocks: layout.device_blocks.into(),
        inodes: tree.len() as u64,
        uuid,
    })
}

/// Writes fields one after the other.
struct Fields<'a> {
    rest: &'a mut [u8],
}

impl<'a> Fields<'a> {
    fn new(target: &'a mut [u8]) -> Self {
        Self { rest: target }
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        let (field, rest) = std::mem::take(&mut self.rest).split_at_mut(bytes.len());
        field.copy_from_slice(bytes);
        self.rest = rest;
        self
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }
}

/// A part of the image; the layout keeps every place within it.
fn part(image: &mut [u8], offset: u64, length: usize) -> Result<&mut [u8], ErofsError> {
    let start = usize::try_from(offset).map_err(|_| ErofsError::TooLarge)?;
    image.get_mut(start..).and_then(|rest| rest.get_mut(..length)).ok_or(ErofsError::TooLarge)
}

fn write_inode(
    image: &mut [u8],
    tree: &MergedTree<'_>,
    layout: &Layout,
    id: InodeId,
    merged: &MergedInode<'_>,
) -> Result<(), ErofsError> {
    let place = &layout.places[id.index()];
    let inode = &merged.inode;
    let data_layout = if place.inline { FLAT_INLINE } else { FLAT_PLAIN };
    let block_or_device = match inode.kind {
        Kind::CharDevice(device) | Kind::BlockDevice(device) => encode_device(device),
        _ => place.block,
    };
    Fields::new(part(image, place.offset, INODE_LEN)?)
        .u16(EXTENDED | data_layout << 1)
        .u16(xattr::count_field(place.xattr_size).ok_or(ErofsError::Xattrs { inode: id.get() })?)
        .u16(FileType::of(inode.kind).mode_bits() | inode.mode)
        .u16(0)
        .u64(place.size)
        .u32(block_or_device)
        .u32(id.get() + 1)
        .u32(inode.uid)
        .u32(inode.gid)
        .u64(inode.mtime.seconds.cast_unsigned())
        .u32(inode.mtime.nanoseconds)
        .u32(merged.links);
    xattr::write(inode.xattrs, part(image, place.offset + INODE_LEN as u64, place.xattr_size)?);
    match inode.kind {
        Kind::Directory => {
            let packed = directory::pack(&directory::entries(tree, id), |id| layout.places[id.index()].nid());
            write_data(image, place, &packed)
        }
        Kind::Symlink(target) => write_data(image, place, target),
        _ => Ok(()),
    }
}

fn write_data(image: &mut [u8], place: &Place, data: &[u8]) -> Result<(), ErofsError> {
    let tail = if place.inline { data.len() % BLOCK_USIZE } else { 0 };
    let (blocks, tail) = data.split_at(data.len() - tail);
    part(image, u64::from(place.block) * BLOCK, blocks.len())?.copy_from_slice(blocks);
    if place.inline {
        part(image, place.inline_offset(), tail.len())?.copy_from_slice(tail);
    }
    Ok(())
}

/// Writes the superblock: the UUID is a hash over the image without it, the checksum comes last.
fn write_superblock(image: &mut [u8], tree: &MergedTree<'_>, layout: &Layout) -> [u8; 16] {
    const CHECKSUM: usize = SUPERBLOCK_OFFSET + 4;
    const UUID: usize = SUPERBLOCK_OFFSET + 48;
    Fields::new(&mut image[SUPERBLOCK_OFFSET..SUPERBLOCK_OFFSET + SUPERBLOCK_LEN])
        .u32(MAGIC)
        .u32(0)
        .u32(COMPAT_CHECKSUM | COMPAT_MTIME)
        .put(&[BLOCK_BITS, 0])
        // The root is the first inode, in the first or second block.
        .u16(u16::try_from(layout.places[0].nid()).unwrap_or(u16::MAX))
        .u64(tree.len() as u64)
        .u64(0)
        .u32(0)
        .u32(layout.device_blocks);
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&Sha256::digest(&*image)[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    image[UUID..UUID + 16].copy_from_slice(&uuid);
    let checksum = crc32c(&image[SUPERBLOCK_OFFSET..BLOCK_USIZE]);
    image[CHECKSUM..CHECKSUM + 4].copy_from_slice(&checksum.to_le_bytes());
    uuid
}
