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

/// Waits for the lock on the file of that name, making it where it is missing. `on_wait` is called before it waits for
/// somebody.
///
/// A file is deleted or renamed by whoever lets it go, so a waiter may find that it holds a file that is no longer the
/// one of that name; it tries again with the one that is.
pub(crate) fn exclusive_named(path: &Path, on_wait: impl FnOnce()) -> io::Result<File> {
    let mut on_wait = Some(on_wait);
    loop {
        let file = open_both(path, true)?;
        if !is_free(&file) {
            if let Some(on_wait) = on_wait.take() {
                on_wait();
            }
            retry(|| file.lock())?;
        }
        if is_named(&file, path)? {
            return Ok(file);
        }
    }
}

/// The lock on the file of that name, if it exists and nobody has it.
pub(crate) fn free_existing(path: &Path) -> io::Result<Option<File>> {
    let file = open_both(path, false)?;
    Ok((is_free(&file) && is_named(&file, path)?).then_some(file))
}

fn open_both(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).truncate(false).mode(0o600);
    options.custom_flags(NOFOLLOW_NONBLOCK).open(path)
}

/// Whether `file` is still the one of that name.
pub(crate) fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// The right to make one thing. Ends when it is dropped, or when its holder dies.
#[derive(Debug)]
pub struct WorkLock {
    path: PathBuf,
    _file: File,
}

impl WorkLock {
    pub(crate) fn acquire(path: PathBuf, on_wait: impl FnOnce()) -> io::Result<Self> {
        let file = exclusive_named(&path, on_wait)?;
        Ok(Self { path, _file: file })
    }
}

impl Drop for WorkLock {
    fn drop(&mut self) {
        // Still held: nobody else can think it free and delete a successor's file.
        let _ = std::fs::remove_file(&self.path);
    }
}
