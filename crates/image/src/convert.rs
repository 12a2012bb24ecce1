//! One layer: from its blob to the store.
//!
//! ```text
//!  thread "blob"                                    the caller's thread
//!    section ─▶ sha256 of the blob ─▶ inflate ─▶ buffers ─▶ sha256 of the diff ─▶ tar ─▶ data file, changeset
//!                                        ▲                     │
//!                                        └──── empty again ────┘
//! ```
//!
//! [`BUFFERS`] buffers of [`BUFFER`] bytes go round, so memory does not depend on the archive. For a plain blob the
//! two digests are one, and it is computed once. The blob is hashed to its end even when it cannot be inflated or
//! parsed, because a damaged blob then is the better thing to say.

use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use layer::{Changeset, FileSink, LayerError, Limits, read_layer};
use store::facts::Facts;
use store::{Digest, Hasher, LayerFiles, LayerIngest, Lease, Object, Store, StoreError};

use crate::archive::Section;
use crate::compression::{Compression, MAGIC_LENGTH};
use crate::plan::LayerPlan;
use crate::source::Source;
use crate::{ImageError, Result};

/// Bytes of one buffer.
const BUFFER: usize = 1 << 20;

/// How many there are.
const BUFFERS: usize = 4;

/// Puts a layer into the store, unless it is there. `false` where it was. While another thread or process converts
/// the same layer, waits and then finds it there.
pub(crate) fn convert(
    store: &Store,
    lease: &Lease,
    layer: &LayerPlan,
    on_bytes: &dyn Fn(u64),
) -> Result<(LayerFiles, bool)> {
    let object = Object::layer(layer.diff_id);
    // Before looking: what is found then stays.
    lease.add(&[object])?;
    if let Some(files) = usable(store, &layer.diff_id)? {
        return Ok((files, false));
    }
    let _lock = store.lock_conversion(&layer.diff_id, || ())?;
    if let Some(files) = usable(store, &layer.diff_id)? {
        return Ok((files, false));
    }
    store.discard(&object)?;
    let ingest = store.ingest_layer()?;
    let (changeset, unpacked_length) = read(layer, &ingest, on_bytes)?;
    let facts = write_tree(&ingest, &changeset, unpacked_length)?;
    ingest.publish(lease, &layer.diff_id, &facts)?;
    match store.layer(&layer.diff_id)? {
        Some(files) => Ok((files, true)),
        None => Err(ImageError::Damaged { image: layer.what.clone(), problem: "it was removed at once".into() }),
    }
}

/// The layer, if it is in the store, whole, and written as this version writes.
fn usable(store: &Store, diff_id: &Digest) -> Result<Option<LayerFiles>> {
    match store.layer(diff_id) {
        Ok(files) => Ok(files.filter(|f| f.facts.tree_format == layer::FORMAT_VERSION)),
        Err(StoreError::Damaged { .. }) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Converts and verifies. Nothing is published.
fn read(plan: &LayerPlan, ingest: &LayerIngest, on_bytes: &dyn Fn(u64)) -> Result<(Changeset, u64)> {
    let compression = detect(plan)?;
    let data = ingest.files()?.data;
    let shared = Shared::default();
    let (full_sender, full) = sync_channel(BUFFERS);
    let (empty, empty_receiver) = channel();
    for _ in 0..BUFFERS {
        let _ = empty.send(Vec::with_capacity(BUFFER));
    }
    let (parsed, unpacked, pumped) = std::thread::scope(|scope| {
        let Source::Section(section) = plan.source.clone();
        let shared = &shared;
        let blob = std::thread::Builder::new()
            .name("blob".into())
            .spawn_scoped(scope, move || pump(section, compression, shared, full_sender, &empty_receiver));
        let blob = match blob {
            Ok(blob) => blob,
            Err(e) => return Err(ImageError::read(&plan.what, e)),
        };
        let hasher = (compression != Compression::Plain).then(Hasher::default);
        let mut feed = Feed { full, empty, current: Vec::new(), at: 0, length: 0, hasher, shared, on_bytes };
        let parsed = read_layer(&mut feed, &mut FileSink::new(data), &Limits::default());
        let wanted = parsed.as_ref().err().is_none_or(|e| !is_ours(e));
        shared.abandoned.store(!wanted, Ordering::Relaxed);
        let unpacked = (feed.length, feed.hasher.take().map(Hasher::finish));
        drop(feed);
        let pumped = blob.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((parsed, unpacked, pumped))
    })?;
    let (length, diff_digest) = unpacked;
    judge(plan, ingest, parsed, diff_digest.unwrap_or(pumped.digest), &pumped).map(|changeset| (changeset, length))
}

/// Writes the tree, and says how long the layer's files are.
fn write_tree(ingest: &LayerIngest, changeset: &Changeset, unpacked_length: u64) -> Result<Facts> {
    let files = ingest.files()?;
    let failed = |e| StoreError::io("write", ingest.shown(), e);
    (&files.tree).write_all(changeset.encode()).map_err(failed)?;
    let nothing = Digest::of(b"");
    Ok(Facts {
        tree_format: layer::FORMAT_VERSION,
        data_length: files.data.metadata().map_err(failed)?.len(),
        data_verity: nothing,
        packed_length: 0,
        packed_digest: nothing,
        tree_length: changeset.encode().len() as u64,
        tree_digest: Digest::of(changeset.encode()),
        skeleton_length: 0,
        skeleton_digest: nothing,
        unpacked_length,
    })
}

fn detect(plan: &LayerPlan) -> Result<Compression> {
    let mut start = Vec::new();
    let Source::Section(section) = plan.source.clone();
    let read = section.take(MAGIC_LENGTH as u64).read_to_end(&mut start);
    read.map_err(|e| ImageError::read(&plan.what, e))?;
    match Compression::detect(&start) {
        Compression::Other(name) => {
            Err(ImageError::Compression { what: plan.what.clone(), compression: name.to_owned() })
        }
        known => Ok(known),
    }
}

/// Whether the fault is the host's, so that the archive need not be looked at further.
fn is_ours(error: &LayerError) -> bool {
    matches!(error, LayerError::Store { .. } | LayerError::Finish(_))
}

/// Decides what to say when several things are wrong at once: the cause comes before its consequences.
fn judge(
    plan: &LayerPlan,
    ingest: &LayerIngest,
    parsed: Result<Changeset, LayerError>,
    diff_digest: Digest,
    pumped: &Pumped,
) -> Result<Changeset> {
    let what = || plan.what.clone();
    let parsed = match parsed {
        Err(LayerError::Store { source, .. } | LayerError::Finish(source)) => {
            return Err(StoreError::io("write", ingest.shown(), source).into());
        }
        other => other,
    };
    if let Some(error) = &pumped.unreadable {
        return Err(ImageError::read(&plan.what, io::Error::new(error.kind(), error.to_string())));
    }
    if plan.blob.is_some_and(|expected| expected != pumped.digest) {
        return Err(ImageError::WrongDigest { what: what(), found: pumped.digest });
    }
    match &pumped.corrupt {
        Some(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(ImageError::Truncated { origin: what(), within: "its compressed stream".into() });
        }
        Some(error) => {
            let source = io::Error::new(error.kind(), error.to_string());
            return Err(ImageError::Inflate { what: what(), source });
        }
        None => {}
    }
    let changeset = parsed.map_err(|source| ImageError::Layer { what: what(), source })?;
    if diff_digest != plan.diff_id {
        return Err(ImageError::WrongDiffId { what: what(), expected: plan.diff_id, found: diff_digest });
    }
    Ok(changeset)
}

/// What the two threads know of one another.
#[derive(Debug, Default)]
struct Shared {
    /// Bytes of the blob that have been read.
    done: AtomicU64,
    /// The result is of no interest any more.
    abandoned: AtomicBool,
}

/// What the blob's thread found.
#[derive(Debug)]
struct Pumped {
    /// Of the whole blob, unless it was abandoned or unreadable.
    digest: Digest,
    /// The archive could not be read.
    unreadable: Option<io::Error>,
    /// The blob could not be inflated.
    corrupt: Option<io::Error>,
}

/// Reads the blob, hashes it, inflates it, and hands on what comes out. Closing `full` is how its reader learns of the
/// end.
fn pump(
    section: Section,
    compression: Compression,
    shared: &Shared,
    full: SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) -> Pumped {
    let mut blob = Blob { section, hasher: Hasher::default(), shared, failure: None };
    let inflated = match compression {
        Compression::Plain => hand_on(&mut blob, shared, &full, empty),
        _ => inflate(BufReader::with_capacity(BUFFER / 4, &mut blob), compression, shared, &full, empty),
    };
    drop(full);
    // What follows the compressed stream, or all that is left after an error.
    let mut rest = vec![0; BUFFER / 4];
    let mut more = true;
    while more && !shared.abandoned.load(Ordering::Relaxed) {
        more = blob.read(&mut rest).is_ok_and(|count| count > 0);
    }
    let unreadable = blob.failure.take();
    Pumped { digest: blob.hasher.finish(), corrupt: inflated.err().filter(|_| unreadable.is_none()), unreadable }
}

fn inflate(
    blob: impl BufRead + Send,
    compression: Compression,
    shared: &Shared,
    full: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) -> io::Result<()> {
    match compression.inflate(blob)? {
        Some(mut inflated) => hand_on(&mut inflated, shared, full, empty),
        None => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Fills buffers until there is no more, or nobody wants more.
fn hand_on(
    from: &mut impl Read,
    shared: &Shared,
    full: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) -> io::Result<()> {
    while let Ok(mut buffer) = empty.recv() {
        if shared.abandoned.load(Ordering::Relaxed) {
            break;
        }
        buffer.resize(BUFFER, 0);
        let (filled, result) = fill(from, &mut buffer);
        buffer.truncate(filled);
        if filled == 0 || full.send(buffer).is_err() {
            return result;
        }
        result?;
    }
    Ok(())
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

/// The blob as it is read: hashed and counted.
struct Blob<'a> {
    section: Section,
    hasher: Hasher,
    shared: &'a Shared,
    failure: Option<io::Error>,
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.section.read(buffer) {
            Ok(count) => {
                self.hasher.update(&buffer[..count]);
                self.shared.done.fetch_add(count as u64, Ordering::Relaxed);
                Ok(count)
            }
            Err(e) => {
                let copy = io::Error::new(e.kind(), e.to_string());
                self.failure = Some(e);
                Err(copy)
            }
        }
    }
}

/// The inflated blob as the tar reader sees it: hashed where that is another digest than the blob's.
struct Feed<'a> {
    full: Receiver<Vec<u8>>,
    empty: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    length: u64,
    hasher: Option<Hasher>,
    shared: &'a Shared,
    on_bytes: &'a dyn Fn(u64),
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
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&self.current);
            }
            (self.on_bytes)(self.shared.done.load(Ordering::Relaxed));
        }
        let count = buffer.len().min(self.current.len() - self.at);
        buffer[..count].copy_from_slice(&self.current[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
