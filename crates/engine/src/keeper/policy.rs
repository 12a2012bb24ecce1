//! How a keeper treats its container: plain data that the record keeps too.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// When a container whose process ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When it failed: its exit code is not 0.
    OnFailure {
        /// At most so often in a row; 0 is no limit.
        max: u32,
    },
    /// Always, until someone stops it.
    Always,
    /// The same. It differs where the host restarts: what was stopped then stays so.
    UnlessStopped,
}

/// A restart policy that is none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RestartPolicyError {
    /// Not one of the four.
    #[error("unknown restart policy {0:?}: expected no, on-failure[:MAX], always or unless-stopped")]
    Unknown(String),
    /// `always:3` and the like.
    #[error("a number of restarts goes with on-failure alone, not with {0:?}")]
    NoCount(String),
}

impl RestartPolicy {
    /// Docker's word, without the number.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure { .. } => "on-failure",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
        }
    }

    /// Docker's `MaximumRetryCount`.
    #[must_use]
    pub fn max(self) -> u32 {
        if let Self::OnFailure { max } = self { max } else { 0 }
    }

    /// Whether a container is started again that ended with `exit_code` after so many restarts in a row.
    #[must_use]
    pub fn wants_restart(self, exit_code: u8, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure { max } => exit_code != 0 && (max == 0 || restarts < max),
            Self::Always | Self::UnlessStopped => true,
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnFailure { max } if *max > 0 => write!(f, "on-failure:{max}"),
            policy => f.write_str(policy.name()),
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = RestartPolicyError;

    fn from_str(text: &str) -> Result<Self, RestartPolicyError> {
        let (name, count) = text.split_once(':').map_or((text, None), |(name, count)| (name, Some(count)));
        let policy = match (name, count) {
            ("" | "no", _) => Self::No,
            ("always", _) => Self::Always,
            ("unless-stopped", _) => Self::UnlessStopped,
            ("on-failure", None) => Self::OnFailure { max: 0 },
            ("on-failure", Some(count)) => {
                let max = count.parse().map_err(|_| RestartPolicyError::Unknown(text.to_owned()))?;
                return Ok(Self::OnFailure { max });
            }
            _ => return Err(RestartPolicyError::Unknown(text.to_owned())),
        };
        if count.is_some() { Err(RestartPolicyError::NoCount(text.to_owned())) } else { Ok(policy) }
    }
}

/// How a container is stopped unless the request says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StopSettings {
    /// The signal that asks its process to end.
    pub signal: u8,
    /// How long it may take before SIGKILL; [`Duration::MAX`] is for ever.
    pub timeout: Duration,
}

impl Default for StopSettings {
    /// SIGTERM and ten seconds.
    fn default() -> Self {
        Self { signal: 15, timeout: Duration::from_secs(10) }
    }
}

/// How a container's health is found out, as Docker's `HEALTHCHECK`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthSpec {
    /// Program and arguments: `CMD-SHELL` is `/bin/sh -c` and the text.
    pub command: Vec<String>,
    /// From the end of a check to the beginning of the next.
    pub interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// For so long after the start failures do not count.
    pub start_period: Duration,
    /// The interval within the start period.
    pub start_interval: Duration,
    /// So many failures in a row make it unhealthy.
    pub retries: u32,
}

impl Default for HealthSpec {
    /// Docker's: every 30 s, 30 s each, no start period (and 5 s between checks in one), 3 times.
    fn default() -> Self {
        Self {
            command: Vec::new(),
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            start_period: Duration::ZERO,
            start_interval: Duration::from_secs(5),
            retries: 3,
        }
    }
}

/// Where output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogSettings {
    /// Whether it is kept at all (`--log-driver none`).
    pub enabled: bool,
    /// Bytes of a file before the next is begun.
    pub max_size: u64,
    /// Files that are kept.
    pub max_files: u32,
}

impl Default for LogSettings {
    /// Three files of ten megabytes.
    fn default() -> Self {
        Self { enabled: true, max_size: 10_000_000, max_files: 3 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_as_docker_spells_them() {
        for text in ["no", "on-failure", "on-failure:5", "always", "unless-stopped"] {
            assert_eq!(text.parse::<RestartPolicy>().unwrap().to_string(), text);
        }
        assert_eq!("".parse(), Ok(RestartPolicy::No));
        assert_eq!("on-failure:0".parse(), Ok(RestartPolicy::OnFailure { max: 0 }));
        assert_eq!("always:3".parse::<RestartPolicy>(), Err(RestartPolicyError::NoCount("always:3".into())));
        for text in ["never", "on-failure:", "on-failure:-1", "Always"] {
            assert_eq!(text.parse::<RestartPolicy>(), Err(RestartPolicyError::Unknown(text.into())));
        }
    }

    #[test]
    fn who_is_started_again() {
        let wants =
            |policy: &str, code, restarts| policy.parse::<RestartPolicy>().unwrap().wants_restart(code, restarts);
        assert!(!wants("no", 1, 0));
        assert!(wants("always", 0, 1000) && wants("unless-stopped", 0, 1000));
        assert!(!wants("on-failure", 0, 0) && wants("on-failure", 1, 1_000_000));
        assert!(wants("on-failure:3", 1, 2) && !wants("on-failure:3", 1, 3));
    }
}
