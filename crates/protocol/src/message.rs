//! The messages.

use serde::{Deserialize, Serialize};

/// Names a container of this machine: 64 lower-case hexadecimal digits by convention, opaque to the guest
/// except that it must be a single path component of at most 64 bytes of `[a-z0-9]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerId(pub String);

/// Names a process among those that the host started in this machine. Chosen by the host, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId(pub u32);

/// A secret of 128 random bits that a stdio connection must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StreamToken(pub [u8; 16]);

/// What guest init says on the control connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestMessage {
    /// The first message.
    Hello(Hello),
    /// The container's root, mounts and limits are in place.
    Created {
        /// Which.
        container: ContainerId,
    },
    /// The container could not be set up.
    CreateFailed {
        /// Which.
        container: ContainerId,
        /// What failed, naming the object.
        error: String,
    },
    /// The process runs.
    Spawned {
        /// Its container.
        container: ContainerId,
        /// Which.
        process: ProcessId,
        /// Its pid in the guest's initial PID namespace.
        pid: u32,
        /// `CLOCK_MONOTONIC` of the guest (time since its kernel started), nanoseconds.
        at: u64,
    },
    /// The process could not be started.
    SpawnFailed {
        /// Its container.
        container: ContainerId,
        /// Which.
        process: ProcessId,
        /// Why.
        error: SpawnError,
    },
    /// The process ended and all bytes that it wrote were sent.
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
    /// The guest cannot go on (for example a malformed frame); it powers off.
    Fatal {
        /// What failed.
        error: String,
    },
    /// Answer to [`HostMessage::PowerOff`]: everything is synced and unmounted, the reset follows at once.
    PoweringOff,
}

/// Who the guest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::VERSION`] that guest init was built with.
    pub version: u32,
    /// `uname -r`.
    pub kernel_release: String,
    /// `CLOCK_MONOTONIC` of the guest when guest init began to run, nanoseconds.
    pub init_started: u64,
    /// The same clock when this message was made.
    pub sent: u64,
}

/// What the host says on the control connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostMessage {
    /// Set a container up.
    Create {
        /// Names it from now on.
        container: ContainerId,
        /// How.
        config: Box<ContainerConfig>,
    },
    /// Start a process in a container. The first one of a container is PID 1 of its PID namespace.
    Spawn {
        /// The container.
        container: ContainerId,
        /// Names it from now on.
        process: ProcessId,
        /// What to run.
        spec: Box<ProcessSpec>,
        /// How its stdio reaches the host.
        stdio: Stdio,
    },
    /// Send a signal to a process.
    Signal {
        /// Its container.
        container: ContainerId,
        /// Which.
        process: ProcessId,
        /// Linux signal number, 1 to 64.
        signal: u8,
    },
    /// Set the size of a process's terminal.
    Resize {
        /// Its container.
        container: ContainerId,
        /// Which.
        process: ProcessId,
        /// The size.
        size: TerminalSize,
    },
    /// Kill every process, sync and unmount every file system, and reset.
    PowerOff,
}

/// How a container is set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// virtio-blk serial of the root device (EROFS).
    pub root_disk: String,
    /// virtio-blk serial of the scratch disk (ext4) that takes the writes.
    pub scratch_disk: String,
    /// Mount the root read-only for the container.
    pub read_only: bool,
    /// Host name, also in `/etc/hostname` and `/etc/hosts`.
    pub hostname: String,
    /// Whole content of `/etc/hosts`.
    pub hosts_file: String,
    /// Whole content of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// The whole guest: all devices, writable `/sys` and cgroups, no masked paths.
    pub privileged: bool,
    /// tmpfs mounts, in order.
    pub tmpfs: Vec<Tmpfs>,
    /// Bytes of `/dev/shm`.
    pub shm_size: u64,
    /// `(name, value)`, the name with dots.
    pub sysctls: Vec<(String, String)>,
    /// cgroup limits.
    pub limits: Limits,
    /// Seconds and nanoseconds since 1970 when this message was made: the guest sets its clock.
    pub wall_clock: (u64, u32),
}

/// A tmpfs mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Absolute path in the container; made if missing, symbolic links resolved inside the container.
    pub path: String,
    /// Mount options as `mount -o` takes them (`size=64m,mode=1777,ro,noexec,…`); empty for Docker's defaults.
    pub options: String,
}

/// cgroup v2 limits of a container. `None` sets none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `memory.max` in bytes.
    pub memory: Option<u64>,
    /// `cpu.max` in thousandths of a CPU.
    pub cpu_milli: Option<u32>,
    /// `pids.max`.
    pub pids: Option<u64>,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Arguments, the first names the program, searched in `PATH` of `env` when it has no slash. Not empty.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value` each. The guest adds `HOME` from the container's passwd if it is missing.
    pub env: Vec<Vec<u8>>,
    /// Working directory, absolute in the container; made if missing.
    pub cwd: String,
    /// `USER[:GROUP]`, names or numbers, looked up in the container's own passwd and group. Empty is root.
    pub user: String,
    /// More groups, names or numbers.
    pub additional_groups: Vec<String>,
    /// Capabilities.
    pub capabilities: Capabilities,
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privileges: bool,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Put a small init between PID 1 and the program: guest init's own, which reaps and forwards signals.
    pub init: bool,
}

/// Capability sets as bit masks (bit n is capability number n of `linux/capability.h`).
///
/// For a user other than root the guest clears permitted, effective and ambient as Docker does: the bounding
/// set is what a setuid program can regain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Bounding, permitted and effective set for root.
    pub bounding: u64,
}

/// A resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_*` number of Linux x86-64.
    pub resource: u32,
    /// Soft limit; `u64::MAX` is none.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is none.
    pub hard: u64,
}

/// How the stdio of a process reaches the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// Three pipes. A stream without a token is `/dev/null`.
    Pipes {
        /// Standard input.
        stdin: Option<StreamToken>,
        /// Standard output.
        stdout: Option<StreamToken>,
        /// Standard error.
        stderr: Option<StreamToken>,
    },
    /// A pseudo-terminal with one connection for both directions.
    Terminal {
        /// Its connection.
        token: StreamToken,
        /// Its first size.
        size: TerminalSize,
    },
}

/// Size of a terminal in characters; 0 means unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Rows.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// The first frame of a stdio connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamOpen {
    /// The secret from [`Stdio`]; each stream has its own.
    pub token: StreamToken,
}

impl StreamOpen {
    /// Bytes of its frame: 4 of length and 16 of token.
    pub const FRAME_LENGTH: usize = 20;

    /// Its frame.
    #[must_use]
    pub fn to_frame(self) -> [u8; Self::FRAME_LENGTH] {
        let mut frame = [0; Self::FRAME_LENGTH];
        frame[0] = 16;
        frame[4..].copy_from_slice(&self.token.0);
        frame
    }

    /// The message in a frame, or `None` if it is none.
    #[must_use]
    pub fn from_frame(frame: &[u8; Self::FRAME_LENGTH]) -> Option<Self> {
        let (header, token) = frame.split_first_chunk::<4>()?;
        let token = StreamToken(token.try_into().ok()?);
        (*header == [16, 0, 0, 0]).then_some(Self { token })
    }
}

/// Why a process could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpawnError {
    /// No such program (exit code 127).
    NotFound(String),
    /// The program cannot be executed (exit code 126).
    NotExecutable(String),
    /// No such user or group in the container (exit code 126).
    UnknownUser(String),
    /// The working directory cannot be used (exit code 126).
    WorkingDirectory(String),
    /// Anything else (exit code 125).
    Other(String),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It returned a code.
    Code(u8),
    /// A signal ended it.
    Signal(u8),
}

impl ExitStatus {
    /// The code that a shell would report: the code itself, or 128 plus the signal.
    #[must_use]
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128_u8.saturating_add(signal),
        }
    }
}
