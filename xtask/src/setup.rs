//! `cargo xtask setup`: the Debian packages that building, running and testing need, and the file daemon, which Debian
//! does not have.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{file_daemon, process};

/// Checks the Debian packages; installs what is missing when run as root, else prints the command that does. Builds the
/// file daemon.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// Only list the packages and what each is for.
    #[arg(long)]
    list: bool,
}

/// Every package, by what needs it.
const PACKAGES: &[(&str, &str)] = &[
    // To run a container.
    ("e2fsprogs", "mkfs.ext4 makes scratch disks"),
    ("qemu-system-x86", "emulates the processor where KVM cannot run a guest; boots the lab"),
    ("uidmap", "files that users' containers see have several owners"),
    // To build.
    ("bc", "kernel build"),
    ("bison", "kernel build"),
    ("flex", "kernel build"),
    ("g++", "libFuzzer, for the fuzz targets"),
    ("gcc", "kernel build; linker"),
    ("libc6-dev", "static binaries"),
    ("libcap-ng-dev", "the file daemon"),
    ("libelf-dev", "kernel build"),
    ("libseccomp-dev", "the file daemon"),
    ("linux-source-6.12", "the kernel's sources"),
    ("make", "kernel build"),
    ("xz-utils", "unpacks the kernel's sources"),
    // To test.
    ("apache2-utils", "htpasswd, for the tests' registry"),
    ("attr", "sets extended attributes in test images"),
    ("buildah", "makes test images"),
    ("busybox-static", "test images; the lab's first process"),
    ("cpio", "checks the initrd writer"),
    ("crun", "the runtime that answers are compared with"),
    ("docker-registry", "the registry that images are pulled from and pushed to"),
    ("erofs-utils", "fsck.erofs checks the image writer"),
    ("fsverity", "checks the digests of layers"),
    ("mmdebstrap", "makes the Debian test image"),
    ("openssl", "certificates and tokens of the tests' registry"),
    ("podman", "takes and gives images in tests"),
    ("python3", "its tarfile lists archives that are compared"),
    ("skopeo", "converts test images"),
    ("umoci", "makes test images"),
    ("util-linux", "setpriv ends the lab and the tests' registry with their parents"),
    ("zstd", "compresses test layers"),
];

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.list {
        for (package, purpose) in PACKAGES {
            println!("{package:<18} {purpose}");
        }
        return Ok(());
    }
    ensure()?;
    file_daemon::provide().map(drop)
}

/// Leaves every package installed, or fails with the command that installs them.
pub(crate) fn ensure() -> Result<()> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("packages are missing\nhint: sudo apt-get install --no-install-recommends {}", missing.join(" "));
    }
    println!("installing {}", missing.join(" "));
    install(&missing)
}

fn install(packages: &[&str]) -> Result<()> {
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null());
        command
    };
    let attempt = || process::run(apt().args(["install", "--yes", "--no-install-recommends"]).args(packages));
    // A machine's package lists may be empty or too old to find what they name.
    attempt().or_else(|_| {
        process::run(apt().arg("update"))?;
        attempt()
    })
}

fn missing() -> Result<Vec<&'static str>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(PACKAGES.iter().map(|(package, _)| package))
        .output()
        .context("cannot start `dpkg-query`: this set-up knows Debian and its kin only")?;
    Ok(not_installed(&String::from_utf8_lossy(&output.stdout)))
}

/// The packages that `dpkg-query` does not call installed.
fn not_installed(listing: &str) -> Vec<&'static str> {
    let installed = |package: &str| listing.lines().any(|line| line.split_once(' ') == Some((package, "installed")));
    PACKAGES.iter().map(|(package, _)| *package).filter(|package| !installed(package)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_counts_only_when_it_is_fully_installed() {
        let listing: String = PACKAGES
            .iter()
            .map(|(package, _)| match *package {
                "bc" => "bc config-files\n".to_owned(),
                "flex" => String::new(),
                other => format!("{other} installed\n"),
            })
            .collect();
        assert_eq!(not_installed(&listing), ["bc", "flex"]);
    }
}
