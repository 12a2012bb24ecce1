//! What guest init needs of the world around it.
//!
//! [`Guest`] is the guest of a machine, and the only one in the program. Tests put a host process in its place to
//! drive everything else where no machine is.

use std::fmt::Debug;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::failure::{Context, Result, failure};
use crate::{log, sys};

/// The world around guest init.
pub trait Platform: Debug {
    /// Begins to connect to a port of the host: a non-blocking stream socket.
    ///
    /// # Errors
    ///
    /// There is no way to the host.
    fn connect(&self, port: u32) -> std::result::Result<OwnedFd, Errno>;

    /// The block device with a serial.
    ///
    /// # Errors
    ///
    /// A sentence that names the serial.
    fn disk(&self, serial: &str) -> Result<PathBuf>;

    /// Where cgroup v2 is mounted.
    fn cgroups(&self) -> &Path;

    /// An empty directory for the mounts of containers.
    fn work(&self) -> &Path;

    /// Mounts what is needed after Hello: `/proc`, `/sys`, `/dev` and cgroups.
    ///
    /// # Errors
    ///
    /// A sentence that names the mount.
    fn mount_own(&self) -> Result<()>;

    /// Sets the wall clock.
    ///
    /// # Errors
    ///
    /// A sentence.
    fn set_clock(&self, seconds: u64, nanoseconds: u32) -> Result<()>;

    /// Kills all other processes of the guest.
    fn kill_all(&self);

    /// Resets the machine.
    fn reset(&self) -> !;
}

/// How long a disk that the host has plugged may take to appear.
const DISK_TIMEOUT: Duration = Duration::from_secs(5);

/// The guest of a machine.
#[derive(Debug)]
pub struct Guest;

impl Platform for Guest {
    fn connect(&self, port: u32) -> std::result::Result<OwnedFd, Errno> {
        sys::vsock_connect(port)
    }

    fn disk(&self, serial: &str) -> Result<PathBuf> {
        let deadline = Instant::now() + DISK_TIMEOUT;
        loop {
            if let Some(path) = find_disk(serial) {
                return Ok(path);
            }
            if Instant::now() > deadline {
                return failure(format!("no disk has the serial {serial:?}"));
            }
            sleep(Duration::from_millis(2));
        }
    }

    fn cgroups(&self) -> &Path {
        Path::new("/sys/fs/cgroup")
    }

    fn work(&self) -> &Path {
        Path::new("/run")
    }

    fn mount_own(&self) -> Result<()> {
        mount_guest().context(|| "mount the file systems of the guest".to_owned())?;
        if let Err(errno) = sys::loopback_up() {
            log::warn(&format!("loopback interface: {errno}"));
        }
        // Not even a guest without any memory left loses the one who reports it.
        fs::write("/proc/self/oom_score_adj", "-1000").context(|| "protect guest init".to_owned())
    }

    fn set_clock(&self, seconds: u64, nanoseconds: u32) -> Result<()> {
        let what = || format!("set the clock to {seconds} s {nanoseconds} ns");
        let seconds = i64::try_from(seconds).context(what)?;
        let time = rustix::time::Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
        rustix::time::clock_settime(rustix::time::ClockId::Realtime, time).context(what)
    }

    fn kill_all(&self) {
        // ESRCH: there are none.
        let _ = sys::kill(-1, libc::SIGKILL);
    }

    fn reset(&self) -> ! {
        rustix::fs::sync();
        let failed = rustix::system::reboot(rustix::system::RebootCommand::Restart);
        log::warn(&format!("reset: {failed:?}"));
        // PID 1 that ends is a kernel panic, which the host sees.
        sys::exit(1)
    }
}

fn find_disk(serial: &str) -> Option<PathBuf> {
    for entry in fs::read_dir("/sys/block").ok()?.flatten() {
        let path = entry.path();
        let is_filled = || fs::read_to_string(path.join("size")).is_ok_and(|size| size.trim() != "0");
        if fs::read_to_string(path.join("serial")).is_ok_and(|found| found.trim() == serial) && is_filled() {
            return Some(Path::new("/dev").join(entry.file_name()));
        }
    }
    None
}

/// Gives guest init a root of its own: the initial one cannot be left behind by `pivot_root`, as containers must.
fn mount_guest() -> std::result::Result<(), Errno> {
    use rustix::mount::{MountFlags as Flags, mount, mount_move};
    let restricted = Flags::NOSUID | Flags::NODEV | Flags::NOEXEC;
    let make = |path: &str| match rustix::fs::mkdir(path, rustix::fs::Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    };
    make("/.root")?;
    mount("tmpfs", "/.root", "tmpfs", Flags::NOSUID | Flags::NODEV, c"mode=0755,size=16m")?;
    rustix::process::chdir("/.root")?;
    for directory in ["proc", "sys", "dev", "run"] {
        make(directory)?;
    }
    mount("proc", "proc", "proc", restricted, None)?;
    mount("sysfs", "sys", "sysfs", restricted, None)?;
    mount("devtmpfs", "dev", "devtmpfs", Flags::NOSUID | Flags::NOEXEC, c"mode=0755")?;
    // Forks and moves between cgroups without waiting for a grace period of the kernel each.
    mount("cgroup2", "sys/fs/cgroup", "cgroup2", restricted, c"favordynmods")?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")
}
