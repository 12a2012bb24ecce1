//! The connections of a session.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use protocol::{
    CONTROL_PORT, ContainerConfig, ContainerId, FrameBuffer, GuestMessage, HostMessage, Limits, MAX_GUEST_FRAME,
    ProcessId, ProcessSpec, Question, RequestId, STREAM_PORT, StreamOpen, StreamToken, TerminalSize, encode_frame,
};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use crate::{Conversation, Event, GuestError, RequestError, StdioRequest, Timeouts};

/// Most stdio connections that have not shown their token.
pub const MAX_PENDING: usize = 64;

/// Most bytes that wait until the guest takes them. Two of the largest requests.
pub const MAX_QUEUED: usize = 9 << 20;

/// How long a stdio connection may take to show its token.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes taken from the control connection in one call of [`Session::progress`].
const READ_BUDGET: usize = 1 << 20;

/// A stdio connection that has not shown its whole token.
#[derive(Debug)]
struct Pending {
    stream: UnixStream,
    frame: [u8; StreamOpen::FRAME_LENGTH],
    received: usize,
    until: Instant,
}

/// What became of a look at a pending connection.
enum Look {
    Waits,
    Shows(StreamOpen),
    Useless,
}

/// The guest of one machine.
#[derive(Debug)]
pub struct Session {
    epoll: OwnedFd,
    conversation: Conversation<UnixStream>,
    control: Option<UnixStream>,
    received: FrameBuffer,
    queued: Vec<u8>,
    /// Bytes of `queued` that were written.
    written: usize,
    pending: Vec<Pending>,
    /// What room had to be made for: the next call of `progress` reports it.
    early: Vec<Event>,
    /// An error that came after events: the next call of `progress` reports it.
    failure: Option<GuestError>,
}

impl Session {
    /// A session that waits for the guest's Hello from now on.
    ///
    /// # Errors
    ///
    /// No descriptor is left for its epoll.
    pub fn new(timeouts: Timeouts) -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            conversation: Conversation::new(timeouts, Instant::now()),
            control: None,
            received: FrameBuffer::with_limit(MAX_GUEST_FRAME),
            queued: Vec::new(),
            written: 0,
            pending: Vec::new(),
            early: Vec::new(),
            failure: None,
        })
    }

    /// Takes a connection that the guest opened to `port`, or closes it if nothing is to come on it.
    ///
    /// # Errors
    ///
    /// The connection cannot be polled.
    pub fn offer(&mut self, port: u32, stream: UnixStream) -> io::Result<()> {
        match port {
            CONTROL_PORT if self.control.is_none() && self.conversation.in_handshake() => {
                self.watch(&stream)?;
                self.control = Some(stream);
            }
            STREAM_PORT if self.conversation.expects_streams() => {
                self.watch(&stream)?;
                let now = Instant::now();
                self.make_room(now);
                let until = now + TOKEN_TIMEOUT;
                self.pending.push(Pending { stream, frame: [0; StreamOpen::FRAME_LENGTH], received: 0, until });
            }
            _ => drop(stream),
        }
        Ok(())
    }

    /// Decides what can be decided when too many connections wait, and if that is not enough closes the oldest: guest
    /// init shows its tokens at once.
    fn make_room(&mut self, now: Instant) {
        if self.pending.len() < MAX_PENDING {
            return;
        }
        let mut events = std::mem::take(&mut self.early);
        self.look_at_pending(now, &mut events);
        self.early = events;
        if self.pending.len() >= MAX_PENDING {
            let oldest = self.pending.iter().enumerate().min_by_key(|(_, pending)| pending.until);
            if let Some((index, _)) = oldest {
                self.pending.swap_remove(index);
            }
        }
    }

    fn watch(&self, stream: &UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        epoll::add(&self.epoll, stream, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        Ok(())
    }

    /// Reads and writes what can be read and written without waiting, and reports what happened.
    ///
    /// # Errors
    ///
    /// The guest broke the protocol, was too slow, or is gone: the session has ended. Events that came before
    /// the error are reported first, the error by the next call.
    pub fn progress(&mut self) -> Result<Vec<Event>, GuestError> {
        if self.conversation.has_ended() {
            return Err(self.failure.take().unwrap_or(GuestError::Ended));
        }
        let mut events = std::mem::take(&mut self.early);
        let result = self.advance(&mut events);
        if self.conversation.has_ended() || result.is_err() {
            self.conversation.end();
            self.control = None;
            self.pending.clear();
            self.queued = Vec::new();
        }
        match result {
            Err(error) if events.is_empty() => Err(error),
            result => {
                self.failure = result.err();
                Ok(events)
            }
        }
    }

    fn advance(&mut self, events: &mut Vec<Event>) -> Result<(), GuestError> {
        let now = Instant::now();
        self.look_at_pending(now, events);
        self.write_queued()?;
        self.read_control(now, events)?;
        self.conversation.expire(now, events)
    }

    fn read_control(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), GuestError> {
        let mut chunk = [0; 16 << 10];
        let mut budget = READ_BUDGET;
        while let Some(control) = &mut self.control {
            let length = match control.read(&mut chunk) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
                Err(error) => return Err(GuestError::Io(error)),
            };
            if length == 0 {
                return Err(GuestError::Disconnected { partial: self.received.is_partial() });
            }
            self.received.extend(&chunk[..length]);
            while let Some(message) = self.received.take_message::<GuestMessage>()? {
                self.conversation.receive(message, now, events)?;
                if self.conversation.has_ended() {
                    return Ok(());
                }
            }
            budget = budget.saturating_sub(length);
            if budget == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    fn look_at_pending(&mut self, now: Instant, events: &mut Vec<Event>) {
        let mut index = 0;
        while index < self.pending.len() {
            let look = look(&mut self.pending[index], now);
            if matches!(look, Look::Waits) {
                index += 1;
                continue;
            }
            let pending = self.pending.swap_remove(index);
            // A failure would mean that it was never added; it is not polled either way.
            let _ = epoll::delete(&self.epoll, &pending.stream);
            if let Look::Shows(open) = look {
                // A connection without a purpose is closed by dropping it.
                let _ = self.conversation.connect(&open.token, pending.stream, events);
            }
        }
    }

    fn write_queued(&mut self) -> Result<(), GuestError> {
        let Some(control) = &mut self.control else { return Ok(()) };
        if self.queued.is_empty() {
            return Ok(());
        }
        while self.written < self.queued.len() {
            match control.write(&self.queued[self.written..]) {
                Ok(length) => self.written += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The guest is gone; what it said last is still to be read.
                Err(_) => self.written = self.queued.len(),
            }
        }
        let mut interest = epoll::EventFlags::IN;
        if self.written == self.queued.len() {
            self.queued = Vec::new();
            self.written = 0;
        } else {
            interest |= epoll::EventFlags::OUT;
        }
        epoll::modify(&self.epoll, control, epoll::EventData::new_u64(0), interest)
            .map_err(|errno| GuestError::Io(errno.into()))
    }

    /// The guest stood still for so long (its vCPUs were stopped, and nobody called [`Session::progress`] meanwhile):
    /// it gets that time back, whatever it is awaited for.
    pub fn postpone(&mut self, by: Duration) {
        self.conversation.postpone(by);
        self.pending.iter_mut().for_each(|pending| pending.until += by);
    }

    /// When [`Session::progress`] has to be called even if nothing is readable.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.failure.is_some() || !self.early.is_empty() {
            return Some(Instant::now());
        }
        let pending = self.pending.iter().map(|pending| pending.until);
        pending.chain(self.conversation.deadline()).min()
    }

    /// Waits for events, at most until a moment: an empty answer means that it passed.
    ///
    /// # Errors
    ///
    /// As [`Session::progress`].
    pub fn wait(&mut self, until: Instant) -> Result<Vec<Event>, GuestError> {
        loop {
            let events = self.progress()?;
            let now = Instant::now();
            if !events.is_empty() || now >= until {
                return Ok(events);
            }
            let next = self.deadline().map_or(until, |deadline| deadline.min(until));
            // A millisecond more than needed, never a busy loop.
            let pause = next.saturating_duration_since(now) + Duration::from_millis(1);
            let timeout = Timespec::try_from(pause).ok();
            match poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(GuestError::Io(errno.into())),
            }
        }
    }

    /// Asks for a container to be set up; [`Event::Created`] or [`Event::CreateFailed`] answers.
    ///
    /// # Errors
    ///
    /// Not ready, a duplicate, too large.
    pub fn create(&mut self, container: ContainerId, config: ContainerConfig) -> Result<(), RequestError> {
        let message = self.conversation.create(container, config, Instant::now())?;
        self.send(&message)
    }

    /// Asks for a process; [`Event::Spawned`] or [`Event::SpawnFailed`] answers. The first one of a container is
    /// its PID 1.
    ///
    /// # Errors
    ///
    /// Not ready, no such container, too large.
    pub fn spawn(
        &mut self,
        container: &ContainerId,
        spec: ProcessSpec,
        stdio: StdioRequest,
    ) -> Result<ProcessId, RequestError> {
        let (process, message) = self.conversation.spawn(container, spec, stdio, Instant::now(), random_token)?;
        self.send(&message)?;
        Ok(process)
    }

    /// Signals a process.
    ///
    /// # Errors
    ///
    /// No such process (it may have ended), no such signal.
    pub fn signal(&mut self, process: ProcessId, signal: u8) -> Result<(), RequestError> {
        let message = self.conversation.signal(process, signal)?;
        self.send(&message)
    }

    /// Sets the size of a process's terminal.
    ///
    /// # Errors
    ///
    /// No such process (it may have ended).
    pub fn resize(&mut self, process: ProcessId, size: TerminalSize) -> Result<(), RequestError> {
        let message = self.conversation.resize(process, size)?;
        self.send(&message)
    }

    /// Asks about a container; [`Event::Answered`] answers, at the latest when the time is up, by a refusal then.
    /// Questions may be asked while others wait; answers come in any order.
    ///
    /// # Errors
    ///
    /// No such container, too many questions.
    pub fn ask(&mut self, container: &ContainerId, question: Question) -> Result<RequestId, RequestError> {
        let (request, message) = self.conversation.ask(container, question, Instant::now())?;
        self.send(&message)?;
        Ok(request)
    }

    /// Has the container's writable disks synced and frozen, so that the host may read them ([`Reply::Frozen`]).
    /// Whatever the reply, [`Session::thaw`] must follow: a freeze that was refused for its time may still happen.
    ///
    /// [`Reply::Frozen`]: crate::Reply::Frozen
    ///
    /// # Errors
    ///
    /// As [`Session::ask`].
    pub fn freeze(&mut self, container: &ContainerId) -> Result<RequestId, RequestError> {
        self.ask(container, Question::Freeze)
    }

    /// Ends [`Session::freeze`]; no error if nothing is frozen.
    ///
    /// # Errors
    ///
    /// As [`Session::ask`].
    pub fn thaw(&mut self, container: &ContainerId) -> Result<RequestId, RequestError> {
        self.ask(container, Question::Thaw)
    }

    /// Asks what a container uses.
    ///
    /// # Errors
    ///
    /// As [`Session::ask`].
    pub fn usage(&mut self, container: &ContainerId) -> Result<RequestId, RequestError> {
        self.ask(container, Question::Usage)
    }

    /// Asks for the processes of a container.
    ///
    /// # Errors
    ///
    /// As [`Session::ask`].
    pub fn processes(&mut self, container: &ContainerId) -> Result<RequestId, RequestError> {
        self.ask(container, Question::Processes)
    }

    /// Changes limits of a container: `None` leaves one as it is, the largest number lifts it.
    ///
    /// # Errors
    ///
    /// As [`Session::ask`].
    pub fn set_limits(&mut self, container: &ContainerId, limits: Limits) -> Result<RequestId, RequestError> {
        self.ask(container, Question::SetLimits(limits))
    }

    /// Asks the guest to kill every process, sync, unmount and reset; [`Event::PoweringOff`] and
    /// [`Event::Ended`] answer. Processes that run may still report their exits before.
    ///
    /// # Errors
    ///
    /// Not ready, or asked before.
    pub fn power_off(&mut self) -> Result<(), RequestError> {
        let message = self.conversation.power_off(Instant::now())?;
        self.send(&message)
    }

    fn send(&mut self, message: &HostMessage) -> Result<(), RequestError> {
        let queued = encode_frame(message).map_err(RequestError::TooLarge).and_then(|frame| {
            let waiting = self.queued.len() - self.written;
            if waiting + frame.len() > MAX_QUEUED { Err(RequestError::QueueFull) } else { Ok(frame) }
        });
        let frame = queued.inspect_err(|_| self.conversation.retract(message))?;
        self.queued.drain(..self.written);
        self.written = 0;
        self.queued.extend_from_slice(&frame);
        self.write_queued().map_err(|error| match error {
            GuestError::Io(error) => RequestError::Io(error),
            _ => RequestError::Ended,
        })
    }
}

impl AsFd for Session {
    /// Readable when [`Session::progress`] has something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Reads exactly the first frame of a stdio connection, so that none of its raw bytes is taken.
fn look(pending: &mut Pending, now: Instant) -> Look {
    while pending.received < pending.frame.len() {
        match pending.stream.read(&mut pending.frame[pending.received..]) {
            Ok(0) => return Look::Useless,
            Ok(length) => pending.received += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock && now < pending.until => return Look::Waits,
            Err(_) => return Look::Useless,
        }
    }
    StreamOpen::from_frame(&pending.frame).map_or(Look::Useless, Look::Shows)
}

fn random_token() -> io::Result<StreamToken> {
    let mut token = [0; 16];
    let mut filled = 0;
    while filled < token.len() {
        match rustix::rand::getrandom(&mut token[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(length) => filled += length,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(StreamToken(token))
}
