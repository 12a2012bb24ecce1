//! `cargo xtask kernel`: the guest's kernel and the lab's, built once and kept for all clones.
//!
//! A built kernel lies in the cache under a digest of everything that decides what it is: the configuration
//! fragment, the source, and the recipe. A change to any of them builds a new one beside the old; a second clone
//! finds what the first one built.

mod recipe;
mod source;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::project;
use source::Source;

/// Builds the guest's kernel, or says where it is.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// Build from this kernel tree or tarball instead of the pinned Debian package.
    #[arg(long, env = "CORACLE_KERNEL_SOURCE", value_name = "DIR|TARBALL")]
    source: Option<PathBuf>,
    /// The lab's kernel, which runs KVM and the tests, instead of the guest's.
    #[arg(long)]
    lab: bool,
}

/// What a kernel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Boots every container: an ELF file with a PVH entry.
    Guest,
    /// Boots the lab: a bzImage.
    Lab,
}

impl Kind {
    fn fragment(self) -> PathBuf {
        project::root().join(match self {
            Self::Guest => "kernels/guest.config",
            Self::Lab => "kernels/lab.config",
        })
    }

    fn cached(self, key: &str) -> PathBuf {
        let kernels = project::cache().join("kernels");
        match self {
            Self::Guest => kernels.join(key).join("vmlinux"),
            Self::Lab => kernels.join("lab").join(key).join("bzImage"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Lab => "lab",
        }
    }
}

/// Runs the command: prints the path of the kernel.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let kind = if arguments.lab { Kind::Lab } else { Kind::Guest };
    println!("{}", provide_from(kind, arguments.source.as_deref())?.display());
    Ok(())
}

/// The kernel of this kind from the source that the environment names, built if the cache has none.
pub(crate) fn provide(kind: Kind) -> Result<PathBuf> {
    let named = std::env::var_os("CORACLE_KERNEL_SOURCE").filter(|path| !path.is_empty()).map(PathBuf::from);
    provide_from(kind, named.as_deref())
}

fn provide_from(kind: Kind, named: Option<&Path>) -> Result<PathBuf> {
    let source = Source::find(named)?;
    let fragment = kind.fragment();
    let configuration = fs::read(&fragment).with_context(|| format!("cannot read {}", fragment.display()))?;
    let kernel = kind.cached(&key(&configuration, source.identity()));
    if kernel.exists() && !source.may_change() {
        return Ok(kernel);
    }
    let _turn = take_turn(&kernel)?;
    if kernel.exists() && !source.may_change() {
        return Ok(kernel);
    }
    let start = Instant::now();
    eprintln!("building the {} kernel from {} (minutes, once)", kind.name(), source.identity());
    recipe::build(kind, &source, &fragment, &kernel)?;
    eprintln!("built in {} s: {}", start.elapsed().as_secs(), kernel.display());
    Ok(kernel)
}

/// One builder at a time for each kernel; who waited finds it built. The lock ends with the file.
fn take_turn(kernel: &Path) -> Result<File> {
    let directory = kernel.parent().context("a cached kernel lies in a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let lock = File::create(directory.join("lock"))?;
    lock.lock().with_context(|| format!("cannot lock {}", directory.display()))?;
    Ok(lock)
}

/// Names a kernel by all that decides what it is.
fn key(configuration: &[u8], source: &str) -> String {
    let mut digest = Sha256::new();
    for part in [recipe::VERSION.as_bytes(), source.as_bytes(), configuration] {
        digest.update(part.len().to_le_bytes());
        digest.update(part);
    }
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_decides_the_key() {
        let one = key(b"CONFIG_A=y", "6.12.1");
        assert_eq!(one.len(), 16);
        assert_eq!(one, key(b"CONFIG_A=y", "6.12.1"));
        assert_ne!(one, key(b"CONFIG_B=y", "6.12.1"));
        assert_ne!(one, key(b"CONFIG_A=y", "6.12.2"));
        assert_ne!(key(b"b", "a"), key(b"", "ab"));
    }
}
