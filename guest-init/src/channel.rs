//! Between guest init and a child of it that is not yet a program.
//!
//! The child says, as protocol frames: once whether the container is set up (its first process only), then that it
//! is about to execute, then, if that failed, why. An end after "about to execute" is a successful exec: the channel
//! is closed by it. Guest init sends the first process its specification with its stdio.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::{FrameBuffer, FrameError, ProcessSpec, SpawnError, encode_frame};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, send, sendmsg, socketpair,
};

/// What a child says: the text or error of a failure, or nothing for success.
type SetUp = Option<String>;
type Start = Option<SpawnError>;

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// A pair of ends.
pub(crate) fn pair() -> Result<(Channel, Channel), Errno> {
    let (left, right) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    Ok((Channel(left), Channel(right)))
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// The container's set-up ended.
    pub(crate) fn say_set_up(&self, result: &crate::failure::Result<()>) {
        let message: SetUp = result.as_ref().err().map(|failure| failure.0.clone());
        self.say(encode_frame(&message));
    }

    /// The program is executed next.
    pub(crate) fn say_executing(&self) {
        self.say(encode_frame(&(None as Start)));
    }

    /// The program cannot run.
    pub(crate) fn say_failed(&self, error: SpawnError) {
        self.say(encode_frame(&(Some(error) as Start)));
    }

    fn say(&self, frame: Result<Vec<u8>, FrameError>) {
        // Guest init is PID 1: while it lives it reads, and without it there is nothing to say.
        let _ = frame.map(|frame| self.write_all(&frame));
    }

    fn write_all(&self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            match send(&self.0, bytes, SendFlags::NOSIGNAL) {
                Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None)),
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Sends a specification and the stdio that goes with it.
    pub(crate) fn send_spec(&self, spec: &ProcessSpec, terminal: bool, stdio: &[OwnedFd; 3]) -> Result<(), Errno> {
        let frame = encode_frame(&(spec, terminal)).map_err(|_| Errno::TOOBIG)?;
        let descriptors: [BorrowedFd<'_>; 3] = stdio.each_ref().map(AsFd::as_fd);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&self.0, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
        self.write_all(&frame)
    }

    /// Waits for a specification; `None` if there will be none.
    pub(crate) fn receive_spec(&self) -> Option<(ProcessSpec, bool, [OwnedFd; 3])> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let received = recvmsg(&self.0, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
        if received.ok()?.bytes != 1 {
            return None;
        }
        let mut stdio = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                stdio.extend(descriptors);
            }
        }
        let mut frames = FrameBuffer::new();
        let mut chunk = vec![0; 64 << 10];
        loop {
            if let Some((spec, terminal)) = frames.take_message::<(ProcessSpec, bool)>().ok()? {
                return Some((spec, terminal, stdio.try_into().ok()?));
            }
            match rustix::io::read(&self.0, &mut chunk) {
                Ok(0) => return None,
                Ok(length) => frames.extend(chunk.get(..length)?),
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }
}

/// What a child was heard to say.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The container's set-up ended.
    SetUp(Result<(), String>),
    /// The program runs.
    Running,
    /// The program cannot run.
    Failed(SpawnError),
    /// The child ended before it could say.
    Died,
}

/// Guest init's end of a channel: collects what the child says.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) channel: Channel,
    frames: FrameBuffer,
    awaits_set_up: bool,
    executing: bool,
}

impl Listener {
    /// Listens to a child that sets a container up first, or does not.
    pub(crate) fn new(channel: Channel, awaits_set_up: bool) -> Result<Self, Errno> {
        rustix::io::ioctl_fionbio(&channel, true)?;
        Ok(Self { channel, frames: FrameBuffer::new(), awaits_set_up, executing: false })
    }

    /// Takes what there is to hear.
    pub(crate) fn listen(&mut self) -> Option<Heard> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(heard) = self.parse() {
                return Some(heard);
            }
            match rustix::io::read(&self.channel, &mut chunk) {
                Ok(0) => return Some(if self.executing { Heard::Running } else { Heard::Died }),
                Ok(length) => self.frames.extend(&chunk[..length]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(_) => return Some(Heard::Died),
            }
        }
    }

    fn parse(&mut self) -> Option<Heard> {
        if self.awaits_set_up {
            return match self.frames.take_message::<SetUp>() {
                Ok(None) => None,
                Ok(Some(outcome)) => {
                    self.awaits_set_up = false;
                    Some(Heard::SetUp(outcome.map_or(Ok(()), Err)))
                }
                Err(_) => Some(Heard::Died),
            };
        }
        loop {
            match self.frames.take_message::<Start>() {
                Ok(None) => return None,
                Ok(Some(None)) => self.executing = true,
                Ok(Some(Some(error))) => return Some(Heard::Failed(error)),
                Err(_) => return Some(Heard::Died),
            }
        }
    }
}
