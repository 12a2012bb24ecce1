//! The user's streams and signals on one side, a process in a container on the other; `coracle attach`.
//!
//! A thread for each stream, because the user's descriptors are shared with other programs and must stay
//! blocking; a slow reader of one then holds up that one. The main thread waits for the container's end.

use std::{
    io::{self, Read, Write},
    os::fd::BorrowedFd,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use engine::{
    Ending, Engine, Exec, Run,
    keeper::{
        client::{Control, Pipes},
        wire::{AttachedStreams, OutputStream},
    },
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use signal_hook::{consts::signal, iterator::Signals};

use crate::{
    containers::{
        detach_keys::{DetachKeys, KeyFilter},
        ended,
    },
    output::report,
    terminal::{self, RawMode},
};

#[derive(Debug, Args)]
#[command(override_usage = "[OPTIONS] CONTAINER")]
pub(crate) struct AttachFlags {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub(crate) container: String,
    /// Do not connect standard input
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Keys that leave the container running, as in ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS", default_value = "", hide_default_value = true)]
    pub(crate) detach_keys: DetachKeys,
    /// Pass signals on to the process; =false to be ended by them
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set,
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub(crate) sig_proxy: bool,
}

/// Connects to a container that runs, to its end unless it is left before, and returns its exit code.
pub(crate) fn attach(engine: &Engine, flags: &AttachFlags) -> anyhow::Result<u8> {
    let (tty, open_stdin) = engine.terminal_of(&flags.container)?;
    let stdin = open_stdin && !flags.no_stdin;
    let connection = Connection { tty, keys: flags.detach_keys.clone(), sig_proxy: flags.sig_proxy };
    if stdin {
        connection.check_terminal()?;
    }
    let run = engine.attach(&flags.container, AttachedStreams { stdin, stdout: true, stderr: !tty })?;
    if let Some(size) = terminal::size().filter(|_| tty) {
        run.control().resize(size);
    }
    let Some(ending) = connection.wait(run)? else { return Ok(0) };
    ended::explain(&ending);
    Ok(ending.exit_code)
}

/// How the user is connected to a process.
#[derive(Debug)]
pub(crate) struct Connection {
    /// It has a terminal.
    pub(crate) tty: bool,
    /// The keys that leave it, where it has a terminal.
    pub(crate) keys: DetachKeys,
    /// Whether signals go to it.
    pub(crate) sig_proxy: bool,
}

impl Connection {
    /// Refuses to feed a terminal from what is none.
    pub(crate) fn check_terminal(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.tty || terminal::is_input(), "the input device is not a TTY");
        Ok(())
    }

    /// Stays connected to a container until it has ended; `None`: it was left by the keys, and lives on.
    pub(crate) fn wait(&self, mut run: Run<'_>) -> anyhow::Result<Option<Ending>> {
        let (pipes, control) = (run.take_pipes(), run.control());
        self.around(pipes, &control, || Ok(run.wait(|| {})?))
    }

    /// Stays connected to a further process until it has ended.
    pub(crate) fn wait_exec(&self, mut exec: Exec) -> anyhow::Result<Option<u8>> {
        let (pipes, control) = (exec.take_pipes(), exec.control());
        self.around(pipes, &control, || Ok(exec.wait()?))
    }

    fn around<T>(
        &self,
        pipes: Pipes,
        control: &Control,
        wait: impl FnOnce() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<Option<T>> {
        let typed = pipes.stdin.is_some();
        let attached = Attached::start(pipes, control, self).context("cannot attach to the process")?;
        let raw = (self.tty && typed).then(RawMode::enter).transpose().context("cannot make the terminal raw")?;
        let ended = wait();
        if let Ok(None) = ended {
            drop(raw);
            // The cursor is wherever the process left it.
            let _ = io::stderr().write_all(b"\nread escape sequence\n");
            return Ok(None);
        }
        attached.finish();
        drop(raw);
        ended
    }
}

/// Bytes that are moved at a time.
const BUFFER: usize = 64 << 10;

/// Signals that go to the process. Those that stop and continue a job stay with the shell's job control.
const FORWARDED: [i32; 7] = [
    signal::SIGHUP,
    signal::SIGINT,
    signal::SIGQUIT,
    signal::SIGUSR1,
    signal::SIGUSR2,
    signal::SIGALRM,
    signal::SIGTERM,
];

/// So many interrupts within this time end a container that does not listen.
const INSISTENCE: (usize, Duration) = (3, Duration::from_secs(10));

/// The threads whose work must be done before the command exits.
#[derive(Debug)]
struct Attached {
    outputs: Vec<JoinHandle<()>>,
}

impl Attached {
    /// Connects the user's streams to the container's.
    fn start(pipes: Pipes, control: &Control, connection: &Connection) -> io::Result<Self> {
        forward_signals(control.clone(), connection)?;
        if let Some(stdin) = pipes.stdin {
            let keys = connection.tty.then(|| KeyFilter::new(&connection.keys));
            let control = control.clone();
            thread::Builder::new().name("stdin".to_owned()).spawn(move || copy_input(stdin, keys, &control))?;
        }
        let mut outputs = Vec::new();
        for (name, pipe, stream) in
            [("stdout", pipes.stdout, OutputStream::Stdout), ("stderr", pipes.stderr, OutputStream::Stderr)]
        {
            if let Some(pipe) = pipe {
                let control = control.clone();
                let copy = move || copy_output(pipe, stream, &control);
                outputs.push(thread::Builder::new().name(name.to_owned()).spawn(copy)?);
            }
        }
        Ok(Self { outputs })
    }

    /// Waits until all output has reached the user.
    fn finish(self) {
        for output in self.outputs {
            // A thread that panicked has said so.
            let _ = output.join();
        }
    }
}

/// From the user to the process, until either has enough, or the keys come that leave it.
fn copy_input(mut pipe: io::PipeWriter, mut keys: Option<KeyFilter>, control: &Control) {
    let mut buffer = vec![0; BUFFER];
    let mut passed = Vec::new();
    while let Ok(count @ 1..) = read_waiting(rustix::stdio::stdin(), &mut buffer) {
        let typed = &buffer[..count];
        let Some(keys) = &mut keys else {
            if pipe.write_all(typed).is_err() {
                return;
            }
            continue;
        };
        passed.clear();
        let leaves = keys.pass(typed, &mut passed);
        if pipe.write_all(&passed).is_err() {
            return;
        }
        if leaves {
            control.detach();
            // A pipe that is closed now may end the process's input: the keeper may not have heard yet.
            std::mem::forget(pipe);
            return;
        }
    }
}

/// From the process to the user. When the user's reader is gone, the process is told.
fn copy_output(mut pipe: io::PipeReader, stream: OutputStream, control: &Control) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match pipe.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let (descriptor, name) = match stream {
            OutputStream::Stdout => (rustix::stdio::stdout(), "output"),
            OutputStream::Stderr => (rustix::stdio::stderr(), "error"),
        };
        if let Err(error) = write_waiting(descriptor, &buffer[..count]) {
            control.close_output(stream);
            if error != Errno::PIPE {
                report::note(&format!("cannot write standard {name}: {error}"));
            }
            return;
        }
    }
}

/// Whoever shares the descriptor may have made it non-blocking.
fn read_waiting(descriptor: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match rustix::io::read(descriptor, &mut *buffer) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)], None)),
            result => return result,
        }
    }
}

fn write_waiting(descriptor: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(descriptor, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::OUT)], None)),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn forward_signals(control: Control, connection: &Connection) -> io::Result<()> {
    let forwarded = if connection.sig_proxy { &FORWARDED[..] } else { &[] };
    let mut signals = Signals::new(forwarded)?;
    if connection.tty {
        signals.add_signal(signal::SIGWINCH)?;
    }
    let forward = move || {
        let mut interrupts = Interrupts::default();
        for number in signals.forever() {
            if number == signal::SIGWINCH {
                terminal::size().into_iter().for_each(|size| control.resize(size));
                continue;
            }
            control.signal(u8::try_from(number).unwrap_or(0));
            if matches!(number, signal::SIGINT | signal::SIGTERM) && interrupts.are_enough(Instant::now()) {
                report::note("interrupted three times: killing the container");
                control.kill();
            }
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(forward)?;
    Ok(())
}

/// When interrupts came.
#[derive(Debug, Default)]
struct Interrupts(Vec<Instant>);

impl Interrupts {
    /// Counts one more.
    fn are_enough(&mut self, now: Instant) -> bool {
        self.0.retain(|then| now.duration_since(*then) < INSISTENCE.1);
        self.0.push(now);
        self.0.len() >= INSISTENCE.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_interrupts_in_a_row_are_enough() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut interrupts = Interrupts::default();
        assert!(!interrupts.are_enough(after(0)));
        assert!(!interrupts.are_enough(after(6)));
        assert!(!interrupts.are_enough(after(11)));
        assert!(interrupts.are_enough(after(12)));
    }
}
