//! Bytes between a process in the guest and the pipes of whoever is attached.
//!
//! Each direction of each stream is a [`Pump`]: one source, one sink, one buffer of [`BUFFER`] bytes, all
//! non-blocking. A full sink stops reading from its source, and that is the whole of backpressure: nothing is
//! queued beyond the buffer. The keeper's poll loop asks every pump what it waits for, and tells it when
//! something may have changed; a pump never waits itself.
//!
//! ```text
//!             sink there                     sink gone, or never attached
//!   Idle ── source readable ──▶ Full      output: bytes are read and dropped
//!    ▲                           │        input:  the pump is done
//!    └───── sink took all ───────┘
//!   source at its end and buffer empty ──▶ Done (the sink is closed, or half-closed)
//! ```

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::{
    event::{PollFd, PollFlags},
    io::{Errno, read, write},
};

/// Bytes that a pump holds at most.
pub const BUFFER: usize = 64 << 10;

/// Where a pump's bytes go.
#[derive(Debug)]
enum Sink {
    /// A pipe of the attached command.
    Pipe(OwnedFd),
    /// The guest's end of standard input: half-closed when the source ends.
    Guest(UnixStream),
    /// A terminal, which has no half-close.
    Terminal(UnixStream),
    /// Nobody wants them.
    Nobody,
}

impl Sink {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Pipe(pipe) => Some(pipe.as_fd()),
            Self::Guest(stream) | Self::Terminal(stream) => Some(stream.as_fd()),
            Self::Nobody => None,
        }
    }
}

/// One direction of one stream.
#[derive(Debug)]
pub struct Pump {
    source: Option<OwnedFd>,
    sink: Sink,
    /// Made when the first byte comes.
    buffer: Vec<u8>,
    pending: std::ops::Range<usize>,
    moved: u64,
    /// Output without a sink is dropped; input without a sink has no use.
    discards: bool,
}

impl Pump {
    /// Output of the guest to a pipe, or to nobody.
    #[must_use]
    pub fn output(guest: UnixStream, pipe: Option<OwnedFd>) -> Self {
        Self::new(guest.into(), pipe.map_or(Sink::Nobody, Sink::Pipe), true)
    }

    /// A pipe to the guest's standard input.
    #[must_use]
    pub fn input(pipe: OwnedFd, guest: UnixStream) -> Self {
        Self::new(pipe, Sink::Guest(guest), false)
    }

    /// A pipe to the guest's terminal.
    #[must_use]
    pub fn terminal_input(pipe: OwnedFd, guest: UnixStream) -> Self {
        Self::new(pipe, Sink::Terminal(guest), false)
    }

    fn new(source: OwnedFd, sink: Sink, discards: bool) -> Self {
        Self { source: Some(source), sink, buffer: Vec::new(), pending: 0..0, moved: 0, discards }
    }

    /// Whether nothing will move any more.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.source.is_none() && self.pending.is_empty()
    }

    /// Bytes taken from the source so far.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether it waits for its sink to take bytes.
    #[must_use]
    pub fn is_held_up(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What to poll for: a source to read, or a sink to write.
    #[must_use]
    pub fn interest(&self) -> Option<PollFd<'_>> {
        if !self.pending.is_empty() {
            return self.sink.descriptor().map(|sink| PollFd::from_borrowed_fd(sink, PollFlags::OUT));
        }
        self.source.as_ref().map(|source| PollFd::from_borrowed_fd(source.as_fd(), PollFlags::IN))
    }

    /// Moves what can be moved now, at most a few buffers' worth so that no stream starves another.
    pub fn advance(&mut self) {
        for _ in 0..8 {
            if !(self.flush() && self.fill()) {
                break;
            }
        }
    }

    /// Gives up the sink: output is dropped from now on, input ends.
    pub fn detach(&mut self) {
        self.sink = Sink::Nobody;
        self.pending = 0..0;
        if !self.discards {
            self.source = None;
        }
    }

    /// Closes both ends, so that the guest learns that nobody reads.
    pub fn close(&mut self) {
        self.detach();
        self.source = None;
    }

    /// Writes the pending bytes. `true`: none are left.
    fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            let Some(sink) = self.sink.descriptor() else {
                self.pending = 0..0;
                return true;
            };
            match write(sink, &self.buffer[self.pending.clone()]) {
                Ok(written) => self.pending.start += written,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                // The reader is gone.
                Err(_) => self.detach(),
            }
        }
        true
    }

    /// Reads once. `true`: bytes came.
    fn fill(&mut self) -> bool {
        let Some(source) = &self.source else { return false };
        if self.buffer.is_empty() {
            self.buffer = vec![0; BUFFER];
        }
        match read(source, &mut self.buffer[..]) {
            Ok(0) => self.end(),
            Ok(count) => {
                // What nobody wants is dropped here: bytes that wait for no sink would wait for ever.
                self.pending = if matches!(self.sink, Sink::Nobody) { 0..0 } else { 0..count };
                self.moved += count as u64;
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            // A guest that ended resets its connections: the stream is over all the same.
            Err(_) => self.end(),
        }
    }

    fn end(&mut self) -> bool {
        self.source = None;
        match std::mem::replace(&mut self.sink, Sink::Nobody) {
            Sink::Guest(guest) => {
                // A guest that is gone needs no end of file.
                let _ = guest.shutdown(std::net::Shutdown::Write);
            }
            // Input of a terminal ended: the terminal itself goes on.
            Sink::Terminal(_) | Sink::Pipe(_) | Sink::Nobody => {}
        }
        false
    }
}

/// Makes a descriptor that came from outside non-blocking.
///
/// # Errors
///
/// If it is not a descriptor that can be.
pub fn set_nonblocking(descriptor: &OwnedFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(descriptor, true)?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use proptest::prelude::*;
    use rustix::event::poll;

    use super::*;

    fn guest() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    fn pipe_for_writing() -> (io::PipeReader, OwnedFd) {
        let (reader, writer) = io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        set_nonblocking(&writer).unwrap();
        (reader, writer)
    }

    /// Drives a pump as the keeper does, until it is done.
    fn drive(pump: &mut Pump) -> usize {
        let mut polls = 0;
        while !pump.is_done() {
            if let Some(interest) = pump.interest() {
                poll(&mut [interest], None).unwrap();
                polls += 1;
            }
            pump.advance();
        }
        polls
    }

    #[test]
    fn many_bytes_through_a_slow_reader() {
        let (ours, mut theirs) = guest();
        let (mut reader, writer) = pipe_for_writing();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        let expected = sent.clone();
        let producer = std::thread::spawn(move || theirs.write_all(&sent).unwrap());
        let consumer = std::thread::spawn(move || {
            let mut all = Vec::new();
            let mut some = [0; 5000];
            loop {
                match reader.read(&mut some).unwrap() {
                    0 => return all,
                    count => all.extend_from_slice(&some[..count]),
                }
            }
        });
        let mut pump = Pump::output(ours, Some(writer));
        let polls = drive(&mut pump);
        assert!(polls < 3_000_000 / 512, "{polls} polls are a busy loop");
        assert_eq!(pump.moved(), 3_000_000);
        drop(pump);
        producer.join().unwrap();
        assert!(consumer.join().unwrap() == expected);
    }

    #[test]
    fn output_without_a_reader_is_dropped_and_the_guest_goes_on() {
        let (ours, mut theirs) = guest();
        let (reader, writer) = pipe_for_writing();
        drop(reader);
        let producer = std::thread::spawn(move || theirs.write_all(&vec![1; 1 << 20]).unwrap());
        let mut pump = Pump::output(ours, Some(writer));
        drive(&mut pump);
        producer.join().unwrap();
        assert_eq!(pump.moved(), 1 << 20);
    }

    #[test]
    fn output_for_nobody_never_waits_for_a_sink() {
        let (ours, mut theirs) = guest();
        rustix::net::sockopt::set_socket_send_buffer_size(&theirs, 4 << 20).unwrap();
        let mut pump = Pump::output(ours, None);
        theirs.set_nonblocking(true).unwrap();
        // More than one turn moves.
        for _ in 0..64 {
            let _ = theirs.write(&[1; BUFFER]);
        }
        pump.advance();
        assert!(!pump.is_held_up() && pump.interest().is_some());
    }

    #[test]
    fn closed_output_reaches_the_guest() {
        let (ours, mut theirs) = guest();
        let mut pump = Pump::output(ours, None);
        pump.close();
        assert!(pump.is_done());
        assert_eq!(theirs.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn end_of_input_is_a_half_close() {
        let (ours, mut theirs) = guest();
        let (reader, mut writer) = io::pipe().unwrap();
        let reader = OwnedFd::from(reader);
        set_nonblocking(&reader).unwrap();
        let mut pump = Pump::input(reader, ours.try_clone().unwrap());
        writer.write_all(b"last words").unwrap();
        drop(writer);
        drive(&mut pump);
        let mut text = String::new();
        theirs.read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words");
        drop(ours);
    }

    #[test]
    fn input_that_nobody_reads_waits_without_spinning() {
        let (ours, _theirs) = guest();
        let (reader, mut writer) = io::pipe().unwrap();
        let reader = OwnedFd::from(reader);
        set_nonblocking(&reader).unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let mut pump = Pump::input(reader, ours);
        let some = [7; 4096];
        for _ in 0..1000 {
            while writer.write(&some).is_ok() {}
            pump.advance();
        }
        assert!(pump.is_held_up());
        assert_eq!(poll(&mut [pump.interest().unwrap()], Some(&rustix::event::Timespec::default())).unwrap(), 0);
    }

    proptest! {
        #[test]
        fn bytes_arrive_in_order(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..20)) {
            let (ours, mut theirs) = guest();
            let (mut reader, writer) = pipe_for_writing();
            let mut pump = Pump::output(ours, Some(writer));
            for chunk in &chunks {
                theirs.write_all(chunk).unwrap();
                pump.advance();
            }
            drop(theirs);
            drive(&mut pump);
            drop(pump);
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            prop_assert_eq!(all, chunks.concat());
        }
    }
}
