//! An archive's bytes as they come by: each one either is recorded in the skeleton or is content.

use std::io::{self, BufRead, BufReader, Read, Write};

use crate::skeleton::Segments;
use crate::verity::is_zero;

/// Reads shorter than this go through a buffer of this size; longer ones go straight to their destination.
const BUFFER: usize = 64 << 10;

/// A reader that knows its position and records what is not content.
#[derive(Debug)]
pub(crate) struct Tape<R, S> {
    input: BufReader<R>,
    position: u64,
    skeleton: Segments<S>,
}

/// Why a tape stands still.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The input ends.
    End,
    /// The input failed.
    Read(io::Error),
    /// The skeleton could not be written.
    Skeleton(io::Error),
}

impl<R: Read, S: Write> Tape<R, S> {
    pub(crate) fn new(input: R, skeleton: S) -> Self {
        let input = BufReader::with_capacity(BUFFER, input);
        Self { input, position: 0, skeleton: Segments::new(skeleton) }
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Where content is recorded, after it was read.
    pub(crate) fn skeleton(&mut self) -> &mut Segments<S> {
        &mut self.skeleton
    }

    /// Fills `target` with recorded bytes, however they arrive.
    pub(crate) fn fill(&mut self, target: &mut [u8]) -> Result<(), Stop> {
        let mut filled = 0;
        while filled < target.len() {
            match self.input.read(&mut target[filled..]) {
                Ok(0) => return Err(Stop::End),
                Ok(read) => {
                    filled += read;
                    self.position += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Stop::Read(error)),
            }
        }
        self.skeleton.literal(target).map_err(Stop::Skeleton)
    }

    /// Goes over `length` recorded bytes.
    pub(crate) fn pass(&mut self, mut length: u64) -> Result<(), Stop> {
        while length > 0 {
            length -= self.pass_some(length)?.length;
        }
        Ok(())
    }

    /// Goes over recorded bytes as they arrive, at most `length`.
    pub(crate) fn pass_some(&mut self, length: u64) -> Result<Passed, Stop> {
        let available = loop {
            match self.input.fill_buf() {
                Ok([]) => return Err(Stop::End),
                Ok(buffer) => break &buffer[..buffer.len().min(usize::try_from(length).unwrap_or(usize::MAX))],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Stop::Read(error)),
            }
        };
        self.skeleton.literal(available).map_err(Stop::Skeleton)?;
        let passed = Passed { length: available.len() as u64, zeros: is_zero(available) };
        let consumed = available.len();
        self.input.consume(consumed);
        self.position += passed.length;
        Ok(passed)
    }

    /// Reads content, which the caller records.
    pub(crate) fn content(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(target)?;
        self.position += read as u64;
        Ok(read)
    }

    /// Ends the skeleton.
    pub(crate) fn finish(self) -> io::Result<S> {
        self.skeleton.finish()
    }
}

/// Bytes that were passed over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passed {
    pub(crate) length: u64,
    /// Whether they are zeros, all of them.
    pub(crate) zeros: bool,
}
