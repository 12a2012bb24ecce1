//! A tar archive that came out of a container becomes files here.
//!
//! # Threats
//!
//! The container made the names, links and modes, and may want a file written elsewhere:
//!
//! | what | answer |
//! |---|---|
//! | `..`, absolute names | an error before anything is written |
//! | a name that leads through a symbolic link, one of the archive or one that was here | each directory is opened beneath the one where it begins, no link is followed (`openat2`) |
//! | a link where a file is to be | what is there is removed and made anew, never written through |
//! | hard links to files outside | their target is looked up in the same way |
//! | set-user-id bits, devices | kept only where owners are kept, which takes `--archive` |

use std::{
    ffi::OsStr,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use anyhow::Context as _;
use rustix::{
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chmodat, chownat, linkat,
        mkdirat, mknodat, openat, openat2, symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};
use tar::{Archive, Entry, EntryType};

/// How an archive is unpacked.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Into which directory.
    pub(crate) directory: PathBuf,
    /// What the first component of all names is called here.
    pub(crate) name: Option<String>,
    /// Whether owners, set-user-id bits and devices are kept.
    pub(crate) owners: bool,
}

/// Unpacks an archive.
///
/// # Errors
///
/// What cannot be written is named, by its name in the archive.
pub(crate) fn unpack(archive: impl Read, options: &Options) -> anyhow::Result<()> {
    let root = openat(CWD, &options.directory, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open {}", options.directory.display()))?;
    let mut unpacker = Unpacker { root, options, directories: Vec::new() };
    for entry in Archive::new(archive).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        unpacker.entry(&mut entry, &name).with_context(|| format!("cannot copy {}", name.display()))?;
    }
    unpacker.finish()
}

struct Unpacker<'a> {
    root: OwnedFd,
    options: &'a Options,
    /// Directories whose modes and times are set when all is in them.
    directories: Vec<(PathBuf, Attributes)>,
}

/// What a file is given besides its content.
#[derive(Debug, Clone, Copy)]
struct Attributes {
    mode: u32,
    owner: Option<(u32, u32)>,
    modified: i64,
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>, name: &Path) -> anyhow::Result<()> {
        let path = self.renamed(name)?;
        let attributes = self.attributes(entry)?;
        let Some(last) = path.file_name() else {
            // The directory itself, which is there.
            return Ok(());
        };
        let parent = self.open_beneath(path.parent().unwrap_or(Path::new("")))?;
        match entry.header().entry_type() {
            EntryType::Directory => {
                make_directory(&parent, last)?;
                self.directories.push((path.clone(), attributes));
                return Ok(());
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.remove(&parent, last)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(&parent, last, flags, Mode::RUSR | Mode::WUSR)?;
                let mut file = std::fs::File::from(file);
                io::copy(entry, &mut file)?;
            }
            EntryType::Symlink => {
                self.remove(&parent, last)?;
                let target = entry.link_name()?.context("a link to nowhere")?;
                symlinkat(&*target, &parent, last)?;
            }
            EntryType::Link => {
                let target = entry.link_name()?.context("a link to nowhere")?;
                let target = self.renamed(&target)?;
                let from = self.open_beneath(target.parent().unwrap_or(Path::new("")))?;
                self.remove(&parent, last)?;
                linkat(&from, target.file_name().context("a link to nowhere")?, &parent, last, AtFlags::empty())?;
                return Ok(());
            }
            kind @ (EntryType::Fifo | EntryType::Char | EntryType::Block) => {
                self.remove(&parent, last)?;
                if !self.make_special(&parent, last, kind, entry)? {
                    return Ok(());
                }
            }
            _ => return Ok(()),
        }
        Ok(set(&parent, last, attributes, entry.header().entry_type() == EntryType::Symlink)?)
    }

    /// A name of the archive as it is here, without dots: the first component may have another name.
    fn renamed(&self, name: &Path) -> anyhow::Result<PathBuf> {
        let mut parts = Vec::new();
        for component in name.components() {
            match component {
                Component::Normal(part) => parts.push(part),
                Component::CurDir => {}
                _ => anyhow::bail!("the name leads out of the archive"),
            }
        }
        if let (Some(first), Some(name)) = (parts.first_mut(), &self.options.name) {
            *first = OsStr::new(name);
        }
        Ok(parts.iter().collect())
    }

    fn attributes(&self, entry: &Entry<'_, impl Read>) -> anyhow::Result<Attributes> {
        let header = entry.header();
        let mask = if self.options.owners { 0o7777 } else { 0o1777 };
        let number = |id: u64| u32::try_from(id).context("an owner that cannot be");
        Ok(Attributes {
            mode: header.mode()? & mask,
            owner: if self.options.owners { Some((number(header.uid()?)?, number(header.gid()?)?)) } else { None },
            modified: i64::try_from(header.mtime()?).unwrap_or(0),
        })
    }

    /// Opens a directory beneath the one where all goes; no link leads anywhere.
    fn open_beneath(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), how)
    }

    /// Makes room: whatever is there goes, but a directory, which stays and is an error.
    fn remove(&self, parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A pipe or, where owners are kept, a device. Whether there is one now.
    fn make_special(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        kind: EntryType,
        entry: &Entry<'_, impl Read>,
    ) -> anyhow::Result<bool> {
        let header = entry.header();
        let device = || {
            let number = |part: io::Result<Option<u32>>| Ok::<_, io::Error>(part?.unwrap_or(0));
            Ok::<_, io::Error>(rustix::fs::makedev(number(header.device_major())?, number(header.device_minor())?))
        };
        let (kind, device) = match kind {
            EntryType::Fifo => (FileType::Fifo, 0),
            _ if !self.options.owners => return Ok(false),
            EntryType::Char => (FileType::CharacterDevice, device()?),
            _ => (FileType::BlockDevice, device()?),
        };
        mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, device)?;
        Ok(true)
    }

    /// The innermost directories first: setting what is in one changes its time.
    fn finish(self) -> anyhow::Result<()> {
        for (path, attributes) in self.directories.iter().rev() {
            let parent = self.open_beneath(path.parent().unwrap_or(Path::new("")))?;
            let name = path.file_name().unwrap_or_default();
            set(&parent, name, *attributes, false).with_context(|| format!("cannot change {}", path.display()))?;
        }
        Ok(())
    }
}

fn make_directory(parent: &OwnedFd, name: &OsStr) -> anyhow::Result<()> {
    match mkdirat(parent, name, Mode::RWXU) {
        Err(Errno::EXIST) => {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::PATH | OFlags::CLOEXEC;
            openat(parent, name, flags, Mode::empty()).context("a file is where a directory is to be")?;
            Ok(())
        }
        made => Ok(made?),
    }
}

/// Sets owner, mode and time, in this order: a change of owner drops bits of the mode.
fn set(parent: &OwnedFd, name: &OsStr, attributes: Attributes, is_link: bool) -> Result<(), Errno> {
    if let Some((uid, gid)) = attributes.owner {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if !is_link {
        set_mode(parent.as_fd(), name, attributes.mode)?;
    }
    let time = Timespec { tv_sec: attributes.modified, tv_nsec: 0 };
    utimensat(parent, name, &Timestamps { last_access: time, last_modification: time }, AtFlags::SYMLINK_NOFOLLOW)
}

/// There is no `chmod` that follows no link on older kernels. A descriptor that only names the file follows none, and
/// opens no device.
fn set_mode(parent: BorrowedFd<'_>, name: &OsStr, mode: u32) -> Result<(), Errno> {
    let file = openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, symlink},
    };

    use proptest::prelude::*;
    use tar::{Builder, Header};

    use super::*;

    /// An archive of entries: kind, name, link's target or content.
    fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (kind, name, rest) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            header.set_mtime(1_000_000_000);
            let is_file = *kind == EntryType::Regular;
            header.set_size(if is_file { rest.len() as u64 } else { 0 });
            let old = header.as_old_mut();
            old.name[..name.len()].copy_from_slice(name.as_bytes());
            if !is_file {
                old.linkname[..rest.len()].copy_from_slice(rest.as_bytes());
            }
            header.set_cksum();
            builder.append(&header, if is_file { rest.as_bytes() } else { b"" }).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpacked(directory: &Path, name: Option<&str>, entries: &[(EntryType, &str, &str)]) -> anyhow::Result<()> {
        let name = name.map(str::to_owned);
        let options = Options { directory: directory.to_owned(), name, owners: false };
        unpack(&archive(entries)[..], &options)
    }

    const DIRECTORY: EntryType = EntryType::Directory;
    const FILE: EntryType = EntryType::Regular;
    const SYMLINK: EntryType = EntryType::Symlink;
    const LINK: EntryType = EntryType::Link;

    #[test]
    fn trees_are_made() {
        let here = tempfile::tempdir().unwrap();
        let entries = [
            (DIRECTORY, "a/", ""),
            (FILE, "a/f", "text"),
            (SYMLINK, "a/s", "/etc/passwd"),
            (LINK, "a/l", "a/f"),
            (EntryType::Fifo, "a/p", ""),
            (EntryType::Char, "a/null", ""),
        ];
        for _ in 0..2 {
            unpacked(here.path(), Some("b"), &entries).unwrap();
        }
        let path = |name: &str| here.path().join("b").join(name);
        assert_eq!(fs::read(path("l")).unwrap(), b"text");
        assert_eq!(fs::metadata(path("f")).unwrap().nlink(), 2);
        assert_eq!(fs::metadata(path("f")).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(fs::metadata(path("")).unwrap().mtime(), 1_000_000_000);
        assert_eq!(fs::read_link(path("s")).unwrap(), Path::new("/etc/passwd"));
        assert!(!path("null").exists() && path("p").exists());
    }

    #[test]
    fn nothing_is_written_elsewhere() {
        let outside = tempfile::tempdir().unwrap();
        let secret = outside.path().join("secret");
        fs::write(&secret, "kept").unwrap();
        let to = outside.path().to_str().unwrap();
        for entries in [
            &[(FILE, "../secret", "lost")][..],
            &[(FILE, "a/../../secret", "lost")],
            &[(FILE, "/tmp/secret", "lost")],
            &[(SYMLINK, "d", to), (FILE, "d/secret", "lost")],
            &[(SYMLINK, "d", to), (DIRECTORY, "d/", "")],
            &[(SYMLINK, "d", to), (LINK, "l", "d/secret")],
            &[(SYMLINK, "d", "."), (FILE, "d/x", "lost")],
            &[(LINK, "l", "../secret")],
        ] {
            let here = tempfile::tempdir_in(outside.path()).unwrap();
            assert!(unpacked(here.path(), None, entries).is_err(), "{entries:?}");
            assert_eq!(fs::read(&secret).unwrap(), b"kept", "{entries:?}");
            assert_eq!(fs::metadata(&secret).unwrap().mode() & 0o7777, 0o644, "{entries:?}");
        }
        let here = tempfile::tempdir_in(outside.path()).unwrap();
        symlink(&secret, here.path().join("f")).unwrap();
        unpacked(here.path(), None, &[(FILE, "f", "new")]).unwrap();
        assert_eq!(fs::read(&secret).unwrap(), b"kept");
        assert_eq!(fs::read(here.path().join("f")).unwrap(), b"new");
    }

    #[test]
    fn directories_and_files_do_not_replace_each_other() {
        let here = tempfile::tempdir().unwrap();
        fs::create_dir(here.path().join("d")).unwrap();
        fs::write(here.path().join("f"), "").unwrap();
        assert!(unpacked(here.path(), None, &[(FILE, "d", "x")]).is_err());
        assert!(unpacked(here.path(), None, &[(DIRECTORY, "f", "")]).is_err());
        assert!(here.path().join("d").is_dir() && here.path().join("f").is_file());
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            let here = tempfile::tempdir().unwrap();
            let options = Options { directory: here.path().to_owned(), name: None, owners: false };
            let _ = unpack(&bytes[..], &options);
        }
    }
}
