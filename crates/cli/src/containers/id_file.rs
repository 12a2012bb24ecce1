//! The file of `--cidfile`.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// The file of `--cidfile`: there before the container is, and gone again if that does not come to be.
#[derive(Debug)]
pub(crate) struct IdFile {
    path: PathBuf,
    written: bool,
}

impl IdFile {
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .with_context(|| format!("cannot make the file for the container's id, {}", path.display()))?;
        Ok(Self { path: path.to_owned(), written: false })
    }

    pub(crate) fn write(mut self, id: &str) -> anyhow::Result<()> {
        self.written = true;
        fs::write(&self.path, id).with_context(|| format!("cannot write the container's id to {}", self.path.display()))
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.written {
            let _ = fs::remove_file(&self.path);
        }
    }
}
