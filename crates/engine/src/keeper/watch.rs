//! The keeper's loop: one thread, one `poll`, and steps that never block.
//!
//! ```text
//!            the machine is over          the policy, or a command, wants it to run again
//!   Living ────────────────────▶ (decide) ───────────────────────────────────────────────▶ Resting
//!     ▲                             │ no                                                      │
//!     │                             ▼                       stop, kill                        │
//!     │                           Over ◀──────────────────────────────────────────────────────┤
//!     └──────────────────────────────────── the pause is over, or a command is in a hurry ────┘
//! ```
//!
//! `Living` is a [`Generation`]. What it tells is passed on here: to the commands, to the record, into the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use guest::{Session, StdioRequest, Timeouts};
use monitor::{Machine, Surroundings, Tools};
use protocol::{ProcessId, ProcessSpec, RequestId, Task};
use rustix::event::{Timespec, poll};

use super::{
    Launch,
    clients::{ClientId, Clients},
    generation::{ExecOutput, Generation, News},
    health::Health,
    hull::Hull,
    memory,
    process::Audience,
    record::Records,
    relay,
    requests::{Asked, Freeze},
    restart::Restarts,
    wire::{FromKeeper, OutputStream},
};
use crate::{
    ending::{Ending, Reason},
    error::{self, Error},
    home, host_limits, process,
    timings::{self, Timings},
    volumes,
};

/// So long after there was more to do than to pass bytes on, memory is given back.
pub(super) const QUIET: Duration = Duration::from_secs(2);

/// Who asked for a further process.
#[derive(Debug)]
pub(super) struct ExecOwner {
    pub(super) client: ClientId,
    pub(super) id: String,
}

/// What is to happen when the process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// As the restart policy has it.
    AsPolicy,
    /// It stays so: someone wished it.
    Stay,
    /// It runs again at once: someone wished it, and waits for that.
    RunAgain(ClientId),
}

/// One container from launch to record.
#[derive(Debug)]
pub(super) struct Keeper<'a, M, F> {
    pub(super) launch: &'a Launch,
    pub(super) records: Records<'a>,
    launcher: F,
    timeouts: Timeouts,
    pub(super) clients: Clients,
    log: Option<logs::Writer>,
    /// What all bytes go through.
    buffer: Vec<u8>,
    pub(super) generation: Option<Generation<'a, M>>,
    /// Who is attached, while no process is there.
    pub(super) audience: Audience,
    /// Whether the launching command has attached, or nobody is to.
    pub(super) attended: bool,
    pub(super) restarts: Restarts,
    pub(super) then: Then,
    /// A command that waits for a restart that is under way.
    pub(super) awaits_start: Option<ClientId>,
    pub(super) health: Option<Health>,
    pub(super) execs: BTreeMap<ProcessId, ExecOwner>,
    /// Connections whose purpose is, or was, a further process.
    pub(super) exec_clients: BTreeSet<ClientId>,
    pub(super) asked: BTreeMap<RequestId, Asked>,
    pub(super) freeze: Option<Freeze>,
    /// When the process started that runs or ran last.
    started: Option<Instant>,
    /// When memory is to be given back; `None`: it was.
    pub(super) quiet: Option<Instant>,
}

/// Runs a container to its end, and tells everyone.
pub(super) fn keep(launch: &Launch, mut clients: Clients) {
    let (mut ending, remove) = match set_up(launch, &mut clients) {
        Ok(machine) => {
            let mut first = Some(machine);
            let launcher = || first.take().map_or_else(|| launch_machine(launch), Ok);
            let (ending, kept) = Keeper::new(launch, launcher, Timeouts::default(), clients).run();
            clients = kept;
            (ending, launch.auto_remove)
        }
        // What never had a machine leaves the record as it was: whoever made it decides.
        Err(error) => (Ending::engine_error(error::chain(&error)), launch.auto_remove),
    };
    if let Err(error) = Records::new(launch).ended(&ending, remove) {
        let text = format!("the end cannot be recorded: {}", error::chain(&error));
        ending.error = Some(ending.error.map_or(text.clone(), |own| format!("{own}; {text}")));
    }
    clients.farewell(&FromKeeper::Ended(Box::new(ending)));
}

/// The machine, the socket and the record that says so.
fn set_up(launch: &Launch, clients: &mut Clients) -> Result<Machine, Error> {
    let machine = launch_machine(launch)?;
    let socket = launch.home.control_socket(&launch.id);
    clients.listen(&socket).map_err(|source| Error::home("listen on", &socket, source))?;
    Records::new(launch).take_over(machine.processes())?;
    Ok(machine)
}

fn launch_machine(launch: &Launch) -> Result<Machine, Error> {
    let tools = Tools { vmm: launch.vmm.clone(), emulator: launch.emulator.clone() };
    let limits = host_limits::of(&launch.id, &launch.plan, launch.accelerator);
    let directory = launch.home.run_container(&launch.id);
    home::make_private(&directory).map_err(|source| Error::home("make", &directory, source))?;
    let file_daemon = launch.file_daemon.as_ref().map(|daemon| daemon.beside(&directory));
    let surroundings = Surroundings { limits: Some(limits), file_daemon };
    let machine = monitor::launch(launch.plan.machine.clone(), launch.accelerator, &tools, surroundings)
        .map_err(|error| volumes::explain(&launch.home, &launch.id, error))?;
    host_limits::keep(&launch.home, &launch.id, machine.confinement());
    Ok(machine)
}

impl<'a, M: Hull, F: FnMut() -> Result<M, Error>> Keeper<'a, M, F> {
    /// A keeper whose machines `launcher` makes.
    pub(super) fn new(launch: &'a Launch, launcher: F, timeouts: Timeouts, clients: Clients) -> Self {
        let limits = logs::Limits { max_size: launch.log.max_size, max_files: launch.log.max_files };
        Self {
            launch,
            records: Records::new(launch),
            launcher,
            timeouts,
            clients,
            log: launch.log.enabled.then(|| logs::Writer::new(&launch.home.container(&launch.id).join("log"), limits)),
            buffer: vec![0; relay::BUFFER],
            generation: None,
            audience: Audience::default(),
            attended: launch.detach,
            restarts: Restarts::new(launch.restart),
            then: Then::AsPolicy,
            awaits_start: None,
            health: None,
            execs: BTreeMap::new(),
            exec_clients: BTreeSet::new(),
            asked: BTreeMap::new(),
            freeze: None,
            started: None,
            quiet: None,
        }
    }

    /// The loop. Returns how it ended at last, and the connections to tell.
    pub(super) fn run(mut self) -> (Ending, Clients) {
        let mut timings = self.launch.timings;
        let ending = loop {
            let ending = self.live(timings);
            let Some(pause) = self.pause_after(&ending) else { break ending };
            if let Err(error) = self.records.restarting(&ending, self.restarts.count()) {
                break Ending::engine_error(error::chain(&error));
            }
            self.clients.tell(&FromKeeper::Restarting(Box::new(ending.clone())));
            if !self.rest(pause) {
                break ending;
            }
            timings = Timings { begun: timings::now(), ..Timings::default() };
        };
        if let Some(client) = self.awaits_start.take() {
            let reason = ending.error.clone().unwrap_or_else(|| "the container ended before it ran".to_owned());
            self.clients.answer(client, &FromKeeper::Refused(reason));
        }
        self.records.note_wish(self.then == Then::Stay);
        // The log is closed before its directory may go.
        drop(self.log.take());
        (ending, self.clients)
    }

    /// One machine from its launch to its end.
    fn live(&mut self, timings: Timings) -> Ending {
        self.started = None;
        let first = self.restarts.count() == 0 && self.awaits_start.is_none();
        let mut generation = match self.next_generation(timings, first) {
            Ok(generation) => generation,
            Err(error) => return Ending::engine_error(error::chain(&error)),
        };
        if self.attended {
            generation.set_attended();
        }
        self.generation = Some(generation);
        while self.generation.as_ref().is_some_and(|generation| !generation.is_finished()) {
            self.wait(None);
            self.hear_clients();
            self.hear_machine();
            self.check_health();
            self.check_freeze();
            self.give_memory_back();
        }
        self.bury_generation()
    }

    fn next_generation(&mut self, timings: Timings, first: bool) -> Result<Generation<'a, M>, Error> {
        let machine = (self.launcher)()?;
        if !first {
            self.records.relaunched(machine.processes())?;
        }
        let session = Session::new(self.timeouts).map_err(|source| Error::Host("making an epoll", source))?;
        let audience = std::mem::take(&mut self.audience);
        Ok(Generation::new(self.launch, machine, session, audience, timings))
    }

    fn bury_generation(&mut self) -> Ending {
        let Some(generation) = self.generation.take() else {
            return Ending::engine_error("the container ended without a machine".to_owned());
        };
        let (ending, audience, news) = generation.finish();
        self.audience = audience;
        news.into_iter().for_each(|news| self.pass_on(news));
        self.forget_questions("the container ended");
        (self.health, self.freeze) = (None, None);
        if let Some(log) = &mut self.log {
            log.finish();
        }
        ending
    }

    /// Whether it runs again, and after which pause.
    fn pause_after(&mut self, ending: &Ending) -> Option<Duration> {
        let run = self.started.map(|started| started.elapsed());
        match self.then {
            Then::Stay => None,
            Then::RunAgain(client) => {
                (self.then, self.awaits_start) = (Then::AsPolicy, Some(client));
                self.restarts = Restarts::new(self.restarts.policy);
                Some(Duration::ZERO)
            }
            // What never ran would not run the next time: its command is not there, its disk is broken.
            Then::AsPolicy if run.is_none() && self.restarts.count() == 0 => None,
            Then::AsPolicy if ending.reason == Reason::Interrupted => None,
            Then::AsPolicy => self.restarts.after(ending, run.unwrap_or_default()),
        }
    }

    /// Waits for the next machine's time. `false`: there is to be none.
    fn rest(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        loop {
            match self.then {
                Then::Stay => return false,
                Then::RunAgain(client) => {
                    (self.then, self.awaits_start) = (Then::AsPolicy, Some(client));
                    return true;
                }
                Then::AsPolicy if Instant::now() >= until => return true,
                Then::AsPolicy => {}
            }
            self.wait(Some(until));
            self.hear_clients();
            self.give_memory_back();
        }
    }

    /// Sleeps until something can be done, at most until a moment.
    fn wait(&self, until: Option<Instant>) {
        let mut interests = Vec::with_capacity(16);
        self.clients.interests(&mut interests);
        if let Some(generation) = &self.generation {
            generation.interests(&mut interests);
        }
        let generation = self.generation.as_ref();
        let health = self.health.as_ref().filter(|_| self.may_check_health()).map(Health::deadline);
        let deadlines = [until, generation.and_then(Generation::deadline), health, self.freeze_deadline(), self.quiet];
        let timeout = deadlines.into_iter().flatten().min().map(timespec_until);
        // An interrupted or failed poll costs one turn of the loop, whose steps find out for themselves.
        let _ = poll(&mut interests, timeout.as_ref());
    }

    fn hear_machine(&mut self) {
        let Some(generation) = &mut self.generation else { return };
        generation.hear();
        // Before output is passed on: who has seen some finds a container that runs.
        self.pass_on_news();
        let (Some(generation), log) = (&mut self.generation, &mut self.log) else { return };
        generation.move_bytes(&mut self.buffer, &mut |stream, bytes| {
            if let Some(log) = log {
                log.push(log_stream(stream), bytes);
            }
        });
        generation.settle();
        self.pass_on_news();
    }

    fn pass_on_news(&mut self) {
        let news = self.generation.as_mut().map(Generation::take_news).unwrap_or_default();
        news.into_iter().for_each(|news| self.pass_on(news));
    }

    fn give_memory_back(&mut self) {
        if self.quiet.is_some_and(|quiet| Instant::now() >= quiet) {
            self.quiet = None;
            memory::give_back();
        }
    }

    fn pass_on(&mut self, news: News) {
        self.quiet.get_or_insert_with(|| Instant::now() + QUIET);
        match news {
            News::Started => self.started(),
            News::ExecStarted(process) => self.exec_started(process),
            News::ExecFailed(process, error) => {
                let ending = Ending::of_spawn(error);
                let (code, error) = (ending.exit_code, ending.error.unwrap_or_default());
                self.exec_ended(process, code, error.as_bytes(), |_| FromKeeper::ExecFailed {
                    code,
                    error: error.clone(),
                });
            }
            News::ExecEnded { process, code, captured } => {
                self.exec_ended(process, code, &captured, |code| FromKeeper::ExecEnded { code });
            }
            News::Answered(request, reply) => self.answered(request, reply),
        }
    }

    fn started(&mut self) {
        let now = Instant::now();
        self.started = Some(now);
        self.health = self.launch.health.clone().map(|spec| Health::new(spec, now));
        let health = self.health.as_ref().map(Health::to_value);
        if let Err(error) = self.records.started(self.restarts.count(), health) {
            if let Some(generation) = &mut self.generation {
                generation.over(Ending::engine_error(error::chain(&error)));
            }
            return;
        }
        if let Some(client) = self.awaits_start.take() {
            self.clients.answer(client, &FromKeeper::Done);
        }
        self.clients.tell(&FromKeeper::Started);
    }

    fn exec_started(&mut self, process: ProcessId) {
        if let Some(owner) = self.execs.get(&process) {
            self.records.exec_started(&owner.id);
            self.clients.answer(owner.client, &FromKeeper::ExecStarted);
        }
    }

    fn exec_ended(&mut self, process: ProcessId, code: u8, captured: &[u8], message: impl FnOnce(u8) -> FromKeeper) {
        if let Some(owner) = self.execs.remove(&process) {
            let message = message(code);
            if matches!(message, FromKeeper::ExecEnded { .. }) {
                self.records.exec_ended(&owner.id, code);
            }
            self.clients.answer(owner.client, &message);
        } else if let Some(health) = self.health.as_mut().filter(|health| health.is_check(process)) {
            health.ended(i32::from(code), captured, Instant::now(), process::wall_clock_ns());
            self.records.health(health.to_value());
        }
    }
}

/// Health checks.
impl<M: Hull, F: FnMut() -> Result<M, Error>> Keeper<'_, M, F> {
    fn may_check_health(&self) -> bool {
        let runs = |generation: &Generation<'_, M>| generation.is_running() && !generation.is_paused();
        self.generation.as_ref().is_some_and(runs) && self.freeze.is_none()
    }

    fn check_health(&mut self) {
        let now = Instant::now();
        if !self.may_check_health() {
            return;
        }
        let (Some(health), Some(generation)) = (&mut self.health, &mut self.generation) else { return };
        if let Some(process) = health.overdue(now) {
            generation.signal_exec(process, 9);
            health.timed_out(now, process::wall_clock_ns());
            self.records.health(health.to_value());
        } else if let Some(command) = health.due(now) {
            let spec = ProcessSpec {
                task: Task::Program,
                argv: command.iter().map(|word| word.clone().into_bytes()).collect(),
                init: false,

                ..self.launch.plan.process.clone()
            };
            let stdio = StdioRequest::Pipes { stdin: false, stdout: true, stderr: true };
            match generation.exec(spec, stdio, ExecOutput::Captured) {
                Ok(process) => health.began(process, now, process::wall_clock_ns()),
                Err(_) => health.skip(now),
            }
        }
    }
}

fn log_stream(stream: OutputStream) -> logs::Stream {
    match stream {
        OutputStream::Stdout => logs::Stream::Stdout,
        OutputStream::Stderr => logs::Stream::Stderr,
    }
}

fn timespec_until(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now());
    Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(left.subsec_nanos()) }
}

#[cfg(test)]
mod tests;
