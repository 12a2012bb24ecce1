//! The host's own bound on a machine's processes: a cgroup (version 2) of theirs alone.
//!
//! The guest keeps its container within its limits; this keeps the *machine* within them, whoever runs in it, and
//! counts what the host pays for the guest: vCPU threads, device threads, the emulator.
//!
//! | file | value | why |
//! |---|---|---|
//! | `cpu.max` | thousandths of a CPU, over 100 ms | `--cpus` holds on the host too |
//! | `memory.max` | guest memory and an allowance ([`allowance`]) | a machine process that grows takes itself down, not its neighbours |
//! | `memory.oom.group` | 1 | of two processes neither goes on without the other |
//!
//! # Where
//!
//! Root's are `coracle-ID` at the top of the hierarchy. Others get theirs in the nearest group above them that was
//! delegated to them: one in which they may make groups and whose children have the controllers, or get them when
//! asked. Groups with processes of their own cannot have such children, so the one we run in does not do.
//!
//! Where there is no such place the machine runs without, and [`Confinement::problem`] says why: a limit that does
//! not hold is told, not pretended.
//!
//! # How long
//!
//! The processes enter it between fork and exec, so nothing of theirs is outside. The watcher removes it when they
//! are reaped. What a killed keeper leaves is empty by then ([`crate`]: nothing outlives its keeper), and whoever finds
//! its container removes it by its path: [`remove_left`].

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Accelerator;

/// Microseconds over which `cpu.max` is measured.
const PERIOD: u64 = 100_000;

/// What every cgroup of ours is called, before the machine's name.
const PREFIX: &str = "coracle-";

/// How long the kernel may take to notice that a group's last process is gone.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a machine's processes may use of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLimits {
    /// Names the machine: `[a-z0-9]`, unique on this host.
    pub name: String,
    /// Thousandths of a CPU.
    pub cpu_milli: Option<u32>,
    /// Bytes of memory.
    pub memory: Option<u64>,
}

/// What became of [`HostLimits`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// The cgroup, if there is one.
    pub cgroup: Option<PathBuf>,
    /// Thousandths of a CPU that hold.
    pub cpu_milli: Option<u32>,
    /// Bytes of memory that hold.
    pub memory: Option<u64>,
    /// Why something that was asked for does not hold.
    pub problem: Option<String>,
}

/// Bytes that machine processes may take beyond their guest's memory: code, stacks, queues (of vsock up to 32 MiB),
/// page tables; with emulation the translated code, up to 1 GiB, and the emulator itself. Cached pages of disks count
/// too, but the host takes those back before it kills.
#[must_use]
pub fn allowance(accelerator: Accelerator, guest_memory: u64) -> u64 {
    let tables = guest_memory / 256;
    let own = match accelerator {
        Accelerator::Kvm => 96 << 20,
        Accelerator::Emulated => (1 << 30) + (256 << 20),
    };
    own + tables
}

/// A cgroup of a machine. It goes when this is dropped, if it has not gone before.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    procs: File,
    confinement: Confinement,
    removed: AtomicBool,
}

impl Cgroup {
    /// Makes one with these limits. The error says why there is none.
    pub(crate) fn make(limits: &HostLimits) -> Result<Self, String> {
        Hierarchy::of_this_process()?.make(limits)
    }

    /// `cgroup.procs`, open for writing: a process that writes `0` to it enters.
    pub(crate) fn procs(&self) -> &File {
        &self.procs
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What holds.
    pub(crate) fn confinement(&self) -> &Confinement {
        &self.confinement
    }

    /// Whether a process is in it.
    pub(crate) fn holds(&self, pid: u32) -> bool {
        let pids = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        pids.lines().any(|line| line.parse() == Ok(pid))
    }

    /// Whether the host killed one of its processes because memory ran out, the group's or the host's own.
    pub(crate) fn killed_for_memory(&self) -> bool {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.is_some_and(|count| count.trim() != "0")
    }

    /// Another limit of CPUs, at once.
    pub(crate) fn set_cpu(&self, milli: Option<u32>) -> io::Result<()> {
        fs::write(self.path.join("cpu.max"), cpu_max(milli))
    }
}

impl Cgroup {
    /// Removes it with what is in it, once: the next machine of that name may have one of the same path.
    pub(crate) fn remove(&self) {
        if !self.removed.swap(true, Ordering::SeqCst) {
            remove(&self.path);
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.remove();
    }
}

impl Confinement {
    /// None, and why.
    pub(crate) fn refused(problem: String) -> Self {
        Self { problem: Some(problem), ..Self::default() }
    }
}

fn cpu_max(milli: Option<u32>) -> String {
    // The largest number lifts the limit, as it does in the guest.
    let quota = milli.filter(|milli| *milli != u32::MAX).map(|milli| (u64::from(milli) * PERIOD / 1000).max(1000));
    format!("{} {PERIOD}", quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string()))
}

/// Removes the group of the machine `name` that a killed keeper left. A path that is not of such a group is left alone.
pub fn remove_left(path: &Path, name: &str) {
    let is_ours = path.file_name().and_then(|file| file.to_str()).is_some_and(|file| file == format!("{PREFIX}{name}"));
    if is_ours && path.join("cgroup.procs").exists() {
        remove(path);
    }
}

/// Kills what is in it and removes it. Killed processes leave in a moment, not at once.
fn remove(path: &Path) {
    let _ = fs::write(path.join("cgroup.kill"), "1");
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = fs::remove_dir(path) {
        if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The hierarchy of version 2 as one process sees it.
#[derive(Debug)]
struct Hierarchy {
    mount: PathBuf,
    /// Where the process is in it.
    own: PathBuf,
    root: bool,
}

impl Hierarchy {
    fn of_this_process() -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"));
        let mount = parse_mount(&read("/proc/self/mountinfo")?).ok_or("this host has no cgroup v2 mounted")?;
        let own = parse_own(&read("/proc/self/cgroup")?).ok_or("this process is in no cgroup of version 2")?;
        Ok(Self { own: join(&mount, &own), mount, root: rustix::process::geteuid().is_root() })
    }

    /// Places for a new group, the best first.
    fn places(&self) -> Vec<&Path> {
        let above = self.own.ancestors().take_while(|path| path.starts_with(&self.mount));
        if self.root { std::iter::once(self.mount.as_path()).chain(above).collect() } else { above.collect() }
    }

    fn make(&self, limits: &HostLimits) -> Result<Cgroup, String> {
        let wanted: Vec<&str> = [("cpu", limits.cpu_milli.is_some()), ("memory", limits.memory.is_some())]
            .into_iter()
            .filter_map(|(controller, wanted)| wanted.then_some(controller))
            .collect();
        let mut problem = "there is no place for a cgroup of version 2".to_owned();
        for place in self.places() {
            match make_in(place, limits, &wanted) {
                Ok(cgroup) => return Ok(cgroup),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }
}

fn make_in(place: &Path, limits: &HostLimits, wanted: &[&str]) -> Result<Cgroup, String> {
    for controller in wanted {
        enable(place, controller)?;
    }
    let path = place.join(format!("{PREFIX}{}", limits.name));
    // What a killed keeper of the same machine left.
    remove_left(&path, &limits.name);
    fs::create_dir(&path).map_err(|error| format!("cannot make {}: {error}", path.display()))?;
    fill(&path, limits).inspect_err(|_| remove(&path))
}

/// Has the children of `place` have a controller.
fn enable(place: &Path, controller: &str) -> Result<(), String> {
    let has = |file: &str| {
        let text = fs::read_to_string(place.join(file)).unwrap_or_default();
        text.split_ascii_whitespace().any(|word| word == controller)
    };
    if has("cgroup.subtree_control") {
        return Ok(());
    }
    if !has("cgroup.controllers") {
        return Err(format!("the {controller} controller is not in cgroup v2 at {}", place.display()));
    }
    let file = place.join("cgroup.subtree_control");
    fs::write(&file, format!("+{controller}"))
        .map_err(|error| format!("the {controller} controller cannot be had below {}: {error}", place.display()))
}

fn fill(path: &Path, limits: &HostLimits) -> Result<Cgroup, String> {
    let set = |file: &str, value: String| {
        let file = path.join(file);
        fs::write(&file, value).map_err(|error| format!("cannot write {}: {error}", file.display()))
    };
    if limits.cpu_milli.is_some() {
        set("cpu.max", cpu_max(limits.cpu_milli))?;
    }
    if let Some(memory) = limits.memory {
        set("memory.max", memory.to_string())?;
        set("memory.oom.group", "1".to_owned())?;
        // Where there is none to bound, the file is missing.
        let _ = set("memory.swap.max", "0".to_owned());
    }
    let file = path.join("cgroup.procs");
    let procs = OpenOptions::new().write(true).open(&file);
    let procs = procs.map_err(|error| format!("cannot open {}: {error}", file.display()))?;
    let confinement = Confinement {
        cgroup: Some(path.to_owned()),
        cpu_milli: limits.cpu_milli,
        memory: limits.memory,
        problem: None,
    };
    Ok(Cgroup { path: path.to_owned(), procs, confinement, removed: AtomicBool::new(false) })
}

/// The mount point of the hierarchy in `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn parse_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        file_system.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

/// The path in `/proc/self/cgroup` (cgroups(7)).
fn parse_own(cgroup: &str) -> Option<PathBuf> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    // One outside of the process's cgroup namespace: not ours.
    (!path.contains("..")).then(|| PathBuf::from(path))
}

fn join(mount: &Path, own: &Path) -> PathBuf {
    mount.join(own.strip_prefix("/").unwrap_or(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> HostLimits {
        HostLimits { name: "abc".into(), cpu_milli: Some(500), memory: Some(1 << 30) }
    }

    /// A directory that looks like a group; what a kernel would put into new ones is missing.
    fn group(path: &Path, controllers: &str, subtree: &str) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("cgroup.controllers"), controllers).unwrap();
        fs::write(path.join("cgroup.subtree_control"), subtree).unwrap();
    }

    #[test]
    fn the_hierarchy_is_found() {
        let mountinfo = "24 1 0:22 / /proc rw - proc proc rw\n35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(parse_mount(mountinfo), Some("/sys/fs/cgroup".into()));
        assert_eq!(parse_mount("24 1 0:22 / /proc rw - proc proc rw\n"), None);
        assert_eq!(parse_own("3:cpu:/x\n0::/user.slice/a.scope\n"), Some("/user.slice/a.scope".into()));
        assert_eq!(parse_own("0::/../b\n"), None);
        assert_eq!(parse_own("3:cpu:/x\n"), None);
        assert_eq!(join(Path::new("/m"), Path::new("/a/b")), Path::new("/m/a/b"));
    }

    #[test]
    fn root_looks_at_the_top_first_others_go_up() {
        let at = |root| Hierarchy { mount: "/m".into(), own: "/m/a/b".into(), root };
        let paths =
            |hierarchy: &Hierarchy| hierarchy.places().iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(paths(&at(true)), ["/m", "/m/a/b", "/m/a", "/m"]);
        assert_eq!(paths(&at(false)), ["/m/a/b", "/m/a", "/m"]);
    }

    #[test]
    fn what_cannot_be_had_is_told() {
        let top = tempfile::tempdir().unwrap();
        group(top.path(), "hugetlb pids", "");
        let hierarchy = Hierarchy { mount: top.path().into(), own: top.path().join("gone"), root: false };
        let problem = hierarchy.make(&limits()).unwrap_err();
        assert!(problem.contains("cpu controller is not in cgroup v2"), "{problem}");
        let memory_only = HostLimits { cpu_milli: None, ..limits() };
        let problem = hierarchy.make(&memory_only).unwrap_err();
        assert!(problem.contains("memory controller is not in cgroup v2"), "{problem}");
        // Controllers, but files that cannot be written as in a real one: nothing is left.
        group(top.path(), "cpu memory", "cpu memory");
        let problem = hierarchy.make(&limits()).unwrap_err();
        assert!(problem.contains("cgroup.procs"), "{problem}");
        let confinement = Confinement::refused(problem);
        assert!(confinement.cgroup.is_none() && confinement.cpu_milli.is_none() && confinement.problem.is_some());
    }

    #[test]
    fn numbers() {
        assert_eq!(cpu_max(Some(500)), "50000 100000");
        assert_eq!(cpu_max(Some(2500)), "250000 100000");
        assert_eq!(cpu_max(Some(1)), "1000 100000");
        assert_eq!(cpu_max(None), "max 100000");
        assert_eq!(allowance(Accelerator::Kvm, 1 << 30), (100 << 20));
        assert!(allowance(Accelerator::Emulated, 1 << 30) > 1 << 30);
    }

    #[test]
    fn only_groups_of_ours_are_removed() {
        let top = tempfile::tempdir().unwrap();
        for name in ["coracle-abc", "other", "coracle-xyz"] {
            fs::create_dir(top.path().join(name)).unwrap();
        }
        fs::write(top.path().join("other/cgroup.procs"), "").unwrap();
        remove_left(&top.path().join("other"), "abc");
        remove_left(&top.path().join("coracle-xyz"), "abc");
        remove_left(&top.path().join("coracle-abc"), "abc");
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_kill_for_memory_is_seen() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("cgroup.procs");
        fs::write(&file, "7\n42\n").unwrap();
        let procs = OpenOptions::new().write(true).open(&file).unwrap();
        let cgroup = Cgroup {
            path: top.path().into(),
            procs,
            confinement: Confinement::default(),
            removed: AtomicBool::new(true),
        };
        assert!(cgroup.holds(42) && !cgroup.holds(4));
        assert!(!cgroup.killed_for_memory());
        fs::write(top.path().join("memory.events"), "low 0\nmax 9\noom 1\noom_kill 0\noom_group_kill 0\n").unwrap();
        assert!(!cgroup.killed_for_memory());
        fs::write(top.path().join("memory.events"), "low 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 1\n").unwrap();
        assert!(cgroup.killed_for_memory());
    }
}
