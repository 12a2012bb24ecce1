//! What a machine is made of.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

/// Size in bytes of the unit in which virtio-blk counts (virtio 1.2, 5.2.4).
pub const SECTOR_SIZE: u64 = 512;

/// Position of a file descriptor among those sent to the machine process, from 0.
pub type FileIndex = u32;

/// A microVM. `F` is how a file is named: a path on the planning side, a [`FileIndex`] on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec<F> {
    /// Number of vCPUs, at least 1.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Uncompressed ELF kernel with a PVH note and the Linux 64-bit entry.
    pub kernel: F,
    /// Uncompressed newc archive with the guest init as `/init`.
    pub initrd: F,
    /// Kernel command line without the parts that the back end adds (devices, reset method).
    pub cmdline: String,
    /// Block devices in slot order. The guest finds them by [`Disk::id`], not by order.
    pub disks: Vec<Disk<F>>,
    /// The vsock device.
    pub vsock: Vsock<F>,
    /// The virtio-fs device, where the machine sees files of the host.
    pub shared_files: Option<SharedFiles<F>>,
    /// Where the guest kernel keeps its log in its memory.
    pub kernel_log: KernelLogRegion,
    /// Takes the bytes of the serial console, if one is wanted. Costs an exit per byte: for debugging.
    pub console: Option<F>,
}

/// Name of a disk as the guest sees it: the virtio-blk serial, 1 to 20 bytes of `[a-z0-9-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DiskId(pub String);

/// A block device of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk<F> {
    /// Reported as the virtio-blk serial number.
    pub id: DiskId,
    /// Where its bytes come from.
    pub backing: BlockBacking<F>,
    /// How fast the guest may use it.
    pub rates: DiskRates,
}

/// Limits of a disk's use, reads and writes apart. Without any it is as fast as the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRates {
    /// Of reads.
    pub read: Rate,
    /// Of writes, with what discards and zeroes.
    pub write: Rate,
}

/// A limit of one direction. Both bounds hold where both are given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Bytes per second.
    pub bytes: Option<NonZeroU64>,
    /// Requests per second.
    pub operations: Option<NonZeroU64>,
}

/// What is behind a block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockBacking<F> {
    /// A read-only device: extents of files, one after the other.
    ReadOnly {
        /// In device order. The device's capacity is the sum of their lengths.
        extents: Vec<Extent<F>>,
    },
    /// A writable device over one whole file; its size is the device's capacity.
    Writable {
        /// A regular file opened for reading and writing, its size a multiple of [`SECTOR_SIZE`].
        file: F,
    },
    /// A read-only device over one whole file, which other machines may read at the same time and none may write.
    Shared {
        /// A regular file, its size a multiple of 4096.
        file: F,
    },
}

/// A range of a file, in bytes. Every length and offset is a multiple of 4096.
///
/// A file may be shorter than `offset + length`: what lies beyond its end reads as zeros.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent<F> {
    /// The file.
    pub file: F,
    /// First byte of the range in the file.
    pub offset: u64,
    /// Length of the range.
    pub length: u64,
}

/// The vsock device of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vsock<F> {
    /// Context identifier of the guest, at least 3. It is local to the machine: nothing is registered with
    /// the host kernel.
    pub guest_cid: u32,
    /// The machine's end of a `SOCK_SEQPACKET` pair that hands connections over: see [`crate::vsock`].
    /// Planning leaves it open (`None`); the monitor makes the pair.
    pub channel: Option<F>,
}

/// The virtio-fs device of a machine. Its queues are served by a daemon outside of it, which maps the guest's memory: the
/// memory of such a machine is a file that can be shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFiles<F> {
    /// What the guest mounts the file system by: 1 to 36 bytes (virtio 1.2, 5.11.4).
    pub tag: String,
    /// A stream socket that is connected to the daemon (vhost-user). Planning leaves it open (`None`); the monitor
    /// starts the daemon.
    pub channel: Option<F>,
}

/// A range of guest physical memory that the kernel does not use otherwise and to which `ramoops` logs.
///
/// Its first zone (console) starts at `address`: magic `DBGC`, `start: u32`, `size: u32`, then a ring of
/// `length - 12` bytes (Linux `fs/pstore/ram_core.c`, `struct persistent_ram_buffer`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelLogRegion {
    /// Guest physical address, page aligned, below the kernel's load address.
    pub address: u64,
    /// Bytes, a power of two.
    pub length: u32,
}

impl KernelLogRegion {
    /// The region of every Coracle machine: 64 KiB at 8 MiB.
    pub const STANDARD: Self = Self { address: 8 << 20, length: 64 << 10 };
}

impl<F> MachineSpec<F> {
    /// Renames every file with `rename`, in a fixed order: kernel, initrd, disks in slot order with their
    /// extents in device order, the vsock channel, the channel of the shared files, the console.
    ///
    /// # Errors
    ///
    /// The first error that `rename` returns.
    pub fn try_map_files<G, E>(self, mut rename: impl FnMut(F) -> Result<G, E>) -> Result<MachineSpec<G>, E> {
        Ok(MachineSpec {
            vcpus: self.vcpus,
            memory_mib: self.memory_mib,
            kernel: rename(self.kernel)?,
            initrd: rename(self.initrd)?,
            cmdline: self.cmdline,
            disks: self.disks.into_iter().map(|disk| disk.try_map_files(&mut rename)).collect::<Result<_, E>>()?,
            vsock: Vsock { guest_cid: self.vsock.guest_cid, channel: self.vsock.channel.map(&mut rename).transpose()? },
            shared_files: match self.shared_files {
                Some(SharedFiles { tag, channel }) => {
                    Some(SharedFiles { tag, channel: channel.map(&mut rename).transpose()? })
                }
                None => None,
            },
            kernel_log: self.kernel_log,
            console: self.console.map(&mut rename).transpose()?,
        })
    }
}

impl<F> Disk<F> {
    /// A disk without limits of its use.
    #[must_use]
    pub fn new(id: &str, backing: BlockBacking<F>) -> Self {
        Self { id: DiskId(id.to_owned()), backing, rates: DiskRates::default() }
    }

    fn try_map_files<G, E>(self, rename: &mut impl FnMut(F) -> Result<G, E>) -> Result<Disk<G>, E> {
        let backing = match self.backing {
            BlockBacking::ReadOnly { extents } => {
                let extents = extents
                    .into_iter()
                    .map(|e| Ok(Extent { file: rename(e.file)?, offset: e.offset, length: e.length }));
                BlockBacking::ReadOnly { extents: extents.collect::<Result<_, E>>()? }
            }
            BlockBacking::Writable { file } => BlockBacking::Writable { file: rename(file)? },
            BlockBacking::Shared { file } => BlockBacking::Shared { file: rename(file)? },
        };
        Ok(Disk { id: self.id, backing, rates: self.rates })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_renamed_in_the_documented_order() {
        let extent = |file| Extent { file, offset: 0, length: 4096 };
        let spec = MachineSpec {
            vcpus: 1,
            memory_mib: 64,
            kernel: "kernel",
            initrd: "initrd",
            cmdline: String::new(),
            disks: vec![
                Disk::new("root", BlockBacking::ReadOnly { extents: vec![extent("metadata"), extent("layer")] }),
                Disk::new("scratch", BlockBacking::Writable { file: "scratch" }),
                Disk::new("volume0", BlockBacking::Shared { file: "volume" }),
            ],
            vsock: Vsock { guest_cid: 3, channel: Some("channel") },
            shared_files: Some(SharedFiles { tag: "files".to_owned(), channel: Some("daemon") }),
            kernel_log: KernelLogRegion::STANDARD,
            console: Some("console"),
        };
        let mut seen = Vec::new();
        let renamed = spec.try_map_files(|name| {
            seen.push(name);
            Ok::<_, ()>(u32::try_from(seen.len()).unwrap() - 1)
        });
        assert_eq!(
            seen,
            ["kernel", "initrd", "metadata", "layer", "scratch", "volume", "channel", "daemon", "console"]
        );
        let renamed = renamed.unwrap();
        assert_eq!((renamed.kernel, renamed.vsock.channel, renamed.console), (0, Some(6), Some(8)));
        assert_eq!(renamed.disks[1].backing, BlockBacking::Writable { file: 4 });
    }

    #[test]
    fn the_first_error_ends_the_renaming() {
        let spec = MachineSpec {
            vcpus: 1,
            memory_mib: 64,
            kernel: 1,
            initrd: 2,
            cmdline: String::new(),
            disks: Vec::new(),
            vsock: Vsock { guest_cid: 3, channel: None },
            shared_files: None,
            kernel_log: KernelLogRegion::STANDARD,
            console: Some(3),
        };
        assert_eq!(spec.try_map_files(|n| if n == 2 { Err(n) } else { Ok(n) }), Err(2));
    }
}
