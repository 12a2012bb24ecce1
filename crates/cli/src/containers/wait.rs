//! `coracle wait`.

use std::io::{self, Write as _};

use clap::{Args, ValueEnum};
use engine::{Engine, WaitCondition};

use crate::output::report;

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] CONTAINER...")]
pub(crate) struct WaitFlags {
    /// Wait for this; not-running is true at once of one that does not run
    #[arg(long, value_name = "CONDITION", default_value = "not-running")]
    pub(crate) condition: Condition,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Condition {
    NotRunning,
    NextExit,
    Removed,
}

impl From<Condition> for WaitCondition {
    fn from(condition: Condition) -> Self {
        match condition {
            Condition::NotRunning => Self::NotRunning,
            Condition::NextExit => Self::NextExit,
            Condition::Removed => Self::Removed,
        }
    }
}

/// Waits for each and prints its exit code.
pub(crate) fn wait(engine: &Engine, flags: &WaitFlags) -> anyhow::Result<u8> {
    let (_, code) = report::each(&flags.containers, |name| {
        let code = engine.wait(name, flags.condition.into())?;
        Ok(writeln!(io::stdout(), "{code}")?)
    });
    Ok(code)
}
