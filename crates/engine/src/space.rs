//! What containers cost on disk, and giving it back.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use state::ContainerRecord;

use crate::{Engine, error::Error, prune::ContainerPruneFilters};

/// Containers that were removed together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrunedContainers {
    /// Their ids.
    pub ids: Vec<String>,
    /// Bytes on disk that are free now.
    pub bytes: u64,
}

impl Engine {
    /// Bytes on disk of a container's own files: blocks in use, holes not counted.
    #[must_use]
    pub fn container_size(&self, id: &str) -> u64 {
        bytes_on_disk(&self.home().container(id))
    }

    /// [`Engine::container_prune`] of those that were created before `until`.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn prune_containers(&self, until: Option<i64>) -> Result<PrunedContainers, Error> {
        self.container_prune(&ContainerPruneFilters { until, ..ContainerPruneFilters::default() })
    }
}

/// Whether nothing of a container runs. One that has a keeper but does not run yet is on its way.
#[must_use]
pub fn is_over(container: &ContainerRecord) -> bool {
    !container.state.is_live() && container.keeper.is_none()
}

/// Bytes of a file, or of a directory with all that is in it. What cannot be seen counts nothing.
fn bytes_on_disk(path: &Path) -> u64 {
    let Ok(found) = fs::symlink_metadata(path) else { return 0 };
    let inside = if found.is_dir() {
        fs::read_dir(path).into_iter().flatten().flatten().map(|entry| bytes_on_disk(&entry.path())).sum()
    } else {
        0
    };
    found.blocks() * 512 + inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_cost_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let before = bytes_on_disk(directory.path());
        let file = fs::File::create(directory.path().join("sparse")).unwrap();
        file.set_len(1 << 30).unwrap();
        assert!(bytes_on_disk(directory.path()) < before + (1 << 20));
        fs::write(directory.path().join("full"), vec![1; 1 << 20]).unwrap();
        assert!(bytes_on_disk(directory.path()) >= before + (1 << 20));
        assert_eq!(bytes_on_disk(Path::new("/no/such/file")), 0);
    }
}
