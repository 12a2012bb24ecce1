//! What commands and a keeper say to each other, version [`VERSION`].
//!
//! A keeper listens on `R/containers/ID/control.sock` (mode 0600, in a directory of mode 0700), and the
//! command that starts it hands it one connection as its standard input. Both carry the frames of
//! [`protocol::frame`]: a 4-byte little-endian length, then a `postcard` body.
//!
//! ```text
//!  command                                   keeper
//!     │── Hello{version} ─────────────────────▶│
//!     │◀────────────────────── Hello{version} ─│   each checks; other versions are refused by name
//!     │                                        │   then a connection has one purpose:
//!     │── Launch ─────────────────────────────▶│   inherited connection only, once
//!     │── Attach{…} + descriptors ────────────▶│   pipe ends as SCM_RIGHTS: every stream on its own
//!     │◀───────────────────────────── Attached─│
//!     │◀───────────────────────────── Started ─│   the process runs (again, after a restart)
//!     │── Signal, Resize, CloseOutput, Kill ──▶│   any number; no answers
//!     │── Detach ─────────────────────────────▶│   the streams are let go, standard input stays open
//!     │◀──────────────────────────────── Done ─│
//!     │── Wait ───────────────────────────────▶│   an attached or launching connection waits anyway
//!     │◀────────────────────────── Restarting ─│   the process ended and will run again
//!     │◀─────────────────────────────── Ended ─│   once, last; the record is written, `--rm` is done
//!     │                                        │
//!     │── Exec{…} + descriptors ──────────────▶│   Signal, Resize, CloseOutput then concern that process
//!     │◀─────────────── ExecStarted|ExecFailed─│
//!     │◀─────────────────────────── ExecEnded ─│   after the last byte of its output
//!     │                                        │
//!     │── Stop{signal, timeout} ──────────────▶│   the keeper waits, kills, syncs and powers off
//!     │◀─────────────────────────────── Ended ─│
//!     │── Restart{signal, timeout} ───────────▶│   the same, and a new machine
//!     │── Pause, Unpause, Freeze, Thaw, Update▶│
//!     │◀────────────────────── Done | Refused ─│
//!     │── Usage, Processes ───────────────────▶│
//!     │◀────────── Usage | Processes | Refused─│
//! ```
//!
//! The keeper owns the far ends of the pipes after `Attach`. A pipe whose reader is gone loses output and
//! nothing else, so that a command that dies leaves the container alone; a command that lives and whose own
//! reader went away says `CloseOutput`, and then the process gets what it would get in a shell's pipeline.
//!
//! # The promise
//!
//! A keeper lives as long as its container, a command until its next upgrade. So what is here stays understood:
//! the tests of [`message`](self) hold the bytes of every message. Variants may be added at the end of an
//! enumeration, and are `Refused` (or end the connection) where they are not known; anything else is a new
//! [`VERSION`]. `Launch` alone is free: a keeper gets it from the very program that it is.

mod message;

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use protocol::{FrameBuffer, FrameError, MAX_FRAME, encode_frame};
use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

pub use self::message::{
    AttachedStreams, Exec, FromKeeper, GuestUsage, HostUsage, OutputStream, ProcessRow, ToKeeper, Update, Usage,
};

/// Version of this conversation.
pub const VERSION: u32 = 2;

/// Why a request is refused that a container meets as long as its process runs: it starts, or is being stopped.
pub const DOES_NOT_RUN: &str = "the container does not run at the moment";

/// Most descriptors that wait for the message that takes them.
const MAX_DESCRIPTORS: usize = 8;

/// A conversation that went wrong.
#[derive(Debug, Error)]
pub enum WireError {
    /// The other side closed the connection.
    #[error("the connection was closed")]
    Closed,
    /// Bytes that are no message.
    #[error("a malformed message")]
    Frame(#[from] FrameError),
    /// Descriptors without a message, or a message without its descriptors.
    #[error("a message and its descriptors do not match")]
    Descriptors,
    /// Another message than could come now.
    #[error("an answer that does not fit the request")]
    Unexpected,
    /// The socket failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

/// Calls `with` with a short path for a socket: `sun_path` holds 107 bytes (unix(7)), and a home may lie deeper
/// than that. The way through `/proc/self/fd` is as long for every directory.
///
/// # Errors
///
/// If the directory cannot be opened, and those of `with`.
pub fn with_short_path<T>(socket: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    use rustix::fs::{Mode, OFlags, open};
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    with(&Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name))
}

/// Sends one message with descriptors, waiting until the socket took it.
///
/// # Errors
///
/// [`WireError`].
pub fn send<T: Serialize>(
    mut stream: &UnixStream,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), WireError> {
    let frame = encode_frame(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(WireError::Descriptors);
    }
    let sent = loop {
        match sendmsg(stream, &[IoSlice::new(&frame)], &mut ancillary, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            result => break result.map_err(io::Error::from)?,
        }
    };
    io::Write::write_all(&mut stream, &frame[sent..])?;
    Ok(())
}

/// Takes messages and descriptors from a connection.
#[derive(Debug)]
pub struct Receiver {
    stream: UnixStream,
    frames: FrameBuffer,
    descriptors: VecDeque<OwnedFd>,
}

impl Receiver {
    /// Receives from `stream`, blocking or not as that is.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, frames: FrameBuffer::with_limit(MAX_FRAME), descriptors: VecDeque::new() }
    }

    /// The socket.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The next message, or `None` when a non-blocking socket has no whole one yet.
    ///
    /// # Errors
    ///
    /// [`WireError`]; the connection is then of no further use.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        loop {
            if let Some(message) = self.frames.take_message()? {
                return Ok(Some(message));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Takes the descriptors that came with a message.
    ///
    /// # Errors
    ///
    /// [`WireError::Descriptors`] if they are not exactly `count`.
    pub fn take_descriptors(&mut self, count: usize) -> Result<VecDeque<OwnedFd>, WireError> {
        let taken = std::mem::take(&mut self.descriptors);
        if taken.len() == count { Ok(taken) } else { Err(WireError::Descriptors) }
    }

    /// Receives once. `false`: it would block.
    fn fill(&mut self) -> Result<bool, WireError> {
        let mut bytes = [0; 8 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let received = match recvmsg(&self.stream, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => received.bytes,
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => return Ok(true),
            Err(error) => return Err(WireError::Io(error.into())),
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if self.descriptors.len() > MAX_DESCRIPTORS {
            return Err(WireError::Descriptors);
        }
        if received == 0 {
            return Err(WireError::Closed);
        }
        self.frames.extend(&bytes[..received]);
        Ok(true)
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests;
