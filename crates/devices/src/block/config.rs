//! The configuration space of a block device (`struct virtio_blk_config`, virtio 1.2, 5.2.4), little endian.

use super::request::{RANGES_MAX, SECTOR_SIZE, SEGMENT_SIZE_MAX, SEGMENTS_MAX};

/// Bytes, to the end of the write-zeroes fields.
pub(super) const SIZE: usize = 60;

/// Blocks of what is below, as a power of two of sectors: 4096 bytes.
const PHYSICAL_BLOCK_EXPONENT: u8 = 3;

/// Most sectors of one discard or write-zeroes range: 1 GiB, so that no request takes for ever.
const RANGE_SECTORS_MAX: u32 = 1 << 21;

pub(super) fn encode(sectors: u64, read_only: bool) -> [u8; SIZE] {
    let mut config = [0; SIZE];
    let mut put = |offset: usize, bytes: &[u8]| config[offset..offset + bytes.len()].copy_from_slice(bytes);
    let block = 1u32 << PHYSICAL_BLOCK_EXPONENT;
    put(0, &sectors.to_le_bytes());
    put(8, &SEGMENT_SIZE_MAX.to_le_bytes());
    put(12, &SEGMENTS_MAX.to_le_bytes());
    put(20, &u32::try_from(SECTOR_SIZE).unwrap_or(512).to_le_bytes());
    put(24, &[PHYSICAL_BLOCK_EXPONENT]);
    put(26, &u16::try_from(block).unwrap_or(1).to_le_bytes()); // least I/O in sectors
    if !read_only {
        put(36, &RANGE_SECTORS_MAX.to_le_bytes()); // discard
        put(40, &RANGES_MAX.to_le_bytes());
        put(44, &block.to_le_bytes()); // alignment
        put(48, &RANGE_SECTORS_MAX.to_le_bytes()); // write zeroes
        put(52, &RANGES_MAX.to_le_bytes());
        put(56, &[1]); // zeroing may unmap
    }
    config
}
