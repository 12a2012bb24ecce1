//! A container's whole tree as an archive.

use std::io::{BufWriter, Write};

use super::archive::Archive;
use super::error::FilesError;
use super::view::{Node, View, join};
use crate::{Engine, error::Error};

/// Bytes that are written at once.
const BUFFER: usize = 256 << 10;

impl Engine {
    /// Writes the whole tree of a container as a tar archive, directories before what is in them, names sorted.
    ///
    /// # Errors
    ///
    /// As for [`Engine::diff`], and what `out` says.
    pub fn export(&self, name: &str, out: &mut dyn Write) -> Result<(), Error> {
        self.with_view(name, |view, record| {
            let mut archive = Archive::new(view, BufWriter::with_capacity(BUFFER, out));
            let root = view.root()?;
            below(view, b"", &root, |name, path, node| archive.node(name, path, node), b"")?;
            archive.finish()?.flush().map_err(FilesError::Write)?;
            self.tell_of_files(record, "export", &[]);
            Ok(())
        })
    }
}

/// Everything below a directory, with the name that it has in an archive whose names begin with `prefix`.
pub(crate) fn below(
    view: &View<'_>,
    path: &[u8],
    directory: &Node,
    mut with: impl FnMut(&[u8], &[u8], &Node) -> Result<(), FilesError>,
    prefix: &[u8],
) -> Result<(), FilesError> {
    // What is still to be done, the next at the end.
    let in_order = |path: &[u8], prefix: &[u8], directory: &Node| -> Result<Vec<_>, FilesError> {
        let children = view.children(path, directory)?;
        Ok(children.into_iter().rev().map(|(name, node)| (join(prefix, &name), join(path, &name), node)).collect())
    };
    let mut seen = std::collections::HashSet::new();
    let mut pending = in_order(path, prefix, directory)?;
    while let Some((name, path, node)) = pending.pop() {
        if path.len() > layer::limits::PATH_MAX {
            return Err(view.damaged(&path, "its path is too long"));
        }
        with(&name, &path, &node)?;
        if let Node::Upper(upper) = &node
            && upper.inode.is_dir()
            && !seen.insert(upper.inode.number)
        {
            return Err(view.damaged(&path, "the directory has two names"));
        }
        pending.extend(in_order(&path, &name, &node)?);
    }
    Ok(())
}
