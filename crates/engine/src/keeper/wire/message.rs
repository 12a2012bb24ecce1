//! The messages, as plain data.

use std::time::Duration;

use protocol::{Limits, ProcessSpec, TerminalSize};
use serde::{Deserialize, Serialize};

use crate::{
    ending::Ending,
    keeper::{Launch, policy::RestartPolicy},
};

/// A stream that a process writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputStream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Which pipe ends travel with [`ToKeeper::Attach`] and [`ToKeeper::Exec`], in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedStreams {
    /// The end to read standard input from.
    pub stdin: bool,
    /// The end to write standard output to.
    pub stdout: bool,
    /// The end to write standard error to.
    pub stderr: bool,
}

impl AttachedStreams {
    /// How many descriptors that is.
    #[must_use]
    pub fn count(self) -> usize {
        usize::from(self.stdin) + usize::from(self.stdout) + usize::from(self.stderr)
    }
}

/// A further process in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Its id: 64 hexadecimal digits, chosen by whoever asks.
    pub id: String,
    /// What to run.
    pub process: ProcessSpec,
    /// A terminal instead of pipes.
    pub tty: bool,
    /// Pipe ends that come along. A stream that is not among them is `/dev/null`, or goes nowhere.
    pub streams: AttachedStreams,
    /// First size of the terminal.
    pub size: TerminalSize,
    /// Nobody waits: the connection is for [`FromKeeper::ExecStarted`] only.
    pub detach: bool,
}

/// What changes about a container that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// All its limits from now on.
    pub limits: Option<Limits>,
    /// Its restart policy from now on.
    pub restart: Option<RestartPolicy>,
}

/// What a command says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToKeeper {
    /// The first message.
    Hello {
        /// [`VERSION`](super::VERSION).
        version: u32,
    },
    /// Run this container.
    Launch(Box<Launch>),
    /// Connect the process's streams to these pipes.
    Attach(AttachedStreams),
    /// Send the process a signal, 1 to 64. Before the process runs, one that would end it ends the start.
    Signal(u8),
    /// Size of the terminal.
    Resize(TerminalSize),
    /// Nobody will read this stream again: let the process know.
    CloseOutput(OutputStream),
    /// End the machine at once.
    Kill,
    /// Say [`FromKeeper::Ended`] on this connection.
    Wait,
    /// Let go of the streams of this connection. Standard input does not end by that.
    Detach,
    /// Run a further process.
    Exec(Box<Exec>),
    /// End the container: the signal, then SIGKILL when the time is over, then a clean power-off. What is missing
    /// is as the container was asked to be; [`Duration::MAX`] waits for ever.
    Stop {
        /// Which signal.
        signal: Option<u8>,
        /// How long to wait before SIGKILL.
        timeout: Option<Duration>,
    },
    /// The same, and start it anew. [`FromKeeper::Done`] when its process runs.
    Restart {
        /// Which signal.
        signal: Option<u8>,
        /// How long to wait before SIGKILL.
        timeout: Option<Duration>,
    },
    /// Stop the vCPUs.
    Pause,
    /// Let them go on.
    Unpause,
    /// Freeze the writable layer, so that its disk may be read. It thaws at [`ToKeeper::Thaw`], when the
    /// connection ends, or after two minutes.
    Freeze,
    /// Thaw it.
    Thaw,
    /// Change it.
    Update(Update),
    /// What it uses.
    Usage,
    /// What runs in it.
    Processes,
}

/// What a keeper says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromKeeper {
    /// Answer to [`ToKeeper::Hello`].
    Hello {
        /// [`VERSION`](super::VERSION).
        version: u32,
    },
    /// The streams are connected.
    Attached,
    /// The request cannot be met.
    Refused(String),
    /// The process runs.
    Started,
    /// The container ended, everything about it is recorded.
    Ended(Box<Ending>),
    /// The process ended, and will be started again.
    Restarting(Box<Ending>),
    /// The exec's process runs.
    ExecStarted,
    /// It could not be started.
    ExecFailed {
        /// As a shell has it: 127, 126, 125.
        code: u8,
        /// Why.
        error: String,
    },
    /// It ended, and all that it wrote was passed on.
    ExecEnded {
        /// As a shell has it.
        code: u8,
    },
    /// The request was met.
    Done,
    /// Answer to [`ToKeeper::Usage`].
    Usage(Box<Usage>),
    /// Answer to [`ToKeeper::Processes`].
    Processes(Vec<ProcessRow>),
}

/// What a container uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// In the guest. Missing while it cannot be asked: paused, or about to start or to end.
    pub guest: Option<GuestUsage>,
    /// Its machine processes on the host.
    pub machine: HostUsage,
    /// Its keeper.
    pub keeper: HostUsage,
    /// When, in ns of the host's `CLOCK_MONOTONIC`.
    pub at: u64,
}

/// What a container's processes use, as the guest's cgroup counts it. The guest may lie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestUsage {
    /// Bytes of memory, page cache included.
    pub memory: u64,
    /// Bytes of page cache among them that nobody has used lately.
    pub memory_inactive_file: u64,
    /// Most bytes of memory.
    pub memory_limit: u64,
    /// CPU time in ns.
    pub cpu_ns: u64,
    /// Its processors.
    pub cpus: u32,
    /// Processes and threads.
    pub pids: u64,
    /// Most processes and threads; 0 is no limit.
    pub pids_limit: u64,
    /// Bytes read from disks.
    pub block_read: u64,
    /// Bytes written to disks.
    pub block_written: u64,
    /// Bytes received.
    pub net_received: u64,
    /// Bytes sent.
    pub net_sent: u64,
}

/// What processes of the host use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostUsage {
    /// Which.
    pub pids: Vec<u32>,
    /// Bytes in memory.
    pub rss: u64,
    /// Bytes in memory, shared ones in proportion.
    pub pss: u64,
    /// Bytes in memory that are nobody else's.
    pub private: u64,
    /// CPU time in ns.
    pub cpu_ns: u64,
}

/// A process in the container, as the guest says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRow {
    /// Its pid in the container.
    pub pid: u32,
    /// Its parent's.
    pub ppid: u32,
    /// Its user.
    pub uid: u32,
    /// The user's name in the container.
    pub user: Option<String>,
    /// As in `/proc/PID/stat`.
    pub state: char,
    /// CPU time in ns.
    pub cpu_ns: u64,
    /// Bytes in memory.
    pub rss: u64,
    /// When it started, in ns since 1970.
    pub started_at: i64,
    /// Its terminal, empty without one.
    pub tty: String,
    /// Its arguments with a NUL behind each, or its name in brackets; cut when long.
    pub command: Vec<u8>,
}

impl From<protocol::Usage> for GuestUsage {
    fn from(usage: protocol::Usage) -> Self {
        Self {
            memory: usage.memory,
            memory_inactive_file: usage.memory_inactive_file,
            memory_limit: usage.memory_limit,
            cpu_ns: usage.cpu.saturating_mul(1000),
            cpus: usage.cpus,
            pids: usage.pids,
            pids_limit: usage.pids_limit,
            block_read: usage.block_read,
            block_written: usage.block_written,
            net_received: usage.net_received,
            net_sent: usage.net_sent,
        }
    }
}

impl From<protocol::ProcessRow> for ProcessRow {
    fn from(row: protocol::ProcessRow) -> Self {
        Self {
            pid: row.pid,
            ppid: row.ppid,
            uid: row.uid,
            user: row.user,
            state: char::from(row.state),
            cpu_ns: row.cpu_ms.saturating_mul(1_000_000),
            rss: row.rss,
            started_at: i64::try_from(row.started.saturating_mul(1_000_000_000)).unwrap_or(i64::MAX),
            tty: row.tty,
            command: row.argv,
        }
    }
}
