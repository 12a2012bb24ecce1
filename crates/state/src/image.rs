//! Images as plain data.

use serde::{Deserialize, Serialize};

/// What is known of an image. Digests are texts here (`sha256:…`); `image` makes them and turns them live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The image id: the digest of its configuration.
    pub id: String,
    /// Its names, normalised (`docker.io/library/busybox:latest`), sorted. Kept in a table of their own.
    #[serde(skip)]
    pub names: Vec<String>,
    /// The repositories and digests that it was pulled as or pushed to, normalised
    /// (`docker.io/library/busybox@sha256:…`), sorted. Kept in a table of their own. The digest may be that of an index
    /// of several platforms.
    #[serde(skip)]
    pub digests: Vec<String>,
    /// The digest of its manifest; archives of `docker save` before version 25 have none.
    pub manifest_digest: Option<String>,
    /// Its layers, bottom first.
    pub layers: Vec<LayerRecord>,
    /// What it was built for, as `os/architecture[/variant]`.
    pub platform: String,
    /// When it was built, as its configuration says it (RFC 3339).
    pub created: Option<String>,
    /// When it was loaded, in ns since 1970.
    pub loaded_at: i64,
    /// Bytes of all layers' uncompressed archives, as Docker counts.
    pub size: u64,
    /// Its metadata image.
    pub root: RootRecord,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Digest of the uncompressed archive.
    pub diff_id: String,
    /// Digest of the archive as it came; `None` where nothing named it.
    pub blob_digest: Option<String>,
    /// Bytes of the archive as it came, where that is known.
    #[serde(default)]
    pub blob_size: Option<u64>,
    /// What its manifest called the archive as it came.
    #[serde(default)]
    pub media_type: Option<String>,
    /// Bytes of the converted layer's data file.
    pub data_length: u64,
    /// Bytes of the contents that are kept apart from the data file.
    #[serde(default)]
    pub packed_length: u64,
}

/// A metadata image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRecord {
    /// Its name in the store.
    pub digest: String,
    /// Its length in bytes, a multiple of 4096.
    pub length: u64,
}
