//! How a kernel is made from sources and a configuration fragment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::Kind;
use super::source::Source;
use crate::{process, project, publish};

/// Part of every cache key: raise it when this file changes what comes out.
pub(super) const VERSION: &str = "1";

/// Builds, and publishes the kernel at `kernel` with the full configuration beside it as `config`.
pub(super) fn build(kind: Kind, source: &Source, fragment: &Path, kernel: &Path) -> Result<()> {
    let scratch = Scratch::new(source, kernel)?;
    let make = Make { tree: source.unpack(scratch.path())?, output: scratch.path().join("build") };
    fs::create_dir_all(&make.output)?;
    make.configure(fragment)?;
    check_configuration(&fs::read_to_string(fragment)?, &fs::read_to_string(make.output.join(".config"))?)?;
    let built = make.kernel(kind)?;
    publish::copy(&make.output.join(".config"), &kernel.with_file_name("config"))?;
    publish::copy(&built, kernel)
}

/// Where objects go: beside the cache entry and gone afterwards, unless the source is a tree that is edited and
/// built again.
enum Scratch {
    Passing(TempDir),
    Kept(PathBuf),
}

impl Scratch {
    fn new(source: &Source, kernel: &Path) -> Result<Self> {
        let directory = kernel.parent().context("a cached kernel lies in a directory")?;
        if source.may_change() {
            return Ok(Self::Kept(directory.to_owned()));
        }
        let passing = TempDir::with_prefix_in("building-", directory);
        Ok(Self::Passing(passing.with_context(|| format!("cannot write to {}", directory.display()))?))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Passing(directory) => directory.path(),
            Self::Kept(directory) => directory,
        }
    }
}

/// Kbuild with a tree and a directory for objects.
struct Make {
    tree: PathBuf,
    output: PathBuf,
}

impl Make {
    fn configure(&self, fragment: &Path) -> Result<()> {
        process::run(self.command().env("KCONFIG_ALLCONFIG", fragment).arg("allnoconfig").stdout(Stdio::null()))
    }

    /// Compiles, and gives back the file to publish.
    fn kernel(&self, kind: Kind) -> Result<PathBuf> {
        let (target, file) = match kind {
            Kind::Guest => ("vmlinux", "vmlinux"),
            Kind::Lab => ("bzImage", "arch/x86/boot/bzImage"),
        };
        process::run(self.command().arg(target))?;
        let built = self.output.join(file);
        if kind == Kind::Lab {
            return Ok(built);
        }
        let stripped = self.output.join("vmlinux.stripped");
        process::run(Command::new("strip").arg("--strip-all").arg("-o").arg(&stripped).arg(&built))?;
        Ok(stripped)
    }

    /// What the kernel says about who built it, where and when is fixed, so that only its source and configuration
    /// show.
    fn command(&self) -> Command {
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        let mut make = Command::new("make");
        make.arg("--silent").arg(format!("--jobs={jobs}")).arg("-C").arg(&self.tree);
        make.arg(format!("O={}", self.output.display())).arg("ARCH=x86_64");
        make.env("KBUILD_BUILD_USER", "coracle").env("KBUILD_BUILD_HOST", "coracle");
        make.env("KBUILD_BUILD_TIMESTAMP", "2020-01-01").env_remove("MAKEFLAGS").env_remove("MFLAGS");
        make.current_dir(project::root());
        make
    }
}

/// Every option of the fragment must have come out as it was asked for: kconfig drops silently what it does not know
/// or whose dependencies are off.
fn check_configuration(fragment: &str, result: &str) -> Result<()> {
    let lost: Vec<&str> = fragment.lines().filter(|line| is_lost(line, result)).collect();
    if lost.is_empty() {
        return Ok(());
    }
    bail!(
        "the configuration did not take: {}\nhint: a dependency is off, or this kernel has no such option",
        lost.join(" ")
    );
}

fn is_lost(line: &str, result: &str) -> bool {
    match line.split_once('=') {
        Some((option, _)) if !option.starts_with("CONFIG_") => false,
        Some((option, "n")) => {
            result.lines().any(|other| other.split_once('=').is_some_and(|(name, _)| name == option))
        }
        Some(_) => !result.lines().any(|other| other == line),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_NAME=\"x\"\n";

    #[test]
    fn what_came_out_as_asked_is_fine() {
        let fragment = "# a comment = here\n\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_NAME=\"x\"\n";
        check_configuration(fragment, RESULT).expect("nothing is lost");
    }

    #[test]
    fn what_kconfig_dropped_or_forced_is_named() {
        let error = check_configuration("CONFIG_A=n\nCONFIG_B=y\nCONFIG_C=y\n", RESULT).expect_err("three are lost");
        assert!(error.to_string().contains("CONFIG_A=n CONFIG_B=y CONFIG_C=y"), "{error}");
    }
}
