//! The host's handle on one machine process: probe, launch, control, wait.
//!
//! A [`MachineSpec`](machine::MachineSpec) with paths goes in, a [`Machine`] comes out: one or two child
//! processes that hold the files, the vsock device and the vCPUs of one guest. Two back ends do the same job:
//!
//! ```text
//!  Accelerator::Kvm                        Accelerator::Emulated
//!
//!  keeper ── control ── coracle-vmm        keeper ── control ── coracle-vmm
//!        └── vsock ──── machine                  └── vsock ──── devices
//!                       (vCPUs, devices)                          ║ vhost-user, one socket per device
//!                                                               qemu-system-x86_64
//!                                                               (vCPUs, memory)
//! ```
//!
//! # What this crate is not for
//!
//! It does not speak the guest protocol (`guest`), decide what a machine is made of (`engine`), or contain any
//! device or KVM code (`devices`, `vmm`): it runs the binary that does.
//!
//! # How a machine is held
//!
//! One thread per machine, the watcher (`watcher`), spawns the processes, sleeps in `poll` until something
//! happens, and reaps. What it hears goes through a pure state machine (`lifecycle`), which says whom to
//! kill and what the end was; so every ending can be tested without a process.
//!
//! **Nothing outlives its keeper**, even one that is killed with SIGKILL. Machine processes end by themselves
//! when their control socket closes; but the emulator does not end when its vhost-user peers go away, and a
//! process that hangs ends by nothing. So every child asks the kernel for SIGKILL when its parent dies
//! (`PR_SET_PDEATHSIG`). That signal fires when the spawning *thread* ends, which is why the watcher spawns and
//! then stays until it has reaped. The alternative, a wrapper process that watches over the emulator, would be
//! one more process that can be killed first.
//!
//! # Modules
//!
//! [`mod@probe`] and [`emulator`] find out what the host can do and keep it (`verdicts`). [`mod@launch`] opens what
//! a spec names (`files`) and starts the processes (`process`), the emulator with the arguments from [`qemu`], the
//! [`companion`] that serves files of the host where the machine has some, in a [`cgroup`] of their own where the host
//! lets us make one.
//! [`handle`] and [`vsock`] are what the host holds then, and [`end`] says how it ended.
//!
//! # Threats
//!
//! A guest that has taken over its machine process controls everything that arrives here.
//!
//! | what arrives | what holds it |
//! |---|---|
//! | control messages | one datagram each, at most [`machine::MAX_MESSAGE`]; malformed, unasked or repeated ones end the machine |
//! | a flood of messages or of stderr | bounded work per wake-up, the last 8 KiB of stderr kept |
//! | a vsock hand-over | exactly four bytes with exactly one `AF_UNIX` stream socket; anything else is dropped |
//! | time stamps | clamped between spawn and receipt |
//! | texts (errors, panic messages) | bounded, control characters replaced |
//! | a process that neither answers nor dies | every wait has a deadline, and SIGKILL behind it |
//! | the probe's report | at most 64 KiB under a deadline, read as data |

pub mod cgroup;
pub mod companion;
pub mod emulator;
pub mod end;
pub mod handle;
pub mod launch;
pub mod probe;
pub mod qemu;
pub mod vsock;

mod bounded;
mod files;
mod lifecycle;
mod process;
mod seqpacket;
mod tsc;
mod verdicts;
mod watcher;

use std::path::PathBuf;

pub use crate::cgroup::{Confinement, HostLimits};
pub use crate::companion::FileDaemon;
pub use crate::emulator::{Emulator, EmulatorError, find_emulator};
pub use crate::end::{MachineEnd, MachineEndReason};
pub use crate::handle::{Machine, Timings};
pub use crate::launch::{LaunchError, Surroundings, launch};
pub use crate::probe::{KvmReason, KvmStatus, probe_kvm, probe_kvm_fresh};
pub use crate::process::{MachineProcess, Role};
pub use crate::vsock::{VsockChannel, VsockError};

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// The processor, through KVM.
    Kvm,
    /// QEMU's translator, in software.
    Emulated,
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Tools {
    /// `coracle-vmm`.
    pub vmm: PathBuf,
    /// `qemu-system-x86_64`, needed for [`Accelerator::Emulated`] only: see [`find_emulator`].
    pub emulator: Option<PathBuf>,
}

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of every time stamp in this crate.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}
