//! Giving a container another name.

use crate::{Engine, error::Error, names};

impl Engine {
    /// Renames a container, whatever it does.
    ///
    /// # Errors
    ///
    /// [`Error::Name`], [`Error::SameName`], [`Error::State`] where another container has the name.
    pub fn rename(&self, name: &str, new: &str) -> Result<(), Error> {
        let new = new.strip_prefix('/').unwrap_or(new);
        names::check_name(new)?;
        let record = self.container(name)?;
        if record.name == new {
            return Err(Error::SameName(record.name));
        }
        self.state().update_container(&record.id, |record| record.name = new.to_owned())?;
        Ok(())
    }
}
