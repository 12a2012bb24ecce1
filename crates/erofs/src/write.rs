//! Writes what a [`Layout`] has room for, front to back.

use std::io::Write;

use layer::{InodeId, Kind, MergedInode, MergedTree, Place};
use sha2::{Digest, Sha256};

use crate::crc32c::crc32c;
use crate::erofs_format::{
    BLOCK, BLOCK_BITS, BLOCK_USIZE, CHECKSUM_OFFSET, COMPACT, COMPAT_CHECKSUM, COMPAT_MTIME, EXTENDED, FLAT_INLINE,
    FLAT_PLAIN, FileType, MAGIC, SLOT, SUPERBLOCK_OFFSET, encode_device,
};
use crate::layout::{ErofsError, Layout, Shape, block_number};
use crate::packed::PackedContents;
use crate::places::WINDOW;
use crate::{directory, xattr};

/// What a metadata image is made of.
#[derive(Clone, Copy)]
pub struct Source<'s, 'a> {
    /// The tree.
    pub tree: &'s MergedTree<'a>,
    /// Length of each layer's data in blocks of [`BLOCK`] bytes, bottom layer first.
    pub layer_data_blocks: &'s [u64],
    /// The small contents, which become part of the metadata.
    pub packed: &'s dyn PackedContents,
    /// What the image is called; should name all that it is made of. The file system's UUID is a hash of it.
    pub name: &'s [u8],
}

impl std::fmt::Debug for Source<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("tree", self.tree).field("name", &self.name).finish_non_exhaustive()
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataImage {
    /// Length of the metadata image in blocks of [`BLOCK`] bytes.
    pub blocks: u64,
    /// Length of the whole device, all layers' data included, in blocks.
    pub device_blocks: u64,
    /// Number of inodes.
    pub inodes: u64,
    /// The file system's UUID, in the form of RFC 9562 version 8.
    pub uuid: [u8; 16],
}

/// Writes a metadata image to `out`, front to back: [`MetadataImage::blocks`] times [`BLOCK`] bytes, in pieces of some
/// hundred kilobytes.
///
/// The device consists of the metadata image and the layers' data, in order. Memory: four bytes an inode, and what is
/// constant. Equal sources give equal bytes.
///
/// # Errors
///
/// [`ErofsError`]; what was written until then is worth nothing.
pub fn write_metadata(source: &Source<'_, '_>, out: &mut impl Write) -> Result<MetadataImage, ErofsError> {
    let Source { tree, layer_data_blocks, .. } = *source;
    let layout = Layout::new(tree, layer_data_blocks)?;
    let uuid = uuid(source.name);
    let mut window = Window { out, start: 0, bytes: Vec::new() };
    window.put(SUPERBLOCK_OFFSET as u64, &superblock(tree, &layout, uuid))?;
    let mut writer = Writer { source, layout: &layout, next_block: layout.data_block };
    for (id, merged) in tree.inodes() {
        let record = writer.inode(id, &merged)?;
        window.put(layout.nid(id) * SLOT, &record)?;
    }
    let mut end = layout.shared_block * BLOCK;
    for attribute in layout.shared.encoded() {
        window.put(end, &attribute)?;
        end += attribute.len() as u64;
    }
    end = layout.data_block * BLOCK;
    for &id in &layout.with_blocks {
        writer.blocks(id, &tree.inode(id), &mut |bytes| {
            window.put(end, bytes)?;
            end = (end + bytes.len() as u64).next_multiple_of(BLOCK);
            Ok(())
        })?;
    }
    window.finish()?;
    Ok(MetadataImage {
        blocks: layout.blocks.into(),
        device_blocks: layout.device_blocks.into(),
        inodes: tree.len() as u64,
        uuid,
    })
}

/// The end of the image, which is not written yet: bytes may still be put into its last [`WINDOW`] blocks.
struct Window<'w, W> {
    out: &'w mut W,
    /// Offset of the first byte.
    start: u64,
    /// Full blocks.
    bytes: Vec<u8>,
}

impl<W: Write> Window<'_, W> {
    const FLUSH: usize = 512 << 10;

    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ErofsError> {
        // The layout goes forward, but for holes within the window.
        let start = offset.checked_sub(self.start).and_then(|start| usize::try_from(start).ok());
        let start = start.ok_or(ErofsError::TooLarge)?;
        let end = start + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end.next_multiple_of(BLOCK_USIZE), 0);
        }
        self.bytes[start..end].copy_from_slice(bytes);
        if self.bytes.len() > Self::FLUSH {
            self.write(self.bytes.len().saturating_sub(usize::try_from(WINDOW * BLOCK).unwrap_or(0)))?;
        }
        Ok(())
    }

    /// Writes the first bytes: some full blocks.
    fn write(&mut self, length: usize) -> Result<(), ErofsError> {
        if self.start == 0 && length > 0 {
            let checksum = crc32c(&self.bytes[SUPERBLOCK_OFFSET..BLOCK_USIZE]);
            self.bytes[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 4].copy_from_slice(&checksum.to_le_bytes());
        }
        self.out.write_all(&self.bytes[..length])?;
        self.bytes.drain(..length);
        self.start += length as u64;
        Ok(())
    }

    fn finish(mut self) -> Result<(), ErofsError> {
        self.write(self.bytes.len())
    }
}

/// The name's hash as a UUID.
fn uuid(name: &[u8]) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&Sha256::digest(name)[..16]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// Fields one after the other.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
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

    /// A field that is known to be narrow enough.
    fn narrow(&mut self, value: u32) -> &mut Self {
        self.u16(u16::try_from(value).unwrap_or(u16::MAX))
    }
}

/// The superblock up to its UUID; the rest is zero, and the checksum comes when its block is complete.
fn superblock(tree: &MergedTree<'_>, layout: &Layout<'_>, uuid: [u8; 16]) -> Vec<u8> {
    let shared_block = if layout.shared.size > 0 { layout.shared_block } else { 0 };
    let mut fields = Fields::default();
    fields.u32(MAGIC).u32(0).u32(COMPAT_CHECKSUM | COMPAT_MTIME).put(&[BLOCK_BITS, 0]);
    // The root is the first inode, in the first or second block.
    fields.u16(u16::try_from(layout.nid(InodeId::ROOT)).unwrap_or(u16::MAX));
    fields.u64(tree.len() as u64);
    fields.u64(layout.time.seconds.cast_unsigned()).u32(layout.time.nanoseconds);
    // Blocks are counted in 32 bits.
    fields.u32(layout.device_blocks).u32(0).u32(u32::try_from(shared_block).unwrap_or(0)).put(&uuid);
    fields.0
}

/// Makes the parts of the image.
struct Writer<'w, 's, 'a> {
    source: &'w Source<'s, 'a>,
    layout: &'w Layout<'a>,
    /// Where the next data go that are not inline.
    next_block: u64,
}

impl Writer<'_, '_, '_> {
    /// An inode, its attributes and its inline data.
    fn inode(&mut self, id: InodeId, merged: &MergedInode<'_>) -> Result<Vec<u8>, ErofsError> {
        let shape = self.layout.shape(self.source.tree, id, merged)?;
        let inode = &merged.inode;
        let block_or_device = match inode.kind {
            Kind::CharDevice(device) | Kind::BlockDevice(device) => encode_device(device),
            _ if shape.blocks > 0 => block_number(self.next_block)?,
            _ => self.layout.block_of(id, merged)?,
        };
        self.next_block += shape.blocks;
        let data_layout = if shape.inline > 0 { FLAT_INLINE } else { FLAT_PLAIN };
        let mut fields = Fields(Vec::with_capacity(shape.len()));
        fields.u16(data_layout << 1 | if shape.compact { COMPACT } else { EXTENDED });
        fields.u16(xattr::count_field(shape.xattr_size).ok_or(ErofsError::Xattrs { inode: id.get() })?);
        fields.u16(FileType::of(inode.kind).mode_bits() | inode.mode);
        if shape.compact {
            fields.narrow(merged.links).u32(u32::try_from(shape.size).unwrap_or(u32::MAX)).u32(0);
            fields.u32(block_or_device).u32(id.get() + 1).narrow(inode.uid).narrow(inode.gid).u32(0);
        } else {
            fields.u16(0).u64(shape.size).u32(block_or_device).u32(id.get() + 1).u32(inode.uid).u32(inode.gid);
            fields.u64(inode.mtime.seconds.cast_unsigned()).u32(inode.mtime.nanoseconds).u32(merged.links);
            fields.put(&[0; 16]);
        }
        let Fields(mut record) = fields;
        self.layout.shared.put_beside(inode.xattrs, &mut record);
        self.put_inline(id, merged, shape, &mut record)?;
        Ok(record)
    }

    fn put_inline(
        &self,
        id: InodeId,
        merged: &MergedInode<'_>,
        shape: Shape,
        record: &mut Vec<u8>,
    ) -> Result<(), ErofsError> {
        if shape.inline == 0 {
            return Ok(());
        }
        let skip = shape.size - shape.inline as u64;
        match merged.inode.kind {
            Kind::Directory => {
                record.extend(directory::packed_tail(self.source.tree, id, |id| self.layout.nid(id)));
            }
            Kind::Symlink(target) => record.extend_from_slice(&target[target.len() - shape.inline..]),
            _ => {
                let start = record.len();
                record.resize(start + shape.inline, 0);
                self.read_packed(id, merged, skip, &mut record[start..])?;
            }
        }
        Ok(())
    }

    /// Gives the data of an inode that are not inline to `put`: pieces that begin at blocks.
    fn blocks(
        &self,
        id: InodeId,
        merged: &MergedInode<'_>,
        put: &mut dyn FnMut(&[u8]) -> Result<(), ErofsError>,
    ) -> Result<(), ErofsError> {
        const PIECE: usize = 16 * BLOCK_USIZE;
        let shape = self.layout.shape(self.source.tree, id, merged)?;
        let mut left = shape.size - shape.inline as u64;
        match merged.inode.kind {
            Kind::Directory => {
                let blocks = usize::try_from(shape.blocks).unwrap_or(usize::MAX);
                directory::packed(self.source.tree, id, |id| self.layout.nid(id))
                    .take(blocks)
                    .try_for_each(|block| put(&block))
            }
            Kind::Symlink(target) => put(target),
            _ => {
                let mut piece = vec![0; PIECE];
                while left > 0 {
                    let piece = &mut piece[..usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
                    self.read_packed(id, merged, shape.size - shape.inline as u64 - left, piece)?;
                    put(piece)?;
                    left -= piece.len() as u64;
                }
                Ok(())
            }
        }
    }

    /// Reads a file's packed content from byte `skip` on.
    fn read_packed(
        &self,
        id: InodeId,
        merged: &MergedInode<'_>,
        skip: u64,
        buffer: &mut [u8],
    ) -> Result<(), ErofsError> {
        let Kind::File(layer::Content { place: Place::Packed { offset }, .. }) = merged.inode.kind else {
            return Ok(());
        };
        let read = self.source.packed.read(merged.layer, offset.saturating_add(skip), buffer);
        read.map_err(|source| ErofsError::Packed { inode: id.get(), layer: merged.layer, source })
    }
}
