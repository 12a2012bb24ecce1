//! `coracle stop` and `restart`.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use clap::Args;
use engine::{Engine, signals};

use crate::{Invocation, output::report};

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] CONTAINER...")]
pub(crate) struct StopFlags {
    /// Seconds that it may take to end before it is killed; -1 for no limit
    #[arg(
        short,
        long,
        alias = "time",
        value_name = "SECONDS",
        allow_hyphen_values = true,
        value_parser = timeout
    )]
    pub(crate) timeout: Option<Duration>,
    /// Signal that asks it to end
    #[arg(short, long, value_name = "SIGNAL", value_parser = signals::parse)]
    pub(crate) signal: Option<u8>,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// Text that is no number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a time-out is a number of seconds, or -1 for no limit")]
pub(crate) struct NoTimeout;

/// Seconds; any number below 0 is no limit, as with Docker.
fn timeout(text: &str) -> Result<Duration, NoTimeout> {
    let seconds: i64 = text.parse().map_err(|_| NoTimeout)?;
    Ok(u64::try_from(seconds).map_or(Duration::MAX, Duration::from_secs))
}

pub(crate) fn stop(engine: &Engine, flags: &StopFlags) -> anyhow::Result<u8> {
    let (_, code) = report::each(&flags.containers, |name| {
        engine.stop(name, flags.signal, flags.timeout)?;
        Ok(writeln!(io::stdout(), "{name}")?)
    });
    Ok(code)
}

pub(crate) fn restart(invocation: &Invocation, flags: &StopFlags) -> anyhow::Result<u8> {
    let place = invocation.place()?;
    let accelerator = place.accelerator;
    let engine = place.open()?;
    let (_, code) = report::each(&flags.containers, |name| {
        engine.restart(name, flags.signal, flags.timeout, accelerator)?;
        Ok(writeln!(io::stdout(), "{name}")?)
    });
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        assert_eq!(timeout("0"), Ok(Duration::ZERO));
        assert_eq!(timeout("90"), Ok(Duration::from_secs(90)));
        assert_eq!(timeout("-1"), Ok(Duration::MAX));
        assert_eq!(timeout("soon"), Err(NoTimeout));
    }
}
