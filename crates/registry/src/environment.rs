//! What a client takes from its process, in one value, so that tests can give another.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::proxy::Proxies;

/// What a client takes from its process: proxies, directories with certificates, and how long it waits.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The proxies.
    pub proxies: Proxies,
    /// Directories in which `<host:port>/` may hold `*.crt` (authorities to trust) and pairs of `*.cert` and `*.key`
    /// (what to show the registry), as docker and podman read them.
    pub certificate_directories: Vec<PathBuf>,
    /// How long is waited for what.
    pub deadlines: Deadlines,
}

/// How long is waited for what, and how often something is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// For a connection: name, TCP, proxy and TLS together.
    pub connect: Duration,
    /// For the head of an answer, once the request is sent.
    pub answer: Duration,
    /// For the answer to an upload: some registries move its bytes before they answer.
    pub commit: Duration,
    /// For the next bytes of a body, in either direction.
    pub stall: Duration,
    /// Over so much time spent waiting for bytes…
    pub speed_window: Duration,
    /// …at least so many bytes a second must come.
    pub slowest: u64,
    /// Before the second try. Doubles with every further one.
    pub first_pause: Duration,
    /// At most so many tries without progress.
    pub tries: u32,
    /// At most so much time spent in pauses without progress, `Retry-After` included.
    pub pauses: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            commit: Duration::from_secs(300),
            stall: Duration::from_secs(30),
            speed_window: Duration::from_secs(60),
            slowest: 1024,
            first_pause: Duration::from_millis(500),
            tries: 5,
            pauses: Duration::from_secs(60),
        }
    }
}

impl Environment {
    /// That of this process.
    ///
    /// Directories: `/etc/docker/certs.d`, `/etc/containers/certs.d`, then `containers/certs.d` and `docker/certs.d`
    /// below `$XDG_CONFIG_HOME` or `~/.config`. Proxies: see [`Proxies`].
    #[must_use]
    pub fn of_process() -> Self {
        let mut directories: Vec<PathBuf> = vec!["/etc/docker/certs.d".into(), "/etc/containers/certs.d".into()];
        if let Some(config) = config_directory(&|name| env::var_os(name)) {
            directories.extend([config.join("containers/certs.d"), config.join("docker/certs.d")]);
        }
        Self {
            proxies: Proxies::from_variables(|name| env::var(name).ok()),
            certificate_directories: directories,
            deadlines: Deadlines::default(),
        }
    }

    /// Nothing from the process: no proxies, no directories, the usual deadlines.
    #[must_use]
    pub fn empty() -> Self {
        Self { proxies: Proxies::default(), certificate_directories: Vec::new(), deadlines: Deadlines::default() }
    }
}

/// The variables of an environment.
pub(crate) type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// `$XDG_CONFIG_HOME`, or `~/.config`.
pub(crate) fn config_directory(variables: Variables<'_>) -> Option<PathBuf> {
    let home = || absolute(variables, "HOME").map(|home| home.join(".config"));
    absolute(variables, "XDG_CONFIG_HOME").or_else(home)
}

/// A directory that a variable names; a relative one is none (XDG base directory specification).
pub(crate) fn absolute(variables: Variables<'_>, name: &str) -> Option<PathBuf> {
    variables(name).map(PathBuf::from).filter(|path| path.is_absolute())
}
