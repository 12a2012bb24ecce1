//! Content-addressed files: taken in as a transaction, published by rename, kept by leases, collected.
//!
//! # What is where
//!
//! ```text
//! H/lock                           held shared while something is published or leased, exclusive to collect
//! H/blobs/sha256/<hex>             manifests, configurations, layers as they came; named by the digest of their bytes
//! H/layers/sha256/<hex>/           a converted layer; named by its diff id
//!     data                         contents of large files, block aligned: part of the guest's root device
//!     packed                       contents of small files, back to back: they are copied into metadata images
//!     tree                         the layer's tree, encoded by `layer`
//!     skeleton                     all bytes of the layer's archive that are no contents, compressed by `layer`
//!     facts                        lengths and digests of the four: see [`facts`]
//! H/roots/sha256/<hex>             EROFS metadata images; named by what they were made from
//! H/partial/<hex>                  the beginning of a blob that is being downloaded, or was: see [`Partial`]
//! H/leases/<name>                  one object a line; alive while its flock is held
//! H/tmp/<name>                     things being taken in; alive while their flock is held
//! ```
//!
//! # How a thing gets in
//!
//! An ingest writes below `H/tmp`, under a flock of its own. Publishing fsyncs the files, adds the object to
//! the caller's [`Lease`], renames it to its final name, and fsyncs the directory. So a name in the store is
//! always a whole thing, and what a crash leaves is in `H/tmp` without a lock, where [`Store::collect`]
//! finds it. Publishing what exists already is no error: the newcomer is dropped.
//!
//! # How a thing gets out
//!
//! [`Store::collect`] takes the store's lock exclusively, asks its caller what to keep, reads the leases, and
//! moves everything else to `H/tmp`, where it is deleted after the lock is let go. The question is asked under
//! the lock because an answer from before it would miss what was committed in between. Nobody holds the shared
//! lock while doing anything slow, nor takes it inside a database transaction: the order is always store, then
//! database.
//!
//! # What this crate is not for
//!
//! It knows no image formats and no records; it does not decide what is worth keeping.
//!
//! # Threats
//!
//! | from | threat | answer |
//! |---|---|---|
//! | archives, registries | digests that are paths | [`Digest`] parses nothing but `sha256:` and 64 hexadecimal digits |
//! | archives, registries | content that is not what its name says | sizes and digests verified before publishing |
//! | other users of the host | reading images, planting files | directories 0700, checked at opening |
//! | crashes, other processes | half-written things, names whose content is gone | fsync before rename; lengths checked at every use |

mod collect;
mod digest;
mod error;
pub mod facts;
mod ingest;
mod lease;
mod lock;
mod partial;
mod usage;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub use collect::Collected;
pub use digest::{Digest, DigestError, Hasher};
pub use error::StoreError;
pub use ingest::{FileIngest, LayerIngest, LayerParts};
pub use lease::Lease;
pub use lock::WorkLock;
pub use partial::{PARTIAL_AGE, Partial, RemovedPartials};
pub use usage::Usage;

use facts::Facts;

type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What kind of thing an object of the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A file named by the digest of its bytes.
    Blob,
    /// A converted layer, named by its diff id.
    Layer,
    /// A metadata image, named by what it was made from.
    Root,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Blob, Self::Layer, Self::Root];

    fn word(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Layer => "layer",
            Self::Root => "root",
        }
    }

    fn directory(self) -> &'static str {
        match self {
            Self::Blob => "blobs/sha256",
            Self::Layer => "layers/sha256",
            Self::Root => "roots/sha256",
        }
    }
}

/// The name of a thing in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its digest.
    pub digest: Digest,
}

impl Object {
    /// A blob.
    #[must_use]
    pub fn blob(digest: Digest) -> Self {
        Self { kind: Kind::Blob, digest }
    }

    /// A converted layer.
    #[must_use]
    pub fn layer(diff_id: Digest) -> Self {
        Self { kind: Kind::Layer, digest: diff_id }
    }

    /// A metadata image.
    #[must_use]
    pub fn root(digest: Digest) -> Self {
        Self { kind: Kind::Root, digest }
    }
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.word(), self.digest)
    }
}

/// A converted layer in the store, its files as long as its facts say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFiles {
    /// The layer's diff id.
    pub diff_id: Digest,
    /// Contents of large files, block aligned.
    pub data: PathBuf,
    /// Contents of small files, back to back.
    pub packed: PathBuf,
    /// The encoded tree.
    pub tree: PathBuf,
    /// What rebuilds the layer's archive from the others.
    pub skeleton: PathBuf,
    /// What was recorded when the layer was published.
    pub facts: Facts,
}

impl LayerFiles {
    /// Each file, and how long it should be.
    fn expected(&self) -> [(&Path, u64); 4] {
        [
            (&self.data, self.facts.data_length),
            (&self.packed, self.facts.packed_length),
            (&self.tree, self.facts.tree_length),
            (&self.skeleton, self.facts.skeleton_length),
        ]
    }
}

/// The store of one home directory. Cheap to open, and to open many times: what is shared is on disk.
#[derive(Debug, Clone)]
pub struct Store {
    home: PathBuf,
}

impl Store {
    /// Opens the store below `home`, making its directories where they are missing.
    ///
    /// # Errors
    ///
    /// [`StoreError::Home`] where the directories cannot be made or are not the user's own.
    pub fn open(home: &Path) -> Result<Self> {
        let at_home = |source| StoreError::Home { path: home.to_owned(), source };
        let home = std::path::absolute(home).map_err(at_home)?;
        let make = |name: &str| DirBuilder::new().recursive(true).mode(0o700).create(home.join(name)).map_err(at_home);
        let kinds = Kind::ALL.map(Kind::directory);
        for name in [&[""], &kinds[..], &[partial::DIRECTORY, "leases"]].concat() {
            make(name)?;
        }
        close_to_others(&home).map_err(at_home)?;
        // The last one to be made: where it is, the others are durable.
        if !home.join("tmp").exists() {
            for name in ["blobs", "layers", "roots", ""] {
                sync_directory(&home.join(name)).map_err(at_home)?;
            }
            // Some of those above may have been made just now. What cannot be opened was not.
            home.ancestors().skip(1).for_each(|directory| drop(sync_directory(directory)));
            make("tmp")?;
        }
        let store = Self { home };
        lock::open(&store.lock_path()).map_err(at_home)?;
        Ok(store)
    }

    /// The directory that holds the store.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Where an object is, or would be.
    #[must_use]
    pub fn path(&self, object: &Object) -> PathBuf {
        self.home.join(object.kind.directory()).join(object.digest.hex())
    }

    /// Reads a blob of at most `limit` bytes and verifies its digest; `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] where its bytes are not what its name says.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>> {
        let object = Object::blob(*digest);
        let path = self.path(&object);
        let Some(bytes) = read_limited(&path, limit).map_err(|e| unreadable(object, &path, e))? else {
            return Ok(None);
        };
        if Digest::of(&bytes) != *digest {
            return Err(StoreError::Damaged { object, path, problem: "its content has another digest".into() });
        }
        Ok(Some(bytes))
    }

    /// Finds a converted layer and checks that its files are as long as they were; `None` where there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] where a file of it is missing or has another length, or where another version of
    /// Coracle wrote it.
    pub fn layer(&self, diff_id: &Digest) -> Result<Option<LayerFiles>> {
        let directory = self.path(&Object::layer(*diff_id));
        if fs::symlink_metadata(&directory).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        match self.layer_in(diff_id, &directory) {
            // What is removed while it is looked at is not damaged.
            Err(StoreError::Damaged { .. }) if fs::symlink_metadata(&directory).is_err() => Ok(None),
            result => result.map(Some),
        }
    }

    fn layer_in(&self, diff_id: &Digest, directory: &Path) -> Result<LayerFiles> {
        let object = Object::layer(*diff_id);
        let damaged = |path: &Path, problem: &str| StoreError::Damaged {
            object,
            path: path.to_owned(),
            problem: problem.to_owned(),
        };
        let path = directory.join("facts");
        let bytes = read_limited(&path, facts::MAX_LENGTH).map_err(|e| unreadable(object, &path, e))?;
        let bytes = bytes.ok_or_else(|| damaged(&path, "it is missing"))?;
        let facts = Facts::parse(&bytes).map_err(|e| damaged(&path, &e.to_string()))?;
        let layer = LayerFiles {
            diff_id: *diff_id,
            data: directory.join("data"),
            packed: directory.join("packed"),
            tree: directory.join("tree"),
            skeleton: directory.join("skeleton"),
            facts,
        };
        for (path, length) in layer.expected() {
            match fs::symlink_metadata(path) {
                Ok(found) if found.is_file() && found.len() == length => {}
                Ok(found) if found.is_file() => {
                    return Err(damaged(path, &format!("it should be {length} bytes long and is {}", found.len())));
                }
                Ok(_) => return Err(damaged(path, "it is not a regular file")),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(damaged(path, "it is missing")),
                Err(e) => return Err(StoreError::io("inspect", path, e)),
            }
        }
        Ok(layer)
    }

    /// Reads the encoded tree of a layer and verifies its digest.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] where its bytes are not those that were published.
    pub fn read_tree(&self, layer: &LayerFiles) -> Result<Vec<u8>> {
        let bytes = read_limited(&layer.tree, layer.facts.tree_length)
            .map_err(|e| unreadable(Object::layer(layer.diff_id), &layer.tree, e))?
            .unwrap_or_default();
        if Digest::of(&bytes) != layer.facts.tree_digest {
            let problem = "its content is not what was written".to_owned();
            return Err(StoreError::Damaged {
                object: Object::layer(layer.diff_id),
                path: layer.tree.clone(),
                problem,
            });
        }
        Ok(bytes)
    }

    /// A file without a name below the store, for what has to be read twice. It is gone when it is closed.
    ///
    /// # Errors
    ///
    /// Where it cannot be made.
    pub fn spool(&self) -> Result<File> {
        let (file, path) = self.create_temporary("spool")?;
        fs::remove_file(&path).map_err(|e| StoreError::io("remove", &path, e))?;
        Ok(file)
    }

    /// Waits until no other thread or process converts the layer `diff_id`, and keeps them from it. `on_wait` is called
    /// first where one does.
    ///
    /// # Errors
    ///
    /// Where the lock file cannot be made.
    pub fn lock_conversion(&self, diff_id: &Digest, on_wait: impl FnOnce()) -> Result<WorkLock> {
        self.lock_work("convert", diff_id, on_wait)
    }

    /// Waits until no other thread or process fetches the blob `digest`, and keeps them from it: for small documents,
    /// of which no [`Partial`] is worth keeping. `on_wait` is called first where one does.
    ///
    /// # Errors
    ///
    /// Where the lock file cannot be made.
    pub fn lock_blob(&self, digest: &Digest, on_wait: impl FnOnce()) -> Result<WorkLock> {
        self.lock_work("blob", digest, on_wait)
    }

    fn lock_work(&self, work: &str, digest: &Digest, on_wait: impl FnOnce()) -> Result<WorkLock> {
        let path = self.home.join("tmp").join(format!("{work}-{}.lock", digest.hex()));
        WorkLock::acquire(path.clone(), on_wait).map_err(|e| StoreError::io("lock", &path, e))
    }

    /// Removes one object whatever needs it: for what was found damaged and is about to be made again.
    ///
    /// # Errors
    ///
    /// Where it cannot be removed. That it is not there is no error.
    pub fn discard(&self, object: &Object) -> Result<()> {
        let moved = {
            let _lock = self.lock_exclusive()?;
            self.move_aside(object)?
        };
        moved.map_or(Ok(()), |path| collect::delete(&path))
    }

    fn lock_path(&self) -> PathBuf {
        self.home.join("lock")
    }

    fn lock_shared(&self) -> Result<File> {
        let path = self.lock_path();
        lock::shared(&path).map_err(|e| StoreError::io("lock", &path, e))
    }

    fn lock_exclusive(&self) -> Result<File> {
        let path = self.lock_path();
        lock::exclusive(&path).map_err(|e| StoreError::io("lock", &path, e))
    }
}

/// Takes the permissions of others away from a directory that is ours.
fn close_to_others(home: &Path) -> io::Result<()> {
    let mode = fs::metadata(home)?.mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(home, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Reads a regular file of at most `limit` bytes; `None` where there is none.
fn read_limited(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match OpenOptions::new().read(true).custom_flags(lock::NOFOLLOW_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if found.len() > limit {
        return Err(io::Error::other(format!("{} bytes long, more than {limit}", found.len())));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(found.len()).unwrap_or(0));
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Tells a file that cannot be ours from one that the system does not let us read.
fn unreadable(object: Object, path: &Path, error: io::Error) -> StoreError {
    let is_symlink = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    match error.kind() {
        io::ErrorKind::Other | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidData => {
            StoreError::Damaged { object, path: path.to_owned(), problem: error.to_string() }
        }
        _ if is_symlink => {
            StoreError::Damaged { object, path: path.to_owned(), problem: "it is a symbolic link".to_owned() }
        }
        _ => StoreError::io("read", path, error),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
