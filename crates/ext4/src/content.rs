//! The content of a regular file.

use std::io::{self, Read};
use std::ops::Range;

use crate::blocks::{Blocks, ReadAt};
use crate::error::Ext4Error;
use crate::map::Run;

/// The content of a regular file: where it is on the disk.
#[derive(Debug)]
pub struct Content<'a, S> {
    blocks: &'a Blocks<S>,
    runs: Vec<Run>,
    size: u64,
}

impl<'a, S: ReadAt> Content<'a, S> {
    pub(crate) fn new(blocks: &'a Blocks<S>, runs: Vec<Run>, size: u64) -> Self {
        Self { blocks, runs, size }
    }

    /// Its bytes, holes included.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The ranges of bytes that are not holes: ascending, whole blocks but for the last, and none touches the next.
    /// What is between them is zeros.
    #[must_use]
    pub fn data(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for run in &self.runs {
            let range = self.bytes_of(run);
            match ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => ranges.push(range),
            }
        }
        ranges
    }

    /// Fills `buffer` from byte `offset` on; what is beyond the end is zeros.
    ///
    /// # Errors
    ///
    /// Where the disk cannot be read.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), Ext4Error> {
        buffer.fill(0);
        let end = offset.saturating_add(buffer.len() as u64);
        let first = self.runs.partition_point(|run| self.bytes_of(run).end <= offset);
        for run in &self.runs[first..] {
            let bytes = self.bytes_of(run);
            if bytes.start >= end {
                break;
            }
            let (from, to) = (bytes.start.max(offset), bytes.end.min(end));
            let part = usize::try_from(from - offset).unwrap_or(usize::MAX)
                ..usize::try_from(to - offset).unwrap_or(usize::MAX);
            let Some(part) = buffer.get_mut(part) else { break };
            self.blocks.read(part, run.physical, from - bytes.start)?;
        }
        Ok(())
    }

    /// Reads it from its beginning to its end.
    #[must_use]
    pub fn reader(&self) -> ContentReader<'_, 'a, S> {
        ContentReader { content: self, at: 0 }
    }

    fn bytes_of(&self, run: &Run) -> Range<u64> {
        let size = u64::from(self.blocks.size);
        run.logical * size..((run.logical + run.length) * size).min(self.size)
    }
}

/// Reads a [`Content`].
#[derive(Debug)]
pub struct ContentReader<'c, 'a, S> {
    content: &'c Content<'a, S>,
    at: u64,
}

impl<S: ReadAt> Read for ContentReader<'_, '_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.content.size.saturating_sub(self.at);
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        self.content.read_at(&mut buffer[..count], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}
