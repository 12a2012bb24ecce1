//! From the description of a machine to its virtio devices.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use machine::{BlockBacking, Disk, FileIndex};
use thiserror::Error;

use crate::balloon::Balloon;
use crate::block::{Backing, BackingError, Block, ReadOnlyExtent};
use crate::device::VirtioDevice;
use crate::fs::Fs;
use crate::rng::Rng;
use crate::vsock::Vsock;

/// Longest disk identifier in bytes (virtio 1.2, 5.2.6).
const ID_MAX: usize = 20;

/// Least context identifier of a guest, and the one that means "any".
const CID_MIN: u32 = 3;
const CID_ANY: u32 = u32::MAX;

/// Why a description cannot become devices.
#[derive(Debug, Error)]
pub enum SpecError {
    /// A file that was not sent along.
    #[error("{what} is file {index}, which was not sent")]
    File {
        /// What wanted it.
        what: String,
        /// Its index.
        index: FileIndex,
    },
    /// A disk identifier that is no virtio-blk serial.
    #[error("disk identifier {0:?} is not 1 to 20 characters of a-z, 0-9 and -")]
    DiskId(String),
    /// Two disks with one identifier.
    #[error("two disks are called {0:?}")]
    DuplicateDisk(String),
    /// A disk whose files cannot be one.
    #[error("disk {id:?}")]
    Disk {
        /// Its identifier.
        id: String,
        /// Why not.
        source: BackingError,
    },
    /// A context identifier that is reserved.
    #[error("vsock context identifier {0} is reserved")]
    GuestCid(u32),
    /// A machine whose vsock has no host.
    #[error("vsock has no channel to the host")]
    NoChannel,
    /// The vsock device could not be made.
    #[error("vsock device")]
    Vsock(#[source] io::Error),
    /// Shared files without a daemon.
    #[error("shared files have no channel to the daemon that has them")]
    NoDaemon,
    /// The file system device could not be made.
    #[error("shared files")]
    Fs(#[source] io::Error),
}

/// Makes the virtio devices of a machine: its disks in slot order, vsock, shared files if there are any, entropy, balloon.
/// `files` are those that were sent along, by [`FileIndex`].
///
/// # Errors
///
/// [`SpecError`] names the object that cannot be.
pub fn from_spec(
    disks: &[Disk<FileIndex>],
    vsock: &machine::Vsock<FileIndex>,
    shared_files: Option<&machine::SharedFiles<FileIndex>>,
    files: &[Arc<File>],
) -> Result<Vec<Box<dyn VirtioDevice>>, SpecError> {
    let mut devices: Vec<Box<dyn VirtioDevice>> = Vec::with_capacity(disks.len() + 4);
    for (position, disk) in disks.iter().enumerate() {
        let id = &disk.id.0;
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if id.is_empty() || id.len() > ID_MAX || !id.bytes().all(allowed) {
            return Err(SpecError::DiskId(id.clone()));
        }
        if disks[..position].iter().any(|other| other.id == disk.id) {
            return Err(SpecError::DuplicateDisk(id.clone()));
        }
        devices.push(Box::new(Block::new(backing(disk, files)?, id, disk.rates)));
    }
    devices.push(Box::new(make_vsock(vsock, files)?));
    if let Some(shared) = shared_files {
        devices.push(Box::new(make_fs(shared, files)?));
    }
    devices.push(Box::new(Rng::new()));
    devices.push(Box::new(Balloon::new()));
    Ok(devices)
}

fn backing(disk: &Disk<FileIndex>, files: &[Arc<File>]) -> Result<Backing, SpecError> {
    let file = |index| find(files, index, || format!("disk {:?}", disk.id.0));
    let backing = match &disk.backing {
        BlockBacking::ReadOnly { extents } => {
            let extents = extents.iter().map(|extent| {
                Ok(ReadOnlyExtent { file: file(extent.file)?, offset: extent.offset, length: extent.length })
            });
            Backing::read_only(extents.collect::<Result<_, SpecError>>()?)
        }
        BlockBacking::Writable { file: index } => Backing::writable(file(*index)?),
        BlockBacking::Shared { file: index } => Backing::shared(file(*index)?),
    };
    backing.map_err(|source| SpecError::Disk { id: disk.id.0.clone(), source })
}

fn make_vsock(vsock: &machine::Vsock<FileIndex>, files: &[Arc<File>]) -> Result<Vsock, SpecError> {
    if vsock.guest_cid < CID_MIN || vsock.guest_cid == CID_ANY {
        return Err(SpecError::GuestCid(vsock.guest_cid));
    }
    let channel = find(files, vsock.channel.ok_or(SpecError::NoChannel)?, || "vsock channel".into())?;
    let channel = OwnedFd::from(channel.try_clone().map_err(SpecError::Vsock)?);
    Vsock::new(vsock.guest_cid, channel).map_err(SpecError::Vsock)
}

fn make_fs(shared: &machine::SharedFiles<FileIndex>, files: &[Arc<File>]) -> Result<Fs, SpecError> {
    let channel = find(files, shared.channel.ok_or(SpecError::NoDaemon)?, || "channel of the shared files".into())?;
    let channel = OwnedFd::from(channel.try_clone().map_err(SpecError::Fs)?);
    Fs::new(&shared.tag, channel.into()).map_err(SpecError::Fs)
}

fn find(files: &[Arc<File>], index: FileIndex, what: impl FnOnce() -> String) -> Result<Arc<File>, SpecError> {
    let file = usize::try_from(index).ok().and_then(|at| files.get(at));
    file.cloned().ok_or_else(|| SpecError::File { what: what(), index })
}

#[cfg(test)]
mod tests;
