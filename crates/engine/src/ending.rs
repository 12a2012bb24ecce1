//! How a container ended: one typed reason, one exit code, and why.
//!
//! | reason | exit code | what happened |
//! |---|---|---|
//! | `exited` | the process's | the process returned |
//! | `signalled` | 128 + signal | a signal ended the process |
//! | `guest_out_of_memory` | 137 | the process was killed because the container's memory ran out |
//! | `guest_panic` | 134 | the guest kernel panicked |
//! | `machine_killed` | 255 | someone killed the machine process on the host |
//! | `host_out_of_memory` | 137 | the host had no memory for the machine process and killed it |
//! | `keeper_killed` | 255 | the keeper died, and took the machine along |
//! | `host_rebooted` | 255 | the host went down under the container |
//! | `spawn_failed` | 127, 126 or 125 | the program is not there, cannot be executed, or could not be started |
//! | `setup_failed` | 125 | the guest could not set the container up |
//! | `boot_failed` | 125 | the guest never got as far as to answer |
//! | `machine_error` | 125 | the machine or its devices failed |
//! | `guest_error` | 125 | guest init failed or broke the protocol |
//! | `engine_error` | 125 | the keeper failed |
//! | `interrupted` | 128 + signal | a signal came before the process ran |
//!
//! 134 is what a program gives that aborts, which is what a panic is; 255 is what Docker gives a container
//! whose end nobody saw.

use std::fmt;

use guest::GuestError;
use monitor::{MachineEnd, MachineEndReason};
use protocol::{ExitStatus, SpawnError};
use serde::{Deserialize, Serialize};

use crate::timings::Timings;

/// Why a container ended. See the table in the [module's documentation](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the module's table says each")]
pub enum Reason {
    Exited,
    Signalled,
    GuestOutOfMemory,
    GuestPanic,
    MachineKilled,
    HostOutOfMemory,
    KeeperKilled,
    HostRebooted,
    SpawnFailed,
    SetupFailed,
    BootFailed,
    MachineError,
    GuestError,
    EngineError,
    Interrupted,
}

impl Reason {
    /// All of them, in the order of their numbers on the wire: new ones come last.
    pub const ALL: [Self; 15] = [
        Self::Exited,
        Self::Signalled,
        Self::GuestOutOfMemory,
        Self::GuestPanic,
        Self::MachineKilled,
        Self::HostOutOfMemory,
        Self::KeeperKilled,
        Self::HostRebooted,
        Self::SpawnFailed,
        Self::SetupFailed,
        Self::BootFailed,
        Self::MachineError,
        Self::GuestError,
        Self::EngineError,
        Self::Interrupted,
    ];

    /// The word in the record.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signalled => "signalled",
            Self::GuestOutOfMemory => "guest_out_of_memory",
            Self::GuestPanic => "guest_panic",
            Self::MachineKilled => "machine_killed",
            Self::HostOutOfMemory => "host_out_of_memory",
            Self::KeeperKilled => "keeper_killed",
            Self::HostRebooted => "host_rebooted",
            Self::SpawnFailed => "spawn_failed",
            Self::SetupFailed => "setup_failed",
            Self::BootFailed => "boot_failed",
            Self::MachineError => "machine_error",
            Self::GuestError => "guest_error",
            Self::EngineError => "engine_error",
            Self::Interrupted => "interrupted",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The end of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Why.
    pub reason: Reason,
    /// What the command line exits with.
    pub exit_code: u8,
    /// What there is to say about it, unless the process ended by itself.
    pub error: Option<String>,
    /// Whether the out-of-memory killer struck in the container.
    pub oom_killed: bool,
    /// The last lines of the guest kernel, when the machine is at fault.
    pub kernel_log: Option<String>,
    /// Where the time went.
    pub timings: Timings,
}

const SIGKILL: u8 = 9;

/// Exit code of what the engine could not do.
pub const ENGINE_FAILED: u8 = 125;

/// Exit code of an end that nobody saw.
pub const UNSEEN: u8 = 255;

const PANICKED: u8 = 134;

impl Ending {
    fn new(reason: Reason, exit_code: u8, error: Option<String>) -> Self {
        Self { reason, exit_code, error, oom_killed: false, kernel_log: None, timings: Timings::default() }
    }

    /// The engine failed.
    #[must_use]
    pub fn engine_error(error: String) -> Self {
        Self::new(Reason::EngineError, ENGINE_FAILED, Some(error))
    }

    /// The process ended as guest init says.
    #[must_use]
    pub fn of_process(status: ExitStatus, oom_killed: bool) -> Self {
        let code = status.shell_code();
        // A shell that waits for the victim passes the code on.
        let ran_out = oom_killed && code == 128 + SIGKILL;
        let ending = match status {
            _ if ran_out => {
                Self::new(Reason::GuestOutOfMemory, code, Some("the container ran out of memory".to_owned()))
            }
            ExitStatus::Code(_) => Self::new(Reason::Exited, code, None),
            ExitStatus::Signal(_) => Self::new(Reason::Signalled, code, None),
        };
        Self { oom_killed, ..ending }
    }

    /// The process could not be started.
    #[must_use]
    pub fn of_spawn(error: SpawnError) -> Self {
        let (code, text) = match error {
            SpawnError::NotFound(text) => (127, text),
            SpawnError::NotExecutable(text) | SpawnError::UnknownUser(text) | SpawnError::WorkingDirectory(text) => {
                (126, text)
            }
            SpawnError::Other(text) => (ENGINE_FAILED, text),
        };
        Self::new(Reason::SpawnFailed, code, Some(text))
    }

    /// The guest could not set the container up.
    #[must_use]
    pub fn of_setup(error: String) -> Self {
        Self::new(Reason::SetupFailed, ENGINE_FAILED, Some(error))
    }

    /// Guest init gave up, or what speaks in its place is not to be trusted.
    #[must_use]
    pub fn of_guest(error: String) -> Self {
        Self::new(Reason::GuestError, ENGINE_FAILED, Some(error))
    }

    /// A signal came before the process ran.
    #[must_use]
    pub fn interrupted(signal: u8) -> Self {
        Self::new(Reason::Interrupted, 128_u8.saturating_add(signal), None)
    }

    /// The container was killed on the user's wish.
    #[must_use]
    pub fn killed() -> Self {
        Self::new(Reason::Signalled, 128 + SIGKILL, None)
    }

    /// The guest session broke while the machine went on.
    #[must_use]
    pub fn of_session(error: &GuestError, booted: bool) -> Self {
        let text = crate::error::chain(error);
        if booted { Self::of_guest(text) } else { Self::new(Reason::BootFailed, ENGINE_FAILED, Some(text)) }
    }

    /// The machine ended before its container did.
    #[must_use]
    pub fn of_machine(end: &MachineEnd, booted: bool) -> Self {
        let text = end.reason.to_string();
        let ending = match &end.reason {
            MachineEndReason::GuestPanic { message } if is_out_of_memory(message) => {
                Self { oom_killed: true, ..Self::new(Reason::GuestOutOfMemory, 128 + SIGKILL, Some(text)) }
            }
            MachineEndReason::GuestPanic { .. } => Self::new(Reason::GuestPanic, PANICKED, Some(text)),
            MachineEndReason::KilledBySignal(signal) if *signal == i32::from(SIGKILL) => {
                Self::new(Reason::MachineKilled, UNSEEN, Some(text))
            }
            MachineEndReason::HostOutOfMemory => {
                Self { oom_killed: true, ..Self::new(Reason::HostOutOfMemory, 128 + SIGKILL, Some(text)) }
            }
            _ if !booted => Self::new(Reason::BootFailed, ENGINE_FAILED, Some(text)),
            MachineEndReason::TripleFault => Self::new(Reason::GuestPanic, PANICKED, Some(text)),
            // A reset that nobody asked for: guest init is gone, or something in the guest pulled the plug.
            MachineEndReason::Reset => {
                Self::new(Reason::GuestError, ENGINE_FAILED, Some("the guest reset itself".to_owned()))
            }
            _ => Self::new(Reason::MachineError, ENGINE_FAILED, Some(with_stderr(text, &end.stderr))),
        };
        let at_fault = !matches!(ending.reason, Reason::MachineKilled);
        Self { kernel_log: at_fault.then(|| last_lines(&end.kernel_log)).flatten(), ..ending }
    }
}

/// Whether a panic is the kernel's way of saying that nothing is left to kill.
fn is_out_of_memory(panic: &str) -> bool {
    let panic = panic.to_ascii_lowercase();
    panic.contains("out of memory") || panic.contains("deadlocked on memory")
}

fn with_stderr(text: String, stderr: &[u8]) -> String {
    match last_lines(stderr).as_deref().and_then(|lines| lines.lines().last()) {
        Some(line) => format!("{text}: {line}"),
        None => text,
    }
}

/// Most bytes of a log that a record keeps.
const KEPT_LOG: usize = 16 << 10;

/// The end of a log as printable text, from the beginning of a line.
#[must_use]
pub fn last_lines(log: &[u8]) -> Option<String> {
    let cut = log.len().saturating_sub(KEPT_LOG);
    let mut kept = &log[cut..];
    if cut > 0 {
        let line = kept.iter().position(|&b| b == b'\n').map_or(0, |at| at + 1);
        kept = &kept[line..];
    }
    let printable = |c: char| if c == '\n' || !c.is_control() { c } else { ' ' };
    let text: String = String::from_utf8_lossy(kept).chars().map(printable).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(reason: MachineEndReason) -> MachineEnd {
        MachineEnd { reason, kernel_log: b"[0.1] booting\n".to_vec(), stderr: b"first\nlast\n".to_vec(), at: 0 }
    }

    fn judged(reason: MachineEndReason, booted: bool) -> (Reason, u8) {
        let ending = Ending::of_machine(&machine(reason), booted);
        assert!(ending.error.is_some());
        (ending.reason, ending.exit_code)
    }

    #[test]
    fn ends_of_processes() {
        let of = |status, oom| {
            let ending = Ending::of_process(status, oom);
            (ending.reason, ending.exit_code, ending.oom_killed)
        };
        assert_eq!(of(ExitStatus::Code(0), false), (Reason::Exited, 0, false));
        assert_eq!(of(ExitStatus::Code(42), true), (Reason::Exited, 42, true));
        assert_eq!(of(ExitStatus::Signal(11), false), (Reason::Signalled, 139, false));
        assert_eq!(of(ExitStatus::Signal(9), false), (Reason::Signalled, 137, false));
        assert_eq!(of(ExitStatus::Signal(9), true), (Reason::GuestOutOfMemory, 137, true));
        assert_eq!(of(ExitStatus::Code(137), true), (Reason::GuestOutOfMemory, 137, true));
        assert_eq!(of(ExitStatus::Signal(255), false), (Reason::Signalled, 255, false));
    }

    #[test]
    fn ends_of_spawning() {
        let code = |error| Ending::of_spawn(error).exit_code;
        assert_eq!(code(SpawnError::NotFound("x".into())), 127);
        assert_eq!(code(SpawnError::NotExecutable("x".into())), 126);
        assert_eq!(code(SpawnError::UnknownUser("x".into())), 126);
        assert_eq!(code(SpawnError::WorkingDirectory("x".into())), 126);
        assert_eq!(code(SpawnError::Other("x".into())), 125);
    }

    #[test]
    fn ends_of_machines() {
        let panic = |message: &str| MachineEndReason::GuestPanic { message: message.to_owned() };
        assert_eq!(judged(panic("sysrq triggered crash"), true), (Reason::GuestPanic, 134));
        assert_eq!(judged(panic("System is deadlocked on memory"), true), (Reason::GuestOutOfMemory, 137));
        assert_eq!(judged(MachineEndReason::KilledBySignal(9), true), (Reason::MachineKilled, 255));
        assert_eq!(judged(MachineEndReason::KilledBySignal(9), false), (Reason::MachineKilled, 255));
        assert_eq!(judged(MachineEndReason::HostOutOfMemory, true), (Reason::HostOutOfMemory, 137));
        assert_eq!(judged(MachineEndReason::HostOutOfMemory, false), (Reason::HostOutOfMemory, 137));
        assert_eq!(judged(MachineEndReason::KilledBySignal(11), true), (Reason::MachineError, 125));
        assert_eq!(judged(MachineEndReason::TripleFault, true), (Reason::GuestPanic, 134));
        assert_eq!(judged(MachineEndReason::TripleFault, false), (Reason::BootFailed, 125));
        assert_eq!(judged(MachineEndReason::BootFailed, false), (Reason::BootFailed, 125));
        assert_eq!(judged(MachineEndReason::SetUp("kernel x".into()), false), (Reason::BootFailed, 125));
        assert_eq!(judged(MachineEndReason::Reset, true), (Reason::GuestError, 125));
        assert_eq!(judged(MachineEndReason::Internal("ioctl".into()), true), (Reason::MachineError, 125));
    }

    #[test]
    fn kernel_log_is_kept_when_the_machine_is_at_fault() {
        let kept = |reason| Ending::of_machine(&machine(reason), true).kernel_log;
        assert_eq!(kept(MachineEndReason::TripleFault).as_deref(), Some("[0.1] booting"));
        assert_eq!(kept(MachineEndReason::KilledBySignal(9)), None);
    }

    #[test]
    fn logs_are_bounded_and_printable() {
        let mut log = Vec::new();
        for line in 0..10_000 {
            log.extend_from_slice(format!("line {line} \x1b[31m").as_bytes());
            log.extend_from_slice(b"\xff\n");
        }
        let kept = last_lines(&log).unwrap();
        assert!(kept.len() <= KEPT_LOG * 2 && kept.starts_with("line ") && !kept.contains('\x1b'));
        assert_eq!(last_lines(b"\n\n"), None);
    }
}
