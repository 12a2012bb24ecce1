//! How a machine ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest text taken from a machine process or a guest, in bytes.
const TEXT_LIMIT: usize = 1024;

/// The end of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineEnd {
    /// Why it ended.
    pub reason: MachineEndReason,
    /// The newest bytes of the guest's kernel log, oldest first. The guest wrote them.
    pub kernel_log: Vec<u8>,
    /// The last bytes that its processes wrote to stderr.
    pub stderr: Vec<u8>,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub at: u64,
}

/// Why a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineEndReason {
    /// The guest asked for a reset: how guest init powers off.
    Reset,
    /// The guest's processor shut down on a fault that it could not handle.
    TripleFault,
    /// The guest's kernel gave up.
    GuestPanic {
        /// What it said.
        message: String,
    },
    /// A signal that was not ours ended a machine process.
    KilledBySignal(i32),
    /// The host killed a machine process because memory ran out: that of the machine's own bound, or the host's.
    HostOutOfMemory,
    /// A machine process ended by itself with this status and without a word.
    Exited(i32),
    /// The guest ended before its kernel wrote to its log.
    BootFailed,
    /// The machine could not be made.
    SetUp(String),
    /// A machine process failed while the machine ran.
    Internal(String),
    /// [`Machine::stop`](crate::Machine::stop).
    Stopped,
}

impl fmt::Display for MachineEndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset => f.write_str("the guest powered off"),
            Self::TripleFault => f.write_str("the guest's processor shut down (triple fault)"),
            Self::GuestPanic { message } => write!(f, "the guest's kernel panicked: {message}"),
            Self::KilledBySignal(signal) => write!(f, "the machine process was killed by signal {signal}"),
            Self::HostOutOfMemory => f.write_str("the host ran out of memory for the machine and killed it"),
            Self::Exited(status) => write!(f, "the machine process exited with status {status}"),
            Self::BootFailed => f.write_str("the guest's kernel did not come up"),
            Self::SetUp(text) => write!(f, "the machine could not be set up: {text}"),
            Self::Internal(text) => write!(f, "the machine process failed: {text}"),
            Self::Stopped => f.write_str("the machine was stopped"),
        }
    }
}

/// What the kernel log says about an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LastWords {
    /// The kernel never wrote.
    None,
    /// It gave up, saying this.
    Panic(String),
    /// It rebooted, halted or powered off because it was told to.
    Orderly,
    /// It wrote, but nothing about an end.
    Other,
}

/// Looks for the end in a kernel log.
///
/// Only what the kernel itself can put at the start of a line counts: texts that processes may get into the
/// middle of a line (names, mount options) do not.
pub(crate) fn last_words(log: &[u8]) -> LastWords {
    if log.iter().all(|byte| byte.is_ascii_whitespace() || *byte == 0) {
        return LastWords::None;
    }
    let mut orderly = false;
    for line in log.split(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(line);
        let message = strip_prefixes(&line);
        if let Some(text) = message.strip_prefix("Kernel panic - not syncing") {
            return LastWords::Panic(printable(text.trim_start_matches([':', ' '])));
        }
        // All that is left when the ring has overwritten the first line.
        if let Some(text) = message.strip_prefix("---[ end Kernel panic - not syncing") {
            return LastWords::Panic(printable(text.trim_start_matches([':', ' ']).trim_end_matches([']', '-', ' '])));
        }
        orderly |= ["reboot: Restarting system", "reboot: Power down", "reboot: System halted"]
            .iter()
            .any(|words| message.starts_with(words));
    }
    if orderly { LastWords::Orderly } else { LastWords::Other }
}

/// Drops `<level>`, `[seconds]` and `[caller]` from the start of a line of the kernel log.
fn strip_prefixes(line: &str) -> &str {
    let mut rest = line.trim_start();
    for (open, close) in [('<', '>'), ('[', ']'), ('[', ']')] {
        let stripped = rest.strip_prefix(open).and_then(|inner| inner.split_once(close));
        if let Some((inside, after)) = stripped
            && inside.len() < 32
        {
            rest = after.trim_start();
        }
    }
    rest
}

/// A text from outside as one printable line of bounded length.
pub(crate) fn printable(text: &str) -> String {
    let mut line = String::new();
    for character in text.trim().chars() {
        let character = if character.is_control() { '\u{fffd}' } else { character };
        if line.len() + character.len_utf8() > TEXT_LIMIT {
            break;
        }
        line.push(character);
    }
    line
}

/// The last line of a stderr that says something.
pub(crate) fn last_line(stderr: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(stderr);
    text.lines().rev().map(printable).find(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_found_with_its_message() {
        let log = b"[    1.5] EXT4-fs (vdb): mounted\n[    2.000001] Kernel panic - not syncing: sysrq triggered crash\n\
                    [    2.1] CPU: 0 PID: 1\n[    2.2] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---\n";
        assert_eq!(last_words(log), LastWords::Panic("sysrq triggered crash".into()));
        let with_caller = b"<0>[    2.000001][    T1] Kernel panic - not syncing: Attempted to kill init!\n";
        assert_eq!(last_words(with_caller), LastWords::Panic("Attempted to kill init!".into()));
        assert_eq!(last_words(b"Kernel panic - not syncing: x"), LastWords::Panic("x".into()));
    }

    #[test]
    fn a_panic_whose_first_line_is_overwritten_is_found_by_its_last() {
        let log = b"all trace\n[    2.2] ---[ end Kernel panic - not syncing: Out of memory ]---\n";
        assert_eq!(last_words(log), LastWords::Panic("Out of memory".into()));
    }

    #[test]
    fn words_that_a_process_got_into_a_line_are_no_panic() {
        let log = b"[    1.0] EXT4-fs: Unrecognized mount option \"Kernel panic - not syncing: no\"\n";
        assert_eq!(last_words(log), LastWords::Other);
    }

    #[test]
    fn an_orderly_end_and_silence_are_told_apart() {
        assert_eq!(last_words(b"[    1.0] reboot: Restarting system\n"), LastWords::Orderly);
        assert_eq!(last_words(b""), LastWords::None);
        assert_eq!(last_words(b"\n\0\0"), LastWords::None);
        assert_eq!(last_words(b"[    1.0] Linux version 6.12\n"), LastWords::Other);
    }

    #[test]
    fn texts_from_outside_are_one_bounded_printable_line() {
        assert_eq!(printable(" a\x1b[31mb\nc "), "a\u{fffd}[31mb\u{fffd}c");
        assert_eq!(printable(&"é".repeat(5000)).len(), TEXT_LIMIT);
        assert_eq!(last_line(b"one\ntwo\n\n"), Some("two".into()));
        assert_eq!(last_line(b"\n"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_log_is_read(log in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..500)) {
            let _ = last_words(&log);
            let _ = last_line(&log);
        }
    }
}
