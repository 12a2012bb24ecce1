//! A tree of this host as a tar archive. Symbolic links are not followed; a file that has several names in it is
//! written once.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File, Metadata},
    io::{self, Write},
    os::unix::{ffi::OsStrExt as _, fs::FileTypeExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tar::{Builder, EntryType, Header};

/// How deep a tree may be.
const DEPTH_MAX: usize = 1000;

/// What is written.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What it is called in the archive; empty or `.` for its contents alone.
    pub(crate) name: PathBuf,
    /// Whether the path's own last component is followed.
    pub(crate) follow: bool,
    /// Whether owners are kept; otherwise all is root's.
    pub(crate) owners: bool,
}

/// Writes the archive.
///
/// # Errors
///
/// What cannot be read is named.
pub(crate) fn pack(source: &Source, out: impl Write) -> anyhow::Result<()> {
    let mut packer = Packer { builder: Builder::new(out), owners: source.owners, names: HashMap::new() };
    let metadata = if source.follow { fs::metadata(&source.path) } else { fs::symlink_metadata(&source.path) };
    let metadata = metadata.with_context(|| cannot_read(&source.path))?;
    packer.entry(&source.path, &source.name, &metadata, 0)?;
    Ok(packer.builder.into_inner()?.flush()?)
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read {}", path.display())
}

struct Packer<W: Write> {
    builder: Builder<W>,
    owners: bool,
    /// Names of the files that have more than one.
    names: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    fn entry(&mut self, path: &Path, name: &Path, metadata: &Metadata, depth: usize) -> anyhow::Result<()> {
        anyhow::ensure!(depth < DEPTH_MAX, "{} is more than {DEPTH_MAX} directories deep", path.display());
        let kind = metadata.file_type();
        let mut header = self.header(metadata);
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.append(&mut header, name, io::empty())?;
            return self.children(path, name, depth);
        }
        if metadata.nlink() > 1 {
            if let Some(first) = self.names.get(&(metadata.dev(), metadata.ino())) {
                header.set_entry_type(EntryType::Link);
                return Ok(self.builder.append_link(&mut header, name, first)?);
            }
            self.names.insert((metadata.dev(), metadata.ino()), name.to_owned());
        }
        if kind.is_file() {
            let file = File::open(path).with_context(|| cannot_read(path))?;
            header.set_entry_type(EntryType::Regular);
            header.set_size(metadata.len());
            // A file that changes meanwhile has the length that it had.
            let padded = io::Read::chain(file, io::repeat(0));
            return self.append(&mut header, name, io::Read::take(padded, metadata.len()));
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            let target = fs::read_link(path).with_context(|| cannot_read(path))?;
            return Ok(self.builder.append_link(&mut header, name, target)?);
        }
        if kind.is_socket() {
            // A socket is nothing without whoever listens.
            return Ok(());
        }
        self.special(&mut header, name, metadata)
    }

    fn special(&mut self, header: &mut Header, name: &Path, metadata: &Metadata) -> anyhow::Result<()> {
        let kind = metadata.file_type();
        if kind.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
        } else {
            header.set_entry_type(if kind.is_block_device() { EntryType::Block } else { EntryType::Char });
            header.set_device_major(rustix::fs::major(metadata.rdev()))?;
            header.set_device_minor(rustix::fs::minor(metadata.rdev()))?;
        }
        self.append(header, name, io::empty())
    }

    fn children(&mut self, path: &Path, name: &Path, depth: usize) -> anyhow::Result<()> {
        let mut names: Vec<_> = fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>())
            .with_context(|| cannot_read(path))?;
        names.sort();
        for child in names {
            let path = path.join(&child);
            match fs::symlink_metadata(&path) {
                Ok(metadata) => self.entry(&path, &name.join(&child), &metadata, depth + 1)?,
                // It was there a moment ago.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| cannot_read(&path)),
            }
        }
        Ok(())
    }

    fn header(&self, metadata: &Metadata) -> Header {
        let mut header = Header::new_gnu();
        header.set_mode(metadata.mode() & 0o7777);
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
        header.set_size(0);
        let (uid, gid) = if self.owners { (metadata.uid(), metadata.gid()) } else { (0, 0) };
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header
    }

    fn append(&mut self, header: &mut Header, name: &Path, content: impl io::Read) -> anyhow::Result<()> {
        let name = if name.as_os_str().is_empty() { Path::new(OsStr::from_bytes(b"./")) } else { name };
        Ok(self.builder.append_data(header, name, content)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn packed(path: &Path, name: &str) -> Vec<(String, EntryType, u64)> {
        let source = Source { path: path.to_owned(), name: name.into(), follow: false, owners: false };
        let mut bytes = Vec::new();
        pack(&source, &mut bytes).unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            assert_eq!(entry.header().uid().unwrap(), 0);
            (entry.path().unwrap().display().to_string(), entry.header().entry_type(), entry.size())
        });
        entries.collect()
    }

    #[test]
    fn trees_and_files() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        fs::create_dir_all(tree.join("sub")).unwrap();
        fs::write(tree.join("sub/file"), "12345").unwrap();
        fs::hard_link(tree.join("sub/file"), tree.join("sub/same")).unwrap();
        symlink("/no/where", tree.join("link")).unwrap();
        let long = "n".repeat(150);
        fs::write(tree.join(&long), "").unwrap();
        let names = packed(&tree, "other");
        let expected = [
            ("other".to_owned(), EntryType::Directory, 0),
            ("other/link".to_owned(), EntryType::Symlink, 0),
            (format!("other/{long}"), EntryType::Regular, 0),
            ("other/sub".to_owned(), EntryType::Directory, 0),
            ("other/sub/file".to_owned(), EntryType::Regular, 5),
            ("other/sub/same".to_owned(), EntryType::Link, 0),
        ];
        assert_eq!(names, expected);
        assert_eq!(packed(&tree.join("sub/file"), "x"), [("x".to_owned(), EntryType::Regular, 5)]);
        assert_eq!(packed(&tree, ".")[1].0, "link".to_owned());
        let source = Source { path: tree.join("gone"), name: "x".into(), follow: false, owners: false };
        assert!(pack(&source, io::sink()).unwrap_err().to_string().contains("gone"));
    }
}
