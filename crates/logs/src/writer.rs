//! Appending, and beginning the next file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    MAX_ENCODED, MAX_LINE, file, numbers,
    record::{Stamp, Stream, encode},
};

/// Space for lines that are put together before they are written.
const BATCH: usize = 64 << 10;

/// With so many they are written: then any one more has room that needs no escapes.
const FULL: usize = BATCH - MAX_LINE - 256;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a file before the next is begun. A record is never cut for it.
    pub max_size: u64,
    /// Files, at least one.
    pub max_files: u32,
}

/// The file that is written.
#[derive(Debug)]
struct Current {
    file: File,
    number: u64,
    length: u64,
}

/// Writes the log of a container.
#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    limits: Limits,
    /// `None` until one can be opened.
    current: Option<Current>,
    /// Beginnings of lines.
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Lines that were not written yet. Empty between calls.
    batch: Vec<u8>,
    batched: u64,
    /// Records that are lost and were not told of.
    lost: u64,
}

impl Writer {
    /// A writer into a directory, which is made when it is missing, as is everything on the way of the first write:
    /// this cannot fail.
    #[must_use]
    pub fn new(directory: &Path, limits: Limits) -> Self {
        Self {
            directory: directory.to_owned(),
            limits,
            current: None,
            stdout: Vec::new(),
            stderr: Vec::new(),
            batch: Vec::new(),
            batched: 0,
            lost: 0,
        }
    }

    /// Records that were lost since the log last told of some.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Takes output. What ends no line waits for more.
    pub fn push(&mut self, stream: Stream, mut output: &[u8]) {
        let stamp = Stamp::new(stream, now());
        let mut held = std::mem::take(self.held(stream));
        while !output.is_empty() {
            let mut rest = output;
            // Memory is read without an error.
            let length = rest.skip_until(b'\n').unwrap_or(output.len());
            self.push_piece(&stamp, &mut held, &output[..length]);
            output = rest;
        }
        self.flush();
        // What waits is small, and most output ends with a line.
        if held.is_empty() {
            held = Vec::new();
        }
        *self.held(stream) = held;
    }

    /// Writes the lines that have not ended: nothing more comes for now.
    pub fn finish(&mut self) {
        let now = now();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let held = std::mem::take(self.held(stream));
            if !held.is_empty() {
                self.append(&Stamp::new(stream, now), &held);
            }
        }
        self.flush();
    }

    fn held(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// Takes at most one line: whole records go to the batch, the rest stays in `held`.
    fn push_piece(&mut self, stamp: &Stamp, held: &mut Vec<u8>, mut piece: &[u8]) {
        if held.is_empty() && piece.len() <= MAX_LINE && piece.ends_with(b"\n") {
            return self.append(stamp, piece);
        }
        loop {
            let (now, later) = piece.split_at(piece.len().min(MAX_LINE - held.len()));
            held.extend_from_slice(now);
            piece = later;
            let whole = held.ends_with(b"\n");
            if !whole && held.len() < MAX_LINE {
                return;
            }
            let cut = if whole { held.len() } else { character_boundary(held) };
            self.append(stamp, &held[..cut]);
            held.drain(..cut);
            if piece.is_empty() && held.is_empty() {
                return;
            }
        }
    }

    fn append(&mut self, stamp: &Stamp, output: &[u8]) {
        encode(stamp, output, &mut self.batch);
        self.batched += 1;
        let length = self.current.as_ref().map_or(0, |current| current.length);
        let full = length + self.batch.len() as u64 >= self.limits.max_size;
        if full || self.batch.len() >= FULL {
            self.flush();
        }
    }

    /// Writes the batch; counts it as lost where that cannot be.
    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        if self.lost > 0 {
            self.tell_of_loss();
        }
        let batch = std::mem::take(&mut self.batch);
        if self.write(&batch).is_err() {
            self.lost += self.batched;
        }
        self.batched = 0;
        // One batch's space is kept, whatever the largest one took.
        self.batch = batch;
        self.batch.clear();
        self.batch.shrink_to(BATCH);
    }

    fn tell_of_loss(&mut self) {
        let text = format!("coracle: {} records of output are lost: they could not be written\n", self.lost);
        let mut line = Vec::with_capacity(MAX_ENCODED.min(256));
        encode(&Stamp::new(Stream::Stderr, now()), text.as_bytes(), &mut line);
        if self.write(&line).is_ok() {
            self.lost = 0;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.current.as_ref().is_some_and(|current| current.length >= self.limits.max_size.max(1)) {
            self.rotate()?;
        }
        if self.current.is_none() {
            self.current = Some(open_last(&self.directory)?);
            // Another limit may have been in force.
            self.remove_old();
        }
        let Some(current) = &mut self.current else { return Ok(()) };
        match current.file.write_all(bytes) {
            Ok(()) => {
                current.length += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                // A part of a line would swallow the beginning of the next.
                if current.file.set_len(current.length).is_err() {
                    self.current = None;
                }
                Err(error)
            }
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let Some(current) = &self.current else { return Ok(()) };
        let number = current.number + 1;
        let file = create(&self.directory, number)?;
        self.current = Some(Current { file, number, length: 0 });
        self.remove_old();
        Ok(())
    }

    /// Removes the oldest files. What cannot be removed is tried again at the next turn.
    fn remove_old(&self) {
        let Some(current) = &self.current else { return };
        let kept = u64::from(self.limits.max_files.max(1));
        for number in numbers(&self.directory).unwrap_or_default() {
            if number + kept <= current.number {
                let _ = fs::remove_file(file(&self.directory, number));
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Opens the last file, or the first one. What a crash left of a line is ended.
fn open_last(directory: &Path) -> io::Result<Current> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let number = numbers(directory)?.last().copied().unwrap_or(1);
    let mut file = create(directory, number)?;
    let mut length = file.metadata()?.len();
    if length > 0 {
        let mut last = [0];
        file.seek(SeekFrom::Start(length - 1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            length += 1;
        }
    }
    Ok(Current { file, number, length })
}

fn create(directory: &Path, number: u64) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(file(directory, number))
}

/// Where to cut a long line: not within a character, if it is text.
fn character_boundary(bytes: &[u8]) -> usize {
    let is_continuation = |byte: &u8| byte & 0xc0 == 0x80;
    let tail = bytes.iter().rev().take(3).take_while(|byte| is_continuation(byte)).count();
    let start = bytes.len() - tail;
    match bytes[..start].last() {
        Some(&lead) if lead >= 0xc0 => {
            let needs = if lead >= 0xf0 { 3 } else { 1 + usize::from(lead >= 0xe0) };
            if tail < needs { start - 1 } else { bytes.len() }
        }
        _ => bytes.len(),
    }
}

pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
