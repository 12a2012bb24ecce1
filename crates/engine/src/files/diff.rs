//! What a container changed in its image.

use super::changes::{What, changes};
use super::{Change, ChangeKind, path_of};
use crate::{Engine, error::Error};

impl Engine {
    /// What a container changed in its image, sorted by path, as `docker diff` lists it.
    ///
    /// # Errors
    ///
    /// Where there is no such container, or its disk or its image cannot be read.
    pub fn diff(&self, name: &str) -> Result<Vec<Change>, Error> {
        let items = self.with_view(name, |view, _| Ok(changes(view)?))?;
        let mut changes: Vec<_> = items
            .into_iter()
            .filter_map(|item| {
                let kind = match item.what {
                    What::Deleted | What::Hidden => ChangeKind::Deleted,
                    What::Inode { kind, .. } => kind?,
                    What::Opaque => return None,
                };
                Some(Change { path: path_of(&item.path), kind })
            })
            .collect();
        changes.sort_unstable();
        Ok(changes)
    }
}
