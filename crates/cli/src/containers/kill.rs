//! `coracle kill`.

use std::io::{self, Write as _};

use clap::Args;
use engine::{Engine, signals};

use crate::output::report;

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] CONTAINER...")]
pub(crate) struct KillFlags {
    /// Signal that is sent
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = signals::parse)]
    pub(crate) signal: u8,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

pub(crate) fn kill(engine: &Engine, flags: &KillFlags) -> anyhow::Result<u8> {
    let (_, code) = report::each(&flags.containers, |name| {
        engine.kill(name, flags.signal)?;
        Ok(writeln!(io::stdout(), "{name}")?)
    });
    Ok(code)
}
