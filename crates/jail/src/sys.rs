//! System calls that no library has in a safe form.

// UNSAFETY: leaving namespaces and changing mounts in depth are raw system calls.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use rustix::thread::UnshareFlags;

/// unshare(2) of namespaces.
pub(crate) fn unshare(namespaces: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: namespaces alone are left; no memory and no table of descriptors is.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// Adds attributes to the mount behind a descriptor, and to those below it if `deep`: mount_setattr(2).
pub(crate) fn set_mount_attributes(mount: impl AsFd, attributes: MountAttrFlags, deep: bool) -> Result<(), Errno> {
    // SAFETY: `mount_attr` is plain integers, for which zeros are valid.
    let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
    change.attr_set = attributes.bits().into();
    let flags = libc::AT_EMPTY_PATH | if deep { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is empty and the structure has the given size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)) }
}
