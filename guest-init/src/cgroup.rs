//! The cgroup (v2) of a container.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use protocol::Limits;
use rustix::fs::{Mode, OFlags};

use crate::failure::{Context, Result};

/// Microseconds in which `cpu.max` is counted, and the least quota that the kernel takes.
const CPU_PERIOD: u64 = 100_000;
const CPU_LEAST: u64 = 1_000;

/// A container's cgroup; removed when dropped, which works once it is empty.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    directory: OwnedFd,
}

impl Cgroup {
    /// Makes the cgroup `name` below `root` and sets its limits.
    pub(crate) fn create(root: &Path, name: &str, limits: &Limits) -> Result<Self> {
        // In one write: each one waits for a grace period of the kernel. What the kernel does not have is missed only
        // by the limit that needs it.
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        let enabled: Vec<String> = controllers.split_whitespace().map(|controller| format!("+{controller}")).collect();
        let _ = fs::write(root.join("cgroup.subtree_control"), enabled.join(" "));
        let path = root.join(name);
        let made = fs::create_dir(&path).or_else(|error| match error.kind() {
            ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        });
        made.context(|| format!("make cgroup {}", path.display()))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::open(&path, flags, Mode::empty()).context(|| format!("open cgroup {}", path.display()))?;
        let cgroup = Self { path, directory };
        cgroup.set_limits(limits)?;
        Ok(cgroup)
    }

    /// Sets the limits that are given. Less memory than is in use waits for memory to be given back.
    pub(crate) fn set_limits(&self, limits: &Limits) -> Result<()> {
        self.set("memory.max", limits.memory.map(or_max))?;
        self.set("pids.max", limits.pids.map(or_max))?;
        self.set("cpu.max", limits.cpu_milli.map(cpu_max))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn set(&self, file: &str, value: Option<impl ToString>) -> Result<()> {
        let Some(value) = value else { return Ok(()) };
        let value = value.to_string();
        fs::write(self.path.join(file), &value).context(|| format!("set {file} of the container to {value}"))
    }

    /// To fork into.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// How many processes the out-of-memory killer has killed here.
    pub(crate) fn oom_kills(&self) -> u64 {
        fs::read_to_string(self.path.join("memory.events")).map_or(0, |events| oom_kills(&events))
    }

    /// Kills every process in it.
    pub(crate) fn kill(&self) {
        // An empty or missing cgroup has nothing to kill.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Fails while something is in it, which is then the guest's last concern.
        let _ = fs::remove_dir(&self.path);
    }
}

/// The largest number lifts a limit.
fn or_max(limit: u64) -> String {
    if limit == u64::MAX { "max".to_owned() } else { limit.to_string() }
}

fn cpu_max(milli: u32) -> String {
    if milli == u32::MAX {
        return format!("max {CPU_PERIOD}");
    }
    let quota = (u64::from(milli) * (CPU_PERIOD / 1000)).max(CPU_LEAST);
    format!("{quota} {CPU_PERIOD}")
}

fn oom_kills(events: &str) -> u64 {
    let mut lines = events.lines();
    lines.find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_cpu() {
        assert_eq!(cpu_max(1500), "150000 100000");
        assert_eq!(cpu_max(1), "1000 100000");
        assert_eq!(cpu_max(u32::MAX), "max 100000");
        assert_eq!((or_max(7), or_max(u64::MAX)), ("7".to_owned(), "max".to_owned()));
    }

    #[test]
    fn kills_are_counted() {
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 7\n"), 2);
        assert_eq!(oom_kills(""), 0);
    }
}
