//! Lets go of descriptors that whoever started this process left open.

// UNSAFETY: closing descriptors by number is only sound while nothing owns them.
#![allow(unsafe_code)]

/// Closes every descriptor above standard error. The first thing that a keeper does.
pub(super) fn close_inherited() {
    // SAFETY: called before this process opens anything, so no owner of a descriptor above 2 exists that could
    // use it afterwards. The call touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
}
