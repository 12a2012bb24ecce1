//! The commands about containers, a file each, and the flags of those that make one.
//!
//! [`attach`] connects the user's streams and signals to a container's; [`resolve`] turns the flags of `run` into a
//! request.

pub(crate) mod attach;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod remove;
pub(crate) mod resolve;
pub(crate) mod run;
pub(crate) mod run_flags;

use clap::Subcommand;

use crate::Invocation;

/// What can be done with containers, as `coracle VERB` and as `coracle container VERB`.
#[derive(Debug, Subcommand)]
pub(crate) enum ContainerVerb {
    /// Create and run a container
    Run(Box<run_flags::RunFlags>),
    /// Remove containers
    Rm(remove::RmFlags),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContainerCommand {
    #[command(flatten)]
    Verb(ContainerVerb),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(list::PsFlags),
    /// Show everything about containers, as JSON
    Inspect(inspect::ContainerInspectFlags),
}

/// Does what a verb says.
pub(crate) fn verb(invocation: &Invocation, verb: ContainerVerb) -> anyhow::Result<u8> {
    match verb {
        ContainerVerb::Run(flags) => run::run(invocation, &flags),
        ContainerVerb::Rm(flags) => remove::remove(&invocation.open()?, &flags),
    }
}

/// Does what a command behind `container` says.
pub(crate) fn command(invocation: &Invocation, command: ContainerCommand) -> anyhow::Result<u8> {
    match command {
        ContainerCommand::Verb(verb) => self::verb(invocation, verb),
        ContainerCommand::Ls(flags) => list::list(&invocation.open()?, &flags).map(|()| 0),
        ContainerCommand::Inspect(flags) => inspect::inspect_containers(&invocation.open()?, &flags),
    }
}
