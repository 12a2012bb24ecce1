//! Guest memory as the peer describes it.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// The memory of a guest, for those who want to read it: empty until the peer has sent it, kept after the peer's
/// end. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryCell(Arc<Mutex<Option<GuestMemoryMmap>>>);

impl MemoryCell {
    /// The memory, if it is known.
    #[must_use]
    pub fn get(&self) -> Option<GuestMemoryMmap> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, memory: GuestMemoryMmap) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(memory);
    }
}

/// A peer's view of guest memory, by which it names ring addresses.
#[derive(Debug, Clone, Copy)]
struct PeerRange {
    peer: u64,
    guest: u64,
    length: u64,
}

/// Mapped guest memory with the peer's addresses of it.
#[derive(Debug)]
pub(super) struct PeerMemory {
    pub(super) guest: GuestMemoryMmap,
    ranges: Vec<PeerRange>,
}

impl PeerMemory {
    /// Maps what the peer sent. A file that is shorter than its region is refused: touching what is missing would
    /// kill this process.
    pub(super) fn map(regions: &[VhostUserMemoryRegion], files: Vec<File>) -> io::Result<Self> {
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let mut mapped = Vec::with_capacity(regions.len());
        let mut ranges = Vec::with_capacity(regions.len());
        for (region, file) in regions.iter().zip(files) {
            let end = region.mmap_offset.checked_add(region.memory_size);
            if end.is_none_or(|end| end > file.metadata().map_or(0, |metadata| metadata.len())) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let size = usize::try_from(region.memory_size).map_err(|_| io::ErrorKind::InvalidInput)?;
            let mapping =
                MmapRegion::from_file(FileOffset::new(file, region.mmap_offset), size).map_err(io::Error::other)?;
            let region_of_guest = GuestRegionMmap::new(mapping, GuestAddress(region.guest_phys_addr));
            mapped.push(region_of_guest.ok_or(io::ErrorKind::InvalidInput)?);
            ranges.push(PeerRange {
                peer: region.user_addr,
                guest: region.guest_phys_addr,
                length: region.memory_size,
            });
        }
        mapped.sort_by_key(|region| vm_memory::GuestMemoryRegion::start_addr(region).0);
        Ok(Self { guest: GuestMemoryMmap::from_regions(mapped).map_err(invalid)?, ranges })
    }

    /// The guest's address of what the peer has at `peer`.
    pub(super) fn guest_address(&self, peer: u64) -> Option<GuestAddress> {
        self.ranges.iter().find_map(|range| {
            let offset = peer.checked_sub(range.peer).filter(|offset| *offset < range.length)?;
            range.guest.checked_add(offset).map(GuestAddress)
        })
    }
}
