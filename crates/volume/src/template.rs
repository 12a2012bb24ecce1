//! Templates: what `mkfs.ext4` makes, once per size.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{FORMAT, Result, Unfinished, VolumeError, read_superblock_size};

/// Where the program is when it is not in PATH, as for users that are not root.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Beside the sizes that `mkfs.ext4` works out: 4 KiB blocks, 256-byte inodes, an inode for every 16 KiB, no share
/// for root, a journal that costs the host little. `discard` punches the file empty first, which lets mkfs mark the
/// inode tables as zeroed: the guest's kernel then has none to initialise. The features are listed in full, because
/// their defaults are the host's; `resize_inode` is not among them: it keeps blocks for a growth that never comes.
const OPTIONS: [&str; 11] = [
    "-q",
    "-F",
    "-b4096",
    "-I256",
    "-i16384",
    "-m0",
    "-Lscratch",
    "-E",
    "discard,lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0",
    "-O",
    "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super2,large_file,huge_file,dir_nlink,\
     extra_isize,metadata_csum",
];

/// Journals of disks below 256 MiB and of larger ones, in MiB.
const JOURNALS: [&str; 2] = ["-Jsize=4", "-Jsize=8"];

/// Opens the template for `size`, making it where it is missing or damaged.
pub(crate) fn open(home: &Path, size: u64) -> Result<File> {
    let directory = home.join("scratch");
    let path = directory.join(format!("ext4-{FORMAT}-{size}.img"));
    if let Some(file) = open_whole(&path, size)? {
        return Ok(file);
    }
    let mkfs = find_mkfs(std::env::var_os("PATH").as_deref()).ok_or(VolumeError::NoMkfs)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(|e| VolumeError::io("create", &directory, e))?;
    let _lock = lock(&directory.join("lock"))?;
    // Somebody else may have made it while we waited.
    if let Some(file) = open_whole(&path, size)? {
        return Ok(file);
    }
    make(&mkfs, &path, size)?;
    let made = open_whole(&path, size)?;
    made.ok_or_else(|| VolumeError::Damaged { path, problem: "mkfs.ext4 made no file system of that size".into() })
}

fn open_whole(path: &Path, size: u64) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => {
            let length = file.metadata().map_err(|e| VolumeError::io("inspect", path, e))?.len();
            Ok((length == size && read_superblock_size(&file) == Some(size)).then_some(file))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(VolumeError::io("open", path, e)),
    }
}

pub(crate) fn lock(path: &Path) -> Result<File> {
    let failed = |e| VolumeError::io("lock", path, e);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

/// Makes the template beside its name, makes it durable, and renames it. The caller holds the lock, so that what an
/// earlier attempt left is nobody's.
fn make(mkfs: &Path, path: &Path, size: u64) -> Result<()> {
    let part = Unfinished(path.with_extension("part"));
    let failed = |action, e| VolumeError::io(action, &part.0, e);
    let _ = fs::remove_file(&part.0);
    let file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part.0).map_err(|e| failed("create", e))?;
    file.set_len(size).map_err(|e| failed("size", e))?;
    run(mkfs, &part.0, JOURNALS[usize::from(size >= 256 << 20)])?;
    file.sync_all().map_err(|e| failed("sync", e))?;
    fs::rename(&part.0, path).map_err(|e| failed("publish", e))?;
    let directory = path.parent().unwrap_or(path);
    File::open(directory).and_then(|d| d.sync_all()).map_err(|e| VolumeError::io("sync", directory, e))
}

fn run(mkfs: &Path, path: &Path, journal: &str) -> Result<()> {
    let failed = |output: String| VolumeError::Mkfs { mkfs: mkfs.to_owned(), path: path.to_owned(), output };
    let output = Command::new(mkfs)
        .args(OPTIONS)
        .arg(journal)
        .arg(path)
        .env("LC_ALL", "C")
        .env("MKE2FS_CONFIG", "/dev/null")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| VolumeError::io("run", mkfs, e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("No space left on device") {
        return Err(VolumeError::NoSpace { path: path.to_owned(), source: io::Error::other(said) });
    }
    Err(failed(if said.is_empty() { output.status.to_string() } else { said }))
}

fn find_mkfs(path: Option<&OsStr>) -> Option<PathBuf> {
    let listed = path.map(std::env::split_paths).into_iter().flatten().filter(|d| d.is_absolute());
    listed.chain(SYSTEM_DIRECTORIES.map(PathBuf::from)).map(|d| d.join("mkfs.ext4")).find(|p| p.is_file())
}
