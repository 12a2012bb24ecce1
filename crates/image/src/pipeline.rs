//! The threads that a blob passes through on its way to a layer.
//!
//! ```text
//!  thread "blob"                          thread "digest"         the caller's thread
//!    reader ─▶ sha256 of the blob ─▶ copy?
//!                └─▶ inflate ─▶ buffers ─▶ sha256 of the diff ─▶ whoever parses it
//!                       ▲                                           │
//!                       └─────────────── empty again ───────────────┘
//! ```
//!
//! [`BUFFERS`] buffers of [`BUFFER`] bytes go round, so memory does not depend on the blob. Of a plain blob the two
//! digests are one; it is computed once, and the second thread does not exist. The blob is read and hashed to its end
//! even when it cannot be inflated or parsed, because a damaged blob then is the better thing to say.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, Scope};

use store::{Digest, Hasher};

use crate::compression::{Compression, MAGIC_LENGTH};

/// Bytes of one buffer.
const BUFFER: usize = 1 << 20;

/// How many there are.
const BUFFERS: usize = 5;

/// What goes in.
pub(crate) struct Input<'a> {
    /// The blob from its first byte.
    pub(crate) reader: Box<dyn Read + Send + 'a>,
    /// A file at whose position the blob is written too.
    pub(crate) copy: Option<&'a File>,
    /// Set when the result is of no interest any more, by anybody.
    pub(crate) cancel: &'a AtomicBool,
    /// Told now and then how many bytes of the blob have been read.
    pub(crate) on_bytes: &'a (dyn Fn(u64) + Sync),
}

/// What came out.
#[derive(Debug)]
pub(crate) struct Output<T> {
    /// What the parser said.
    pub(crate) parsed: T,
    /// Of what was inflated. Means something only if it was parsed to its end.
    pub(crate) diff_digest: Digest,
    /// Bytes of what was inflated.
    pub(crate) unpacked_length: u64,
    /// The blob itself.
    pub(crate) blob: Blob,
}

/// What was found out about a blob.
#[derive(Debug)]
pub(crate) struct Blob {
    /// Of the whole of it, unless it was abandoned or unreadable.
    pub(crate) digest: Digest,
    /// It could not be read.
    pub(crate) unreadable: Option<io::Error>,
    /// It could not be copied.
    pub(crate) uncopied: Option<io::Error>,
    /// It could not be inflated.
    pub(crate) corrupt: Option<io::Error>,
    /// It is compressed in a way that is not supported.
    pub(crate) unsupported: Option<&'static str>,
}

/// Reads a blob through `parse`. Where `is_final` says so of what that returned, the rest of the blob is left unread.
///
/// # Errors
///
/// Where a thread cannot be started.
pub(crate) fn run<T>(
    input: Input<'_>,
    parse: impl FnOnce(&mut dyn Read) -> T,
    is_final: impl FnOnce(&T) -> bool,
) -> io::Result<Output<T>> {
    let abandoned = AtomicBool::new(false);
    let shared = Shared { done: AtomicU64::new(0), abandoned: &abandoned, cancel: input.cancel };
    std::thread::scope(|scope| {
        let (blob_sender, from_blob) = sync_channel(BUFFERS);
        let (empty, empty_receiver) = channel();
        for _ in 0..BUFFERS {
            let _ = empty.send(Vec::new());
        }
        let Input { reader, copy, on_bytes, .. } = input;
        let reader = Tee { reader, hasher: Hasher::default(), length: 0, copy, shared: &shared, failure: None };
        let pump = Pump { shared: &shared, full: blob_sender, empty: empty_receiver };
        let blob = Builder::new().name("blob".into()).spawn_scoped(scope, move || pump.run(reader))?;
        let digest = Digesting::start(scope, from_blob)?;
        let mut feed =
            Feed { full: digest.full, empty, current: Vec::new(), at: 0, length: 0, shared: &shared, on_bytes };
        let parsed = parse(&mut feed);
        shared.abandoned.store(is_final(&parsed), Ordering::Relaxed);
        let unpacked_length = feed.length;
        drop(feed);
        let diff_digest = join(digest.thread);
        let blob = join(blob);
        Ok(Output { parsed, diff_digest: diff_digest.unwrap_or(blob.digest), unpacked_length, blob })
    })
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What the threads know of one another.
struct Shared<'a> {
    /// Bytes of the blob that have been read.
    done: AtomicU64,
    /// What is left of the blob is of no interest.
    abandoned: &'a AtomicBool,
    cancel: &'a AtomicBool,
}

impl Shared<'_> {
    fn is_over(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed) || self.cancel.load(Ordering::Relaxed)
    }
}

/// A buffer on its way, and whether its bytes are those of the blob itself.
struct Full {
    bytes: Vec<u8>,
    is_plain: bool,
}

/// The first thread.
struct Pump<'a> {
    shared: &'a Shared<'a>,
    full: SyncSender<Full>,
    empty: Receiver<Vec<u8>>,
}

impl Pump<'_> {
    /// Reads the blob, hashes it, inflates it, and hands on what comes out. Closing `full` is how its reader learns of
    /// the end.
    fn run(self, mut blob: Tee<'_>) -> Blob {
        let shared = self.shared;
        let mut start = [0; MAGIC_LENGTH];
        let (length, read) = fill(&mut blob, &mut start);
        let compression = Compression::detect(&start[..length]);
        let start = Cursor::new(start).take(length as u64);
        let mut unsupported = None;
        let inflated = match (read, compression) {
            (Err(e), _) => Err(e),
            (Ok(()), Compression::Other(name)) => {
                unsupported = Some(name);
                Ok(())
            }
            (Ok(()), Compression::Plain) => self.hand_on(&mut start.chain(&mut blob), true),
            (Ok(()), _) => self.inflate(BufReader::with_capacity(BUFFER / 4, start.chain(&mut blob)), compression),
        };
        drop(self);
        // What follows the compressed stream, or all that is left after an error.
        let mut rest = vec![0; BUFFER / 4];
        while !shared.is_over() && blob.read(&mut rest).is_ok_and(|count| count > 0) {}
        blob.finish(inflated.err(), unsupported)
    }

    fn inflate(&self, blob: impl BufRead + Send, compression: Compression) -> io::Result<()> {
        match compression.inflate(blob)? {
            Some(mut inflated) => self.hand_on(&mut inflated, false),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Fills buffers until there is no more, or nobody wants more.
    fn hand_on(&self, from: &mut impl Read, is_plain: bool) -> io::Result<()> {
        while let Ok(mut bytes) = self.empty.recv() {
            if self.shared.is_over() {
                break;
            }
            bytes.resize(BUFFER, 0);
            let (filled, result) = fill(from, &mut bytes);
            bytes.truncate(filled);
            if filled == 0 || self.full.send(Full { bytes, is_plain }).is_err() {
                return result;
            }
            result?;
        }
        Ok(())
    }
}

/// Reads until the buffer is full, the source ends, or it fails; what came before a failure counts.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> (usize, io::Result<()>) {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (filled, Err(e)),
        }
    }
    (filled, Ok(()))
}

/// The blob as it is read: hashed, counted, copied.
struct Tee<'a> {
    reader: Box<dyn Read + Send + 'a>,
    hasher: Hasher,
    length: u64,
    copy: Option<&'a File>,
    shared: &'a Shared<'a>,
    failure: Option<Failure>,
}

fn cancelled() -> io::Error {
    io::Error::other("it was abandoned, because something else failed")
}

enum Failure {
    Read(io::Error),
    Copy(io::Error),
}

impl Tee<'_> {
    fn finish(self, inflate: Option<io::Error>, unsupported: Option<&'static str>) -> Blob {
        let (unreadable, uncopied) = match self.failure {
            Some(Failure::Read(e)) => (Some(e), None),
            Some(Failure::Copy(e)) => (None, Some(e)),
            None if self.shared.cancel.load(Ordering::Relaxed) => (Some(cancelled()), None),
            None => (None, None),
        };
        let corrupt = inflate.filter(|_| unreadable.is_none() && uncopied.is_none());
        Blob { digest: self.hasher.finish(), unreadable, uncopied, corrupt, unsupported }
    }
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.shared.cancel.load(Ordering::Relaxed) {
            return Err(cancelled());
        }
        let copy = |e: &io::Error| io::Error::new(e.kind(), e.to_string());
        let count = match self.reader.read(buffer) {
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            Err(e) => {
                let said = copy(&e);
                self.failure = Some(Failure::Read(e));
                return Err(said);
            }
        };
        self.hasher.update(&buffer[..count]);
        self.length += count as u64;
        self.shared.done.store(self.length, Ordering::Relaxed);
        if let Some(Err(e)) = self.copy.map(|mut file| file.write_all(&buffer[..count])) {
            let said = copy(&e);
            self.failure = Some(Failure::Copy(e));
            return Err(said);
        }
        Ok(count)
    }
}

/// The second thread, and where its output is.
struct Digesting<'scope> {
    full: Receiver<Vec<u8>>,
    thread: std::thread::ScopedJoinHandle<'scope, Option<Digest>>,
}

impl<'scope> Digesting<'scope> {
    fn start<'env>(scope: &'scope Scope<'scope, 'env>, from: Receiver<Full>) -> io::Result<Self> {
        let (sender, full) = sync_channel(BUFFERS);
        let thread = Builder::new().name("digest".into()).spawn_scoped(scope, move || digest(&from, &sender))?;
        Ok(Self { full, thread })
    }
}

/// Hashes what passes by; `None` where that is the blob itself.
fn digest(from: &Receiver<Full>, to: &SyncSender<Vec<u8>>) -> Option<Digest> {
    let mut hasher = None;
    let mut is_plain = false;
    while let Ok(full) = from.recv() {
        is_plain = full.is_plain;
        if !is_plain {
            hasher.get_or_insert_with(Hasher::default).update(&full.bytes);
        }
        if to.send(full.bytes).is_err() {
            break;
        }
    }
    if is_plain { None } else { Some(hasher.unwrap_or_default().finish()) }
}

/// The inflated blob as the parser sees it.
struct Feed<'a> {
    full: Receiver<Vec<u8>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    length: u64,
    shared: &'a Shared<'a>,
    on_bytes: &'a (dyn Fn(u64) + Sync),
}

impl Read for Feed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.len() {
            let Ok(next) = self.full.recv() else { return Ok(0) };
            let used = std::mem::replace(&mut self.current, next);
            if used.capacity() > 0 {
                // The blob's thread may have ended: then nobody needs it.
                let _ = self.empty.send(used);
            }
            self.at = 0;
            self.length += self.current.len() as u64;
            (self.on_bytes)(self.shared.done.load(Ordering::Relaxed));
        }
        let count = buffer.len().min(self.current.len() - self.at);
        buffer[..count].copy_from_slice(&self.current[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Seek;

    use super::*;

    fn input<'a>(blob: &'a [u8], copy: Option<&'a File>, cancel: &'a AtomicBool) -> Input<'a> {
        Input { reader: Box::new(blob), copy, cancel, on_bytes: &|_| () }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn content() -> Vec<u8> {
        (0..7_000_000u32).flat_map(|n| (n / 50).to_le_bytes().into_iter().take(1)).collect()
    }

    #[test]
    fn both_digests_the_copy_and_the_content() {
        let plain = content();
        for blob in [plain.clone(), gzip(&plain), zstd::encode_all(&plain[..], 1).unwrap()] {
            let mut file = tempfile::tempfile().unwrap();
            let cancel = AtomicBool::new(false);
            let mut seen = Vec::new();
            let output =
                run(input(&blob, Some(&file), &cancel), |from| from.read_to_end(&mut seen).unwrap(), |_| false)
                    .unwrap();
            assert_eq!((output.parsed, output.unpacked_length), (plain.len(), plain.len() as u64));
            assert!(seen == plain);
            assert_eq!(output.diff_digest, Digest::of(&plain));
            assert_eq!(output.blob.digest, Digest::of(&blob));
            let mut copy = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut copy).unwrap();
            assert!(copy == blob);
        }
    }

    #[test]
    fn blob_is_hashed_to_its_end_whatever_becomes_of_it() {
        let cancel = AtomicBool::new(false);
        let mut blob = gzip(&content());
        // Bytes behind the stream that are no further member.
        blob.extend([7; 100_000]);
        let output = run(input(&blob, None, &cancel), |from| from.read(&mut [0; 10]).unwrap(), |_| false).unwrap();
        assert_eq!(output.blob.digest, Digest::of(&blob));
        let half = &blob[..blob.len() / 3];
        let output =
            run(input(half, None, &cancel), |from| io::copy(from, &mut io::sink()).unwrap(), |_| false).unwrap();
        assert_eq!(output.blob.digest, Digest::of(half));
        assert_eq!(output.blob.corrupt.unwrap().kind(), io::ErrorKind::UnexpectedEof);
        let output = run(input(b"BZh91AY", None, &cancel), |_| (), |()| false).unwrap();
        assert_eq!(output.blob.unsupported, Some("bzip2"));
    }

    #[test]
    fn who_is_not_interested_any_more_does_not_wait() {
        let cancel = AtomicBool::new(false);
        let endless = Input { reader: Box::new(io::repeat(0)), copy: None, cancel: &cancel, on_bytes: &|_| () };
        run(endless, |from| from.read(&mut [0; 10]).unwrap(), |_| true).unwrap();
        let endless = Input { reader: Box::new(io::repeat(0)), copy: None, cancel: &cancel, on_bytes: &|_| () };
        let output = run(
            endless,
            |from| {
                cancel.store(true, Ordering::Relaxed);
                io::copy(from, &mut io::sink())
            },
            |_| false,
        );
        assert!(output.unwrap().blob.unreadable.is_some());
    }
}
