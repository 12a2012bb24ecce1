//! How a container's health is found out.

use std::time::Duration;

use clap::Args;

use crate::moments;

#[derive(Debug, Args)]
#[command(next_help_heading = "Health")]
pub(crate) struct HealthFlags {
    /// Command that finds out whether it is healthy, run by a shell inside
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub(crate) health_cmd: Option<String>,
    /// Time between two checks, as in 30s
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) health_interval: Option<Duration>,
    /// Time that a check may take
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) health_timeout: Option<Duration>,
    /// Time after the start in which failures do not count
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) health_start_period: Option<Duration>,
    /// Time between two checks within that period
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) health_start_interval: Option<Duration>,
    /// Failures in a row that make it unhealthy
    #[arg(long, value_name = "N")]
    pub(crate) health_retries: Option<u32>,
    /// No checks, whatever the image says
    #[arg(long, conflicts_with_all = [
        "health_cmd", "health_interval", "health_timeout", "health_start_period", "health_start_interval",
        "health_retries",
    ])]
    pub(crate) no_healthcheck: bool,
}

/// A text that is no time between checks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TimeError {
    /// No duration at all.
    #[error("a time is a number and a unit, as in 30s, 1m30s or 500ms")]
    NoDuration,
    /// Below what can be kept.
    #[error("the time cannot be less than 1ms")]
    TooShort,
}

/// Zero is Docker's word for the default.
fn time(text: &str) -> Result<Duration, TimeError> {
    let time = moments::duration(text).ok_or(TimeError::NoDuration)?;
    if time.is_zero() || time >= Duration::from_millis(1) { Ok(time) } else { Err(TimeError::TooShort) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(time("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(time("0s"), Ok(Duration::ZERO));
        assert_eq!(time("10us"), Err(TimeError::TooShort));
        assert_eq!(time("soon"), Err(TimeError::NoDuration));
        assert_eq!(time("-1s"), Err(TimeError::NoDuration));
    }
}
