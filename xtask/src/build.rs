//! `cargo xtask build`: everything that `coracle` needs at run time, in one directory that can be moved.
//!
//! ```text
//! target/dist/bin/coracle                    the command line
//! target/dist/lib/coracle/coracle-vmm        the machine process, static
//! target/dist/lib/coracle/vmlinux, initrd    what every machine boots
//! target/dist/lib/coracle/virtiofsd          serves bind mounts
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::kernel::{self, Kind};
use crate::{file_daemon, initrd, process, project, publish, setup};

/// Builds the kernel, the guest, the machine process and the command line into `target/dist`.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// The cargo profile of what runs on the host; the guest's first process always has its own.
    #[arg(long, default_value = "release")]
    profile: String,
}

/// Flags of a static position-independent binary: no C library to find inside a jail.
const STATIC: &str = "-C target-feature=+crt-static";
/// Flags of PID 1 in the guest: nothing to relocate at start either.
const STATIC_AT_FIXED_ADDRESS: &str = "-C target-feature=+crt-static -C relocation-model=static";

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure()?;
    let distribution = provide(&arguments.profile)?;
    println!("{}", distribution.display());
    Ok(())
}

/// Builds what has changed; gives back the directory.
pub(crate) fn provide(profile: &str) -> Result<PathBuf> {
    let distribution = project::output("dist");
    let library = distribution.join("lib/coracle");
    let vmlinux = kernel::provide(Kind::Guest)?;
    let virtiofsd = file_daemon::provide()?;
    let init = static_binary("guest-init", "guest-init", "guest", STATIC_AT_FIXED_ADDRESS)?;
    let vmm = static_binary("vmm", "coracle-vmm", profile, STATIC)?;
    let coracle = binary("cli", "coracle", profile)?;

    publish::copy(&vmlinux, &library.join("vmlinux"))?;
    publish::bytes(&library.join("initrd"), &initrd::guest(&init)?)?;
    publish::copy(&virtiofsd, &library.join("virtiofsd"))?;
    publish::copy(&vmm, &library.join("coracle-vmm"))?;
    publish::copy(&coracle, &distribution.join("bin/coracle"))?;
    Ok(distribution)
}

fn binary(package: &str, name: &str, profile: &str) -> Result<PathBuf> {
    process::run(&mut cargo_build(package, name, profile))?;
    Ok(compiled(&project::cargo_target(), name, profile))
}

fn static_binary(package: &str, name: &str, profile: &str, flags: &str) -> Result<PathBuf> {
    let mut build = cargo_build(package, name, profile);
    process::run(build.args(["--target", project::TARGET]).env("RUSTFLAGS", flags))?;
    Ok(compiled(&project::cargo_target().join(project::TARGET), name, profile))
}

fn cargo_build(package: &str, name: &str, profile: &str) -> Command {
    let mut cargo = project::cargo();
    cargo.args(["build", "--quiet", "--package", package, "--bin", name, "--profile", profile]);
    cargo
}

/// Where cargo leaves a binary: the directory of the profile `dev` has another name.
fn compiled(target: &Path, name: &str, profile: &str) -> PathBuf {
    target.join(if profile == "dev" { "debug" } else { profile }).join(name)
}
