//! The thread that spawns a machine's processes, listens to them, and reaps them.
//!
//! It must not end before they do: see the crate's page on `PR_SET_PDEATHSIG`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use machine::{MAX_MESSAGE, ToMachine};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::SendFlags;

use crate::cgroup::Cgroup;
use crate::end::{MachineEnd, MachineEndReason, last_line};
use crate::handle::{Machine, Shared, signal};
use crate::launch::{LaunchError, Spawned};
use crate::lifecycle::{Action, Input, Lifecycle};
use crate::process::{MachineProcess, Process, Role};
use crate::vsock::VsockChannel;
use crate::{monotonic_ns, seqpacket};

/// What the host's out-of-memory killer sends.
const SIGKILL: i32 = 9;

/// Most messages taken from a live process per wake-up.
const MESSAGES_PER_WAKE: usize = 64;

/// Most messages that a socket can still hold when its process is gone: its buffer has room for fewer.
const MESSAGES_LEFT_BEHIND: usize = 4096;

/// Runs `spawn` in a new thread that then watches what it spawned.
pub(crate) fn start(
    control: OwnedFd,
    vsock: VsockChannel,
    spawn: impl FnOnce(BorrowedFd<'_>) -> Result<Spawned, LaunchError> + Send + 'static,
) -> Result<Machine, LaunchError> {
    let shared = Arc::new(Shared::new().map_err(LaunchError::host("eventfd"))?);
    let (sender, receiver) = mpsc::sync_channel(1);
    let watched = Arc::clone(&shared);
    let run = move || {
        let guard = EndGuard(&watched);
        match spawn(control.as_fd()) {
            Err(error) => drop(sender.send(Err(error))),
            Ok(Spawned { processes, cgroup, confinement }) => {
                let watcher = Watcher::new(processes, cgroup.clone(), control, &watched);
                drop(sender.send(Ok((watcher.ids(), cgroup, confinement))));
                watcher.run();
            }
        }
        drop(guard);
    };
    let thread = std::thread::Builder::new().name("machine".into()).spawn(run);
    let thread = thread.map_err(LaunchError::host("watcher thread"))?;
    let (processes, cgroup, confinement) = receiver.recv().unwrap_or_else(|_| {
        let source = std::io::Error::other("it ended before it had spawned anything");
        Err(LaunchError::Host { what: "watcher thread", source })
    })?;
    Ok(Machine { processes, cgroup, confinement, vsock, shared, watcher: Some(thread) })
}

/// Publishes an end even if the watcher panics, so that nobody waits for ever.
struct EndGuard<'a>(&'a Shared);

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        let reason = MachineEndReason::Internal("the machine's watcher failed".into());
        let end = MachineEnd { reason, kernel_log: Vec::new(), stderr: Vec::new(), at: monotonic_ns() };
        publish(self.0, end);
    }
}

/// The first end counts.
fn publish(shared: &Shared, end: MachineEnd) {
    shared.change(|state| {
        state.timings.ended.get_or_insert(end.at);
        state.end.get_or_insert(end);
    });
    signal(&shared.ended);
}

struct Watcher<'a> {
    processes: Vec<Process>,
    cgroup: Option<Arc<Cgroup>>,
    /// `None` once the machine process has closed its end.
    control: Option<OwnedFd>,
    buffer: Vec<u8>,
    life: Lifecycle,
    shared: &'a Shared,
    spawned: u64,
    logs_requested: u64,
    first_gone: Option<u64>,
    stderr: Vec<u8>,
    complaints: Vec<(Role, Option<String>)>,
    told_to_stop: bool,
    told_to_kill: bool,
}

impl<'a> Watcher<'a> {
    fn new(processes: Vec<Process>, cgroup: Option<Arc<Cgroup>>, control: OwnedFd, shared: &'a Shared) -> Self {
        let roles: Vec<Role> = processes.iter().map(|process| process.id.role).collect();
        let spawned = processes.iter().map(|process| process.spawned).min().unwrap_or_else(monotonic_ns);
        shared.change(|state| state.timings.spawned = spawned);
        Self {
            processes,
            cgroup,
            control: Some(control),
            // A byte more than a message may have, so that a longer one is seen to be.
            buffer: vec![0; MAX_MESSAGE + 1],
            life: Lifecycle::new(&roles),
            shared,
            spawned,
            logs_requested: 0,
            first_gone: None,
            stderr: Vec::new(),
            complaints: Vec::new(),
            told_to_stop: false,
            told_to_kill: false,
        }
    }

    fn ids(&self) -> Vec<MachineProcess> {
        self.processes.iter().map(|process| process.id).collect()
    }

    fn run(mut self) {
        while !self.life.finished() {
            self.sleep();
            self.take_requests();
            self.hear(MESSAGES_PER_WAKE);
            self.reap();
            self.step(Input::Tick);
        }
        let now = monotonic_ns();
        let at = self.life.said_at().or(self.first_gone).unwrap_or(now).clamp(self.spawned, now);
        let complaint = |role| self.complaints.iter().find(|(of, _)| *of == role).and_then(|(_, line)| line.clone());
        let mut reason = self.life.verdict(complaint);
        if let Some(cgroup) = self.cgroup.take() {
            if reason == MachineEndReason::KilledBySignal(SIGKILL) && cgroup.killed_for_memory() {
                reason = MachineEndReason::HostOutOfMemory;
            }
            cgroup.remove();
        }
        let kernel_log = match self.life.kernel_log() {
            Some(log) => log.to_vec(),
            None => self.shared.lock().log.clone().unwrap_or_default(),
        };
        publish(self.shared, MachineEnd { reason, kernel_log, stderr: self.stderr, at });
    }

    /// Sleeps until a process, the host or the clock has something.
    fn sleep(&self) {
        let timeout = self.life.deadline().map(|at| {
            let left = Duration::from_nanos(at.saturating_sub(monotonic_ns()));
            Timespec::try_from(left).unwrap_or_default()
        });
        let mut fds = vec![PollFd::new(&self.shared.wake, PollFlags::IN)];
        fds.extend(self.control.as_ref().map(|control| PollFd::new(control, PollFlags::IN)));
        for process in &self.processes {
            fds.push(PollFd::from_borrowed_fd(process.pidfd(), PollFlags::IN));
            fds.extend(process.stderr_fd().map(|stderr| PollFd::from_borrowed_fd(stderr, PollFlags::IN)));
        }
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // Out of kernel memory: look again soon rather than at once.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }

    fn take_requests(&mut self) {
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.shared.wake, &mut counter);
        let (stop, kill, logs) = {
            let state = self.shared.lock();
            (state.stop, state.kill, state.logs_asked)
        };
        while self.logs_requested < logs && self.send(&ToMachine::KernelLog) {
            self.logs_requested += 1;
            self.life.asked_for_log();
        }
        if kill && !std::mem::replace(&mut self.told_to_kill, true) {
            self.step(Input::Kill);
        } else if stop && !std::mem::replace(&mut self.told_to_stop, true) {
            self.step(Input::Stop);
        }
    }

    /// Takes in at most `limit` messages.
    fn hear(&mut self, limit: usize) {
        for _ in 0..limit {
            let Some(control) = &self.control else { return };
            let input = match seqpacket::receive(control, &mut self.buffer) {
                Ok(None) => return,
                Ok(Some(datagram)) if datagram.length == 0 => Input::HungUp,
                Ok(Some(datagram)) if datagram.truncated || !datagram.files.is_empty() => Input::Garbled,
                Ok(Some(datagram)) => {
                    machine::decode(&self.buffer[..datagram.length]).map_or(Input::Garbled, Input::Said)
                }
                Err(_) => Input::HungUp,
            };
            if matches!(input, Input::HungUp) {
                self.control = None;
            }
            self.step(input);
        }
    }

    /// Reaps who has ended, after hearing what they had said before.
    fn reap(&mut self) {
        let mut index = 0;
        while index < self.processes.len() {
            self.processes[index].read_stderr();
            let Some(exit) = self.processes[index].try_reap() else {
                index += 1;
                continue;
            };
            let mut process = self.processes.remove(index);
            process.read_stderr();
            if process.id.role != Role::Emulator {
                self.hear(MESSAGES_LEFT_BEHIND);
            }
            self.first_gone.get_or_insert(monotonic_ns());
            self.complaints.push((process.id.role, last_line(process.stderr_tail())));
            self.stderr.extend_from_slice(process.stderr_tail());
            self.step(Input::Gone(process.id.role, exit));
        }
    }

    fn step(&mut self, input: Input) {
        let now = monotonic_ns();
        for action in self.life.step(input, now) {
            match action {
                Action::SendStop => drop(self.send(&ToMachine::Stop)),
                Action::Kill(role) => self.processes.iter_mut().filter(|p| p.id.role == role).for_each(Process::kill),
                Action::Started(at) => {
                    let at = at.clamp(self.spawned.min(now), now);
                    self.shared.change(|state| state.timings.started = Some(at));
                }
                Action::KernelLog(log) => self.shared.change(|state| {
                    state.log = Some(log);
                    state.logs_answered += 1;
                }),
            }
        }
    }

    /// Sends without waiting. A process that does not listen gets no messages.
    fn send(&self, message: &ToMachine) -> bool {
        let Some(control) = &self.control else { return false };
        machine::encode(message).is_ok_and(|bytes| seqpacket::send(control, &bytes, &[], SendFlags::DONTWAIT).is_ok())
    }
}
