//! Removing what nobody needs.

use state::StateError;

use crate::{
    Engine, error::Error, list::ContainerFilters, remove::RemoveOptions, space::PrunedContainers, space::is_over,
};

/// Which containers are pruned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerPruneFilters {
    /// Those that were made before this moment, in ns since 1970.
    pub until: Option<i64>,
    /// Labels that they have: `key` or `key=value`, all of them.
    pub labels: Vec<String>,
    /// Labels that they do not have.
    pub without_labels: Vec<String>,
}

impl Engine {
    /// Removes the containers that fit, and that neither live nor are in the hands of another command.
    ///
    /// # Errors
    ///
    /// Whatever keeps one's files from being removed. What was removed by then stays removed.
    pub fn container_prune(&self, filters: &ContainerPruneFilters) -> Result<PrunedContainers, Error> {
        let filters = ContainerFilters {
            all: true,
            until: filters.until,
            labels: filters.labels.clone(),
            without_labels: filters.without_labels.clone(),
            ..ContainerFilters::default()
        };
        let mut pruned = PrunedContainers::default();
        for container in self.containers_matching(&filters)?.iter().filter(|container| is_over(container)) {
            let bytes = self.container_size(&container.id);
            match self.remove_container(&container.id, &RemoveOptions::default()) {
                Ok(()) => {
                    pruned.ids.push(container.id.clone());
                    pruned.bytes += bytes;
                }
                // Somebody else was faster, or has it.
                Err(
                    Error::Running(_) | Error::State(StateError::NoSuchContainer { .. } | StateError::Claimed { .. }),
                ) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(pruned)
    }
}
