//! From a request to a machine: pure. What is in the files, on the host and in the image comes in as data;
//! what goes out is everything that the keeper needs to launch and nothing that it must still decide.
//!
//! # Sizes
//!
//! A machine without `--cpus` has one vCPU: each further one costs start time, and most containers start to run one
//! program. With `--cpus N` it has `N` rounded up; a fraction is enforced by the container's `cpu.max`, and all of it
//! by the host where that can be ([`crate::host_limits`]).
//!
//! A machine without `-m` has [`DEFAULT_MEMORY`], or half of the host's memory if that is less: guest memory
//! is only backed as far as it is touched. The container's `memory.max` lies [`guest_reserve`] below what the
//! machine has, so that a container that takes too much loses a process and not its machine.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use machine::{BlockBacking, Disk, Extent, KernelLogRegion, MachineSpec, SharedFiles};
use protocol::{Capabilities, ContainerConfig, Limits, ProcessSpec, Task, Tmpfs};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    capability, environment, etc_files,
    keeper::policy::{LogSettings, StopSettings},
    life::{self, Healthcheck, LifeError},
    mounts::{self, BindMount, VolumeMount},
    names, quantity, rates,
    request::{RunRequest, TmpfsRequest},
    rlimit, seccomp, signals,
    volumes::VolumeDisk,
};

/// Default guest memory in bytes.
pub const DEFAULT_MEMORY: u64 = 1 << 30;

/// Least guest memory in bytes with which the guest kernel and guest init start and leave room for a program.
pub const MIN_MEMORY: u64 = 64 << 20;

/// vCPUs of a machine whose request does not say how many.
pub const DEFAULT_VCPUS: u32 = 1;

/// Default size of `/dev/shm` in bytes.
pub const DEFAULT_SHM: u64 = 64 << 20;

/// Serial of the root device.
pub const ROOT_DISK: &str = "root";

/// Serial of the scratch disk.
pub const SCRATCH_DISK: &str = "scratch";

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A request that cannot become a machine.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// Neither the request nor the image has a command.
    #[error("no command given, and image {0:?} has none")]
    NoCommand(String),
    /// A program name of zero bytes.
    #[error("the command's first word is empty")]
    EmptyProgram,
    /// More CPUs than the host has.
    #[error("{} CPUs were asked for, but this host has {host}", decimal(*.asked))]
    TooManyCpus {
        /// Thousandths.
        asked: u32,
        /// CPUs of the host.
        host: u32,
    },
    /// Less memory than a guest needs.
    #[error("{} of memory is too little: a machine needs at least {}", quantity::human_binary(*.0), quantity::human_binary(MIN_MEMORY))]
    TooLittleMemory(u64),
    /// More memory than the host has.
    #[error("{} of memory was asked for, but this host has {}", quantity::human_binary(*.asked), quantity::human_binary(*.host))]
    TooMuchMemory {
        /// Bytes.
        asked: u64,
        /// Bytes.
        host: u64,
    },
    /// A scratch disk too small to hold a file system.
    #[error("a scratch disk of {} is too small: at least {}", quantity::human_binary(*.0), quantity::human_binary(volume::MIN_SIZE))]
    TooLittleScratch(u64),
    /// `--cap-add`, `--cap-drop`.
    #[error(transparent)]
    Capability(#[from] capability::UnknownCapability),
    /// `-v`, `--mount`.
    #[error(transparent)]
    Mount(#[from] mounts::MountError),
    /// `--device-read-bps` and its siblings.
    #[error(transparent)]
    Rate(#[from] rates::RateError),
    /// `--ulimit`.
    #[error(transparent)]
    Rlimit(#[from] rlimit::RlimitError),
    /// A NUL byte in the command or the user.
    #[error("the {0} contains a NUL byte")]
    Nul(&'static str),
    /// `--oom-score-adj`.
    #[error("invalid OOM score adjustment {0}: expected -1000 to 1000")]
    OomScore(i32),
    /// `--security-opt seccomp=`.
    #[error(transparent)]
    Seccomp(#[from] seccomp::SeccompError),
    /// How it is stopped, checked or logged.
    #[error(transparent)]
    Life(#[from] LifeError),
    /// The image's environment.
    #[error("image {image:?} has an unusable environment")]
    ImageEnvironment {
        /// As the request named it.
        image: String,
        /// Why.
        source: environment::EnvironmentError,
    },
}

fn decimal(milli: u32) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What an image says about running it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageDefaults {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`.
    pub env: Vec<String>,
    /// `User`.
    pub user: String,
    /// `WorkingDir`.
    pub working_dir: String,
    /// `StopSignal`.
    pub stop_signal: Option<String>,
    /// `Labels`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `Healthcheck`.
    #[serde(default)]
    pub health: Option<Healthcheck>,
    /// `Volumes`: paths.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// `ExposedPorts`, as in `80/tcp`.
    #[serde(default)]
    pub exposed_ports: Vec<String>,
}

/// What the host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// CPUs that this process may use.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Time since 1970.
    pub wall_clock: Duration,
    /// `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// `/run/systemd/resolve/resolv.conf`, if there is one.
    pub upstream_resolv_conf: Option<String>,
}

/// The files of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Guest kernel.
    pub kernel: PathBuf,
    /// Initial RAM file system.
    pub initrd: PathBuf,
    /// The root device's extents.
    pub root: Vec<Extent<PathBuf>>,
    /// The scratch disk.
    pub scratch: PathBuf,
    /// The volumes' disks, in the order of [`Resolved::volumes`].
    pub volumes: Vec<VolumeDisk>,
}

/// Everything about a container that does not depend on files: what the record keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// How many words of `argv` are the entrypoint.
    pub entrypoint_words: usize,
    /// Environment, without `HOME` when only the guest can know it.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// `USER[:GROUP]`; empty is root.
    pub user: String,
    /// Host name.
    pub hostname: String,
    /// Signal that asks the process to end.
    pub stop_signal: String,
    /// vCPUs.
    pub vcpus: u8,
    /// MiB of guest memory.
    pub memory_mib: u32,
    /// Bytes of the scratch disk.
    pub scratch_size: u64,
    /// Its volumes.
    #[serde(default)]
    pub volumes: Vec<VolumeMount>,
    /// What it sees of the host's files.
    #[serde(default)]
    pub binds: Vec<BindMount>,
    /// The image's labels and the request's.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How it is stopped.
    #[serde(default)]
    pub stop: StopSettings,
    /// Its health checks.
    #[serde(default)]
    pub health: Option<Healthcheck>,
    /// How its output is kept.
    #[serde(default)]
    pub log: LogSettings,
    /// The ports that the image exposes.
    #[serde(default)]
    pub exposed_ports: Vec<String>,
}

/// What the keeper launches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The machine.
    pub machine: MachineSpec<PathBuf>,
    /// The container in it.
    pub container: ContainerConfig,
    /// Its first process.
    pub process: ProcessSpec,
    /// A terminal instead of pipes.
    pub tty: bool,
    /// Standard input is connected.
    pub stdin: bool,
    /// Thousandths of a CPU that the machine gets of the host; all of its vCPUs' if missing.
    pub host_cpu_milli: Option<u32>,
}

/// Resolves a request against an image and a host.
///
/// # Errors
///
/// [`PlanError`] naming what cannot be had.
pub fn resolve(id: &str, request: &RunRequest, image: &ImageDefaults, host: &Host) -> Result<Resolved, PlanError> {
    let (argv, entrypoint_words) = command(request, image)?;
    let hostname = request.hostname.clone().unwrap_or_else(|| names::short_id(id).to_owned());
    let user = request.user.clone().unwrap_or_else(|| image.user.clone());
    if user.contains('\0') {
        return Err(PlanError::Nul("user"));
    }
    // What an image says wrongly is as if it said nothing.
    let of_image = image.stop_signal.as_ref().filter(|text| signals::parse(text).is_ok());
    let of_request = request.stop_signal.as_ref().filter(|text| !text.is_empty());
    let stop_signal = of_request.or(of_image).map_or("SIGTERM", String::as_str);
    let of_image = image.health.as_ref().filter(|health| health.spec().is_ok());
    let health = Healthcheck::merged(of_image, &request.health)?;
    // What a keeper could not do is said now.
    health.as_ref().map(Healthcheck::spec).transpose()?;
    Ok(Resolved {
        argv,
        entrypoint_words,
        env: env(request, image, &hostname)?,
        working_dir: absolute(request.working_dir.as_deref().unwrap_or(&image.working_dir)),
        user,
        hostname,
        stop_signal: stop_signal.to_owned(),
        vcpus: vcpus(request.cpu_milli, host)?,
        memory_mib: memory_mib(request.memory, host.memory)?,
        scratch_size: scratch_size(request.scratch_size)?,
        volumes: mounts::resolve(id, &request.volumes, &request.tmpfs, &image.volumes)?,
        binds: mounts::binds(&request.volumes).cloned().collect(),
        labels: image.labels.iter().chain(&request.labels).map(|(k, v)| (k.clone(), v.clone())).collect(),
        stop: life::stop(stop_signal, request.stop_timeout)?,
        health,
        log: life::log(request)?,
        exposed_ports: image.exposed_ports.clone(),
    })
}

/// The plan of a resolved request.
///
/// # Errors
///
/// [`PlanError`] for capabilities and limits that do not exist.
pub fn plan(request: &RunRequest, resolved: &Resolved, files: Files, host: &Host) -> Result<Plan, PlanError> {
    Ok(Plan {
        machine: machine_spec(request, resolved, files)?,
        container: container_config(request, resolved, host),
        process: process_spec(request, resolved)?,
        tty: request.tty,
        stdin: request.interactive,
        host_cpu_milli: request.cpu_milli,
    })
}

/// Bytes of a machine's memory that the container cannot have: the kernel, its bookkeeping and guest init. What
/// was gone after boot, measured: 34 MiB of 64, 35 of 128, 57 of 1024.
#[must_use]
pub fn guest_reserve(memory: u64) -> u64 {
    (36 << 20) + memory / 40
}

/// Docker's rules for `Entrypoint` and `Cmd`, with the number of words that are the entrypoint.
fn command(request: &RunRequest, image: &ImageDefaults) -> Result<(Vec<String>, usize), PlanError> {
    let entrypoint = match request.entrypoint.as_deref() {
        Some("") => Vec::new(),
        Some(program) => vec![program.to_owned()],
        None => image.entrypoint.clone(),
    };
    let use_image_cmd = request.command.is_empty() && request.entrypoint.is_none();
    let cmd = if use_image_cmd { &image.cmd } else { &request.command };
    let words = entrypoint.len();
    let argv: Vec<String> = entrypoint.into_iter().chain(cmd.iter().cloned()).collect();
    match argv.first() {
        None => Err(PlanError::NoCommand(request.image.clone())),
        Some(program) if program.is_empty() => Err(PlanError::EmptyProgram),
        Some(_) if argv.iter().any(|word| word.contains('\0')) => Err(PlanError::Nul("command")),
        Some(_) => Ok((argv, words)),
    }
}

/// Defaults, then the image's entries, then the request's.
fn env(request: &RunRequest, image: &ImageDefaults, hostname: &str) -> Result<Vec<String>, PlanError> {
    let mut base = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}")];
    if request.tty {
        base.push("TERM=xterm".to_owned());
    }
    for entry in &image.env {
        environment::parse_entry(entry, |_| None)
            .map_err(|source| PlanError::ImageEnvironment { image: request.image.clone(), source })?;
    }
    Ok(environment::merge(environment::merge(base, &image.env), &request.env))
}

/// An image's working directory may be relative or empty: it counts from the root.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// The vCPUs and the MiB of memory of a request's machine.
pub(crate) fn machine_size(request: &RunRequest, host: &Host) -> Result<(u8, u32), PlanError> {
    Ok((vcpus(request.cpu_milli, host)?, memory_mib(request.memory, host.memory)?))
}

fn vcpus(asked: Option<u32>, host: &Host) -> Result<u8, PlanError> {
    let count = match asked {
        None => DEFAULT_VCPUS,
        Some(milli) if milli > host.cpus.saturating_mul(1000) => {
            return Err(PlanError::TooManyCpus { asked: milli, host: host.cpus });
        }
        Some(milli) => milli.div_ceil(1000).max(1),
    };
    Ok(u8::try_from(count).unwrap_or(u8::MAX))
}

fn memory_mib(asked: Option<u64>, host: u64) -> Result<u32, PlanError> {
    let bytes = match asked {
        None => DEFAULT_MEMORY.min(host / 2).max(MIN_MEMORY),
        Some(bytes) if bytes < MIN_MEMORY => return Err(PlanError::TooLittleMemory(bytes)),
        Some(bytes) if bytes > host => return Err(PlanError::TooMuchMemory { asked: bytes, host }),
        Some(bytes) => bytes,
    };
    u32::try_from(bytes >> 20).map_err(|_| PlanError::TooMuchMemory { asked: bytes, host })
}

fn scratch_size(asked: Option<u64>) -> Result<u64, PlanError> {
    match asked {
        None => Ok(volume::DEFAULT_SIZE),
        Some(bytes) if bytes < volume::MIN_SIZE => Err(PlanError::TooLittleScratch(bytes)),
        Some(bytes) => Ok(bytes),
    }
}

fn machine_spec(request: &RunRequest, resolved: &Resolved, files: Files) -> Result<MachineSpec<PathBuf>, PlanError> {
    let (scratch_rates, volume_rates) = rates::resolve(&request.rates, &resolved.volumes)?;
    let scratch = Disk::new(SCRATCH_DISK, BlockBacking::Writable { file: files.scratch });
    let mut disks = vec![
        Disk::new(ROOT_DISK, BlockBacking::ReadOnly { extents: files.root }),
        Disk { rates: scratch_rates, ..scratch },
    ];
    for (index, (VolumeDisk { path, shared }, rates)) in files.volumes.into_iter().zip(volume_rates).enumerate() {
        let backing = if shared { BlockBacking::Shared { file: path } } else { BlockBacking::Writable { file: path } };
        disks.push(Disk { rates, ..Disk::new(&volume_disk(index), backing) });
    }
    let shared_files = SharedFiles { tag: protocol::SHARED_FILES_TAG.to_owned(), channel: None };
    Ok(MachineSpec {
        vcpus: resolved.vcpus,
        memory_mib: resolved.memory_mib,
        kernel: files.kernel,
        initrd: files.initrd,
        cmdline: cmdline(),
        disks,
        vsock: machine::Vsock { guest_cid: machine::vsock::GUEST_CID, channel: None },
        shared_files: (!resolved.binds.is_empty()).then_some(shared_files),
        kernel_log: KernelLogRegion::STANDARD,
        console: None,
    })
}

/// Serial of a volume's disk.
fn volume_disk(index: usize) -> String {
    format!("volume{index}")
}

/// The same for every machine: what a container is comes over the protocol after boot. The back end adds how to
/// reset and what its devices need.
///
/// The log level is not `quiet`: lines that the console does not take do not reach `ramoops` either.
fn cmdline() -> String {
    let KernelLogRegion { address, length } = KernelLogRegion::STANDARD;
    format!(
        "console=null loglevel=7 panic=-1 noreplace-smp memmap={length:#x}${address:#x} \
         ramoops.mem_address={address:#x} ramoops.mem_size={length:#x} ramoops.console_size={length:#x} \
         ramoops.record_size=0 ramoops.pmsg_size=0 ramoops.ftrace_size=0"
    )
}

fn container_config(request: &RunRequest, resolved: &Resolved, host: &Host) -> ContainerConfig {
    let memory = u64::from(resolved.memory_mib) << 20;
    ContainerConfig {
        root_disk: ROOT_DISK.to_owned(),
        scratch_disk: SCRATCH_DISK.to_owned(),
        read_only: request.read_only,
        hostname: resolved.hostname.clone(),
        hosts_file: etc_files::hosts(&resolved.hostname),
        resolv_conf: etc_files::resolv_conf(&host.resolv_conf, host.upstream_resolv_conf.as_deref()),
        privileged: request.privileged,
        tmpfs: request.tmpfs.iter().chain(mounts::tmpfs(&request.volumes)).map(tmpfs).collect(),
        volumes: resolved.volumes.iter().enumerate().map(volume).collect(),
        binds: resolved.binds.iter().enumerate().map(bind).collect(),
        shm_size: request.shm_size.unwrap_or(DEFAULT_SHM),
        sysctls: request.sysctls.clone(),
        limits: Limits {
            memory: Some(memory - guest_reserve(memory)),
            cpu_milli: request.cpu_milli.filter(|milli| milli % 1000 != 0),
            pids: request.pids_limit,
        },
        wall_clock: (host.wall_clock.as_secs(), host.wall_clock.subsec_nanos()),
    }
}

fn tmpfs(request: &TmpfsRequest) -> Tmpfs {
    Tmpfs { path: request.path.clone(), options: request.options.clone() }
}

fn volume((index, mount): (usize, &VolumeMount)) -> protocol::VolumeMount {
    protocol::VolumeMount {
        disk: volume_disk(index),
        path: mount.target.clone(),
        read_only: mount.read_only,
        copy_up: mount.copy_up,
    }
}

/// What is shared has a name by its place in the list ([`jail::enter`]).
fn bind((index, mount): (usize, &BindMount)) -> protocol::BindMount {
    protocol::BindMount { entry: index.to_string(), path: mount.target.clone(), read_only: mount.read_only }
}

fn oom_score_adj(request: &RunRequest) -> Result<i16, PlanError> {
    let asked = request.oom_score_adj.unwrap_or(0);
    let score = i16::try_from(asked).ok().filter(|score| (-1000..=1000).contains(score));
    score.ok_or(PlanError::OomScore(asked))
}

pub(crate) fn process_spec(request: &RunRequest, resolved: &Resolved) -> Result<ProcessSpec, PlanError> {
    let bytes = |words: &[String]| words.iter().map(|word| word.clone().into_bytes()).collect();
    let bounding = capability::resolve(&request.cap_add, &request.cap_drop, request.privileged)?;
    Ok(ProcessSpec {
        task: Task::Program,
        argv: bytes(&resolved.argv),
        env: bytes(&resolved.env),
        cwd: resolved.working_dir.clone(),
        user: resolved.user.clone(),
        additional_groups: request.groups.clone(),
        capabilities: Capabilities { bounding },
        no_new_privileges: request.no_new_privileges,
        rlimits: request.ulimits.iter().map(|text| rlimit::parse(text)).collect::<Result<_, _>>()?,
        oom_score_adj: oom_score_adj(request)?,
        seccomp: request.seccomp.as_deref().map(|profile| seccomp::compile(profile, bounding)).transpose()?,
        init: request.init,
    })
}

#[cfg(test)]
mod tests;
