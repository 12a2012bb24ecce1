//! The command line as clap knows it: names, flags, help. Values are checked where they are parsed; what needs
//! the host, an image or a file is resolved later, by the commands.
//!
//! Each folder has the commands about one kind of thing, and each command's flags stand beside what it does. A verb
//! that is known by two names, as `coracle rm` and `coracle container rm` are, is one variant of one enum, which is
//! flattened into both places. Flags say how their command is used without its name; [`definition`] puts the name in
//! front, whichever it is.

use std::path::PathBuf;

use clap::{
    Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser as _},
};
use engine::AcceleratorChoice;

use crate::{
    containers::{ContainerCommand, ContainerVerb, inspect::InspectFlags, list::PsFlags},
    images::{
        ImageCommand, ImageVerb,
        flags::{ImagesFlags, RmiFlags},
    },
    registry::flags::{LoginFlags, LogoutFlags},
    system::{
        SystemCommand,
        doctor::DoctorFlags,
        events::EventsFlags,
        generate::{CompletionFlags, ManFlags},
    },
    volumes::VolumeCommand,
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

impl CommandLine {
    /// Reads the words of a command line, the program's name first.
    pub(crate) fn parse_from(words: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Self, clap::Error> {
        let mut definition = definition();
        let matches = definition.try_get_matches_from_mut(words)?;
        Self::from_arg_matches(&matches).map_err(|error| error.format(&mut definition))
    }
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
    #[command(flatten)]
    ContainerVerb(ContainerVerb),
    /// List containers
    Ps(PsFlags),
    /// Manage containers
    #[command(subcommand)]
    Container(ContainerCommand),
    #[command(flatten)]
    ImageVerb(ImageVerb),
    /// List images
    Images(ImagesFlags),
    /// Remove images
    Rmi(RmiFlags),
    /// Manage images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Manage volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Show everything about containers, images and volumes, as JSON
    Inspect(InspectFlags),
    /// Log in to a registry
    Login(LoginFlags),
    /// Log out from a registry
    Logout(LogoutFlags),
    /// Tell what happens
    Events(EventsFlags),
    /// Look after disk space, see what happens and whether all is well
    #[command(subcommand)]
    System(SystemCommand),
    /// Find out what this host can do, and what to do about the rest
    Doctor(DoctorFlags),
    /// Print the completions of a shell
    Completion(CompletionFlags),
    /// Write the manual pages
    Man(ManFlags),
    /// Show versions
    Version,
}

/// The whole command line: what is parsed, and what completions and manual pages are made of.
pub(crate) fn definition() -> clap::Command {
    CommandLine::command().mut_subcommands(|command| finished(command, "coracle"))
}

/// A command with its usage behind its whole name, its subcommands in the order of their names.
fn finished(command: clap::Command, parent: &str) -> clap::Command {
    let name = format!("{parent} {}", command.get_name());
    let command = command.mut_subcommands(|command| finished(command.display_order(0), &name));
    // Asking builds a command, which is to happen once, below its parent.
    let usage = command.clone().render_usage().to_string();
    match usage.strip_prefix("Usage: ") {
        Some(tail) if !tail.starts_with(|first: char| first.is_ascii_lowercase()) => {
            let lines: Vec<_> = tail.lines().map(|line| format!("{name} {}", line.trim_start())).collect();
            command.override_usage(lines.join("\n       "))
        }
        _ => command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definition_is_consistent() {
        definition().debug_assert();
    }
}
