//! Numbers in bytes. What lies beyond the end reads as zero, as ext4 has it for fields of larger structures.

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u16::from_le_bytes(*chunk))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// Big-endian, as the journal has its numbers.
pub(crate) fn be16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u16::from_be_bytes(*chunk))
}

/// Big-endian, as the journal has its numbers.
pub(crate) fn be32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_be_bytes(*chunk))
}

/// Two halves of a number that was widened later.
pub(crate) fn wide(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_end_is_zero() {
        let bytes = [1, 2, 3, 4, 5];
        assert_eq!((u16_at(&bytes, 3), u16_at(&bytes, 4), u16_at(&bytes, usize::MAX)), (0x0504, 0, 0));
        assert_eq!((u32_at(&bytes, 1), u32_at(&bytes, 2)), (0x0504_0302, 0));
        assert_eq!((be16_at(&bytes, 0), be32_at(&bytes, 0), be32_at(&bytes, 9)), (0x0102, 0x0102_0304, 0));
        assert_eq!(wide(1, 2), 0x1_0000_0002);
    }
}
