//! The daemon that serves files of the host to machines: `virtiofsd`, the one of the virtio-fs project in Rust. Each
//! machine that sees such files has one of its own.
//!
//! ```text
//!  keeper ──▶ coracle share ── shuts itself in ([`jail`]) ──▶ executes virtiofsd, which has nothing but the shares
//! ```
//!
//! Numbers of owners are the host's for root. Other users' machines see the user as root and its subordinate ids as the
//! others, as rootless containers have it elsewhere; a user without such ids owns all that its machines make.
//!
//! A guest's device nodes are not made on the host, and what it caches it asks for again after a second.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use jail::{Identities, Share};
use serde::{Deserialize, Serialize};

use crate::{Engine, error, error::Error, mounts::BindMount, settings::Installation};

/// The word that makes the command shut itself in and become the daemon: `coracle share DAEMON [ro:|rw:]PATH...`.
pub const SUBCOMMAND: &str = "share";

/// The oldest version that has all that is asked of it here.
pub const OLDEST: (u32, u32) = (1, 12);

/// Where to get it.
pub const ADVICE: &str =
    "install virtiofsd 1.12 or newer (`cargo xtask setup` does), or name it as \"file_daemon\" in the settings";

/// Where distributions install it, beside the directories of `PATH`.
const DIRECTORIES: [&str; 2] = ["/usr/libexec", "/usr/lib"];

/// A daemon that is to be started with a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDaemon {
    /// Its program.
    pub program: PathBuf,
    /// What it shares, by the machine's names for it.
    pub shares: Vec<BindMount>,
}

impl FileDaemon {
    /// As the monitor starts it. `directory` is private to the container.
    pub(crate) fn beside(&self, directory: &Path) -> monitor::FileDaemon {
        let share = |share: &BindMount| OsString::from(format!("{}{}", mode(share.read_only), share.source));
        let words = [SUBCOMMAND.into(), self.program.clone().into_os_string()];
        monitor::FileDaemon {
            program: "/proc/self/exe".into(),
            arguments: words.into_iter().chain(self.shares.iter().map(share)).collect(),
            directory: directory.to_owned(),
        }
    }
}

const fn mode(read_only: bool) -> &'static str {
    if read_only { "ro:" } else { "rw:" }
}

/// Finds the daemon: what the settings name, else what comes with the command, what `PATH` has, and where distributions
/// put it.
///
/// # Errors
///
/// [`Error::NoFileDaemon`].
pub fn find(installation: &Installation) -> Result<PathBuf, Error> {
    let candidates = match &installation.file_daemon {
        Some(named) => vec![named.clone()],
        None => {
            let search = env::var_os("PATH").unwrap_or_default();
            let directories = env::split_paths(&search).chain(DIRECTORIES.map(PathBuf::from));
            let ours = installation.vmm.with_file_name("virtiofsd");
            std::iter::once(ours).chain(directories.map(|directory| directory.join("virtiofsd"))).collect()
        }
    };
    let found = candidates.into_iter().filter_map(|path| std::path::absolute(path).ok()).find(|path| path.is_file());
    found.ok_or_else(|| Error::NoFileDaemon(installation.file_daemon.clone()))
}

/// What `virtiofsd --version` says; `None` where it is another program of that name.
#[must_use]
pub fn version(program: &Path) -> Option<(u32, u32)> {
    let output = Command::new(program).arg("--version").env_clear().output().ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix("virtiofsd ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

impl Engine {
    /// What serves the files of the host among a container's mounts.
    pub(crate) fn file_daemon(&self, binds: &[BindMount]) -> Result<Option<FileDaemon>, Error> {
        if binds.is_empty() {
            return Ok(None);
        }
        crate::mounts::check_sources(binds)?;
        Ok(Some(FileDaemon { program: find(self.installation())?, shares: binds.to_vec() }))
    }
}

/// Shuts the process in and becomes the daemon. Its standard input is the socket on which the machine is served.
#[must_use]
pub fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(2);
    let problem = match (arguments.next(), arguments.map(|text| share(&text)).collect::<Option<Vec<_>>>()) {
        (Some(daemon), Some(shares)) if !shares.is_empty() => match jail::enter(&shares) {
            Ok(identities) => {
                let error = command(Path::new(&daemon), identities).exec();
                format!("starting {}: {error}", Path::new(&daemon).display())
            }
            Err(error) => error::chain(&error),
        },
        _ => format!("usage: coracle {SUBCOMMAND} DAEMON [ro:|rw:]PATH..."),
    };
    eprintln!("{problem}");
    ExitCode::FAILURE
}

fn share(text: &OsStr) -> Option<Share> {
    let (mode, path) = text.as_bytes().split_at_checked(mode(true).len())?;
    let read_only = match mode {
        b"ro:" => true,
        b"rw:" => false,
        _ => return None,
    };
    Some(Share { source: PathBuf::from(OsStr::from_bytes(path)), read_only })
}

fn command(daemon: &Path, identities: Identities) -> Command {
    let mut command = Command::new(daemon);
    command.args(["--fd", "0", "--shared-dir", jail::DIRECTORY]);
    command.args(["--sandbox", "namespace", "--modcaps=-mknod", "--cache", "auto", "--xattr", "--log-level", "error"]);
    if identities == Identities::Own {
        // Whoever the guest says it is, there is one who it can be.
        command.args(["--translate-uid", "squash-guest:0:0:4294967295"]);
        command.args(["--translate-gid", "squash-guest:0:0:4294967295"]);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_daemon_in_rust_tells_a_version() {
        assert_eq!(parse_version("virtiofsd 1.14.0\n"), Some((1, 14)));
        for text in ["virtiofsd version 7.2.17 (Debian)\nusing FUSE kernel interface version 7.36", "", "virtiofsd 1"] {
            assert_eq!(parse_version(text), None, "{text}");
        }
    }

    #[test]
    fn shares_survive_the_command_line() {
        let mount = |source: &str, read_only| BindMount { source: source.into(), target: "/x".into(), read_only };
        let shares = vec![mount("/srv/a b:c", false), mount("/etc", true)];
        let daemon = FileDaemon { program: "/opt/virtiofsd".into(), shares };
        let beside = daemon.beside(Path::new("/run/c"));
        let words: Vec<_> = beside.arguments.iter().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(words, ["share", "/opt/virtiofsd", "rw:/srv/a b:c", "ro:/etc"]);
        let share = |text: &str| share(OsStr::new(text));
        assert_eq!(share("rw:/srv/a b:c"), Some(Share { source: "/srv/a b:c".into(), read_only: false }));
        assert_eq!(share("ro:/etc"), Some(Share { source: "/etc".into(), read_only: true }));
        for text in ["", "ro", "/etc", "wo:/etc"] {
            assert_eq!(share(text), None, "{text}");
        }
    }
}
