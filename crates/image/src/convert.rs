//! One layer: from its blob to the store.
//!
//! The blob streams through the threads of [`pipeline`](crate::pipeline) into the layer's files; nothing is unpacked,
//! and what comes from a registry is never a whole file first. It is verified as it passes, and published only when
//! all of it was right.

use std::io::{self, Read};
use std::sync::atomic::AtomicBool;

use layer::{LayerError, LayerOutput, LayerWriter, Limits, read_layer};
use store::facts::Facts;
use store::{Digest, LayerFiles, LayerIngest, LayerParts, Lease, Object, Store, StoreError};

use crate::pipeline::{self, Blob, Input, Output};
use crate::plan::LayerPlan;
use crate::source::{Kept, Opened};
use crate::{Event, ImageError, Options, Progress, Result};

/// Puts layers into the store.
pub(crate) struct Converter<'a> {
    pub(crate) store: &'a Store,
    pub(crate) lease: &'a Lease,
    pub(crate) options: &'a Options,
    /// Set when another layer of the same image failed.
    pub(crate) cancel: &'a AtomicBool,
    pub(crate) progress: &'a dyn Progress,
}

/// What a blob should turn out to be.
struct Expected<'a> {
    what: &'a str,
    diff_id: Option<Digest>,
    blob: Option<Digest>,
}

/// A layer that is written and verified, but not published.
struct Written {
    diff_id: Digest,
    facts: Facts,
    blob: Blob,
}

impl Converter<'_> {
    /// Puts a layer into the store, unless it is there; `false` where it was. While another thread or process
    /// converts the same layer, waits and then finds it there.
    pub(crate) fn layer(&self, layer: &LayerPlan) -> Result<(LayerFiles, bool)> {
        let object = Object::layer(layer.diff_id);
        // Before looking: what is found then stays.
        self.lease.add(&[object])?;
        if let Some(files) = self.usable(layer)? {
            return Ok((files, false));
        }
        let waiting = || self.progress.event(Event::LayerWaiting { index: layer.index });
        let _lock = self.store.lock_conversion(&layer.diff_id, waiting)?;
        if let Some(files) = self.usable(layer)? {
            return Ok((files, false));
        }
        self.store.discard(&object)?;
        self.convert(layer)?;
        match self.store.layer(&layer.diff_id)? {
            Some(files) => Ok((files, true)),
            None => Err(ImageError::Damaged { image: layer.what.clone(), problem: "it was removed at once".into() }),
        }
    }

    /// Puts the layer that a stream holds into the store, whatever it is, and says what it is.
    pub(crate) fn stream(&self, what: &str, stream: Box<dyn Read + Send + '_>) -> Result<LayerFiles> {
        let ingest = self.store.ingest_layer()?;
        let expected = Expected { what, diff_id: None, blob: None };
        let on_bytes = |bytes| self.progress.event(Event::Reading { bytes, total: None });
        let input = Input { reader: stream, copy: None, cancel: self.cancel, on_bytes: &on_bytes };
        let written = write(&ingest, input, &expected)?;
        ingest.publish(self.lease, &written.diff_id, &written.facts)?;
        let problem = || "it was removed at once".to_owned();
        let files = self.store.layer(&written.diff_id)?;
        files.ok_or_else(|| ImageError::Damaged { image: what.to_owned(), problem: problem() })
    }

    /// The layer, if it is in the store, whole, and written as this version writes.
    fn usable(&self, layer: &LayerPlan) -> Result<Option<LayerFiles>> {
        match self.store.layer(&layer.diff_id) {
            Ok(files) => Ok(files.filter(|f| f.facts.tree_format == layer::FORMAT_VERSION)),
            Err(StoreError::Damaged { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn convert(&self, layer: &LayerPlan) -> Result<()> {
        let opened = layer.source.open(self.store, self.options.keep_blobs)?;
        let resumed = opened.resumed;
        match self.convert_opened(layer, opened) {
            // What an earlier download had left may have been damaged since: from the beginning, once.
            Err(ImageError::WrongDigest { .. }) if resumed => {
                self.convert_opened(layer, layer.source.open(self.store, self.options.keep_blobs)?)
            }
            result => result,
        }
    }

    fn convert_opened(&self, layer: &LayerPlan, opened: Opened) -> Result<()> {
        let Opened { reader, kept, .. } = opened;
        let (index, total) = (layer.index, layer.source.length());
        let on_bytes = |done| self.progress.event(Event::LayerBytes { index, done, total });
        let ingest = self.store.ingest_layer()?;
        let input = Input { reader, copy: kept.as_ref().map(Kept::file), cancel: self.cancel, on_bytes: &on_bytes };
        let expected = Expected { what: &layer.what, diff_id: Some(layer.diff_id), blob: layer.blob };
        let written = write(&ingest, input, &expected);
        match (kept, &written) {
            // A plain blob can be made again from the layer at any time.
            (Some(kept), Ok(written)) if self.options.keep_blobs && written.blob.digest != written.diff_id => {
                kept.publish(self.store, self.lease, &written.blob.digest)?;
            }
            (Some(kept), Ok(_)) => kept.discard()?,
            // What came of a download that broke off can be taken up again.
            (_, Err(ImageError::Read { .. } | ImageError::Transfer { .. })) | (None, _) => {}
            (Some(kept), Err(_)) => kept.discard()?,
        }
        let written = written?;
        ingest.publish(self.lease, &written.diff_id, &written.facts)?;
        Ok(())
    }
}

/// Converts and verifies. Nothing is published.
fn write(ingest: &LayerIngest, input: Input<'_>, expected: &Expected<'_>) -> Result<Written> {
    let LayerParts { data, packed, tree, skeleton } = ingest.files()?;
    let writer = LayerWriter { data, packed, tree, skeleton };
    let parse = |from: &mut dyn Read| read_layer(from, writer, &Limits::default());
    let output = pipeline::run(input, parse, |parsed| parsed.as_ref().is_err_and(is_ours))
        .map_err(|e| ImageError::read(expected.what, e))?;
    let unpacked_length = output.unpacked_length;
    let (layer, blob, diff_id) = judge(expected, ingest, output)?;
    Ok(Written { diff_id, facts: facts(&layer, unpacked_length), blob })
}

fn facts(layer: &LayerOutput, unpacked_length: u64) -> Facts {
    Facts {
        tree_format: layer::FORMAT_VERSION,
        data_length: layer.data_length,
        data_verity: Digest::from_bytes(layer.data_verity),
        packed_length: layer.packed_length,
        packed_digest: Digest::from_bytes(layer.packed_digest),
        tree_length: layer.tree_length,
        tree_digest: Digest::from_bytes(layer.tree_digest),
        skeleton_length: layer.skeleton_length,
        skeleton_digest: Digest::from_bytes(layer.skeleton_digest),
        unpacked_length,
    }
}

/// Whether the fault is the host's, so that the archive need not be looked at further.
fn is_ours(error: &LayerError) -> bool {
    matches!(error, LayerError::Store { .. } | LayerError::Finish(_))
}

/// Decides what to say when several things are wrong at once: the cause comes before its consequences.
fn judge(
    expected: &Expected<'_>,
    ingest: &LayerIngest,
    output: Output<Result<LayerOutput, LayerError>>,
) -> Result<(LayerOutput, Blob, Digest)> {
    let what = || expected.what.to_owned();
    let Output { parsed, diff_digest, mut blob, .. } = output;
    if let Some(source) = blob.uncopied.take() {
        return Err(StoreError::io("write below", ingest.shown(), source).into());
    }
    let parsed = match parsed {
        Err(LayerError::Store { source, .. } | LayerError::Finish(source)) => {
            return Err(StoreError::io("write", ingest.shown(), source).into());
        }
        other => other,
    };
    if let Some(source) = blob.unreadable.take() {
        return Err(ImageError::read(expected.what, source));
    }
    if expected.blob.is_some_and(|expected| expected != blob.digest) {
        return Err(ImageError::WrongDigest { what: what(), found: blob.digest });
    }
    if let Some(name) = blob.unsupported {
        return Err(ImageError::Compression { what: what(), compression: name.to_owned() });
    }
    match blob.corrupt.take() {
        Some(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(ImageError::Truncated { origin: what(), within: "its compressed stream".into() });
        }
        Some(source) => return Err(ImageError::Inflate { what: what(), source }),
        None => {}
    }
    let layer = parsed.map_err(|source| ImageError::Layer { what: what(), source })?;
    match expected.diff_id {
        Some(expected) if expected != diff_digest => {
            Err(ImageError::WrongDiffId { what: what(), expected, found: diff_digest })
        }
        _ => Ok((layer, blob, diff_digest)),
    }
}
