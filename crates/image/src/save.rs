//! Saving: images as one archive, that `load` and every other engine reads.
//!
//! ```text
//! blobs/sha256/<hex>     configurations, manifests, layers; each once however many images share it
//! index.json             OCI image-spec, `image-layout.md`: a descriptor for each image and name
//! manifest.json          the same as `docker load` has always read it
//! oci-layout
//! ```
//!
//! The archive is written as a stream, member after member in the order of their names, without dates and owners: the
//! same images give the same bytes. A layer goes in as it came where that was kept; otherwise its uncompressed archive
//! is made again from the layer, byte for byte, and the image gets a manifest that says so. Its configuration, and
//! with it its id, is always the same. What is written is hashed on its way: an archive that is not right ends with an
//! error, never silently.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;
use state::{ImageRecord, LayerRecord};
use store::{Digest, Hasher, LayerFiles, Object, StoreError};
use tar::{EntryType, Header};

use crate::limits::MANIFEST_BYTES;
use crate::manifest::media_type;
use crate::new_manifest::{Described, TAR_TYPE, new_manifest};
use crate::origin::blob_name;
use crate::rebuild::rebuilt;
use crate::root::{label, parse};
use crate::{ImageError, Images, Platform, Reference, Result, familiar};

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// Bytes that are handed to the writer at once.
const BUFFER: usize = 1 << 20;

impl Images {
    /// Writes images as one archive to `out`. An image that is called by a name gets that name in the archive; one that
    /// is called by its id gets none.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoSuchImage`], before anything is written. [`ImageError::Archive`] where `out` takes no more;
    /// [`StoreError::Damaged`] where something is not what it was. What was written by then is no archive.
    pub fn save(&self, names: &[String], out: &mut dyn Write) -> Result<()> {
        let mut chosen: Vec<Chosen> = Vec::new();
        for name in names {
            let image = self.resolve(name)?;
            let tag = tag_of(name, &image);
            match chosen.iter_mut().find(|c| c.image.id == image.id) {
                Some(same) => same.names.extend(tag),
                None => chosen.push(Chosen { image, names: tag.into_iter().collect() }),
            }
        }
        let objects: Vec<Vec<Object>> = chosen.iter().map(|c| self.objects_of(&c.image)).collect::<Result<_>>()?;
        let _lease = self.store.lease(&objects.concat())?;
        // What was removed before it was leased is no damage.
        for Chosen { image, .. } in &chosen {
            self.state.image(&image.id)?.ok_or_else(|| ImageError::NoSuchImage { name: label(image) })?;
        }
        let mut content = Content { images: self, blobs: BTreeMap::new(), index: Vec::new(), docker: Vec::new() };
        let ids: Vec<String> = chosen.iter().map(|chosen| chosen.image.id.clone()).collect();
        for mut image in chosen {
            image.names.sort();
            image.names.dedup();
            content.add(&image)?;
        }
        content.write(out)?;
        ids.iter().for_each(|id| self.tell("save", id, id));
        Ok(())
    }
}

/// An image that was asked for, and by which complete names.
struct Chosen {
    image: ImageRecord,
    names: Vec<String>,
}

/// The name by which a user called an image, in full; none where it was an id or a digest.
fn tag_of(name: &str, image: &ImageRecord) -> Option<String> {
    let complete = Reference::parse(name).ok()?.to_string();
    image.names.contains(&complete).then_some(complete)
}

/// What goes into the archive. All sizes are known.
struct Content<'a> {
    images: &'a Images,
    blobs: BTreeMap<Digest, Blob>,
    index: Vec<serde_json::Value>,
    docker: Vec<DockerEntry>,
}

/// Where the bytes of a blob come from.
enum Blob {
    Bytes(Vec<u8>),
    Kept { path: PathBuf, size: u64 },
    Rebuilt(Box<LayerFiles>),
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Content<'_> {
    fn add(&mut self, chosen: &Chosen) -> Result<()> {
        let image = &chosen.image;
        let layers = image.layers.iter().map(|layer| self.layer(image, layer)).collect::<Result<Vec<_>>>()?;
        let id = parse(image, &image.id)?;
        let config = self.images.config_bytes(image)?;
        let manifest = match self.came_with(image, &layers)? {
            Some(manifest) => manifest,
            None => new_manifest(&id, config.len() as u64, layers.iter().cloned()),
        };
        let digest = Digest::of(&manifest);
        let entry = json!({
            "mediaType": media_type(&label(image), &manifest)?, "digest": digest.to_string(), "size": manifest.len(),
        });
        self.index.extend(index_entries(entry, image, &chosen.names));
        let short = chosen.names.iter().map(|name| familiar(name).to_owned()).collect::<Vec<_>>();
        let layer_name = |layer: &Described| Ok(blob_name(&parse(image, &layer.digest)?));
        self.docker.push(DockerEntry {
            config: blob_name(&id),
            repo_tags: (!short.is_empty()).then_some(short),
            layers: layers.iter().map(layer_name).collect::<Result<_>>()?,
        });
        self.blobs.insert(id, Blob::Bytes(config));
        self.blobs.insert(digest, Blob::Bytes(manifest));
        Ok(())
    }

    /// Adds a layer, as it came where that was kept.
    fn layer(&mut self, image: &ImageRecord, layer: &LayerRecord) -> Result<Described> {
        if let Some((described, digest, kept)) = self.kept(image, layer)? {
            self.blobs.insert(digest, kept);
            return Ok(described);
        }
        let diff_id = parse(image, &layer.diff_id)?;
        let files = self.images.store.layer(&diff_id)?;
        let problem = || format!("layer {diff_id} is missing");
        let files = files.ok_or_else(|| ImageError::Damaged { image: label(image), problem: problem() })?;
        // A layer that came uncompressed keeps the type that its manifest gave it.
        let came_plain = layer.blob_digest.as_ref() == Some(&layer.diff_id);
        let media_type = layer.media_type.clone().filter(|_| came_plain).unwrap_or_else(|| TAR_TYPE.to_owned());
        let size = files.facts.unpacked_length;
        self.blobs.insert(diff_id, Blob::Rebuilt(Box::new(files)));
        Ok(Described { media_type, digest: diff_id.to_string(), size })
    }

    fn kept(&self, image: &ImageRecord, layer: &LayerRecord) -> Result<Option<(Described, Digest, Blob)>> {
        let (Some(blob), Some(size), Some(media_type)) = (&layer.blob_digest, layer.blob_size, &layer.media_type)
        else {
            return Ok(None);
        };
        let digest = parse(image, blob)?;
        let path = self.images.store.path(&Object::blob(digest));
        if !std::fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() == size) {
            return Ok(None);
        }
        let described = Described { media_type: media_type.clone(), digest: blob.clone(), size };
        Ok(Some((described, digest, Blob::Kept { path, size })))
    }

    /// The manifest that the image came with, if it is there and all layers go in as it says.
    fn came_with(&self, image: &ImageRecord, layers: &[Described]) -> Result<Option<Vec<u8>>> {
        let Some(digest) = &image.manifest_digest else { return Ok(None) };
        if layers.iter().zip(&image.layers).any(|(saved, came)| Some(&saved.digest) != came.blob_digest.as_ref()) {
            return Ok(None);
        }
        Ok(self.images.store.read_blob(&parse(image, digest)?, MANIFEST_BYTES)?)
    }

    fn write(self, out: &mut dyn Write) -> Result<()> {
        let mut archive = tar::Builder::new(BufWriter::with_capacity(BUFFER, out));
        for directory in ["blobs/", "blobs/sha256/"] {
            append(&mut archive, directory, EntryType::Directory, 0, io::empty())?;
        }
        for (digest, blob) in self.blobs {
            blob.write(&digest, &mut archive)?;
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": self.index});
        let documents = [
            ("index.json", index.to_string()),
            ("manifest.json", json!(self.docker).to_string()),
            ("oci-layout", json!({"imageLayoutVersion": "1.0.0"}).to_string()),
        ];
        for (name, text) in documents {
            append(&mut archive, name, EntryType::Regular, text.len() as u64, text.as_bytes())?;
        }
        let mut out = archive.into_inner().map_err(failure)?;
        out.flush().map_err(failure)
    }
}

/// A descriptor for each name, or one without a name.
fn index_entries(entry: serde_json::Value, image: &ImageRecord, names: &[String]) -> Vec<serde_json::Value> {
    let mut entry = entry;
    if let Ok(Platform { os, architecture, variant }) = image.platform.parse() {
        entry["platform"] = json!({"architecture": architecture, "os": os});
        if let Some(variant) = variant {
            entry["platform"]["variant"] = json!(variant);
        }
    }
    let named = |name: &String| {
        let mut entry = entry.clone();
        let tag = Reference::parse(name).ok().and_then(|r| r.tag().map(str::to_owned));
        entry["annotations"] = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag});
        entry
    };
    if names.is_empty() { vec![entry] } else { names.iter().map(named).collect() }
}

impl Blob {
    fn write<W: Write>(self, digest: &Digest, archive: &mut tar::Builder<W>) -> Result<()> {
        let name = blob_name(digest);
        match self {
            Self::Bytes(bytes) => append(archive, &name, EntryType::Regular, bytes.len() as u64, &bytes[..]),
            Self::Kept { path, size } => {
                let file = File::open(&path).map_err(|e| StoreError::io("open", &path, e))?;
                let object = Object::blob(*digest);
                append(archive, &name, EntryType::Regular, size, Verified::new(file, object, path, size))
            }
            Self::Rebuilt(layer) => {
                let size = layer.facts.unpacked_length;
                let verified = Verified::new(rebuilt(&layer)?, Object::layer(*digest), layer.skeleton.clone(), size);
                append(archive, &name, EntryType::Regular, size, verified)
            }
        }
    }
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    name: &str,
    kind: EntryType,
    size: u64,
    content: impl Read,
) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    archive.append_data(&mut header, name, content).map_err(failure)
}

/// What reading said comes as an error of the store; all else is the writer's.
fn failure(error: io::Error) -> ImageError {
    match error.downcast::<StoreError>() {
        Ok(error) => error.into(),
        Err(source) => ImageError::Archive { source },
    }
}

/// Content of which it is known how long it is and which digest it has. Gives exactly so many bytes, or an error around
/// a [`StoreError`].
struct Verified<R> {
    reader: R,
    object: Object,
    path: PathBuf,
    left: u64,
    hasher: Option<Hasher>,
}

impl<R: Read> Verified<R> {
    fn new(reader: R, object: Object, path: PathBuf, size: u64) -> Self {
        Self { reader, object, path, left: size, hasher: Some(Hasher::default()) }
    }

    fn damaged(&self, problem: impl Into<String>) -> io::Error {
        io::Error::other(StoreError::Damaged { object: self.object, path: self.path.clone(), problem: problem.into() })
    }

    /// Reads, and lets nothing through that is not an error of the store.
    fn next(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.reader.read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<StoreError>) => {
                    return Err(e);
                }
                Err(e) => return Err(io::Error::other(StoreError::io("read", &self.path, e))),
                Ok(count) => return Ok(count),
            }
        }
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted > 0 {
            let count = self.next(&mut buffer[..wanted])?;
            if count == 0 {
                return Err(self.damaged(format!("{} bytes of it are missing", self.left)));
            }
            self.left -= count as u64;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..count]);
            }
            return Ok(count);
        }
        if let Some(hasher) = self.hasher.take() {
            if self.next(&mut [0])? > 0 {
                return Err(self.damaged("it is longer than it was"));
            }
            if hasher.finish() != self.object.digest {
                return Err(self.damaged("its content has another digest"));
            }
        }
        Ok(0)
    }
}
