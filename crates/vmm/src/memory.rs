//! Guest memory: mapped here, given to KVM.

// UNSAFETY: advising about a mapping and handing it to KVM are unsafe in the crates that wrap them, because only
// the caller knows that the mapping outlives its use.
#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Range;

use boot::Layout;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use machine::MachineSpec;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::Advice;
use thiserror::Error;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

/// What is behind a guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous pages, which transparent huge pages may be.
    Private,
    /// A file in memory without a name, which a device process can map too.
    Shared,
}

impl Backing {
    /// What the devices of `spec` need.
    #[must_use]
    pub fn of<F>(spec: &MachineSpec<F>) -> Self {
        if spec.shared_files.is_some() { Self::Shared } else { Self::Private }
    }
}

/// Maps the memory of `layout`: zero pages that cost nothing until the guest touches them, and that no core dump
/// shows.
///
/// # Errors
///
/// [`MemoryError::Map`] with the size that the host would not map.
pub fn allocate(layout: &Layout, backing: Backing) -> Result<GuestMemoryMmap, MemoryError> {
    let regions = layout.ram().iter().map(|range| map(range, backing)).collect::<Result<Vec<_>, _>>()?;
    GuestMemoryMmap::from_regions(regions).map_err(|_| MemoryError::Regions)
}

fn map(range: &Range<u64>, backing: Backing) -> Result<GuestRegionMmap, MemoryError> {
    let bytes = range.end - range.start;
    let fail = |source| MemoryError::Map { mib: bytes >> 20, source };
    let size = usize::try_from(bytes).map_err(|_| MemoryError::Regions)?;
    let builder = MmapRegionBuilder::new(size).with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE);
    let builder = match backing {
        Backing::Private => builder.with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE),
        Backing::Shared => {
            let file = memory_file(bytes).map_err(fail)?;
            builder.with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE).with_file_offset(FileOffset::new(file, 0))
        }
    };
    let region = builder.build().map_err(|error| fail(std::io::Error::other(error)))?;
    // SAFETY: the range is exactly the mapping made above, and the advice changes no contents.
    unsafe { rustix::mm::madvise(region.as_ptr().cast(), size, Advice::LinuxDontDump) }.map_err(|e| fail(e.into()))?;
    GuestRegionMmap::new(region, GuestAddress(range.start)).ok_or(MemoryError::Regions)
}

/// A file of `bytes` in memory. It keeps its size: who maps it is never left without what it maps.
fn memory_file(bytes: u64) -> std::io::Result<File> {
    let file = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, bytes)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}

/// Memory that KVM knows. Holds the machine and its memory together, so that the one does not outlive the other.
#[derive(Debug)]
pub struct Machine {
    /// The virtual machine.
    pub vm: VmFd,
    /// Its memory.
    pub memory: GuestMemoryMmap,
}

/// Registers each region of `memory` as a memory slot of `vm`.
///
/// # Errors
///
/// [`MemoryError::Slot`] if KVM refuses one.
pub fn register(vm: VmFd, memory: GuestMemoryMmap) -> Result<Machine, MemoryError> {
    for (slot, region) in (0u32..).zip(memory.iter()) {
        let slot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr().addr() as u64,
        };
        // SAFETY: the range is one whole mapping of ours. It stays mapped as long as `memory`, of which the result
        // keeps a handle beside the virtual machine; regions do not overlap, in this process or in the guest.
        unsafe { vm.set_user_memory_region(slot) }.map_err(MemoryError::Slot)?;
    }
    Ok(Machine { vm, memory })
}

/// Why there is no guest memory.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The host does not have it.
    #[error("cannot map {mib} MiB of guest memory")]
    Map {
        /// How much.
        mib: u64,
        /// Why.
        source: std::io::Error,
    },
    /// The layout is not one of memory.
    #[error("the memory layout has overlapping ranges")]
    Regions,
    /// KVM does not take it.
    #[error("KVM refuses the guest memory")]
    Slot(#[source] kvm_ioctls::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_mapped_where_the_layout_says() {
        let layout = Layout::new(4 << 30, 0..0).unwrap();
        for backing in [Backing::Private, Backing::Shared] {
            let memory = allocate(&layout, backing).unwrap();
            let ranges: Vec<_> = memory.iter().map(|region| (region.start_addr().0, region.len())).collect();
            assert_eq!(ranges, [(0, 3 << 30), (4 << 30, 1 << 30)]);
            let files = memory.iter().filter(|region| region.file_offset().is_some()).count();
            assert_eq!(files, if backing == Backing::Shared { 2 } else { 0 });
        }
    }

    #[test]
    fn more_than_an_address_space_is_an_error() {
        let layout = Layout::new(boot::layout::MAX_MEMORY, 0..0).unwrap();
        // Hosts with strict overcommit refuse it too; none crashes.
        let _ = allocate(&layout, Backing::Private);
    }
}
