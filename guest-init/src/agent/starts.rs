//! How processes start.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use protocol::{ContainerId, GuestMessage, ProcessId, ProcessSpec, SpawnError, Stdio};
use rustix::event::epoll;
use rustix::process::Pid;

use super::{Agent, Role, now, shorten, shorten_spawn_error};
use crate::channel::{self, Heard, Listener};
use crate::container::{self, Container, State};
use crate::exec::{self, Parts};
use crate::failure::{Context, Failure, Result};
use crate::process::{Phase, Process, Streams};
use crate::pump::Pump;
use crate::sys;

/// How long a further process of a container may take to start: its container may keep it from that, by a FUSE server
/// below `/etc` for one. Less than the host waits.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(30);

impl Agent<'_> {
    pub(super) fn spawn(&mut self, container: ContainerId, process: ProcessId, spec: &ProcessSpec, stdio: &Stdio) {
        if let Err(error) = self.start(&container, process, spec, stdio) {
            self.say(&GuestMessage::SpawnFailed { container, process, error: SpawnError::Other(shorten(error.0)) });
        }
    }

    fn start(&mut self, id: &ContainerId, process: ProcessId, spec: &ProcessSpec, stdio: &Stdio) -> Result<()> {
        if self.processes.contains_key(&process) {
            return Err(Failure("the process exists".to_owned()));
        }
        let container = self.containers.get_mut(id).ok_or_else(|| Failure("no such container".to_owned()))?;
        match container.state {
            State::SettingUp(_) => return Err(Failure("the container is not set up".to_owned())),
            State::Over => return Err(Failure("the container has ended".to_owned())),
            State::Ready(_) | State::Occupied => {}
        }
        let streams = Streams::open(self.platform, stdio, &container.terminals)?;
        let is_terminal = streams.terminal.is_some();
        let mut until = None;
        let (pid, listener) = match std::mem::replace(&mut container.state, State::Occupied) {
            State::Ready(listener) => {
                listener
                    .channel
                    .send_spec(spec, is_terminal, &streams.stdio)
                    .context(|| "hand the specification to the container".to_owned())?;
                // It is watched as the process's from now on.
                let _ = epoll::delete(&self.epoll, &listener.channel);
                (container.first, listener)
            }
            _ => {
                until = Some(Instant::now() + START_TIMEOUT);
                start_another(container, &self.own_program, &self.own_namespaces, spec, &streams)?
            }
        };
        let oom_kills = container.cgroup.oom_kills();
        self.forget_container_keys(id);
        self.watch(&listener, Role::Process(process))?;
        drop(streams.stdio);
        let pumps = streams
            .routes
            .into_iter()
            .map(|(direction, source, sink)| Pump::new(direction, source, sink, self.new_key(Role::Process(process))));
        let pumps = pumps.collect();
        let phase = Phase::Starting { listener, ended: None, signals: Vec::new() };
        let first = until.is_none();
        let (container, terminal) = (id.clone(), streams.terminal);
        let known = Process { container, pid, first, phase, until, cut: false, pumps, terminal, oom_kills };
        self.processes.insert(process, known);
        self.run_pumps(process, None);
        Ok(())
    }

    /// A process that is being started says how it went.
    pub(super) fn hear_process(&mut self, process: ProcessId) {
        let Some(known) = self.processes.get_mut(&process) else { return };
        let Phase::Starting { listener, ended, signals } = &mut known.phase else { return };
        let Some(heard) = listener.listen() else { return };
        let (ended, signals) = (*ended, std::mem::take(signals));
        let container = known.container.clone();
        let error = match heard {
            Heard::Running => {
                known.phase = Phase::Running;
                known.until = None;
                let pid = known.pid;
                let at = now();
                self.forget_listener(process);
                let pid_number = u32::try_from(pid.as_raw_pid()).unwrap_or(0);
                self.say(&GuestMessage::Spawned { container, process, pid: pid_number, at });
                if let Some(status) = ended {
                    self.ended(process, status);
                } else {
                    for signal in signals {
                        let _ = sys::kill(pid.as_raw_pid(), signal.into());
                    }
                }
                return;
            }
            Heard::Failed(error) => error,
            Heard::Died | Heard::SetUp(_) => SpawnError::Other("the process ended before its program ran".to_owned()),
        };
        self.forget(process);
        self.say(&GuestMessage::SpawnFailed { container, process, error: shorten_spawn_error(error) });
    }

    /// A process takes too long to start, or its output does not end after it did.
    pub(super) fn process_is_late(&mut self, process: ProcessId) {
        let Some(known) = self.processes.get_mut(&process) else { return };
        known.until = None;
        if let Phase::Draining(_) = known.phase {
            known.cut = true;
            self.run_pumps(process, None);
            self.finish_if_drained(process);
            return;
        }
        if !known.has_ended() {
            let _ = sys::kill(known.pid.as_raw_pid(), libc::SIGKILL);
        }
        let container = known.container.clone();
        self.forget(process);
        let error = SpawnError::Other(format!("the process did not start within {} s", START_TIMEOUT.as_secs()));
        self.say(&GuestMessage::SpawnFailed { container, process, error });
    }

    /// Drops what is kept of a listener, which is dropped with its phase.
    fn forget_listener(&mut self, process: ProcessId) {
        let Some(known) = self.processes.get(&process) else { return };
        let pumps: Vec<u64> = known.pumps.iter().map(Pump::key).collect();
        self.roles
            .retain(|key, role| !matches!(role, Role::Process(owner) if *owner == process) || pumps.contains(key));
    }
}

/// Forks a process into a running container.
fn start_another(
    container: &Container,
    own_program: &OwnedFd,
    own_namespaces: &OwnedFd,
    spec: &ProcessSpec,
    streams: &Streams,
) -> Result<(Pid, Listener)> {
    let (own, child) = channel::pair().context(|| "make a socket pair".to_owned())?;
    let listener = Listener::new(own, false).context(|| "make a socket pair".to_owned())?;
    match container::join(container, own_namespaces, &spec.task)? {
        sys::Fork::Parent(pid) => Ok((pid, listener)),
        sys::Fork::Child => {
            let copy = |fd: &OwnedFd| fd.try_clone().unwrap_or_else(|_| sys::exit(125));
            let [stdin, stdout, stderr] = &streams.stdio;
            let stdio = [copy(stdin), copy(stdout), copy(stderr)];
            let terminal = streams.terminal.is_some();
            let parts = Parts { stdio, terminal, first: false, own_program: copy(own_program), channel: child };
            exec::run_joined(spec, parts, &container.namespaces)
        }
    }
}
