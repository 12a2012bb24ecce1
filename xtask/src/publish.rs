//! Files that appear whole or not at all: written beside their place, then renamed into it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Writes `bytes` to `path`.
pub(crate) fn bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    through(path, |part| fs::write(part, bytes))
}

/// Copies `from` to `path` with its mode; shares its blocks where the file system can.
pub(crate) fn copy(from: &Path, path: &Path) -> Result<()> {
    through(path, |part| fs::copy(from, part).map(drop)).with_context(|| format!("copying {}", from.display()))
}

/// Lets `write` make a file beside `path`, makes it durable, and renames it into place.
fn through(path: &Path, write: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
    let part = beside(path);
    let publish = || {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        write(&part)?;
        File::open(&part)?.sync_all()?;
        fs::rename(&part, path)
    };
    publish().with_context(|| format!("cannot write {}", path.display()))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_file_replaces_the_old_one_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("deep/file");
        bytes(&path, b"old").expect("written");
        bytes(&path, b"new").expect("written again");
        assert_eq!(fs::read(&path).expect("readable"), b"new");
        assert_eq!(fs::read_dir(directory.path().join("deep")).expect("listed").count(), 1);
    }
}
