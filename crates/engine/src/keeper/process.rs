//! A process in the guest with its streams on this side.

use std::time::{Duration, Instant};

use guest::Streams;
use protocol::ExitStatus;
use rustix::event::PollFd;

use super::{
    clients::{ClientId, Pipes},
    relay::{Input, Output, Sink, Source},
    wire::OutputStream,
};

/// How long output may take to arrive after the guest said that all of it was sent.
const LATE_OUTPUT: Duration = Duration::from_secs(5);

/// Who is attached to a process, while there is one and between two of them.
#[derive(Debug, Default)]
pub(super) struct Audience {
    pub(super) sources: Vec<Source>,
    pub(super) stdout: Vec<Sink>,
    pub(super) stderr: Vec<Sink>,
}

impl Audience {
    /// A command's pipes. `launcher`: it launched the process, which waits for it and whose input ends with its own.
    pub(super) fn of(pipes: Pipes, owner: ClientId, launcher: bool) -> Self {
        let sink = |pipe| Sink::new(pipe, owner, launcher);
        Self {
            sources: pipes.stdin.map(|pipe| Source::new(pipe, owner, launcher)).into_iter().collect(),
            stdout: pipes.stdout.map(sink).into_iter().collect(),
            stderr: pipes.stderr.map(sink).into_iter().collect(),
        }
    }

    /// Adds others.
    pub(super) fn add(&mut self, other: Self) {
        self.sources.extend(other.sources);
        self.stdout.extend(other.stdout);
        self.stderr.extend(other.stderr);
    }

    /// Takes one owner's pipes away.
    pub(super) fn remove(&mut self, owner: ClientId) {
        self.sources.retain(|source| !source.is_of(owner));
        [&mut self.stdout, &mut self.stderr].into_iter().for_each(|sinks| sinks.retain(|sink| !sink.is_of(owner)));
    }
}

/// What a process's input is without anyone who writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unattended {
    /// It waits for somebody.
    Open,
    /// It is at its end.
    Ended,
}

/// A process that runs, or has ended and has output that flows.
#[derive(Debug)]
pub(super) struct Process {
    input: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    terminal: bool,
    /// Sources of a process that has ended: its successor's.
    parked: Vec<Source>,
    exit: Option<(ExitStatus, bool)>,
    /// Bytes of output so far, and when the last ones came, or the exit.
    received: u64,
    moved: Instant,
}

impl Process {
    /// Connects the guest's streams. A terminal's both directions are input and standard output.
    pub(super) fn new(streams: Streams, audience: Audience, unattended: Unattended) -> std::io::Result<Self> {
        let Audience { sources, stdout: outs, stderr: errs } = audience;
        let terminal = matches!(streams, Streams::Terminal(_));
        let wanted = unattended == Unattended::Open || !sources.is_empty();
        let (input, stdout, stderr) = match streams {
            Streams::Pipes { stdin, stdout, stderr } => (
                // The guest's end closes here where nobody is to write.
                stdin.filter(|_| wanted).map(|guest| Input::new(guest, false, sources)),
                stdout.map(|guest| Output::new(guest, outs)),
                stderr.map(|guest| Output::new(guest, errs)),
            ),
            Streams::Terminal(terminal) => {
                let input = if wanted { Some(Input::new(terminal.try_clone()?, true, sources)) } else { None };
                (input, Some(Output::new(terminal, outs)), None)
            }
        };
        let (parked, moved) = (Vec::new(), Instant::now());
        Ok(Self { input, stdout, stderr, terminal, parked, exit: None, received: 0, moved })
    }

    fn outputs(&self) -> impl Iterator<Item = &Output> {
        [&self.stdout, &self.stderr].into_iter().flatten()
    }

    /// Attaches someone more, from now on.
    pub(super) fn attach(&mut self, audience: Audience) {
        match &mut self.input {
            Some(input) => audience.sources.into_iter().for_each(|source| input.add(source)),
            None if self.exit.is_some() => self.parked.extend(audience.sources),
            None => {}
        }
        for (output, sinks) in [(&mut self.stdout, audience.stdout), (&mut self.stderr, audience.stderr)] {
            if let Some(output) = output {
                sinks.into_iter().for_each(|sink| output.add(sink));
            }
        }
    }

    /// Lets go of someone's pipes.
    pub(super) fn detach(&mut self, owner: ClientId) {
        self.parked.retain(|source| !source.is_of(owner));
        if let Some(input) = &mut self.input {
            input.remove(owner);
        }
        [&mut self.stdout, &mut self.stderr].into_iter().flatten().for_each(|output| output.remove(owner));
    }

    /// Lets go of everyone: what is not read yet is lost.
    pub(super) fn detach_all(&mut self) {
        self.input = None;
        self.parked.clear();
        [&mut self.stdout, &mut self.stderr].into_iter().flatten().for_each(Output::detach);
    }

    /// Whoever is attached, for the next process.
    pub(super) fn into_audience(self) -> Audience {
        let sinks = |output: Option<Output>| output.map(Output::into_sinks).unwrap_or_default();
        Audience {
            sources: self.input.map(Input::into_sources).unwrap_or(self.parked),
            stdout: sinks(self.stdout),
            stderr: sinks(self.stderr),
        }
    }

    /// Someone will not read a stream again. The process learns of it if it was that one's.
    pub(super) fn close_output(&mut self, stream: OutputStream, owner: ClientId) {
        let output = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        if let Some(output) = output {
            // A terminal has two directions and one connection: it goes on without a reader.
            if output.is_launchers(owner) && !self.terminal { output.close() } else { output.remove(owner) }
        }
    }

    /// What to poll for.
    pub(super) fn interests<'a>(&'a self, interests: &mut Vec<PollFd<'a>>) {
        if let Some(input) = &self.input {
            input.interests(interests);
        }
        self.outputs().for_each(|output| output.interests(interests));
    }

    /// When something is to be done though nothing moves.
    pub(super) fn deadline(&self, in_a_hurry: bool) -> Option<Instant> {
        let late = (self.exit.is_some() && (in_a_hurry || !self.is_held_up())).then(|| self.moved + LATE_OUTPUT);
        self.outputs().filter_map(Output::deadline).chain(late).min()
    }

    /// Moves bytes; `keep` sees all output. `true`: some output came.
    pub(super) fn advance(&mut self, buffer: &mut [u8], keep: &mut dyn FnMut(OutputStream, &[u8])) -> bool {
        if let Some(input) = &mut self.input {
            input.advance(buffer);
        }
        let before = self.received;
        for (stream, output) in [(OutputStream::Stdout, &mut self.stdout), (OutputStream::Stderr, &mut self.stderr)] {
            if let Some(output) = output {
                let moved = output.moved();
                output.advance(buffer, &mut |bytes| keep(stream, bytes));
                self.received += output.moved() - moved;
            }
        }
        let came = self.received > before;
        if came {
            self.moved = Instant::now();
        }
        came
    }

    /// The process has ended.
    pub(super) fn exited(&mut self, status: ExitStatus, oom_killed: bool) {
        self.exit = Some((status, oom_killed));
        self.input_ended();
        self.moved = Instant::now();
    }

    /// Nothing reads input any more; whoever writes it may for the process's successor.
    pub(super) fn input_ended(&mut self) {
        if let Some(input) = self.input.take() {
            self.parked = input.into_sources();
        }
    }

    /// How it ended, if it has.
    pub(super) fn exit(&self) -> Option<(ExitStatus, bool)> {
        self.exit
    }

    /// Whether all output went where it was to go.
    pub(super) fn outputs_are_done(&self) -> bool {
        self.outputs().all(Output::is_done)
    }

    /// Whether output waits for its reader, not for the guest.
    fn is_held_up(&self) -> bool {
        self.outputs().any(Output::is_held_up)
    }

    /// Whether no more output is to be expected. With `in_a_hurry` readers have no longer than the guest.
    pub(super) fn is_drained(&self, in_a_hurry: bool) -> bool {
        let late = || (in_a_hurry || !self.is_held_up()) && self.moved.elapsed() >= LATE_OUTPUT;
        self.outputs_are_done() || late()
    }

    /// Whether it has ended and nothing more is to be expected of it.
    pub(super) fn is_over(&self, in_a_hurry: bool) -> bool {
        self.exit.is_some() && self.is_drained(in_a_hurry)
    }
}
