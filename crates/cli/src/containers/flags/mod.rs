//! The flags of `create` and `run`, with Docker's names, a file for each heading of their help.

pub(crate) mod container;
pub(crate) mod files;
pub(crate) mod health;
pub(crate) mod limits;
pub(crate) mod process;
pub(crate) mod refused;
pub(crate) mod security;

use clap::{ArgAction, Args, ValueEnum};

use crate::containers::detach_keys::DetachKeys;

/// What `create` is given.
#[derive(Debug, Args)]
#[command(disable_help_flag = true, override_usage = "[OPTIONS] IMAGE [COMMAND] [ARG...]")]
pub(crate) struct CreateFlags {
    #[command(flatten)]
    pub(crate) new: NewFlags,

    /// Print help
    #[arg(long, action = ArgAction::Help, help_heading = "Options")]
    pub(crate) help: Option<bool>,
}

/// What `run` is given.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    override_usage = "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    after_help = "Exit status: the process's own; 128 and the signal's number if one ended it; 127 if there is no \
                  such command, 126 if it cannot be executed, 125 if the container could not be run."
)]
pub(crate) struct RunFlags {
    #[command(flatten)]
    pub(crate) new: NewFlags,
    #[command(flatten)]
    pub(crate) attach: AttachFlags,

    /// Print help
    #[arg(long, action = ArgAction::Help, help_heading = "Options")]
    pub(crate) help: Option<bool>,
}

/// A new container.
#[derive(Debug, Args)]
pub(crate) struct NewFlags {
    /// Image to run
    #[arg(value_name = "IMAGE", help_heading = "Arguments", value_hint = clap::ValueHint::Other)]
    pub(crate) image: String,

    /// Command and its arguments, instead of the image's own
    #[arg(
        value_name = "COMMAND",
        help_heading = "Arguments",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_hint = clap::ValueHint::Other
    )]
    pub(crate) command: Vec<String>,

    #[command(flatten)]
    pub(crate) container: container::ContainerFlags,
    #[command(flatten)]
    pub(crate) process: process::ProcessFlags,
    #[command(flatten)]
    pub(crate) health: health::HealthFlags,
    #[command(flatten)]
    pub(crate) limits: limits::LimitFlags,
    #[command(flatten)]
    pub(crate) files: files::FileFlags,
    #[command(flatten)]
    pub(crate) security: security::SecurityFlags,
    #[command(flatten)]
    pub(crate) refused: refused::RefusedFlags,
}

/// How `run` is connected to what it runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct AttachFlags {
    /// Print the container's id and leave it running
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Connect these streams only; may be given several times
    #[arg(short, long, value_name = "STREAM", ignore_case = true)]
    pub(crate) attach: Vec<Stream>,
    /// Keys that leave the container running, as in ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS", default_value = "", hide_default_value = true)]
    pub(crate) detach_keys: DetachKeys,
    /// Pass signals on to the process; =false to be ended by them
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        action = ArgAction::Set,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub(crate) sig_proxy: bool,
    /// Say on standard error where the time went
    #[arg(long)]
    pub(crate) timings: bool,
}

/// A stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stream {
    Stdin,
    Stdout,
    Stderr,
}
