//! Finds the emulator.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bounded;
use crate::verdicts::{self, FileStamp};

const PROGRAM: &str = "qemu-system-x86_64";

/// The first with the `microvm` machine on every distribution and all that is asked of it here.
const OLDEST: (u32, u32, u32) = (5, 0, 0);

/// How long it may take to print its version: from a cold disk its libraries take a while.
const VERSION_PATIENCE: Duration = Duration::from_secs(10);

const CACHE: &str = "emulator.json";

/// An emulator that can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emulator {
    /// The program.
    pub path: PathBuf,
    /// Its version.
    pub version: (u32, u32, u32),
}

/// No emulator.
#[derive(Debug, Error)]
pub enum EmulatorError {
    /// There is none in `PATH`.
    #[error("{PROGRAM} is not installed")]
    Missing,
    /// There is none where the setting says.
    #[error("there is no program at {}, where the emulator was said to be", .0.display())]
    NotThere(PathBuf),
    /// It does not say which version it is.
    #[error("{} did not tell its version: {problem}", path.display())]
    NoVersion {
        /// The program.
        path: PathBuf,
        /// What it did instead.
        problem: String,
    },
    /// It is too old.
    #[error("{} is version {}.{}.{}, which is too old", path.display(), version.0, version.1, version.2)]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        version: (u32, u32, u32),
    },
}

impl EmulatorError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing => "install it: apt-get install qemu-system-x86",
            Self::NotThere(_) => "correct the setting, or unset it to use the one in PATH",
            Self::NoVersion { .. } => "name a stock qemu-system-x86_64 (Debian package qemu-system-x86)",
            Self::TooOld { .. } => "QEMU 5.0 or later is needed (Debian package qemu-system-x86)",
        }
    }
}

/// Finds `qemu-system-x86_64`: the one that `setting` names, else the first in `PATH`. Its version is asked once
/// and kept in the directory `cache` until the program changes.
///
/// # Errors
///
/// [`EmulatorError`], with a [`hint`](EmulatorError::hint).
pub fn find_emulator(setting: Option<&Path>, cache: Option<&Path>) -> Result<Emulator, EmulatorError> {
    let path = locate(setting, std::env::var_os("PATH").as_deref())?;
    let key = (path.clone(), FileStamp::of(&path));
    let known = cache.and_then(|dir| verdicts::recall(dir, CACHE, &key));
    let version = match known {
        Some(version) => version,
        None => {
            let version = ask_version(&path)?;
            if let Some(dir) = cache {
                verdicts::keep(dir, CACHE, &key, &version, None);
            }
            version
        }
    };
    if version < OLDEST {
        return Err(EmulatorError::TooOld { path, version });
    }
    Ok(Emulator { path, version })
}

fn locate(setting: Option<&Path>, search: Option<&OsStr>) -> Result<PathBuf, EmulatorError> {
    if let Some(path) = setting {
        return if is_program(path) { Ok(path.to_owned()) } else { Err(EmulatorError::NotThere(path.to_owned())) };
    }
    let candidates = search.into_iter().flat_map(std::env::split_paths).filter(|dir| dir.is_absolute());
    candidates.map(|dir| dir.join(PROGRAM)).find(|path| is_program(path)).ok_or(EmulatorError::Missing)
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn ask_version(path: &Path) -> Result<(u32, u32, u32), EmulatorError> {
    let no_version = |problem: String| EmulatorError::NoVersion { path: path.to_owned(), problem };
    let mut command = Command::new(path);
    command.arg("--version");
    let output = bounded::run(command, VERSION_PATIENCE).map_err(|error| match error {
        bounded::RunError::Io(error) => no_version(error.to_string()),
        error => no_version(error.to_string()),
    })?;
    parse_version(&output.stdout).ok_or_else(|| no_version(output.ending))
}

/// From the first line, `QEMU emulator version 7.2.22 (Debian …)`.
fn parse_version(output: &[u8]) -> Option<(u32, u32, u32)> {
    let text = std::str::from_utf8(output).ok()?;
    let version = text.lines().next()?.strip_prefix("QEMU emulator version ")?.split_whitespace().next()?;
    let mut numbers = version.split('.').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some((next()?, next()?, next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn script(dir: &Path, body: &str) -> PathBuf {
        let path = dir.join(PROGRAM);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version(b"QEMU emulator version 7.2.22 (Debian 1:7.2)\nCopyright"), Some((7, 2, 22)));
        assert_eq!(parse_version(b"QEMU emulator version 10.0\n"), Some((10, 0, 0)));
        assert_eq!(parse_version(b"Bochs 3"), None);
        assert_eq!(parse_version(b"QEMU emulator version \n"), None);
        assert_eq!(parse_version(b""), None);
        assert_eq!(parse_version(b"\xff"), None);
    }

    #[test]
    fn the_setting_wins_over_the_path() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let set = script(one.path(), "");
        let found = script(two.path(), "");
        let search = std::env::join_paths(["relative".as_ref(), two.path()]).unwrap();
        assert_eq!(locate(Some(&set), Some(&search)).unwrap(), set);
        assert_eq!(locate(None, Some(&search)).unwrap(), found);
        assert!(matches!(locate(Some(&one.path().join("no")), Some(&search)), Err(EmulatorError::NotThere(_))));
        fs::set_permissions(&found, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(locate(None, Some(&search)), Err(EmulatorError::Missing)));
        assert!(EmulatorError::Missing.hint().contains("qemu-system-x86"));
    }

    #[test]
    fn the_version_is_asked_once_per_program() {
        let dir = tempfile::tempdir().unwrap();
        let count = dir.path().join("count");
        let body = format!("echo x >> {}; echo QEMU emulator version 8.1.0", count.display());
        let path = script(dir.path(), &body);
        for _ in 0..3 {
            assert_eq!(find_emulator(Some(&path), Some(dir.path())).unwrap().version, (8, 1, 0));
        }
        assert_eq!(fs::read_to_string(&count).unwrap(), "x\n");
        script(dir.path(), "echo QEMU emulator version 4.2.1");
        let old = find_emulator(Some(&path), Some(dir.path()));
        assert!(matches!(old, Err(EmulatorError::TooOld { version: (4, 2, 1), .. })));
    }

    #[test]
    fn a_program_that_is_no_emulator_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = script(dir.path(), "exit 7");
        let error = find_emulator(Some(&path), None).unwrap_err().to_string();
        assert!(error.contains(PROGRAM) && error.contains('7'), "{error}");
    }
}
