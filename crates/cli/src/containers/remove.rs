//! `coracle rm`.

use std::io::{self, Write as _};

use clap::Args;
use engine::Engine;

use crate::output::report;

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] CONTAINER...")]
pub(crate) struct RmFlags {
    /// End those that run
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// Removes all that can be removed, and complains about the others.
pub(crate) fn remove(engine: &Engine, flags: &RmFlags) -> anyhow::Result<u8> {
    let (_, code) = report::each(&flags.containers, |name| {
        engine.remove_container(name, &engine::RemoveOptions { force: flags.force, volumes: false })?;
        Ok(writeln!(io::stdout(), "{name}")?)
    });
    Ok(code)
}
