//! Committing: an image, a layer above it, and another configuration become a new image.
//!
//! The layer comes as an archive from whoever knows what changed, and goes the way of all layers: converted while it
//! streams by, published under a lease, named by its digest.

use std::io::{self, Read, Write};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde_json::{Map, Value, json};
use state::{ImageRecord, LayerRecord};
use store::{Digest, LayerFiles, Lease, Object};

use crate::changes::Settings;
use crate::convert::Converter;
use crate::import::{created, name_of};
use crate::limits::LAYERS;
use crate::manifest::{image_configuration, json as parse_json};
use crate::new_manifest::TAR_TYPE;
use crate::root::{label, parse};
use crate::{Event, ImageError, Images, Loaded, Progress, Result, clock, familiar};

/// What a committed image is to be, beside its files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CommitRequest {
    /// The name that it gets; completed as Docker does.
    pub name: Option<String>,
    /// How containers of it run: takes the place of the base image's `config` (OCI image-spec, `config.md`).
    pub config: Value,
    /// Instructions of a Dockerfile that change it then, as for an import.
    pub changes: Vec<String>,
    /// Who made it; may be empty.
    pub author: String,
    /// What its history is to say; may be empty.
    pub message: String,
    /// The command that changed the files; may be empty.
    pub created_by: String,
    /// When it was made, in ns since 1970. Otherwise `SOURCE_DATE_EPOCH` says it, or it was now.
    pub created: Option<i64>,
}

/// Writes the archive of a layer.
pub type WriteLayer<'a> = dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'a;

impl Images {
    /// Makes an image of `base` and a layer above it, whose archive `write` writes; without `write` there is no new
    /// layer.
    ///
    /// # Errors
    ///
    /// [`ImageError::Change`] and [`ImageError::Reference`] before anything is written; around what `write` says, and
    /// why it cannot be stored. Nothing is left then.
    pub fn commit(
        &self,
        base: &ImageRecord,
        request: &CommitRequest,
        write: Option<Box<WriteLayer<'_>>>,
        progress: &dyn Progress,
    ) -> Result<Loaded> {
        let name = request.name.as_deref().map(name_of).transpose()?;
        let settings = Settings::of(&request.config).with_changes(&request.changes)?;
        let created = created(request.created)?;
        if base.layers.len() + usize::from(write.is_some()) > LAYERS {
            return Err(ImageError::TooLarge { what: label(base), limit: LAYERS as u64, unit: "layers" });
        }
        self.under_lease(|lease| {
            let mut layers = self.layers_of(base, lease)?;
            let added = write.map(|write| self.commit_layer(lease, write, progress)).transpose()?;
            let config = self.committed(base, request, &settings, created, added.as_ref())?;
            layers.extend(added.clone());
            self.record_commit(lease, base, name, &layers, added.as_ref(), &config, progress)
        })
    }

    /// The base's layers, held from now on.
    fn layers_of(&self, base: &ImageRecord, lease: &Lease) -> Result<Vec<LayerFiles>> {
        let mut layers = Vec::new();
        for record in &base.layers {
            let diff_id = parse(base, &record.diff_id)?;
            lease.add(&[Object::layer(diff_id)])?;
            layers.push(self.whole_layer(base, &diff_id, record.data_length)?);
        }
        Ok(layers)
    }

    fn commit_layer(&self, lease: &Lease, write: Box<WriteLayer<'_>>, progress: &dyn Progress) -> Result<LayerFiles> {
        let cancel = AtomicBool::new(false);
        let converter = Converter { store: &self.store, lease, options: &self.options, cancel: &cancel, progress };
        let (sender, receiver) = sync_channel(PIECES);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut pieces = Pieces { sender, piece: Vec::new() };
                let written = write(&mut pieces).and_then(|()| pieces.pass_on());
                if let Err(error) = written {
                    // Who is not there any more has an error of its own.
                    let _ = pieces.sender.send(Err(error));
                }
            });
            let reader = PieceReader { receiver, piece: Vec::new(), at: 0 };
            converter.stream("the container's changes", Box::new(reader))
        })
    }

    /// The configuration: the base's, with its history gone on.
    fn committed(
        &self,
        base: &ImageRecord,
        request: &CommitRequest,
        settings: &Settings,
        created: i64,
        added: Option<&LayerFiles>,
    ) -> Result<String> {
        let what = format!("the configuration of {}", label(base));
        let mut config: Map<String, Value> = parse_json(&what, &self.config_bytes(base)?)?;
        let created = clock::rfc3339(created);
        let mut step = json!({"created": created});
        for (key, text) in
            [("created_by", &request.created_by), ("author", &request.author), ("comment", &request.message)]
        {
            if !text.is_empty() {
                step[key] = json!(text);
            }
        }
        if added.is_none() {
            step["empty_layer"] = json!(true);
        }
        let mut history = match config.remove("history") {
            Some(Value::Array(history)) => history,
            _ => Vec::new(),
        };
        history.push(step);
        let diff_ids = base.layers.iter().map(|layer| layer.diff_id.clone());
        let diff_ids: Vec<_> = diff_ids.into_iter().chain(added.map(|layer| layer.diff_id.to_string())).collect();
        // What told of how the base was made is not true of this image.
        for key in ["author", "comment", "container", "container_config", "docker_version", "id", "parent"] {
            config.remove(key);
        }
        if !request.author.is_empty() {
            config.insert("author".into(), json!(request.author));
        }
        config.insert("created".into(), json!(created));
        config.insert("config".into(), settings.to_json());
        config.insert("rootfs".into(), json!({"type": "layers", "diff_ids": diff_ids}));
        config.insert("history".into(), Value::Array(history));
        Ok(Value::Object(config).to_string())
    }

    #[allow(clippy::too_many_arguments, reason = "each is another part of the record")]
    fn record_commit(
        &self,
        lease: &Lease,
        base: &ImageRecord,
        name: Option<String>,
        layers: &[LayerFiles],
        added: Option<&LayerFiles>,
        config: &str,
        progress: &dyn Progress,
    ) -> Result<Loaded> {
        let id = Digest::of(config.as_bytes());
        image_configuration(&format!("configuration {id}"), config.as_bytes())?;
        progress.event(Event::Assembling);
        let label = name.as_deref().map_or_else(|| id.to_string(), |name| familiar(name).to_owned());
        let root = self.assemble(&label, layers, lease)?;
        self.store.ingest_blob(lease, &mut config.as_bytes(), Some(&id), None)?;
        let parsed: Value = parse_json("the configuration", config.as_bytes())?;
        let record = ImageRecord {
            id: id.to_string(),
            names: name.into_iter().collect(),
            digests: Vec::new(),
            // Whoever saves or pushes it writes one, by how its layers are there then.
            manifest_digest: None,
            layers: base.layers.iter().cloned().chain(added.map(layer_record)).collect(),
            platform: base.platform.clone(),
            created: parsed["created"].as_str().map(str::to_owned),
            loaded_at: clock::now(),
            size: layers.iter().map(|layer| layer.facts.unpacked_length).sum(),
            root,
        };
        self.state.put_image(&record)?;
        progress.event(Event::Done);
        Ok(Loaded { names: record.names, id: record.id })
    }
}

fn layer_record(layer: &LayerFiles) -> LayerRecord {
    let diff_id = layer.diff_id.to_string();
    LayerRecord {
        blob_digest: Some(diff_id.clone()),
        diff_id,
        blob_size: Some(layer.facts.unpacked_length),
        media_type: Some(TAR_TYPE.to_owned()),
        data_length: layer.facts.data_length,
        packed_length: layer.facts.packed_length,
    }
}

/// Bytes that are passed on at once, and how often before somebody must read.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;

type Piece = io::Result<Vec<u8>>;

/// The writing end: an error goes to the reader, so that no archive that was broken off looks whole.
struct Pieces {
    sender: SyncSender<Piece>,
    piece: Vec<u8>,
}

impl Pieces {
    fn pass_on(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        if piece.is_empty() {
            return Ok(());
        }
        self.sender.send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() >= PIECE {
            self.pass_on()?;
        }
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reading end.
struct PieceReader {
    receiver: Receiver<Piece>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            let Ok(piece) = self.receiver.recv() else { return Ok(0) };
            self.piece = piece?;
            self.at = 0;
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
