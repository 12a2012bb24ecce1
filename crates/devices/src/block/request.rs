//! virtio-blk requests as plain data (virtio 1.2, 5.2.6).
//!
//! ```text
//!   readable:  type u32 | reserved u32 | sector u64 | data of writes, segments of discards
//!   writable:  data of reads, identifier | status u8
//! ```

/// Unit of sectors, in bytes.
pub(super) const SECTOR_SIZE: u64 = machine::SECTOR_SIZE;

/// Bytes of a request's header.
pub(super) const HEADER_SIZE: usize = 16;

/// Most bytes of data in one request: [`SEGMENTS_MAX`] segments of [`SEGMENT_SIZE_MAX`] bytes.
pub(super) const DATA_MAX: u64 = SEGMENTS_MAX as u64 * SEGMENT_SIZE_MAX as u64;

/// Most data segments of a request: with header and status they fill a queue of 128.
pub(super) const SEGMENTS_MAX: u32 = 126;

/// Most bytes of a data segment.
pub(super) const SEGMENT_SIZE_MAX: u32 = 256 << 10;

/// Bytes of a discard or write-zeroes segment: sector `u64`, sectors `u32`, flags `u32`.
pub(super) const RANGE_SIZE: usize = 16;

/// Most ranges in one discard or write-zeroes request.
pub(super) const RANGES_MAX: u32 = 64;

/// Bytes of the identifier that `GET_ID` reads.
pub(super) const ID_SIZE: usize = 20;

const UNMAP: u32 = 1;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    Write,
    Flush,
    GetId,
    Discard,
    WriteZeroes,
}

/// A request's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// `None` for a type that is not known.
    pub(super) operation: Option<Operation>,
    pub(super) sector: u64,
}

impl Header {
    pub(super) fn parse(bytes: [u8; HEADER_SIZE]) -> Self {
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = bytes;
        let operation = match u32::from_le_bytes([t0, t1, t2, t3]) {
            0 => Some(Operation::Read),
            1 => Some(Operation::Write),
            4 => Some(Operation::Flush),
            8 => Some(Operation::GetId),
            11 => Some(Operation::Discard),
            13 => Some(Operation::WriteZeroes),
            _ => None,
        };
        Self { operation, sector: u64::from_le_bytes(sector) }
    }
}

/// A range of sectors to discard or to zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    /// First byte.
    pub(super) offset: u64,
    /// Bytes.
    pub(super) length: u64,
    /// The host may forget it.
    pub(super) unmap: bool,
}

impl Range {
    /// Reads a range of a device of `capacity` sectors; `unmap_allowed` says whether that flag has a meaning.
    pub(super) fn parse(bytes: [u8; RANGE_SIZE], capacity: u64, unmap_allowed: bool) -> Result<Self, Status> {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = bytes;
        let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let flags = u32::from_le_bytes(flags);
        let allowed = if unmap_allowed { UNMAP } else { 0 };
        if flags & !allowed != 0 {
            return Err(Status::Unsupported);
        }
        let (offset, length) = bytes_of(sector, u64::from(sectors) * SECTOR_SIZE, capacity).ok_or(Status::IoError)?;
        if length == 0 {
            return Err(Status::IoError);
        }
        Ok(Self { offset, length, unmap: flags & UNMAP != 0 })
    }
}

/// Offset and length in bytes of `length` bytes from `sector`, if they are whole sectors of a device of `capacity`
/// sectors.
pub(super) fn bytes_of(sector: u64, length: u64, capacity: u64) -> Option<(u64, u64)> {
    if !length.is_multiple_of(SECTOR_SIZE) || length > DATA_RANGE_MAX {
        return None;
    }
    let end = sector.checked_add(length / SECTOR_SIZE)?;
    if end > capacity {
        return None;
    }
    Some((sector.checked_mul(SECTOR_SIZE)?, length))
}

/// `u32::MAX` sectors: what one range can say.
const DATA_RANGE_MAX: u64 = u32::MAX as u64 * SECTOR_SIZE;
