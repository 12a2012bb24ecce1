//! `coracle pause` and `unpause`.

use std::io::{self, Write as _};

use clap::Args;
use engine::Engine;

use crate::output::report;

#[derive(Debug, Args)]
#[command(override_usage = "CONTAINER...")]
pub(crate) struct PauseFlags {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

pub(crate) fn pause(engine: &Engine, flags: &PauseFlags) -> anyhow::Result<u8> {
    let (_, code) = report::each(&flags.containers, |name| {
        engine.pause(name)?;
        Ok(writeln!(io::stdout(), "{name}")?)
    });
    Ok(code)
}

pub(crate) fn unpause(engine: &Engine, flags: &PauseFlags) -> anyhow::Result<u8> {
    let (_, code) = report::each(&flags.containers, |name| {
        engine.unpause(name)?;
        Ok(writeln!(io::stdout(), "{name}")?)
    });
    Ok(code)
}
