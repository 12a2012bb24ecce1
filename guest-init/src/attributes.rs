//! Owner, mode, times and extended attributes of files that guest init writes for others.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod, fchown, fgetxattr, flistxattr,
    fsetxattr, futimens, lgetxattr, llistxattr, lsetxattr, utimensat,
};
use rustix::io::Errno;

/// Most bytes of the names of a file's extended attributes, and of a value (`xattr(7)`).
const MAX_XATTR: usize = 64 << 10;

/// `UTIME_OMIT`.
const OMIT: i64 = 0x3fff_fffe;

/// What is set, but for extended attributes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    /// Seconds since 1970, nanoseconds.
    pub(crate) mtime: (i64, u32),
}

/// Names and values.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

impl Attributes {
    /// Those of a file.
    pub(crate) fn of(stat: &Stat) -> Self {
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Self { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777, mtime: (stat.st_mtime, nanoseconds) }
    }

    fn owner(self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }

    fn times(self) -> Timestamps {
        Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: OMIT },
            last_modification: Timespec { tv_sec: self.mtime.0, tv_nsec: self.mtime.1.into() },
        }
    }

    /// Sets them on an open file or directory. A change of owner takes bits of the mode and capabilities away, so it
    /// comes first.
    pub(crate) fn apply(self, file: impl AsFd, xattrs: &Xattrs) -> Result<(), Errno> {
        let (uid, gid) = self.owner();
        fchown(&file, uid, gid)?;
        fchmod(&file, Mode::from_raw_mode(self.mode))?;
        for (name, value) in xattrs {
            tolerate(fsetxattr(&file, OsStr::from_bytes(name), value, XattrFlags::empty()))?;
        }
        futimens(&file, &self.times())
    }

    /// Sets those that a link, a device or a pipe has, without opening it. Its mode is the one it was made with.
    pub(crate) fn apply_at(self, directory: BorrowedFd<'_>, name: &OsStr, xattrs: &Xattrs) -> Result<(), Errno> {
        let (uid, gid) = self.owner();
        chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        if !xattrs.is_empty() {
            // There is no call that takes a directory.
            rustix::process::fchdir(directory)?;
            for (key, value) in xattrs {
                tolerate(lsetxattr(name, OsStr::from_bytes(key), value, XattrFlags::empty()))?;
            }
        }
        utimensat(directory, name, &self.times(), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Sets the time of modification alone.
    pub(crate) fn apply_time(self, file: impl AsFd) -> Result<(), Errno> {
        futimens(file, &self.times())
    }
}

/// What this kind of file or file system does not have is left out.
fn tolerate(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        result => result,
    }
}

/// Those of an open file that can be copied: not those of the overlay and its like.
pub(crate) fn xattrs_of(file: impl AsFd) -> Result<Xattrs, Errno> {
    read_xattrs(|list| flistxattr(&file, list), |name, value| fgetxattr(&file, name, value))
}

/// As [`xattrs_of`], of what cannot be opened.
pub(crate) fn xattrs_at(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Xattrs, Errno> {
    rustix::process::fchdir(directory)?;
    read_xattrs(|list| llistxattr(name, list), |key, value| lgetxattr(name, key, value))
}

fn read_xattrs(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&OsStr, &mut [u8]) -> Result<usize, Errno>,
) -> Result<Xattrs, Errno> {
    let mut names = vec![0; MAX_XATTR];
    let length = match list(&mut names) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        result => result?,
    };
    let mut xattrs = Vec::new();
    let mut value = vec![0; MAX_XATTR];
    for name in names.get(..length).unwrap_or_default().split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.") {
            continue;
        }
        match get(OsStr::from_bytes(name), &mut value) {
            Ok(length) => xattrs.push((name.to_vec(), value.get(..length).unwrap_or_default().to_vec())),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(xattrs)
}
