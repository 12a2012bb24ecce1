//! What is behind a block device.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use thiserror::Error;

use super::request::SECTOR_SIZE;
use crate::buffers::Buffers;

/// Unit of read-only extents, in bytes.
pub const EXTENT_ALIGNMENT: u64 = 4096;

/// Most extents of one device.
pub const MAX_EXTENTS: usize = 4096;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A range of a file that is a range of a read-only device.
#[derive(Debug, Clone)]
pub struct ReadOnlyExtent {
    /// The file. It may be shorter than the range: what lies beyond its end reads as zeros.
    pub file: Arc<File>,
    /// First byte of the range in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Where the bytes of a block device come from.
#[derive(Debug)]
pub enum Backing {
    /// A read-only device made of extents of files.
    ReadOnly(Extents),
    /// A writable device over a whole file.
    Writable(Writable),
}

/// Extents with the device offset at which each one starts.
#[derive(Debug)]
pub struct Extents {
    starts: Vec<u64>,
    extents: Vec<ReadOnlyExtent>,
    length: u64,
}

/// A file that is a whole device.
#[derive(Debug)]
pub struct Writable {
    file: Arc<File>,
    length: u64,
}

/// Why files cannot be a block device.
#[derive(Debug, Error)]
pub enum BackingError {
    /// An extent that is empty, misaligned, or beyond what a file offset can say.
    #[error("extent {index} at {offset} of {length} bytes is not a whole number of 4096-byte blocks of a file")]
    Extent {
        /// Its position.
        index: usize,
        /// Its offset in the file.
        offset: u64,
        /// Its length.
        length: u64,
    },
    /// Too many extents.
    #[error("{0} extents are more than {MAX_EXTENTS}")]
    Extents(usize),
    /// Extents whose lengths do not add up.
    #[error("extents are together too long for a device")]
    Length,
    /// A file of an odd size.
    #[error("file of {0} bytes is not a whole number of {SECTOR_SIZE}-byte sectors")]
    Size(u64),
    /// Neither a regular file nor a block device.
    #[error("not a regular file")]
    NotAFile,
    /// The file was not opened for what it is to be used for.
    #[error("file is not open for {0}")]
    Access(&'static str),
    /// The host refused to say.
    #[error("looking at the file")]
    Io(#[from] io::Error),
}

impl Backing {
    /// A read-only device: `extents` in device order.
    ///
    /// # Errors
    ///
    /// [`BackingError`] naming the extent that cannot be.
    pub fn read_only(extents: Vec<ReadOnlyExtent>) -> Result<Self, BackingError> {
        if extents.len() > MAX_EXTENTS {
            return Err(BackingError::Extents(extents.len()));
        }
        let mut starts = Vec::with_capacity(extents.len());
        let mut length: u64 = 0;
        for (index, extent) in extents.iter().enumerate() {
            let aligned =
                extent.offset.is_multiple_of(EXTENT_ALIGNMENT) && extent.length.is_multiple_of(EXTENT_ALIGNMENT);
            let end = extent.offset.checked_add(extent.length).filter(|end| i64::try_from(*end).is_ok());
            if !aligned || extent.length == 0 || end.is_none() {
                return Err(BackingError::Extent { index, offset: extent.offset, length: extent.length });
            }
            check_file(&extent.file, false)?;
            starts.push(length);
            length =
                length.checked_add(extent.length).filter(|l| i64::try_from(*l).is_ok()).ok_or(BackingError::Length)?;
        }
        Ok(Self::ReadOnly(Extents { starts, extents, length }))
    }

    /// A writable device over all of `file`.
    ///
    /// # Errors
    ///
    /// [`BackingError`] if it is not a file open for reading and writing with a whole number of sectors.
    pub fn writable(file: Arc<File>) -> Result<Self, BackingError> {
        check_file(&file, true)?;
        let length = rustix::fs::seek(&*file, rustix::fs::SeekFrom::End(0)).map_err(io::Error::from)?;
        if !length.is_multiple_of(SECTOR_SIZE) {
            return Err(BackingError::Size(length));
        }
        Ok(Self::Writable(Writable { file, length }))
    }

    /// A read-only device over all of `file`.
    ///
    /// # Errors
    ///
    /// [`BackingError`] if it is not a file open for reading with a whole number of 4096-byte blocks.
    pub fn shared(file: Arc<File>) -> Result<Self, BackingError> {
        let length = rustix::fs::seek(&*file, rustix::fs::SeekFrom::End(0)).map_err(io::Error::from)?;
        Self::read_only(vec![ReadOnlyExtent { file, offset: 0, length }])
    }

    /// Size of the device in sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        match self {
            Self::ReadOnly(extents) => extents.length / SECTOR_SIZE,
            Self::Writable(writable) => writable.length / SECTOR_SIZE,
        }
    }

    /// Whether writes are refused.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(self, Self::ReadOnly(_))
    }

    /// Fills `buffers` from the device at `offset`; the caller checked the range.
    pub(super) fn read(&self, offset: u64, buffers: Buffers<'_>) -> io::Result<()> {
        match self {
            Self::ReadOnly(extents) => extents.read(offset, buffers),
            Self::Writable(writable) => read_file(&writable.file, offset, buffers),
        }
    }

    /// Writes `buffers` to the device at `offset`; the caller checked the range.
    pub(super) fn write(&self, mut offset: u64, mut buffers: Buffers<'_>) -> io::Result<()> {
        let file = self.writable_file()?;
        while !buffers.is_empty() {
            let count = buffers.write_at(file.as_fd(), offset)?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            buffers.advance(count);
            offset += count as u64;
        }
        Ok(())
    }

    /// Makes all completed writes durable.
    pub(super) fn flush(&self) -> io::Result<()> {
        match self {
            Self::ReadOnly(_) => Ok(()),
            Self::Writable(writable) => writable.file.sync_data(),
        }
    }

    /// Gives a range back to the host. A host that cannot take it keeps it: discard is advice.
    pub(super) fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(self.writable_file()?, flags, offset, length) {
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a range read as zeros; `unmap` lets it be given back to the host.
    pub(super) fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        let file = self.writable_file()?;
        let flags = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        match rustix::fs::fallocate(file, flags | FallocateFlags::KEEP_SIZE, offset, length) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP) => write_zeros(file, offset, length),
            Err(error) => Err(error.into()),
        }
    }

    fn writable_file(&self) -> io::Result<&File> {
        match self {
            Self::ReadOnly(_) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            Self::Writable(writable) => Ok(&writable.file),
        }
    }
}

impl Extents {
    fn read(&self, mut offset: u64, mut buffers: Buffers<'_>) -> io::Result<()> {
        let mut index = self.starts.partition_point(|start| *start <= offset).saturating_sub(1);
        while !buffers.is_empty() {
            let (Some(extent), Some(start)) = (self.extents.get(index), self.starts.get(index)) else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let inside = offset - start;
            let count = usize::try_from(extent.length - inside).unwrap_or(usize::MAX).min(buffers.len());
            read_file(&extent.file, extent.offset + inside, buffers.split_front(count))?;
            offset += count as u64;
            index += 1;
        }
        Ok(())
    }
}

fn check_file(file: &File, write: bool) -> Result<(), BackingError> {
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(BackingError::NotAFile);
    }
    let mode = rustix::fs::fcntl_getfl(file).map_err(io::Error::from)? & rustix::fs::OFlags::RWMODE;
    match (write, mode) {
        (true, rustix::fs::OFlags::RDWR) | (false, rustix::fs::OFlags::RDWR | rustix::fs::OFlags::RDONLY) => Ok(()),
        (true, _) => Err(BackingError::Access("reading and writing")),
        (false, _) => Err(BackingError::Access("reading")),
    }
}

/// Fills `buffers` from `file`; beyond its end there are zeros.
fn read_file(file: &File, mut offset: u64, mut buffers: Buffers<'_>) -> io::Result<()> {
    while !buffers.is_empty() {
        let count = buffers.read_at(file.as_fd(), offset)?;
        if count == 0 {
            buffers.zero();
            return Ok(());
        }
        buffers.advance(count);
        offset += count as u64;
    }
    Ok(())
}

fn write_zeros(file: &File, mut offset: u64, mut length: u64) -> io::Result<()> {
    while length > 0 {
        let count = length.min(ZEROS.len() as u64);
        let chunk = usize::try_from(count).unwrap_or(ZEROS.len());
        file.write_all_at(&ZEROS[..chunk], offset)?;
        offset += count;
        length -= count;
    }
    Ok(())
}
