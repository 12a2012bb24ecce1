//! Writable disks: a container's scratch disk, and the disks of volumes.
//!
//! # Design
//!
//! A scratch disk is a sparse file with an ext4 file system. `mkfs.ext4` runs once per size and [`FORMAT`] into a
//! template below `H/scratch`; a container's disk is a clone of it: by `FICLONE` where the file system of the home
//! has reflinks, else by copying the few hundred KiB that the template holds data in. A clone takes about a
//! millisecond, whatever the size.
//!
//! The file system is made so that mounting it writes next to nothing and space comes back: the inode tables are
//! marked as zeroed (no background initialisation in the guest), the journal is small, nothing is kept for root.
//! It holds `lost+found` and nothing else. A volume's disk is made the same way, and kept ([`Volume`]).
//!
//! # Durability
//!
//! The template is fsynced before it gets its name. A clone is not: the guest's first flush makes it durable, and a
//! disk that never saw one has nothing on it that anybody was promised. After a power cut [`Scratch::check`] tells a
//! disk that can be mounted from one that has to be made again. A volume's disk is synced before it gets its name.
//!
//! # Modules
//!
//! [`template`] runs `mkfs.ext4`, [`clone`] copies, `disk` has the disks of volumes.

mod clone;
mod disk;
mod error;
mod template;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub use disk::{DISK_NAME, DiskLock, Volume};
pub use error::VolumeError;

type Result<T, E = VolumeError> = std::result::Result<T, E>;

/// The size of a scratch disk for which none was asked.
pub const DEFAULT_SIZE: u64 = 10 << 30;

/// The smallest scratch disk.
pub const MIN_SIZE: u64 = 32 << 20;

/// The largest scratch disk: what a file can be on most file systems.
pub const MAX_SIZE: u64 = 16 << 40;

/// Sizes are rounded up to a multiple of this, so that few templates serve all.
pub const GRANULARITY: u64 = 1 << 20;

/// Version of the way in which templates are made. It is part of their names.
pub const FORMAT: u32 = 1;

/// The name of the file in a container's directory.
pub const SCRATCH_NAME: &str = "scratch.ext4";

/// Scratch disks.
#[derive(Debug)]
pub enum Scratch {}

impl Scratch {
    /// Makes a scratch disk of `size` bytes in `container_directory` and returns its path. `home` holds the templates.
    ///
    /// # Errors
    ///
    /// [`VolumeError::TooSmall`], [`VolumeError::TooLarge`], [`VolumeError::Exists`] where the container has one,
    /// [`VolumeError::NoMkfs`], or that it cannot be written. Nothing is left then.
    pub fn create(home: &Path, container_directory: &Path, size: u64) -> Result<PathBuf> {
        let path = container_directory.join(SCRATCH_NAME);
        if path.exists() {
            return Err(VolumeError::Exists { path });
        }
        make(home, &path, size)?;
        Ok(path)
    }

    /// Checks that a file can be a scratch disk: its length, and that its superblock is one and as large as the file.
    /// Returns its size.
    ///
    /// # Errors
    ///
    /// [`VolumeError::Damaged`], or that it cannot be read.
    pub fn check(path: &Path) -> Result<u64> {
        let file = File::open(path).map_err(|e| VolumeError::io("open", path, e))?;
        let length = file.metadata().map_err(|e| VolumeError::io("inspect", path, e))?.len();
        match read_superblock_size(&file) {
            Some(size) if size == length => Ok(size),
            Some(size) => Err(VolumeError::Damaged {
                path: path.to_owned(),
                problem: format!("its file system has {size} bytes, the file {length}"),
            }),
            None => Err(VolumeError::Damaged { path: path.to_owned(), problem: "it holds no ext4 file system".into() }),
        }
    }
}

/// Makes a disk of `size` bytes at `path`, where there is none.
fn make(home: &Path, path: &Path, size: u64) -> Result<()> {
    let template = template::open(home, round(size)?)?;
    let part = Unfinished(path.with_extension("ext4.part"));
    clone_to(&template, &part.0)?;
    fs::rename(&part.0, path).map_err(|e| VolumeError::io("create", path, e))?;
    std::mem::forget(part);
    Ok(())
}

/// The size that a disk gets for which `size` was asked.
///
/// # Errors
///
/// [`VolumeError::TooSmall`], [`VolumeError::TooLarge`].
pub fn round(size: u64) -> Result<u64> {
    if size < MIN_SIZE {
        return Err(VolumeError::TooSmall { size });
    }
    if size > MAX_SIZE {
        return Err(VolumeError::TooLarge { size });
    }
    Ok(size.next_multiple_of(GRANULARITY))
}

/// Removes its file when it is dropped.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn clone_to(template: &File, path: &Path) -> Result<()> {
    // What an earlier attempt left when it was killed.
    let _ = fs::remove_file(path);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| VolumeError::io("create", path, e))?;
    clone::clone(template, &file).map_err(|e| VolumeError::io("write", path, e))
}

/// The size that an ext4 superblock states (Linux `Documentation/filesystems/ext4/super.rst`): at byte 1024, the
/// number of blocks at 0x4 and 0x150, the block size at 0x18, the magic at 0x38.
fn read_superblock_size(file: &File) -> Option<u64> {
    let mut block = [0; 1024];
    file.read_exact_at(&mut block, 1024).ok()?;
    let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    if (block[0x38], block[0x39]) != (0x53, 0xef) || word(0x18) > 6 {
        return None;
    }
    let blocks = u64::from(word(0x150)) << 32 | u64::from(word(0x4));
    blocks.checked_mul(1024 << word(0x18))
}
