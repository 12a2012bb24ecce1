//! The connections of commands to a keeper.

use std::{
    collections::VecDeque,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
};

use protocol::encode_frame;
use rustix::event::{PollFd, PollFlags};

use super::{
    relay,
    wire::{self, AttachedStreams, Exec, FromKeeper, Receiver, ToKeeper, VERSION, WireError},
};

/// Most connections at a time: each exec has one.
const MAX_CLIENTS: usize = 1200;

/// Most bytes that wait for a command that does not read them; more, and it is dropped.
const MAX_UNSENT: usize = 1 << 20;

/// Names a connection. Never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClientId(pub(super) u64);

/// What came of a connection.
#[derive(Debug)]
pub(super) enum Request {
    /// A message that stands for itself.
    Message(ToKeeper),
    /// Pipes to connect: standard input, output, error.
    Attach(Pipes),
    /// A further process, with its pipes.
    Exec(Box<Exec>, Pipes),
    /// The connection has ended.
    Gone,
}

/// The far ends of a command's streams, non-blocking.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

#[derive(Debug)]
struct Client {
    id: ClientId,
    receiver: Receiver,
    unsent: VecDeque<u8>,
    greeted: bool,
    /// Told when the process runs and when the container has ended.
    waits: bool,
}

/// All connections.
#[derive(Debug)]
pub(super) struct Clients {
    listener: Option<UnixListener>,
    clients: Vec<Client>,
    last: u64,
}

impl Clients {
    /// The connection that this keeper was started with.
    pub(super) const FIRST: ClientId = ClientId(0);

    /// The connection that this keeper was started with, already greeted.
    pub(super) fn with_first(first: Receiver) -> io::Result<Self> {
        first.stream().set_nonblocking(true)?;
        let first = Client { id: Self::FIRST, receiver: first, unsent: VecDeque::new(), greeted: true, waits: true };
        Ok(Self { listener: None, clients: vec![first], last: 0 })
    }

    /// Listens on a socket for more.
    pub(super) fn listen(&mut self, path: &Path) -> io::Result<()> {
        let listener = wire::with_short_path(path, |short| UnixListener::bind(short))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        self.listener = Some(listener);
        Ok(())
    }

    /// What to poll for.
    pub(super) fn interests<'a>(&'a self, interests: &mut Vec<PollFd<'a>>) {
        if let Some(listener) = self.listener.as_ref().filter(|_| self.clients.len() < MAX_CLIENTS) {
            interests.push(PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
        }
        for client in &self.clients {
            let flags = if client.unsent.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            interests.push(PollFd::from_borrowed_fd(client.receiver.as_fd(), flags));
        }
    }

    /// Accepts, receives and sends what can be now. What came of a connection is in order.
    pub(super) fn progress(&mut self) -> Vec<(ClientId, Request)> {
        self.accept();
        let mut requests = Vec::new();
        self.clients.retain_mut(|client| {
            let lives = client.flush().is_ok() && client.hear(&mut requests).is_ok();
            if !lives {
                requests.push((client.id, Request::Gone));
            }
            lives
        });
        requests
    }

    fn accept(&mut self) {
        while let Some(listener) = self.listener.as_ref().filter(|_| self.clients.len() < MAX_CLIENTS) {
            let Ok((stream, _)) = listener.accept() else { return };
            if stream.set_nonblocking(true).is_ok() {
                self.last += 1;
                let (id, receiver) = (ClientId(self.last), Receiver::new(stream));
                self.clients.push(Client { id, receiver, unsent: VecDeque::new(), greeted: false, waits: false });
            }
        }
    }

    /// Answers one connection, if it is still there. One that does not read is found out at the next turn.
    pub(super) fn answer(&mut self, id: ClientId, message: &FromKeeper) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.say_or_close(message);
        }
    }

    /// From now on a connection is told what happens to the container, or no longer.
    pub(super) fn set_waiting(&mut self, id: ClientId, waits: bool) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.waits = waits;
        }
    }

    /// Tells every waiting connection.
    pub(super) fn tell(&mut self, message: &FromKeeper) {
        self.clients.iter_mut().filter(|client| client.waits).for_each(|client| client.say_or_close(message));
    }

    /// Sends the last words and closes every connection. Waits for those that read, within reason.
    pub(super) fn farewell(mut self, message: &FromKeeper) {
        self.listener = None;
        self.tell(message);
        for client in &mut self.clients {
            let stream: &UnixStream = client.receiver.stream();
            let bounded = stream
                .set_nonblocking(false)
                .and_then(|()| stream.set_write_timeout(Some(std::time::Duration::from_secs(2))));
            if bounded.is_ok() {
                // One that does not read has nobody to tell.
                let _ = io::Write::write_all(&mut &*stream, client.unsent.make_contiguous());
            }
        }
    }
}

impl Client {
    /// A connection that takes nothing any more is shut down, so that the next turn finds its end.
    fn say_or_close(&mut self, message: &FromKeeper) {
        if self.say(message).is_err() {
            self.unsent = VecDeque::new();
            let _ = self.receiver.stream().shutdown(std::net::Shutdown::Both);
        }
    }

    fn say(&mut self, message: &FromKeeper) -> Result<(), WireError> {
        self.unsent.extend(encode_frame(message)?);
        if self.unsent.len() > MAX_UNSENT {
            return Err(WireError::Closed);
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), WireError> {
        while !self.unsent.is_empty() {
            let (front, _) = self.unsent.as_slices();
            match io::Write::write(&mut self.receiver.stream(), front) {
                Ok(0) => return Err(WireError::Closed),
                // An answer of many rows leaves no room behind.
                Ok(sent) if sent == self.unsent.len() => self.unsent = VecDeque::new(),
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn hear(&mut self, requests: &mut Vec<(ClientId, Request)>) -> Result<(), WireError> {
        while let Some(message) = self.receiver.receive::<ToKeeper>()? {
            let request = match message {
                ToKeeper::Hello { version } => {
                    self.say(&FromKeeper::Hello { version: VERSION })?;
                    self.greeted = version == VERSION;
                    continue;
                }
                _ if !self.greeted => {
                    self.say(&FromKeeper::Refused(format!("speak version {VERSION} and say hello first")))?;
                    return Err(WireError::Closed);
                }
                ToKeeper::Launch(_) => {
                    self.say(&FromKeeper::Refused("a container is running here".to_owned()))?;
                    continue;
                }
                ToKeeper::Wait => {
                    self.waits = true;
                    continue;
                }
                ToKeeper::Attach(streams) => {
                    let pipes = self.take_pipes(streams)?;
                    self.waits = true;
                    self.say(&FromKeeper::Attached)?;
                    Request::Attach(pipes)
                }
                ToKeeper::Exec(exec) => {
                    let pipes = self.take_pipes(exec.streams)?;
                    Request::Exec(exec, pipes)
                }
                message => Request::Message(message),
            };
            requests.push((self.id, request));
        }
        Ok(())
    }

    fn take_pipes(&mut self, streams: AttachedStreams) -> Result<Pipes, WireError> {
        let mut descriptors = self.receiver.take_descriptors(streams.count())?;
        for descriptor in &descriptors {
            relay::set_nonblocking(descriptor.as_fd())?;
        }
        let mut take = |wanted: bool| if wanted { descriptors.pop_front() } else { None };
        Ok(Pipes { stdin: take(streams.stdin), stdout: take(streams.stdout), stderr: take(streams.stderr) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ending::Ending, keeper::wire::send};

    fn pair() -> (Clients, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Clients::with_first(Receiver::new(ours)).unwrap(), theirs)
    }

    #[test]
    fn socket_is_private_and_greets() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let (mut clients, _first) = pair();
        clients.listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let stream = UnixStream::connect(&path).unwrap();
        send(&stream, &ToKeeper::Hello { version: VERSION }, &[]).unwrap();
        send(&stream, &ToKeeper::Signal(15), &[]).unwrap();
        let requests = clients.progress();
        assert!(matches!(requests[..], [(ClientId(1), Request::Message(ToKeeper::Signal(15)))]), "{requests:?}");
        let mut receiver = Receiver::new(stream);
        assert_eq!(receiver.receive().unwrap(), Some(FromKeeper::Hello { version: VERSION }));
    }

    #[test]
    fn no_request_before_a_greeting_of_this_version() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let (mut clients, _first) = pair();
        clients.listen(&path).unwrap();
        let stream = UnixStream::connect(&path).unwrap();
        send(&stream, &ToKeeper::Hello { version: VERSION + 1 }, &[]).unwrap();
        send(&stream, &ToKeeper::Kill, &[]).unwrap();
        assert!(matches!(clients.progress()[..], [(_, Request::Gone)]));
        let mut receiver = Receiver::new(stream);
        assert_eq!(receiver.receive().unwrap(), Some(FromKeeper::Hello { version: VERSION }));
        assert!(matches!(receiver.receive().unwrap(), Some(FromKeeper::Refused(_))));
        assert!(matches!(receiver.receive::<FromKeeper>(), Err(WireError::Closed)));
    }

    #[test]
    fn attach_without_its_descriptors_ends_the_connection_only() {
        let (mut clients, first) = pair();
        send(&first, &ToKeeper::Attach(AttachedStreams { stdin: true, ..AttachedStreams::default() }), &[]).unwrap();
        assert!(matches!(clients.progress()[..], [(Clients::FIRST, Request::Gone)]));
        assert!(clients.clients.is_empty());
    }

    #[test]
    fn streams_may_be_given_more_than_once() {
        let (mut clients, first) = pair();
        let attach = ToKeeper::Attach(AttachedStreams::default());
        for _ in 0..2 {
            send(&first, &attach, &[]).unwrap();
            assert!(matches!(clients.progress()[..], [(Clients::FIRST, Request::Attach(_))]));
        }
        let mut receiver = Receiver::new(first);
        assert_eq!(receiver.receive().unwrap(), Some(FromKeeper::Attached));
    }

    #[test]
    fn exec_brings_its_pipes() {
        let (mut clients, first) = pair();
        let streams = AttachedStreams { stdout: true, ..AttachedStreams::default() };
        let exec = Exec {
            id: "e".repeat(64),
            process: protocol::ProcessSpec::default(),
            tty: false,
            streams,
            size: protocol::TerminalSize::default(),
            detach: false,
        };
        let (_reader, writer) = io::pipe().unwrap();
        send(&first, &ToKeeper::Exec(Box::new(exec.clone())), &[writer.as_fd()]).unwrap();
        let requests = clients.progress();
        let [(_, Request::Exec(got, pipes))] = &requests[..] else { panic!("{requests:?}") };
        assert!(**got == exec && pipes.stdout.is_some() && pipes.stdin.is_none());
    }

    #[test]
    fn everyone_who_waits_hears_the_end() {
        let (mut clients, first) = pair();
        assert!(clients.progress().is_empty());
        clients.tell(&FromKeeper::Started);
        let ended = FromKeeper::Ended(Box::new(Ending::interrupted(2)));
        clients.farewell(&ended);
        let mut receiver = Receiver::new(first);
        assert_eq!(receiver.receive().unwrap(), Some(FromKeeper::Started));
        assert_eq!(receiver.receive().unwrap(), Some(ended));
        assert!(matches!(receiver.receive::<FromKeeper>(), Err(WireError::Closed)));
    }

    #[test]
    fn command_that_never_reads_is_dropped() {
        let (mut clients, _first) = pair();
        let message = FromKeeper::Refused("x".repeat(100 << 10));
        for _ in 0..40 {
            clients.tell(&message);
        }
        assert!(matches!(clients.progress()[..], [(Clients::FIRST, Request::Gone)]));
        assert!(clients.clients.is_empty());
    }

    #[test]
    fn malformed_frames_end_the_connection_only() {
        let (mut clients, mut first) = pair();
        io::Write::write_all(&mut first, &[0xff; 16]).unwrap();
        assert!(matches!(clients.progress()[..], [(Clients::FIRST, Request::Gone)]));
        assert!(clients.clients.is_empty());
    }
}
