//! The user's streams and signals on one side, a running container on the other.
//!
//! A thread for each stream, because the user's descriptors are shared with other programs and must stay
//! blocking; a slow reader of one then holds up that one. The main thread waits for the container's end.

use std::{
    io::{self, Read, Write},
    os::fd::BorrowedFd,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use engine::keeper::{
    client::{Control, Pipes},
    wire::OutputStream,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use signal_hook::{consts::signal, iterator::Signals};

use crate::{output::report, terminal};

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
pub(crate) struct Attached {
    outputs: Vec<JoinHandle<()>>,
}

impl Attached {
    /// Connects the user's streams to the container's.
    pub(crate) fn start(pipes: Pipes, control: &Control, tty: bool) -> io::Result<Self> {
        forward_signals(control.clone(), tty)?;
        if let Some(stdin) = pipes.stdin {
            thread::Builder::new().name("stdin".to_owned()).spawn(move || copy_input(stdin))?;
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
    pub(crate) fn finish(self) {
        for output in self.outputs {
            // A thread that panicked has said so.
            let _ = output.join();
        }
    }
}

/// From the user to the process, until either has enough.
fn copy_input(mut pipe: io::PipeWriter) {
    let mut buffer = vec![0; BUFFER];
    loop {
        match read_waiting(rustix::stdio::stdin(), &mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if pipe.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
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

fn forward_signals(control: Control, tty: bool) -> io::Result<()> {
    let mut signals = Signals::new(FORWARDED)?;
    if tty {
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
