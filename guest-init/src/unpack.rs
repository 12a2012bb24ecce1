//! The task of unpacking: entries from standard input become files of the container, as `docker cp` writes them.
//!
//! The process is inside the container's mount namespace, as root and with its umask empty. The container is hostile
//! and may run meanwhile: each look-up is an `openat2` with the container's root as `/` ([`crate::paths`]), the last
//! name of a path is never followed, and nothing is written to file systems that are the kernel's own interface.
//!
//! | an entry | finds | what happens |
//! |---|---|---|
//! | directory | a directory | it stays, and gets owner, mode, attributes and time |
//! | directory | anything else | replaced; an error with `no_overwrite_dir_non_dir` |
//! | anything else | a directory | replaced with all that is in it; an error with `no_overwrite_dir_non_dir` |
//! | anything else | anything else | replaced |
//!
//! Times of directories are set when all is written.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use protocol::unpack::{Decoder, Entry, Kind, Piece, UnpackError};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, fstatfs, linkat, makedev, mkdirat, mknodat, openat, statat, symlinkat,
    unlinkat,
};
use rustix::io::Errno;

use crate::attributes::Attributes;
use crate::failure::{Context, Failure, Result, failure};
use crate::paths::{make_directory_in_root, open_in_root, path_of};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// Directories whose time is remembered until the end; what comes after them gets its time at once.
const MAX_DIRECTORIES: usize = 1 << 16;

/// How deep a directory that is replaced may be.
const MAX_DEPTH: usize = 256;

/// File systems that are the kernel's own interface: proc, sysfs, cgroup2, cgroup.
const KERNEL_FILE_SYSTEMS: [u64; 4] = [0x9fa0, 0x6265_6572, 0x6367_7270, 0x0027_e0eb];

/// Does the task; the process's exit code. Descriptors 0 and 2 are its input and its complaints.
pub(crate) fn run(directory: &str, no_overwrite_dir_non_dir: bool) -> i32 {
    match unpack(directory, no_overwrite_dir_non_dir) {
        Ok(()) => 0,
        Err(error) => {
            // Nobody may be listening.
            let _ = rustix::io::write(rustix::stdio::stderr(), format!("{error}\n").as_bytes());
            1
        }
    }
}

fn unpack(directory: &str, no_overwrite_dir_non_dir: bool) -> Result<()> {
    rustix::process::umask(Mode::empty());
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open the container's root".to_owned())?;
    let mut writer = Writer::new(root, directory, no_overwrite_dir_non_dir)?;
    let mut decoder = Decoder::default();
    let mut chunk = vec![0; CHUNK];
    loop {
        let mut input = match rustix::io::read(rustix::stdio::stdin(), &mut chunk) {
            Ok(0) => break,
            Ok(length) => chunk.get(..length).unwrap_or_default(),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno).context(|| "read the entries".to_owned()),
        };
        while let Some(piece) = decoder.take(&mut input).map_err(|error| said(&error))? {
            match piece {
                Piece::Entry(entry) => writer.entry(*entry)?,
                Piece::Content(bytes) => writer.content(bytes)?,
                Piece::End => writer.set_directory_times(),
            }
        }
    }
    decoder.finish().map_err(|error| said(&error))
}

/// An error with the one that it comes from.
fn said(error: &UnpackError) -> Failure {
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    Failure(format!("{error}{source}"))
}

/// A file whose content is coming.
#[derive(Debug)]
struct OpenFile {
    file: OwnedFd,
    left: u64,
    entry: Entry,
}

/// Writes entries below a directory.
#[derive(Debug)]
struct Writer {
    root: OwnedFd,
    base: PathBuf,
    no_overwrite_dir_non_dir: bool,
    /// The last parent: entries come directory by directory.
    parent: Option<(PathBuf, OwnedFd)>,
    open: Option<OpenFile>,
    directories: Vec<(Vec<u8>, Attributes)>,
}

impl Writer {
    fn new(root: OwnedFd, directory: &str, no_overwrite_dir_non_dir: bool) -> Result<Self> {
        if !directory.starts_with('/') {
            return failure(format!("{directory:?} is not an absolute path"));
        }
        let base = PathBuf::from(directory);
        let found = open_in_root(root.as_fd(), &base, OFlags::PATH | OFlags::DIRECTORY);
        found.context(|| format!("open {directory:?}"))?;
        Ok(Self { root, base, no_overwrite_dir_non_dir, parent: None, open: None, directories: Vec::new() })
    }

    fn shown(&self, path: &[u8]) -> String {
        format!("{:?}", self.base.join(path_of(path)))
    }

    fn entry(&mut self, entry: Entry) -> Result<()> {
        let shown = self.shown(&entry.path);
        if entry.path.is_empty() {
            return Ok(());
        }
        if let Some((name, _)) = entry.xattrs.iter().find(|(name, _)| name.starts_with(b"trusted.")) {
            return failure(format!("{shown}: attribute {:?} is the kernel's", String::from_utf8_lossy(name)));
        }
        self.make(entry).context(|| shown)
    }

    fn make(&mut self, entry: Entry) -> Result<()> {
        let (parent, name) = split(&entry.path);
        let (parent, name) = (self.parent_directory(parent)?, OsStr::from_bytes(name).to_owned());
        let is_directory = entry.kind == Kind::Directory;
        let exists = self.clear(parent.as_fd(), &name, is_directory)?;
        let attributes = Attributes { uid: entry.uid, gid: entry.gid, mode: entry.mode & 0o7777, mtime: entry.mtime };
        let make = || -> std::result::Result<Option<OwnedFd>, Errno> {
            let node = |kind, major, minor| {
                mknodat(&parent, &name, kind, Mode::from_raw_mode(entry.mode & 0o777), makedev(major, minor))?;
                attributes.apply_at(parent.as_fd(), &name, &entry.xattrs)
            };
            match &entry.kind {
                Kind::File { .. } => {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    return openat(&parent, &name, flags, Mode::from_raw_mode(0o600)).map(Some);
                }
                Kind::Directory => {
                    if !exists {
                        mkdirat(&parent, &name, Mode::from_raw_mode(0o700))?;
                    }
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    attributes.apply(openat(&parent, &name, flags, Mode::empty())?, &entry.xattrs)?;
                }
                Kind::Symlink { target } => {
                    symlinkat(path_of(target), &parent, &name)?;
                    attributes.apply_at(parent.as_fd(), &name, &entry.xattrs)?;
                }
                Kind::Hardlink { .. } => {}
                Kind::Character { major, minor } => node(FileType::CharacterDevice, *major, *minor)?,
                Kind::Block { major, minor } => node(FileType::BlockDevice, *major, *minor)?,
                Kind::Fifo => node(FileType::Fifo, 0, 0)?,
            }
            Ok(None)
        };
        let file = make().context(|| "make it".to_owned())?;
        if let Kind::Hardlink { target } = &entry.kind {
            self.link(target, parent.as_fd(), &name)?;
        }
        if is_directory && self.directories.len() < MAX_DIRECTORIES {
            self.directories.push((entry.path.clone(), attributes));
        }
        self.open = file.map(|file| OpenFile { file, left: entry.size(), entry });
        if entry_is_whole(self.open.as_ref()) { self.close() } else { Ok(()) }
    }

    fn link(&mut self, target: &[u8], parent: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let (directory, last) = split(target);
        let directory = self.parent_directory(directory)?;
        linkat(&directory, OsStr::from_bytes(last), parent, name, AtFlags::empty())
            .context(|| format!("link to {}", self.shown(target)))
    }

    /// The directory that an entry is in, made if it is missing.
    fn parent_directory(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let path = self.base.join(path_of(path));
        let copy = |directory: &OwnedFd| directory.try_clone().context(|| "open its directory".to_owned());
        if let Some((known, directory)) = &self.parent
            && *known == path
        {
            return copy(directory);
        }
        let (directory, _) =
            make_directory_in_root(self.root.as_fd(), &path).context(|| format!("open directory {:?}", path))?;
        let kind = fstatfs(&directory).context(|| "look at its file system".to_owned())?.f_type;
        if u64::try_from(kind).is_ok_and(|kind| KERNEL_FILE_SYSTEMS.contains(&kind)) {
            return failure(format!("{path:?} is the kernel's"));
        }
        let handed = copy(&directory)?;
        self.parent = Some((path, directory));
        Ok(handed)
    }

    /// Makes way for an entry; says whether a directory is there that stays.
    fn clear(&self, parent: BorrowedFd<'_>, name: &OsStr, is_directory: bool) -> Result<bool> {
        let found = match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(errno).context(|| "look at what is there".to_owned()),
        };
        match (found, is_directory) {
            (true, true) => return Ok(true),
            (true, false) if self.no_overwrite_dir_non_dir => {
                return failure("cannot overwrite a directory with something else");
            }
            (false, true) if self.no_overwrite_dir_non_dir => {
                return failure("cannot overwrite with a directory what is none");
            }
            _ => {}
        }
        remove(parent, name, MAX_DEPTH).context(|| "remove what is there".to_owned())?;
        Ok(false)
    }

    fn content(&mut self, mut bytes: &[u8]) -> Result<()> {
        let Some(open) = &mut self.open else { return failure("content without a file") };
        open.left = open.left.saturating_sub(bytes.len() as u64);
        while !bytes.is_empty() {
            match rustix::io::write(&open.file, bytes) {
                Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    let path = self.open.take().map(|open| open.entry.path).unwrap_or_default();
                    return Err(errno).context(|| self.shown(&path));
                }
            }
        }
        if entry_is_whole(self.open.as_ref()) { self.close() } else { Ok(()) }
    }

    /// The file has its content.
    fn close(&mut self) -> Result<()> {
        let Some(OpenFile { file, entry, .. }) = self.open.take() else { return Ok(()) };
        let attributes = Attributes { uid: entry.uid, gid: entry.gid, mode: entry.mode, mtime: entry.mtime };
        attributes.apply(file, &entry.xattrs).context(|| self.shown(&entry.path))
    }

    /// A directory that the container took away meanwhile has no time.
    fn set_directory_times(&mut self) {
        for (path, attributes) in std::mem::take(&mut self.directories).into_iter().rev() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let found = open_in_root(self.root.as_fd(), &self.base.join(path_of(&path)), flags);
            let _ = found.and_then(|directory| attributes.apply_time(directory));
        }
    }
}

fn entry_is_whole(open: Option<&OpenFile>) -> bool {
    open.is_some_and(|open| open.left == 0)
}

/// Parent and last name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
        None => (b"", path),
    }
}

/// Removes whatever has a name, following nothing.
fn remove(parent: BorrowedFd<'_>, name: &OsStr, depth: usize) -> std::result::Result<(), Errno> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        result => return result,
    }
    if depth == 0 {
        return Err(Errno::NAMETOOLONG);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            remove(directory.as_fd(), OsStr::from_bytes(name), depth - 1)?;
        }
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Removes a directory of guest init's own with all that is in it, if it is there.
pub(crate) fn remove_if_there(parent: BorrowedFd<'_>, name: &Path) -> std::result::Result<(), Errno> {
    match remove(parent, name.as_os_str(), MAX_DEPTH) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}
