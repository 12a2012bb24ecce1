//! The state machine of a session, apart from its connections and its clock.
//!
//! ```text
//!              Hello (version equal)            PoweringOff (asked for)
//!  Handshake ──────────────────────▶ Ready ──────────────────────────────▶ Ended
//!      │                             │   │            Fatal                  ▲
//!      └── anything else: error      │   └─────────────────────────────────────┘
//!          deadline: error           │
//!                                    │ per container   Creating ─▶ Created | (forgotten: CreateFailed)
//!                                    │ per process     Starting ─▶ Connecting ─▶ Running ─▶ (forgotten: Exited)
//!                                    │                     └────▶ (forgotten: SpawnFailed)
//!                                    │ per question    see `questions`
//! ```
//!
//! A process is `Connecting` while the guest says that it runs and not all of its streams are here: the
//! connections are independent of each other, so they may be seen in any order. `Spawned` (and an `Exited` that
//! came meanwhile) is reported when the last one is here.
//!
//! What the host may ask for is in `requests`.

mod requests;

use std::collections::BTreeMap;
use std::mem;
use std::time::{Duration, Instant};

use protocol::{ContainerId, ExitStatus, GuestMessage, ProcessId, SpawnError, StreamToken, VERSION};

pub use requests::MAX_PROCESSES;

use crate::questions::{Misfit, Questions};
use crate::{Awaited, Event, GuestError, Streams};

/// Most bytes of a text from the guest that are kept.
pub const MAX_TEXT: usize = 4096;

/// How long the guest may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From the start of the session to Hello: the boot.
    pub hello: Duration,
    /// To set a container up.
    pub create: Duration,
    /// What a container with volumes that want a copy of the image's content may take in addition.
    pub copy_up: Duration,
    /// To start a process, and then to connect its streams.
    pub spawn: Duration,
    /// To answer a question. One that takes longer is answered by a refusal; the session goes on.
    pub answer: Duration,
    /// To kill, sync and unmount.
    pub power_off: Duration,
}

impl Default for Timeouts {
    /// Generous, for emulated machines on busy hosts.
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { hello: minute, create: minute, copy_up: 30 * minute, spawn: minute, answer: minute, power_off: minute }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Handshake,
    Ready,
    Ended,
}

#[derive(Debug)]
enum Container {
    Creating { until: Instant },
    Created,
}

#[derive(Debug)]
struct Process<S> {
    container: ContainerId,
    terminal: bool,
    /// In the order stdin, stdout, stderr; a terminal uses the first.
    slots: [Slot<S>; 3],
    state: ProcessState,
}

#[derive(Debug)]
enum Slot<S> {
    Unused,
    Expected(StreamToken),
    Connected(S),
}

#[derive(Debug)]
enum ProcessState {
    Starting { until: Instant },
    Connecting { until: Instant, pid: u32, at: u64, exit: Option<(ExitStatus, bool)> },
    Running,
}

/// The host's side of the conversation with one guest; `S` is a connection.
///
/// After an error it has ended and is of no further use.
#[derive(Debug)]
pub struct Conversation<S> {
    phase: Phase,
    timeouts: Timeouts,
    hello_until: Instant,
    power_off_until: Option<Instant>,
    containers: BTreeMap<ContainerId, Container>,
    processes: BTreeMap<ProcessId, Process<S>>,
    last_process: u32,
    questions: Questions,
}

impl<S> Conversation<S> {
    /// A conversation that waits for Hello.
    #[must_use]
    pub fn new(timeouts: Timeouts, now: Instant) -> Self {
        Self {
            phase: Phase::Handshake,
            timeouts,
            hello_until: now + timeouts.hello,
            power_off_until: None,
            containers: BTreeMap::new(),
            processes: BTreeMap::new(),
            last_process: 0,
            questions: Questions::default(),
        }
    }

    /// Whether it waits for Hello.
    #[must_use]
    pub fn in_handshake(&self) -> bool {
        self.phase == Phase::Handshake
    }

    /// Whether it is over.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Whether any stream is expected: if not, no stdio connection has a purpose.
    #[must_use]
    pub fn expects_streams(&self) -> bool {
        self.processes.values().flat_map(|process| &process.slots).any(|slot| matches!(slot, Slot::Expected(_)))
    }

    /// Ends it, whatever its state. Connections that it holds are dropped.
    pub fn end(&mut self) {
        self.phase = Phase::Ended;
        self.power_off_until = None;
        self.containers.clear();
        self.processes.clear();
        self.questions.clear();
    }

    /// Takes a message of the guest. Events are appended in order.
    ///
    /// # Errors
    ///
    /// The message does not fit the state; the conversation has then ended.
    pub fn receive(
        &mut self,
        message: GuestMessage,
        now: Instant,
        events: &mut Vec<Event<S>>,
    ) -> Result<(), GuestError> {
        let result = match self.phase {
            Phase::Handshake => self.receive_hello(message, events),
            Phase::Ready => self.receive_ready(message, now, events),
            Phase::Ended => Err(GuestError::OutOfOrder { message: name(&message), when: "after its farewell" }),
        };
        if result.is_err() {
            self.end();
        }
        result
    }

    fn receive_hello(&mut self, message: GuestMessage, events: &mut Vec<Event<S>>) -> Result<(), GuestError> {
        let mut hello = match message {
            GuestMessage::Hello(hello) => hello,
            GuestMessage::Fatal { error } => {
                self.farewell(Event::Fatal { error: clean(&error) }, events);
                return Ok(());
            }
            other => return Err(GuestError::OutOfOrder { message: name(&other), when: "before its Hello" }),
        };
        if hello.version != VERSION {
            return Err(GuestError::Version { host: VERSION, guest: hello.version });
        }
        hello.kernel_release = clean(&hello.kernel_release);
        self.phase = Phase::Ready;
        events.push(Event::Hello(hello));
        Ok(())
    }

    fn receive_ready(
        &mut self,
        message: GuestMessage,
        now: Instant,
        events: &mut Vec<Event<S>>,
    ) -> Result<(), GuestError> {
        let what = name(&message);
        let out_of_order = |when| Err(GuestError::OutOfOrder { message: what, when });
        match message {
            GuestMessage::Hello(_) => return out_of_order("twice"),
            GuestMessage::Created { container } => {
                match self.containers.get_mut(&container) {
                    Some(state @ Container::Creating { .. }) => *state = Container::Created,
                    _ => return out_of_order("for a container that is not being set up"),
                }
                events.push(Event::Created { container });
            }
            GuestMessage::CreateFailed { container, error } => {
                if !matches!(self.containers.get(&container), Some(Container::Creating { .. })) {
                    return out_of_order("for a container that is not being set up");
                }
                self.containers.remove(&container);
                events.push(Event::CreateFailed { container, error: clean(&error) });
            }
            GuestMessage::Spawned { container, process, pid, at } => {
                let until = now + self.timeouts.spawn;
                match self.process(&container, process).map(|known| &mut known.state) {
                    Some(state @ ProcessState::Starting { .. }) => {
                        *state = ProcessState::Connecting { until, pid, at, exit: None };
                    }
                    _ => return out_of_order("for a process that is not being started"),
                }
                self.settle(process, events);
            }
            GuestMessage::SpawnFailed { container, process, error } => {
                let known = self.process(&container, process);
                if !known.is_some_and(|known| matches!(known.state, ProcessState::Starting { .. })) {
                    return out_of_order("for a process that is not being started");
                }
                self.processes.remove(&process);
                events.push(Event::SpawnFailed { container, process, error: clean_spawn_error(error) });
            }
            GuestMessage::Exited { container, process, status, oom_killed } => {
                match self.process(&container, process).map(|known| &mut known.state) {
                    Some(ProcessState::Running) => {
                        self.processes.remove(&process);
                        events.push(Event::Exited { container, process, status, oom_killed });
                    }
                    Some(ProcessState::Connecting { exit: exit @ None, .. }) => *exit = Some((status, oom_killed)),
                    _ => return out_of_order("for a process that is not running"),
                }
            }
            GuestMessage::Answer { container, request, answer } => {
                match self.questions.answer(&container, request, answer) {
                    Ok(Some(reply)) => events.push(Event::Answered { container, request, reply }),
                    Ok(None) => {}
                    Err(Misfit(why)) => return out_of_order(why),
                }
            }
            GuestMessage::Fatal { error } => self.farewell(Event::Fatal { error: clean(&error) }, events),
            GuestMessage::PoweringOff if self.power_off_until.is_some() => self.farewell(Event::PoweringOff, events),
            GuestMessage::PoweringOff => return out_of_order("without being asked"),
        }
        Ok(())
    }

    fn farewell(&mut self, event: Event<S>, events: &mut Vec<Event<S>>) {
        self.end();
        events.extend([event, Event::Ended]);
    }

    fn process(&mut self, container: &ContainerId, process: ProcessId) -> Option<&mut Process<S>> {
        self.processes.get_mut(&process).filter(|known| known.container == *container)
    }

    /// Takes a stdio connection that showed a token.
    ///
    /// # Errors
    ///
    /// Gives the connection back if no stream waits for this token.
    pub fn connect(&mut self, token: &StreamToken, connection: S, events: &mut Vec<Event<S>>) -> Result<(), S> {
        let mut found = None;
        for (process, known) in &self.processes {
            for (index, slot) in known.slots.iter().enumerate() {
                if let Slot::Expected(expected) = slot
                    && equal_in_constant_time(&expected.0, &token.0)
                {
                    found = Some((*process, index));
                }
            }
        }
        let slot = found.and_then(|(process, index)| self.processes.get_mut(&process)?.slots.get_mut(index));
        let (Some(slot), Some((process, _))) = (slot, found) else { return Err(connection) };
        *slot = Slot::Connected(connection);
        self.settle(process, events);
        Ok(())
    }

    /// Reports a process as spawned if the guest said so and its streams are here.
    fn settle(&mut self, process: ProcessId, events: &mut Vec<Event<S>>) {
        let Some(known) = self.processes.get_mut(&process) else { return };
        if known.slots.iter().any(|slot| matches!(slot, Slot::Expected(_))) {
            return;
        }
        let ProcessState::Connecting { pid, at, exit, .. } = known.state else { return };
        let [stdin, stdout, stderr] = mem::replace(&mut known.slots, [Slot::Unused, Slot::Unused, Slot::Unused])
            .map(|slot| if let Slot::Connected(connection) = slot { Some(connection) } else { None });
        let streams = match stdin {
            Some(terminal) if known.terminal => Streams::Terminal(terminal),
            stdin => Streams::Pipes { stdin, stdout, stderr },
        };
        known.state = ProcessState::Running;
        let container = known.container.clone();
        events.push(Event::Spawned { container: container.clone(), process, pid, at, streams });
        if let Some((status, oom_killed)) = exit {
            self.processes.remove(&process);
            events.push(Event::Exited { container, process, status, oom_killed });
        }
    }

    /// The guest stood still for so long: it gets that time back, whatever it is awaited for.
    pub fn postpone(&mut self, by: Duration) {
        let creating = self.containers.values_mut().filter_map(|state| match state {
            Container::Creating { until } => Some(until),
            Container::Created => None,
        });
        let starting = self.processes.values_mut().filter_map(|known| match &mut known.state {
            ProcessState::Starting { until } | ProcessState::Connecting { until, .. } => Some(until),
            ProcessState::Running => None,
        });
        let own = [Some(&mut self.hello_until), self.power_off_until.as_mut()].into_iter().flatten();
        for until in own.chain(creating).chain(starting) {
            *until += by;
        }
        self.questions.postpone(by);
    }

    /// When [`Conversation::expire`] has to be called if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.running_deadlines().map(|(until, _)| until).chain(self.questions.deadline()).min()
    }

    /// Ends the conversation if the guest was too slow, and refuses questions that it did not answer in time.
    ///
    /// # Errors
    ///
    /// [`GuestError::Deadline`] if a deadline is not after `now`.
    pub fn expire(&mut self, now: Instant, events: &mut Vec<Event<S>>) -> Result<(), GuestError> {
        let refused = self.questions.expire(now).into_iter();
        events.extend(refused.map(|(container, request, reply)| Event::Answered { container, request, reply }));
        let passed = self.running_deadlines().filter(|(until, _)| *until <= now).min_by_key(|(until, _)| *until);
        let Some((_, awaited)) = passed else { return Ok(()) };
        self.end();
        Err(GuestError::Deadline(awaited))
    }

    fn running_deadlines(&self) -> impl Iterator<Item = (Instant, Awaited)> + '_ {
        let hello = self.in_handshake().then_some((self.hello_until, Awaited::Hello));
        let power_off = self.power_off_until.map(|until| (until, Awaited::PoweringOff));
        let containers = self.containers.iter().filter_map(|(container, state)| match state {
            Container::Creating { until } => Some((*until, Awaited::Created(container.clone()))),
            Container::Created => None,
        });
        let processes = self.processes.iter().filter_map(|(process, known)| match known.state {
            ProcessState::Starting { until } => Some((until, Awaited::Spawned(*process))),
            ProcessState::Connecting { until, .. } => Some((until, Awaited::Streams(*process))),
            ProcessState::Running => None,
        });
        hello.into_iter().chain(power_off).chain(containers).chain(processes)
    }
}

/// Compares secrets without an early exit, so that the time tells nothing about the first differing byte.
fn equal_in_constant_time(left: &[u8; 16], right: &[u8; 16]) -> bool {
    let difference = left.iter().zip(right).fold(0, |difference, (left, right)| difference | (left ^ right));
    std::hint::black_box(difference) == 0
}

/// A text of the guest, fit for a log or a terminal.
pub(crate) fn clean(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

fn clean_spawn_error(error: SpawnError) -> SpawnError {
    match error {
        SpawnError::NotFound(text) => SpawnError::NotFound(clean(&text)),
        SpawnError::NotExecutable(text) => SpawnError::NotExecutable(clean(&text)),
        SpawnError::UnknownUser(text) => SpawnError::UnknownUser(clean(&text)),
        SpawnError::WorkingDirectory(text) => SpawnError::WorkingDirectory(clean(&text)),
        SpawnError::Other(text) => SpawnError::Other(clean(&text)),
    }
}

fn name(message: &GuestMessage) -> &'static str {
    match message {
        GuestMessage::Hello(_) => "Hello",
        GuestMessage::Created { .. } => "Created",
        GuestMessage::CreateFailed { .. } => "CreateFailed",
        GuestMessage::Spawned { .. } => "Spawned",
        GuestMessage::SpawnFailed { .. } => "SpawnFailed",
        GuestMessage::Exited { .. } => "Exited",
        GuestMessage::Answer { .. } => "Answer",
        GuestMessage::Fatal { .. } => "Fatal",
        GuestMessage::PoweringOff => "PoweringOff",
    }
}
