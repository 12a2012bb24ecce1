//! The loop of guest init: what the host says, what children say, whose streams can move, who ended.
//!
//! `starts`: of processes. `questions`: what the host asks. `endings`: of processes, containers and the machine.

mod endings;
mod questions;
mod starts;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use protocol::{
    ContainerConfig, ContainerId, FrameBuffer, GuestMessage, HostMessage, ProcessId, RequestId, SpawnError,
    encode_frame,
};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::channel::{Heard, Listener};
use crate::container::{self, Container, State};
use crate::errand::Errand;
use crate::failure::{Context, Failure, Result};
use crate::platform::Platform;
use crate::process::{Phase, Process};
use crate::pump;
use crate::{log, sys};

/// Most bytes of an error that are sent: errors name paths and values that may be long.
const MAX_ERROR: usize = 2048;

/// How long the host may take to see that the machine powers off.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);

/// Whom an event of epoll is for.
#[derive(Debug, Clone)]
enum Role {
    Control,
    Children,
    Container(ContainerId),
    Process(ProcessId),
    Errand(RequestId),
}

const CONTROL: u64 = 0;
const CHILDREN: u64 = 1;

/// Guest init, after its Hello.
#[derive(Debug)]
pub(crate) struct Agent<'a> {
    platform: &'a dyn Platform,
    control: OwnedFd,
    frames: FrameBuffer,
    epoll: OwnedFd,
    children: OwnedFd,
    own_program: OwnedFd,
    own_namespaces: OwnedFd,
    roles: BTreeMap<u64, Role>,
    last_key: u64,
    containers: BTreeMap<ContainerId, Container>,
    processes: BTreeMap<ProcessId, Process>,
    errands: BTreeMap<RequestId, Errand>,
    chunk: Vec<u8>,
}

/// Why the loop ends.
enum End {
    /// The host said so.
    PowerOff,
    /// The host is gone.
    Lost,
    /// It cannot go on.
    Fatal(Failure),
}

impl<'a> Agent<'a> {
    /// Takes over a control connection on which Hello was said. Every signal must be blocked, `/proc` mounted.
    ///
    /// # Errors
    ///
    /// A sentence.
    pub(crate) fn new(platform: &'a dyn Platform, control: OwnedFd) -> Result<Self> {
        let open = |path| {
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
            rustix::fs::open(path, flags, rustix::fs::Mode::empty()).context(|| format!("open {path}"))
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context(|| "make an epoll".to_owned())?;
        let children = sys::child_signals().context(|| "make a signalfd".to_owned())?;
        let watch = |fd: &OwnedFd, key| {
            epoll::add(&epoll, fd, EventData::new_u64(key), EventFlags::IN).context(|| "watch".to_owned())
        };
        watch(&control, CONTROL)?;
        watch(&children, CHILDREN)?;
        Ok(Self {
            platform,
            control,
            frames: FrameBuffer::new(),
            epoll,
            children,
            own_program: open("/proc/self/exe")?,
            own_namespaces: open("/proc/self/ns/pid")?,
            roles: BTreeMap::from([(CONTROL, Role::Control), (CHILDREN, Role::Children)]),
            last_key: CHILDREN,
            containers: BTreeMap::new(),
            processes: BTreeMap::new(),
            errands: BTreeMap::new(),
            chunk: vec![0; pump::CHUNK],
        })
    }

    /// Serves the host until the machine is powered off, and resets it.
    pub(crate) fn run(mut self) -> ! {
        let end = loop {
            if let Err(end) = self.turn() {
                break end;
            }
        };
        match end {
            End::PowerOff => {
                self.tear_down();
                self.say(&GuestMessage::PoweringOff);
            }
            End::Lost => self.tear_down(),
            End::Fatal(failure) => {
                log::warn(&failure.0);
                self.say(&GuestMessage::Fatal { error: shorten(failure.0) });
                self.tear_down();
            }
        }
        farewell(&self.control);
        self.platform.reset()
    }

    fn turn(&mut self) -> std::result::Result<(), End> {
        let mut events = Vec::with_capacity(64);
        let timeout = self.timeout();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(End::Fatal(Failure(format!("wait for events: {errno}")))),
        }
        for event in events {
            // An earlier event of this turn may have ended what this one is for.
            let key = event.data.u64();
            match self.roles.get(&key).cloned() {
                Some(Role::Control) => self.read_control()?,
                Some(Role::Children) => self.reap(),
                Some(Role::Container(container)) => self.hear_container(&container),
                Some(Role::Process(process)) => self.serve_process(process, key),
                Some(Role::Errand(request)) => self.hear_errand(request),
                None => {}
            }
        }
        if timeout.is_some() {
            self.look_at_the_clock();
        }
        Ok(())
    }

    /// How long nothing needs to be done.
    fn timeout(&self) -> Option<Timespec> {
        let errands = self.errands.values().map(|errand| errand.until);
        let next = errands.chain(self.processes.values().filter_map(|process| process.until)).min()?;
        // A millisecond more than needed, never a busy loop.
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(left).ok()
    }

    /// Gives up what takes too long.
    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        let late = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        let errands: Vec<RequestId> =
            self.errands.iter().filter(|(_, errand)| late(Some(errand.until))).map(|(request, _)| *request).collect();
        errands.into_iter().for_each(|request| self.give_errand_up(request));
        let processes: Vec<ProcessId> =
            self.processes.iter().filter(|(_, known)| late(known.until)).map(|(process, _)| *process).collect();
        processes.into_iter().for_each(|process| self.process_is_late(process));
    }

    fn read_control(&mut self) -> std::result::Result<(), End> {
        match rustix::io::read(&self.control, &mut self.chunk) {
            Ok(0) => return Err(End::Lost),
            Ok(length) => self.frames.extend(self.chunk.get(..length).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(_) => return Err(End::Lost),
        }
        loop {
            match self.frames.take_message::<HostMessage>() {
                Ok(Some(message)) => self.obey(message)?,
                Ok(None) => return Ok(()),
                Err(error) => return Err(End::Fatal(Failure(format!("message of the host: {error}")))),
            }
        }
    }

    fn obey(&mut self, message: HostMessage) -> std::result::Result<(), End> {
        match message {
            HostMessage::Create { container, config } => self.create(container, &config),
            HostMessage::Spawn { container, process, spec, stdio } => self.spawn(container, process, &spec, &stdio),
            HostMessage::Signal { container, process, signal } => self.signal(&container, process, signal),
            HostMessage::Resize { container, process, size } => {
                let process = self.processes.get(&process).filter(|process| process.container == container);
                if let Some(terminal) = process.and_then(|process| process.terminal.as_ref()) {
                    terminal.resize(size);
                }
            }
            HostMessage::Ask { container, request, question } => self.ask(container, request, &question),
            HostMessage::PowerOff => return Err(End::PowerOff),
        }
        Ok(())
    }

    /// Sends a message, waiting for the host to take it. What cannot be sent is found by the next read.
    fn say(&self, message: &GuestMessage) {
        let Ok(frame) = encode_frame(message) else { return };
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            match rustix::net::send(&self.control, rest, rustix::net::SendFlags::NOSIGNAL) {
                Ok(length) => rest = rest.get(length..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(&self.control, PollFlags::OUT)], None)),
                Err(_) => return,
            }
        }
    }

    fn watch(&mut self, listener: &Listener, role: Role) -> Result<()> {
        let key = self.new_key(role);
        epoll::add(&self.epoll, &listener.channel, EventData::new_u64(key), EventFlags::IN)
            .context(|| "watch a child".to_owned())
    }

    fn new_key(&mut self, role: Role) -> u64 {
        self.last_key += 1;
        self.roles.insert(self.last_key, role);
        self.last_key
    }

    fn forget_container_keys(&mut self, container: &ContainerId) {
        self.roles.retain(|_, role| !matches!(role, Role::Container(known) if known == container));
    }

    fn forget_process_keys(&mut self, process: ProcessId) {
        self.roles.retain(|_, role| !matches!(role, Role::Process(known) if *known == process));
    }

    // Containers.

    fn create(&mut self, id: ContainerId, config: &ContainerConfig) {
        let made = if !container::is_valid(&id) {
            Err(Failure("the container's name is not one of a container".to_owned()))
        } else if self.containers.contains_key(&id) {
            Err(Failure("the container exists".to_owned()))
        } else {
            Container::create(self.platform, &id, config, &self.own_program)
        };
        let watched = made.and_then(|container| {
            if let State::SettingUp(listener) = &container.state {
                self.watch(listener, Role::Container(id.clone()))?;
            }
            Ok(container)
        });
        match watched {
            Ok(container) => drop(self.containers.insert(id, container)),
            Err(failure) => self.say(&GuestMessage::CreateFailed { container: id, error: shorten(failure.0) }),
        }
    }

    /// The first process of a container says how its set-up went, or died.
    fn hear_container(&mut self, id: &ContainerId) {
        let Some(known) = self.containers.get_mut(id) else { return };
        let (State::SettingUp(listener) | State::Ready(listener)) = &mut known.state else { return };
        let Some(heard) = listener.listen() else { return };
        let is_set_up = matches!(known.state, State::Ready(_));
        match (heard, std::mem::replace(&mut known.state, State::Over)) {
            (Heard::SetUp(Ok(())), State::SettingUp(listener)) => {
                known.state = State::Ready(listener);
                self.say(&GuestMessage::Created { container: id.clone() });
            }
            (Heard::SetUp(Err(error)), _) => {
                self.forget_container_keys(id);
                self.say(&GuestMessage::CreateFailed { container: id.clone(), error: shorten(error) });
            }
            _ => {
                self.forget_container_keys(id);
                known_dead(self, id, is_set_up);
            }
        }
    }

    // Processes.

    fn signal(&mut self, container: &ContainerId, process: ProcessId, signal: u8) {
        let Some(known) = self.processes.get_mut(&process).filter(|known| known.container == *container) else {
            return;
        };
        match &mut known.phase {
            _ if !(1..=64).contains(&signal) => {}
            // One of each kind is as good as many.
            Phase::Starting { signals, .. } if !signals.contains(&signal) => signals.push(signal),
            // It is not reaped, so its pid is its own.
            Phase::Running => drop(sys::kill(known.pid.as_raw_pid(), signal.into())),
            Phase::Starting { .. } | Phase::Draining(_) => {}
        }
    }

    fn serve_process(&mut self, process: ProcessId, key: u64) {
        let is_pump = |known: &Process| known.pumps.iter().any(|pump| pump.key() == key);
        if self.processes.get(&process).is_some_and(is_pump) {
            self.run_pumps(process, Some(key));
            self.finish_if_drained(process);
        } else {
            self.hear_process(process);
        }
    }

    /// Runs one pump of a process, or all.
    fn run_pumps(&mut self, process: ProcessId, key: Option<u64>) {
        let Some(known) = self.processes.get_mut(&process) else { return };
        let (epoll, chunk, roles, cut) = (&self.epoll, &mut self.chunk, &mut self.roles, known.cut);
        known.pumps.retain_mut(|pump| {
            if key.is_some_and(|key| key != pump.key()) {
                return true;
            }
            let goes_on = pump.run(epoll, chunk) && !(cut && pump.end_if_idle(epoll));
            if !goes_on {
                roles.remove(&pump.key());
            }
            goes_on
        });
    }

    fn forget(&mut self, process: ProcessId) {
        if let Some(mut known) = self.processes.remove(&process) {
            known.pumps.iter_mut().for_each(|pump| pump.cancel(&self.epoll));
        }
        self.forget_process_keys(process);
    }
}

/// The first process of a container ended without a word.
fn known_dead(agent: &mut Agent<'_>, id: &ContainerId, was_set_up: bool) {
    if !was_set_up {
        let error = "the process that sets the container up died".to_owned();
        agent.say(&GuestMessage::CreateFailed { container: id.clone(), error });
    }
}

/// Tells the host that nothing follows, and waits for it to have seen that.
fn farewell(control: &OwnedFd) {
    let _ = rustix::net::shutdown(control, rustix::net::Shutdown::Write);
    let deadline = Instant::now() + FAREWELL_TIMEOUT;
    let mut rest = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else { return };
        match poll(&mut [PollFd::new(control, PollFlags::IN)], Some(&left)) {
            Ok(0) => return,
            Ok(_) if matches!(rustix::io::read(control, &mut rest), Ok(1..)) => {}
            Ok(_) => return,
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// `CLOCK_MONOTONIC`, nanoseconds.
pub(crate) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let [seconds, nanoseconds] = [time.tv_sec, time.tv_nsec].map(|part| u64::try_from(part).unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

fn shorten(mut text: String) -> String {
    if text.len() > MAX_ERROR {
        let end = (0..=MAX_ERROR).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

fn shorten_spawn_error(error: SpawnError) -> SpawnError {
    match error {
        SpawnError::NotFound(text) => SpawnError::NotFound(shorten(text)),
        SpawnError::NotExecutable(text) => SpawnError::NotExecutable(shorten(text)),
        SpawnError::UnknownUser(text) => SpawnError::UnknownUser(shorten(text)),
        SpawnError::WorkingDirectory(text) => SpawnError::WorkingDirectory(shorten(text)),
        SpawnError::Other(text) => SpawnError::Other(shorten(text)),
    }
}
