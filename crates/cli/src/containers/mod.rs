//! The commands about containers, a file each, and the [`flags`] of those that make one.
//!
//! [`resolve`] turns these flags into a request; [`attach`] connects the user's streams and signals to a process's, from
//! which [`detach_keys`] lead away; [`ended`] says why something ended; [`status`] is what lists say of a state.

pub(crate) mod attach;
pub(crate) mod commit;
pub(crate) mod copy;
pub(crate) mod create;
pub(crate) mod detach_keys;
pub(crate) mod diff;
pub(crate) mod ended;
pub(crate) mod exec;
pub(crate) mod export;
pub(crate) mod flags;
pub(crate) mod id_file;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod list;
pub(crate) mod logs;
pub(crate) mod pause;
pub(crate) mod port;
pub(crate) mod prune;
pub(crate) mod remove;
pub(crate) mod rename;
pub(crate) mod resolve;
pub(crate) mod run;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod top;
pub(crate) mod update;
pub(crate) mod wait;

use clap::Subcommand;

use crate::Invocation;

/// What can be done with containers, as `coracle VERB` and as `coracle container VERB`.
#[derive(Debug, Subcommand)]
pub(crate) enum ContainerVerb {
    /// Create and run a container
    Run(Box<flags::RunFlags>),
    /// Create a container without starting it
    Create(Box<flags::CreateFlags>),
    /// Start containers
    Start(start::StartFlags),
    /// Stop containers
    Stop(stop::StopFlags),
    /// Stop containers and start them again
    Restart(stop::StopFlags),
    /// Send a signal to containers
    Kill(kill::KillFlags),
    /// Let containers stand still
    Pause(pause::PauseFlags),
    /// Let paused containers go on
    Unpause(pause::PauseFlags),
    /// Wait until containers have ended, and print their exit codes
    Wait(wait::WaitFlags),
    /// Run a command in a container that runs
    Exec(exec::ExecFlags),
    /// Connect to the process of a container that runs
    Attach(attach::AttachFlags),
    /// Show what a container has written
    Logs(logs::LogsFlags),
    /// List the processes of a container
    Top(top::TopFlags),
    /// Show what containers use
    Stats(stats::StatsFlags),
    /// List published ports of a container
    Port(port::PortFlags),
    /// Copy files between a container and here
    Cp(copy::CpFlags),
    /// List what a container changed in its image
    Diff(diff::DiffFlags),
    /// Write a container's files as an archive
    Export(export::ExportFlags),
    /// Make an image of a container
    Commit(commit::CommitFlags),
    /// Give a container another name
    Rename(rename::RenameFlags),
    /// Change the limits and the restart policy of containers
    Update(update::UpdateFlags),
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
    /// Remove all containers that do not run
    Prune(prune::ContainerPruneFlags),
}

/// Does what a verb says; the result is the exit code.
pub(crate) fn verb(invocation: &Invocation, verb: ContainerVerb) -> anyhow::Result<u8> {
    let engine = || invocation.open();
    match verb {
        ContainerVerb::Run(flags) => return run::run(invocation, &flags),
        ContainerVerb::Create(flags) => create::create(invocation, &flags)?,
        ContainerVerb::Start(flags) => return start::start(invocation, &flags),
        ContainerVerb::Stop(flags) => return stop::stop(&engine()?, &flags),
        ContainerVerb::Restart(flags) => return stop::restart(invocation, &flags),
        ContainerVerb::Kill(flags) => return kill::kill(&engine()?, &flags),
        ContainerVerb::Pause(flags) => return pause::pause(&engine()?, &flags),
        ContainerVerb::Unpause(flags) => return pause::unpause(&engine()?, &flags),
        ContainerVerb::Wait(flags) => return wait::wait(&engine()?, &flags),
        ContainerVerb::Exec(flags) => return exec::exec(&engine()?, &flags),
        ContainerVerb::Attach(flags) => return attach::attach(&engine()?, &flags),
        ContainerVerb::Logs(flags) => logs::logs(&engine()?, &flags)?,
        ContainerVerb::Top(flags) => top::top(&engine()?, &flags)?,
        ContainerVerb::Stats(flags) => stats::stats(&engine()?, &flags)?,
        ContainerVerb::Port(flags) => port::list(&engine()?, &flags)?,
        ContainerVerb::Cp(flags) => copy::copy(&engine()?, &flags)?,
        ContainerVerb::Diff(flags) => diff::diff(&engine()?, &flags)?,
        ContainerVerb::Export(flags) => export::export(&engine()?, &flags)?,
        ContainerVerb::Commit(flags) => commit::commit(&engine()?, &flags)?,
        ContainerVerb::Rename(flags) => rename::rename(&engine()?, &flags)?,
        ContainerVerb::Update(flags) => return update::update(&engine()?, &flags),
        ContainerVerb::Rm(flags) => return remove::remove(&engine()?, &flags),
    }
    Ok(0)
}

/// Does what a command behind `container` says.
pub(crate) fn command(invocation: &Invocation, command: ContainerCommand) -> anyhow::Result<u8> {
    match command {
        ContainerCommand::Verb(verb) => return self::verb(invocation, verb),
        ContainerCommand::Ls(flags) => list::list(&invocation.open()?, &flags)?,
        ContainerCommand::Inspect(flags) => return inspect::inspect_containers(&invocation.open()?, &flags),
        ContainerCommand::Prune(flags) => prune::prune(&invocation.open()?, &flags)?,
    }
    Ok(0)
}
