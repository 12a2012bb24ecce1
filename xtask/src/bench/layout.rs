//! OCI layouts around tar archives, as a builder would write them.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::process;

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// A layer of a layout.
#[derive(Debug)]
pub(crate) struct Layer<'a> {
    /// Its plain archive.
    pub(crate) tar: &'a Path,
    pub(crate) compression: Compression,
}

impl Compression {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }

    fn write(self, tar: &Path, blob: &Path) -> Result<()> {
        let mut command = match self {
            Self::None => return fs::hard_link(tar, blob).with_context(|| blob.display().to_string()),
            Self::Gzip => Command::new("gzip"),
            Self::Zstd => Command::new("zstd"),
        };
        process::run(command.arg("-c").arg(tar).stdout(File::create(blob)?))
    }
}

/// Writes a layout with one image `name:latest` at `path`, whole or not at all.
pub(crate) fn write(path: &Path, name: &str, layers: &[Layer<'_>]) -> Result<()> {
    let part = path.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    let blobs = part.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let mut diff_ids = Vec::new();
    let mut described = Vec::new();
    for layer in layers {
        diff_ids.push(format!("sha256:{}", sha256(layer.tar)?));
        let blob = blobs.join("part");
        layer.compression.write(layer.tar, &blob)?;
        let digest = take_in(&blobs)?;
        described.push(descriptor(&format!("layer.v1.tar{}", layer.compression.suffix()), &blobs, &digest)?);
    }
    let config = json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = put(&blobs, &config)?;
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &blobs, &config)?, "layers": described});
    let manifest = put(&blobs, &manifest)?;
    let mut named = descriptor("manifest.v1+json", &blobs, &manifest)?;
    named["annotations"] = json!({"org.opencontainers.image.ref.name": format!("{name}:latest")});
    fs::write(part.join("index.json"), json!({"schemaVersion": 2, "manifests": [named]}).to_string())?;
    fs::write(part.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    Ok(fs::rename(&part, path)?)
}

fn descriptor(kind: &str, blobs: &Path, digest: &str) -> Result<Value> {
    let size = fs::metadata(blobs.join(digest))?.len();
    let media_type = format!("application/vnd.oci.image.{kind}");
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size}))
}

fn put(blobs: &Path, value: &Value) -> Result<String> {
    fs::write(blobs.join("part"), value.to_string())?;
    take_in(blobs)
}

/// Gives the file `part` the name of its digest.
fn take_in(blobs: &Path) -> Result<String> {
    let part = blobs.join("part");
    let digest = sha256(&part)?;
    fs::rename(&part, blobs.join(&digest))?;
    Ok(digest)
}

fn sha256(path: &Path) -> Result<String> {
    let line = process::text_of(Command::new("sha256sum").arg(path))?;
    line.split_whitespace().next().map(str::to_owned).context("sha256sum printed nothing")
}
