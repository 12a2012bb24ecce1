//! What a container finds mounted, as Docker has it. Runs in the container's own namespaces.
//!
//! Mounts are made detached and then moved onto a descriptor, so no step depends on a path of the image once the
//! mount point was opened ([`crate::paths`]).

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use protocol::{ContainerConfig, Tmpfs, VOLUME_DIRECTORY};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat, statat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags as Attributes, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

use crate::failure::{Context, Failure, Result, failure};
use crate::paths::{MountPoint, fixed_mount_point, make_directory_in_root, make_file_in_root};
use crate::tmpfs_options::TmpfsOptions;
use crate::{copy_up, sys};

/// Hidden from containers that are not privileged: they tell of, or act on, the whole guest.
const MASKED: [&str; 12] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/timer_list",
    "proc/timer_stats",
    "proc/sched_debug",
    "proc/scsi",
    "sys/firmware",
    "sys/devices/virtual/powercap",
];

/// Read-only in `/proc` for containers that are not privileged.
const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// The devices of every container: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// How deep and how many device nodes a privileged container is given.
const MAX_DEVICE_DEPTH: usize = 4;

/// What the set-up takes from outside of the container's root. Directories that are looked at here are guest init's.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    /// The mounted overlay.
    pub(crate) root: &'a Path,
    /// The mounted file systems of the volumes, in the order of the configuration.
    pub(crate) volumes: &'a [PathBuf],
    /// The mounted file system with files of the host.
    pub(crate) shared_files: &'a Path,
    /// Holds the files `hosts`, `hostname` and `resolv.conf`.
    pub(crate) etc: &'a Path,
    /// The container's devpts, detached.
    pub(crate) terminals: BorrowedFd<'a>,
    /// Guest init's `/dev`.
    pub(crate) devices: &'a Path,
}

/// A new file system, not yet anywhere.
pub(crate) fn new_mount(kind: &str, parameters: &[(&str, Option<&str>)], attributes: Attributes) -> Result<OwnedFd> {
    let make = || -> std::result::Result<OwnedFd, Errno> {
        let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", kind)?;
        for (name, value) in parameters {
            match value {
                Some(value) => fsconfig_set_string(&context, *name, *value)?,
                None => fsconfig_set_flag(&context, *name)?,
            }
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    make().context(|| format!("make a file system of type {kind} ({parameters:?})"))
}

/// The devpts of a container.
pub(crate) fn new_terminals() -> Result<OwnedFd> {
    let parameters = [("newinstance", None), ("ptmxmode", Some("0666")), ("mode", Some("0620")), ("gid", Some("5"))];
    new_mount("devpts", &parameters, Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NOEXEC)
}

fn attach(mount: &OwnedFd, target: impl AsFd) -> std::result::Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// A second mount of what `directory` and `path` name, detached; an empty path is the descriptor itself.
fn clone_mount(directory: impl AsFd, path: impl rustix::path::Arg) -> std::result::Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(directory, path, flags)
}

/// Puts another mount of `source` onto `path` below `directory`.
fn bind(source: BorrowedFd<'_>, directory: BorrowedFd<'_>, path: &str, attributes: Attributes) -> Result<()> {
    let make = || -> std::result::Result<(), Errno> {
        let target = openat(directory, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let mount = clone_mount(source, "")?;
        if !attributes.is_empty() {
            sys::set_mount_attributes(&mount, u64::from(attributes.bits()))?;
        }
        attach(&mount, target)
    };
    make().context(|| format!("bind onto {path}"))
}

/// Builds the container's view of the world and makes it this process's root.
pub(crate) fn set_up(config: &ContainerConfig, sources: &Sources<'_>) -> Result<()> {
    // Before the old root is out of sight.
    let nodes = if config.privileged { all_devices(sources.devices) } else { Vec::new() };
    let places = places(config, sources)?;
    enter_root(sources.root)?;
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open the container's root".to_owned())?;
    let root = root.as_fd();

    let proc = mount_fixed(root, "/proc", "proc", &[], none())?;
    set_sysctls(proc.as_fd(), &config.sysctls)?;
    mount_devices(root, config, sources.terminals, &nodes)?;
    let access = if config.privileged { Attributes::empty() } else { Attributes::MOUNT_ATTR_RDONLY };
    let sys = mount_fixed(root, "/sys", "sysfs", &[], none() | access)?;
    mount_cgroups(sys.as_fd(), none() | access)?;
    for place in &places {
        match place {
            Place::Tmpfs(tmpfs) => mount_tmpfs(root, tmpfs)?,
            Place::Volume(path, mount) => mount_volume(root, path, mount)?,
            Place::Bind(path, mount) => mount_bind(root, path, mount)?,
            Place::File(path, mount) if is_of_the_host(config, path) => mount_bind(root, path, mount)?,
            Place::File(path, mount) => mount_file(root, path, mount)?,
        }
    }
    if !config.privileged {
        hide(proc.as_fd(), sys.as_fd())?;
    }
    if config.read_only {
        sys::set_mount_attributes(root, u64::from(Attributes::MOUNT_ATTR_RDONLY.bits()))
            .context(|| "make the container's root read-only".to_owned())?;
    }
    Ok(())
}

/// What the host wants mounted somewhere in the container.
enum Place<'a> {
    Tmpfs(&'a Tmpfs),
    /// Where, and what, detached.
    Volume(&'a str, OwnedFd),
    /// The same of a file of the host, a directory or not.
    Bind(&'a str, OwnedFd),
    /// A file of the container's own, likewise.
    File(&'static str, OwnedFd),
}

impl Place<'_> {
    fn depth(&self) -> usize {
        let path = match self {
            Self::Tmpfs(tmpfs) => &tmpfs.path,
            Self::Volume(path, _) | Self::Bind(path, _) | Self::File(path, _) => *path,
        };
        Path::new(path).components().count()
    }
}

/// The tmpfs mounts, volumes, files of the host and of the container's own, from the shortest path to the longest. Volumes are filled before any of them is
/// mounted, so that each gets what the image has.
fn places<'a>(config: &'a ContainerConfig, sources: &Sources<'_>) -> Result<Vec<Place<'a>>> {
    let mut places = network_files(config, sources.etc)?;
    places.extend(config.tmpfs.iter().map(Place::Tmpfs));
    for (volume, directory) in config.volumes.iter().zip(sources.volumes) {
        let what = || format!("volume at {:?}", volume.path);
        if !volume.path.starts_with('/') {
            return failure(format!("{}: the path is not absolute", what()));
        }
        if volume.copy_up {
            let root =
                rustix::fs::open(sources.root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                    .context(what)?;
            copy_up::fill(root.as_fd(), Path::new(&volume.path), directory).context(what)?;
        }
        let mount = clone_mount(CWD, directory.join(VOLUME_DIRECTORY)).context(what)?;
        if volume.read_only {
            sys::set_mount_attributes(&mount, u64::from(Attributes::MOUNT_ATTR_RDONLY.bits())).context(what)?;
        }
        places.push(Place::Volume(&volume.path, mount));
    }
    for bind in &config.binds {
        let what = || format!("files of the host at {:?}", bind.path);
        if !bind.path.starts_with('/') || Path::new(&bind.entry).file_name() != Some(bind.entry.as_ref()) {
            return failure(format!("{}: a path is not as agreed", what()));
        }
        let mount = clone_mount(CWD, sources.shared_files.join(&bind.entry)).context(what)?;
        if bind.read_only {
            sys::set_mount_attributes(&mount, u64::from(Attributes::MOUNT_ATTR_RDONLY.bits())).context(what)?;
        }
        places.push(Place::Bind(&bind.path, mount));
    }
    places.sort_by_key(Place::depth);
    Ok(places)
}

fn mount_volume(root: BorrowedFd<'_>, path: &str, mount: &OwnedFd) -> Result<()> {
    let what = || format!("volume at {path:?}");
    let (target, _) = make_directory_in_root(root, Path::new(path)).context(what)?;
    attach(mount, target).context(what)
}

/// Whether `path` lies in what the host shares: nothing is replaced there, whatever it is.
fn is_of_the_host(config: &ContainerConfig, path: &str) -> bool {
    config.binds.iter().any(|bind| Path::new(path).starts_with(&bind.path) && path != bind.path)
}

fn mount_bind(root: BorrowedFd<'_>, path: &str, mount: &OwnedFd) -> Result<()> {
    let what = || format!("mount at {path:?}");
    let stat = rustix::fs::fstat(mount).context(what)?;
    let target = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        make_directory_in_root(root, Path::new(path)).map(|(directory, _)| directory)
    } else {
        make_file_in_root(root, Path::new(path))
    };
    let target = target.context(what)?;
    let is_directory = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if is_directory(rustix::fs::fstat(&target).context(what)?) != is_directory(stat) {
        return failure(format!("{}: a directory can be mounted on a directory alone, a file on a file", what()));
    }
    attach(mount, target).context(what)
}

/// `nosuid`, `nodev`, `noexec`.
fn none() -> Attributes {
    Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOEXEC
}

fn enter_root(root: &Path) -> Result<()> {
    let enter = || -> std::result::Result<(), Errno> {
        rustix::process::chdir(root)?;
        rustix::process::pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")
    };
    enter().context(|| "enter the container's root".to_owned())
}

/// The files of `/etc` that are the container's, not the image's: detached mounts of guest init's files.
fn network_files<'a>(config: &ContainerConfig, etc: &Path) -> Result<Vec<Place<'a>>> {
    let mut files = Vec::new();
    for path in ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"] {
        let make = || -> std::result::Result<OwnedFd, Errno> {
            let name = Path::new(path).file_name().ok_or(Errno::INVAL)?;
            let mount = clone_mount(CWD, etc.join(name))?;
            if config.read_only {
                sys::set_mount_attributes(&mount, u64::from(Attributes::MOUNT_ATTR_RDONLY.bits()))?;
            }
            Ok(mount)
        };
        files.push(Place::File(path, make().context(|| format!("prepare {path}"))?));
    }
    Ok(files)
}

fn mount_fixed(
    root: BorrowedFd<'_>,
    path: &str,
    kind: &str,
    parameters: &[(&str, Option<&str>)],
    attributes: Attributes,
) -> Result<OwnedFd> {
    let target = fixed_mount_point(root, Path::new(path), MountPoint::Directory)
        .context(|| format!("make the mount point {path} in the container"))?;
    let mount = new_mount(kind, parameters, attributes)?;
    attach(&mount, target).context(|| format!("mount {path} in the container"))?;
    Ok(mount)
}

fn mount_file(root: BorrowedFd<'_>, path: &str, mount: &OwnedFd) -> Result<()> {
    let target = match fixed_mount_point(root, Path::new(path), MountPoint::File) {
        // A read-only volume that has no such file stays without.
        Err(Errno::ROFS) => return Ok(()),
        target => target.context(|| format!("make the mount point {path} in the container"))?,
    };
    attach(mount, target).context(|| format!("mount {path} in the container"))
}

/// A node of a device file system.
#[derive(Debug)]
struct Node {
    /// Below `/dev`.
    path: PathBuf,
    kind: FileType,
    mode: Mode,
    device: u64,
}

fn mount_devices(
    root: BorrowedFd<'_>,
    config: &ContainerConfig,
    terminals: BorrowedFd<'_>,
    nodes: &[Node],
) -> Result<()> {
    let nosuid = Attributes::MOUNT_ATTR_NOSUID;
    let attributes = nosuid | Attributes::MOUNT_ATTR_STRICTATIME;
    let parameters = [("mode", Some("755")), ("size", Some("64m"))];
    let devices = mount_fixed(root, "/dev", "tmpfs", &parameters, attributes)?;
    let devices = devices.as_fd();
    for (name, major, minor) in DEVICES {
        make_node(devices, Path::new(name), FileType::CharacterDevice, 0o666, makedev(major, minor))
            .context(|| format!("make /dev/{name}"))?;
    }
    for (name, target) in LINKS {
        symlinkat(target, devices, name).context(|| format!("make /dev/{name}"))?;
    }
    for node in nodes {
        // What the container has of its own goes before what the guest has.
        match make_node(devices, &node.path, node.kind, node.mode.as_raw_mode(), node.device) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return failure(format!("make /dev/{}: {errno}", node.path.display())),
        }
    }
    for directory in ["pts", "shm", "mqueue"] {
        mkdirat(devices, directory, Mode::from_raw_mode(0o755)).context(|| format!("make /dev/{directory}"))?;
    }
    let place = |mount: &OwnedFd, name: &str| -> Result<()> {
        openat(devices, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .and_then(|target| attach(mount, target))
            .context(|| format!("mount /dev/{name}"))
    };
    let terminals = terminals.try_clone_to_owned().context(|| "mount /dev/pts".to_owned())?;
    place(&terminals, "pts")?;
    let size = config.shm_size.to_string();
    place(&new_mount("tmpfs", &[("mode", Some("1777")), ("size", Some(&size))], none())?, "shm")?;
    place(&new_mount("mqueue", &[], none())?, "mqueue")
}

fn make_node(
    directory: BorrowedFd<'_>,
    path: &Path,
    kind: FileType,
    mode: u32,
    device: u64,
) -> std::result::Result<(), Errno> {
    // The umask of guest init is empty, so the mode is the one that is asked for.
    let mode = Mode::from_raw_mode(mode & 0o7777);
    match kind {
        FileType::Directory => mkdirat(directory, path, mode),
        _ => mknodat(directory, path, kind, mode, device),
    }
}

/// Every device node of the guest, parents first.
fn all_devices(devices: &Path) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(devices.join(&directory)) else { continue };
        for entry in entries.flatten() {
            let path = directory.join(entry.file_name());
            let Ok(stat) = statat(CWD, devices.join(&path), AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let kind = FileType::from_raw_mode(stat.st_mode);
            let mode = Mode::from_raw_mode(stat.st_mode);
            let own = ["pts", "shm", "mqueue", "ptmx", "console"].iter().any(|own| path == Path::new(own));
            match kind {
                _ if own => continue,
                FileType::Directory if path.components().count() < MAX_DEVICE_DEPTH => directories.push(path.clone()),
                FileType::CharacterDevice | FileType::BlockDevice => {}
                _ => continue,
            }
            nodes.push(Node { path, kind, mode, device: stat.st_rdev });
        }
    }
    nodes.sort_by(|left, right| left.path.cmp(&right.path));
    nodes
}

fn mount_cgroups(sys: BorrowedFd<'_>, attributes: Attributes) -> Result<()> {
    let target = openat(sys, "fs/cgroup", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open /sys/fs/cgroup".to_owned())?;
    let mount = new_mount("cgroup2", &[], attributes)?;
    attach(&mount, target).context(|| "mount /sys/fs/cgroup".to_owned())
}

fn mount_tmpfs(root: BorrowedFd<'_>, tmpfs: &Tmpfs) -> Result<()> {
    let what = || format!("tmpfs at {:?}", tmpfs.path);
    let options = TmpfsOptions::parse(&tmpfs.options).context(what)?;
    if !tmpfs.path.starts_with('/') {
        return failure(format!("{}: the path is not absolute", what()));
    }
    let (target, made) = make_directory_in_root(root, Path::new(&tmpfs.path)).context(what)?;
    let mut parameters: Vec<(&str, Option<&str>)> =
        options.parameters.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    // A directory of the image keeps its mode; a new one is for everybody.
    let mode;
    if !options.has_mode() && !made {
        let stat = rustix::fs::fstat(&target).context(what)?;
        mode = format!("{:o}", stat.st_mode & 0o7777);
        parameters.push(("mode", Some(&mode)));
    }
    if options.read_only {
        parameters.push(("ro", None));
    }
    let mount = new_mount("tmpfs", &parameters, options.attributes).context(what)?;
    attach(&mount, target).context(what)
}

/// Sets sysctls through the container's own `/proc`, before it becomes read-only.
fn set_sysctls(proc: BorrowedFd<'_>, sysctls: &[(String, String)]) -> Result<()> {
    for (name, value) in sysctls {
        let path = sysctl_path(name).ok_or_else(|| Failure(format!("sysctl {name:?} is no name")))?;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let set = openat(proc, path, flags, Mode::empty())
            .and_then(|file| rustix::io::write(&file, value.as_bytes()).map(drop));
        set.context(|| format!("set sysctl {name} to {value:?}"))?;
    }
    Ok(())
}

/// Where in `/proc` a sysctl is: dots separate, and a slash stands for a dot inside a name.
fn sysctl_path(name: &str) -> Option<String> {
    let mut path = "sys".to_owned();
    for part in name.split('.') {
        let part = part.replace('/', ".");
        let plain = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.@:".contains(&byte));
        if part.is_empty() || !plain || part == "." || part == ".." {
            return None;
        }
        path.push('/');
        path.push_str(&part);
    }
    Some(path)
}

fn hide(proc: BorrowedFd<'_>, sys: BorrowedFd<'_>) -> Result<()> {
    for name in READ_ONLY {
        match openat(proc, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(source) => bind(source.as_fd(), proc, name, Attributes::MOUNT_ATTR_RDONLY)?,
            Err(Errno::NOENT) => {}
            Err(errno) => return failure(format!("open /proc/{name}: {errno}")),
        }
    }
    let null = rustix::fs::open("/dev/null", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open /dev/null".to_owned())?;
    for masked in MASKED {
        let (directory, path) = match masked.split_once('/') {
            Some(("proc", path)) => (proc, path),
            Some((_, path)) => (sys, path),
            None => continue,
        };
        let stat = match statat(directory, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return failure(format!("look at /{masked}: {errno}")),
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let empty =
                new_mount("tmpfs", &[("ro", None), ("size", Some("4k"))], none() | Attributes::MOUNT_ATTR_RDONLY)?;
            openat(directory, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .and_then(|target| attach(&empty, target))
                .context(|| format!("hide /{masked}"))?;
        } else {
            bind(null.as_fd(), directory, path, Attributes::empty())?;
        }
    }
    Ok(())
}

/// Makes a terminal the container's `/dev/console`.
pub(crate) fn mount_console(terminal: BorrowedFd<'_>) -> Result<()> {
    let make = || -> std::result::Result<(), Errno> {
        let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        drop(openat(CWD, "/dev/console", flags, Mode::from_raw_mode(0o600))?);
        let target = openat(CWD, "/dev/console", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        attach(&clone_mount(terminal, "")?, target)
    };
    make().context(|| "mount /dev/console".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names_stay_in_proc_sys() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward").unwrap(), "sys/net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.rp_filter").unwrap(), "sys/net/ipv4/conf/eth0.1/rp_filter");
        for name in ["", ".", "a..b", "a.", "//.x", "a./.b", "a b", "a\0", "net.//.//.kcore"] {
            assert_eq!(sysctl_path(name), None, "{name:?}");
        }
    }
}
