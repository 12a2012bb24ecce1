//! Runs a program for its output, within bounds of time and size.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use thiserror::Error;

use crate::process::{isolate, pidfd};

/// Most bytes of output that are taken.
const OUTPUT_LIMIT: usize = 64 << 10;

/// How long a killed process may take to go before it is left to itself.
const KILL_PATIENCE: Duration = Duration::from_millis(500);

/// What a program printed.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) stdout: Vec<u8>,
    /// Its end as a sentence's tail: "exited with status 1".
    pub(crate) ending: String,
}

/// A program without an answer.
#[derive(Debug, Error)]
pub(crate) enum RunError {
    #[error("it did not end within {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("it printed more than {OUTPUT_LIMIT} bytes")]
    TooMuch,
    #[error("it could not be run")]
    Io(#[from] io::Error),
}

/// Runs `command` to its end and returns what it printed on stdout.
pub(crate) fn run(mut command: Command, limit: Duration) -> Result<Output, RunError> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    isolate(&mut command);
    let mut child = command.spawn()?;
    let result = collect(&mut child, limit);
    if result.is_err() {
        put_down(&mut child);
    }
    result
}

fn collect(child: &mut Child, limit: Duration) -> Result<Output, RunError> {
    let deadline = Instant::now() + limit;
    let pidfd = pidfd(child)?;
    let mut pipe = child.stdout.take().ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
    rustix::io::ioctl_fionbio(&pipe, true).map_err(io::Error::from)?;
    let mut stdout = Vec::new();
    let mut open = true;
    loop {
        open = open && !read_available(&mut pipe, &mut stdout)?;
        if let Some(status) = child.try_wait()? {
            if open {
                read_available(&mut pipe, &mut stdout)?;
            }
            return Ok(Output { stdout, ending: status.to_string() });
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(RunError::TimedOut(limit));
        }
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        if open {
            fds.push(PollFd::new(&pipe, PollFlags::IN));
        }
        match rustix::event::poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(RunError::Io(error.into())),
        }
    }
}

/// True at the end of the stream.
fn read_available(pipe: &mut impl Read, stdout: &mut Vec<u8>) -> Result<bool, RunError> {
    let mut buffer = [0; 4096];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(count) if stdout.len() + count > OUTPUT_LIMIT => return Err(RunError::TooMuch),
            Ok(count) => stdout.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Kills and reaps. A process stuck in the kernel is given up on: it dies with us at the latest.
fn put_down(child: &mut Child) {
    let _ = child.kill();
    let deadline = Instant::now() + KILL_PATIENCE;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: u64) -> Result<Output, RunError> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        run(command, Duration::from_millis(limit))
    }

    #[test]
    fn output_and_ending_are_returned() {
        let output = shell("echo hello; exit 3", 5000).unwrap();
        assert_eq!((output.stdout.as_slice(), output.ending.as_str()), (&b"hello\n"[..], "exit status: 3"));
    }

    #[test]
    fn a_program_that_hangs_is_killed_in_time() {
        let before = Instant::now();
        assert!(matches!(shell("exec sleep 100", 100), Err(RunError::TimedOut(_))));
        assert!(before.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn a_grandchild_with_the_pipe_does_not_hold_us() {
        let before = Instant::now();
        assert_eq!(shell("sleep 3 & echo done", 2000).unwrap().stdout, b"done\n");
        assert!(before.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn a_flood_is_cut_off() {
        assert!(matches!(shell("exec cat /dev/zero", 5000), Err(RunError::TooMuch)));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let missing = run(Command::new("/nonexistent/program"), Duration::from_secs(1));
        assert!(matches!(missing, Err(RunError::Io(_))));
    }
}
