//! The keeper: one small process for each container. It launches the machine, speaks with the guest, moves the
//! process's bytes, records how it ended, and exits. Nobody else writes its container's record while it lives.
//!
//! It is `coracle keeper`, started by whoever wants a container to run, in a session of its own and without the
//! starter's standard streams: its standard input is its first connection ([`wire`]), and what goes wrong comes
//! back over that. The death of any command leaves it and its container alone. Its own death takes the machine
//! along (`monitor` sees to that), and the next command records it ([`crate::reconcile`]).
//!
//! ```text
//!   command ──inherited connection──▶ keeper ◀──control.sock── commands
//!                                       │
//!               ┌───────────────────────┼─────────────────────────┐
//!               ▼                       ▼                         ▼
//!        the record and          a machine at a time          the log
//!        its events              (a generation of them)
//! ```
//!
//! # Modules
//!
//! | | |
//! |---|---|
//! | the conversation | [`wire`] is the protocol, [`client`] the commands' end of it, `clients` the keeper's |
//! | the loop | `watch` keeps the container, `requests` answers commands, `record` writes what happened |
//! | a machine | `generation` is one life of it, `hull` what is needed of it, `process` a process in its guest, `relay` the bytes |
//! | rules without processes | [`policy`], `restart`, `health` |
//! | the host | `usage`, `memory`, `descriptors` |
//!
//! # What it costs
//!
//! One thread beside the one that `monitor` needs, and less than 4 MiB that are its own: one buffer for all bytes,
//! rings in the kernel, records opened for each change and closed again, nothing that grows with what a container
//! wrote or how many processes were run in it. What is left of an effort is given back soon after it (`memory`).

pub mod client;
mod clients;
mod descriptors;
mod generation;
mod health;
mod hull;
mod memory;
pub mod policy;
mod process;
pub(crate) mod record;
mod relay;
mod requests;
mod restart;
mod usage;
mod watch;
pub mod wire;

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::ExitCode,
};

use monitor::Accelerator;
use protocol::TerminalSize;
use serde::{Deserialize, Serialize};

use self::{
    clients::Clients,
    policy::{HealthSpec, LogSettings, RestartPolicy, StopSettings},
    wire::{Receiver, ToKeeper},
};
use crate::{file_daemon::FileDaemon, home::Home, plan::Plan, timings::Timings};

/// Everything a keeper needs to run a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// The container's id. Its record is there, in the state `Created`.
    pub id: String,
    /// The home.
    pub home: Home,
    /// Remove the container when it has ended.
    pub auto_remove: bool,
    /// What to launch.
    pub plan: Plan,
    /// With what.
    pub accelerator: Accelerator,
    /// `coracle-vmm`.
    pub vmm: PathBuf,
    /// `qemu-system-x86_64`.
    pub emulator: Option<PathBuf>,
    /// What serves the host's files, where the container sees any.
    pub file_daemon: Option<FileDaemon>,
    /// First size of the terminal.
    pub terminal_size: TerminalSize,
    /// Nobody is attached, and standard input outlives whoever attaches.
    pub detach: bool,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// How it is stopped.
    pub stop: StopSettings,
    /// How its health is found out.
    pub health: Option<HealthSpec>,
    /// Where its output is kept.
    pub log: LogSettings,
    /// The moments so far.
    pub timings: Timings,
}

/// The word that makes the command a keeper.
pub const SUBCOMMAND: &str = "keeper";

/// Is a keeper until its container has ended.
///
/// Without a connection as its standard input, and without a launch on it, it does nothing.
#[must_use]
pub fn main() -> ExitCode {
    let Some(first) = become_keeper() else { return ExitCode::FAILURE };
    let mut receiver = Receiver::new(first);
    loop {
        match receiver.receive::<ToKeeper>() {
            Ok(Some(ToKeeper::Hello { version })) => {
                if wire::send(receiver.stream(), &wire::FromKeeper::Hello { version: wire::VERSION }, &[]).is_err()
                    || version != wire::VERSION
                {
                    return ExitCode::FAILURE;
                }
            }
            Ok(Some(ToKeeper::Launch(launch))) => {
                let Ok(clients) = Clients::with_first(receiver) else { return ExitCode::FAILURE };
                watch::keep(&launch, clients);
                return ExitCode::SUCCESS;
            }
            // The starter changed its mind, or is none.
            _ => return ExitCode::FAILURE,
        }
    }
}

/// Leaves the starter's session and everything else that was inherited but the connection.
fn become_keeper() -> Option<UnixStream> {
    descriptors::close_inherited();
    // Fails for a process group leader, which a keeper never is when it was started as one.
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    let _ = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    allow_many_descriptors();
    let standard_input = rustix::stdio::stdin();
    rustix::net::sockopt::socket_domain(standard_input).ok()?;
    let connection: OwnedFd = rustix::io::fcntl_dupfd_cloexec(standard_input, 3).ok()?;
    let nothing = std::fs::File::open("/dev/null").ok()?;
    rustix::stdio::dup2_stdin(&nothing).ok()?;
    Some(UnixStream::from(connection))
}

/// A thousand further processes have some seven thousand descriptors. What is not allowed is found out by whoever
/// needs it.
fn allow_many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const ENOUGH: u64 = 16 << 10;
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum.map_or(ENOUGH, |maximum| maximum.min(ENOUGH));
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit });
}
