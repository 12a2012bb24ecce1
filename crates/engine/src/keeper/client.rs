//! A command's end of the conversation with a keeper.

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
    wire::{AttachedStreams, FromKeeper, OutputStream, Receiver, ToKeeper, VERSION, WireError, send, with_short_path},
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
        let id = launch.id.clone();
        let failed = |source| Error::Keeper { id: id.clone(), source };
        send(&self.connection, &ToKeeper::Launch(Box::new(launch)), &[]).map_err(failed)?;
        let pipes = attach(&self.connection, streams).map_err(failed)?;
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

/// Makes the pipes and sends the keeper its ends.
fn attach(connection: &UnixStream, streams: AttachedStreams) -> Result<Pipes, WireError> {
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
    send(connection, &ToKeeper::Attach(streams), &descriptors)?;
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
        let failed = |source| Error::Keeper { id: id.to_owned(), source };
        let connection =
            with_short_path(socket, |short| UnixStream::connect(short)).map_err(|error| failed(error.into()))?;
        send(&connection, &ToKeeper::Hello { version: VERSION }, &[]).map_err(failed)?;
        let receiver = greeted(id, &connection)?;
        send(&connection, &ToKeeper::Wait, &[]).map_err(failed)?;
        let control = Control::new(connection);
        Ok(Self { id: id.to_owned(), control, receiver, pipes: Pipes::default(), keeper: None })
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

    /// Waits for the end of the container; `started` is called when its process runs. `None`: the keeper died.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`].
    pub fn wait(mut self, mut started: impl FnMut()) -> Result<Option<Ending>, Error> {
        let ending = loop {
            match self.receiver.receive() {
                Ok(Some(FromKeeper::Ended(ending))) => break Some(*ending),
                Ok(Some(FromKeeper::Started)) => started(),
                Ok(Some(FromKeeper::Refused(reason))) => return Err(Error::Refused { id: self.id, reason }),
                Ok(_) => {}
                Err(_) => break None,
            }
        };
        if let Some(mut keeper) = self.keeper {
            // It exits right behind its last word.
            let _ = keeper.wait();
        }
        Ok(ending)
    }
}
