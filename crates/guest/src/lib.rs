//! Host end of the guest protocol: handshake, set up, spawn, stdio, signals, questions, endings.
//!
//! A [`Session`] is one machine's guest. Its caller owns the machine and gives it the streams that the guest
//! opens ([`Session::offer`]); the session does not know how machines are run. It owns one epoll descriptor, so
//! a caller polls a single descriptor for all of the session's connections, and calls [`Session::progress`] when
//! that is readable or [`Session::deadline`] has passed. Nothing here blocks but [`Session::wait`].
//!
//! # Map
//!
//! - `conversation`: the state machine. No I/O, no clock of its own: messages and times in, events and frames out.
//!   Fuzzed.
//! - `questions`: what was asked and not answered yet.
//! - `session`: the connections around it.
//! - `event`, `error`: what comes out.
//!
//! # Threats
//!
//! The guest is hostile; guest init itself may have been taken over.
//!
//! | what the guest does | answer |
//! |---|---|
//! | malformed, oversized or truncated frames | [`GuestError::Frame`] before any allocation of that size; the session ends |
//! | a message that does not fit the state (two Hellos, an exit of an unknown process, a second exit, …) | [`GuestError::OutOfOrder`]; the session ends |
//! | another protocol version | [`GuestError::Version`] |
//! | silence where an answer is due | [`GuestError::Deadline`]; for a question a refusal, and after [`MAX_QUESTIONS`] of them no more questions |
//! | answers to no question, of another kind, in parts without end | [`GuestError::OutOfOrder`]; the session ends |
//! | a second control connection, connections to other ports | closed |
//! | stdio connections of a workload that guesses the port | closed: tokens have 128 random bits, work once, are compared in constant time; at most [`MAX_PENDING`] connections may be undecided, each for five seconds, and the oldest gives way |
//! | terminal escapes or megabytes in error texts | texts are cut at [`MAX_TEXT`] bytes and lose their control characters |
//! | not reading what the host sends | at most [`MAX_QUEUED`] bytes wait; further requests are refused |

mod conversation;
mod error;
mod event;
mod questions;
mod session;

pub use conversation::{Conversation, MAX_PROCESSES, MAX_TEXT, Timeouts};
pub use error::{Awaited, GuestError, RequestError};
pub use event::{Event, Reply, StdioRequest, Streams};
pub use questions::MAX_QUESTIONS;
pub use session::{MAX_PENDING, MAX_QUEUED, Session};
