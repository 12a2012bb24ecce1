//! Locks that end with their holder: `flock` on files that may be deleted while others wait for them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Flags for opening what somebody else may have put there: no symbolic links, no waiting for the other end of a FIFO.
#[allow(clippy::cast_possible_wrap, reason = "flag bits, not a number")]
pub(crate) const NOFOLLOW_NONBLOCK: i32 = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits() as i32;

/// Opens a lock file, making it where it is missing.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(NOFOLLOW_NONBLOCK).open(path)
}

pub(crate) fn shared(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    retry(|| file.lock_shared())?;
    Ok(file)
}

pub(crate) fn exclusive(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    retry(|| file.lock())?;
    Ok(file)
}

/// Whether nobody holds a lock on `file`. If so, this process does now.
pub(crate) fn is_free(file: &File) -> bool {
    file.try_lock().is_ok()
}

fn retry(mut lock: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match lock() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The right to convert one layer. Ends when it is dropped, or when its holder dies.
#[derive(Debug)]
pub struct ConversionLock {
    path: PathBuf,
    _file: File,
}

impl ConversionLock {
    /// A lock file is deleted by whoever lets it go, so a waiter may find that it holds a file that is no longer
    /// the one of that name; it tries again with the one that is. `on_wait` is called before it waits for somebody.
    pub(crate) fn acquire(path: PathBuf, on_wait: impl FnOnce()) -> io::Result<Self> {
        let mut on_wait = Some(on_wait);
        loop {
            let file = open(&path)?;
            if !is_free(&file) {
                if let Some(on_wait) = on_wait.take() {
                    on_wait();
                }
                retry(|| file.lock())?;
            }
            let ours = file.metadata()?;
            match std::fs::symlink_metadata(&path) {
                Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => {
                    return Ok(Self { path, _file: file });
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
}

impl Drop for ConversionLock {
    fn drop(&mut self) {
        // Still held: nobody else can think it free and delete a successor's file.
        let _ = std::fs::remove_file(&self.path);
    }
}
