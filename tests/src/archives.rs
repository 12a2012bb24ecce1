//! Images made byte by byte: tar layers, configurations, manifests, OCI layouts.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The media type of manifests.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of indexes.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of configurations.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type of gzip layers.
pub const GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The length of a tar block.
pub const BLOCK: usize = 512;

/// A ustar header. Names are at most 100 bytes long.
///
/// # Panics
///
/// If the name is longer.
#[must_use]
pub fn header(name: &str, flag: u8, size: u64, link: &str) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..107].copy_from_slice(if flag == b'5' { b"0000755" } else { b"0000644" });
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    block[136..147].copy_from_slice(b"14712345670");
    block[156] = flag;
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    block[257..265].copy_from_slice(b"ustar\x0000");
    finish_header(&mut block);
    block
}

/// Puts the checksum into a header.
pub fn finish_header(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

/// A tar archive in memory.
#[derive(Debug, Clone, Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    /// Adds a regular file.
    #[must_use]
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.member(name, b'0', content, "")
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(self, name: &str) -> Self {
        self.member(name, b'5', b"", "")
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.member(name, b'2', b"", target)
    }

    /// Adds anything.
    #[must_use]
    pub fn member(mut self, name: &str, flag: u8, content: &[u8], link: &str) -> Self {
        self.0.extend(header(name, flag, content.len() as u64, link));
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// The archive with its end.
    #[must_use]
    pub fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 2 * BLOCK]);
        self.0
    }
}

/// Bytes that do not compress and are the same every time.
#[must_use]
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

/// `sha256:` and the digest of bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    shown(&Sha256::digest(bytes))
}

fn shown(digest: &[u8]) -> String {
    digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// Passes bytes on and takes their digest.
#[derive(Debug)]
pub struct Hashed<W> {
    inner: W,
    hasher: Sha256,
    length: u64,
}

impl<W: Write> Hashed<W> {
    /// Begins.
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new(), length: 0 }
    }

    /// What was written to, the digest, and how many bytes there were.
    pub fn finish(self) -> (W, String, u64) {
        (self.inner, shown(&self.hasher.finalize()), self.length)
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A layer's blob: what manifests and configurations say of it.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The digest of the archive.
    pub diff_id: String,
    /// The blob's descriptor.
    pub descriptor: Value,
}

/// An OCI layout in a directory.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    manifests: Vec<Value>,
}

impl Layout {
    /// Makes an empty one.
    ///
    /// # Panics
    ///
    /// If the directory cannot be written.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).expect("a directory for blobs");
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
        Self { path: path.to_owned(), manifests: Vec::new() }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a blob and gives back its descriptor.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        fs::write(self.path.join("blobs").join(digest.replace(':', "/")), bytes).expect("written");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Adds a layer of gzip.
    pub fn layer(&self, tar: &[u8]) -> Layer {
        self.layer_from(|out| out.write_all(tar)).1
    }

    /// Adds a layer of gzip that `write` makes piece by piece; gives back where it is, too.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn layer_from(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> (PathBuf, Layer) {
        let part = self.path.join("blobs/part");
        let file = io::BufWriter::with_capacity(1 << 20, File::create(&part).expect("a file"));
        let mut out = Hashed::new(GzEncoder::new(Hashed::new(file), Compression::fast()));
        write(&mut out).expect("the layer's content");
        let (gzip, diff_id, _) = out.finish();
        let (mut file, blob, length) = gzip.finish().expect("compressed").finish();
        file.flush().expect("written");
        self.adopt(&part, &blob, length, diff_id)
    }

    /// Adds a layer's blob that is a file already, by moving it.
    ///
    /// # Panics
    ///
    /// If it cannot be moved.
    pub fn adopt(&self, file: &Path, digest: &str, length: u64, diff_id: String) -> (PathBuf, Layer) {
        let path = self.path.join("blobs").join(digest.replace(':', "/"));
        fs::rename(file, &path).expect("moved");
        (path, Layer { diff_id, descriptor: json!({"mediaType": GZIP_LAYER, "digest": digest, "size": length}) })
    }

    /// Adds a manifest for this host's platform; gives back its descriptor.
    pub fn manifest(&self, layers: &[Layer], command: &str) -> Value {
        self.manifest_for("amd64", layers, command)
    }

    /// Adds a manifest for a platform `linux/ARCHITECTURE`; gives back its descriptor.
    pub fn manifest_for(&self, architecture: &str, layers: &[Layer], command: &str) -> Value {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "created": "2024-01-02T03:04:05Z",
            "config": {"Cmd": [command], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": layers.iter().map(|_| json!({"created": "2024-01-02T03:04:05Z", "created_by": "test"}))
                .collect::<Vec<_>>(),
        });
        let config = self.blob(CONFIG, config.to_string().as_bytes());
        let layers: Vec<&Value> = layers.iter().map(|layer| &layer.descriptor).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let mut descriptor = self.blob(MANIFEST, manifest.to_string().as_bytes());
        descriptor["platform"] = json!({"architecture": architecture, "os": "linux"});
        descriptor
    }

    /// Adds an index of manifests; gives back its descriptor.
    pub fn index(&self, manifests: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        self.blob(INDEX, index.to_string().as_bytes())
    }

    /// Names an image.
    ///
    /// # Panics
    ///
    /// If the layout's index cannot be written.
    pub fn name(&mut self, mut descriptor: Value, name: &str) {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.manifests.push(descriptor);
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        fs::write(self.path.join("index.json"), index.to_string()).expect("written");
    }
}
