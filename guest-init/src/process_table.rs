//! The processes of a container, from `/proc`.
//!
//! Which they are is known by the container's cgroup, in which each of them was born and which none can leave. To read
//! what a process says of itself may take as long as the process likes (its memory may lie behind a FUSE server), so
//! this is done by a child of guest init that may be killed ([`crate::errand`]).

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use protocol::{MAX_PROCESS_ROWS, MAX_ROW_ARGV, ProcessRow};
use rustix::fs::{Mode, OFlags};

use crate::{accounts, paths, sys};

/// Cgroups below the container's that are looked at: a privileged container makes as many as it likes.
const MAX_CGROUPS: usize = 4096;

/// Most bytes of a file in `/proc`.
const MAX_FILE: u64 = 16 << 10;

/// Milliseconds of a clock tick, as `/proc` counts on x86-64.
const TICK_MS: u64 = 10;

/// Lists the processes of a cgroup. The calling process is in the container's mount namespace afterwards.
pub(crate) fn list(cgroup: &Path, container: BorrowedFd<'_>) -> Vec<ProcessRow> {
    let boot = boot_time();
    let mut found: Vec<(u32, Raw)> = Vec::new();
    for pid in pids(cgroup) {
        // One that ended meanwhile is none.
        found.extend(Raw::read(pid).map(|raw| (pid, raw)));
    }
    let inner: BTreeMap<u32, u32> = found.iter().map(|(pid, raw)| (*pid, raw.inner_pid)).collect();
    let names = user_names(container);
    let row = |(_, raw): (u32, Raw)| raw.into_row(&inner, &names, boot);
    let mut rows: Vec<ProcessRow> = found.into_iter().map(row).collect();
    rows.sort_by_key(|row| row.pid);
    rows
}

fn pids(cgroup: &Path) -> Vec<u32> {
    let (mut pids, mut cgroups, mut seen) = (Vec::new(), vec![PathBuf::from(cgroup)], 0);
    while let Some(path) = cgroups.pop() {
        let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        // 0: in a PID namespace out of sight.
        pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0));
        seen += 1;
        if pids.len() >= MAX_PROCESS_ROWS || seen >= MAX_CGROUPS {
            break;
        }
        let entries = fs::read_dir(&path).into_iter().flatten().flatten();
        cgroups.extend(entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
    }
    pids.truncate(MAX_PROCESS_ROWS);
    pids
}

/// Seconds since 1970 when the guest was started, as its clock is now.
fn boot_time() -> u64 {
    use rustix::time::{ClockId, clock_gettime};
    let [wall, up] = [ClockId::Realtime, ClockId::Boottime].map(|clock| clock_gettime(clock).tv_sec);
    u64::try_from(wall.saturating_sub(up)).unwrap_or(0)
}

/// Joins the container to read its passwd.
fn user_names(container: BorrowedFd<'_>) -> BTreeMap<u32, String> {
    let read = || -> Option<Vec<u8>> {
        sys::enter_namespaces(container, libc::CLONE_NEWNS).ok()?;
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        paths::read_regular_file(root.as_fd(), "/etc/passwd").ok()
    };
    accounts::names(&read().unwrap_or_default())
}

/// A process as `/proc` has it.
#[derive(Debug, Default, PartialEq)]
struct Raw {
    /// In the container's PID namespace.
    inner_pid: u32,
    /// In guest init's.
    parent: u32,
    uid: u32,
    name: String,
    state: u8,
    ticks: u64,
    start_ticks: u64,
    tty: u32,
    rss: u64,
    argv: Vec<u8>,
}

impl Raw {
    fn read(pid: u32) -> Option<Self> {
        let file = |name: &str| read_some(&Path::new("/proc").join(pid.to_string()).join(name));
        let mut raw = Self::parse(&text(&file("status")?), &text(&file("stat")?))?;
        // Of its own memory: the one file that may make the reader wait.
        raw.argv = file("cmdline").unwrap_or_default();
        Some(raw)
    }

    fn parse(status: &str, stat: &str) -> Option<Self> {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = |name: &str, index: usize| -> Option<u64> {
            field(name)?.split_whitespace().nth(index).and_then(|number| number.parse().ok())
        };
        let small = |number: Option<u64>| number.and_then(|number| u32::try_from(number).ok());
        // The name may hold anything, blanks and parentheses too: the fields begin behind the last one.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let of_stat = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        Some(Self {
            inner_pid: small(number("NSpid", 1).or_else(|| number("NSpid", 0)))?,
            parent: small(number("PPid", 0))?,
            uid: small(number("Uid", 1))?,
            name: field("Name")?.trim().to_owned(),
            state: fields.first()?.bytes().next()?,
            ticks: of_stat(11).saturating_add(of_stat(12)),
            start_ticks: of_stat(19),
            tty: u32::try_from(of_stat(4)).unwrap_or(0),
            rss: number("VmRSS", 0).unwrap_or(0).saturating_mul(1024),
            argv: Vec::new(),
        })
    }

    fn into_row(mut self, inner: &BTreeMap<u32, u32>, names: &BTreeMap<u32, String>, boot: u64) -> ProcessRow {
        if self.argv.is_empty() {
            self.argv = format!("[{}]", self.name).into_bytes();
        }
        self.argv.truncate(MAX_ROW_ARGV);
        ProcessRow {
            pid: self.inner_pid,
            ppid: inner.get(&self.parent).copied().unwrap_or(0),
            uid: self.uid,
            user: names.get(&self.uid).cloned(),
            state: self.state,
            cpu_ms: self.ticks.saturating_mul(TICK_MS),
            rss: self.rss,
            started: boot.saturating_add(self.start_ticks / 100),
            tty: terminal_name(self.tty),
            argv: self.argv,
        }
    }
}

/// The name of a terminal by its device number.
fn terminal_name(number: u32) -> String {
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00);
    match major {
        136..=143 => format!("pts/{}", (major - 136) << 20 | minor),
        5 if minor == 1 => "console".to_owned(),
        _ => "?".to_owned(),
    }
}

fn read_some(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\ta) R 9\nPPid:\t40\nUid:\t0\t33\t0\t0\nVmRSS:\t    12 kB\nNSpid:\t50\t7\t1\n";
    const STAT: &str = "50 (a) R 9) S 40 50 50 34816 50 4 1 2 3 4 100 20 0 0 20 0 1 0 300 0 0";

    #[test]
    fn a_process_names_itself_what_it_likes() {
        let raw = Raw::parse(STATUS, STAT).unwrap();
        let row = raw.into_row(&BTreeMap::from([(40, 3)]), &BTreeMap::from([(33, "www".to_owned())]), 1000);
        assert_eq!((row.pid, row.ppid, row.uid, row.user.as_deref()), (7, 3, 33, Some("www")));
        assert_eq!((row.state, row.cpu_ms, row.rss, row.started), (b'S', 1200, 12 << 10, 1003));
        assert_eq!((row.tty.as_str(), row.argv.as_slice()), ("pts/0", &b"[a) R 9]"[..]));
        assert_eq!(Raw::parse("", ""), None);
        assert_eq!(Raw::parse(STATUS, "50 (a"), None);
    }

    #[test]
    fn terminals() {
        assert_eq!([0, 0x501, 0x8800, 0x8907].map(terminal_name), ["?", "console", "pts/0", "pts/1048583"]);
    }
}
