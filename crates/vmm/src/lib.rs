//! A `MachineSpec` becomes a running KVM guest: the inside of `coracle-vmm`.
//!
//! One process is one machine. It is started with a socket as its standard input, is handed open files and a
//! description over it ([`machine`] has the wire), and ends with its machine. It opens `/dev/kvm` and nothing
//! else, knows no path, no network and no other machine.
//!
//! ```text
//!  request   what the monitor sent: spec and files                     wire, request
//!     │
//!  layout    numbers: where memory, devices, interrupt lines are       layout        (pure)
//!     │
//!  memory    mapped, given to KVM before anything that would slow it   memory
//!     │
//!  devices   put on the bus, wired to KVM                              bus, attach, crate `devices`
//!     │
//!  boot      kernel, initrd, tables                                    crate `boot`
//!     │
//!  vcpus     CPUID, registers, a thread each                           cpuid, registers, vcpu, kick
//!     │
//!  control   until the guest ends or the monitor says stop             control, verdict
//! ```
//!
//! [`run`] is that pipeline. Each step is a function that takes the results of earlier ones; there is no
//! builder and no machine object that is half made.
//!
//! The same binary has two smaller jobs: [`serve`] runs a machine's devices for an emulator that has the
//! vCPUs (vhost-user), and [`probe`] finds out whether this host's KVM can run a guest at all.
//!
//! # Decisions
//!
//! - **Interrupts** come from the in-kernel PIC, I/O APIC and local APICs. There is no PIT, no HPET, no RTC and
//!   no ACPI: kvm-clock tells the TSC frequency and the TSC deadline timer of the local APIC ticks, so a
//!   kernel calibrates nothing.
//! - **Memory** is private and anonymous, so that transparent huge pages back it; a memfd has none on stock
//!   hosts. It is a memfd where a process outside works on it: the daemon that has a machine's shared files.
//! - **vCPU threads only run the guest and write registers.** Devices work in threads of their own that sleep
//!   on eventfds, which KVM signals on a guest's notification without leaving the kernel.
//! - **Stopping** a vCPU sets `immediate_exit` through a second mapping of its `kvm_run` page and signals its
//!   thread. The mapping belongs to whoever stops, so it cannot outlive its page, and a signal that arrives
//!   just before `KVM_RUN` is not lost.
//! - **No nested virtualization and no PMU** for guests: nobody asked, and both are large surfaces of KVM.
//!
//! # Invariants
//!
//! - Memory slots exist before the interrupt chips and the ioeventfds (see the lab's measurements: 0.7 ms
//!   against 7.7 ms).
//! - Every way a machine ends becomes exactly one [`machine::End`], first come, first served.
//! - No thread spins: vCPUs sleep in KVM, workers and the control loop sleep in `poll`.
//! - The process writes to the monitor's socket, the files of its disks, its vsock streams, its console and
//!   standard error, and to nothing else.
//!
//! # Threats
//!
//! The monitor is trusted to mean no harm; it may still be wrong, so its spec is checked. The guest is hostile.
//!
//! | from the guest | danger | answer |
//! |---|---|---|
//! | port and MMIO accesses anywhere, of any size, a million a second | confusion, memory growth, log floods | unknown ones read as ones and are otherwise ignored, silently; no allocation on the path |
//! | registers of devices | state confusion | `devices::mmio`, under a lock per device |
//! | triple fault, shutdown, reset | a machine that hangs | each is an end of its own |
//! | exits that KVM cannot handle | endless loop of exits | the machine ends with the details |
//! | `HLT` with interrupts off, `PAUSE` loops | host CPU | asleep in KVM, or the guest's own share of CPU; stop works |
//! | kernel log | lies, garbage | bytes, bounded by the region, interpreted by nobody here |
//!
//! | from the monitor | danger | answer |
//! |---|---|---|
//! | datagrams too long, malformed, out of order | memory, confusion | bounded by the format, refused with what was wrong |
//! | descriptor counts that do not match | the wrong file as a disk | refused |
//! | indexes, sizes, numbers of vCPUs | overflow, wrong file | checked here, in `boot` and in `devices`, named by role |
//! | disks that share a file which one of them writes | a torn file system | refused |
//! | not reading answers | a process that cannot end | answers wait a second at most |

pub mod attach;
pub mod bus;
pub mod control;
pub mod cpuid;
pub mod kick;
pub mod layout;
pub mod memory;
pub mod probe;
pub mod registers;
pub mod request;
pub mod run;
pub mod serve;
pub mod spec_check;
pub mod vcpu;
pub mod verdict;
pub mod wire;

use std::error::Error;

pub use run::SetupError;
pub use spec_check::SpecError;

/// An error and its causes on one line.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither part of the monotonic clock is ever negative.
    now.tv_sec.unsigned_abs().saturating_mul(1_000_000_000).saturating_add(now.tv_nsec.unsigned_abs())
}
