//! What the two initial RAM disks hold: the guest's, and the lab's.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::project;

/// The guest's: `init` as `/init`, the device nodes it needs before it has mounted anything, and mount points.
pub(crate) fn guest(init: &Path) -> Result<Vec<u8>> {
    let mut archive = skeleton();
    archive.executable("init", &read(init)?);
    Ok(archive.finish())
}

/// The lab's: `kernels/lab-init` as `/init`, and the busybox that interprets it.
pub(crate) fn lab() -> Result<Vec<u8>> {
    let mut archive = skeleton();
    archive.directory("bin").executable("bin/busybox", &read(Path::new("/bin/busybox"))?);
    archive.executable("init", &read(&project::root().join("kernels/lab-init"))?);
    Ok(archive.finish())
}

fn skeleton() -> Archive {
    let mut archive = Archive::new();
    archive.directory("dev").character_device("dev/console", 5, 1).character_device("dev/null", 1, 3);
    for mount_point in ["proc", "sys", "run", "tmp", "mnt"] {
        archive.directory(mount_point);
    }
    archive
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
