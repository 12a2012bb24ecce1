//! Taking things in: below `H/tmp` under a lock, then by rename to their names.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::facts::Facts;
use crate::{Digest, Hasher, Lease, Object, Result, Store, StoreError, sync_directory};

/// A file on its way into the store. Dropped before it is published, it is gone.
#[derive(Debug)]
pub struct FileIngest {
    store: Store,
    path: Option<PathBuf>,
    file: File,
}

/// A converted layer on its way into the store. Dropped before it is published, it is gone.
#[derive(Debug)]
pub struct LayerIngest {
    store: Store,
    path: Option<PathBuf>,
    files: LayerParts,
    /// Holds the lock on the directory.
    _directory: File,
}

/// The files of a layer on its way into the store, open for reading and writing, empty at first.
#[derive(Debug)]
pub struct LayerParts {
    /// Contents of large files, block aligned.
    pub data: File,
    /// Contents of small files, back to back.
    pub packed: File,
    /// The encoded tree.
    pub tree: File,
    /// What rebuilds the layer's archive from the others.
    pub skeleton: File,
}

impl Store {
    /// Takes in a blob: all bytes of `reader`, whose digest and size must be the expected ones where given.
    ///
    /// # Errors
    ///
    /// [`StoreError::WrongDigest`], [`StoreError::WrongSize`], or what reading or writing said. Nothing is left.
    pub fn ingest_blob(
        &self,
        lease: &Lease,
        reader: &mut dyn Read,
        expected: Option<&Digest>,
        expected_size: Option<u64>,
    ) -> Result<Digest> {
        let ingest = self.ingest_file()?;
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 256 << 10];
        let mut size = 0u64;
        let name = expected.copied().unwrap_or_else(|| Digest::of(b""));
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(StoreError::Source { digest: name, source }),
            };
            size += count as u64;
            if let Some(expected) = expected_size.filter(|e| size > *e) {
                return Err(StoreError::WrongSize { digest: name, expected, found: size, more: true });
            }
            hasher.update(&buffer[..count]);
            ingest.write_all(&buffer[..count])?;
        }
        let found = hasher.finish();
        if let Some(expected_size) = expected_size.filter(|e| size != *e) {
            return Err(StoreError::WrongSize { digest: name, expected: expected_size, found: size, more: false });
        }
        if let Some(expected) = expected.filter(|e| **e != found) {
            return Err(StoreError::WrongDigest { expected: *expected, found });
        }
        // A damaged blob of that name would win over its repair.
        if let Err(StoreError::Damaged { object, .. }) = self.read_blob(&found, u64::MAX) {
            self.discard(&object)?;
        }
        ingest.publish(lease, &Object::blob(found))?;
        Ok(found)
    }

    /// Begins to take in one file.
    ///
    /// # Errors
    ///
    /// Where it cannot be made.
    pub fn ingest_file(&self) -> Result<FileIngest> {
        let (file, path) = self.create_temporary("file")?;
        Ok(FileIngest { store: self.clone(), path: Some(path), file })
    }

    /// Begins to take in a converted layer.
    ///
    /// # Errors
    ///
    /// Where its files cannot be made.
    pub fn ingest_layer(&self) -> Result<LayerIngest> {
        let _lock = self.lock_shared()?;
        let path = self.temporary_path("tmp", "layer");
        DirBuilder::new().mode(0o700).create(&path).map_err(|e| StoreError::io("create", &path, e))?;
        // From here on dropping it removes what there is.
        let made = File::open(&path).and_then(|directory| {
            directory.lock_shared()?;
            Ok((directory, LayerParts::create(&path)?))
        });
        match made {
            Ok((directory, files)) => {
                Ok(LayerIngest { store: self.clone(), path: Some(path), files, _directory: directory })
            }
            Err(e) => {
                let _ = fs::remove_dir_all(&path);
                Err(StoreError::io("create", &path, e))
            }
        }
    }

    /// Makes a locked file in `H/tmp`.
    pub(crate) fn create_temporary(&self, prefix: &str) -> Result<(File, PathBuf)> {
        let _lock = self.lock_shared()?;
        self.create_locked("tmp", prefix)
    }

    /// Makes a locked file in a directory of the store. The caller holds the store's lock, so that nobody can find
    /// the file between its making and its locking.
    pub(crate) fn create_locked(&self, directory: &str, prefix: &str) -> Result<(File, PathBuf)> {
        let path = self.temporary_path(directory, prefix);
        let file = create_new(&path).map_err(|e| StoreError::io("create", &path, e))?;
        file.lock_shared().map_err(|e| StoreError::io("lock", &path, e))?;
        Ok((file, path))
    }

    /// A name that no other thread, process, or boot uses.
    pub(crate) fn temporary_path(&self, directory: &str, prefix: &str) -> PathBuf {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        self.home.join(directory).join(format!("{prefix}-{}-{count}-{now:x}", std::process::id()))
    }

    /// Leases `object`, then gives what is at `from` its name. `false` where the name is taken already.
    fn publish(&self, lease: &Lease, from: &Path, object: &Object) -> Result<bool> {
        let to = self.path(object);
        {
            let _lock = self.lock_shared()?;
            lease.write(&[*object])?;
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, &to, flags) {
                Ok(()) => {}
                Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOTEMPTY) => return Ok(false),
                // A file system without RENAME_NOREPLACE: to replace a thing by its equal harms nobody.
                Err(rustix::io::Errno::INVAL) => match fs::rename(from, &to) {
                    Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => return Ok(false),
                    result => result.map_err(|e| StoreError::io("publish", &to, e))?,
                },
                Err(e) => return Err(StoreError::io("publish", &to, e.into())),
            }
        }
        sync_parent(&to)?;
        Ok(true)
    }

    /// Leases the blob `object`, then gives the file at `from` its name, whatever has it.
    pub(crate) fn replace(&self, lease: &Lease, from: &Path, object: &Object) -> Result<()> {
        let to = self.path(object);
        {
            let _lock = self.lock_shared()?;
            lease.write(&[*object])?;
            fs::rename(from, &to).map_err(|e| StoreError::io("publish", &to, e))?;
        }
        sync_parent(&to)
    }
}

impl FileIngest {
    /// The file, open for reading and writing.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    fn write_all(&self, bytes: &[u8]) -> Result<()> {
        (&self.file).write_all(bytes).map_err(|e| StoreError::io("write", self.shown(), e))
    }

    /// Where the file is for now, for messages.
    #[must_use]
    pub fn shown(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Makes the file durable and gives it its name. Where the name is taken already, this file is dropped.
    ///
    /// # Errors
    ///
    /// What the system said. Nothing is left.
    pub fn publish(mut self, lease: &Lease, object: &Object) -> Result<()> {
        self.file.sync_all().map_err(|e| StoreError::io("sync", self.shown(), e))?;
        let Some(path) = self.path.as_deref() else { return Ok(()) };
        if self.store.publish(lease, path, object)? {
            self.path = None;
        }
        Ok(())
    }
}

impl Drop for FileIngest {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

impl LayerParts {
    fn create(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            data: create_new(&directory.join("data"))?,
            packed: create_new(&directory.join("packed"))?,
            tree: create_new(&directory.join("tree"))?,
            skeleton: create_new(&directory.join("skeleton"))?,
        })
    }

    /// Each file with its name and how long it should be.
    fn expected(&self, facts: &Facts) -> [(&'static str, &File, u64); 4] {
        [
            ("data", &self.data, facts.data_length),
            ("packed", &self.packed, facts.packed_length),
            ("tree", &self.tree, facts.tree_length),
            ("skeleton", &self.skeleton, facts.skeleton_length),
        ]
    }
}

impl LayerIngest {
    /// The layer's files, to be written by whoever converts it. They share their positions with the ingest's own.
    ///
    /// # Errors
    ///
    /// Where no descriptors are left.
    pub fn files(&self) -> Result<LayerParts> {
        let copy = |file: &File| file.try_clone().map_err(|e| StoreError::io("open", self.shown(), e));
        Ok(LayerParts {
            data: copy(&self.files.data)?,
            packed: copy(&self.files.packed)?,
            tree: copy(&self.files.tree)?,
            skeleton: copy(&self.files.skeleton)?,
        })
    }

    /// Where the layer is for now, for messages.
    #[must_use]
    pub fn shown(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Makes all durable, and gives the layer its name. Where the name is taken already, this layer is dropped; unless
    /// what has it is damaged or of another version.
    ///
    /// # Errors
    ///
    /// [`StoreError::Damaged`] where a file is not as long as `facts` say; what the system said. Nothing is left.
    pub fn publish(mut self, lease: &Lease, diff_id: &Digest, facts: &Facts) -> Result<()> {
        let Some(path) = self.path.clone() else { return Ok(()) };
        let object = Object::layer(*diff_id);
        for (name, file, length) in self.files.expected(facts) {
            let path = path.join(name);
            let found = file.metadata().map_err(|e| StoreError::io("inspect", &path, e))?.len();
            if found != length {
                let problem = format!("it should be {length} bytes long and is {found}");
                return Err(StoreError::Damaged { object, path, problem });
            }
            file.sync_all().map_err(|e| StoreError::io("write", &path, e))?;
        }
        let facts_path = path.join("facts");
        write_new(&facts_path, facts.to_string().as_bytes()).map_err(|e| StoreError::io("write", &facts_path, e))?;
        sync_directory(&path).map_err(|e| StoreError::io("sync", &path, e))?;
        // A damaged layer of that name would win over its repair, and one of another version over its successor.
        match self.store.layer(diff_id) {
            Err(StoreError::Damaged { .. }) => self.store.discard(&object)?,
            Ok(Some(other)) if other.facts.tree_format != facts.tree_format => self.store.discard(&object)?,
            _ => {}
        }
        if self.store.publish(lease, &path, &object)? {
            self.path = None;
        }
        Ok(())
    }
}

impl Drop for LayerIngest {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_dir_all(path);
        }
    }
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    sync_directory(parent).map_err(|e| StoreError::io("sync", parent, e))
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
