//! What runs inside test containers where a shell is too slow or too coarse.

// UNSAFETY: `fork` has no safe wrapper, and a crash is wanted; this program has one thread.
#![allow(unsafe_code)]

use std::process::exit;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|n| n.parse().ok()).unwrap_or(0);
    match arguments.first().map(String::as_str) {
        Some("orphans") => orphans(number(1)),
        Some("fill-memory") => fill_memory(number(1)),
        Some("crash") => crash(),
        _ => {
            eprintln!("usage: in-guest orphans COUNT | fill-memory MIB | crash");
            exit(2);
        }
    }
}

/// Makes `count` processes whose parent is gone.
fn orphans(count: usize) {
    const EACH: usize = 100;
    for _ in 0..count.div_ceil(EACH) {
        let parent = fork();
        if parent == 0 {
            for _ in 0..EACH {
                if fork() == 0 {
                    exit_now();
                }
            }
            exit_now();
        }
        // SAFETY: waits for a child of ours; the status is not asked for.
        unsafe { libc::waitpid(parent, std::ptr::null_mut(), 0) };
    }
    println!("made {count}");
}

fn fork() -> libc::pid_t {
    // SAFETY: one thread, so the child may run any code.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    pid
}

fn exit_now() -> ! {
    // SAFETY: ends the process without running what the parent has registered.
    unsafe { libc::_exit(0) }
}

/// Ends by a fault: the one signal that a process can raise against itself as PID 1.
fn crash() {
    // SAFETY: none is wanted; the read faults.
    unsafe { std::ptr::null::<u8>().read_volatile() };
}

/// Touches memory page by page until it is `mebibytes`.
fn fill_memory(mebibytes: usize) {
    let mut held = Vec::new();
    for _ in 0..mebibytes {
        held.push(vec![1_u8; 1 << 20]);
    }
    println!("filled {}", held.len());
}
