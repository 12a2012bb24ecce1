//! Moves the bytes of one direction of one stream.
//!
//! ```text
//!            readable                  not all taken
//!  Reading ───────────▶ (read, write) ───────────────▶ Writing ──▶ Reading …
//!     │ end or error of the source                        │ error of the sink
//!     ▼                                                   ▼
//!    Done                         output: Done; input: the rest is read and dropped
//! ```
//!
//! A pump is registered with epoll for exactly the one descriptor that it waits for, so that a hang-up of the other
//! one cannot wake it over and over, and a reader that does not read stops only the process that writes to it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::Shutdown;

/// Bytes moved at a time.
pub(crate) const CHUNK: usize = 128 << 10;

/// Chunks that a pump moves before others get their turn.
const TURN: usize = 16;

/// Which way a pump works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the host's connection to the process.
    Input,
    /// From the process to the host's connection.
    Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    Nothing,
    Source,
    Sink,
}

/// One direction of one stream.
#[derive(Debug)]
pub(crate) struct Pump {
    direction: Direction,
    source: OwnedFd,
    /// `None`: what comes is dropped.
    sink: Option<OwnedFd>,
    /// Taken from the source, not by the sink.
    rest: Vec<u8>,
    waits: Wait,
    key: u64,
}

impl Pump {
    /// A pump that is known to epoll by `key`. Both descriptors must be non-blocking.
    pub(crate) fn new(direction: Direction, source: OwnedFd, sink: OwnedFd, key: u64) -> Self {
        Self { direction, source, sink: Some(sink), rest: Vec::new(), waits: Wait::Nothing, key }
    }

    /// Its name in epoll.
    pub(crate) fn key(&self) -> u64 {
        self.key
    }

    pub(crate) fn direction(&self) -> Direction {
        self.direction
    }

    /// Moves what can be moved; says whether it goes on. `chunk` is scratch memory of [`CHUNK`] bytes.
    pub(crate) fn run(&mut self, epoll: &OwnedFd, chunk: &mut [u8]) -> bool {
        let Some(wait) = self.turn(chunk) else {
            self.wait_for(epoll, Wait::Nothing);
            self.finish();
            return false;
        };
        self.wait_for(epoll, wait);
        true
    }

    /// Gives up: the process is gone, or the machine ends.
    pub(crate) fn cancel(&mut self, epoll: &OwnedFd) {
        self.wait_for(epoll, Wait::Nothing);
    }

    /// Ends it if it waits for its source, whose end may never come. Says whether it did.
    pub(crate) fn end_if_idle(&mut self, epoll: &OwnedFd) -> bool {
        let is_idle = self.waits == Wait::Source;
        if is_idle {
            self.wait_for(epoll, Wait::Nothing);
            self.finish();
        }
        is_idle
    }

    fn turn(&mut self, chunk: &mut [u8]) -> Option<Wait> {
        for _ in 0..TURN {
            if !self.rest.is_empty() {
                let rest = std::mem::take(&mut self.rest);
                if let Some(wait) = self.write(&rest)? {
                    return Some(wait);
                }
            }
            match rustix::io::read(&self.source, &mut *chunk) {
                Ok(0) => return None,
                Ok(length) => {
                    if let Some(wait) = self.write(chunk.get(..length).unwrap_or_default())? {
                        return Some(wait);
                    }
                }
                Err(Errno::AGAIN) => return Some(Wait::Source),
                Err(Errno::INTR) => {}
                // EIO: the last user of a terminal is gone. A reset of the connection is its end, too.
                Err(_) => return None,
            }
        }
        Some(Wait::Source)
    }

    /// Writes; keeps what is not taken and says what to wait for then. The outer `None`: it is over.
    #[allow(clippy::option_option)]
    fn write(&mut self, mut bytes: &[u8]) -> Option<Option<Wait>> {
        while !bytes.is_empty() {
            let Some(sink) = &self.sink else { break };
            match rustix::io::write(sink, bytes) {
                Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.rest = bytes.to_vec();
                    return Some(Some(Wait::Sink));
                }
                Err(_) if self.direction == Direction::Output => return None,
                Err(_) => {
                    self.sink = None;
                    self.waits = if self.waits == Wait::Sink { Wait::Nothing } else { self.waits };
                }
            }
        }
        Some(None)
    }

    /// The end of the stream, told to who reads it.
    fn finish(&mut self) {
        if let (Direction::Output, Some(connection)) = (self.direction, &self.sink) {
            // A connection that is gone needs no farewell.
            let _ = rustix::net::shutdown(connection, Shutdown::Write);
        }
    }

    fn wait_for(&mut self, epoll: &OwnedFd, wait: Wait) {
        if self.waits == wait {
            return;
        }
        let descriptor = |wait| match wait {
            Wait::Nothing => None,
            Wait::Source => Some(self.source.as_fd()),
            Wait::Sink => self.sink.as_ref().map(AsFd::as_fd),
        };
        if let Some(old) = descriptor(self.waits) {
            let _ = epoll::delete(epoll, old);
        }
        if let Some(new) = descriptor(wait) {
            let flags = if wait == Wait::Source { EventFlags::IN } else { EventFlags::OUT };
            let _ = epoll::add(epoll, new, EventData::new_u64(self.key), flags);
        }
        self.waits = wait;
    }
}
