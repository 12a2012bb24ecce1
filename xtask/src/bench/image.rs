//! `bench image`: how fast a layer becomes a root device.
//!
//! The layer is an uncompressed tar of about 500 MiB with a distribution's mix of file sizes. It is loaded into an
//! empty home, next to `tar -x` of the same bytes, and `mkfs.erofs` of the tree that `tar -x` leaves.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::paired::{Candidate, compare};
use crate::{process, project};

/// Sizes in bytes and how many of each: many small files, few large ones, about 500 MiB together.
const FILES: &[(usize, usize)] =
    &[(700, 6000), (3 << 10, 6000), (9 << 10, 4000), (40 << 10, 2000), (300 << 10, 500), (8 << 20, 20), (40 << 20, 1)];

/// Compares `rounds` times.
pub(crate) fn run(rounds: usize) -> Result<()> {
    let bench = project::output("bench");
    let layout = layer_layout(&bench)?;
    let (tar, tree, home) = (bench.join("layer.tar"), bench.join("unpacked"), bench.join("home"));
    let coracle = project::output("dist").join("bin/coracle");
    let empty = |path: PathBuf| {
        move || -> Result<()> {
            if path.exists() {
                fs::remove_dir_all(&path)?;
            }
            fs::create_dir_all(&path)?;
            Ok(())
        }
    };
    let image = bench.join("mkfs.img");
    let mut candidates = [
        Candidate::new("coracle load", || {
            let mut command = Command::new(&coracle);
            command.env("CORACLE_HOME", &home).args(["load", "-i"]).arg(&layout);
            command
        })
        .prepared(empty(home.clone())),
        Candidate::new("tar -x", || {
            let mut command = Command::new("tar");
            command.arg("-xf").arg(&tar).arg("-C").arg(&tree);
            command
        })
        .prepared(empty(tree.clone())),
        Candidate::new("mkfs.erofs of the unpacked tree", || {
            let mut command = Command::new("mkfs.erofs");
            command.arg("--quiet").arg(&image).arg(&tree);
            command
        })
        .prepared(|| {
            if image.exists() {
                fs::remove_file(&image)?;
            }
            Ok(())
        }),
    ];
    compare("Conversion of a 500 MiB uncompressed layer", rounds, &mut candidates)
}

/// An OCI layout around one uncompressed layer, made once.
fn layer_layout(bench: &Path) -> Result<PathBuf> {
    let layout = bench.join("layer.oci");
    if layout.exists() {
        return Ok(layout);
    }
    let (tree, tar) = (bench.join("tree"), bench.join("layer.tar"));
    write_tree(&tree)?;
    process::run(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&tree).arg("."))?;
    fs::remove_dir_all(&tree)?;
    let part = bench.join("layer.part");
    let blobs = part.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let layer = sha256(&tar)?;
    fs::hard_link(&tar, blobs.join(&layer))?;
    let config = json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]}});
    let config = put(&blobs, &config)?;
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &blobs, &config)?,
        "layers": [descriptor("layer.v1.tar", &blobs, &layer)?]});
    let manifest = put(&blobs, &manifest)?;
    let mut named = descriptor("manifest.v1+json", &blobs, &manifest)?;
    named["annotations"] = json!({"org.opencontainers.image.ref.name": "bench:latest"});
    fs::write(part.join("index.json"), json!({"schemaVersion": 2, "manifests": [named]}).to_string())?;
    fs::write(part.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    fs::rename(&part, &layout)?;
    Ok(layout)
}

fn descriptor(kind: &str, blobs: &Path, digest: &str) -> Result<Value> {
    let size = fs::metadata(blobs.join(digest))?.len();
    Ok(
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{digest}"), "size": size}),
    )
}

fn put(blobs: &Path, value: &Value) -> Result<String> {
    let part = blobs.join("part");
    fs::write(&part, value.to_string())?;
    let digest = sha256(&part)?;
    fs::rename(&part, blobs.join(&digest))?;
    Ok(digest)
}

fn sha256(path: &Path) -> Result<String> {
    let line = process::text_of(Command::new("sha256sum").arg(path))?;
    line.split_whitespace().next().map(str::to_owned).context("sha256sum printed nothing")
}

/// Writes the files of [`FILES`] in directories of a hundred, with bytes that neither repeat nor compress well.
fn write_tree(tree: &Path) -> Result<()> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut number = 0;
    for &(size, count) in FILES {
        for _ in 0..count {
            let directory = tree.join(format!("d{}", number / 100));
            if number % 100 == 0 || !directory.exists() {
                fs::create_dir_all(&directory)?;
            }
            let mut file = BufWriter::new(File::create(directory.join(format!("f{number}")))?);
            for _ in 0..size.div_ceil(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                file.write_all(&state.to_le_bytes())?;
            }
            file.flush()?;
            number += 1;
        }
    }
    Ok(())
}
