//! What the store costs on disk.

use crate::collect::{bytes_on_disk, names};
use crate::{Object, Result, Store, partial};

/// What is in the store, in bytes on disk: blocks in use, holes not counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Each object, sorted.
    pub objects: Vec<(Object, u64)>,
    /// Downloads that are not finished.
    pub partial: u64,
    /// What is being taken in, and what crashes left.
    pub temporary: u64,
}

impl Store {
    /// Measures everything in the store. What comes and goes meanwhile may be missing.
    ///
    /// # Errors
    ///
    /// Where a directory cannot be listed.
    pub fn usage(&self) -> Result<Usage> {
        let mut objects = self.objects()?;
        objects.sort();
        Ok(Usage {
            objects: objects.into_iter().map(|object| (object, bytes_on_disk(&self.path(&object)))).collect(),
            partial: self.below(partial::DIRECTORY)?,
            temporary: self.below("tmp")?,
        })
    }

    fn below(&self, directory: &str) -> Result<u64> {
        let directory = self.home.join(directory);
        Ok(names(&directory)?.iter().map(|name| bytes_on_disk(&directory.join(name))).sum())
    }
}
