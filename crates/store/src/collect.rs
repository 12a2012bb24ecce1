//! Removing what nobody needs.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::lock::{self, NOFOLLOW_NONBLOCK};
use crate::{Digest, Kind, Object, PARTIAL_AGE, Result, Store, StoreError};

/// What a collection removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Objects that nobody kept, sorted.
    pub objects: Vec<Object>,
    /// Things that a crash had left half-done, and downloads that were given up.
    pub leftovers: usize,
    /// Bytes on disk that are free now.
    pub bytes: u64,
}

impl Store {
    /// Removes every object that is neither in the answer of `keep` nor leased, what crashes left, and downloads that
    /// nobody went on with for a week ([`PARTIAL_AGE`]).
    ///
    /// `keep` is called under the store's lock, so it must not wait for anybody who waits for the store; reading
    /// records is fine.
    ///
    /// # Errors
    ///
    /// What `keep` or the system said. What was removed by then stays removed.
    pub fn collect<E>(&self, keep: impl FnOnce() -> Result<HashSet<Object>, E>) -> Result<Collected, E>
    where
        E: From<StoreError>,
    {
        let mut collected = Collected::default();
        let mut doomed = Vec::new();
        {
            let _lock = self.lock_exclusive()?;
            // Leases before records: who commits a record and then ends a lease is seen in one of the two.
            let leased = self.leased()?;
            let mut keep = keep()?;
            keep.extend(leased);
            for object in self.objects()? {
                if !keep.contains(&object)
                    && let Some(path) = self.move_aside(&object)?
                {
                    doomed.push(path);
                    collected.objects.push(object);
                }
            }
            collected.objects.sort();
            let leftovers = self.leftovers(&doomed)?;
            collected.leftovers = leftovers.len();
            doomed.extend(leftovers);
        }
        for path in doomed {
            collected.bytes += bytes_on_disk(&path);
            delete(&path)?;
        }
        let partials = self.remove_partials(PARTIAL_AGE)?;
        collected.leftovers += partials.count;
        collected.bytes += partials.bytes;
        Ok(collected)
    }

    /// Everything in the store. Names that are no digests are not ours, and left alone.
    ///
    /// # Errors
    ///
    /// Where a directory cannot be listed.
    pub fn objects(&self) -> Result<Vec<Object>> {
        let mut objects = Vec::new();
        for kind in Kind::ALL {
            for name in names(&self.home.join(kind.directory()))? {
                if let Some(digest) = name.to_str().and_then(|n| Digest::from_hex(n).ok()) {
                    objects.push(Object { kind, digest });
                }
            }
        }
        Ok(objects)
    }

    /// Takes an object's name away and returns where it is now. The caller holds the lock exclusively.
    pub(crate) fn move_aside(&self, object: &Object) -> Result<Option<PathBuf>> {
        let from = self.path(object);
        let to = self.temporary_path("tmp", "removed");
        match fs::rename(&from, &to) {
            Ok(()) => Ok(Some(to)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::io("remove", &from, e)),
        }
    }

    /// What is in `H/tmp` and held by nobody, except `known`.
    fn leftovers(&self, known: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let directory = self.home.join("tmp");
        let mut leftovers = Vec::new();
        for name in names(&directory)? {
            let path = directory.join(name);
            if known.contains(&path) {
                continue;
            }
            match OpenOptions::new().read(true).custom_flags(NOFOLLOW_NONBLOCK).open(&path) {
                Ok(file) if lock::is_free(&file) => {
                    if path.extension().is_none_or(|e| e != "lock") {
                        leftovers.push(path);
                    } else if lock::is_named(&file, &path).map_err(|e| StoreError::io("inspect", &path, e))? {
                        // At once, while its lock is ours: a waiter then makes a new one. One that has no name any
                        // more has a successor, whose holder would lose it.
                        delete(&path)?;
                    }
                }
                Ok(_) => {}
                // A symbolic link is nothing of ours. Other errors (no descriptors left) say nothing about its holder.
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => leftovers.push(path),
                Err(_) => {}
            }
        }
        Ok(leftovers)
    }
}

pub(crate) fn names(directory: &Path) -> Result<Vec<std::ffi::OsString>> {
    fs::read_dir(directory)
        .and_then(|entries| entries.map(|e| Ok(e?.file_name())).collect())
        .map_err(|e| StoreError::io("list", directory, e))
}

/// Removes a file, or a directory with everything in it. Another collector may have been faster.
pub(crate) fn delete(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path, e)),
        _ => Ok(()),
    }
}

pub(crate) fn bytes_on_disk(path: &Path) -> u64 {
    let Ok(found) = fs::symlink_metadata(path) else { return 0 };
    let below = if found.is_dir() {
        fs::read_dir(path).into_iter().flatten().flatten().map(|e| bytes_on_disk(&e.path())).sum()
    } else {
        0
    };
    found.blocks() * 512 + below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_whose_lease_ends_when_its_record_is_committed_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let digest = Digest::of(b"document");
        let object = Object::blob(digest);
        let lease = store.lease(&[object]).unwrap();
        store.ingest_blob(&lease, &mut &b"document"[..], Some(&digest), None).unwrap();
        // The record is committed and the lease ends while the collector runs: `keep` already has the record then.
        let lease = std::cell::Cell::new(Some(lease));
        let collected = store.collect(|| {
            lease.take();
            Ok::<_, StoreError>(HashSet::new())
        });
        assert!(collected.unwrap().objects.is_empty());
        assert!(store.read_blob(&digest, 100).unwrap().is_some());
    }
}
