//! Space set aside, so that things can be removed when the disk is full.
//!
//! SQLite needs room to record that something is gone. A file beside the records holds that room; it is deleted when a
//! removal, or opening the records, finds the disk full, and made again by whoever opens them when there is room.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

/// Bytes that are set aside: some dozens of pages for the log, and its index.
const BYTES: u64 = 256 << 10;

/// Bytes that must be free on a disk for some of it to be set aside.
const ROOM: u64 = 64 << 20;

fn path_of(records: &Path) -> PathBuf {
    let mut name = OsString::from(records);
    name.push("-reserve");
    name.into()
}

/// Gives the space back to the disk. Whether there was any.
pub(crate) fn spend(records: &Path) -> bool {
    fs::remove_file(path_of(records)).is_ok()
}

/// Sets the space aside where there is room; without, the disk is none on which that would help.
pub(crate) fn keep(records: &Path) {
    let path = path_of(records);
    if fs::symlink_metadata(&path).is_ok_and(|found| found.blocks() * 512 >= BYTES) || room(records) < ROOM {
        return;
    }
    if allocate(&path).is_err() {
        let _ = fs::remove_file(&path);
    }
}

fn allocate(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    Ok(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, BYTES)?)
}

/// Bytes that are free for this user where the records are.
fn room(records: &Path) -> u64 {
    records.parent().and_then(|parent| rustix::fs::statvfs(parent).ok()).map_or(0, |disk| disk.f_bavail * disk.f_frsize)
}

/// Whether the disk of the records has no more room, for bytes or for files.
pub(crate) fn is_full(records: &Path) -> bool {
    let disk = records.parent().and_then(|parent| rustix::fs::statvfs(parent).ok());
    disk.is_some_and(|disk| disk.f_bavail == 0 || (disk.f_files > 0 && disk.f_favail == 0))
}
