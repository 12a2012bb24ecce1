//! Bytes between a process in the guest and the pipes of whoever is attached.
//!
//! An [`Output`] has one source and any number of sinks, an [`Input`] any number of sources and one sink. Nothing
//! here waits: the keeper's loop asks what to poll for, and lets everything advance when something may have changed.
//! All of them read into one buffer that the loop lends ([`BUFFER`] bytes). Only what a full sink does not take is
//! kept, and while it is, nothing more is read: that is the whole of backpressure.
//!
//! ```text
//!               every sink took everything
//!             ┌──────────────────────────────┐
//!             ▼                              │
//!   Flowing ── read, some sink is full ──▶ Held up     a sink whose reader is gone is dropped, and so is one
//!      │                                               that takes nothing for PATIENCE, unless it is patient's
//!      └── source at its end, nothing kept ──▶ Done
//! ```
//!
//! # Slow readers
//!
//! The command that launched a container is waited for as in a shell's pipeline: its sinks are *patient*. Whoever
//! attaches later may slow the container down, but one that takes nothing at all for [`PATIENCE`] is let go, so that
//! a forgotten terminal never stands a container still for good. Output without a sink is read and dropped (the log
//! has it).
//!
//! # The end of input
//!
//! The process's input ends when the command that launched it ends its own (`echo x | coracle run -i`). What others
//! attach comes and goes and ends nothing; a detached container's input stays open.

use std::{
    io,
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    io::{Errno, read, write},
};

use super::clients::ClientId;

/// Bytes that move at once.
pub(super) const BUFFER: usize = 64 << 10;

/// How long an attached command may take nothing at all before it is let go.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Most buffers that one stream moves before it is the next one's turn.
const TURNS: usize = 8;

/// A pipe that output is written to.
#[derive(Debug)]
pub(super) struct Sink {
    pipe: OwnedFd,
    owner: ClientId,
    patient: bool,
    /// Bytes of what is kept that it took.
    taken: usize,
    /// When it last took something.
    moved: Instant,
}

impl Sink {
    /// A command's pipe, non-blocking. `patient`: it is waited for as long as it takes.
    pub(super) fn new(pipe: OwnedFd, owner: ClientId, patient: bool) -> Self {
        Self { pipe, owner, patient, taken: 0, moved: Instant::now() }
    }

    /// Writes what it has not taken. `false`: nobody reads it any more.
    fn take(&mut self, bytes: &[u8]) -> bool {
        while self.taken < bytes.len() {
            match write(&self.pipe, &bytes[self.taken..]) {
                Ok(written) => {
                    self.taken += written;
                    self.moved = Instant::now();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    /// Whether it is that one's.
    pub(super) fn is_of(&self, owner: ClientId) -> bool {
        self.owner == owner
    }

    fn gives_up(&self) -> Option<Instant> {
        (!self.patient).then(|| self.moved + PATIENCE)
    }
}

/// One stream that a process writes.
#[derive(Debug)]
pub(super) struct Output {
    source: Option<OwnedFd>,
    sinks: Vec<Sink>,
    /// What some sink has not taken.
    kept: Vec<u8>,
    moved: u64,
}

impl Output {
    /// Output of the guest, to whoever is there.
    pub(super) fn new(guest: UnixStream, sinks: Vec<Sink>) -> Self {
        Self { source: Some(guest.into()), sinks, kept: Vec::new(), moved: 0 }
    }

    /// Whether nothing will move any more.
    pub(super) fn is_done(&self) -> bool {
        self.source.is_none() && self.kept.is_empty()
    }

    /// Bytes taken from the source so far.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether it waits for a sink to take bytes.
    pub(super) fn is_held_up(&self) -> bool {
        !self.kept.is_empty()
    }

    /// What to poll for: a source to read, or sinks to write.
    pub(super) fn interests<'a>(&'a self, interests: &mut Vec<PollFd<'a>>) {
        if self.is_held_up() {
            let waiting = self.sinks.iter().filter(|sink| sink.taken < self.kept.len());
            interests.extend(waiting.map(|sink| PollFd::from_borrowed_fd(sink.pipe.as_fd(), PollFlags::OUT)));
        } else if let Some(source) = &self.source {
            interests.push(PollFd::from_borrowed_fd(source.as_fd(), PollFlags::IN));
        }
    }

    /// When a sink is let go if it takes nothing before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let waiting = self.sinks.iter().filter(|sink| sink.taken < self.kept.len());
        waiting.filter_map(Sink::gives_up).min()
    }

    /// Adds a sink for what comes from now on.
    pub(super) fn add(&mut self, mut sink: Sink) {
        sink.taken = self.kept.len();
        sink.moved = Instant::now();
        self.sinks.push(sink);
    }

    /// Takes the sinks of one owner away.
    pub(super) fn remove(&mut self, owner: ClientId) {
        self.sinks.retain(|sink| sink.owner != owner);
        self.settle();
    }

    /// Whether `owner` has a patient sink here, that is: launched the process.
    pub(super) fn is_launchers(&self, owner: ClientId) -> bool {
        self.sinks.iter().any(|sink| sink.owner == owner && sink.patient)
    }

    /// Lets go of every sink; what they did not take is lost.
    pub(super) fn detach(&mut self) {
        self.sinks.clear();
        self.settle();
    }

    /// Closes both ends, so that the guest learns that nobody reads.
    pub(super) fn close(&mut self) {
        self.detach();
        self.source = None;
    }

    /// Gives the sinks back, for the process's successor.
    pub(super) fn into_sinks(self) -> Vec<Sink> {
        self.sinks.into_iter().map(|sink| Sink { taken: 0, ..sink }).collect()
    }

    /// Moves what can be moved now. `keep` sees every byte once.
    pub(super) fn advance(&mut self, buffer: &mut [u8], keep: &mut dyn FnMut(&[u8])) {
        for _ in 0..TURNS {
            if !(self.flush() && self.fill(buffer, keep)) {
                break;
            }
        }
    }

    /// Offers what is kept. `true`: nothing is left.
    fn flush(&mut self) -> bool {
        if self.is_held_up() {
            let (kept, now) = (&self.kept, Instant::now());
            self.sinks.retain_mut(|sink| {
                sink.take(kept) && (sink.taken == kept.len() || sink.gives_up().is_none_or(|at| now < at))
            });
            self.settle();
        }
        !self.is_held_up()
    }

    /// Forgets what every sink has taken.
    fn settle(&mut self) {
        if self.sinks.iter().all(|sink| sink.taken == self.kept.len()) {
            self.kept = Vec::new();
            self.sinks.iter_mut().for_each(|sink| sink.taken = 0);
        }
    }

    /// Reads once and passes it on. `true`: there may be more.
    fn fill(&mut self, buffer: &mut [u8], keep: &mut dyn FnMut(&[u8])) -> bool {
        let Some(source) = &self.source else { return false };
        let count = match read(source, &mut *buffer) {
            Ok(count) => count,
            Err(Errno::INTR) => return true,
            Err(Errno::AGAIN) => return false,
            // A guest that ended resets its connections: the stream is over all the same.
            Err(_) => 0,
        };
        let bytes = &buffer[..count];
        if bytes.is_empty() {
            self.source = None;
            return false;
        }
        keep(bytes);
        self.moved += bytes.len() as u64;
        let now = Instant::now();
        self.sinks.retain_mut(|sink| {
            sink.moved = now;
            sink.take(bytes)
        });
        if self.sinks.iter().any(|sink| sink.taken < bytes.len()) {
            self.kept = bytes.to_vec();
        } else {
            self.sinks.iter_mut().for_each(|sink| sink.taken = 0);
        }
        true
    }
}

/// A pipe that input is read from.
#[derive(Debug)]
pub(super) struct Source {
    pipe: OwnedFd,
    owner: ClientId,
    /// The process's input ends with it.
    ends: bool,
}

impl Source {
    /// A command's pipe, non-blocking.
    pub(super) fn new(pipe: OwnedFd, owner: ClientId, ends: bool) -> Self {
        Self { pipe, owner, ends }
    }

    /// Whether it is that one's.
    pub(super) fn is_of(&self, owner: ClientId) -> bool {
        self.owner == owner
    }
}

/// The input of a process.
#[derive(Debug)]
pub(super) struct Input {
    /// `None` once it has ended: nothing is read from sources then.
    guest: Option<UnixStream>,
    /// A terminal has no half-close: its input does not end.
    terminal: bool,
    sources: Vec<Source>,
    kept: Vec<u8>,
}

impl Input {
    /// Input of the guest, from whoever is there.
    pub(super) fn new(guest: UnixStream, terminal: bool, sources: Vec<Source>) -> Self {
        Self { guest: Some(guest), terminal, sources, kept: Vec::new() }
    }

    /// Adds a source.
    pub(super) fn add(&mut self, source: Source) {
        self.sources.push(source);
    }

    /// Takes the sources of one owner away. Nothing ends by that.
    pub(super) fn remove(&mut self, owner: ClientId) {
        self.sources.retain(|source| source.owner != owner);
    }

    /// Gives the sources back, for the process's successor.
    pub(super) fn into_sources(self) -> Vec<Source> {
        self.sources
    }

    /// What to poll for: sources to read, or the sink to write.
    pub(super) fn interests<'a>(&'a self, interests: &mut Vec<PollFd<'a>>) {
        let Some(guest) = &self.guest else { return };
        if self.kept.is_empty() {
            let sources = self.sources.iter();
            interests.extend(sources.map(|source| PollFd::from_borrowed_fd(source.pipe.as_fd(), PollFlags::IN)));
        } else {
            interests.push(PollFd::from_borrowed_fd(guest.as_fd(), PollFlags::OUT));
        }
    }

    /// Moves what can be moved now.
    pub(super) fn advance(&mut self, buffer: &mut [u8]) {
        for _ in 0..TURNS {
            if !(self.flush() && self.fill(buffer)) {
                break;
            }
        }
    }

    /// Writes what is kept. `true`: nothing is left.
    fn flush(&mut self) -> bool {
        let kept = std::mem::take(&mut self.kept);
        self.give(&kept)
    }

    /// Writes to the guest, keeping what it does not take. `true`: it took all.
    fn give(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let Some(guest) = &self.guest else { return false };
            match write(guest, bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.kept = bytes.to_vec();
                    return false;
                }
                // Nobody reads input any more. A successor may.
                Err(_) => self.guest = None,
            }
        }
        true
    }

    /// Reads from each source once. `true`: something came.
    fn fill(&mut self, buffer: &mut [u8]) -> bool {
        let mut came = false;
        let mut index = 0;
        while index < self.sources.len() && self.kept.is_empty() {
            match read(&self.sources[index].pipe, &mut *buffer) {
                Ok(count) if count > 0 => {
                    came = true;
                    self.give(&buffer[..count]);
                    index += 1;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => index += 1,
                _ => {
                    let source = self.sources.remove(index);
                    if source.ends && !self.terminal {
                        self.end();
                    }
                }
            }
        }
        came
    }

    fn end(&mut self) {
        if let Some(guest) = &self.guest {
            // A guest that is gone needs no end of file.
            let _ = guest.shutdown(Shutdown::Write);
        }
        self.guest = None;
        self.sources.clear();
    }
}

/// Makes a descriptor that came from outside non-blocking.
///
/// # Errors
///
/// If it is not a descriptor that can be.
pub(super) fn set_nonblocking(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(descriptor, true)?)
}

#[cfg(test)]
mod tests;
