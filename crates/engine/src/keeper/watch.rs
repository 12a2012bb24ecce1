//! The keeper's loop: one thread, one `poll`, and steps that never block.

use std::{
    os::fd::{AsFd, BorrowedFd},
    os::unix::net::UnixStream,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use guest::{Event, GuestError, Session, StdioRequest, Streams, Timeouts};
use monitor::{Machine, MachineEnd, Tools, VsockError};
use protocol::{ContainerConfig, ContainerId, ProcessId, TerminalSize};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    Launch,
    clients::{Clients, Pipes, Request},
    record::Records,
    relay::Pump,
    wire::{FromKeeper, OutputStream, ToKeeper},
};
use crate::{
    ending::{Ending, last_lines},
    error::{self, Error},
    home,
    timings::{self, Timings},
};

/// How long output may take to arrive after the guest said that all of it was sent.
const LATE_OUTPUT: Duration = Duration::from_secs(5);

/// How long a machine whose guest fell silent may take to tell why.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A machine as the keeper needs it.
pub(super) trait Hull {
    /// Readable once it has ended.
    fn ended_fd(&self) -> BorrowedFd<'_>;
    /// Readable when the guest has connected.
    fn vsock_fd(&self) -> BorrowedFd<'_>;
    /// A connection of the guest.
    fn try_accept(&self) -> Result<Option<(u32, UnixStream)>, VsockError>;
    /// How it ended, if it has.
    fn wait(&self, deadline: Instant) -> Option<MachineEnd>;
    /// Ends it.
    fn stop(&self) -> MachineEnd;
    /// When its vCPUs started.
    fn started_at(&self) -> Option<u64>;
    /// The guest kernel's log.
    fn kernel_log(&self) -> Option<Vec<u8>>;
}

impl Hull for Machine {
    fn ended_fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn vsock_fd(&self) -> BorrowedFd<'_> {
        self.vsock().as_fd()
    }

    fn try_accept(&self) -> Result<Option<(u32, UnixStream)>, VsockError> {
        self.vsock().try_accept()
    }

    fn wait(&self, deadline: Instant) -> Option<MachineEnd> {
        Self::wait(self, Some(deadline))
    }

    fn stop(&self) -> MachineEnd {
        Self::stop(self)
    }

    fn started_at(&self) -> Option<u64> {
        self.timings().started
    }

    fn kernel_log(&self) -> Option<Vec<u8>> {
        Self::kernel_log(self)
    }
}

/// Where a container is between launch and record. The diagram is in the [parent module](super).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Phase {
    Booting,
    SettingUp,
    Spawning,
    Running,
    /// Ended; its output still flows.
    Draining,
    PoweringOff,
    /// The machine is gone, or about to be stopped.
    Over,
}

/// The process's streams on this side. A terminal's both directions count as input and standard output.
#[derive(Debug, Default)]
struct Stdio {
    input: Option<Pump>,
    stdout: Option<Pump>,
    stderr: Option<Pump>,
    /// Bytes of output so far.
    received: u64,
}

impl Stdio {
    fn connect(streams: Streams, pipes: Pipes) -> std::io::Result<Self> {
        Ok(match streams {
            Streams::Pipes { stdin, stdout, stderr } => Self {
                // Input without a writer ends at once: the guest's end closes here.
                input: stdin.and_then(|guest| Some(Pump::input(pipes.stdin?, guest))),
                stdout: stdout.map(|guest| Pump::output(guest, pipes.stdout)),
                stderr: stderr.map(|guest| Pump::output(guest, pipes.stderr)),
                received: 0,
            },
            Streams::Terminal(terminal) => Self {
                input: match pipes.stdin {
                    Some(pipe) => Some(Pump::terminal_input(pipe, terminal.try_clone()?)),
                    None => None,
                },
                stdout: Some(Pump::output(terminal, pipes.stdout)),
                stderr: None,
                received: 0,
            },
        })
    }

    fn all(&self) -> impl Iterator<Item = &Pump> {
        [&self.input, &self.stdout, &self.stderr].into_iter().flatten()
    }

    fn advance(&mut self) {
        let outputs_moved =
            |stdio: &Self| -> u64 { [&stdio.stdout, &stdio.stderr].into_iter().flatten().map(Pump::moved).sum() };
        let before = outputs_moved(self);
        for pump in [&mut self.input, &mut self.stdout, &mut self.stderr].into_iter().flatten() {
            pump.advance();
        }
        self.received += outputs_moved(self) - before;
        for pump in [&mut self.input, &mut self.stdout, &mut self.stderr] {
            if pump.as_ref().is_some_and(Pump::is_done) {
                *pump = None;
            }
        }
    }

    fn outputs_are_done(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    /// Whether output waits for its reader, not for the guest.
    fn output_is_held_up(&self) -> bool {
        [&self.stdout, &self.stderr].into_iter().flatten().any(Pump::is_held_up)
    }
}

/// One container from launch to record.
#[derive(Debug)]
pub(super) struct Keeper<'a, M> {
    launch: &'a Launch,
    records: Records<'a>,
    machine: M,
    machine_ended: bool,
    vsock_open: bool,
    session: Session,
    clients: Clients,
    pipes: Pipes,
    stdio: Stdio,
    terminal_size: TerminalSize,
    process: Option<ProcessId>,
    phase: Phase,
    /// The end, once it is known. Its timings are filled in last.
    ending: Option<Ending>,
    timings: Timings,
    /// When output last moved, for [`LATE_OUTPUT`].
    moved: (u64, Instant),
}

impl Keeper<'_, Machine> {
    /// Runs a container to its end, and tells everyone.
    pub(super) fn keep(launch: &Launch, mut clients: Clients) {
        let (ending, ran) = match set_up(launch, &mut clients) {
            Ok(machine) => match Session::new(Timeouts::default()) {
                Ok(session) => {
                    let (ending, kept) = Keeper::new(launch, machine, session, clients).run();
                    clients = kept;
                    (ending, true)
                }
                Err(error) => (Ending::engine_error(error.to_string()), false),
            },
            Err(error) => (Ending::engine_error(error::chain(&error)), false),
        };
        // What never had a machine is not worth a record.
        let remove = launch.auto_remove || !ran;
        let mut ending = ending;
        if let Err(error) = Records::new(launch).ended(&ending, remove) {
            let text = format!("the end cannot be recorded: {}", error::chain(&error));
            ending.error = Some(ending.error.map_or(text.clone(), |own| format!("{own}; {text}")));
        }
        clients.farewell(&FromKeeper::Ended(Box::new(ending)));
    }
}

/// The machine, the socket and the record that says so.
fn set_up(launch: &Launch, clients: &mut Clients) -> Result<Machine, Error> {
    let tools = Tools { vmm: launch.vmm.clone(), emulator: launch.emulator.clone() };
    let machine = monitor::launch(launch.plan.machine.clone(), launch.accelerator, &tools)?;
    let directory = launch.home.run_container(&launch.id);
    home::make_private(&directory).map_err(|source| Error::home("make", &directory, source))?;
    let socket = launch.home.control_socket(&launch.id);
    clients.listen(&socket).map_err(|source| Error::home("listen on", &socket, source))?;
    Records::new(launch).take_over(machine.processes())?;
    Ok(machine)
}

impl<'a, M: Hull> Keeper<'a, M> {
    pub(super) fn new(launch: &'a Launch, machine: M, session: Session, clients: Clients) -> Self {
        Self {
            launch,
            records: Records::new(launch),
            machine,
            machine_ended: false,
            vsock_open: true,
            session,
            clients,
            pipes: Pipes::default(),
            stdio: Stdio::default(),
            terminal_size: launch.terminal_size,
            process: None,
            phase: Phase::Booting,
            ending: None,
            timings: launch.timings,
            moved: (0, Instant::now()),
        }
    }

    /// The loop. Returns how it ended, and the connections to tell.
    pub(super) fn run(mut self) -> (Ending, Clients) {
        while !self.is_finished() {
            self.wait();
            self.hear_clients();
            self.hear_vsock();
            self.hear_guest();
            self.hear_machine();
            self.move_bytes();
            self.settle();
        }
        if !self.machine_ended {
            self.machine.stop();
        }
        self.timings.ended = Some(timings::now());
        let unknown = || Ending::engine_error("the container ended without an ending".to_owned());
        let ending = self.ending.take().unwrap_or_else(unknown);
        (Ending { timings: self.timings, ..ending }, self.clients)
    }

    /// The machine is of no more use, and what it had to say was read.
    fn is_finished(&self) -> bool {
        self.phase == Phase::Over && (self.stdio.outputs_are_done() || !self.machine_ended)
    }

    /// Sleeps until something can be done.
    fn wait(&self) {
        let mut interests = Vec::with_capacity(8);
        if !self.machine_ended {
            interests.push(PollFd::from_borrowed_fd(self.machine.ended_fd(), PollFlags::IN));
            interests.push(PollFd::from_borrowed_fd(self.session.as_fd(), PollFlags::IN));
            if self.vsock_open {
                interests.push(PollFd::from_borrowed_fd(self.machine.vsock_fd(), PollFlags::IN));
            }
        }
        interests.extend(self.stdio.all().filter_map(Pump::interest));
        self.clients.interests(&mut interests);
        let timeout = self.deadline().map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        // An interrupted or failed poll costs one turn of the loop, whose steps find out for themselves.
        let _ = poll(&mut interests, timeout.as_ref());
    }

    fn deadline(&self) -> Option<Instant> {
        let drained =
            (self.phase == Phase::Draining && !self.stdio.output_is_held_up()).then(|| self.moved.1 + LATE_OUTPUT);
        let session = if self.machine_ended { None } else { self.session.deadline() };
        [drained, session].into_iter().flatten().min()
    }

    fn hear_clients(&mut self) {
        for request in self.clients.progress() {
            match request {
                Request::Attach(pipes) => self.pipes = pipes,
                Request::Message(ToKeeper::Signal(signal)) => self.signal(signal),
                Request::Message(ToKeeper::Resize(size)) => self.resize(size),
                Request::Message(ToKeeper::CloseOutput(stream)) => self.close_output(stream),
                Request::Message(ToKeeper::Kill) => self.kill(),
                Request::Message(_) => {}
            }
        }
    }

    fn signal(&mut self, signal: u8) {
        match (self.phase, self.process) {
            (Phase::Running, Some(process)) => {
                // A process that has just ended, or a signal that is none: nothing to do.
                let _ = self.session.signal(process, signal);
            }
            (Phase::Booting | Phase::SettingUp | Phase::Spawning, _) if ends_a_process(signal) => {
                self.over(Ending::interrupted(signal));
            }
            _ => {}
        }
    }

    fn resize(&mut self, size: TerminalSize) {
        self.terminal_size = size;
        if let (Phase::Running, Some(process), true) = (self.phase, self.process, self.launch.plan.tty) {
            let _ = self.session.resize(process, size);
        }
    }

    fn close_output(&mut self, stream: OutputStream) {
        let pump = match stream {
            // A terminal has two directions and one connection: it goes on without a reader.
            OutputStream::Stdout if self.launch.plan.tty => return,
            OutputStream::Stdout => &mut self.stdio.stdout,
            OutputStream::Stderr => &mut self.stdio.stderr,
        };
        if let Some(pump) = pump {
            pump.close();
        }
    }

    fn kill(&mut self) {
        for pump in [&mut self.stdio.input, &mut self.stdio.stdout, &mut self.stdio.stderr].into_iter().flatten() {
            pump.detach();
        }
        self.over(Ending::killed());
    }

    /// The container has ended so, unless it had ended before.
    fn over(&mut self, ending: Ending) {
        self.timings.exited.get_or_insert_with(timings::now);
        self.ending.get_or_insert(ending);
        self.phase = Phase::Over;
    }

    fn hear_vsock(&mut self) {
        while self.vsock_open && !self.machine_ended {
            match self.machine.try_accept() {
                // A connection that cannot be taken is closed; the guest's deadline does the rest.
                Ok(Some((port, stream))) => drop(self.session.offer(port, stream)),
                Ok(None) => return,
                Err(VsockError::Malformed(_)) => {}
                Err(_) => self.vsock_open = false,
            }
        }
    }

    fn hear_guest(&mut self) {
        if self.machine_ended || self.phase == Phase::Over {
            return;
        }
        match self.session.progress() {
            Ok(events) => events.into_iter().for_each(|event| self.guest_event(event)),
            Err(error) => self.guest_failed(&error),
        }
    }

    fn guest_event(&mut self, event: Event) {
        match event {
            Event::Hello(hello) => self.booted(&hello),
            Event::Created { .. } => self.created(),
            Event::CreateFailed { error, .. } => self.over(Ending::of_setup(error)),
            Event::Spawned { process, streams, .. } => self.spawned(process, streams),
            Event::SpawnFailed { error, .. } => self.over(Ending::of_spawn(error)),
            Event::Exited { process, status, oom_killed, .. } if self.process == Some(process) => {
                self.timings.exited.get_or_insert_with(timings::now);
                self.ending.get_or_insert(Ending::of_process(status, oom_killed));
                self.stdio.input = None;
                self.moved.1 = Instant::now();
                self.phase = Phase::Draining;
            }
            Event::Fatal { error } => {
                self.ending.get_or_insert(Ending::of_guest(error));
            }
            Event::Exited { .. } | Event::Answered { .. } | Event::PoweringOff => {}
            Event::Ended => self.guest_is_done(),
        }
    }

    fn booted(&mut self, hello: &protocol::Hello) {
        let now = timings::now();
        self.timings.machine = self.machine.started_at();
        // The guest's clock laid over ours: it said Hello now.
        self.timings.init = Some(now.saturating_sub(hello.sent.saturating_sub(hello.init_started)));
        let container = ContainerId(self.launch.id.clone());
        self.phase = Phase::SettingUp;
        // The plan's clock is from before the boot.
        let config = ContainerConfig { wall_clock: wall_clock(), ..self.launch.plan.container.clone() };
        if let Err(error) = self.session.create(container, config) {
            self.over(Ending::of_setup(error::chain(&error)));
        }
    }

    fn created(&mut self) {
        self.timings.created = Some(timings::now());
        let plan = &self.launch.plan;
        let stdio = if plan.tty {
            StdioRequest::Terminal { size: self.terminal_size }
        } else {
            StdioRequest::Pipes { stdin: plan.stdin, stdout: true, stderr: true }
        };
        self.phase = Phase::Spawning;
        match self.session.spawn(&ContainerId(self.launch.id.clone()), plan.process.clone(), stdio) {
            Ok(process) => self.process = Some(process),
            Err(error) => self.over(Ending::of_setup(error::chain(&error))),
        }
    }

    fn spawned(&mut self, process: ProcessId, streams: Streams) {
        self.timings.spawned = Some(timings::now());
        self.process = Some(process);
        match Stdio::connect(streams, std::mem::take(&mut self.pipes)) {
            Ok(stdio) => self.stdio = stdio,
            Err(error) => return self.over(Ending::engine_error(error.to_string())),
        }
        self.clients.streams_are_taken();
        self.phase = Phase::Running;
        // Before its first byte is passed on: who has seen output finds a container that runs.
        if let Err(error) = self.records.started() {
            return self.over(Ending::engine_error(error::chain(&error)));
        }
        self.clients.tell(&FromKeeper::Started);
    }

    /// The guest said farewell: the machine's end follows.
    fn guest_is_done(&mut self) {
        let end = self.machine.wait(Instant::now() + LAST_WORDS).unwrap_or_else(|| self.machine.stop());
        self.machine_is_gone(&end);
    }

    /// The session is lost. If that is because the machine is, the machine knows better why.
    fn guest_failed(&mut self, error: &GuestError) {
        let dying = matches!(error, GuestError::Disconnected { .. } | GuestError::Io(_));
        if dying && let Some(end) = self.machine.wait(Instant::now() + LAST_WORDS) {
            return self.machine_is_gone(&end);
        }
        let log = self.machine.kernel_log();
        self.machine.stop();
        self.machine_ended = true;
        let booted = self.phase > Phase::Booting;
        let ending = Ending::of_session(error, booted);
        self.over(Ending { kernel_log: log.and_then(|log| last_lines(&log)), ..ending });
    }

    fn hear_machine(&mut self) {
        if !self.machine_ended
            && let Some(end) = self.machine.wait(Instant::now())
        {
            // It may have said something before.
            if let Ok(events) = self.session.progress() {
                events.into_iter().filter(|event| !matches!(event, Event::Ended)).for_each(|e| self.guest_event(e));
            }
            self.machine_is_gone(&end);
        }
    }

    fn machine_is_gone(&mut self, end: &MachineEnd) {
        if !self.machine_ended {
            self.machine_ended = true;
            self.stdio.input = None;
            let booted = self.phase > Phase::Booting;
            self.over(Ending::of_machine(end, booted));
        }
    }

    fn move_bytes(&mut self) {
        self.stdio.advance();
        let received = self.stdio.received;
        if received != self.moved.0 {
            self.moved = (received, Instant::now());
            // The guest tells of the exit after the last byte was sent: the first one came no later, whenever it is read.
            let now = timings::now();
            self.timings.first_byte.get_or_insert(self.timings.exited.map_or(now, |exited| exited.min(now)));
        }
    }

    /// From the end of output to the end of the machine.
    fn settle(&mut self) {
        if self.phase != Phase::Draining {
            return;
        }
        let late = !self.stdio.output_is_held_up() && self.moved.1.elapsed() >= LATE_OUTPUT;
        if !self.stdio.outputs_are_done() && !late {
            return;
        }
        // A scratch disk that is thrown away needs no sync, and a guest that cannot be asked gets none.
        self.phase =
            if self.launch.auto_remove || self.session.power_off().is_err() { Phase::Over } else { Phase::PoweringOff };
    }
}

/// Time since 1970, as the guest takes it.
fn wall_clock() -> (u64, u32) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_nanos())
}

/// Whether a signal ends a process that does nothing about it (signal(7)), or stops it: before a process runs,
/// there is nothing to stop.
fn ends_a_process(signal: u8) -> bool {
    const IGNORED: [u8; 4] = [17, 18, 23, 28];
    const STOPS: [u8; 4] = [19, 20, 21, 22];
    !IGNORED.contains(&signal) && !STOPS.contains(&signal)
}

#[cfg(test)]
mod tests;
