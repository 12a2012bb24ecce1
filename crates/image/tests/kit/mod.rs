//! Images made by hand, bit by bit, so that every bit can be wrong; and what to look at afterwards.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};

use image::{Event, ImageError, Images, LoadSource, Loaded, Progress, RootDevice};
use serde_json::{Value, json};
use store::Digest;
use tempfile::TempDir;

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A ustar archive.
#[derive(Clone, Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.member(name, b'0', content, "")
    }

    pub fn directory(self, name: &str) -> Self {
        self.member(name, b'5', b"", "")
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.member(name, b'2', b"", target)
    }

    pub fn member(mut self, name: &str, flag: u8, content: &[u8], link: &str) -> Self {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(if flag == b'5' { b"0000755" } else { b"0000644" });
        block[108..115].copy_from_slice(b"0000000");
        block[116..123].copy_from_slice(b"0000000");
        block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        block[136..147].copy_from_slice(b"14712345670");
        block[156] = flag;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0.extend(block);
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 1).unwrap()
}

/// Bytes that do not compress and are the same every time.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

/// An OCI layout in memory.
#[derive(Clone)]
pub struct Layout {
    pub files: BTreeMap<String, Vec<u8>>,
    pub index: Vec<Value>,
}

impl Default for Layout {
    fn default() -> Self {
        let oci_layout = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
        Self { files: BTreeMap::from([("oci-layout".into(), oci_layout)]), index: Vec::new() }
    }
}

/// A layer as it goes into an image: its archive, its blob, its media type.
#[derive(Clone)]
pub struct Layer {
    pub tar: Vec<u8>,
    pub blob: Vec<u8>,
    pub media_type: String,
}

impl Layer {
    pub fn plain(tar: &Tar) -> Self {
        let tar = tar.clone().end();
        Self { blob: tar.clone(), tar, media_type: OCI_LAYER.into() }
    }

    pub fn gzip(tar: &Tar) -> Self {
        let tar = tar.clone().end();
        Self { blob: gzip(&tar), tar, media_type: format!("{OCI_LAYER}+gzip") }
    }

    pub fn zstd(tar: &Tar) -> Self {
        let tar = tar.clone().end();
        Self { blob: zstd(&tar), tar, media_type: format!("{OCI_LAYER}+zstd") }
    }

    pub fn diff_id(&self) -> Digest {
        Digest::of(&self.tar)
    }
}

pub fn config(architecture: &str, layers: &[Layer]) -> Value {
    let diff_ids: Vec<_> = layers.iter().map(|l| l.diff_id().to_string()).collect();
    json!({
        "architecture": architecture, "os": "linux", "created": "2024-01-02T03:04:05Z",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
}

impl Layout {
    pub fn blob(&mut self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.files.insert(format!("blobs/sha256/{}", digest.hex()), bytes.to_vec());
        digest
    }

    pub fn descriptor(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        json!({"mediaType": media_type, "digest": self.blob(bytes).to_string(), "size": bytes.len()})
    }

    /// Puts in an image and returns its manifest's descriptor, which is not in the index yet.
    pub fn manifest(&mut self, config: &Value, layers: &[Layer]) -> Value {
        let config = self.descriptor(OCI_CONFIG, config.to_string().as_bytes());
        let layers: Vec<_> = layers.iter().map(|l| self.descriptor(&l.media_type, &l.blob)).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
        self.descriptor(OCI_MANIFEST, manifest.to_string().as_bytes())
    }

    pub fn named(mut self, mut descriptor: Value, name: &str) -> Self {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.index.push(descriptor);
        self
    }

    /// One image for this host.
    pub fn image(name: &str, layers: &[Layer]) -> Self {
        let mut layout = Self::default();
        let descriptor = layout.manifest(&config("amd64", layers), layers);
        layout.named(descriptor, name)
    }

    pub fn all_files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = self.files.clone();
        let index = json!({"schemaVersion": 2, "manifests": self.index});
        files.entry("index.json".into()).or_insert_with(|| index.to_string().into_bytes());
        files
    }

    pub fn write(&self, directory: &Path) -> PathBuf {
        for (name, bytes) in self.all_files() {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        directory.to_owned()
    }

    /// As an archive: the index last, so that it comes after what it names.
    pub fn tar(&self) -> Vec<u8> {
        let mut files: Vec<_> = self.all_files().into_iter().collect();
        files.sort_by_key(|(name, _)| name == "index.json");
        let tar = Tar::default().directory("blobs").directory("blobs/sha256");
        files.iter().fold(tar, |tar, (name, bytes)| tar.file(name, bytes)).end()
    }
}

/// A layer with one file.
pub fn small_layer(name: &str, content: &str) -> Layer {
    Layer::gzip(&Tar::default().directory("etc").file(&format!("etc/{name}"), content.as_bytes()))
}

pub struct Home {
    pub directory: TempDir,
    pub images: Images,
}

impl Home {
    /// In memory: hundreds of these wait for no disk.
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        Self::below(if memory.is_dir() { memory } else { Path::new("/tmp") })
    }

    pub fn below(parent: &Path) -> Self {
        let directory = tempfile::tempdir_in(parent).unwrap();
        let images = Images::open(&directory.path().join("data")).unwrap();
        Self { directory, images }
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub fn load_path(&self, path: impl Into<PathBuf>) -> Result<Vec<Loaded>, ImageError> {
        self.images.load(LoadSource::Path(path.into()), &(), None)
    }

    pub fn load_stream(&self, bytes: Vec<u8>) -> Result<Vec<Loaded>, ImageError> {
        self.images.load(LoadSource::Stream(Box::new(Trickle(bytes, 0))), &(), None)
    }

    pub fn load_layout(&self, layout: &Layout) -> Result<Vec<Loaded>, ImageError> {
        let directory = tempfile::tempdir_in(self.directory.path()).unwrap();
        self.load_path(layout.write(directory.path()))
    }

    /// Everything below the home but records and the store's lock, as paths.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for name in ["tmp", "leases", "blobs/sha256", "layers/sha256", "roots/sha256"] {
            let directory = self.images.store().home().join(name);
            found.extend(fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()));
        }
        found
    }

    /// The whole root of an image, read through our EROFS reader: path to type and content.
    pub fn file_content(&self, image: &str, path: &str) -> Option<String> {
        let record = self.images.resolve(image).unwrap();
        let device = self.images.root_device(&record).unwrap();
        let reader = erofs::reader::Image::open(Extents::open(&device)).unwrap();
        let inode = reader.lookup(path.as_bytes()).unwrap()?;
        Some(String::from_utf8(reader.read_file(&inode, 1 << 20).unwrap()).unwrap())
    }
}

/// A stream that comes in small pieces, as pipes do.
struct Trickle(Vec<u8>, usize);

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.0[self.1..];
        let count = rest.len().min(buffer.len()).min(5000);
        buffer[..count].copy_from_slice(&rest[..count]);
        self.1 += count;
        Ok(count)
    }
}

/// A root device as the guest sees it.
pub struct Extents(Vec<(File, u64, u64)>);

impl Extents {
    pub fn open(device: &RootDevice) -> Self {
        Self(device.extents.iter().map(|e| (File::open(&e.path).unwrap(), e.offset, e.length)).collect())
    }
}

impl erofs::ReadAt for Extents {
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        for (file, start, length) in &self.0 {
            if offset < *length {
                let count = usize::try_from(length - offset).unwrap().min(buffer.len());
                let (part, rest) = buffer.split_at_mut(count);
                FileExt::read_exact_at(file, part, start + offset)?;
                (buffer, offset) = (rest, *length);
            }
            offset -= length;
            if buffer.is_empty() {
                return Ok(());
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// What happened, in short.
#[derive(Default)]
struct Seen {
    lines: Vec<String>,
    converted: usize,
    shared: usize,
}

#[derive(Default)]
pub struct Record(Mutex<Seen>);

impl Record {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }

    pub fn lines(&self) -> Vec<String> {
        self.seen().lines.clone()
    }

    /// How many layers were converted, and how many were there.
    pub fn counts(&self) -> (usize, usize) {
        let seen = self.seen();
        (seen.converted, seen.shared)
    }
}

impl Progress for Record {
    fn event(&self, event: Event<'_>) {
        let mut seen = self.seen();
        match event {
            Event::LayerDone { shared: true, .. } => seen.shared += 1,
            Event::LayerDone { shared: false, .. } => seen.converted += 1,
            Event::LayerStarted { .. } | Event::LayerWaiting { .. } => {}
            Event::LayerBytes { done, total, .. } => assert!(done <= total, "{done} of {total}"),
            Event::Image { name, layers, .. } => seen.lines.push(format!("{name} {layers}")),
            Event::Reading { bytes, .. } => seen.lines.push(format!("reading {bytes}")),
            other => seen.lines.push(format!("{other:?}")),
        }
    }
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}; `cargo xtask setup` installs what tests need"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}", output.status);
    text
}

/// An error with everything behind it, as the command line prints it.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
