//! Paths inside a container's root, which is hostile.
//!
//! Every look-up is an `openat2` that treats the given directory as `/`: symbolic links cannot lead out of it and
//! magic links (`/proc/self/fd/…`) are not followed.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat, statat, unlinkat,
};
use rustix::io::Errno;

/// Most bytes read of a file that the container owns.
const MAX_FILE: usize = 4 << 20;

/// Most symbolic links that lead to what is not there yet.
const MAX_LINKS: usize = 40;

/// Looks a path up with `root` as `/`.
pub(crate) fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // A rename elsewhere in the container makes the kernel ask for another try.
    for _ in 0..64 {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Looks a directory up with `root` as `/`; makes what is missing of it, mode 0755, and says whether it did.
pub(crate) fn make_directory_in_root(root: BorrowedFd<'_>, path: &Path) -> Result<(OwnedFd, bool), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match open_in_root(root, path, flags) {
        Err(Errno::NOENT) => {}
        result => return result.map(|directory| (directory, false)),
    }
    // From the longest part that is there, one name after the other.
    let mut missing: Vec<&OsStr> = Vec::new();
    let mut there = path;
    let mut directory = loop {
        let Some(parent) = there.parent() else { return Err(Errno::NOENT) };
        // A `..` behind something that is missing leads nowhere.
        missing.push(there.file_name().ok_or(Errno::NOENT)?);
        there = parent;
        match open_in_root(root, there, flags) {
            Err(Errno::NOENT) => {}
            result => break result?,
        }
    };
    for name in missing.into_iter().rev() {
        match mkdirat(&directory, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        directory = openat(&directory, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    }
    Ok((directory, true))
}

/// Looks up what is no directory with `root` as `/`; where it is missing, makes an empty file and what is missing on the
/// way to it. Where a symbolic link leads to nothing, the file is made there.
pub(crate) fn make_file_in_root(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match open_in_root(root, &path, OFlags::PATH) {
            Err(Errno::NOENT) => {}
            result => return result,
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::NOENT) };
        let (directory, _) = make_directory_in_root(root, parent)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        match openat(&directory, name, flags, Mode::from_raw_mode(0o644)) {
            Ok(_) => return openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let target = readlinkat(&directory, name, Vec::new())?;
        path = parent.join(path_of(target.as_bytes()));
    }
    Err(Errno::LOOP)
}

/// What a fixed mount point is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MountPoint {
    Directory,
    File,
}

/// Opens one of the fixed mount points (`/proc`, `/etc/hosts`, …) without following any link: what stands in its way
/// and is no directory is replaced, as Docker does.
pub(crate) fn fixed_mount_point(root: BorrowedFd<'_>, path: &Path, kind: MountPoint) -> Result<OwnedFd, Errno> {
    let names: Vec<&OsStr> = path
        .components()
        .filter_map(|component| if let Component::Normal(name) = component { Some(name) } else { None })
        .collect();
    let (last, parents) = names.split_last().ok_or(Errno::INVAL)?;
    let mut directory = openat(root, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for name in parents {
        directory = place(directory.as_fd(), name, MountPoint::Directory)?;
    }
    place(directory.as_fd(), last, kind)
}

fn place(directory: BorrowedFd<'_>, name: &OsStr, kind: MountPoint) -> Result<OwnedFd, Errno> {
    let found = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| FileType::from_raw_mode(stat.st_mode));
    let fits = match (found, kind) {
        (Ok(FileType::Directory), MountPoint::Directory) | (Ok(FileType::RegularFile), MountPoint::File) => true,
        (Ok(FileType::Directory), MountPoint::File) => return Err(Errno::ISDIR),
        (Ok(_), _) => {
            unlinkat(directory, name, AtFlags::empty())?;
            false
        }
        (Err(Errno::NOENT), _) => false,
        (Err(errno), _) => return Err(errno),
    };
    if !fits {
        match kind {
            MountPoint::Directory => mkdirat(directory, name, Mode::from_raw_mode(0o755))?,
            MountPoint::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                drop(openat(directory, name, flags, Mode::from_raw_mode(0o644))?);
            }
        }
    }
    openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Reads a regular file of the container; empty if it is missing. Never waits for a FIFO and reads a bounded length.
///
/// # Errors
///
/// A sentence that names the path.
pub(crate) fn read_regular_file(root: BorrowedFd<'_>, path: &str) -> Result<Vec<u8>, String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match open_in_root(root, Path::new(path), flags) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
        Err(errno) => return Err(format!("{path} of the container: {errno}")),
    };
    let stat = rustix::fs::fstat(&file).map_err(|errno| format!("{path} of the container: {errno}"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(format!("{path} of the container is not a regular file"));
    }
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        match rustix::io::read(&file, &mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(length) => bytes.extend_from_slice(&chunk[..length]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(format!("{path} of the container: {errno}")),
        }
        if bytes.len() > MAX_FILE {
            return Err(format!("{path} of the container is longer than {MAX_FILE} bytes"));
        }
    }
}

/// A path from bytes.
pub(crate) fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, symlink};

    use super::*;

    struct Root {
        directory: tempfile::TempDir,
        fd: OwnedFd,
    }

    fn root() -> Root {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("root")).unwrap();
        let fd = fs::File::open(directory.path().join("root")).unwrap().into();
        Root { directory, fd }
    }

    impl Root {
        fn path(&self, path: &str) -> std::path::PathBuf {
            self.directory.path().join("root").join(path)
        }

        fn outside_is_untouched(&self) -> bool {
            fs::read_dir(self.directory.path()).unwrap().count() == 1
        }
    }

    #[test]
    fn directories_are_made_inside_only() {
        let root = root();
        symlink("../../..", root.path("up")).unwrap();
        symlink("/abs", root.path("link")).unwrap();
        fs::create_dir(root.path("abs")).unwrap();
        for path in ["/up/made", "/../made2/deep", "link/made3", "/a/b/c"] {
            let (_, made) = make_directory_in_root(root.fd.as_fd(), Path::new(path)).unwrap();
            assert!(made, "{path}");
        }
        for path in ["made", "made2/deep", "abs/made3", "a/b/c"] {
            assert!(root.path(path).is_dir(), "{path}");
        }
        assert!(root.outside_is_untouched());
        assert!(!make_directory_in_root(root.fd.as_fd(), Path::new("/a/b")).unwrap().1);
        assert!(!make_directory_in_root(root.fd.as_fd(), Path::new("")).unwrap().1);
    }

    #[test]
    fn directories_behind_odd_things_are_refused() {
        let root = root();
        fs::write(root.path("file"), "").unwrap();
        symlink("dangling-target", root.path("dangling")).unwrap();
        symlink("loop", root.path("loop")).unwrap();
        for path in ["/file", "/file/below", "/dangling", "/loop", "/loop/x", "/missing/../x"] {
            assert!(make_directory_in_root(root.fd.as_fd(), Path::new(path)).is_err(), "{path}");
        }
        assert!(!root.path("dangling-target").exists());
    }

    #[test]
    fn files_are_found_or_made_inside_only_and_nothing_is_replaced() {
        let root = root();
        fs::write(root.path("there"), "text").unwrap();
        symlink("/there", root.path("link")).unwrap();
        symlink("../../../outside", root.path("dangling")).unwrap();
        symlink("../new/by-link", root.path("chain")).unwrap();
        symlink("chain", root.path("chained")).unwrap();
        symlink("loop", root.path("loop")).unwrap();
        for path in ["/there", "/link", "/new/deep/file", "/../up", "/dangling", "/chained"] {
            make_file_in_root(root.fd.as_fd(), Path::new(path)).unwrap();
        }
        assert_eq!(fs::read(root.path("there")).unwrap(), b"text");
        assert!(root.path("link").is_symlink() && root.path("new/deep/file").is_file() && root.path("up").is_file());
        assert!(root.path("outside").is_file() && root.path("new/by-link").is_file());
        for path in ["/there/below", "/loop"] {
            assert!(make_file_in_root(root.fd.as_fd(), Path::new(path)).is_err(), "{path}");
        }
        assert!(root.outside_is_untouched());
    }

    #[test]
    fn fixed_mount_points_replace_what_stands_in_the_way() {
        let root = root();
        symlink("/proc", root.path("dev")).unwrap();
        symlink("../../..", root.path("etc")).unwrap();
        fs::write(root.path("proc"), "file").unwrap();
        for (path, kind) in [
            ("/dev/pts", MountPoint::Directory),
            ("/proc", MountPoint::Directory),
            ("/etc/hosts", MountPoint::File),
            ("/etc/hosts", MountPoint::File),
        ] {
            fixed_mount_point(root.fd.as_fd(), Path::new(path), kind).unwrap();
        }
        assert!(root.path("dev/pts").is_dir() && root.path("proc").is_dir() && root.path("etc/hosts").is_file());
        symlink("/proc/self/environ", root.path("etc/resolv.conf")).unwrap();
        fixed_mount_point(root.fd.as_fd(), Path::new("/etc/resolv.conf"), MountPoint::File).unwrap();
        assert!(fs::symlink_metadata(root.path("etc/resolv.conf")).unwrap().is_file());
        fs::create_dir(root.path("etc/hostname")).unwrap();
        let refused = fixed_mount_point(root.fd.as_fd(), Path::new("/etc/hostname"), MountPoint::File);
        assert_eq!(refused.unwrap_err(), Errno::ISDIR);
        assert!(root.outside_is_untouched());
    }

    /// CVE-2024-9676: a FIFO at /etc/passwd must not hang.
    #[test]
    fn only_regular_files_are_read() {
        let root = root();
        let fifo = root.path("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());
        symlink("/fifo", root.path("passwd")).unwrap();
        symlink("/proc/self/cmdline", root.path("magic")).unwrap();
        fs::write(root.path("good"), "content").unwrap();
        fs::File::create(root.path("huge")).unwrap().set_len(1 << 40).unwrap();
        let read = |path| read_regular_file(root.fd.as_fd(), path);
        assert!(read("/passwd").unwrap_err().contains("not a regular file"));
        assert!(read("/huge").unwrap_err().contains("longer than"));
        assert_eq!(read("/good").unwrap(), b"content");
        assert_eq!(read("/missing").unwrap(), b"");
        assert_eq!(read("/magic").unwrap(), b"");
    }
}
