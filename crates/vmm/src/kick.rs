//! Getting a vCPU out of the guest from another thread.
//!
//! Two things together, neither enough alone: `immediate_exit` in the vCPU's `kvm_run` page, so that the next
//! `KVM_RUN` returns at once, and a signal, so that the present one does.

// UNSAFETY: the flag lies in a page that KVM shares with user space, reached by a mapping of our own.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::Once;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use kvm_ioctls::VcpuFd;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

/// The first page of a vCPU's mapping has `kvm_run` up to and with the flag.
const PAGE: usize = 4096;

/// The flag of one vCPU, in a mapping that is its own: it stays valid whatever becomes of the vCPU's.
#[derive(Debug)]
pub struct ImmediateExit(NonNull<kvm_run>);

// SAFETY: the mapping belongs to no thread, and the one byte that is accessed through it is accessed atomically.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    /// Maps the flag of `vcpu`.
    ///
    /// # Errors
    ///
    /// If the host has no address space or KVM no page.
    pub fn of(vcpu: &VcpuFd) -> io::Result<Self> {
        // SAFETY: the descriptor is open while `vcpu` is borrowed, which is longer than this borrow.
        let descriptor = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping where the kernel finds room replaces none.
        let address = unsafe { mmap(ptr::null_mut(), PAGE, access, MapFlags::SHARED, descriptor, 0) }?;
        NonNull::new(address.cast()).map(Self).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
    }

    /// Makes every `KVM_RUN` of the vCPU return at once from now on.
    pub fn set(&self) {
        // SAFETY: the pointer is to a live mapping of at least the first page of `kvm_run`, which has the flag; it is
        // written atomically here, and by nobody else in this process.
        let flag = unsafe { AtomicU8::from_ptr(&raw mut (*self.0.as_ptr()).immediate_exit) };
        flag.store(1, Ordering::SeqCst);
    }
}

impl Drop for ImmediateExit {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `of` with this length and nothing refers into it any more.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), PAGE) };
    }
}

/// The signal that interrupts `KVM_RUN`.
#[must_use]
pub fn signal() -> c_int {
    SIGRTMIN()
}

/// Makes [`signal`] interrupt system calls and do nothing else.
///
/// # Errors
///
/// If the signal cannot be handled.
pub fn prepare() -> io::Result<()> {
    static ONCE: Once = Once::new();
    extern "C" fn interrupt(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}
    let mut result = Ok(());
    ONCE.call_once(|| result = register_signal_handler(signal(), interrupt));
    result.map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

const _: () = assert!(std::mem::offset_of!(kvm_run, immediate_exit) < PAGE);

/// The suberror and data of a `KVM_EXIT_INTERNAL_ERROR`.
pub(crate) fn internal_error_data(run: &kvm_run) -> (u32, Vec<u64>) {
    // SAFETY: every bit pattern is valid for every member of the union, which consists of integers.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let count = usize::try_from(internal.ndata).unwrap_or(usize::MAX).min(internal.data.len());
    (internal.suberror, internal.data[..count].to_vec())
}
