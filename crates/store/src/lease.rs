//! Leases: what must not be collected although no record names it yet, or any more.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::lock::{self, NOFOLLOW_NONBLOCK};
use crate::{Digest, Kind, Object, Result, Store, StoreError};

/// Keeps objects from being collected for as long as it lives: a file below `H/leases`, one object a line, held by
/// `flock`. It ends when it is dropped, and when its process dies however it dies.
///
/// A forked child shares it: the lock lasts until both have closed it, but the file goes with the first that drops
/// it, so only one of the two may (`std::mem::forget` it in the other).
#[derive(Debug)]
pub struct Lease {
    store: Store,
    path: PathBuf,
    file: File,
}

impl Store {
    /// Begins a lease on `objects`. From then on those that are in the store stay there.
    ///
    /// # Errors
    ///
    /// Where its file cannot be written.
    pub fn lease(&self, objects: &[Object]) -> Result<Lease> {
        let _lock = self.lock_shared()?;
        let (file, path) = self.create_locked("leases", "lease")?;
        let lease = Lease { store: self.clone(), path, file };
        lease.write(objects)?;
        Ok(lease)
    }

    /// The objects of all leases whose holders live; removes the files of those whose holders do not.
    /// The caller holds the store's lock exclusively.
    pub(crate) fn leased(&self) -> Result<Vec<Object>> {
        let directory = self.home.join("leases");
        let mut objects = Vec::new();
        let failed = |action, e| StoreError::io(action, &directory, e);
        for entry in fs::read_dir(&directory).map_err(|e| failed("list", e))? {
            let path = entry.map_err(|e| failed("list", e))?.path();
            let mut file = match OpenOptions::new().read(true).custom_flags(NOFOLLOW_NONBLOCK).open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(StoreError::io("open", &path, e)),
            };
            if lock::is_free(&file) {
                let _ = fs::remove_file(&path);
                continue;
            }
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(|e| StoreError::io("read", &path, e))?;
            objects.extend(text.lines().filter_map(parse_line));
        }
        Ok(objects)
    }
}

impl Lease {
    /// Adds objects. From then on those that are in the store stay there.
    ///
    /// # Errors
    ///
    /// Where the lease's file cannot be written.
    pub fn add(&self, objects: &[Object]) -> Result<()> {
        let _lock = self.store.lock_shared()?;
        self.write(objects)
    }

    /// The caller holds the store's lock, so that a collector sees a line whole or not at all.
    pub(crate) fn write(&self, objects: &[Object]) -> Result<()> {
        let lines: String = objects.iter().map(|o| format!("{o}\n")).collect();
        (&self.file).write_all(lines.as_bytes()).map_err(|e| StoreError::io("write", &self.path, e))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn parse_line(line: &str) -> Option<Object> {
    let (word, digest) = line.split_once(' ')?;
    let kind = Kind::ALL.into_iter().find(|k| k.word() == word)?;
    Some(Object { kind, digest: digest.parse::<Digest>().ok()? })
}
