//! Reads the guest kernel's log out of guest memory.
//!
//! `ramoops` keeps its console zone as Linux's `struct persistent_ram_buffer` (`fs/pstore/ram_core.c`), little
//! endian on this architecture:
//!
//! ```text
//!   0  sig    u32   43 47 42 44, "DBGC" as a number written by its high byte first
//!   4  start  u32   where the next byte goes: the oldest byte once the ring is full
//!   8  size   u32   bytes in the ring
//!  12  data   ring of (length - 12) bytes
//! ```
//!
//! The guest may write anything there at any time: header and data are copied, then judged.

use machine::KernelLogRegion;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const SIGNATURE: u32 = 0x4347_4244;
const HEADER: usize = 12;

/// Largest region that is looked at.
pub const REGION_MAX: u32 = 1 << 20;

/// The log, oldest byte first; empty if there is none.
#[must_use]
pub fn read(memory: &GuestMemoryMmap, region: &KernelLogRegion) -> Vec<u8> {
    let length = usize::try_from(region.length.min(REGION_MAX)).unwrap_or(0);
    let mut bytes = vec![0; length];
    if memory.read_slice(&mut bytes, GuestAddress(region.address)).is_err() {
        return Vec::new();
    }
    parse(&bytes).unwrap_or_default()
}

fn parse(bytes: &[u8]) -> Option<Vec<u8>> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let ring = bytes.get(HEADER..)?;
    let start = usize::try_from(word(4)?).ok()?;
    let size = usize::try_from(word(8)?).ok()?;
    if word(0)? != SIGNATURE || size > ring.len() || start > size {
        return None;
    }
    let used = &ring[..size];
    Some([&used[start..], &used[..start]].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn zone(signature: u32, start: u32, size: u32, ring: &[u8]) -> Vec<u8> {
        [&signature.to_le_bytes(), &start.to_le_bytes(), &size.to_le_bytes(), ring].concat()
    }

    #[test]
    fn a_ring_is_read_oldest_first() {
        assert_eq!(parse(&zone(SIGNATURE, 3, 3, b"abc.....")), Some(b"abc".to_vec()), "not yet full");
        assert_eq!(parse(&zone(SIGNATURE, 3, 8, b"fghabcde")), Some(b"abcdefgh".to_vec()), "wrapped");
        assert_eq!(parse(&zone(SIGNATURE, 0, 0, b"")), Some(Vec::new()));
    }

    #[test]
    fn nonsense_is_no_log() {
        for (what, bytes) in [
            ("signature", zone(0, 0, 3, b"abc")),
            ("size beyond the ring", zone(SIGNATURE, 0, 4, b"abc")),
            ("huge size", zone(SIGNATURE, 0, u32::MAX, b"abc")),
            ("start beyond the size", zone(SIGNATURE, 3, 2, b"abc")),
            ("huge start", zone(SIGNATURE, u32::MAX, 3, b"abc")),
            ("no room for a header", vec![0; 11]),
            ("nothing", Vec::new()),
        ] {
            assert_eq!(parse(&bytes), None, "{what}");
        }
    }

    #[test]
    fn a_region_outside_memory_is_no_log() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap();
        for address in [0x3000, 0x4000, u64::MAX] {
            assert!(read(&memory, &KernelLogRegion { address, length: 64 << 10 }).is_empty());
        }
        memory.write_slice(&zone(SIGNATURE, 2, 2, b"hi"), GuestAddress(0x1000)).unwrap();
        assert_eq!(read(&memory, &KernelLogRegion { address: 0x1000, length: 0x1000 }), b"hi");
    }

    proptest! {
        #[test]
        fn the_log_is_never_longer_than_its_region(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(parse(&bytes).unwrap_or_default().len() <= bytes.len());
            let signed = [&SIGNATURE.to_le_bytes()[..], &bytes].concat();
            prop_assert!(parse(&signed).unwrap_or_default().len() <= signed.len());
        }
    }
}
