//! The command line as clap knows it: names, flags, help. Values are checked where they are parsed; what needs
//! the host, an image or a file is resolved later ([`crate::resolve`]).

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use engine::AcceleratorChoice;

use crate::run_flags::RunFlags;

/// OCI containers, each in a microVM of its own.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) global: GlobalFlags,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalFlags {
    /// Keep images, containers and sockets below DIR
    #[arg(long, global = true, value_name = "DIR", env = "CORACLE_HOME", hide_env_values = true)]
    pub(crate) home: Option<PathBuf>,

    /// What runs machines: auto takes KVM where it works, else emulation
    #[arg(long, global = true, value_name = "HOW", env = "CORACLE_ACCEL", hide_env_values = true)]
    pub(crate) accel: Option<Accel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    Auto,
    Kvm,
    Emulated,
}

impl From<Accel> for AcceleratorChoice {
    fn from(accel: Accel) -> Self {
        match accel {
            Accel::Auto => Self::Auto,
            Accel::Kvm => Self::Kvm,
            Accel::Emulated => Self::Emulated,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create and run a container
    Run(Box<RunFlags>),
    /// List containers
    Ps(PsFlags),
    /// Show everything about containers, as JSON
    Inspect(InspectFlags),
    /// Remove containers
    Rm(RmFlags),
    /// Load images from an archive or an OCI layout
    Load(LoadFlags),
    /// List images
    Images(ImagesFlags),
    /// Remove images
    Rmi(RmiFlags),
    /// Manage images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Find out what this host can do, and what to do about the rest
    Doctor(DoctorFlags),
    /// Show versions
    Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Show everything about images, as JSON
    Inspect(InspectFlags),
    /// Load images from an archive or an OCI layout
    Load(LoadFlags),
    /// List images
    #[command(visible_alias = "list")]
    Ls(ImagesFlags),
    /// Remove images
    Rm(RmiFlags),
}

/// How a list is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    /// One object a line
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct PsFlags {
    /// Also those that do not run
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) list: ListFlags,
}

#[derive(Debug, Args)]
pub(crate) struct ImagesFlags {
    #[command(flatten)]
    pub(crate) list: ListFlags,
}

#[derive(Debug, Args)]
pub(crate) struct ListFlags {
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Do not shorten anything
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// How to write the list
    #[arg(long, value_name = "FORMAT", default_value = "table", hide_default_value = true)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct InspectFlags {
    /// Names or ids
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RmFlags {
    /// End those that run
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RmiFlags {
    /// Also images with several names
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LoadFlags {
    /// An OCI layout directory, an archive of one, or of `docker save`; - is standard input
    #[arg(short, long, value_name = "FILE|DIR|-", default_value = "-", hide_default_value = true)]
    pub(crate) input: PathBuf,
    /// Take the image for this platform, as in linux/amd64
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<engine::image::Platform>,
    /// No progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorFlags {
    /// As JSON: a list of {check, status, found, advice}
    #[arg(long)]
    pub(crate) json: bool,
}
