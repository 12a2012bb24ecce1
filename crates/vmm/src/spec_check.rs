//! A spec is believed only as far as somebody has looked at it.
//!
//! What [`crate::layout::plan`], `boot` and `devices` refuse is theirs to refuse. Here is what none of them sees: the
//! number of vCPUs, the files that are no device's, and disks that would meet in one file.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use boot::mp_table::MAX_VCPUS;
use machine::{BlockBacking, Disk, FileIndex, MachineSpec};
use thiserror::Error;

/// Checks `spec` against the files that came with it.
///
/// # Errors
///
/// [`SpecError`] naming what is wrong.
pub fn check(spec: &MachineSpec<FileIndex>, files: &[Arc<File>]) -> Result<(), SpecError> {
    if !(1..=MAX_VCPUS).contains(&spec.vcpus) {
        return Err(SpecError::Vcpus(spec.vcpus));
    }
    file(files, spec.kernel, "kernel")?;
    file(files, spec.initrd, "initrd")?;
    if let Some(console) = spec.console {
        file(files, console, "console")?;
    }
    check_sharing(&spec.disks, files)
}

/// The file with this index.
///
/// # Errors
///
/// [`SpecError::NoFile`] with its role if that many were not sent.
pub fn file<'a>(files: &'a [Arc<File>], index: FileIndex, role: &'static str) -> Result<&'a Arc<File>, SpecError> {
    let position = usize::try_from(index).unwrap_or(usize::MAX);
    files.get(position).ok_or(SpecError::NoFile { role, index, sent: files.len() })
}

/// A file that is written belongs to one disk. Read-only ones may be shared, even within a disk: an image can have
/// the same layer twice.
fn check_sharing(disks: &[Disk<FileIndex>], files: &[Arc<File>]) -> Result<(), SpecError> {
    let identity = |index: &FileIndex| {
        let metadata = files.get(usize::try_from(*index).ok()?)?.metadata().ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let mut read = HashSet::new();
    let mut written = HashSet::new();
    for Disk { id, backing, .. } in disks {
        let met = match backing {
            BlockBacking::ReadOnly { extents } => {
                let new: HashSet<_> = extents.iter().filter_map(|extent| identity(&extent.file)).collect();
                let met = !new.is_disjoint(&written);
                read.extend(new);
                met
            }
            BlockBacking::Shared { file } => identity(file).is_some_and(|file| {
                read.insert(file);
                written.contains(&file)
            }),
            BlockBacking::Writable { file } => {
                identity(file).is_some_and(|file| read.contains(&file) || !written.insert(file))
            }
        };
        if met {
            return Err(SpecError::SharedWritable(id.0.clone()));
        }
    }
    Ok(())
}

/// What is wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SpecError {
    /// Number of vCPUs.
    #[error("{0} vCPUs are not between 1 and {MAX_VCPUS}")]
    Vcpus(u8),
    /// A file that was not sent.
    #[error("{role} is file {index}, and {sent} were sent")]
    NoFile {
        /// What it was to be.
        role: &'static str,
        /// Its index.
        index: FileIndex,
        /// How many there are.
        sent: usize,
    },
    /// A file that one disk writes and another uses.
    #[error("disk {0:?} shares a file with another disk, and one of them writes")]
    SharedWritable(String),
}

#[cfg(test)]
pub(crate) mod tests {
    use machine::{Extent, KernelLogRegion, Vsock};

    use super::*;

    fn read_only(id: &str, files: &[u32]) -> Disk<FileIndex> {
        let extents = files.iter().map(|&file| Extent { file, offset: 0, length: 4096 }).collect();
        Disk::new(id, BlockBacking::ReadOnly { extents })
    }

    fn writable(id: &str, file: u32) -> Disk<FileIndex> {
        Disk::new(id, BlockBacking::Writable { file })
    }

    /// A good spec over six files.
    pub(crate) fn spec() -> MachineSpec<FileIndex> {
        MachineSpec {
            vcpus: 1,
            memory_mib: 128,
            kernel: 0,
            initrd: 1,
            cmdline: String::new(),
            disks: vec![read_only("root", &[2, 3]), writable("scratch", 4)],
            vsock: Vsock { guest_cid: 3, channel: Some(5) },
            shared_files: None,
            kernel_log: KernelLogRegion::STANDARD,
            console: None,
        }
    }

    /// The error after `change`.
    fn refusal(change: impl FnOnce(&mut MachineSpec<FileIndex>)) -> SpecError {
        let files: Vec<_> = (0..6).map(|_| Arc::new(tempfile::tempfile().unwrap())).collect();
        let mut spec = spec();
        check(&spec, &files).unwrap();
        change(&mut spec);
        check(&spec, &files).unwrap_err()
    }

    #[test]
    fn numbers_of_vcpus_have_limits() {
        assert_eq!(refusal(|spec| spec.vcpus = 0), SpecError::Vcpus(0));
        assert_eq!(refusal(|spec| spec.vcpus = 255), SpecError::Vcpus(255));
    }

    #[test]
    fn missing_files_are_named() {
        let missing = |role, index| SpecError::NoFile { role, index, sent: 6 };
        assert_eq!(refusal(|spec| spec.kernel = 6), missing("kernel", 6));
        assert_eq!(refusal(|spec| spec.initrd = u32::MAX), missing("initrd", u32::MAX));
        assert_eq!(refusal(|spec| spec.console = Some(9)), missing("console", 9));
    }

    #[test]
    fn disks_that_would_meet_are_refused() {
        for disks in [
            vec![writable("a", 4), writable("b", 4)],
            vec![writable("a", 4), read_only("b", &[2, 4])],
            vec![read_only("a", &[2, 4]), writable("b", 4)],
            vec![Disk::new("a", BlockBacking::Shared { file: 4 }), writable("b", 4)],
            vec![writable("a", 4), Disk::new("b", BlockBacking::Shared { file: 4 })],
        ] {
            assert_eq!(refusal(|spec| spec.disks = disks), SpecError::SharedWritable("b".into()));
        }
    }

    #[test]
    fn an_image_may_have_a_layer_twice() {
        let files: Vec<_> = (0..6).map(|_| Arc::new(tempfile::tempfile().unwrap())).collect();
        let mut spec = spec();
        spec.disks = vec![read_only("root", &[2, 3, 3]), read_only("other", &[3]), writable("scratch", 4)];
        check(&spec, &files).unwrap();
    }
}
