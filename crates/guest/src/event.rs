//! What a session reports.

use std::os::unix::net::UnixStream;

use protocol::{ContainerId, ExitStatus, Hello, ProcessId, ProcessRow, RequestId, SpawnError, TerminalSize, Usage};

/// Something that happened in the guest. `S` is a connection.
#[derive(Debug)]
pub enum Event<S = UnixStream> {
    /// The guest is there. The first event, once; the version was checked.
    Hello(Hello),
    /// A container is set up.
    Created {
        /// Which.
        container: ContainerId,
    },
    /// A container could not be set up.
    CreateFailed {
        /// Which.
        container: ContainerId,
        /// What failed.
        error: String,
    },
    /// A process runs and all its streams are connected.
    Spawned {
        /// Its container.
        container: ContainerId,
        /// Which.
        process: ProcessId,
        /// Its pid in the guest's initial PID namespace.
        pid: u32,
        /// The guest's `CLOCK_MONOTONIC`, nanoseconds.
        at: u64,
        /// Its stdio.
        streams: Streams<S>,
    },
    /// A process could not be started.
    SpawnFailed {
        /// Its container.
        container: ContainerId,
        /// Which.
        process: ProcessId,
        /// Why.
        error: SpawnError,
    },
    /// A process ended, after its `Spawned`, once. All that it wrote was sent, but may still lie in the sockets:
    /// read them to their end before the exit is reported.
    Exited {
        /// Its container.
        container: ContainerId,
        /// Which.
        process: ProcessId,
        /// How.
        status: ExitStatus,
        /// Whether the guest's out-of-memory killer killed in its cgroup.
        oom_killed: bool,
    },
    /// The answer to a question ([`crate::Session::ask`]): exactly one for each, unless the session ends before.
    Answered {
        /// Its container.
        container: ContainerId,
        /// Which question.
        request: RequestId,
        /// What.
        reply: Reply,
    },
    /// The guest gives up. [`Event::Ended`] follows.
    Fatal {
        /// Why.
        error: String,
    },
    /// The answer to a power-off: everything is on the disks. [`Event::Ended`] follows.
    PoweringOff,
    /// The guest said farewell ([`Event::PoweringOff`], [`Event::Fatal`]) and nothing follows.
    Ended,
}

/// What is replied to a question: what fits it, or a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The writable disks are frozen.
    Frozen,
    /// They are thawed.
    Thawed,
    /// What the container uses.
    Usage(Usage),
    /// Its processes, at most [`protocol::MAX_PROCESS_ROWS`].
    Processes(Vec<ProcessRow>),
    /// The limits are in force.
    LimitsSet,
    /// It cannot be done, or the guest did not answer in time.
    Refused(String),
}

/// Which streams a process is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdioRequest {
    /// Pipes; a stream that is not wanted is `/dev/null`.
    Pipes {
        /// Standard input.
        stdin: bool,
        /// Standard output.
        stdout: bool,
        /// Standard error.
        stderr: bool,
    },
    /// A pseudo-terminal.
    Terminal {
        /// Its first size.
        size: TerminalSize,
    },
}

/// The streams of a process: non-blocking sockets that carry raw bytes.
#[derive(Debug)]
pub enum Streams<S = UnixStream> {
    /// Three pipes.
    Pipes {
        /// To write to; a half-close ends the process's input. What the process does not take is swallowed.
        stdin: Option<S>,
        /// To read to its end.
        stdout: Option<S>,
        /// To read to its end.
        stderr: Option<S>,
    },
    /// Both directions of a terminal.
    Terminal(S),
}
