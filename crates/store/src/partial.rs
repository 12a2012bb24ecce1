//! Downloads that are not finished: kept, so that the next command goes on where one was interrupted.
//!
//! `H/partial/<hex>` holds the first bytes of the blob of that digest, as they came. Whoever downloads it holds the
//! file's flock, so that there is one download per blob however many commands ask for it. Nothing is synced before it
//! is complete: after a power cut a partial may hold other bytes than came, which the digest of the whole then shows.
//!
//! ```text
//!            append                        digest right
//! nothing ──────────▶ H/partial/<hex> ─────────────────────▶ H/blobs/sha256/<hex>      keep
//!    ▲                      │  ▲ │                           or nothing                discard
//!    └── a week old ────────┘  └─┘ restart: the digest was wrong, or the registry begins anew
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::collect::{bytes_on_disk, names};
use crate::lock;
use crate::{Digest, Lease, Object, Result, Store, StoreError};

/// How long a download that nobody goes on with is kept by [`Store::collect`].
pub const PARTIAL_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The directory of partial downloads.
pub(crate) const DIRECTORY: &str = "partial";

/// A download in progress, held by this process alone. Dropped, it stays for the next command.
#[derive(Debug)]
pub struct Partial {
    digest: Digest,
    path: PathBuf,
    file: File,
}

/// What was removed of partial downloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemovedPartials {
    /// How many.
    pub count: usize,
    /// Bytes on disk that are free now.
    pub bytes: u64,
}

impl Store {
    /// The partial download of a blob, empty where there is none yet. Waits while another thread or process has it;
    /// `on_wait` is called first then.
    ///
    /// Whoever has waited should look whether the blob, or what it was to become, is there by now.
    ///
    /// # Errors
    ///
    /// Where its file cannot be made.
    pub fn partial(&self, digest: &Digest, on_wait: impl FnOnce()) -> Result<Partial> {
        let path = self.partial_path(digest);
        let file = lock::exclusive_named(&path, on_wait).map_err(|e| StoreError::io("lock", &path, e))?;
        Ok(Partial { digest: *digest, path, file })
    }

    /// Makes a finished download the blob that it is. `found` is the digest of all its bytes, which whoever received
    /// them has computed.
    ///
    /// # Errors
    ///
    /// [`StoreError::WrongDigest`] where it is not the blob's; the download is gone then. What the system said.
    pub fn keep_blob(&self, lease: &Lease, partial: Partial, found: &Digest) -> Result<()> {
        if *found != partial.digest {
            let expected = partial.digest;
            partial.discard()?;
            return Err(StoreError::WrongDigest { expected, found: *found });
        }
        partial.file.sync_all().map_err(|e| StoreError::io("sync", &partial.path, e))?;
        // What has the name already is its equal, or damaged.
        self.replace(lease, &partial.path, &Object::blob(partial.digest))
    }

    /// Removes partial downloads that nobody holds and that nothing was added to for `age`.
    ///
    /// # Errors
    ///
    /// Where one cannot be removed.
    pub fn remove_partials(&self, age: Duration) -> Result<RemovedPartials> {
        let mut removed = RemovedPartials::default();
        let directory = self.home.join(DIRECTORY);
        for name in names(&directory)? {
            let path = directory.join(name);
            // Locked: a waiter then finds that its file has lost its name, and makes a new one.
            let Ok(Some(_held)) = lock::free_existing(&path) else { continue };
            if is_older(&path, age) {
                removed.bytes += bytes_on_disk(&path);
                removed.count += 1;
                remove(&path)?;
            }
        }
        Ok(removed)
    }

    fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.home.join(DIRECTORY).join(digest.hex())
    }
}

impl Partial {
    /// The digest that its bytes should have when it is complete.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The file, open for reading and writing, at its beginning.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it is, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes there are already.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn length(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(|e| StoreError::io("inspect", &self.path, e))?.len())
    }

    /// Throws away what there is, to begin anew.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn restart(&self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| io::Seek::rewind(&mut &self.file));
        emptied.map_err(|e| StoreError::io("truncate", &self.path, e))
    }

    /// Removes it: what it was for is done, or it was wrong.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn discard(self) -> Result<()> {
        remove(&self.path)
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// A clock that was set back makes nothing old.
fn is_older(path: &Path, age: Duration) -> bool {
    let Ok(found) = fs::symlink_metadata(path) else { return false };
    let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) else { return false };
    let written = Duration::from_secs(u64::try_from(found.mtime()).unwrap_or(0));
    age.is_zero() || now.checked_sub(written).is_some_and(|since| since >= age)
}
