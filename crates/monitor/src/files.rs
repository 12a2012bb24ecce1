//! Opens what a spec names.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use machine::{BlockBacking, Disk, Extent, MachineSpec, SharedFiles, Vsock};
use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use crate::launch::LaunchError;

/// How long somebody may hold a disk who only looks whether it is free.
const LOCK_PATIENCE: Duration = Duration::from_millis(100);

/// Opens every file of `spec` and gives it `channel` as its end of the vsock channel.
///
/// Files that a machine only reads are opened read-only. A writable disk is locked (`flock`, exclusive) for as
/// long as the machine process has it open, longer than we live if it comes to that: two machines on one file
/// system would destroy it. One that others may read too is locked the same way, but shared.
pub(crate) fn open(spec: MachineSpec<PathBuf>, channel: OwnedFd) -> Result<MachineSpec<OwnedFd>, LaunchError> {
    if spec.vsock.channel.is_some() {
        return Err(LaunchError::ChannelGiven);
    }
    if spec.shared_files.as_ref().is_some_and(|shared| shared.channel.is_some()) {
        return Err(LaunchError::DaemonGiven);
    }
    Ok(MachineSpec {
        vcpus: spec.vcpus,
        memory_mib: spec.memory_mib,
        kernel: read_only(&spec.kernel, "kernel")?,
        initrd: read_only(&spec.initrd, "initrd")?,
        cmdline: spec.cmdline,
        disks: spec.disks.into_iter().map(disk).collect::<Result<_, _>>()?,
        vsock: Vsock { guest_cid: spec.vsock.guest_cid, channel: Some(channel) },
        shared_files: spec.shared_files.map(|SharedFiles { tag, .. }| SharedFiles { tag, channel: None }),
        kernel_log: spec.kernel_log,
        console: spec.console.as_deref().map(console).transpose()?,
    })
}

fn disk(disk: Disk<PathBuf>) -> Result<Disk<OwnedFd>, LaunchError> {
    let role = format!("disk {:?}", disk.id.0);
    let backing = match disk.backing {
        BlockBacking::ReadOnly { extents } => {
            let open = |e: Extent<PathBuf>| {
                Ok(Extent { file: read_only(&e.file, &role)?, offset: e.offset, length: e.length })
            };
            BlockBacking::ReadOnly { extents: extents.into_iter().map(open).collect::<Result<_, LaunchError>>()? }
        }
        BlockBacking::Writable { file } => BlockBacking::Writable { file: writable(&file, &role)? },
        BlockBacking::Shared { file } => BlockBacking::Shared { file: shared(&file, &role)? },
    };
    Ok(Disk { id: disk.id, backing, rates: disk.rates })
}

fn read_only(path: &Path, role: &str) -> Result<OwnedFd, LaunchError> {
    regular(path, role, OpenOptions::new().read(true))
}

fn writable(path: &Path, role: &str) -> Result<OwnedFd, LaunchError> {
    lock(regular(path, role, OpenOptions::new().read(true).write(true))?, path, role, LockKind::Exclusive)
}

fn shared(path: &Path, role: &str) -> Result<OwnedFd, LaunchError> {
    lock(read_only(path, role)?, path, role, LockKind::Shared)
}

/// Who else may have a disk.
#[derive(Debug, Clone, Copy)]
enum LockKind {
    /// Nobody.
    Exclusive,
    /// Other readers.
    Shared,
}

fn lock(file: OwnedFd, path: &Path, role: &str, kind: LockKind) -> Result<OwnedFd, LaunchError> {
    let operation = match kind {
        LockKind::Exclusive => FlockOperation::NonBlockingLockExclusive,
        LockKind::Shared => FlockOperation::NonBlockingLockShared,
    };
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(&file, operation) {
            Ok(()) => return Ok(file),
            Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Err(Errno::AGAIN) => return Err(LaunchError::DiskBusy { path: path.to_owned() }),
            Err(error) => return Err(file_error(path, role, error.into())),
        }
    }
}

/// The console's file may be a terminal or a pipe too.
fn console(path: &Path) -> Result<OwnedFd, LaunchError> {
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    opened.map(OwnedFd::from).map_err(|source| file_error(path, "console", source))
}

fn regular(path: &Path, role: &str, options: &mut OpenOptions) -> Result<OwnedFd, LaunchError> {
    // Without O_NONBLOCK, opening a FIFO waits for its other end. On regular files the flag does nothing.
    let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let open = |options: &mut OpenOptions| -> io::Result<File> {
        let file = options.custom_flags(nonblock).open(path)?;
        if file.metadata()?.is_file() {
            return Ok(file);
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    };
    open(options).map(OwnedFd::from).map_err(|source| file_error(path, role, source))
}

fn file_error(path: &Path, role: &str, source: io::Error) -> LaunchError {
    LaunchError::File { role: role.to_owned(), path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use machine::KernelLogRegion;

    use super::*;

    fn spec(dir: &Path) -> MachineSpec<PathBuf> {
        for name in ["kernel", "initrd", "layer", "scratch"] {
            fs::write(dir.join(name), name).unwrap();
        }
        let root =
            BlockBacking::ReadOnly { extents: vec![Extent { file: dir.join("layer"), offset: 0, length: 4096 }] };
        MachineSpec {
            vcpus: 1,
            memory_mib: 64,
            kernel: dir.join("kernel"),
            initrd: dir.join("initrd"),
            cmdline: String::new(),
            disks: vec![
                Disk::new("root", root),
                Disk::new("scratch", BlockBacking::Writable { file: dir.join("scratch") }),
            ],
            vsock: Vsock { guest_cid: 3, channel: None },
            shared_files: None,
            kernel_log: KernelLogRegion::STANDARD,
            console: Some(dir.join("console")),
        }
    }

    fn open_spec(spec: MachineSpec<PathBuf>) -> Result<MachineSpec<OwnedFd>, LaunchError> {
        open(spec, crate::seqpacket::pair().unwrap().0)
    }

    fn access(file: &OwnedFd) -> OFlags {
        rustix::fs::fcntl_getfl(file).unwrap() & OFlags::RWMODE
    }

    #[test]
    fn only_what_is_written_is_opened_for_writing() {
        let dir = tempfile::tempdir().unwrap();
        let spec = open_spec(spec(dir.path())).unwrap();
        assert_eq!(access(&spec.kernel), OFlags::RDONLY);
        assert_eq!(access(&spec.initrd), OFlags::RDONLY);
        assert_eq!(access(&spec.console.unwrap()), OFlags::WRONLY);
        let [root, scratch] = spec.disks.try_into().unwrap();
        assert!(
            matches!(&root.backing, BlockBacking::ReadOnly { extents } if access(&extents[0].file) == OFlags::RDONLY)
        );
        assert!(matches!(&scratch.backing, BlockBacking::Writable { file } if access(file) == OFlags::RDWR));
    }

    #[test]
    fn a_missing_file_is_named_with_its_role() {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = spec(dir.path());
        fs::remove_file(dir.path().join("layer")).unwrap();
        let error = open_spec(spec.clone()).unwrap_err().to_string();
        assert!(error.contains("disk \"root\"") && error.contains("/layer"), "{error}");
        spec.kernel = dir.path().join("no-kernel");
        let error = open_spec(spec).unwrap_err().to_string();
        assert!(error.contains("kernel") && error.contains("/no-kernel"), "{error}");
    }

    #[test]
    fn directories_and_fifos_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = spec(dir.path());
        spec.initrd = dir.path().to_owned();
        assert!(matches!(open_spec(spec.clone()), Err(LaunchError::File { role, .. }) if role == "initrd"));
        let fifo = dir.path().join("fifo");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        spec.initrd = fifo;
        assert!(matches!(open_spec(spec), Err(LaunchError::File { role, .. }) if role == "initrd"));
    }

    #[test]
    fn a_writable_disk_belongs_to_one_machine() {
        let dir = tempfile::tempdir().unwrap();
        let first = open_spec(spec(dir.path())).unwrap();
        let second = open_spec(spec(dir.path()));
        assert!(matches!(second, Err(LaunchError::DiskBusy { path }) if path.ends_with("scratch")));
        drop(first);
        open_spec(spec(dir.path())).unwrap();
    }

    #[test]
    fn a_shared_disk_has_readers_or_a_writer() {
        let dir = tempfile::tempdir().unwrap();
        let reading = |dir: &Path| {
            let mut spec = spec(dir);
            spec.disks = vec![Disk::new("volume0", BlockBacking::Shared { file: dir.join("volume") })];
            spec
        };
        let writing = |dir: &Path| {
            let mut spec = spec(dir);
            spec.disks = vec![Disk::new("volume0", BlockBacking::Writable { file: dir.join("volume") })];
            spec
        };
        fs::write(dir.path().join("volume"), "volume").unwrap();
        let readers = [open_spec(reading(dir.path())).unwrap(), open_spec(reading(dir.path())).unwrap()];
        assert!(
            matches!(&readers[0].disks[0].backing, BlockBacking::Shared { file } if access(file) == OFlags::RDONLY)
        );
        assert!(matches!(open_spec(writing(dir.path())), Err(LaunchError::DiskBusy { .. })));
        drop(readers);
        let writer = open_spec(writing(dir.path())).unwrap();
        assert!(matches!(open_spec(reading(dir.path())), Err(LaunchError::DiskBusy { .. })));
        drop(writer);
    }

    #[test]
    fn a_spec_with_a_channel_of_its_own_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = spec(dir.path());
        spec.vsock.channel = Some(dir.path().join("kernel"));
        assert!(matches!(open_spec(spec.clone()), Err(LaunchError::ChannelGiven)));
        spec.vsock.channel = None;
        spec.shared_files = Some(SharedFiles { tag: "binds".into(), channel: Some(dir.path().join("kernel")) });
        assert!(matches!(open_spec(spec), Err(LaunchError::DaemonGiven)));
    }
}
