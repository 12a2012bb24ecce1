//! The agent's process: PID 1 of namespaces that `unshare` made.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use guest_init::failure::{Failure, Result};
use guest_init::platform::Platform;
use rustix::io::Errno;

/// This host, in place of a machine. Disks are named by files `disk-SERIAL` that hold a device's path.
#[derive(Debug)]
struct Host {
    directory: PathBuf,
    work: PathBuf,
    cgroups: PathBuf,
}

impl Platform for Host {
    fn connect(&self, port: u32) -> std::result::Result<OwnedFd, Errno> {
        let stream = UnixStream::connect(self.directory.join(port.to_string())).map_err(|_| Errno::CONNREFUSED)?;
        stream.set_nonblocking(true).map_err(|_| Errno::IO)?;
        Ok(stream.into())
    }

    fn disk(&self, serial: &str) -> Result<PathBuf> {
        let device = fs::read_to_string(self.directory.join(format!("disk-{serial}")));
        device.map(PathBuf::from).map_err(|_| Failure(format!("no disk has the serial {serial:?}")))
    }

    fn cgroups(&self) -> &Path {
        &self.cgroups
    }

    fn work(&self) -> &Path {
        &self.work
    }

    fn mount_own(&self) -> Result<()> {
        Ok(())
    }

    fn set_clock(&self, _seconds: u64, _nanoseconds: u32) -> Result<()> {
        Ok(())
    }

    fn kill_all(&self) {
        let _ = std::process::Command::new("kill").args(["-9", "-1"]).status();
    }

    fn reset(&self) -> ! {
        std::process::exit(0)
    }
}

/// Runs the agent; its machine is over when this process ends.
pub(crate) fn run(directory: &OsStr) -> ! {
    let directory = PathBuf::from(directory);
    let cgroups = PathBuf::from(fs::read_to_string(directory.join("cgroups")).expect("cgroups"));
    let work = directory.join("work");
    guest_init::boot::run(&Host { directory, work, cgroups })
}
