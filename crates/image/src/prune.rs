//! Removing what is of no use any more: images without names, or without containers, and all that images leave behind.

use std::time::Duration;

use store::Object;

use crate::filter::created;
use crate::{Images, Result};

/// Which images go. What no image needs goes in any case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneRequest {
    /// Every image from which no container was made, not only those without a name.
    pub all: bool,
    /// Only those that were created before this moment, in ns since 1970.
    pub until: Option<i64>,
    /// Only those with these labels: `key` or `key=value`.
    pub labels: Vec<String>,
    /// Only those without these labels.
    pub without_labels: Vec<String>,
}

/// What a pruning removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Complete names, and digests of repositories, that are gone.
    pub untagged: Vec<String>,
    /// Ids of images that are gone.
    pub deleted: Vec<String>,
    /// What is gone from the store, sorted.
    pub objects: Vec<Object>,
    /// Things half-done by commands that were killed, and unfinished downloads.
    pub leftovers: usize,
    /// Bytes on disk that are free now.
    pub bytes: u64,
}

impl Images {
    /// Removes images that nobody uses and everything that no image needs: layers, documents, what killed commands
    /// left, and downloads that nobody goes on with at this moment.
    ///
    /// # Errors
    ///
    /// Where the records or the store fail. What was removed by then stays removed.
    pub fn prune(&self, request: &PruneRequest) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        for image in self.list()? {
            let is_meant = (request.all || image.names.is_empty())
                && request.until.is_none_or(|moment| created(&image) < moment)
                && self.has_labels(&image, &request.labels, &request.without_labels);
            if !is_meant {
                continue;
            }
            // It may have been named meanwhile.
            let removed = self.state.remove_unused_image(&image.id, |now| request.all || now.names.is_empty())?;
            if let Some(removed) = removed {
                removed.names.iter().for_each(|name| self.tell("untag", &removed.id, name));
                self.tell("delete", &removed.id, &removed.id);
                pruned.untagged.extend(removed.names.into_iter().chain(removed.digests));
                pruned.deleted.push(removed.id);
            }
        }
        let collected = self.collect()?;
        let partials = self.store.remove_partials(Duration::ZERO)?;
        pruned.objects = collected.objects;
        pruned.leftovers = collected.leftovers + partials.count;
        pruned.bytes = collected.bytes + partials.bytes;
        Ok(pruned)
    }
}
