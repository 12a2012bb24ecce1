//! The daemon that serves bind mounts: `virtiofsd` of the virtio-fs project, built once from the package registry and
//! kept in the cache.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{process, project};

/// What is built, by its own lock file.
const VERSION: &str = "1.14.0";

/// The program, built if the cache has none.
pub(crate) fn provide() -> Result<PathBuf> {
    let root = project::cache().join(format!("tools/virtiofsd-{VERSION}"));
    let program = root.join("bin/virtiofsd");
    if program.exists() {
        return Ok(program);
    }
    fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
    eprintln!("building virtiofsd {VERSION} (a minute, once)");
    // Cargo keeps others out of the directory while it installs.
    let mut cargo = project::cargo();
    cargo.args(["install", "virtiofsd", "--quiet", "--locked", "--version", VERSION, "--root"]).arg(&root);
    process::run(&mut cargo)?;
    Ok(program)
}
