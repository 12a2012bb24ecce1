//! The flags of `run`, with Docker's names.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use engine::{
    capability,
    environment::{self, EnvironmentError},
    mounts::{self, MountRequest},
    names,
    quantity::{parse_cpus, parse_size},
    rates::{self, RateError, RateKind, RateRequest},
    request::{
        self, TmpfsRequest, parse_hostname, parse_security_option, parse_storage_option, parse_sysctl, parse_tmpfs,
    },
    rlimit,
};

use crate::{images::platform::Asked, registry::flags::PullPolicy};

/// What `run` is given.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    override_usage = "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    after_help = "Exit status: the process's own; 128 and the signal's number if one ended it; 127 if there is no \
                  such command, 126 if it cannot be executed, 125 if the container could not be run."
)]
pub(crate) struct RunFlags {
    /// Image to run
    #[arg(value_name = "IMAGE", help_heading = "Arguments")]
    pub(crate) image: String,

    /// Command and its arguments, instead of the image's own
    #[arg(value_name = "COMMAND", help_heading = "Arguments", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,

    #[command(flatten)]
    pub(crate) container: ContainerFlags,
    #[command(flatten)]
    pub(crate) process: ProcessFlags,
    #[command(flatten)]
    pub(crate) limits: LimitFlags,
    #[command(flatten)]
    pub(crate) files: FileFlags,
    #[command(flatten)]
    pub(crate) security: SecurityFlags,

    /// Print help
    #[arg(long, action = ArgAction::Help, help_heading = "Options")]
    pub(crate) help: Option<bool>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Container")]
pub(crate) struct ContainerFlags {
    /// Name of the container
    #[arg(long, value_parser = name)]
    pub(crate) name: Option<String>,
    /// Remove the container when it has ended
    #[arg(long)]
    pub(crate) rm: bool,
    /// Host name inside
    #[arg(short = 'h', long, value_name = "NAME", value_parser = hostname)]
    pub(crate) hostname: Option<String>,
    /// Write the container's id to a new file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// The image must be for this platform, as in linux/amd64
    #[arg(long, value_name = "PLATFORM", value_parser = platform)]
    pub(crate) platform: Option<String>,
    /// Pull the image: always, if it is missing (as without this), or never
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "missing",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub(crate) pull: PullPolicy,
    /// Say nothing of the pull
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Say on standard error where the time went
    #[arg(long)]
    pub(crate) timings: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Process")]
pub(crate) struct ProcessFlags {
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set a variable; a bare NAME takes the value that it has here
    #[arg(short, long, value_name = "NAME[=VALUE]", allow_hyphen_values = true, value_parser = environment_entry)]
    pub(crate) env: Vec<String>,
    /// Set the variables in a file, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long, value_name = "DIR", value_parser = working_dir)]
    pub(crate) workdir: Option<String>,
    /// User and group, names or numbers, looked up in the image
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// One more group
    #[arg(long, value_name = "GROUP")]
    pub(crate) group_add: Vec<String>,
    /// Program to run instead of the image's entrypoint; empty for none
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Run a small init as PID 1 that reaps and forwards signals
    #[arg(long)]
    pub(crate) init: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitFlags {
    /// CPUs, as in 2 or 0.5
    #[arg(long, value_name = "N", value_parser = parse_cpus, allow_hyphen_values = true)]
    pub(crate) cpus: Option<u32>,
    /// Memory of the machine, as in 512m
    #[arg(short, long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memory: Option<u64>,
    /// Most processes
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = pids_limit)]
    pub(crate) pids_limit: Option<PidsLimit>,
    /// Resource limit of the process
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ulimit)]
    pub(crate) ulimit: Vec<String>,
    /// Size of the scratch disk, as in size=4g
    #[arg(long, value_name = "size=SIZE", value_parser = parse_storage_option)]
    pub(crate) storage_opt: Option<u64>,
    /// Most bytes per second read from a disk: / or a volume; each of them if none is named
    #[arg(long, value_name = "[DISK:]RATE", value_parser = rate(RateKind::ReadBytes))]
    pub(crate) device_read_bps: Vec<RateRequest>,
    /// Most bytes per second written to a disk
    #[arg(long, value_name = "[DISK:]RATE", value_parser = rate(RateKind::WriteBytes))]
    pub(crate) device_write_bps: Vec<RateRequest>,
    /// Most reads per second from a disk
    #[arg(long, value_name = "[DISK:]RATE", value_parser = rate(RateKind::ReadOperations))]
    pub(crate) device_read_iops: Vec<RateRequest>,
    /// Most writes per second to a disk
    #[arg(long, value_name = "[DISK:]RATE", value_parser = rate(RateKind::WriteOperations))]
    pub(crate) device_write_iops: Vec<RateRequest>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) shm_size: Option<u64>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Files")]
pub(crate) struct FileFlags {
    /// Make the root read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Mount a volume, made if it is missing
    #[arg(short, long, value_name = "[NAME:]PATH[:ro]", value_parser = mounts::parse_volume)]
    pub(crate) volume: Vec<MountRequest>,
    /// Mount a volume or a tmpfs, as in type=volume,src=NAME,dst=PATH
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = mounts::parse_mount)]
    pub(crate) mount: Vec<MountRequest>,
    /// Mount a tmpfs, with options as of mount(8)
    #[arg(long, value_name = "PATH[:OPTIONS]", value_parser = parse_tmpfs)]
    pub(crate) tmpfs: Vec<TmpfsRequest>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Security")]
pub(crate) struct SecurityFlags {
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAP", value_parser = capability_word)]
    pub(crate) cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAP", value_parser = capability_word)]
    pub(crate) cap_drop: Vec<String>,
    /// Give it the whole guest: all capabilities, all devices
    #[arg(long)]
    pub(crate) privileged: bool,
    /// no-new-privileges
    #[arg(long, value_name = "OPTION", value_parser = security_option)]
    pub(crate) security_opt: Vec<SecurityOption>,
    /// Set a kernel parameter
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_sysctl)]
    pub(crate) sysctl: Vec<(String, String)>,
}

fn rate(kind: RateKind) -> impl Fn(&str) -> Result<RateRequest, RateError> + Clone {
    move |text| rates::parse(text, kind)
}

/// `-1` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PidsLimit(pub(crate) Option<u64>);

/// `Some` sets no-new-privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SecurityOption(pub(crate) Option<bool>);

/// Empty texts are as if they were not there, for scripts that pass a variable: [`crate::containers::resolve`] drops them.
fn name(text: &str) -> Result<String, names::InvalidName> {
    if text.is_empty() { Ok(String::new()) } else { names::check_name(text).map(|()| text.to_owned()) }
}

fn hostname(text: &str) -> Result<String, request::OptionError> {
    if text.is_empty() { Ok(String::new()) } else { parse_hostname(text) }
}

fn working_dir(text: &str) -> Result<String, request::OptionError> {
    if text.is_empty() { Ok(String::new()) } else { request::parse_working_dir(text) }
}

fn platform(text: &str) -> Result<String, engine::image::PlatformError> {
    text.parse::<Asked>().map(|asked| asked.0.map(|platform| platform.to_string()).unwrap_or_default())
}

fn environment_entry(text: &str) -> Result<String, EnvironmentError> {
    environment::parse_entry(text, |name| std::env::var(name).ok())
}

fn pids_limit(text: &str) -> Result<PidsLimit, String> {
    match text.parse::<i64>() {
        Ok(-1 | 0) => Ok(PidsLimit(None)),
        Ok(limit) => u64::try_from(limit).map(|limit| PidsLimit(Some(limit))).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn ulimit(text: &str) -> Result<String, rlimit::RlimitError> {
    rlimit::parse(text).map(|_| text.to_owned())
}

fn capability_word(text: &str) -> Result<String, capability::UnknownCapability> {
    capability::check(text).map(|()| text.to_owned())
}

fn security_option(text: &str) -> Result<SecurityOption, request::OptionError> {
    parse_security_option(text).map(SecurityOption)
}
