//! What the image has where a volume is mounted, copied into an empty volume.
//!
//! The copy is made aside and takes the place of the empty directory by a rename, after a sync: a machine that dies
//! on the way leaves a volume that is still empty, and the next one begins anew.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use protocol::VOLUME_DIRECTORY;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat, fstat, ftruncate, linkat, mkdirat, mknodat, openat,
    readlinkat, renameat, seek, statat, symlinkat, syncfs,
};
use rustix::io::Errno;

use crate::attributes::{Attributes, xattrs_at, xattrs_of};
use crate::failure::{Context, Result, failure};
use crate::paths::open_in_root;
use crate::unpack::remove_if_there;

/// Where the copy is made.
const ASIDE: &str = "data.new";

/// How deep an image's directories may be.
const MAX_DEPTH: usize = 256;

/// Bytes copied at a time.
const CHUNK: usize = 256 << 10;

const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Fills a volume (the mounted file system) from `path` of the container's root, if it is empty.
pub(crate) fn fill(root: BorrowedFd<'_>, path: &Path, volume: &Path) -> Result<()> {
    let what = || format!("copy {} of the image into its volume", path.display());
    let source = match open_in_root(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK) {
        Ok(source) => source,
        // What stands in the way of the mount is told by the mount.
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(errno) => return Err(errno).context(what),
    };
    let volume =
        rustix::fs::open(volume, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).context(what)?;
    if !is_empty(volume.as_fd()).context(what)? {
        return Ok(());
    }
    let prepare = || {
        remove_if_there(volume.as_fd(), Path::new(ASIDE))?;
        mkdirat(&volume, ASIDE, Mode::from_raw_mode(0o700))?;
        openat(&volume, ASIDE, READ | OFlags::DIRECTORY, Mode::empty())
    };
    let aside = prepare().context(what)?;
    let mut copy = Copy { links: BTreeMap::new(), aside: aside.try_clone().context(what)?, chunk: vec![0; CHUNK] };
    copy.directory(&source, &aside, &mut PathBuf::new())?;
    syncfs(&volume).and_then(|()| renameat(&volume, ASIDE, &volume, VOLUME_DIRECTORY)).context(what)
}

fn is_empty(volume: BorrowedFd<'_>) -> std::result::Result<bool, Errno> {
    let data = openat(volume, VOLUME_DIRECTORY, READ | OFlags::DIRECTORY, Mode::empty())?;
    for entry in Dir::read_from(&data)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

struct Copy {
    /// Where the first name of a file with several was copied to: below `aside`.
    links: BTreeMap<(u64, u64), PathBuf>,
    aside: OwnedFd,
    chunk: Vec<u8>,
}

impl Copy {
    /// Copies a directory's content, then its attributes. `path` is where it is in the copy.
    fn directory(&mut self, source: &OwnedFd, target: &OwnedFd, path: &mut PathBuf) -> Result<()> {
        let what = |path: &Path| format!("copy {path:?} into its volume");
        for entry in Dir::read_from(source).context(|| what(path))? {
            let entry = entry.context(|| what(path))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            path.push(name);
            if path.components().count() > MAX_DEPTH {
                return failure(format!("{}: too deep", what(path)));
            }
            let stat = statat(source, name, AtFlags::SYMLINK_NOFOLLOW).context(|| what(path))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let open = || {
                    let from = openat(source, name, READ | OFlags::DIRECTORY, Mode::empty())?;
                    mkdirat(target, name, Mode::from_raw_mode(0o700))?;
                    Ok((from, openat(target, name, READ | OFlags::DIRECTORY, Mode::empty())?))
                };
                let (from, to) = open().map_err(|errno: Errno| errno).context(|| what(path))?;
                self.directory(&from, &to, path)?;
            } else {
                self.leaf(source.as_fd(), target.as_fd(), name, &stat, path).context(|| what(path))?;
            }
            path.pop();
        }
        let finish =
            || -> std::result::Result<(), Errno> { Attributes::of(&fstat(source)?).apply(target, &xattrs_of(source)?) };
        finish().context(|| what(path))
    }

    fn leaf(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        path: &Path,
    ) -> std::result::Result<(), Errno> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                return linkat(&self.aside, first, target, name, AtFlags::empty());
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_path_buf());
        }
        let attributes = Attributes::of(stat);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return self.file(source, target, name, attributes),
            FileType::Symlink => {
                symlinkat(readlinkat(source, name, Vec::new())?.as_c_str(), target, name)?;
            }
            // Whoever made it is gone.
            FileType::Socket => return Ok(()),
            kind => mknodat(target, name, kind, Mode::from_raw_mode(attributes.mode), stat.st_rdev)?,
        }
        attributes.apply_at(target, name, &xattrs_at(source, name)?)
    }

    fn file(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &OsStr,
        attributes: Attributes,
    ) -> std::result::Result<(), Errno> {
        let from = openat(source, name, READ, Mode::empty())?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = openat(target, name, flags, Mode::from_raw_mode(0o600))?;
        let mut size = 0_u64;
        loop {
            let length = match rustix::io::read(&from, self.chunk.as_mut_slice()) {
                Ok(0) => break,
                Ok(length) => length,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            let bytes = self.chunk.get(..length).unwrap_or_default();
            size += length as u64;
            if bytes.iter().all(|byte| *byte == 0) {
                seek(&to, SeekFrom::Start(size))?;
            } else {
                write_all(&to, bytes)?;
            }
        }
        // The end may be a hole.
        ftruncate(&to, size)?;
        attributes.apply(&to, &xattrs_of(&from)?)
    }
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> std::result::Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
