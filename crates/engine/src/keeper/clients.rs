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
    wire::{self, AttachedStreams, FromKeeper, Receiver, ToKeeper, VERSION, WireError},
};

/// Most connections at a time.
const MAX_CLIENTS: usize = 64;

/// Most bytes that wait for a command that does not read them; more, and it is dropped.
const MAX_UNSENT: usize = 1 << 20;

/// A request of a command.
#[derive(Debug)]
pub(super) enum Request {
    /// A message that stands for itself.
    Message(ToKeeper),
    /// Pipes to connect: standard input, output, error.
    Attach(Pipes),
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
    /// Whether the process has its streams, so that nobody can bring others.
    streams_taken: bool,
}

impl Clients {
    /// The connection that this keeper was started with, already greeted.
    pub(super) fn with_first(first: Receiver) -> io::Result<Self> {
        first.stream().set_nonblocking(true)?;
        let first = Client { receiver: first, unsent: VecDeque::new(), greeted: true, waits: true };
        Ok(Self { listener: None, clients: vec![first], streams_taken: false })
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

    /// Accepts, receives and sends what can be now.
    pub(super) fn progress(&mut self) -> Vec<Request> {
        self.accept();
        let mut requests = Vec::new();
        let taken = self.streams_taken;
        self.clients.retain_mut(|client| client.flush().is_ok() && client.hear(taken, &mut requests).is_ok());
        requests
    }

    /// The process runs with the streams it has: refuses more from now on.
    pub(super) fn streams_are_taken(&mut self) {
        self.streams_taken = true;
    }

    fn accept(&mut self) {
        while let Some(listener) = self.listener.as_ref().filter(|_| self.clients.len() < MAX_CLIENTS) {
            let Ok((stream, _)) = listener.accept() else { return };
            if stream.set_nonblocking(true).is_ok() {
                let receiver = Receiver::new(stream);
                self.clients.push(Client { receiver, unsent: VecDeque::new(), greeted: false, waits: false });
            }
        }
    }

    /// Tells every waiting connection.
    pub(super) fn tell(&mut self, message: &FromKeeper) {
        self.clients.retain_mut(|client| !client.waits || client.say(message).is_ok());
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
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn hear(&mut self, streams_taken: bool, requests: &mut Vec<Request>) -> Result<(), WireError> {
        while let Some(message) = self.receiver.receive::<ToKeeper>()? {
            match message {
                ToKeeper::Hello { version } => {
                    self.say(&FromKeeper::Hello { version: VERSION })?;
                    self.greeted = version == VERSION;
                }
                _ if !self.greeted => {
                    self.say(&FromKeeper::Refused(format!("speak version {VERSION} and say hello first")))?;
                    return Err(WireError::Closed);
                }
                ToKeeper::Launch(_) => self.say(&FromKeeper::Refused("a container is running here".to_owned()))?,
                ToKeeper::Wait => self.waits = true,
                ToKeeper::Attach(streams) if streams_taken => {
                    self.receiver.take_descriptors(streams.count())?;
                    self.say(&FromKeeper::Refused("the process has its streams already".to_owned()))?;
                }
                ToKeeper::Attach(streams) => {
                    requests.push(Request::Attach(self.take_pipes(streams)?));
                    self.waits = true;
                    self.say(&FromKeeper::Attached)?;
                }
                message => requests.push(Request::Message(message)),
            }
        }
        Ok(())
    }

    fn take_pipes(&mut self, streams: AttachedStreams) -> Result<Pipes, WireError> {
        let mut descriptors = self.receiver.take_descriptors(streams.count())?;
        for descriptor in &descriptors {
            relay::set_nonblocking(descriptor)?;
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
        assert!(matches!(requests[..], [Request::Message(ToKeeper::Signal(15))]), "{requests:?}");
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
        assert!(clients.progress().is_empty());
        let mut receiver = Receiver::new(stream);
        assert_eq!(receiver.receive().unwrap(), Some(FromKeeper::Hello { version: VERSION }));
        assert!(matches!(receiver.receive().unwrap(), Some(FromKeeper::Refused(_))));
        assert!(matches!(receiver.receive::<FromKeeper>(), Err(WireError::Closed)));
    }

    #[test]
    fn attach_without_its_descriptors_ends_the_connection_only() {
        let (mut clients, first) = pair();
        send(&first, &ToKeeper::Attach(AttachedStreams { stdin: true, ..AttachedStreams::default() }), &[]).unwrap();
        assert!(clients.progress().is_empty());
        assert!(clients.clients.is_empty());
    }

    #[test]
    fn streams_are_given_once() {
        let (mut clients, first) = pair();
        let attach = ToKeeper::Attach(AttachedStreams::default());
        send(&first, &attach, &[]).unwrap();
        assert!(matches!(clients.progress()[..], [Request::Attach(_)]));
        clients.streams_are_taken();
        send(&first, &attach, &[]).unwrap();
        assert!(clients.progress().is_empty());
        let mut receiver = Receiver::new(first);
        assert_eq!(receiver.receive().unwrap(), Some(FromKeeper::Attached));
        assert!(matches!(receiver.receive().unwrap(), Some(FromKeeper::Refused(_))));
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
        assert!(clients.clients.is_empty());
    }

    #[test]
    fn malformed_frames_end_the_connection_only() {
        let (mut clients, mut first) = pair();
        io::Write::write_all(&mut first, &[0xff; 16]).unwrap();
        assert!(clients.progress().is_empty());
        assert!(clients.clients.is_empty());
    }
}
