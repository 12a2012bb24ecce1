//! A command's end of the conversation with a keeper.
//!
//! [`StartedKeeper`] makes one, [`Connection`] reaches one that is there. Either becomes what its only purpose is:
//! an [`Attachment`], a [`RunningExec`], or the answer to a request.

use std::{
    env, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use protocol::TerminalSize;

use super::{
    Launch, SUBCOMMAND,
    wire::{
        AttachedStreams, Exec, FromKeeper, OutputStream, ProcessRow, Receiver, ToKeeper, Update, Usage, VERSION,
        WireError, send, with_short_path,
    },
};
use crate::{ending::Ending, error::Error};

/// What a pipe between keeper and command holds, in bytes.
const PIPE_SIZE: usize = 256 << 10;

/// How long a keeper may take to answer a greeting.
const PATIENCE: Duration = Duration::from_secs(10);

/// A keeper that waits for its launch. It ends when this is dropped before.
#[derive(Debug)]
pub struct StartedKeeper {
    child: Child,
    connection: UnixStream,
}

impl StartedKeeper {
    /// Starts a keeper. What it is to run comes later, so that the two processes' work overlaps.
    ///
    /// # Errors
    ///
    /// [`Error::KeeperStart`].
    pub fn start() -> Result<Self, Error> {
        Self::start_as(&env::current_exe().map_err(Error::KeeperStart)?).map_err(Error::KeeperStart)
    }

    fn start_as(executable: &Path) -> io::Result<Self> {
        let (connection, theirs) = UnixStream::pair()?;
        let mut command = Command::new(executable);
        command.arg(SUBCOMMAND).env_clear();
        // What the emulator may need to be found and to find its libraries; nothing else of ours is the keeper's.
        for name in ["PATH", "LD_LIBRARY_PATH"] {
            command.envs(env::var_os(name).map(|value| (name, value)));
        }
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn()?;
        send(&connection, &ToKeeper::Hello { version: VERSION }, &[]).map_err(io::Error::other)?;
        Ok(Self { child, connection })
    }

    /// Hands the keeper its container. The streams named in `streams` are connected to pipes of this process.
    ///
    /// # Errors
    ///
    /// [`Error::Keeper`] when the keeper is gone or answers nonsense.
    pub fn launch(self, launch: Launch, streams: AttachedStreams) -> Result<Attachment, Error> {
        let (id, detach) = (launch.id.clone(), launch.detach);
        let failed = |source| Error::Keeper { id: id.clone(), source };
        send(&self.connection, &ToKeeper::Launch(Box::new(launch)), &[]).map_err(failed)?;
        // The keeper waits for whoever attaches, unless nobody is to.
        let pipes = if detach { Pipes::default() } else { attach(&self.connection, streams).map_err(failed)? };
        let receiver = greeted(&id, &self.connection)?;
        Ok(Attachment { control: Control::new(self.connection), receiver, pipes, keeper: Some(self.child), id })
    }
}

/// This process's ends of the streams.
#[derive(Debug, Default)]
pub struct Pipes {
    /// To write standard input to; closing it ends the process's input.
    pub stdin: Option<io::PipeWriter>,
    /// To read standard output from.
    pub stdout: Option<io::PipeReader>,
    /// To read standard error from.
    pub stderr: Option<io::PipeReader>,
}

fn attach(connection: &UnixStream, streams: AttachedStreams) -> Result<Pipes, WireError> {
    send_with_pipes(connection, &ToKeeper::Attach(streams), streams)
}

/// Makes the pipes and sends the keeper its ends along with a message.
fn send_with_pipes(connection: &UnixStream, message: &ToKeeper, streams: AttachedStreams) -> Result<Pipes, WireError> {
    let mut ours = Pipes::default();
    let mut theirs: Vec<OwnedFd> = Vec::with_capacity(3);
    if streams.stdin {
        let (reader, writer) = large_pipe()?;
        (ours.stdin, _) = (Some(writer), theirs.push(reader.into()));
    }
    for (wanted, end) in [(streams.stdout, &mut ours.stdout), (streams.stderr, &mut ours.stderr)] {
        if wanted {
            let (reader, writer) = large_pipe()?;
            (*end, _) = (Some(reader), theirs.push(writer.into()));
        }
    }
    let descriptors: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
    send(connection, message, &descriptors)?;
    Ok(ours)
}

fn large_pipe() -> io::Result<(io::PipeReader, io::PipeWriter)> {
    let pipe = io::pipe()?;
    // A user over the limit of pipe pages gets a smaller one.
    let _ = rustix::pipe::fcntl_setpipe_size(&pipe.1, PIPE_SIZE);
    Ok(pipe)
}

/// Reads the keeper's greeting.
fn greeted(id: &str, connection: &UnixStream) -> Result<Receiver, Error> {
    let failed = |source| Error::Keeper { id: id.to_owned(), source };
    let io_failed = |error: io::Error| failed(WireError::Io(error));
    let stream = connection.try_clone().map_err(io_failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(io_failed)?;
    let mut receiver = Receiver::new(stream);
    match receiver.receive().map_err(failed)? {
        Some(FromKeeper::Hello { version: VERSION }) => {}
        Some(FromKeeper::Hello { version }) => {
            return Err(Error::KeeperVersion { id: id.to_owned(), theirs: version, ours: VERSION });
        }
        Some(_) => return Err(failed(WireError::Closed)),
        None => return Err(failed(WireError::Io(io::ErrorKind::TimedOut.into()))),
    }
    receiver.stream().set_read_timeout(None).map_err(io_failed)?;
    Ok(receiver)
}

/// What can be asked of a keeper at any time and from any thread. A keeper that is gone takes no requests, and
/// that is for whoever waits for its last words to find out.
#[derive(Debug, Clone)]
pub struct Control {
    connection: Arc<Mutex<UnixStream>>,
}

impl Control {
    fn new(connection: UnixStream) -> Self {
        Self { connection: Arc::new(Mutex::new(connection)) }
    }

    fn ask(&self, message: &ToKeeper) {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = send(&connection, message, &[]);
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: u8) {
        self.ask(&ToKeeper::Signal(signal));
    }

    /// Sets the size of the terminal.
    pub fn resize(&self, size: TerminalSize) {
        self.ask(&ToKeeper::Resize(size));
    }

    /// Lets the process know that nobody reads a stream any more.
    pub fn close_output(&self, stream: OutputStream) {
        self.ask(&ToKeeper::CloseOutput(stream));
    }

    /// Ends the machine at once.
    pub fn kill(&self) {
        self.ask(&ToKeeper::Kill);
    }

    /// Lets go of the streams; the process's input does not end by that. Whoever waits hears
    /// [`Outcome::Detached`] and may then close its pipes.
    pub fn detach(&self) {
        self.ask(&ToKeeper::Detach);
    }
}

/// A connection to the keeper of a container that is there.
#[derive(Debug)]
pub struct Connection {
    id: String,
    connection: UnixStream,
    receiver: Receiver,
}

impl Connection {
    /// Connects, and greets.
    ///
    /// # Errors
    ///
    /// [`Error::Keeper`] when nobody listens, [`Error::KeeperVersion`].
    pub fn open(id: &str, socket: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Keeper { id: id.to_owned(), source };
        let connection =
            with_short_path(socket, |short| UnixStream::connect(short)).map_err(|error| failed(error.into()))?;
        send(&connection, &ToKeeper::Hello { version: VERSION }, &[]).map_err(failed)?;
        let receiver = greeted(id, &connection)?;
        Ok(Self { id: id.to_owned(), connection, receiver })
    }

    fn failed(&self, source: WireError) -> Error {
        Error::Keeper { id: self.id.clone(), source }
    }

    fn say(&self, message: &ToKeeper) -> Result<(), Error> {
        send(&self.connection, message, &[]).map_err(|source| self.failed(source))
    }

    /// The next message that is no news of the container.
    fn answer(&mut self) -> Result<FromKeeper, Error> {
        loop {
            match self.receiver.receive() {
                Ok(Some(FromKeeper::Refused(reason))) => return Err(Error::Refused { id: self.id.clone(), reason }),
                Ok(Some(FromKeeper::Started | FromKeeper::Restarting(_))) | Ok(None) => {}
                Ok(Some(message)) => return Ok(message),
                Err(source) => return Err(self.failed(source)),
            }
        }
    }

    fn ask(&mut self, message: &ToKeeper) -> Result<(), Error> {
        self.say(message)?;
        match self.answer()? {
            FromKeeper::Done => Ok(()),
            _ => Err(self.failed(WireError::Unexpected)),
        }
    }

    /// Waits for news of the container: restarts and the end.
    ///
    /// # Errors
    ///
    /// [`Error::Keeper`].
    pub fn wait(self) -> Result<Attachment, Error> {
        self.say(&ToKeeper::Wait)?;
        Ok(self.into_attachment(Pipes::default()))
    }

    /// Attaches to the process's streams, from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], [`Error::Keeper`].
    pub fn attach(mut self, streams: AttachedStreams) -> Result<Attachment, Error> {
        let pipes = attach(&self.connection, streams).map_err(|source| self.failed(source))?;
        match self.answer()? {
            FromKeeper::Attached => Ok(self.into_attachment(pipes)),
            _ => Err(self.failed(WireError::Unexpected)),
        }
    }

    fn into_attachment(self, pipes: Pipes) -> Attachment {
        let control = Control::new(self.connection);
        Attachment { id: self.id, control, receiver: self.receiver, pipes, keeper: None }
    }

    /// Runs a further process. Returns when it runs.
    ///
    /// # Errors
    ///
    /// [`Error::ExecFailed`] when the guest cannot start it, [`Error::Refused`], [`Error::Keeper`].
    pub fn exec(mut self, exec: Exec) -> Result<RunningExec, Error> {
        let streams = exec.streams;
        let message = ToKeeper::Exec(Box::new(exec));
        let pipes = send_with_pipes(&self.connection, &message, streams).map_err(|source| self.failed(source))?;
        match self.answer()? {
            FromKeeper::ExecStarted => {
                let control = Control::new(self.connection);
                Ok(RunningExec { id: self.id, control, receiver: self.receiver, pipes })
            }
            FromKeeper::ExecFailed { code, error } => Err(Error::ExecFailed { code, error }),
            _ => Err(self.failed(WireError::Unexpected)),
        }
    }

    /// Ends the container: the signal, a wait, SIGKILL, and a clean power-off. Returns when its end is recorded;
    /// `None` when the keeper died meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], [`Error::Keeper`].
    pub fn stop(self, signal: Option<u8>, timeout: Option<Duration>) -> Result<Option<Ending>, Error> {
        self.say(&ToKeeper::Stop { signal, timeout })?;
        match self.into_attachment(Pipes::default()).wait_for(|_| false)? {
            Outcome::Ended(ending) => Ok(Some(ending)),
            _ => Ok(None),
        }
    }

    /// Ends the container's process and starts it anew, in a new machine. Returns when it runs.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], also with the reason why it does not start; [`Error::Keeper`].
    pub fn restart(mut self, signal: Option<u8>, timeout: Option<Duration>) -> Result<(), Error> {
        self.ask(&ToKeeper::Restart { signal, timeout })
    }

    /// Sends the process a signal. Returns when the keeper has passed it on to the guest.
    ///
    /// # Errors
    ///
    /// [`Error::Keeper`].
    pub fn signal(mut self, signal: u8) -> Result<(), Error> {
        self.say(&ToKeeper::Signal(signal))?;
        // Requests are met in order, and this one is always answered.
        self.say(&ToKeeper::Usage)?;
        self.answer().map(drop)
    }

    /// Ends the machine at once. Returns when that is recorded; `None` when the keeper died meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Keeper`].
    pub fn kill(self) -> Result<Option<Ending>, Error> {
        self.say(&ToKeeper::Wait)?;
        self.say(&ToKeeper::Kill)?;
        match self.into_attachment(Pipes::default()).wait_for(|_| false)? {
            Outcome::Ended(ending) => Ok(Some(ending)),
            _ => Ok(None),
        }
    }

    /// Stops the vCPUs.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], [`Error::Keeper`].
    pub fn pause(mut self) -> Result<(), Error> {
        self.ask(&ToKeeper::Pause)
    }

    /// Lets the vCPUs go on.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], [`Error::Keeper`].
    pub fn unpause(mut self) -> Result<(), Error> {
        self.ask(&ToKeeper::Unpause)
    }

    /// Changes limits or the restart policy.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], [`Error::Keeper`].
    pub fn update(mut self, update: Update) -> Result<(), Error> {
        self.ask(&ToKeeper::Update(update))
    }

    /// Freezes the writable layer until the answer is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], [`Error::Keeper`].
    pub fn freeze(mut self) -> Result<Frozen, Error> {
        self.ask(&ToKeeper::Freeze)?;
        Ok(Frozen { connection: self })
    }

    /// What the container uses.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], [`Error::Keeper`].
    pub fn usage(&mut self) -> Result<Usage, Error> {
        self.say(&ToKeeper::Usage)?;
        match self.answer()? {
            FromKeeper::Usage(usage) => Ok(*usage),
            _ => Err(self.failed(WireError::Unexpected)),
        }
    }

    /// What runs in the container.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], [`Error::Keeper`].
    pub fn processes(mut self) -> Result<Vec<ProcessRow>, Error> {
        self.say(&ToKeeper::Processes)?;
        match self.answer()? {
            FromKeeper::Processes(rows) => Ok(rows),
            _ => Err(self.failed(WireError::Unexpected)),
        }
    }
}

/// A writable layer that does not change: its disk may be read. It thaws when this is dropped, and by itself after
/// two minutes.
#[derive(Debug)]
pub struct Frozen {
    connection: Connection,
}

impl Frozen {
    /// Thaws it, and waits for that.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] when it thawed by itself before: what was read since is of no use.
    pub fn thaw(mut self) -> Result<(), Error> {
        self.connection.ask(&ToKeeper::Thaw)
    }
}

/// What a wait ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The container ended, and that is recorded.
    Ended(Ending),
    /// Its process ended and will be started again.
    Restarting(Ending),
    /// Its process runs.
    Started,
    /// The streams were let go on this command's own wish.
    Detached,
    /// The keeper died.
    Lost,
}

/// A connection to a keeper whose end is awaited.
#[derive(Debug)]
pub struct Attachment {
    id: String,
    control: Control,
    receiver: Receiver,
    pipes: Pipes,
    keeper: Option<Child>,
}

impl Attachment {
    /// Connects to the keeper of a container, for its end.
    ///
    /// # Errors
    ///
    /// [`Error::Keeper`] or [`Error::KeeperVersion`].
    pub fn connect(id: &str, socket: &Path) -> Result<Self, Error> {
        Connection::open(id, socket)?.wait()
    }

    /// For requests while somebody waits.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Takes the streams.
    #[must_use]
    pub fn take_pipes(&mut self) -> Pipes {
        std::mem::take(&mut self.pipes)
    }

    /// The next piece of news.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`].
    #[expect(clippy::should_implement_trait, reason = "no iterator: it fails, and has no end of its own")]
    pub fn next(&mut self) -> Result<Outcome, Error> {
        let outcome = loop {
            match self.receiver.receive() {
                Ok(Some(FromKeeper::Ended(ending))) => break Outcome::Ended(*ending),
                Ok(Some(FromKeeper::Restarting(ending))) => break Outcome::Restarting(*ending),
                Ok(Some(FromKeeper::Started)) => break Outcome::Started,
                Ok(Some(FromKeeper::Done)) => break Outcome::Detached,
                Ok(Some(FromKeeper::Refused(reason))) => return Err(Error::Refused { id: self.id.clone(), reason }),
                Ok(_) => {}
                Err(_) => break Outcome::Lost,
            }
        };
        if let (Outcome::Ended(_) | Outcome::Lost, Some(mut keeper)) = (&outcome, self.keeper.take()) {
            // It exits right behind its last word.
            let _ = keeper.wait();
        }
        Ok(outcome)
    }

    /// Waits for the end of the container, of this attachment, or for other news that `suffices`.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`].
    pub fn wait_for(&mut self, mut suffices: impl FnMut(&Outcome) -> bool) -> Result<Outcome, Error> {
        loop {
            let outcome = self.next()?;
            if matches!(outcome, Outcome::Ended(_) | Outcome::Lost | Outcome::Detached) || suffices(&outcome) {
                return Ok(outcome);
            }
        }
    }

    /// Waits for the end of the container; `started` is called whenever its process runs. `None`: the keeper died.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`].
    pub fn wait(mut self, mut started: impl FnMut()) -> Result<Option<Ending>, Error> {
        let outcome = self.wait_for(|outcome| {
            if matches!(outcome, Outcome::Started) {
                started();
            }
            false
        })?;
        Ok(if let Outcome::Ended(ending) = outcome { Some(ending) } else { None })
    }
}

/// A further process that this process started in a container.
#[derive(Debug)]
pub struct RunningExec {
    id: String,
    control: Control,
    receiver: Receiver,
    pipes: Pipes,
}

impl RunningExec {
    /// For signals, sizes and the like while somebody waits.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Takes the streams.
    #[must_use]
    pub fn take_pipes(&mut self) -> Pipes {
        std::mem::take(&mut self.pipes)
    }

    /// Waits for its exit code, as a shell has it. `None`: it was let go by [`Control::detach`].
    ///
    /// # Errors
    ///
    /// [`Error::Keeper`] when the keeper died.
    pub fn wait(mut self) -> Result<Option<u8>, Error> {
        loop {
            match self.receiver.receive() {
                Ok(Some(FromKeeper::ExecEnded { code })) => return Ok(Some(code)),
                Ok(Some(FromKeeper::Done)) => return Ok(None),
                Ok(Some(FromKeeper::Refused(reason))) => return Err(Error::Refused { id: self.id, reason }),
                Ok(_) => {}
                Err(source) => return Err(Error::Keeper { id: self.id, source }),
            }
        }
    }
}
