//! The messages.

use serde::{Deserialize, Serialize};

/// Names a container of this machine: 64 lower-case hexadecimal digits by convention, opaque to the guest
/// except that it must be a single path component of at most 64 bytes of `[a-z0-9]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerId(pub String);

/// Names a process among those that the host started in this machine. Chosen by the host, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId(pub u32);

/// Names a question among those that the host asked this guest. Chosen by the host, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u32);

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
    /// Answer to [`HostMessage::Ask`]: exactly one, but for [`Answer::Processes`].
    Answer {
        /// Its container.
        container: ContainerId,
        /// Which question.
        request: RequestId,
        /// What.
        answer: Answer,
    },
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
    /// Ask about a container, or have something done to it; [`GuestMessage::Answer`] answers.
    Ask {
        /// The container.
        container: ContainerId,
        /// Names the question.
        request: RequestId,
        /// What.
        question: Question,
    },
}

/// How a container is set up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Volumes. With the tmpfs mounts and the files of the host they are mounted from the shortest path to the longest.
    pub volumes: Vec<VolumeMount>,
    /// Files of the host.
    pub binds: Vec<BindMount>,
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

/// A volume: the directory [`crate::VOLUME_DIRECTORY`] of an ext4 file system, made if it is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// virtio-blk serial of its disk (ext4).
    pub disk: String,
    /// Absolute path in the container; made if missing, symbolic links resolved inside the container.
    pub path: String,
    /// The container may not write to it.
    pub read_only: bool,
    /// If the volume is empty, it first gets what the image has at `path`: contents, owners, modes, times, extended
    /// attributes, links. A read-only volume, too; a read-only disk stays as it is.
    pub copy_up: bool,
}

/// A directory or another file of the host: an entry of the virtio-fs file system [`crate::SHARED_FILES_TAG`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindMount {
    /// Name of the entry: one component.
    pub entry: String,
    /// Absolute path in the container; made if missing, symbolic links resolved inside the container.
    pub path: String,
    /// The container may not write to it. The host sees to it, too.
    pub read_only: bool,
}

/// cgroup v2 limits of a container. `None` sets none, or ([`Question::SetLimits`]) leaves what is set; the largest
/// number lifts a limit.
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// A program, or a task of guest init. A task takes no heed of the other fields.
    pub task: Task,
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
    /// `/proc/self/oom_score_adj`.
    pub oom_score_adj: i16,
    /// A seccomp filter: `struct sock_filter` one after the other as x86-64 has them in memory, 8 bytes each, at most
    /// 4,096. Put in force as the last thing before the program is executed (with `init`, before the small init is).
    pub seccomp: Option<Vec<u8>>,
    /// Put a small init between PID 1 and the program: guest init's own, which reaps and forwards signals.
    pub init: bool,
}

/// What a process does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Executes the program of the [`ProcessSpec`].
    #[default]
    Program,
    /// Guest init's own work: writes what its standard input carries ([`crate::unpack`]) into the container, as root.
    /// Errors are told on standard error; exit code 0 if all was written, 1 if not.
    Unpack {
        /// Where paths of entries begin: absolute in the container, must exist.
        directory: String,
        /// A directory does not replace anything else, nor the other way round: that is an error.
        no_overwrite_dir_non_dir: bool,
    },
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

/// What the host may ask about a container that is set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Sync and freeze (`FIFREEZE`) the writable disks, so that the host may read them. Until they are thawed,
    /// whoever writes to them waits. [`Answer::Frozen`].
    Freeze,
    /// The end of it. [`Answer::Thawed`].
    Thaw,
    /// What the container uses. [`Answer::Usage`].
    Usage,
    /// Its processes. [`Answer::Processes`], in parts.
    Processes,
    /// Change its limits. [`Answer::LimitsSet`].
    SetLimits(Limits),
}

/// What the guest answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The disks are frozen.
    Frozen,
    /// The disks are thawed.
    Thawed,
    /// What is used.
    Usage(Usage),
    /// Some of the processes; the last part says so, and only it may be empty.
    Processes {
        /// At most [`MAX_PROCESS_ROWS`] in all parts together.
        rows: Vec<ProcessRow>,
        /// Nothing follows.
        last: bool,
    },
    /// The limits are in force.
    LimitsSet,
    /// It cannot be done: why.
    Refused(String),
}

/// Most rows of an [`Answer::Processes`].
pub const MAX_PROCESS_ROWS: usize = 4096;

/// Most bytes of [`ProcessRow::argv`].
pub const MAX_ROW_ARGV: usize = 512;

/// What a container uses (cgroup v2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// `CLOCK_MONOTONIC` of the guest when it was read, nanoseconds.
    pub at: u64,
    /// Bytes of memory, page cache included.
    pub memory: u64,
    /// Bytes of page cache among them that nobody has used lately: `docker stats` does not count these.
    pub memory_inactive_file: u64,
    /// Limit of memory in bytes; the guest's memory if there is none.
    pub memory_limit: u64,
    /// Processor time since the container began, microseconds.
    pub cpu: u64,
    /// The part of it in user mode.
    pub cpu_user: u64,
    /// The part of it in the kernel.
    pub cpu_system: u64,
    /// Processors of the guest.
    pub cpus: u32,
    /// Processes and threads.
    pub pids: u64,
    /// Limit of processes and threads; 0 if there is none.
    pub pids_limit: u64,
    /// Bytes read from disks.
    pub block_read: u64,
    /// Bytes written to disks.
    pub block_written: u64,
    /// Bytes received from the network, loopback apart.
    pub net_received: u64,
    /// Bytes sent to the network, loopback apart.
    pub net_sent: u64,
}

/// A process of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRow {
    /// In the container's PID namespace.
    pub pid: u32,
    /// Its parent there; 0 if the parent is outside.
    pub ppid: u32,
    /// Effective user.
    pub uid: u32,
    /// Its name in the container's passwd.
    pub user: Option<String>,
    /// `R`, `S`, `D`, `Z`, `T`, … of `proc(5)`.
    pub state: u8,
    /// Processor time, milliseconds.
    pub cpu_ms: u64,
    /// Resident bytes.
    pub rss: u64,
    /// Seconds since 1970 when it began.
    pub started: u64,
    /// `pts/0`, `console`, … or `?`.
    pub tty: String,
    /// Arguments, each with a NUL behind it, cut at [`MAX_ROW_ARGV`] bytes; `[name]` if it has none.
    pub argv: Vec<u8>,
}
