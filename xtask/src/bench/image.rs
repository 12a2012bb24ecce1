//! `bench image`: how fast a layer becomes a root device.
//!
//! The layer is an uncompressed tar of about 500 MiB with a distribution's mix of file sizes. It is loaded into an
//! empty home, next to `tar -x` of the same bytes, and `mkfs.erofs` of the tree that `tar -x` leaves.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::layout::{self, Compression};
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
        // Durable, as what is loaded is.
        Candidate::new("tar -x, sync -f", || {
            let mut command = Command::new("sh");
            command.args(["-ec", "tar -xf \"$1\" -C \"$2\"; sync -f \"$2\"", "sh"]).arg(&tar).arg(&tree);
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
    layout::write(&layout, "bench", &[layout::Layer { tar: &tar, compression: Compression::None }])?;
    Ok(layout)
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
