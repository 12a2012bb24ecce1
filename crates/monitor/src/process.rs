//! Child processes: spawned so that they die with us, watched by pidfd, their stderr kept to its tail.
//!
// UNSAFETY: what a child must do between fork and exec can only be said through `Command::pre_exec`.
#![allow(unsafe_code)]

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};

use rustix::process::{PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use crate::monotonic_ns;

/// Bytes of a process's stderr that are kept.
const STDERR_TAIL: usize = 8 << 10;

/// Most bytes of stderr read per wake-up.
const STDERR_PER_WAKE: usize = 64 << 10;

/// What a child process does for a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// `coracle-vmm machine`: vCPUs and devices.
    Machine,
    /// `coracle-vmm devices`: devices behind vhost-user.
    Devices,
    /// `qemu-system-x86_64`: vCPUs and memory.
    Emulator,
    /// `virtiofsd`: the host's files, behind vhost-user.
    Files,
}

impl Role {
    /// Whether it has the guest's processors.
    #[must_use]
    pub const fn has_vcpus(self) -> bool {
        matches!(self, Self::Machine | Self::Emulator)
    }

    /// Whether it is a companion of the machine rather than a part of it.
    pub(crate) const fn is_companion(self) -> bool {
        matches!(self, Self::Files)
    }
}

/// A child process of a machine, named so that a reused process identifier is not mistaken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineProcess {
    /// What it does.
    pub role: Role,
    /// Process identifier.
    pub pid: u32,
    /// Start time in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    pub start_time: u64,
}

impl MachineProcess {
    /// Signals it, and never another one that has its number by now: the number is pinned before it is checked.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::NotFound)?;
        let pinned = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        if start_time(self.pid)? != self.start_time {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(rustix::process::pidfd_send_signal(&pinned, signal)?)
    }

    /// Whether it is stopped by a signal: state `T` in `/proc/<pid>/stat`.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Code(-1),
        }
    }
}

/// A running child.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: MachineProcess,
    /// When it was spawned, `CLOCK_MONOTONIC`, nanoseconds.
    pub(crate) spawned: u64,
    child: Child,
    pidfd: OwnedFd,
    stderr: Option<ChildStderr>,
    tail: Tail,
}

impl Process {
    /// Spawns `command` with a private stderr. `inherited` keep their numbers in the child.
    /// It begins in `cgroup`, given as its open `cgroup.procs`, if it may.
    pub(crate) fn spawn(
        role: Role,
        mut command: Command,
        inherited: Vec<OwnedFd>,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> io::Result<Self> {
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        isolate(&mut command);
        if let Some(procs) = cgroup {
            enter(&mut command, procs.try_clone_to_owned()?);
        }
        command_fds::CommandFdExt::preserved_fds(&mut command, inherited);
        let mut child = command.spawn()?;
        let spawned = monotonic_ns();
        match Self::watch(&mut child) {
            Ok((pidfd, stderr, start_time)) => {
                let id = MachineProcess { role, pid: child.id(), start_time };
                Ok(Self { id, spawned, child, pidfd, stderr, tail: Tail::default() })
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn watch(child: &mut Child) -> io::Result<(OwnedFd, Option<ChildStderr>, u64)> {
        let pidfd = pidfd(child)?;
        let stderr = child.stderr.take();
        if let Some(stderr) = &stderr {
            rustix::io::ioctl_fionbio(stderr, true)?;
        }
        Ok((pidfd, stderr, start_time(child.id())?))
    }

    /// Readable once the process has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Its stderr, until that ends.
    pub(crate) fn stderr_fd(&self) -> Option<BorrowedFd<'_>> {
        self.stderr.as_ref().map(AsFd::as_fd)
    }

    /// Takes in what it wrote to stderr, without waiting.
    pub(crate) fn read_stderr(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..STDERR_PER_WAKE / buffer.len() {
            let Some(stderr) = &mut self.stderr else { return };
            match stderr.read(&mut buffer) {
                Ok(0) => self.stderr = None,
                Ok(count) => self.tail.push(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.stderr = None,
            }
        }
    }

    /// The last bytes of its stderr.
    pub(crate) fn stderr_tail(&self) -> &[u8] {
        &self.tail.0
    }

    /// Sends SIGKILL. A process that has ended already is left alone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// Reaps it if it has ended.
    pub(crate) fn try_reap(&mut self) -> Option<Exit> {
        self.child.try_wait().ok().flatten().map(Exit::from)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last [`STDERR_TAIL`] bytes of a stream.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let excess = self.0.len().saturating_sub(STDERR_TAIL);
        self.0.drain(..excess);
    }
}

/// Opens a pidfd for a child that is not reaped yet.
pub(crate) fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(rustix::process::Pid::from_child(child), PidfdFlags::empty())?)
}

/// Has the child die with the calling thread, keep no descriptor that it was not given, and be out of reach
/// of the terminal's signals: Ctrl-C is for the container's process, not for its machine.
///
/// Call it before anything that makes descriptors inheritable.
pub(crate) fn isolate(command: &mut Command) {
    let parent = rustix::process::getpid();
    let prepare = move || {
        rustix::process::setsid()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        // SAFETY: the call takes three integers and touches no memory. It marks descriptors, it closes none.
        let marked = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        if marked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: the closure runs in the forked child and makes system calls only: it does not allocate, lock, or
    // touch memory that another thread of the parent may have been changing.
    unsafe { command.pre_exec(prepare) };
}

/// Has the child move into a cgroup before it executes its program. One that may not stays outside; whoever wants to
/// know looks.
fn enter(command: &mut Command, procs: OwnedFd) {
    let enter = move || {
        let _ = rustix::io::write(&procs, b"0");
        Ok(())
    };
    // SAFETY: the closure runs in the forked child and makes one system call: it does not allocate, lock, or touch
    // memory that another thread of the parent may have been changing.
    unsafe { command.pre_exec(enter) };
}

/// Field 22 of `/proc/<pid>/stat`.
fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_time(&stat).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time in /proc/pid/stat"))
}

/// The name in field 2 may hold anything, so count from the last parenthesis.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_a_spiteful_name() {
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194560 120 0 0 0 0 0 0 0 20 0 1 0 4242 1000 10 18446744073709551615";
        assert_eq!(parse_start_time(stat), Some(4242));
        assert_eq!(parse_start_time("7 (a"), None);
        assert_eq!(parse_start_time("7 (a) S 1 2"), None);
    }

    #[test]
    fn own_start_time_is_readable() {
        assert!(start_time(std::process::id()).unwrap() > 0);
    }

    #[test]
    fn a_process_is_stopped_and_goes_on_and_its_successor_is_left_alone() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let started = start_time(child.id()).unwrap();
        let process = MachineProcess { role: Role::Machine, pid: child.id(), start_time: started };
        let successor = MachineProcess { start_time: started + 1, ..process };
        successor.signal(Signal::STOP).unwrap_err();
        assert!(!process.is_stopped());
        process.signal(Signal::STOP).unwrap();
        while !process.is_stopped() {
            std::thread::yield_now();
        }
        process.signal(Signal::CONT).unwrap();
        while process.is_stopped() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        process.signal(Signal::STOP).unwrap_err();
    }

    #[test]
    fn only_the_tail_of_stderr_is_kept() {
        let mut tail = Tail::default();
        for byte in 0..=255_u8 {
            tail.push(&[byte; 100]);
        }
        assert_eq!(tail.0.len(), STDERR_TAIL);
        assert_eq!(tail.0.last(), Some(&255));
    }

    #[test]
    fn a_child_is_a_session_of_its_own_and_gets_no_stray_descriptor() {
        let (stray, _other) = rustix::pipe::pipe().unwrap();
        rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "ls /proc/self/fd | tr '\\n' ' '; cut -d' ' -f6 /proc/$$/stat; echo $$"]);
        isolate(&mut command);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words.pop(), words.pop(), "the session is the child's own: {text}");
        // 3 is the directory that ls reads.
        assert_eq!(words, ["0", "1", "2", "3"]);
    }
}
