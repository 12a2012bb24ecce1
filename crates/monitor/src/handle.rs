//! [`Machine`]: what the host holds of a machine.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::cgroup::{Cgroup, Confinement};
use crate::end::MachineEnd;
use crate::process::MachineProcess;
use crate::vsock::VsockChannel;

/// How long a machine process may take to answer with its kernel log.
const KERNEL_LOG_PATIENCE: Duration = Duration::from_secs(1);

/// How long the process with the vCPUs may take to stand still.
const PAUSE_PATIENCE: Duration = Duration::from_secs(1);

/// When things happened, `CLOCK_MONOTONIC` in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// The first of its processes was spawned.
    pub spawned: u64,
    /// The vCPUs started (KVM), or the devices were served (emulation).
    pub started: Option<u64>,
    /// It ended.
    pub ended: Option<u64>,
}

/// A launched machine.
///
/// Every method may be called from any thread. As a descriptor it becomes readable when the machine has ended,
/// and stays so; it is not to be read. Dropping it kills and reaps what is left.
#[derive(Debug)]
pub struct Machine {
    pub(crate) processes: Vec<MachineProcess>,
    pub(crate) cgroup: Option<Arc<Cgroup>>,
    pub(crate) confinement: Confinement,
    pub(crate) vsock: VsockChannel,
    pub(crate) shared: Arc<Shared>,
    pub(crate) watcher: Option<JoinHandle<()>>,
}

impl Machine {
    /// Its processes.
    #[must_use]
    pub fn processes(&self) -> &[MachineProcess] {
        &self.processes
    }

    /// The process that has the vCPUs and the guest's memory.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let has_vcpus = |process: &&MachineProcess| process.role.has_vcpus();
        self.processes.iter().find(has_vcpus).map_or(0, |process| process.pid)
    }

    /// What of the host's limits holds for its processes, and why not more.
    #[must_use]
    pub fn confinement(&self) -> &Confinement {
        &self.confinement
    }

    /// Changes how much CPU its processes get of the host, at once.
    ///
    /// # Errors
    ///
    /// If they are in no cgroup of their own that has such a limit.
    pub fn limit_cpu(&self, milli: u32) -> io::Result<()> {
        let cgroup = self.cgroup.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        cgroup.set_cpu(Some(milli))
    }

    /// Its vsock connections.
    #[must_use]
    pub fn vsock(&self) -> &VsockChannel {
        &self.vsock
    }

    /// When things happened so far.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.shared.lock().timings
    }

    /// Waits until the machine process says that it started. False if it ended or the deadline passed before.
    pub fn wait_started(&self, deadline: Option<Instant>) -> bool {
        let state = self.shared.wait_until(deadline, |state| state.timings.started.is_some() || state.end.is_some());
        state.timings.started.is_some()
    }

    /// The end, if it has come.
    #[must_use]
    pub fn try_wait(&self) -> Option<MachineEnd> {
        self.shared.lock().end.clone()
    }

    /// Waits for the end; for ever without a deadline. `None` when the deadline passed before.
    pub fn wait(&self, deadline: Option<Instant>) -> Option<MachineEnd> {
        self.shared.wait_until(deadline, |state| state.end.is_some()).end.clone()
    }

    /// The newest bytes of the guest's kernel log, oldest first. `None` if the machine process does not answer
    /// within a second. After the end it is the log at the end.
    #[must_use]
    pub fn kernel_log(&self) -> Option<Vec<u8>> {
        let ticket = {
            let mut state = self.shared.lock();
            state.logs_asked += 1;
            state.logs_asked
        };
        self.shared.wake();
        let deadline = Some(Instant::now() + KERNEL_LOG_PATIENCE);
        let state = self.shared.wait_until(deadline, |state| state.logs_answered >= ticket || state.end.is_some());
        match &state.end {
            Some(end) => Some(end.kernel_log.clone()),
            None if state.logs_answered >= ticket => state.log.clone(),
            None => None,
        }
    }

    /// Stops the vCPUs: SIGSTOP to the process that has them. Returns when it stands still. Its devices may go on
    /// where they are another process's; they have nothing to do then.
    ///
    /// # Errors
    ///
    /// If it has ended, or does not stop within a second.
    pub fn pause(&self) -> io::Result<()> {
        let process = self.vcpu_process()?;
        process.signal(Signal::STOP)?;
        let deadline = Instant::now() + PAUSE_PATIENCE;
        while !process.is_stopped() {
            if Instant::now() >= deadline {
                process.signal(Signal::CONT)?;
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets the vCPUs go on after [`Machine::pause`].
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn resume(&self) -> io::Result<()> {
        self.vcpu_process()?.signal(Signal::CONT)
    }

    fn vcpu_process(&self) -> io::Result<&MachineProcess> {
        let has_vcpus = |process: &&MachineProcess| process.role.has_vcpus();
        self.processes.iter().find(has_vcpus).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Ends the machine without asking the guest, by SIGKILL if its processes do not end in half a second.
    /// When it returns, everything is reaped. A machine that ended before keeps its own reason.
    pub fn stop(&self) -> MachineEnd {
        self.shared.lock().stop = true;
        self.shared.wake();
        let state = self.shared.wait_until(None, |state| state.end.is_some());
        state.end.clone().unwrap_or_else(|| unreachable!("an unbounded wait ends with an end"))
    }
}

impl AsFd for Machine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.ended.as_fd()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.shared.lock().kill = true;
        self.shared.wake();
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

/// What a handle and its watcher share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Eventfd that wakes the watcher.
    pub(crate) wake: OwnedFd,
    /// Eventfd that tells of the end.
    pub(crate) ended: OwnedFd,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) timings: Timings,
    pub(crate) end: Option<MachineEnd>,
    /// The last kernel log that was received.
    pub(crate) log: Option<Vec<u8>>,
    pub(crate) logs_asked: u64,
    pub(crate) logs_answered: u64,
    pub(crate) stop: bool,
    pub(crate) kill: bool,
}

impl Shared {
    pub(crate) fn new() -> std::io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let new = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Self { state: Mutex::default(), changed: Condvar::new(), wake: new()?, ended: new()? })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and tells whoever waits for it.
    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    pub(crate) fn wake(&self) {
        signal(&self.wake);
    }

    fn wait_until(&self, deadline: Option<Instant>, done: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while !done(&state) {
            state = match deadline {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let left = at.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return state;
                    }
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state
    }
}

/// Adds to an eventfd. It can only fail because it is full, and then it is readable anyway.
pub(crate) fn signal(eventfd: &OwnedFd) {
    let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
}
