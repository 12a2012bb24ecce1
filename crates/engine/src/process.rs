//! Processes of this host, named so that a reused pid is never taken for the process that had it before.

use std::{fs, io};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

pub use state::ProcessRef;

/// The id of this boot of the host.
///
/// # Errors
///
/// If `/proc` is not there.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Field 22 of `/proc/PID/stat`: when the process started, in clock ticks since boot. `None` if there is no
/// such process, or only its zombie.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_start_time(&stat)
}

/// The command name in parentheses may hold anything, also spaces and parentheses.
fn parse_start_time(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split_ascii_whitespace();
    let state = fields.next()?;
    // Field 3 was the state; 22 is the nineteenth from there.
    let start = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(start)
}

/// This process.
///
/// # Errors
///
/// If `/proc` is not there.
pub fn current() -> io::Result<ProcessRef> {
    let pid = std::process::id();
    let start_time = start_time(pid).ok_or_else(|| io::Error::other("/proc/self/stat cannot be read"))?;
    Ok(ProcessRef { pid, start_time, boot_id: boot_id()? })
}

/// Whether the process still runs.
#[must_use]
pub fn is_alive(process: &ProcessRef, boot_id: &str) -> bool {
    process.boot_id == boot_id && start_time(process.pid) == Some(process.start_time)
}

/// Nanoseconds since 1970.
#[must_use]
pub fn wall_clock_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Kills the process if it still is the one that was meant: its pid is pinned before its start time is looked
/// at, so that the signal cannot hit a successor.
pub fn kill(process: &ProcessRef, boot_id: &str) {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else { return };
    let Ok(pinned) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    if is_alive(process, boot_id) {
        // It may have ended meanwhile, which is what was wanted.
        let _ = pidfd_send_signal(&pinned, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn stat_lines() {
        let stat = "12 (a b) c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(parse_start_time(stat), Some(4242));
        assert_eq!(parse_start_time(&stat.replace(") S", ") Z")), None);
        assert_eq!(parse_start_time("12 (a"), None);
        assert_eq!(parse_start_time(""), None);
    }

    #[test]
    fn this_process_is_alive_and_its_impostors_are_not() {
        let boot = boot_id().unwrap();
        let own = current().unwrap();
        assert!(is_alive(&own, &boot));
        assert!(!is_alive(&ProcessRef { start_time: own.start_time + 1, ..own.clone() }, &boot));
        assert!(!is_alive(&ProcessRef { boot_id: "another".to_owned(), ..own }, &boot));
    }

    #[test]
    fn kill_takes_only_the_one_that_was_meant() {
        let boot = boot_id().unwrap();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let start = start_time(child.id()).unwrap();
        let meant = ProcessRef { pid: child.id(), start_time: start, boot_id: boot.clone() };
        kill(&ProcessRef { start_time: start + 1, ..meant.clone() }, &boot);
        assert!(child.try_wait().unwrap().is_none());
        kill(&meant, &boot);
        assert!(!child.wait().unwrap().success());
        assert!(!is_alive(&meant, &boot));
    }
}
