//! The directory that a process sees.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags as Attributes, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
};
use rustix::thread::UnshareFlags;

use crate::{JailError, Share, sys};

/// Makes a mount namespace in which `directory` holds `shares` by their places in the list.
pub(crate) fn compose(shares: &[Share], directory: &Path) -> Result<(), JailError> {
    sys::unshare(UnshareFlags::NEWNS)
        .map_err(|source| JailError::Namespace { kind: "mount", source: source.into() })?;
    // What is mounted here stays here, and what the host mounts later stays there.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(JailError::host("making mounts private"))?;
    // Before the directory hides any of them.
    let mounts: Vec<OwnedFd> = shares.iter().map(clone).collect::<Result<_, _>>()?;
    let tree = empty_tree(directory).map_err(JailError::host("making the directory of the shares"))?;
    for (index, (mount, share)) in mounts.iter().zip(shares).enumerate() {
        place(&tree, &index.to_string(), mount).map_err(failed(share))?;
    }
    sys::set_mount_attributes(&tree, Attributes::MOUNT_ATTR_RDONLY, false)
        .map_err(JailError::host("making the directory of the shares read-only"))
}

fn failed(share: &Share) -> impl FnOnce(Errno) -> JailError {
    move |errno| JailError::Source { path: share.source.clone(), source: errno.into() }
}

/// A second mount of a source and of all that is mounted below it, not yet anywhere.
fn clone(share: &Share) -> Result<OwnedFd, JailError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let mount = open_tree(CWD, &share.source, flags).map_err(failed(share))?;
    let access = if share.read_only { Attributes::MOUNT_ATTR_RDONLY } else { Attributes::empty() };
    let attributes = Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NODEV | access;
    sys::set_mount_attributes(&mount, attributes, true).map_err(failed(share))?;
    Ok(mount)
}

/// A file system of nothing but mount points.
fn empty_tree(directory: &Path) -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "shares")?;
    fsconfig_set_string(&context, "mode", "0755")?;
    fsconfig_create(&context)?;
    let attributes = Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOEXEC;
    let tree = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(&tree, "", CWD, directory, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(tree)
}

fn place(tree: &OwnedFd, name: &str, mount: &OwnedFd) -> Result<(), Errno> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(mount)?.st_mode);
    if kind == FileType::Directory {
        mkdirat(tree, name, Mode::from_raw_mode(0o755))?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        drop(openat(tree, name, flags, Mode::from_raw_mode(0o644))?);
    }
    move_mount(mount, "", tree.as_fd(), name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}
