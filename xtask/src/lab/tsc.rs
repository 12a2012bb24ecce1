//! The rate of the processor's time stamp counter, which the emulator hands through to the machine.

// UNSAFETY: reading the counter is an intrinsic that the standard library marks unsafe.
#![allow(unsafe_code)]

use std::arch::x86_64::_rdtsc;
use std::thread;
use std::time::{Duration, Instant};

/// Thousands of ticks in a second, measured over a moment: exact to about one in ten thousand.
pub(crate) fn kilohertz() -> u64 {
    let (start, first) = (Instant::now(), ticks());
    thread::sleep(Duration::from_millis(20));
    let (ticks, elapsed) = (ticks() - first, start.elapsed());
    u64::try_from(u128::from(ticks) * 1_000_000 / elapsed.as_nanos()).unwrap_or(u64::MAX)
}

fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and it only reads.
    unsafe { _rdtsc() }
}
