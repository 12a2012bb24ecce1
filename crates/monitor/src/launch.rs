//! From a spec to running processes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use machine::{FILES_PER_MESSAGE, FileIndex, MachineSpec, ToMachine};
use rustix::net::{SendFlags, sockopt};
use thiserror::Error;

use crate::cgroup::{Cgroup, Confinement, HostLimits};
use crate::companion::{self, FileDaemon};
use crate::handle::Machine;
use crate::process::{Process, Role};
use crate::vsock::VsockChannel;
use crate::{Accelerator, Tools, files, qemu, seqpacket, tsc, watcher};

/// How long a fresh machine process may leave its files unread.
const HAND_OVER: Duration = Duration::from_secs(5);

/// Environment that other programs than ours may need to find their libraries, firmware and helpers. Machine processes
/// get none: what is secret in ours is not for them.
const FOREIGN_ENVIRONMENT: [&str; 2] = ["PATH", "LD_LIBRARY_PATH"];

/// A machine that was not launched.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// A file of the machine could not be opened.
    #[error("{role}: {}", path.display())]
    File {
        /// What the machine wants it for.
        role: String,
        /// The file.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// A writable disk is in use by another machine.
    #[error("disk {} is in use by another machine", path.display())]
    DiskBusy {
        /// The disk's file.
        path: PathBuf,
    },
    /// The spec names a vsock channel; it is made here.
    #[error("the machine spec already has a vsock channel")]
    ChannelGiven,
    /// The spec names a connection to a file daemon; it is made here.
    #[error("the machine spec already has a connection for its shared files")]
    DaemonGiven,
    /// The spec has shared files, and nothing serves them.
    #[error("the machine has shared files, and nothing to serve them")]
    NoFileDaemon,
    /// Emulation was asked for, and there is no emulator.
    #[error("emulation needs an emulator, and none was found")]
    NoEmulator,
    /// A program did not start.
    #[error("starting {}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// The spec does not fit a message.
    #[error("the machine spec is too large")]
    Spec(#[from] machine::CodecError),
    /// The machine process did not take its files.
    #[error("handing files to the machine process")]
    HandOver(#[source] io::Error),
    /// The host is out of something.
    #[error("{what}")]
    Host {
        /// What was asked of it.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

impl LaunchError {
    pub(crate) fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}

/// What a machine has around it.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Bounds of its processes, which get a cgroup of their own where the host lets us make one:
    /// [`Machine::confinement`] says what came of it.
    pub limits: Option<HostLimits>,
    /// What serves its shared files, where it has some.
    pub file_daemon: Option<FileDaemon>,
}

/// Opens the machine's files, starts its processes and hands everything over.
///
/// It does not wait for the guest, nor for the machine process to say that it started: a failed set-up is an
/// end with the reason [`SetUp`](crate::MachineEndReason::SetUp).
///
/// # Errors
///
/// [`LaunchError`]. Nothing is left running.
pub fn launch(
    spec: MachineSpec<PathBuf>,
    accelerator: Accelerator,
    tools: &Tools,
    surroundings: Surroundings,
) -> Result<Machine, LaunchError> {
    let (channel, machine_channel) = seqpacket::pair().map_err(LaunchError::host("vsock channel"))?;
    let (control, machine_control) = seqpacket::pair().map_err(LaunchError::host("control socket"))?;
    let mut spec = files::open(spec, machine_channel)?;
    let file_daemon = match (&mut spec.shared_files, surroundings.file_daemon) {
        (None, _) => None,
        (Some(_), None) => return Err(LaunchError::NoFileDaemon),
        (Some(shared_files), Some(daemon)) => {
            let (listener, connected) =
                companion::listening(&daemon).map_err(LaunchError::host("file daemon's socket"))?;
            shared_files.channel = Some(connected);
            Some((daemon, listener))
        }
    };
    let plan = Plan {
        spec,
        vmm: tools.vmm.clone(),
        emulator: match (accelerator, &tools.emulator) {
            (Accelerator::Kvm, _) => None,
            (Accelerator::Emulated, Some(path)) => Some(path.clone()),
            (Accelerator::Emulated, None) => return Err(LaunchError::NoEmulator),
        },
        machine_control,
        file_daemon,
        limits: surroundings.limits,
    };
    watcher::start(control, VsockChannel::new(channel), move |control| plan.spawn(control))
}

/// Everything that is needed to start the processes, in the thread that will watch them.
struct Plan {
    spec: MachineSpec<OwnedFd>,
    vmm: PathBuf,
    emulator: Option<PathBuf>,
    machine_control: OwnedFd,
    file_daemon: Option<(FileDaemon, OwnedFd)>,
    limits: Option<HostLimits>,
}

/// What was spawned, and what holds it.
pub(crate) struct Spawned {
    pub(crate) processes: Vec<Process>,
    pub(crate) cgroup: Option<Arc<Cgroup>>,
    pub(crate) confinement: Confinement,
}

impl Plan {
    fn spawn(self, control: BorrowedFd<'_>) -> Result<Spawned, LaunchError> {
        let Self { spec, vmm, emulator, machine_control, file_daemon, limits } = self;
        let made = limits.as_ref().map(Cgroup::make);
        let procs = made.as_ref().and_then(|made| Some(made.as_ref().ok()?.procs().as_fd()));
        // Companions come first: of several that have ended, the first is looked at first.
        let mut processes = Vec::new();
        if let Some((daemon, socket)) = file_daemon {
            processes.push(spawn_file_daemon(&daemon, socket, procs)?);
        }
        processes.extend(match emulator {
            None => spawn_machine(spec, &vmm, control, machine_control, procs)?,
            Some(emulator) => spawn_emulated(spec, &vmm, &emulator, control, machine_control, procs)?,
        });
        let (cgroup, confinement) = match made {
            None => (None, Confinement::default()),
            Some(Err(problem)) => (None, Confinement::refused(problem)),
            Some(Ok(cgroup)) if processes.iter().any(|process| cgroup.holds(process.id.pid)) => {
                let confinement = cgroup.confinement().clone();
                (Some(Arc::new(cgroup)), confinement)
            }
            Some(Ok(cgroup)) => {
                let problem = format!("the machine's processes may not enter {}", cgroup.path().display());
                (None, Confinement::refused(problem))
            }
        };
        Ok(Spawned { processes, cgroup, confinement })
    }
}

fn spawn_file_daemon(
    daemon: &FileDaemon,
    socket: OwnedFd,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Process, LaunchError> {
    let mut command = Command::new(absolute(&daemon.program)?);
    command.args(&daemon.arguments).stdin(socket).current_dir("/");
    keep_environment(&mut command);
    spawn(Role::Files, &daemon.program, command, Vec::new(), cgroup)
}

fn spawn_machine(
    spec: MachineSpec<OwnedFd>,
    vmm: &Path,
    control: BorrowedFd<'_>,
    machine_control: OwnedFd,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Vec<Process>, LaunchError> {
    let process = spawn(Role::Machine, vmm, vmm_command(vmm, "machine", machine_control)?, Vec::new(), cgroup)?;
    let mut files = Vec::new();
    let spec = number(spec, &mut files);
    hand_over(control, &files, &ToMachine::Launch { spec })?;
    Ok(vec![process])
}

fn spawn_emulated(
    mut spec: MachineSpec<OwnedFd>,
    vmm: &Path,
    emulator: &Path,
    control: BorrowedFd<'_>,
    machine_control: OwnedFd,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Vec<Process>, LaunchError> {
    let tsc = tsc::Measurement::start();
    let devices = spawn(Role::Devices, vmm, vmm_command(vmm, "devices", machine_control)?, Vec::new(), cgroup)?;
    let sockets = DeviceSockets::new(spec.disks.len()).map_err(LaunchError::host("vhost-user sockets"))?;
    let file_daemon = spec.shared_files.as_mut().and_then(|shared| shared.channel.take());
    let (inherited, kept) =
        inherit(&spec, sockets.emulator, file_daemon).map_err(LaunchError::host("files for the emulator"))?;
    let mut files = Vec::new();
    let spec = number(spec, &mut files);
    let sockets = sockets.devices.into_iter().map(|socket| append(socket, &mut files)).collect();
    hand_over(control, &files, &ToMachine::Serve { spec: spec.clone(), sockets })?;

    let mut command = Command::new(absolute(emulator)?);
    command.args(qemu::arguments(&spec, &inherited, tsc.finish())).stdin(Stdio::null()).current_dir("/");
    keep_environment(&mut command);
    let emulator = spawn(Role::Emulator, emulator, command, kept, cgroup)?;
    Ok(vec![devices, emulator])
}

/// A connected pair per vhost-user device: the disks in slot order, then vsock.
struct DeviceSockets {
    devices: Vec<OwnedFd>,
    emulator: Vec<OwnedFd>,
}

impl DeviceSockets {
    fn new(disks: usize) -> io::Result<Self> {
        let pairs: Vec<_> = (0..=disks).map(|_| seqpacket::stream_pair()).collect::<io::Result<_>>()?;
        let (devices, emulator) = pairs.into_iter().unzip();
        Ok(Self { devices, emulator })
    }
}

/// What the emulator inherits. Descriptors keep their numbers: moving them to chosen ones could overwrite the
/// pipe through which a failed exec is reported.
fn inherit(
    spec: &MachineSpec<OwnedFd>,
    mut sockets: Vec<OwnedFd>,
    file_daemon: Option<OwnedFd>,
) -> io::Result<(qemu::Inherited, Vec<OwnedFd>)> {
    let kernel = spec.kernel.try_clone()?;
    let initrd = spec.initrd.try_clone()?;
    let console = spec.console.as_ref().map(OwnedFd::try_clone).transpose()?;
    let vsock = sockets.pop().ok_or(io::ErrorKind::InvalidInput)?;
    let inherited = qemu::Inherited {
        kernel: kernel.as_raw_fd(),
        initrd: initrd.as_raw_fd(),
        disks: sockets.iter().map(AsRawFd::as_raw_fd).collect(),
        vsock: vsock.as_raw_fd(),
        files: file_daemon.as_ref().map(AsRawFd::as_raw_fd),
        console: console.as_ref().map(AsRawFd::as_raw_fd),
    };
    let mut kept = vec![kernel, initrd, vsock];
    kept.extend(sockets);
    kept.extend(file_daemon);
    kept.extend(console);
    Ok((inherited, kept))
}

fn keep_environment(command: &mut Command) {
    command.env_clear();
    command.envs(FOREIGN_ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
}

fn vmm_command(vmm: &Path, subcommand: &str, control: OwnedFd) -> Result<Command, LaunchError> {
    let mut command = Command::new(absolute(vmm)?);
    command.arg(subcommand).stdin(control).env_clear().current_dir("/");
    Ok(command)
}

fn absolute(program: &Path) -> Result<PathBuf, LaunchError> {
    std::path::absolute(program).map_err(|source| LaunchError::Spawn { program: program.to_owned(), source })
}

fn spawn(
    role: Role,
    program: &Path,
    command: Command,
    inherited: Vec<OwnedFd>,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Process, LaunchError> {
    Process::spawn(role, command, inherited, cgroup)
        .map_err(|source| LaunchError::Spawn { program: program.to_owned(), source })
}

/// Puts the files in a row and their positions into the spec.
fn number(spec: MachineSpec<OwnedFd>, files: &mut Vec<OwnedFd>) -> MachineSpec<FileIndex> {
    let numbered = spec.try_map_files(|file| Ok::<_, std::convert::Infallible>(append(file, files)));
    match numbered {
        Ok(spec) => spec,
    }
}

fn append(file: OwnedFd, files: &mut Vec<OwnedFd>) -> FileIndex {
    files.push(file);
    FileIndex::try_from(files.len() - 1).unwrap_or(FileIndex::MAX)
}

/// Sends the files in batches, then the message about them.
fn hand_over(control: BorrowedFd<'_>, files: &[OwnedFd], message: &ToMachine) -> Result<(), LaunchError> {
    sockopt::set_socket_timeout(control, sockopt::Timeout::Send, Some(HAND_OVER))
        .map_err(|error| LaunchError::HandOver(error.into()))?;
    let send = |message: &ToMachine, batch: &[BorrowedFd<'_>]| -> Result<bool, LaunchError> {
        match seqpacket::send(control, &machine::encode(message)?, batch, SendFlags::empty()) {
            Ok(()) => Ok(true),
            // It is dead already: the watcher will find out how it died, which says more.
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(LaunchError::HandOver(error)),
        }
    };
    for batch in files.chunks(FILES_PER_MESSAGE) {
        let batch: Vec<_> = batch.iter().map(AsFd::as_fd).collect();
        let count = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        if !send(&ToMachine::Files { count }, &batch)? {
            return Ok(());
        }
    }
    send(message, &[]).map(drop)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
