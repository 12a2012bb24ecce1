//! What a caller asks for: plain data, checked where it is parsed, not yet resolved against an image or a host.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use crate::keeper::policy::RestartPolicy;

/// Run a container of an image.
///
/// Texts are UTF-8, as in Docker's API. Entries of `env` are as [`crate::environment`] has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunRequest {
    /// Image as the caller named it.
    pub image: String,
    /// Replaces the image's `Cmd` unless empty.
    pub command: Vec<String>,
    /// Replaces the image's `Entrypoint`; an empty text clears it. Either way the image's `Cmd` is not used.
    pub entrypoint: Option<String>,
    /// Environment files' entries, then the others, in order.
    pub env: Vec<String>,
    /// Working directory, absolute.
    pub working_dir: Option<String>,
    /// `USER[:GROUP]`.
    pub user: Option<String>,
    /// More groups.
    pub groups: Vec<String>,
    /// A terminal.
    pub tty: bool,
    /// Standard input stays open.
    pub interactive: bool,
    /// Remove the container when it ends.
    pub auto_remove: bool,
    /// Name; a random one if missing.
    pub name: Option<String>,
    /// Host name; the short id if missing.
    pub hostname: Option<String>,
    /// Thousandths of a CPU.
    pub cpu_milli: Option<u32>,
    /// Bytes of guest memory.
    pub memory: Option<u64>,
    /// Bytes of the scratch disk.
    pub scratch_size: Option<u64>,
    /// Bytes of `/dev/shm`.
    pub shm_size: Option<u64>,
    /// Most processes.
    pub pids_limit: Option<u64>,
    /// Root read-only.
    pub read_only: bool,
    /// Volumes, and tmpfs mounts asked for in the same way.
    pub volumes: Vec<crate::mounts::MountRequest>,
    /// How fast its disks may be used.
    pub rates: Vec<crate::rates::RateRequest>,
    /// tmpfs mounts.
    pub tmpfs: Vec<TmpfsRequest>,
    /// Capabilities to add.
    pub cap_add: Vec<String>,
    /// Capabilities to drop.
    pub cap_drop: Vec<String>,
    /// The whole guest.
    pub privileged: bool,
    /// `no_new_privs`.
    pub no_new_privileges: bool,
    /// Resource limits, `NAME=SOFT[:HARD]`.
    pub ulimits: Vec<String>,
    /// Kernel parameters.
    pub sysctls: Vec<(String, String)>,
    /// A small init as PID 1.
    pub init: bool,
    /// `OS/ARCH[/VARIANT]`.
    pub platform: Option<String>,
    /// Labels, beside those of the image.
    pub labels: BTreeMap<String, String>,
    /// Annotations: kept and shown.
    pub annotations: BTreeMap<String, String>,
    /// Signal that asks the process to end, instead of the image's.
    pub stop_signal: Option<String>,
    /// Seconds that it may take then; -1 is no limit.
    pub stop_timeout: Option<i64>,
    /// When it is started again.
    pub restart: RestartPolicy,
    /// Health checks, in place of the image's as far as they are given.
    pub health: HealthRequest,
    /// `--log-driver`.
    pub log_driver: Option<String>,
    /// `--log-opt`.
    pub log_opts: BTreeMap<String, String>,
    /// `oom_score_adj` of the process.
    pub oom_score_adj: Option<i32>,
    /// Seccomp profile: JSON, as Docker has it.
    pub seccomp: Option<String>,
}

/// What a request says of health checks. What is missing is as the image has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthRequest {
    /// None, whatever the image has.
    pub none: bool,
    /// What is run, by a shell.
    pub command: Option<String>,
    /// From the end of a check to the beginning of the next.
    pub interval: Option<Duration>,
    /// How long a check may take.
    pub timeout: Option<Duration>,
    /// For so long after the start failures do not count.
    pub start_period: Option<Duration>,
    /// The interval within the start period.
    pub start_interval: Option<Duration>,
    /// So many failures in a row make it unhealthy.
    pub retries: Option<u32>,
}

/// A tmpfs mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsRequest {
    /// Absolute path.
    pub path: String,
    /// As `mount -o`; empty for the defaults.
    pub options: String,
}

/// Which accelerator a caller wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AcceleratorChoice {
    /// KVM where it can run a guest, else emulation, saying so.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// Emulation, even where KVM works.
    Emulated,
}

impl fmt::Display for AcceleratorChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Emulated => "emulated",
        })
    }
}

/// An option's value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OptionError {
    /// `--storage-opt`.
    #[error("unknown storage option {0:?}: only size=SIZE is known")]
    StorageOption(String),
    /// `--security-opt`.
    #[error("security option {0:?} is not supported")]
    SecurityOption(String),
    /// `--sysctl`.
    #[error("invalid sysctl {0:?}: expected NAME=VALUE")]
    Sysctl(String),
    /// `--tmpfs`.
    #[error("invalid tmpfs mount {0:?}: expected an absolute path other than /, as in /run:size=64m")]
    Tmpfs(String),
    /// `--workdir`.
    #[error("the working directory {0:?} is not an absolute path")]
    WorkingDirectory(String),
    /// `--hostname`.
    #[error("invalid host name {0:?}: expected at most 63 letters, digits, '-' or '.'")]
    Hostname(String),
    /// A size in an option.
    #[error(transparent)]
    Quantity(#[from] crate::quantity::QuantityError),
}

/// Parses `--tmpfs PATH[:OPTIONS]`.
///
/// # Errors
///
/// [`OptionError::Tmpfs`].
pub fn parse_tmpfs(text: &str) -> Result<TmpfsRequest, OptionError> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let usable =
        path.starts_with('/') && !path.trim_matches('/').is_empty() && !path.split('/').any(|part| part == "..");
    if usable && !text.contains('\0') {
        Ok(TmpfsRequest { path: path.to_owned(), options: options.to_owned() })
    } else {
        Err(OptionError::Tmpfs(text.to_owned()))
    }
}

/// Parses `--sysctl NAME=VALUE`. A name may be written with slashes.
///
/// # Errors
///
/// [`OptionError::Sysctl`].
pub fn parse_sysctl(text: &str) -> Result<(String, String), OptionError> {
    let invalid = || OptionError::Sysctl(text.to_owned());
    let (name, value) = text.split_once('=').ok_or_else(invalid)?;
    let name = name.trim().replace('/', ".");
    let part_is_legal =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if name.contains('.') && name.split('.').all(part_is_legal) { Ok((name, value.to_owned())) } else { Err(invalid()) }
}

/// Parses `--storage-opt size=SIZE` to bytes.
///
/// # Errors
///
/// [`OptionError`] for another option or a bad size.
pub fn parse_storage_option(text: &str) -> Result<u64, OptionError> {
    match text.split_once('=') {
        Some(("size", size)) => Ok(crate::quantity::parse_size(size)?),
        _ => Err(OptionError::StorageOption(text.to_owned())),
    }
}

/// Parses `--security-opt`: `no-new-privileges[=true|false]` to its value, and the words that ask for no
/// confinement, which is what a process gets inside its own machine, to `None`.
///
/// # Errors
///
/// [`OptionError::SecurityOption`] for everything else.
pub fn parse_security_option(text: &str) -> Result<Option<bool>, OptionError> {
    match text.replacen(':', "=", 1).as_str() {
        "no-new-privileges" | "no-new-privileges=true" => Ok(Some(true)),
        "no-new-privileges=false" => Ok(Some(false)),
        "seccomp=unconfined" | "apparmor=unconfined" | "label=disable" | "systempaths=unconfined" => Ok(None),
        _ => Err(OptionError::SecurityOption(text.to_owned())),
    }
}

/// Checks `--hostname`.
///
/// # Errors
///
/// [`OptionError::Hostname`].
pub fn parse_hostname(text: &str) -> Result<String, OptionError> {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if text.len() <= 63 && text.split('.').all(label) {
        Ok(text.to_owned())
    } else {
        Err(OptionError::Hostname(text.to_owned()))
    }
}

/// Checks `--workdir`.
///
/// # Errors
///
/// [`OptionError::WorkingDirectory`].
pub fn parse_working_dir(text: &str) -> Result<String, OptionError> {
    if text.starts_with('/') && !text.contains('\0') {
        Ok(text.to_owned())
    } else {
        Err(OptionError::WorkingDirectory(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tmpfs() {
        let mount = |path: &str, options: &str| Ok(TmpfsRequest { path: path.into(), options: options.into() });
        assert_eq!(parse_tmpfs("/run"), mount("/run", ""));
        assert_eq!(parse_tmpfs("/run:size=1m,mode=755"), mount("/run", "size=1m,mode=755"));
        for text in ["", "run", "/", "//", "/a/../b", ":size=1m"] {
            assert!(parse_tmpfs(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sysctls() {
        assert_eq!(parse_sysctl("net.ipv4.ip_forward=1").unwrap(), ("net.ipv4.ip_forward".into(), "1".into()));
        assert_eq!(parse_sysctl("kernel/msgmax=a=b").unwrap(), ("kernel.msgmax".into(), "a=b".into()));
        for text in ["", "a.b", "ab=1", "=1", "a..b=1", "../x.y=1", ".a=1"] {
            assert!(parse_sysctl(text).is_err(), "{text}");
        }
    }

    #[test]
    fn security_options() {
        assert_eq!(parse_security_option("no-new-privileges"), Ok(Some(true)));
        assert_eq!(parse_security_option("no-new-privileges:true"), Ok(Some(true)));
        assert_eq!(parse_security_option("no-new-privileges=false"), Ok(Some(false)));
        assert_eq!(parse_security_option("seccomp=unconfined"), Ok(None));
        assert!(parse_security_option("seccomp=/profile.json").is_err());
        assert!(parse_security_option("no-new-privileges:maybe").is_err());
    }

    #[test]
    fn storage_host_name_and_directory() {
        assert_eq!(parse_storage_option("size=1g"), Ok(1 << 30));
        assert!(parse_storage_option("dm.size=1g").is_err());
        assert!(parse_storage_option("size=x").is_err());
        for name in ["web", "web-1.example.org", "a_b", &"x".repeat(63)] {
            assert!(parse_hostname(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "a..b", "a b", "a/b", "ä", &"x".repeat(64)] {
            assert!(parse_hostname(name).is_err(), "{name}");
        }
        assert!(parse_working_dir("/srv").is_ok());
        assert!(parse_working_dir("srv").is_err());
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails(text in "\\PC{0,40}") {
            let _ = parse_tmpfs(&text);
            let _ = parse_sysctl(&text);
            let _ = parse_security_option(&text);
            let _ = parse_hostname(&text);
        }
    }
}
