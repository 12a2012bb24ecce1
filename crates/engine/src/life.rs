//! How a container is stopped, checked and logged: from what the request and the image say to what a keeper does.
//! Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::{
    keeper::policy::{HealthSpec, LogSettings, StopSettings},
    quantity,
    request::{HealthRequest, RunRequest},
    signals::{self, InvalidSignal},
};

/// Least interval and time-out of health checks.
const LEAST: Duration = Duration::from_millis(1);

/// A part of a request or an image that says nothing sensible about the life of a container.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LifeError {
    /// The signal that is to stop it.
    #[error("it cannot be stopped with that")]
    Signal(#[from] InvalidSignal),
    /// Neither a number of seconds nor -1.
    #[error("invalid stop timeout {0}: expected seconds, -1 for no limit")]
    StopTimeout(i64),
    /// A log driver that is not there.
    #[error("unknown log driver {0:?}: only json-file, local and none are known")]
    LogDriver(String),
    /// A log option that is not there.
    #[error("unknown log option {0:?}: only max-size and max-file are known")]
    LogOption(String),
    /// A log option's value.
    #[error("invalid value {value:?} of log option {option}")]
    LogValue {
        /// Which option.
        option: &'static str,
        /// Its value.
        value: String,
    },
    /// `--no-healthcheck` and `--health-cmd`.
    #[error("--no-healthcheck forbids the other --health options")]
    NoHealth,
    /// A time of health checks.
    #[error("the {0} of health checks is too short: at least 1ms")]
    TooShort(&'static str),
    /// Health checks of an image.
    #[error("the image's HEALTHCHECK begins with {0:?}: expected CMD, CMD-SHELL or NONE")]
    ImageHealth(String),
}

/// An image's `HEALTHCHECK`, in Docker's words; times in ns, 0 for the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["CMD", …]`, `["CMD-SHELL", text]`, `["NONE"]`.
    pub test: Vec<String>,
    /// From the end of a check to the beginning of the next.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: u64,
    /// How long a check may take.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: u64,
    /// For so long after the start failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: u64,
    /// The interval within the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: u64,
    /// So many failures in a row make it unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Healthcheck {
    /// That of an image's configuration, where it has one that can be read.
    #[must_use]
    pub fn of_config(config: &Value) -> Option<Self> {
        serde_json::from_value(config.get("Healthcheck")?.clone()).ok()
    }

    /// With what the request says in place of what the image does.
    ///
    /// # Errors
    ///
    /// [`LifeError`].
    pub fn merged(image: Option<&Self>, request: &HealthRequest) -> Result<Option<Self>, LifeError> {
        if request.none {
            let only = HealthRequest { none: true, ..HealthRequest::default() };
            let none = || Some(Self { test: vec!["NONE".to_owned()], ..Self::default() });
            return if *request == only { Ok(none()) } else { Err(LifeError::NoHealth) };
        }
        if image.is_none() && *request == HealthRequest::default() {
            return Ok(None);
        }
        let mut merged = image.cloned().unwrap_or_default();
        if let Some(command) = &request.command {
            merged.test = vec!["CMD-SHELL".to_owned(), command.clone()];
        }
        for (name, wanted, field) in [
            ("interval", request.interval, &mut merged.interval),
            ("timeout", request.timeout, &mut merged.timeout),
            ("start period", request.start_period, &mut merged.start_period),
            ("start interval", request.start_interval, &mut merged.start_interval),
        ] {
            if let Some(wanted) = wanted {
                if wanted < LEAST && !wanted.is_zero() {
                    return Err(LifeError::TooShort(name));
                }
                *field = u64::try_from(wanted.as_nanos()).unwrap_or(u64::MAX);
            }
        }
        merged.retries = request.retries.map_or(merged.retries, u64::from);
        Ok(Some(merged))
    }

    /// What a keeper does about it; `None` where that is nothing.
    ///
    /// # Errors
    ///
    /// [`LifeError::ImageHealth`].
    pub fn spec(&self) -> Result<Option<HealthSpec>, LifeError> {
        let Some((kind, words)) = self.test.split_first() else { return Ok(None) };
        let command = match kind.as_str() {
            "NONE" => return Ok(None),
            "CMD" => words.to_vec(),
            "CMD-SHELL" => vec!["/bin/sh".to_owned(), "-c".to_owned(), words.join(" ")],
            other => return Err(LifeError::ImageHealth(other.to_owned())),
        };
        if words.is_empty() {
            return Ok(None);
        }
        let defaults = HealthSpec::default();
        let time = |ns: u64, default| if ns == 0 { default } else { Duration::from_nanos(ns) };
        let retries = u32::try_from(self.retries).unwrap_or(u32::MAX);
        Ok(Some(HealthSpec {
            command,
            interval: time(self.interval, defaults.interval),
            timeout: time(self.timeout, defaults.timeout),
            start_period: time(self.start_period, defaults.start_period),
            start_interval: time(self.start_interval, defaults.start_interval),
            retries: if retries == 0 { defaults.retries } else { retries },
        }))
    }
}

/// How a container is stopped: `signal` is the one that was resolved.
///
/// # Errors
///
/// [`LifeError`].
pub fn stop(signal: &str, timeout: Option<i64>) -> Result<StopSettings, LifeError> {
    let timeout = match timeout {
        None => StopSettings::default().timeout,
        Some(-1) => Duration::MAX,
        Some(seconds) => Duration::from_secs(u64::try_from(seconds).map_err(|_| LifeError::StopTimeout(seconds))?),
    };
    Ok(StopSettings { signal: signals::parse(signal)?, timeout })
}

/// How a container's output is kept.
///
/// # Errors
///
/// [`LifeError`].
pub fn log(request: &RunRequest) -> Result<LogSettings, LifeError> {
    let mut settings = LogSettings::default();
    match request.log_driver.as_deref() {
        None | Some("" | "json-file" | "local") => {}
        Some("none") => settings.enabled = false,
        Some(other) => return Err(LifeError::LogDriver(other.to_owned())),
    }
    for (option, value) in &request.log_opts {
        let bad = |option| LifeError::LogValue { option, value: value.clone() };
        match option.as_str() {
            "max-size" => {
                let size = quantity::parse_size(value).ok().filter(|size| *size > 0);
                settings.max_size = size.ok_or_else(|| bad("max-size"))?;
            }
            "max-file" => {
                let files = value.parse().ok().filter(|files| *files > 0);
                settings.max_files = files.ok_or_else(|| bad("max-file"))?;
            }
            _ => return Err(LifeError::LogOption(option.clone())),
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: u64) -> Option<Duration> {
        Some(Duration::from_secs(n))
    }

    #[test]
    fn health_of_image_and_request() {
        let config = serde_json::json!({"Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 1_000_000_000_u64}});
        let image = Healthcheck::of_config(&config);
        let nothing = HealthRequest::default();
        assert_eq!(Healthcheck::merged(None, &nothing), Ok(None));
        let merged = Healthcheck::merged(image.as_ref(), &nothing).unwrap().unwrap();
        let spec = merged.spec().unwrap().unwrap();
        assert_eq!(spec.command, ["/bin/sh", "-c", "true"]);
        assert_eq!((spec.interval, spec.timeout, spec.retries), (Duration::from_secs(1), Duration::from_secs(30), 3));
        let request = HealthRequest { timeout: second(2), retries: Some(7), ..HealthRequest::default() };
        let spec = Healthcheck::merged(image.as_ref(), &request).unwrap().unwrap().spec().unwrap().unwrap();
        assert_eq!((spec.interval, spec.timeout, spec.retries), (Duration::from_secs(1), Duration::from_secs(2), 7));
        let off = HealthRequest { none: true, ..HealthRequest::default() };
        let merged = Healthcheck::merged(image.as_ref(), &off).unwrap().unwrap();
        assert_eq!((merged.test.as_slice(), merged.spec()), (["NONE".to_owned()].as_slice(), Ok(None)));
        let both = HealthRequest { none: true, retries: Some(1), ..HealthRequest::default() };
        assert_eq!(Healthcheck::merged(None, &both), Err(LifeError::NoHealth));
        let short = HealthRequest { interval: Some(Duration::from_nanos(5)), ..HealthRequest::default() };
        assert_eq!(Healthcheck::merged(None, &short), Err(LifeError::TooShort("interval")));
        // Times without a command change nothing.
        let times = HealthRequest { interval: second(1), ..HealthRequest::default() };
        assert_eq!(Healthcheck::merged(None, &times).unwrap().unwrap().spec(), Ok(None));
        let odd = Healthcheck { test: vec!["RUN".into(), "x".into()], ..Healthcheck::default() };
        assert_eq!(odd.spec(), Err(LifeError::ImageHealth("RUN".into())));
        assert_eq!(Healthcheck::of_config(&serde_json::json!({"Healthcheck": {"Test": 5}})), None);
    }

    #[test]
    fn stopping() {
        assert_eq!(stop("SIGTERM", None), Ok(StopSettings::default()));
        let settings = stop("INT", Some(-1)).unwrap();
        assert_eq!((settings.signal, settings.timeout), (2, Duration::MAX));
        assert_eq!(stop("9", Some(0)).unwrap().timeout, Duration::ZERO);
        assert_eq!(stop("9", Some(-2)), Err(LifeError::StopTimeout(-2)));
        assert!(matches!(stop("SIGNOPE", None), Err(LifeError::Signal(_))));
    }

    #[test]
    fn logging() {
        let request = |driver: &str, options: &[(&str, &str)]| RunRequest {
            log_driver: Some(driver.to_owned()),
            log_opts: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..RunRequest::default()
        };
        let settings = log(&request("json-file", &[("max-size", "1m"), ("max-file", "5")])).unwrap();
        assert_eq!((settings.max_size, settings.max_files, settings.enabled), (1 << 20, 5, true));
        assert!(!log(&request("none", &[])).unwrap().enabled);
        assert!(matches!(log(&request("syslog", &[])), Err(LifeError::LogDriver(_))));
        assert!(matches!(log(&request("", &[("compress", "true")])), Err(LifeError::LogOption(_))));
        for (option, value) in [("max-size", "0"), ("max-size", "x"), ("max-file", "0"), ("max-file", "-1")] {
            assert!(
                matches!(log(&request("", &[(option, value)])), Err(LifeError::LogValue { .. })),
                "{option} {value}"
            );
        }
    }
}
