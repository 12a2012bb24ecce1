//! The command line as clap knows it: names, flags, help. Values are checked where they are parsed; what needs
//! the host, an image or a file is resolved later ([`crate::resolve`]).

use std::path::PathBuf;

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser as _},
};
use engine::AcceleratorChoice;

use crate::{
    format::InspectFormat,
    image_flags::{
        DfFlags, HistoryFlags, ImageInspectFlags, ImagesFlags, ImportFlags, ListFlags, LoadFlags, PruneFlags, RmiFlags,
        SaveFlags, SystemPruneFlags, TagFlags, VerifyFlags,
    },
    registry_flags::{LoginFlags, LogoutFlags, PullFlags, PushFlags},
    run_flags::RunFlags,
};

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
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "CORACLE_HOME",
        hide_env_values = true,
        value_parser = OsStringValueParser::new().map(PathBuf::from)
    )]
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
    /// Show everything about containers and images, as JSON
    Inspect(InspectFlags),
    /// Remove containers
    Rm(RmFlags),
    /// Pull an image from a registry
    Pull(PullFlags),
    /// Push an image to a registry
    Push(PushFlags),
    /// Load images from an archive or an OCI layout
    Load(LoadFlags),
    /// Save images to an archive
    Save(SaveFlags),
    /// Make an image of a root file system's archive
    Import(ImportFlags),
    /// List images
    Images(ImagesFlags),
    /// Show how an image was made
    History(HistoryFlags),
    /// Give an image one more name
    Tag(TagFlags),
    /// Remove images
    Rmi(RmiFlags),
    /// Manage images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Log in to a registry
    Login(LoginFlags),
    /// Log out from a registry
    Logout(LogoutFlags),
    /// Show and free disk space
    #[command(subcommand)]
    System(SystemCommand),
    /// Find out what this host can do, and what to do about the rest
    Doctor(DoctorFlags),
    /// Show versions
    Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Show what is on disk
    Df(DfFlags),
    /// Remove stopped containers and images that nobody uses
    Prune(SystemPruneFlags),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Show how an image was made
    #[command(override_usage = "coracle image history [OPTIONS] IMAGE")]
    History(HistoryFlags),
    /// Make an image of a root file system's archive
    #[command(override_usage = "coracle image import [OPTIONS] FILE|- [NAME[:TAG]]")]
    Import(ImportFlags),
    /// Show everything about images, as JSON
    Inspect(ImageInspectFlags),
    /// Load images from an archive or an OCI layout
    Load(LoadFlags),
    /// List images
    #[command(visible_alias = "list")]
    Ls(ImagesFlags),
    /// Remove images that nobody uses
    Prune(PruneFlags),
    /// Pull an image from a registry
    #[command(override_usage = "coracle image pull [OPTIONS] NAME[:TAG|@DIGEST]")]
    Pull(PullFlags),
    /// Push an image to a registry
    #[command(override_usage = "coracle image push [OPTIONS] NAME[:TAG]")]
    Push(PushFlags),
    /// Remove images
    #[command(override_usage = "coracle image rm [OPTIONS] IMAGE...")]
    Rm(RmiFlags),
    /// Save images to an archive
    #[command(override_usage = "coracle image save [OPTIONS] IMAGE...")]
    Save(SaveFlags),
    /// Give an image one more name
    #[command(override_usage = "coracle image tag IMAGE[:TAG] NAME[:TAG]")]
    Tag(TagFlags),
    /// Read everything again, report what is damaged, and make it again where that can be
    Verify(VerifyFlags),
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
#[command(override_usage = "coracle inspect [OPTIONS] NAME...")]
pub(crate) struct InspectFlags {
    /// Names or ids of containers or images
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// json (one object a line), or a template, as in '{{.Id}}'
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<InspectFormat>,
    /// Look for nothing else
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<InspectKind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InspectKind {
    Container,
    Image,
}

#[derive(Debug, Args)]
#[command(override_usage = "coracle rm [OPTIONS] CONTAINER...")]
pub(crate) struct RmFlags {
    /// End those that run
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorFlags {
    /// As JSON: a list of {check, status, found, advice}
    #[arg(long)]
    pub(crate) json: bool,
}
