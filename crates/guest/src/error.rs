//! What goes wrong: by the guest ([`GuestError`]) or by the caller ([`RequestError`]).

use std::fmt;
use std::io;

use protocol::{ContainerId, FrameError, ProcessId};
use thiserror::Error;

/// The guest broke the protocol or fell silent. The session has ended and the machine is not to be relied on.
#[derive(Debug, Error)]
pub enum GuestError {
    /// Guest init was built from other sources.
    #[error("guest speaks protocol version {guest}, this host speaks {host}")]
    Version {
        /// Ours.
        host: u32,
        /// Theirs.
        guest: u32,
    },
    /// Bytes that are no message.
    #[error("guest sent a bad frame")]
    Frame(#[from] FrameError),
    /// A message that may not come now.
    #[error("guest sent {message} {when}")]
    OutOfOrder {
        /// Its name.
        message: &'static str,
        /// Why it may not come.
        when: &'static str,
    },
    /// No answer in time.
    #[error("guest did not answer in time: waiting for {0}")]
    Deadline(Awaited),
    /// The control connection ended without a farewell.
    #[error("guest closed its control connection{}", if *.partial { " in the middle of a frame" } else { "" })]
    Disconnected {
        /// Whether it ended inside a frame.
        partial: bool,
    },
    /// The control connection failed.
    #[error("control connection of the guest failed")]
    Io(#[source] io::Error),
    /// The session ended before.
    #[error("session with the guest has ended")]
    Ended,
}

/// What a deadline is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Awaited {
    /// The first message.
    Hello,
    /// The answer to a create.
    Created(ContainerId),
    /// The answer to a spawn.
    Spawned(ProcessId),
    /// The stdio connections of a process that is said to run.
    Streams(ProcessId),
    /// The answer to a power-off.
    PoweringOff,
}

impl fmt::Display for Awaited {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello => formatter.write_str("its hello"),
            Self::Created(container) => write!(formatter, "container {} to be set up", container.0),
            Self::Spawned(process) => write!(formatter, "process {} to start", process.0),
            Self::Streams(process) => write!(formatter, "the streams of process {}", process.0),
            Self::PoweringOff => formatter.write_str("its power-off"),
        }
    }
}

/// A request that cannot be made. The session goes on.
#[derive(Debug, Error)]
pub enum RequestError {
    /// No Hello yet.
    #[error("guest is not ready")]
    NotReady,
    /// The session has ended, or a power-off was asked for.
    #[error("session with the guest has ended")]
    Ended,
    /// No container of this name was created.
    #[error("guest has no container {}", .0.0)]
    UnknownContainer(ContainerId),
    /// The container exists already.
    #[error("guest has a container {} already", .0.0)]
    DuplicateContainer(ContainerId),
    /// No such process, or it has ended.
    #[error("guest has no process {}", .0.0)]
    UnknownProcess(ProcessId),
    /// Not 1 to 64.
    #[error("{0} is not a signal number")]
    BadSignal(u8),
    /// The request is too long for a frame.
    #[error("request does not fit a frame")]
    TooLarge(#[source] FrameError),
    /// [`crate::MAX_QUESTIONS`] have no answer.
    #[error("guest has too many questions to answer")]
    TooManyQuestions,
    /// [`crate::MAX_PROCESSES`] run.
    #[error("guest runs too many processes")]
    TooManyProcesses,
    /// The guest does not read what it is sent.
    #[error("guest does not take requests")]
    QueueFull,
    /// Random numbers could not be had, or the connection failed.
    #[error("request could not be made")]
    Io(#[source] io::Error),
}
