//! A process that the host started: from its streams to its exit.
//!
//! ```text
//!  start ─▶ Starting ──(its channel closes)──▶ Running ──(it ended)──▶ Draining ──(last byte sent)──▶ forgotten: Exited
//!               └──(failed, or too slow and killed)──▶ forgotten: SpawnFailed
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use protocol::{ContainerId, ExitStatus, STREAM_PORT, Stdio, StreamOpen, StreamToken, TerminalSize};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use rustix::process::Pid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

use crate::channel::Listener;
use crate::failure::{Context, Result, failure};
use crate::platform::Platform;
use crate::pump::{Direction, Pump};

/// Bytes that a pipe holds: the more, the fewer turns of the loop.
const PIPE_SIZE: usize = 256 << 10;

/// How long the host may take to accept a stream.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Where in its life a process is.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Not yet its program. Signals wait.
    Starting {
        listener: Listener,
        /// When it died meanwhile: the channel has the first word.
        ended: Option<ExitStatus>,
        signals: Vec<u8>,
    },
    /// Its program runs.
    Running,
    /// It ended; its output may not all be sent.
    Draining(ExitStatus),
}

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) container: ContainerId,
    pub(crate) pid: Pid,
    /// Whether it is its container's first.
    pub(crate) first: bool,
    pub(crate) phase: Phase,
    /// When it has taken too long: to start, or to have its output end.
    pub(crate) until: Option<Instant>,
    /// Its output ends where nothing more is there to be read.
    pub(crate) cut: bool,
    pub(crate) pumps: Vec<Pump>,
    pub(crate) terminal: Option<Terminal>,
    /// Kills by the out-of-memory killer in its container before it.
    pub(crate) oom_kills: u64,
}

impl Process {
    /// Whether it was reaped.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Draining(_) | Phase::Starting { ended: Some(_), .. })
    }
}

/// Guest init's hold on the terminal of a process.
#[derive(Debug)]
pub(crate) struct Terminal {
    master: OwnedFd,
    /// Kept while the process lives, so that a moment without any user is not the terminal's end.
    pub(crate) slave: Option<OwnedFd>,
}

impl Terminal {
    pub(crate) fn resize(&self, size: TerminalSize) {
        // A terminal that is gone has no size.
        let _ = set_size(&self.master, size);
    }
}

fn set_size(terminal: &OwnedFd, size: TerminalSize) -> std::result::Result<(), Errno> {
    let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}

/// The streams of a process that is to be started.
#[derive(Debug)]
pub(crate) struct Streams {
    /// The process's own ends.
    pub(crate) stdio: [OwnedFd; 3],
    pub(crate) terminal: Option<Terminal>,
    /// What is to be moved: direction, source, sink.
    pub(crate) routes: Vec<(Direction, OwnedFd, OwnedFd)>,
}

impl Streams {
    /// Connects the streams to the host and makes the process's ends.
    pub(crate) fn open(platform: &dyn Platform, stdio: &Stdio, terminals: &OwnedFd) -> Result<Self> {
        match stdio {
            Stdio::Pipes { stdin, stdout, stderr } => Self::pipes(platform, [*stdin, *stdout, *stderr]),
            Stdio::Terminal { token, size } => Self::terminal(platform, *token, *size, terminals),
        }
    }

    fn pipes(platform: &dyn Platform, tokens: [Option<StreamToken>; 3]) -> Result<Self> {
        let [stdin, stdout, stderr] = connect_all(platform, tokens)?;
        let mut routes = Vec::new();
        let null = || {
            rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                .context(|| "open /dev/null".to_owned())
        };
        let mut make = |connection: Option<OwnedFd>, direction| -> Result<OwnedFd> {
            let Some(connection) = connection else { return null() };
            let (read, write) = new_pipe().context(|| "make a pipe".to_owned())?;
            let (own, theirs) = if direction == Direction::Input { (write, read) } else { (read, write) };
            rustix::io::ioctl_fionbio(&own, true).context(|| "make a pipe".to_owned())?;
            routes.push(match direction {
                Direction::Input => (direction, connection, own),
                Direction::Output => (direction, own, connection),
            });
            Ok(theirs)
        };
        let stdio =
            [make(stdin, Direction::Input)?, make(stdout, Direction::Output)?, make(stderr, Direction::Output)?];
        Ok(Self { stdio, terminal: None, routes })
    }

    fn terminal(platform: &dyn Platform, token: StreamToken, size: TerminalSize, terminals: &OwnedFd) -> Result<Self> {
        let [connection, ..] = connect_all(platform, [Some(token), None, None])?;
        let Some(connection) = connection else { return failure("no connection") };
        let make = || -> std::result::Result<Self, Errno> {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let master = openat(terminals, "ptmx", flags, Mode::empty())?;
            unlockpt(&master)?;
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            let slave = ioctl_tiocgptpeer(&master, flags)?;
            set_size(&master, size)?;
            let copy = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 3);
            Ok(Self {
                stdio: [copy(&slave)?, copy(&slave)?, copy(&slave)?],
                routes: vec![
                    (Direction::Input, copy(&connection)?, copy(&master)?),
                    (Direction::Output, copy(&master)?, connection),
                ],
                terminal: Some(Terminal { master, slave: Some(slave) }),
            })
        };
        make().context(|| "make a terminal".to_owned())
    }
}

fn new_pipe() -> std::result::Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // A smaller pipe works as well.
    let _ = fcntl_setpipe_size(&write, PIPE_SIZE);
    Ok((read, write))
}

/// Connects all streams, waiting for the host once.
fn connect_all(platform: &dyn Platform, tokens: [Option<StreamToken>; 3]) -> Result<[Option<OwnedFd>; 3]> {
    let begin = |token: &Option<StreamToken>| token.is_some().then(|| platform.connect(STREAM_PORT)).transpose();
    let connections = [begin(&tokens[0]), begin(&tokens[1]), begin(&tokens[2])];
    let mut open = [None, None, None];
    for ((slot, connection), token) in open.iter_mut().zip(connections).zip(tokens) {
        let (Some(connection), Some(token)) = (connection.context(what_connect)?, token) else { continue };
        finish_connect(&connection, CONNECT_TIMEOUT).context(what_connect)?;
        // A fresh connection has room for a frame this small.
        match rustix::io::write(&connection, &StreamOpen { token }.to_frame()) {
            Ok(StreamOpen::FRAME_LENGTH) => *slot = Some(connection),
            Ok(_) => return failure("the host takes no stream"),
            Err(errno) => return Err(errno).context(what_connect),
        }
    }
    Ok(open)
}

fn what_connect() -> String {
    "connect a stream to the host".to_owned()
}

/// Waits until a connection that was begun is there.
pub(crate) fn finish_connect(connection: &OwnedFd, timeout: Duration) -> std::result::Result<(), Errno> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::from_borrowed_fd(connection.as_fd(), PollFlags::OUT)], Some(&left)) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            Ok(_) => return rustix::net::sockopt::socket_error(connection)?,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
