//! The commands about the whole: what is on [`disk`], what happens ([`events`]), whether all is well
//! ([`check`]), what the host can do ([`doctor`]),
//! completions and manual pages ([`generate`]), versions.

pub(crate) mod check;
pub(crate) mod disk;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod generate;

use std::io::{self, Write as _};

use clap::Subcommand;

use crate::{
    Invocation,
    images::flags::{DfFlags, SystemPruneFlags},
};

#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Find out whether records, files and processes agree, and put right what can be
    Check(check::CheckFlags),
    /// Show what is on disk
    Df(DfFlags),
    /// Tell what happens
    Events(events::EventsFlags),
    /// Remove stopped containers and images that nobody uses
    Prune(SystemPruneFlags),
}

/// Does what a command behind `system` says.
pub(crate) fn command(invocation: &Invocation, command: &SystemCommand) -> anyhow::Result<u8> {
    match command {
        SystemCommand::Check(flags) => return check::check(&invocation.open()?, flags),
        SystemCommand::Df(flags) => disk::df(&invocation.open()?, flags)?,
        SystemCommand::Events(flags) => events::events(&invocation.open()?, flags)?,
        SystemCommand::Prune(flags) => disk::prune(&invocation.open()?, flags)?,
    }
    Ok(0)
}

/// `coracle version`.
pub(crate) fn version() -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "coracle {}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "guest protocol {}", engine::GUEST_PROTOCOL_VERSION)?;
    writeln!(out, "keeper protocol {}", engine::keeper::wire::VERSION)?;
    Ok(())
}
