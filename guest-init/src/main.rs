//! The program that the kernel starts as PID 1 of the guest.
#![no_main]
#![allow(unsafe_code)]
// UNSAFETY: Rust's own start-up aborts when descriptors 0 to 2 are closed and `/dev/null` is missing, which is how a
// kernel starts PID 1 from an initial RAM disk without device nodes. So `main` is the C library's.

use std::ffi::{c_char, c_int};

/// Entry point, called by the C library.
// SAFETY: no other symbol of this name exists in the program; its type is that of C's `main`.
#[unsafe(no_mangle)]
pub extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    guest_init::container_init::run_if_asked(std::env::args_os().collect());
    if std::process::id() != 1 {
        return 1;
    }
    guest_init::boot::run(&guest_init::Guest)
}
