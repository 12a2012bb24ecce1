//! Everything that commands have started and that still runs, however it was reparented.

use std::fs;
use std::path::Path;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};

/// A mark that processes hand down to all that they start, whatever becomes of their environment, session and parents:
/// a limit that none of them minds, on the bytes of POSIX message queues.
#[derive(Debug, Clone, Copy)]
pub struct Mark(u32);

/// What a process is to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The command line, and what it starts for itself.
    Command,
    /// A keeper.
    Keeper,
    /// A machine process: under emulation there are two.
    Machine,
}

impl Mark {
    /// Below the limit that the kernel begins with, which may be lowered by everyone.
    const RANGE: u32 = 800_000;

    /// One that no other running test has.
    #[must_use]
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        Self((process::id() * 64 + NUMBER.fetch_add(1, Ordering::Relaxed)) % Self::RANGE)
    }

    /// A command of a program under the mark, and its process is the program's.
    #[must_use]
    pub fn command(self, program: &Path) -> Command {
        let mut command = Command::new("prlimit");
        command.arg(format!("--msgqueue={}:", self.0)).arg("--").arg(program);
        command
    }

    /// All processes under the mark, but for those that have ended and were not waited for yet.
    #[must_use]
    pub fn processes(self) -> Vec<(Pid, Role)> {
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
        pids.filter_map(|pid| self.has(pid).then(|| Some((pid, role(pid)?)))?).collect()
    }

    /// Those of one role.
    #[must_use]
    pub fn of(self, role: Role) -> Vec<Pid> {
        self.processes().into_iter().filter_map(|(pid, its)| (its == role).then_some(pid)).collect()
    }

    fn has(self, pid: Pid) -> bool {
        let limits = fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero())).unwrap_or_default();
        let soft = limits.lines().find_map(|line| line.strip_prefix("Max msgqueue size")?.split_whitespace().next());
        soft == Some(self.0.to_string().as_str())
    }
}

impl Default for Mark {
    fn default() -> Self {
        Self::new()
    }
}

/// `None`: it has ended.
fn role(pid: Pid) -> Option<Role> {
    let words = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
    let mut words = words.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    let program = words.next().filter(|program| !program.is_empty())?;
    Some(match program.rsplit('/').next() {
        Some("coracle") if words.next().as_deref() == Some("keeper") => Role::Keeper,
        Some("coracle-vmm" | "qemu-system-x86_64") => Role::Machine,
        _ => Role::Command,
    })
}

/// kill -9. One that has just ended is as good.
pub fn kill(pid: Pid) {
    let _ = kill_process(pid, Signal::KILL);
}

/// What a process has of the host.
#[derive(Debug, Clone, Copy)]
pub struct Usage(Pid);

impl Usage {
    /// That of a process; `None`: it is no pid.
    #[must_use]
    pub fn of(pid: i64) -> Option<Self> {
        Pid::from_raw(i32::try_from(pid).ok()?).map(Self)
    }

    /// How many descriptors it has. None when it has ended.
    #[must_use]
    pub fn descriptors(self) -> usize {
        fs::read_dir(self.file("fd")).map_or(0, Iterator::count)
    }

    /// Bytes in memory that are nobody else's.
    #[must_use]
    pub fn private(self) -> u64 {
        self.rows("Private_")
    }

    /// Bytes in memory that are no file's.
    #[must_use]
    pub fn anonymous(self) -> u64 {
        self.rows("Anonymous:")
    }

    fn file(self, name: &str) -> String {
        format!("/proc/{}/{name}", self.0.as_raw_nonzero())
    }

    fn rows(self, beginning: &str) -> u64 {
        let text = fs::read_to_string(self.file("smaps_rollup")).unwrap_or_default();
        let rows = text.lines().filter(|line| line.starts_with(beginning));
        rows.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum::<u64>() << 10
    }
}

impl From<Pid> for Usage {
    fn from(pid: Pid) -> Self {
        Self(pid)
    }
}
