//! The disk of a volume: a file in a directory of its own, kept until the volume goes.
//!
//! # Who has it
//!
//! Whoever has a disk open for a machine holds `flock` on it: alone if the machine may write, together with others if
//! it only reads. The lock belongs to the open file, so it lasts exactly as long as the machine process lives,
//! whatever becomes of commands and keepers, and it is gone however that process died. Nothing is written down that a
//! crash could leave behind.
//!
//! # Reading only
//!
//! A disk whose journal has something to replay, or that nobody has mounted yet, cannot be used without being
//! written: [`Volume::needs_writing`] says so, from the superblock.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::{Result, Scratch, VolumeError, make, template};

/// The name of the file in a volume's directory.
pub const DISK_NAME: &str = "disk.ext4";

/// `INCOMPAT_RECOVER` of an ext4 superblock, at 0x60: the journal has something to replay.
const RECOVER: u32 = 0x4;

/// How long somebody may hold a disk who only looks whether it is free.
const PATIENCE: Duration = Duration::from_millis(100);

/// Disks of volumes.
#[derive(Debug)]
pub enum Volume {}

/// A lock on a disk, for as long as it is kept.
#[derive(Debug)]
#[must_use]
pub struct DiskLock(#[expect(dead_code, reason = "the lock is the open file")] File);

impl Volume {
    /// The disk in a volume's directory, which is there; it is made with `size` bytes where it is missing. `home`
    /// holds the templates.
    ///
    /// # Errors
    ///
    /// As [`Scratch::create`]; [`VolumeError::Damaged`] for a file that is no such disk.
    pub fn ensure(home: &Path, directory: &Path, size: u64) -> Result<PathBuf> {
        let path = directory.join(DISK_NAME);
        // Two containers may want it for the first time at once.
        let lock = template::lock(&directory.join("lock"))?;
        if path.exists() {
            Scratch::check(&path)?;
        } else {
            make(home, &path, size)?;
            let file = File::open(&path).map_err(|e| VolumeError::io("open", &path, e))?;
            file.sync_all().map_err(|e| VolumeError::io("sync", &path, e))?;
            let synced = File::open(directory).and_then(|directory| directory.sync_all());
            synced.map_err(|e| VolumeError::io("sync", directory, e))?;
        }
        drop(lock);
        Ok(path)
    }

    /// Bytes that the disk takes on the host: holes cost nothing. None for one that is not there.
    #[must_use]
    pub fn bytes_on_disk(directory: &Path) -> u64 {
        fs::metadata(directory.join(DISK_NAME)).map_or(0, |found| found.blocks() * 512)
    }

    /// Whether the disk has to be written before it can be read: see the [module's documentation](self).
    ///
    /// # Errors
    ///
    /// Where it cannot be read.
    pub fn needs_writing(path: &Path) -> Result<bool> {
        let file = File::open(path).map_err(|e| VolumeError::io("open", path, e))?;
        let mut block = [0; 0x64];
        file.read_exact_at(&mut block, 1024).map_err(|e| VolumeError::io("read", path, e))?;
        let [low, high] = [block[0x34], block[0x35]];
        let mounts = u16::from_le_bytes([low, high]);
        let incompatible = u32::from_le_bytes([block[0x60], block[0x61], block[0x62], block[0x63]]);
        let mounted_at = u32::from_le_bytes([block[0x2c], block[0x2d], block[0x2e], block[0x2f]]);
        Ok(incompatible & RECOVER != 0 || (mounts == 0 && mounted_at == 0))
    }

    /// Takes the disk as a machine would that writes, or that only reads (`shared`). `None` where another process has
    /// it in a way that forbids this.
    ///
    /// # Errors
    ///
    /// Where it cannot be opened.
    pub fn try_lock(path: &Path, shared: bool) -> Result<Option<DiskLock>> {
        let opened = OpenOptions::new().read(true).write(!shared).custom_flags(nofollow()).open(path);
        let file = opened.map_err(|e| VolumeError::io("open", path, e))?;
        let operation =
            if shared { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => return Ok(Some(DiskLock(file))),
                // Somebody may only look, too.
                Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(VolumeError::io("lock", path, error.into())),
            }
        }
    }
}

/// A volume's directory is ours alone; a link in the disk's place was put there by somebody else.
fn nofollow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default()
}
