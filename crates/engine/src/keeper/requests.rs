//! What commands ask of a keeper, and what they are answered.

use std::time::{Duration, Instant};

use guest::{Reply, StdioRequest};
use protocol::{ProcessId, Question, RequestId};

use super::{
    clients::{ClientId, Clients, Pipes, Request},
    generation::{ExecOutput, Generation},
    hull::Hull,
    process::Audience,
    usage,
    watch::{ExecOwner, Keeper, QUIET, Then},
    wire::{DOES_NOT_RUN, Exec, FromKeeper, GuestUsage, OutputStream, ProcessRow, ToKeeper, Update, Usage},
};
use crate::{error::Error, timings};

/// How long a disk stays frozen when nobody thaws it.
const FREEZE_LIMIT: Duration = Duration::from_secs(120);

const SIGKILL: u8 = 9;

/// Signals that people send when a process is to end: SIGINT, SIGQUIT, SIGKILL, SIGTERM.
const ENDS: [u8; 4] = [2, 3, SIGKILL, 15];

/// A question to the guest, and who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Usage(ClientId),
    Processes(ClientId),
    Limits(ClientId),
    Freeze(ClientId),
    /// `None`: the keeper itself.
    Thaw(Option<ClientId>),
}

/// A disk that is frozen, or about to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Freeze {
    client: ClientId,
    until: Instant,
}

/// What to say at once; `None`: later.
type Answer = Result<Option<FromKeeper>, String>;

impl<'a, M: Hull, F: FnMut() -> Result<M, Error>> Keeper<'a, M, F> {
    pub(super) fn hear_clients(&mut self) {
        for (client, request) in self.clients.progress() {
            self.quiet.get_or_insert_with(|| Instant::now() + QUIET);
            match request {
                Request::Attach(pipes) => self.attach(client, pipes),
                Request::Exec(exec, pipes) => self.exec(client, *exec, pipes),
                Request::Message(message) => self.message(client, message),
                Request::Gone => self.gone(client),
            }
        }
    }

    fn message(&mut self, client: ClientId, message: ToKeeper) {
        let answer = match message {
            ToKeeper::Signal(signal) => return self.signal(client, signal),
            ToKeeper::Resize(size) => return self.resize(client, size),
            ToKeeper::CloseOutput(stream) => return self.close_output(client, stream),
            ToKeeper::Kill => return self.kill(),
            ToKeeper::Stop { signal, timeout } => return self.stop(client, signal, timeout),
            ToKeeper::Restart { signal, timeout } => return self.restart(client, signal, timeout),
            ToKeeper::Detach => self.detach(client),
            ToKeeper::Pause => self.pause(),
            ToKeeper::Unpause => self.unpause(),
            ToKeeper::Update(update) => self.update(client, update),
            ToKeeper::Freeze => self.freeze(client),
            ToKeeper::Thaw => self.thaw(client),
            ToKeeper::Usage => self.usage(client),
            ToKeeper::Processes => self.ask(Question::Processes, Asked::Processes(client)),
            // The connections have met these already.
            ToKeeper::Hello { .. } | ToKeeper::Launch(_) | ToKeeper::Wait | ToKeeper::Attach(_) | ToKeeper::Exec(_) => {
                return;
            }
        };
        match answer {
            Ok(Some(message)) => self.clients.answer(client, &message),
            // The guest is asked first.
            Ok(None) => {}
            Err(reason) => self.clients.answer(client, &FromKeeper::Refused(reason)),
        }
    }

    fn gone(&mut self, client: ClientId) {
        self.exec_clients.remove(&client);
        if self.freeze.is_some_and(|freeze| freeze.client == client) {
            self.end_freeze(None);
        }
        // Nobody is left to attach: the process runs for whoever comes later.
        if client == Clients::FIRST {
            self.set_attended();
        }
    }

    fn set_attended(&mut self) {
        self.attended = true;
        if let Some(generation) = &mut self.generation {
            generation.set_attended();
        }
    }

    fn attach(&mut self, client: ClientId, mut pipes: Pipes) {
        let is_launcher = client == Clients::FIRST && !self.launch.detach;
        if !self.launch.plan.stdin {
            pipes.stdin = None;
        }
        let audience = Audience::of(pipes, client, is_launcher);
        match &mut self.generation {
            Some(generation) => generation.attach(audience),
            None => self.audience.add(audience),
        }
        if is_launcher {
            self.set_attended();
        }
    }

    fn detach(&mut self, client: ClientId) -> Answer {
        self.audience.remove(client);
        if let Some(generation) = &mut self.generation {
            generation.detach(client);
        }
        self.clients.set_waiting(client, false);
        Ok(Some(FromKeeper::Done))
    }

    /// The further process of a connection, while it runs.
    fn exec_of(&self, client: ClientId) -> Option<ProcessId> {
        self.execs.iter().find(|(_, owner)| owner.client == client).map(|(process, _)| *process)
    }

    fn signal(&mut self, client: ClientId, signal: u8) {
        if self.exec_clients.contains(&client) {
            if let (Some(process), Some(generation)) = (self.exec_of(client), &mut self.generation) {
                generation.signal_exec(process, signal);
            }
            return;
        }
        if signal == SIGKILL {
            // What stands still does not even die.
            let _ = self.unpause_if_paused();
        }
        if ENDS.contains(&signal) || signal == self.launch.stop.signal {
            self.then = Then::Stay;
        }
        if let Some(generation) = &mut self.generation {
            generation.signal(signal);
        }
    }

    fn resize(&mut self, client: ClientId, size: protocol::TerminalSize) {
        let exec = self.exec_of(client);
        match (&mut self.generation, exec) {
            (Some(generation), Some(process)) => generation.resize_exec(process, size),
            (Some(generation), None) if !self.exec_clients.contains(&client) => generation.resize(size),
            _ => {}
        }
    }

    fn close_output(&mut self, client: ClientId, stream: OutputStream) {
        let exec = self.exec_of(client);
        if exec.is_none() && self.exec_clients.contains(&client) {
            return;
        }
        if let Some(generation) = &mut self.generation {
            generation.close_output(exec, stream, client);
        }
    }

    fn kill(&mut self) {
        self.then = Then::Stay;
        if let Some(generation) = &mut self.generation {
            generation.kill();
        }
    }

    fn stop(&mut self, client: ClientId, signal: Option<u8>, timeout: Option<Duration>) {
        self.clients.set_waiting(client, true);
        self.then = Then::Stay;
        self.begin_to_stop(signal, timeout, false);
    }

    fn restart(&mut self, client: ClientId, signal: Option<u8>, timeout: Option<Duration>) {
        if self.then == Then::Stay {
            let reason = FromKeeper::Refused("the container is being stopped".to_owned());
            return self.clients.answer(client, &reason);
        }
        if let Then::RunAgain(other) = self.then {
            // One restart does for both; the one that asked first hears of it now.
            self.clients.answer(other, &FromKeeper::Done);
        }
        self.then = Then::RunAgain(client);
        self.begin_to_stop(signal, timeout, true);
    }

    fn begin_to_stop(&mut self, signal: Option<u8>, timeout: Option<Duration>, keeps_disk: bool) {
        // A disk that is frozen, or vCPUs that stand still, would make it wait in vain.
        let _ = self.unpause_if_paused();
        if self.freeze.is_some() {
            self.end_freeze(None);
        }
        let settings = self.launch.stop;
        if let Some(generation) = &mut self.generation {
            generation.stop(signal.unwrap_or(settings.signal), timeout.unwrap_or(settings.timeout), keeps_disk);
        }
    }

    /// The machine, if its process runs.
    fn running(&mut self) -> Result<&mut Generation<'a, M>, String> {
        let runs = self.generation.as_mut().filter(|generation| generation.is_running());
        runs.ok_or_else(|| DOES_NOT_RUN.to_owned())
    }

    /// The machine, if its guest can be asked.
    fn awake(&mut self) -> Result<&mut Generation<'a, M>, String> {
        let generation = self.running()?;
        if generation.is_paused() { Err("the container is paused".to_owned()) } else { Ok(generation) }
    }

    fn pause(&mut self) -> Answer {
        self.awake()?.pause().map_err(|error| format!("the machine cannot be stopped: {error}"))?;
        match self.records.paused(true) {
            Ok(()) => Ok(Some(FromKeeper::Done)),
            Err(error) => {
                // What is not recorded does not happen.
                let _ = self.running()?.unpause();
                Err(crate::error::chain(&error))
            }
        }
    }

    fn unpause(&mut self) -> Answer {
        if self.unpause_if_paused()? {
            Ok(Some(FromKeeper::Done))
        } else {
            Err("the container is not paused".to_owned())
        }
    }

    /// Whether it was paused, and no longer is.
    fn unpause_if_paused(&mut self) -> Result<bool, String> {
        let paused = self.generation.as_mut().filter(|generation| generation.is_paused());
        let Some(generation) = paused else { return Ok(false) };
        generation.unpause().map_err(|error| format!("the machine cannot go on: {error}"))?;
        self.records.paused(false).map_err(|error| crate::error::chain(&error))?;
        Ok(true)
    }

    fn exec(&mut self, client: ClientId, exec: Exec, pipes: Pipes) {
        let Exec { id, process, tty, size, .. } = exec;
        let stdio = if tty {
            StdioRequest::Terminal { size }
        } else {
            let (stdout, stderr) = (pipes.stdout.is_some(), pipes.stderr.is_some());
            StdioRequest::Pipes { stdin: pipes.stdin.is_some(), stdout, stderr }
        };
        let audience = Audience::of(pipes, client, true);
        let begun = if self.exec_of(client).is_some() {
            Err("a connection is for one further process at a time".to_owned())
        } else {
            self.awake().and_then(|generation| generation.exec(process, stdio, ExecOutput::Audience(audience)))
        };
        match begun {
            Ok(process) => {
                self.exec_clients.insert(client);
                self.execs.insert(process, ExecOwner { client, id });
            }
            Err(reason) => self.clients.answer(client, &FromKeeper::Refused(reason)),
        }
    }

    fn update(&mut self, client: ClientId, update: Update) -> Answer {
        if let Some(policy) = update.restart {
            self.restarts.policy = policy;
        }
        match update.limits {
            Some(limits) => {
                if let Some(milli) = limits.cpu_milli {
                    self.awake()?.limit_cpu(milli);
                }
                self.ask(Question::SetLimits(limits), Asked::Limits(client))
            }
            None => Ok(Some(FromKeeper::Done)),
        }
    }

    fn ask(&mut self, question: Question, asked: Asked) -> Answer {
        let request = self.awake()?.ask(question)?;
        self.asked.insert(request, asked);
        Ok(None)
    }

    fn usage(&mut self, client: ClientId) -> Answer {
        match self.ask(Question::Usage, Asked::Usage(client)) {
            // The host can be asked at any time.
            Err(_) => Ok(Some(self.usage_with(None))),
            asked => asked,
        }
    }

    fn usage_with(&self, guest: Option<GuestUsage>) -> FromKeeper {
        let processes = self.generation.as_ref().map(|generation| generation.machine().processes()).unwrap_or_default();
        FromKeeper::Usage(Box::new(Usage {
            guest,
            machine: usage::of(processes.iter().map(|process| process.pid)),
            keeper: usage::of([std::process::id()]),
            at: timings::now(),
        }))
    }

    fn freeze(&mut self, client: ClientId) -> Answer {
        if self.freeze.is_some() {
            return Err("its disk is frozen for another command".to_owned());
        }
        let asked = self.ask(Question::Freeze, Asked::Freeze(client))?;
        self.freeze = Some(Freeze { client, until: Instant::now() + FREEZE_LIMIT });
        Ok(asked)
    }

    fn thaw(&mut self, client: ClientId) -> Answer {
        if self.freeze.is_none_or(|freeze| freeze.client != client) {
            return Err("its disk is not frozen: it may have thawed by itself".to_owned());
        }
        self.end_freeze(Some(client));
        Ok(None)
    }

    /// Thaws, whatever became of the freeze.
    fn end_freeze(&mut self, client: Option<ClientId>) {
        self.freeze = None;
        let asked = self.generation.as_mut().map(|generation| generation.ask(Question::Thaw));
        match (asked, client) {
            (Some(Ok(request)), client) => drop(self.asked.insert(request, Asked::Thaw(client))),
            // A guest that cannot be asked any more has thawed, or is about to end.
            (_, Some(client)) => self.clients.answer(client, &FromKeeper::Done),
            (_, None) => {}
        }
    }

    pub(super) fn freeze_deadline(&self) -> Option<Instant> {
        self.freeze.map(|freeze| freeze.until)
    }

    pub(super) fn check_freeze(&mut self) {
        if self.freeze.is_some_and(|freeze| Instant::now() >= freeze.until) {
            self.end_freeze(None);
        }
    }

    /// The guest answered.
    pub(super) fn answered(&mut self, request: RequestId, reply: Reply) {
        let Some(asked) = self.asked.remove(&request) else { return };
        let refused = |reply: Reply| match reply {
            Reply::Refused(reason) => FromKeeper::Refused(reason),
            _ => FromKeeper::Refused("the guest answered another question".to_owned()),
        };
        let (client, message) = match (asked, reply) {
            (Asked::Usage(client), Reply::Usage(usage)) => (client, self.usage_with(Some(usage.into()))),
            (Asked::Usage(client), _) => (client, self.usage_with(None)),
            (Asked::Processes(client), Reply::Processes(rows)) => {
                (client, FromKeeper::Processes(rows.into_iter().map(ProcessRow::from).collect()))
            }
            (Asked::Limits(client), Reply::LimitsSet) | (Asked::Thaw(Some(client)), Reply::Thawed) => {
                (client, FromKeeper::Done)
            }
            (Asked::Freeze(client), Reply::Frozen) if self.freeze.is_some_and(|freeze| freeze.client == client) => {
                (client, FromKeeper::Done)
            }
            (Asked::Freeze(client), reply) => {
                // It may happen yet.
                if self.freeze.is_some_and(|freeze| freeze.client == client) {
                    self.end_freeze(None);
                }
                (client, refused(reply))
            }
            (Asked::Thaw(None), _) => return,
            (Asked::Processes(client) | Asked::Limits(client) | Asked::Thaw(Some(client)), reply) => {
                (client, refused(reply))
            }
        };
        self.clients.answer(client, &message);
    }

    /// No answers will come any more.
    pub(super) fn forget_questions(&mut self, reason: &str) {
        for (_, asked) in std::mem::take(&mut self.asked) {
            match asked {
                Asked::Usage(client) => {
                    let usage = self.usage_with(None);
                    self.clients.answer(client, &usage);
                }
                // Nothing is as thawed as what has ended.
                Asked::Thaw(Some(client)) => self.clients.answer(client, &FromKeeper::Done),
                Asked::Thaw(None) => {}
                Asked::Processes(client) | Asked::Limits(client) | Asked::Freeze(client) => {
                    self.clients.answer(client, &FromKeeper::Refused(reason.to_owned()));
                }
            }
        }
    }
}
