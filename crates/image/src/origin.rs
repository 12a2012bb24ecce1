//! Where images come from: what is given is recognised by its content.
//!
//! ```text
//! directory ───────────────────────────────────────▶ OCI layout
//! regular file ── plain ───────────────────────────▶ archive, read in place
//!              └─ gzip, zstd ─┐
//! anything else, a stream ────┴─ inflate if need be ─▶ spool, a file without a name ─▶ archive
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use store::{Digest, Store, StoreError};

use crate::archive::{Archive, BLOCK, Section, is_header};
use crate::compression::Compression;
use crate::limits::{CONFIG_BYTES, MANIFEST_BYTES};
use crate::manifest::Descriptor;
use crate::source::{Documents, Source};
use crate::{Event, ImageError, LoadSource, Progress, Result};

/// Opening what a directory may hold must not wait for the other end of a FIFO.
#[allow(clippy::cast_possible_wrap, reason = "flag bits, not a number")]
const NONBLOCK: i32 = OFlags::NONBLOCK.bits() as i32;

#[derive(Debug)]
enum Kind {
    Layout(PathBuf),
    Archive(Archive),
}

/// A directory or an archive with images in it.
#[derive(Debug)]
pub(crate) struct Origin {
    kind: Kind,
    /// Names it in errors.
    label: String,
    /// What a repository could be called that has no other name: the file's name without what stands for its format.
    title: Option<String>,
}

impl Origin {
    pub(crate) fn open(source: LoadSource, store: &Store, progress: &dyn Progress) -> Result<Self> {
        match source {
            LoadSource::Path(path) => Self::open_path(&path, store, progress),
            LoadSource::Stream(stream) => {
                let label = "the standard input".to_owned();
                let kind = Kind::Archive(spool(stream, None, &label, store, progress)?);
                Ok(Self { kind, label, title: None })
            }
        }
    }

    fn open_path(path: &Path, store: &Store, progress: &dyn Progress) -> Result<Self> {
        let label = path.display().to_string();
        let unreadable = |e| ImageError::no_such_file(path, e);
        let found = std::fs::metadata(path).map_err(unreadable)?;
        let title = title(path);
        if found.is_dir() {
            return Ok(Self { kind: Kind::Layout(path.to_owned()), label, title });
        }
        let mut file = File::open(path).map_err(unreadable)?;
        let kind = if !found.is_file() {
            spool(Box::new(file), None, &label, store, progress)?
        } else {
            let mut start = [0; BLOCK];
            let length = fill(&mut file, &mut start).map_err(unreadable)?;
            rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).map_err(|e| unreadable(e.into()))?;
            match Compression::detect(&start[..length]) {
                Compression::Plain => {
                    check_start(&start[..length], &label)?;
                    Archive::index(file, found.len(), &label)?
                }
                _ => spool(Box::new(file), Some(found.len()), &label, store, progress)?,
            }
        };
        Ok(Self { kind: Kind::Archive(kind), label, title })
    }

    pub(crate) fn title(&self) -> Option<&str> {
        self.title.as_deref()
    }

    /// The regular file of that name: one of those that an OCI layout has, or in an archive any.
    pub(crate) fn section(&self, name: &str) -> Result<Option<Section>> {
        match &self.kind {
            Kind::Archive(archive) => Ok(archive.section(name)),
            Kind::Layout(directory) if is_layout_name(name) => open_regular(&directory.join(name)),
            Kind::Layout(_) => Ok(None),
        }
    }

    pub(crate) fn blob(&self, digest: &Digest) -> Result<Option<Section>> {
        self.section(&blob_name(digest))
    }

    /// Reads a document of at most `limit` bytes. `what` names it in errors.
    pub(crate) fn read(&self, name: &str, what: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        self.section(name)?.map(|section| self.read_section(section, what, limit)).transpose()
    }

    pub(crate) fn read_section(&self, mut section: Section, what: &str, limit: u64) -> Result<Vec<u8>> {
        if section.length() > limit {
            return Err(ImageError::TooLarge { what: what.to_owned(), limit, unit: "bytes" });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(section.length()).unwrap_or(0));
        section.read_to_end(&mut bytes).map_err(|e| ImageError::read(&format!("{what} in {}", self.label), e))?;
        Ok(bytes)
    }

    fn sized_blob(&self, descriptor: &Descriptor, what: &str) -> Result<Section> {
        let section = self.blob(&descriptor.digest)?.ok_or_else(|| self.missing(what))?;
        if section.length() != descriptor.size {
            let (expected, found) = (descriptor.size, section.length());
            return Err(ImageError::WrongSize { what: what.to_owned(), expected, found });
        }
        Ok(section)
    }

    /// A document that its descriptor names, of the right size and digest.
    fn document(&self, descriptor: &Descriptor, what: &str, limit: u64) -> Result<Vec<u8>> {
        let bytes = self.read_section(self.sized_blob(descriptor, what)?, what, limit)?;
        let found = Digest::of(&bytes);
        if found != descriptor.digest {
            return Err(ImageError::WrongDigest { what: what.to_owned(), found });
        }
        Ok(bytes)
    }

    /// What to say where no image is found.
    pub(crate) fn no_image(&self) -> ImageError {
        let origin = self.label.clone();
        match &self.kind {
            Kind::Archive(archive) if !archive.is_whole() => {
                ImageError::Truncated { origin, within: "its members, before the index of images".to_owned() }
            }
            _ => ImageError::NoImage { origin },
        }
    }

    pub(crate) fn missing(&self, what: &str) -> ImageError {
        ImageError::Missing { what: what.to_owned(), origin: self.label.clone() }
    }
}

impl Documents for Origin {
    fn label(&self) -> &str {
        &self.label
    }

    fn manifest(&self, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>> {
        self.document(descriptor, what, MANIFEST_BYTES)
    }

    fn config(&self, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>> {
        self.document(descriptor, what, CONFIG_BYTES)
    }

    fn layer(&self, descriptor: &Descriptor, what: &str) -> Result<Source> {
        self.sized_blob(descriptor, what).map(Source::Section)
    }
}

pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Nothing that an image says becomes a path of the host, except a digest.
fn is_layout_name(name: &str) -> bool {
    matches!(name, "index.json" | "oci-layout")
        || name.strip_prefix("blobs/sha256/").is_some_and(|hex| Digest::from_hex(hex).is_ok())
}

fn open_regular(path: &Path) -> Result<Option<Section>> {
    let file = match OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ImageError::no_such_file(path, e)),
    };
    let found = file.metadata().map_err(|e| ImageError::no_such_file(path, e))?;
    if !found.is_file() {
        return Err(ImageError::malformed(&path.display().to_string(), "it is not a regular file"));
    }
    Ok(Some(Section::new(Arc::new(file), 0, found.len())))
}

/// `dir/Busybox_1.tar.gz` gives `busybox_1`.
fn title(path: &Path) -> Option<String> {
    let name = std::path::absolute(path).ok()?.file_name()?.to_str()?.to_ascii_lowercase();
    let mut title = name.as_str();
    for suffix in [".gz", ".zst", ".tgz", ".tar", ".oci"] {
        title = title.strip_suffix(suffix).unwrap_or(title);
    }
    crate::Reference::parse(title).ok()?;
    Some(title.to_owned())
}

/// Copies a stream to a spool, inflating it where it is compressed, and indexes that. `total` is its length, if known.
fn spool(
    stream: Box<dyn Read + Send>,
    total: Option<u64>,
    label: &str,
    store: &Store,
    progress: &dyn Progress,
) -> Result<Archive> {
    let count = Arc::new(AtomicU64::new(0));
    let mut counted = Counted { stream, count: count.clone() };
    let mut start = [0; BLOCK];
    let length = fill(&mut counted, &mut start).map_err(|e| ImageError::read(label, e))?;
    let compression = Compression::detect(&start[..length]);
    let whole = BufReader::with_capacity(256 << 10, io::Cursor::new(start[..length].to_vec()).chain(counted));
    let inflated = compression.inflate(whole).map_err(|e| ImageError::read(label, e))?;
    let mut inflated = inflated.ok_or_else(|| not_an_archive(label, compression))?;

    let failed_to_read = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof => {
            ImageError::Truncated { origin: label.to_owned(), within: "its compressed stream".to_owned() }
        }
        _ => ImageError::read(label, e),
    };
    let mut buffer = vec![0; 1 << 20];
    let mut filled = fill(&mut inflated, &mut buffer).map_err(failed_to_read)?;
    check_start(&buffer[..filled], label)?;
    let mut file = store.spool()?;
    let mut written = 0;
    while filled > 0 {
        let write = file.write_all(&buffer[..filled]);
        write.map_err(|e| StoreError::io("write below", &store.home().join("tmp"), e))?;
        written += filled as u64;
        progress.event(Event::Reading { bytes: count.load(Ordering::Relaxed), total });
        filled = fill(&mut inflated, &mut buffer).map_err(failed_to_read)?;
    }
    Archive::index(file, written, label)
}

struct Counted {
    stream: Box<dyn Read + Send>,
    count: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Reads until `buffer` is full or there is nothing more.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn check_start(start: &[u8], label: &str) -> Result<()> {
    if is_header(start) {
        return Ok(());
    }
    let problem = if start.is_empty() { "it is empty" } else { "it does not begin with a tar header" };
    Err(ImageError::NotAnArchive { origin: label.to_owned(), problem: problem.to_owned() })
}

fn not_an_archive(label: &str, compression: Compression) -> ImageError {
    match compression {
        Compression::Other(name) => ImageError::Compression { what: label.to_owned(), compression: name.to_owned() },
        _ => ImageError::NotAnArchive { origin: label.to_owned(), problem: "it cannot be decompressed".to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_files_of_a_layout_become_paths() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert!(is_layout_name("index.json") && is_layout_name(&format!("blobs/sha256/{hex}")));
        for name in ["../index.json", "manifest.json", "blobs/sha256/..", "blobs/sha256/../../x", "/etc/passwd", ""] {
            assert!(!is_layout_name(name), "{name:?}");
        }
    }

    #[test]
    fn titles() {
        let title = |name: &str| title(Path::new(name));
        assert_eq!(title("/x/Busybox_1.tar.gz").as_deref(), Some("busybox_1"));
        assert_eq!(title("/x/image.oci.tar").as_deref(), Some("image"));
        assert_eq!(title("/x/debian").as_deref(), Some("debian"));
        assert_eq!(title("/x/a b.tar"), None);
        assert_eq!(title("/"), None);
    }
}
