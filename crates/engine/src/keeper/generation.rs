//! One machine's life: it boots, sets the container up, runs its processes, and ends. A container that is started
//! again gets a new one.
//!
//! ```text
//!  Booting ── Hello ─▶ SettingUp ── Created ─▶ SetUp ── launcher attached ─▶ Spawning ── Spawned ─▶ Running ⇄ paused
//!     │                    │                     │                              │                      │ Exited
//!     │ machine ended, deadline passed, setup or spawn failed, signal, stop     │                      ▼
//!     ▼                    ▼                     ▼                              ▼                   Draining
//!    Over ◀────────────────┴─────────────────────┴──────────────────────────────┘                      │
//!     ▲                                                                              output has arrived ▼
//!     └──────────────────────── machine ended ──────────────────────────────────────────────── PoweringOff
//! ```
//!
//! While `Running`, a stop is a signal, a wait, SIGKILL, a short wait, and the end of the machine. Where the disk is
//! thrown away there is no `PoweringOff`: what would be synced is of no use. A volume that it may write is never thrown
//! away: then a container is powered off whatever ends it, be it killed.
//!
//! It knows no commands and no records: what happens is [`News`] for the [keeper](super::watch).

use std::{
    collections::BTreeMap,
    io, mem,
    os::fd::AsFd,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use guest::{Event, GuestError, Reply, Session, StdioRequest, Streams};
use monitor::{MachineEnd, VsockError};
use protocol::{
    ContainerConfig, ContainerId, ExitStatus, ProcessId, ProcessSpec, Question, RequestId, SpawnError, TerminalSize,
};
use rustix::event::{PollFd, PollFlags};

use super::{
    Launch,
    clients::ClientId,
    hull::Hull,
    process::{Audience, Process, Unattended},
    wire::OutputStream,
};
use crate::{
    ending::{Ending, last_lines},
    error,
    timings::{self, Timings},
};

/// How long a machine whose guest fell silent may take to tell why.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long a process may take to end after SIGKILL.
const KILL_GRACE: Duration = Duration::from_secs(10);

/// The signal that no process outlives.
const SIGKILL: u8 = 9;

/// How long further processes may take to be reported after the main one has ended.
const EXEC_GRACE: Duration = Duration::from_secs(1);

/// Most further processes at a time.
const MAX_EXECS: usize = 1024;

/// Most bytes of output that are kept of a process whose output is wanted here.
const MAX_CAPTURED: usize = 4096;

/// Exit code of a process that went down with its machine.
const KILLED: u8 = 137;

/// Where a machine is. The diagram is in the [module's documentation](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Phase {
    Booting,
    SettingUp,
    SetUp,
    Spawning,
    Running,
    Draining,
    PoweringOff,
    Over,
}

/// What happened.
#[derive(Debug)]
pub(super) enum News {
    /// The main process runs.
    Started,
    /// A further process runs.
    ExecStarted(ProcessId),
    /// A further process could not be started.
    ExecFailed(ProcessId, SpawnError),
    /// A further process ended, and its output is where it was to go, or captured.
    ExecEnded { process: ProcessId, code: u8, captured: Vec<u8> },
    /// The guest answered, or did not in time.
    Answered(RequestId, Reply),
}

/// Where a further process's output goes.
#[derive(Debug)]
pub(super) enum ExecOutput {
    /// To whoever is attached.
    Audience(Audience),
    /// To [`News::ExecEnded`], its beginning alone.
    Captured,
}

/// A further process.
#[derive(Debug)]
struct Exec {
    /// Those who wait for its streams.
    audience: Audience,
    /// Once it runs.
    process: Option<Process>,
    captured: Option<Vec<u8>>,
}

/// A stop on its way.
#[derive(Debug)]
struct Stop {
    /// When the next step is due; `None` is never.
    at: Option<Instant>,
    killed: bool,
}

/// One machine's life.
#[derive(Debug)]
pub(super) struct Generation<'a, M> {
    launch: &'a Launch,
    machine: M,
    machine_ended: bool,
    vsock_open: bool,
    session: Session,
    phase: Phase,
    terminal_size: TerminalSize,
    /// Whether the process may be spawned: whoever launches it is attached.
    attended: bool,
    /// Those who wait for the process.
    audience: Audience,
    process: Option<ProcessId>,
    main: Option<Process>,
    execs: BTreeMap<ProcessId, Exec>,
    paused: Option<Instant>,
    stop: Option<Stop>,
    /// Whether its disk is synced at the end.
    syncs: bool,
    exited: Option<Instant>,
    /// The end, once it is known. Its timings are filled in last.
    ending: Option<Ending>,
    timings: Timings,
    news: Vec<News>,
}

impl<'a, M: Hull> Generation<'a, M> {
    pub(super) fn new(launch: &'a Launch, machine: M, session: Session, audience: Audience, timings: Timings) -> Self {
        Self {
            launch,
            machine,
            machine_ended: false,
            vsock_open: true,
            session,
            phase: Phase::Booting,
            terminal_size: launch.terminal_size,
            attended: false,
            audience,
            process: None,
            main: None,
            execs: BTreeMap::new(),
            paused: None,
            stop: None,
            syncs: !launch.auto_remove || writes_volumes(launch),
            exited: None,
            ending: None,
            timings,
            news: Vec::new(),
        }
    }

    pub(super) fn machine(&self) -> &M {
        &self.machine
    }

    /// Whether its main process runs, paused or not, and nobody ends it.
    pub(super) fn is_running(&self) -> bool {
        self.phase == Phase::Running && self.stop.is_none()
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// The machine is of no more use, and what it had to say was read.
    pub(super) fn is_finished(&self) -> bool {
        let drained = || self.main.as_ref().is_none_or(|main| main.is_drained(self.in_a_hurry()));
        self.phase == Phase::Over && (!self.machine_ended || drained())
    }

    /// Someone waits for the end: readers are not waited for as long as they like.
    fn in_a_hurry(&self) -> bool {
        self.stop.is_some()
    }

    /// Ends what is left. Returns how it ended, and whoever is attached to the main process.
    pub(super) fn finish(mut self) -> (Ending, Audience, Vec<News>) {
        if !self.machine_ended {
            self.machine.stop();
        }
        self.timings.ended = Some(timings::now());
        for (process, exec) in mem::take(&mut self.execs) {
            self.news.push(match exec.process {
                Some(_) => {
                    let captured = exec.captured.unwrap_or_default();
                    News::ExecEnded { process, code: KILLED, captured }
                }
                None => News::ExecFailed(process, SpawnError::Other("the container ended".to_owned())),
            });
        }
        let unknown = || Ending::engine_error("the container ended without an ending".to_owned());
        let ending = Ending { timings: self.timings, ..self.ending.unwrap_or_else(unknown) };
        let mut audience = self.audience;
        audience.add(self.main.map(Process::into_audience).unwrap_or_default());
        (ending, audience, self.news)
    }

    pub(super) fn take_news(&mut self) -> Vec<News> {
        mem::take(&mut self.news)
    }
}

/// The loop's part.
impl<M: Hull> Generation<'_, M> {
    pub(super) fn interests<'b>(&'b self, interests: &mut Vec<PollFd<'b>>) {
        if !self.machine_ended {
            interests.push(PollFd::from_borrowed_fd(self.machine.ended_fd(), PollFlags::IN));
            if self.paused.is_none() {
                interests.push(PollFd::from_borrowed_fd(self.session.as_fd(), PollFlags::IN));
            }
            if self.vsock_open && self.paused.is_none() {
                interests.push(PollFd::from_borrowed_fd(self.machine.vsock_fd(), PollFlags::IN));
            }
        }
        self.processes().for_each(|process| process.interests(interests));
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.main.iter().chain(self.execs.values().filter_map(|exec| exec.process.as_ref()))
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let hurry = self.in_a_hurry();
        let main = self.main.as_ref().and_then(|main| main.deadline(hurry));
        let execs = self.execs.values().filter_map(|exec| exec.process.as_ref()?.deadline(false)).min();
        let session = if self.machine_ended || self.is_paused() { None } else { self.session.deadline() };
        let stop = self.stop.as_ref().filter(|_| self.phase == Phase::Running).and_then(|stop| stop.at);
        let grace = self.exited.filter(|_| self.phase == Phase::Draining && !self.execs.is_empty());
        [main, execs, session, stop, grace.map(|exited| exited + EXEC_GRACE)].into_iter().flatten().min()
    }

    /// Hears what there is to hear: connections, the guest, the machine's end.
    pub(super) fn hear(&mut self) {
        self.hear_vsock();
        self.hear_guest();
        self.hear_machine();
    }

    fn hear_vsock(&mut self) {
        while self.vsock_open && !self.machine_ended && !self.is_paused() {
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
        if self.machine_ended || self.phase == Phase::Over || self.is_paused() {
            return;
        }
        match self.session.progress() {
            Ok(events) => events.into_iter().for_each(|event| self.guest_event(event)),
            Err(error) => self.guest_failed(&error),
        }
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

    /// Moves bytes through `buffer`; `keep` sees the main process's output.
    pub(super) fn move_bytes(&mut self, buffer: &mut [u8], keep: &mut dyn FnMut(OutputStream, &[u8])) {
        if self.main.as_mut().is_some_and(|main| main.advance(buffer, keep)) {
            // The guest tells of the exit after the last byte was sent: the first one came no later, whenever it is
            // read.
            let now = timings::now();
            self.timings.first_byte.get_or_insert(self.timings.exited.map_or(now, |exited| exited.min(now)));
        }
        for Exec { process, captured, .. } in self.execs.values_mut() {
            let Some(process) = process else { continue };
            process.advance(buffer, &mut |_, bytes| {
                if let Some(captured) = captured {
                    let room = MAX_CAPTURED - captured.len();
                    captured.extend_from_slice(&bytes[..bytes.len().min(room)]);
                }
            });
        }
    }

    /// Takes the steps that are due.
    pub(super) fn settle(&mut self) {
        self.settle_execs();
        if self.phase == Phase::Running {
            self.go_on_stopping();
        }
        if self.phase == Phase::Draining && self.has_drained() {
            // A guest that cannot be asked gets no sync.
            let asked = self.syncs && self.session.power_off().is_ok();
            self.phase = if asked { Phase::PoweringOff } else { Phase::Over };
        }
    }

    fn settle_execs(&mut self) {
        let over = |exec: &Exec| exec.process.as_ref().is_some_and(|process| process.is_over(false));
        let ended: Vec<ProcessId> = self.execs.iter().filter(|(_, exec)| over(exec)).map(|(id, _)| *id).collect();
        for process in ended {
            let Some(exec) = self.execs.remove(&process) else { continue };
            let exit = exec.process.as_ref().and_then(Process::exit);
            let code = exit.map_or(KILLED, |(status, _)| status.shell_code());
            self.news.push(News::ExecEnded { process, code, captured: exec.captured.unwrap_or_default() });
        }
    }

    fn has_drained(&self) -> bool {
        let main = self.main.as_ref().is_none_or(|main| main.is_over(self.in_a_hurry()));
        let execs = self.execs.is_empty() || self.exited.is_none_or(|exited| exited.elapsed() >= EXEC_GRACE);
        main && execs
    }

    fn go_on_stopping(&mut self) {
        let Some(stop) = self.stop.as_mut().filter(|stop| stop.at.is_some_and(|at| Instant::now() >= at)) else {
            return;
        };
        let kill = !mem::replace(&mut stop.killed, true);
        stop.at = Some(Instant::now() + KILL_GRACE);
        match self.process {
            Some(process) if kill && self.session.signal(process, SIGKILL).is_ok() => {}
            // A process outlives SIGKILL in a guest that lies, or whose disk is stuck.
            _ => self.over(Ending::killed()),
        }
    }

    /// It has ended so, unless it had ended before.
    pub(super) fn over(&mut self, ending: Ending) {
        self.timings.exited.get_or_insert_with(timings::now);
        self.ending.get_or_insert(ending);
        self.phase = Phase::Over;
    }
}

/// Whether the container has a volume that it may write.
fn writes_volumes(launch: &Launch) -> bool {
    launch.plan.container.volumes.iter().any(|volume| !volume.read_only)
}

/// What the guest says.
impl<M: Hull> Generation<'_, M> {
    fn guest_event(&mut self, event: Event) {
        match event {
            Event::Hello(hello) => self.booted(&hello),
            Event::Created { .. } => self.created(),
            Event::CreateFailed { error, .. } => self.over(Ending::of_setup(error)),
            Event::Spawned { process, streams, .. } if self.process == Some(process) => self.spawned(streams),
            Event::Spawned { process, streams, .. } => self.exec_spawned(process, streams),
            Event::SpawnFailed { process, error, .. } if self.process == Some(process) => {
                self.over(Ending::of_spawn(error));
            }
            Event::SpawnFailed { process, error, .. } => {
                self.execs.remove(&process);
                self.news.push(News::ExecFailed(process, error));
            }
            Event::Exited { process, status, oom_killed, .. } if self.process == Some(process) => {
                self.main_exited(status, oom_killed);
            }
            Event::Exited { process, status, oom_killed, .. } => {
                if let Some(process) = self.execs.get_mut(&process).and_then(|exec| exec.process.as_mut()) {
                    process.exited(status, oom_killed);
                }
            }
            Event::Answered { request, reply, .. } => self.news.push(News::Answered(request, reply)),
            Event::Fatal { error } => {
                self.ending.get_or_insert(Ending::of_guest(error));
            }
            Event::PoweringOff => {}
            Event::Ended => self.guest_is_done(),
        }
    }

    fn container(&self) -> ContainerId {
        ContainerId(self.launch.id.clone())
    }

    fn booted(&mut self, hello: &protocol::Hello) {
        let now = timings::now();
        self.timings.machine = self.machine.started_at();
        // The guest's clock laid over ours: it said Hello now.
        self.timings.init = Some(now.saturating_sub(hello.sent.saturating_sub(hello.init_started)));
        self.phase = Phase::SettingUp;
        // The plan's clock is from before the boot.
        let config = ContainerConfig { wall_clock: wall_clock(), ..self.launch.plan.container.clone() };
        if let Err(error) = self.session.create(self.container(), config) {
            self.over(Ending::of_setup(error::chain(&error)));
        }
    }

    fn created(&mut self) {
        self.timings.created = Some(timings::now());
        self.phase = Phase::SetUp;
        if self.attended {
            self.spawn();
        }
    }

    /// Whoever launches the process is attached, or nobody is to be.
    pub(super) fn set_attended(&mut self) {
        self.attended = true;
        if self.phase == Phase::SetUp {
            self.spawn();
        }
    }

    fn spawn(&mut self) {
        let plan = &self.launch.plan;
        let stdio = if plan.tty {
            StdioRequest::Terminal { size: self.terminal_size }
        } else {
            StdioRequest::Pipes { stdin: plan.stdin, stdout: true, stderr: true }
        };
        self.phase = Phase::Spawning;
        match self.session.spawn(&self.container(), plan.process.clone(), stdio) {
            Ok(process) => self.process = Some(process),
            Err(error) => self.over(Ending::of_setup(error::chain(&error))),
        }
    }

    fn spawned(&mut self, streams: Streams) {
        self.timings.spawned = Some(timings::now());
        let stays_open = self.launch.detach && self.launch.plan.stdin;
        let unattended = if stays_open { Unattended::Open } else { Unattended::Ended };
        match Process::new(streams, mem::take(&mut self.audience), unattended) {
            Ok(process) => self.main = Some(process),
            Err(error) => return self.over(Ending::engine_error(error.to_string())),
        }
        self.phase = Phase::Running;
        self.news.push(News::Started);
    }

    fn exec_spawned(&mut self, id: ProcessId, streams: Streams) {
        let Some(exec) = self.execs.get_mut(&id) else { return };
        match Process::new(streams, mem::take(&mut exec.audience), Unattended::Ended) {
            Ok(process) => {
                exec.process = Some(process);
                self.news.push(News::ExecStarted(id));
            }
            Err(error) => {
                self.execs.remove(&id);
                // Its streams are gone, and with them whatever it has to say.
                let _ = self.session.signal(id, 9);
                self.news.push(News::ExecFailed(id, SpawnError::Other(error.to_string())));
            }
        }
    }

    fn main_exited(&mut self, status: ExitStatus, oom_killed: bool) {
        self.timings.exited.get_or_insert_with(timings::now);
        self.ending.get_or_insert(Ending::of_process(status, oom_killed));
        self.exited = Some(Instant::now());
        if let Some(main) = &mut self.main {
            main.exited(status, oom_killed);
        }
        self.phase = Phase::Draining;
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

    fn machine_is_gone(&mut self, end: &MachineEnd) {
        if !self.machine_ended {
            self.machine_ended = true;
            self.paused = None;
            if let Some(main) = &mut self.main {
                main.input_ended();
            }
            let booted = self.phase > Phase::Booting;
            self.over(Ending::of_machine(end, booted));
        }
    }
}

/// What is asked of it.
impl<M: Hull> Generation<'_, M> {
    /// Attaches someone to the main process.
    pub(super) fn attach(&mut self, audience: Audience) {
        match &mut self.main {
            Some(main) => main.attach(audience),
            None => self.audience.add(audience),
        }
    }

    /// Lets go of someone's pipes, wherever they are.
    pub(super) fn detach(&mut self, owner: ClientId) {
        self.audience.remove(owner);
        if let Some(main) = &mut self.main {
            main.detach(owner);
        }
        for exec in self.execs.values_mut() {
            exec.audience.remove(owner);
            if let Some(process) = &mut exec.process {
                process.detach(owner);
            }
        }
    }

    /// Someone reads a stream of the main process, or of `exec`, no longer.
    pub(super) fn close_output(&mut self, exec: Option<ProcessId>, stream: OutputStream, owner: ClientId) {
        let process = match exec {
            Some(exec) => self.execs.get_mut(&exec).and_then(|exec| exec.process.as_mut()),
            None => self.main.as_mut(),
        };
        if let Some(process) = process {
            process.close_output(stream, owner);
        }
    }

    /// Signals the main process. Before it runs, a signal that would end it ends the start.
    pub(super) fn signal(&mut self, signal: u8) {
        match (self.phase, self.process) {
            (Phase::Running, Some(process)) => {
                // A process that has just ended, or a signal that is none: nothing to do.
                let _ = self.session.signal(process, signal);
            }
            (Phase::Booting | Phase::SettingUp | Phase::SetUp | Phase::Spawning, _) if ends_a_process(signal) => {
                self.over(Ending::interrupted(signal));
            }
            _ => {}
        }
    }

    /// Signals a further process.
    pub(super) fn signal_exec(&mut self, process: ProcessId, signal: u8) {
        let _ = self.session.signal(process, signal);
    }

    /// Sets the size of the main process's terminal.
    pub(super) fn resize(&mut self, size: TerminalSize) {
        self.terminal_size = size;
        if let (Phase::Running, Some(process), true) = (self.phase, self.process, self.launch.plan.tty) {
            let _ = self.session.resize(process, size);
        }
    }

    /// Sets the size of a further process's terminal.
    pub(super) fn resize_exec(&mut self, process: ProcessId, size: TerminalSize) {
        let _ = self.session.resize(process, size);
    }

    /// Ends the main process: by `signal`, and by SIGKILL after `timeout`. `syncs`: its disk is wanted.
    pub(super) fn stop(&mut self, signal: u8, timeout: Duration, syncs: bool) {
        self.syncs |= syncs;
        if self.phase < Phase::Running {
            return self.over(Ending::interrupted(signal));
        }
        let at = Instant::now().checked_add(timeout);
        // A second stop may shorten the first, never lengthen it.
        let sooner = self.stop.as_ref().is_none_or(|stop| stop.at.is_none_or(|old| at.is_some_and(|new| new < old)));
        let killed = self.stop.as_ref().is_some_and(|stop| stop.killed);
        if sooner && !killed {
            self.stop = Some(Stop { at, killed });
        }
        self.signal(signal);
    }

    /// Ends the machine at once; after the process and a sync, where a volume would miss what was written to it.
    pub(super) fn kill(&mut self) {
        if let Some(main) = &mut self.main {
            main.detach_all();
        }
        if self.phase == Phase::Running && self.paused.is_none() && writes_volumes(self.launch) {
            return self.stop(SIGKILL, Duration::ZERO, true);
        }
        self.over(Ending::killed());
    }

    /// Changes how much CPU the machine gets of the host.
    pub(super) fn limit_cpu(&self, milli: u32) {
        self.machine.limit_cpu(milli);
    }

    /// Stops the vCPUs.
    pub(super) fn pause(&mut self) -> io::Result<()> {
        self.machine.pause()?;
        self.paused = Some(Instant::now());
        Ok(())
    }

    /// Lets the vCPUs go on. The guest gets the time back that it stood still.
    pub(super) fn unpause(&mut self) -> io::Result<()> {
        let Some(paused) = self.paused else { return Ok(()) };
        self.machine.resume()?;
        self.paused = None;
        self.session.postpone(paused.elapsed());
        Ok(())
    }

    /// Starts a further process.
    pub(super) fn exec(
        &mut self,
        spec: ProcessSpec,
        stdio: StdioRequest,
        output: ExecOutput,
    ) -> Result<ProcessId, String> {
        if self.execs.len() >= MAX_EXECS {
            return Err(format!("{MAX_EXECS} further processes run in it already"));
        }
        let process = self.session.spawn(&self.container(), spec, stdio).map_err(|error| error::chain(&error))?;
        let (audience, captured) = match output {
            ExecOutput::Audience(audience) => (audience, None),
            ExecOutput::Captured => (Audience::default(), Some(Vec::new())),
        };
        self.execs.insert(process, Exec { audience, process: None, captured });
        Ok(process)
    }

    /// Asks the guest.
    pub(super) fn ask(&mut self, question: Question) -> Result<RequestId, String> {
        self.session.ask(&self.container(), question).map_err(|error| error::chain(&error))
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
