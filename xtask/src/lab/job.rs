//! What the lab is to do: a directory that `kernels/lab-init` reads inside the machine.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::project;

/// One directory of the host as the machine sees it.
#[derive(Debug)]
pub(super) struct Share {
    /// Its name on the bus.
    pub(super) tag: String,
    /// Where it is, on both sides.
    pub(super) path: PathBuf,
    /// Whether the machine may write to it.
    pub(super) writable: bool,
}

/// A command with all it takes along.
#[derive(Debug)]
pub(super) struct Job {
    directory: TempDir,
    shares: Vec<Share>,
}

/// The machine's bus has eight places; the ports, the entropy source, the root and the job take four.
const WRITABLE_SHARES: usize = 4;

impl Job {
    /// Writes the job directory.
    pub(super) fn new(command: &[OsString], environment: &[(&str, &str)], extra: &[PathBuf]) -> Result<Self> {
        let directory = TempDir::with_prefix("coracle-lab-job-")?;
        let writable = writable_directories(extra)?;
        let mut shares = vec![
            Share { tag: "root".into(), path: "/".into(), writable: false },
            Share { tag: "job".into(), path: directory.path().to_owned(), writable: true },
        ];
        let mut list = Vec::new();
        for (number, path) in writable.into_iter().enumerate() {
            let tag = format!("share{number}");
            list.extend_from_slice(tag.as_bytes());
            list.push(b' ');
            list.extend_from_slice(path.as_os_str().as_bytes());
            list.push(b'\n');
            shares.push(Share { tag, path, writable: true });
        }
        fs::write(directory.path().join("shares"), list)?;
        let variables = std::env::vars_os().chain(environment.iter().map(|(name, value)| (name.into(), value.into())));
        let current = std::env::current_dir().context("the current directory is gone")?;
        fs::write(directory.path().join("command"), script(variables, &current, command))?;
        Ok(Self { directory, shares })
    }

    /// Every directory that the machine is given.
    pub(super) fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// The command's exit status, if it came to one.
    pub(super) fn status(&self) -> Result<Option<u8>> {
        let path = self.directory.path().join("status");
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path)?;
        Ok(Some(text.trim().parse().with_context(|| format!("the lab's status is {text:?}"))?))
    }
}

/// The project, cargo's target directory and the extra ones, each once and none inside another.
fn writable_directories(extra: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let target = project::cargo_target();
    let mut found: Vec<PathBuf> = Vec::new();
    let wanted = [project::root(), &target].into_iter().chain(extra.iter().map(PathBuf::as_path));
    for path in wanted {
        let path = path.canonicalize().with_context(|| format!("no directory {}", path.display()))?;
        if !found.iter().any(|other| path.starts_with(other)) {
            found.push(path);
        }
    }
    ensure!(found.len() <= WRITABLE_SHARES, "the lab shares at most {WRITABLE_SHARES} directories for writing");
    Ok(found)
}

/// The shell script that becomes the command in the right place with the right environment.
fn script(variables: impl Iterator<Item = (OsString, OsString)>, directory: &Path, command: &[OsString]) -> Vec<u8> {
    let mut script = Vec::new();
    for (name, value) in variables.filter(|(name, _)| is_carried_over(name)) {
        script.extend_from_slice(b"export ");
        script.extend_from_slice(name.as_bytes());
        script.push(b'=');
        script.extend_from_slice(&quoted(&value));
        script.push(b'\n');
    }
    script.extend_from_slice(b"cd ");
    script.extend_from_slice(&quoted(directory.as_os_str()));
    script.extend_from_slice(b" || exit 125\nexec");
    for word in command {
        script.push(b' ');
        script.extend_from_slice(&quoted(word));
    }
    script.push(b'\n');
    script
}

/// Whether a variable means something inside, and can be written in a script at all.
fn is_carried_over(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let word = name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    word && name.first().is_some_and(|first| !first.is_ascii_digit())
        && !matches!(name, b"_" | b"PWD" | b"OLDPWD" | b"SHLVL" | b"TMPDIR" | b"XDG_RUNTIME_DIR")
}

/// A word that a shell takes as it is.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend_from_slice(b"'\\''"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_every_word_as_it_was() {
        let command: Vec<OsString> =
            ["printf", "%s|", "plain", "two words", "it's", "$HOME", "", "a\nb"].map(Into::into).into();
        let variables = [("GREETING".into(), "don't\n".into()), ("BAD-NAME".into(), "x".into())];
        let script = script(variables.into_iter(), Path::new("/"), &command);
        let output = std::process::Command::new("sh").arg("-c").arg(OsStr::from_bytes(&script)).output().expect("sh");
        assert_eq!(output.stdout, b"plain|two words|it's|$HOME||a\nb|");
        assert_eq!(output.stderr, b"");
    }

    #[test]
    fn a_directory_inside_a_shared_one_is_not_shared_again() {
        let root = project::root().canonicalize().expect("there");
        let found = writable_directories(&[root.join("xtask")]).expect("directories");
        assert!(found.contains(&root));
        assert!(!found.contains(&root.join("xtask")));
    }
}
