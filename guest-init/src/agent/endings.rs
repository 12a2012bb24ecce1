//! How processes, containers and the machine end.

use std::time::{Duration, Instant};

use protocol::{ExitStatus, GuestMessage, ProcessId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, WaitOptions, WaitStatus};

use super::Agent;
use crate::container::State;
use crate::log;
use crate::process::Phase;
use crate::pump::Direction;

/// How long killed processes may take to end when the machine is powered off.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the output of a process that ended may be held open by others. What was written by then is sent.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

impl Agent<'_> {
    /// Reaps all children that ended.
    pub(super) fn reap(&mut self) {
        let mut information = [0; 128];
        while rustix::io::read(&self.children, &mut information).is_ok() {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if let Some(status) = exit_status(status) {
                self.child_ended(pid, status);
            }
        }
    }

    fn child_ended(&mut self, pid: Pid, status: ExitStatus) {
        self.freezer_ended(pid);
        let process = self.processes.iter().find(|(_, process)| process.pid == pid && !process.has_ended());
        if let Some(process) = process.map(|(process, _)| *process) {
            // Its last word may still lie in its channel.
            self.hear_process(process);
            self.ended(process, status);
        }
        let container = self.containers.iter().find(|(_, container)| container.first == pid);
        if let Some(id) = container.map(|(id, _)| id.clone()) {
            self.hear_container(&id);
            let Some(container) = self.containers.get_mut(&id) else { return };
            let had_started = matches!(container.state, State::Occupied);
            container.state = State::Over;
            if !had_started {
                self.forget_container_keys(&id);
                self.containers.remove(&id);
            }
        }
    }

    pub(super) fn ended(&mut self, process: ProcessId, status: ExitStatus) {
        let Some(known) = self.processes.get_mut(&process) else { return };
        if let Phase::Starting { ended, .. } = &mut known.phase {
            *ended = Some(status);
            return;
        }
        known.phase = Phase::Draining(status);
        // The output of a container ends with its first process. What another process left behind may hold its output
        // open for ever.
        known.until = (!known.first).then(|| Instant::now() + DRAIN_TIMEOUT);
        if let Some(terminal) = &mut known.terminal {
            terminal.slave = None;
        }
        let (epoll, roles) = (&self.epoll, &mut self.roles);
        known.pumps.retain_mut(|pump| {
            let is_output = pump.direction() == Direction::Output;
            if !is_output {
                pump.cancel(epoll);
                roles.remove(&pump.key());
            }
            is_output
        });
        self.run_pumps(process, None);
        self.finish_if_drained(process);
    }

    pub(super) fn finish_if_drained(&mut self, process: ProcessId) {
        let Some(known) = self.processes.get(&process) else { return };
        let Phase::Draining(status) = known.phase else { return };
        if known.pumps.iter().any(|pump| pump.direction() == Direction::Output) {
            return;
        }
        let container = known.container.clone();
        let kills = self.containers.get(&container).map_or(0, |container| container.cgroup.oom_kills());
        let oom_killed = kills > known.oom_kills;
        self.forget(process);
        self.say(&GuestMessage::Exited { container, process, status, oom_killed });
    }

    /// Kills all processes and unmounts all disks.
    pub(super) fn tear_down(&mut self) {
        for container in self.containers.values() {
            // Whoever waits for a frozen disk cannot be killed.
            container.disks.thaw();
            container.cgroup.kill();
        }
        self.platform.kill_all();
        let deadline = Instant::now() + KILL_TIMEOUT;
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) if Instant::now() < deadline => {
                    let pause = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
                    let _ = poll(&mut [PollFd::new(&self.children, PollFlags::IN)], Some(&pause));
                    let mut information = [0; 128];
                    while rustix::io::read(&self.children, &mut information).is_ok() {}
                }
                Ok(None) => {
                    log::warn("processes survive their kill");
                    break;
                }
                Err(_) => break,
            }
        }
        self.processes.clear();
        self.errands.clear();
        // A freeze that was under way may have come after the thaw.
        self.containers.values().for_each(|container| container.disks.thaw());
        rustix::fs::sync();
        self.containers.clear();
    }
}

fn exit_status(status: WaitStatus) -> Option<ExitStatus> {
    let code = |value: i32| u8::try_from(value).unwrap_or(u8::MAX);
    let exited = status.exit_status().map(|value| ExitStatus::Code(code(value)));
    exited.or_else(|| status.terminating_signal().map(|value| ExitStatus::Signal(code(value))))
}
