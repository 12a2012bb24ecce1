//! Where a kernel's sources come from, and how they are told apart.
//!
//! The pinned release is what this repository was tested with. Debian replaces it in its archive when it fixes a
//! flaw, so a machine that is set up later has a later one: that is taken, with a note. A release of another series
//! is refused, because the configuration may mean something else there; `--source` is the way to insist.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::{process, project};

/// `kernels/source.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pin {
    package: String,
    series: String,
    version: String,
    tarball: PathBuf,
    sha256: String,
}

impl Pin {
    fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).context("kernels/source.toml")
    }

    /// The digest that the tarball of an installed release must have; `None` if only Debian vouches for it.
    fn expected_digest(&self, installed: &str) -> Result<Option<String>> {
        if installed == self.version {
            return Ok(Some(self.sha256.clone()));
        }
        let same_series = installed.strip_prefix(&self.series).is_some_and(|rest| rest.starts_with('.'));
        ensure!(
            same_series,
            "{} {installed} is not of the series {}\nhint: name a kernel tree or tarball with --source",
            self.package,
            self.series
        );
        Ok(None)
    }
}

/// A kernel's sources.
#[derive(Debug)]
pub(crate) enum Source {
    /// Unpacked for one build, then gone.
    Tarball {
        /// The archive.
        path: PathBuf,
        /// What it must digest to, if that is known beforehand.
        sha256: Option<String>,
        /// What tells it from other sources.
        identity: String,
    },
    /// Somebody's working tree: built in place of a cache entry each time, as far as `make` finds changes.
    Tree {
        /// Its root.
        path: PathBuf,
        /// What tells it from other sources.
        identity: String,
    },
}

impl Source {
    /// The sources that `named` names, or the pinned Debian package's.
    pub(crate) fn find(named: Option<&Path>) -> Result<Self> {
        let Some(path) = named else { return Self::debian() };
        let path = path.canonicalize().with_context(|| format!("no kernel source at {}", path.display()))?;
        if path.is_dir() {
            let identity = format!("tree {}", path.display());
            return Ok(Self::Tree { path, identity });
        }
        let digest = digest_of(&path)?;
        Ok(Self::Tarball { identity: format!("tarball {digest}"), sha256: Some(digest), path })
    }

    fn debian() -> Result<Self> {
        let text = fs::read_to_string(project::root().join("kernels/source.toml"))?;
        let pin = Pin::parse(&text)?;
        let query = ["--show", "--showformat=${Version}", &pin.package];
        let installed = process::text_of(Command::new("dpkg-query").args(query)).with_context(|| {
            format!("{} is not installed; `cargo xtask setup` installs it, --source does without it", pin.package)
        })?;
        let sha256 = pin.expected_digest(&installed)?;
        if sha256.is_none() {
            eprintln!("note: {} is at {installed}; {} is what was tested", pin.package, pin.version);
        }
        Ok(Self::Tarball { path: pin.tarball, sha256, identity: format!("{} {installed}", pin.package) })
    }

    /// What tells these sources from others.
    pub(crate) fn identity(&self) -> &str {
        match self {
            Self::Tarball { identity, .. } | Self::Tree { identity, .. } => identity,
        }
    }

    /// Whether the same identity can mean other contents tomorrow.
    pub(crate) fn may_change(&self) -> bool {
        matches!(self, Self::Tree { .. })
    }

    /// The tree, unpacked under `scratch` if it is not one yet.
    pub(crate) fn unpack(&self, scratch: &Path) -> Result<PathBuf> {
        let (path, sha256) = match self {
            Self::Tree { path, .. } => return Ok(path.clone()),
            Self::Tarball { path, sha256, .. } => (path, sha256),
        };
        if let Some(expected) = sha256 {
            let found = digest_of(path)?;
            if found != *expected {
                bail!("{} digests to {found}, not to {expected}", path.display());
            }
        }
        let tree = scratch.join("source");
        fs::create_dir_all(&tree)?;
        let mut tar = Command::new("tar");
        tar.arg("--extract").arg("--strip-components=1").arg("--file").arg(path).arg("--directory").arg(&tree);
        process::run(&mut tar)?;
        Ok(tree)
    }
}

fn digest_of(path: &Path) -> Result<String> {
    let line = process::text_of(Command::new("sha256sum").arg("--").arg(path))?;
    let digest = line.split_whitespace().next().context("`sha256sum` printed nothing")?;
    Ok(digest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin() -> Pin {
        let text = r#"
            package = "linux-source-6.12"
            series = "6.12"
            version = "6.12.5-1"
            tarball = "/usr/src/linux-source-6.12.tar.xz"
            sha256 = "00ff"
        "#;
        Pin::parse(text).expect("a valid pin")
    }

    #[test]
    fn the_pinned_release_must_have_the_pinned_digest() {
        assert_eq!(pin().expected_digest("6.12.5-1").expect("accepted").as_deref(), Some("00ff"));
    }

    #[test]
    fn a_later_release_of_the_series_is_taken_without_one() {
        assert_eq!(pin().expected_digest("6.12.90-1~deb12u1").expect("accepted"), None);
    }

    #[test]
    fn another_series_is_refused() {
        for version in ["6.13.1-1", "6.120.1-1", "6.1.12-1"] {
            assert!(pin().expected_digest(version).is_err(), "{version}");
        }
    }

    #[test]
    fn the_file_in_the_repository_is_a_pin() {
        let text = fs::read_to_string(project::root().join("kernels/source.toml")).expect("readable");
        assert_eq!(Pin::parse(&text).expect("valid").sha256.len(), 64);
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        assert!(Pin::parse("package = 'p'\nseries = '1'\nversion = '1'\ntarball = 't'\nsha256 = ''\nx = 1").is_err());
    }
}
