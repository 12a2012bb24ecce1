//! Converts uncompressed layer archives into a device image: `convert OUTPUT_DIRECTORY LAYER.tar…`, bottom layer first.
//!
//! Leaves `root.erofs` and each layer's `data`, `packed`, `tree` and `skeleton`, with its number, in the directory, and
//! prints what each step took. In a shell, `cat root.erofs data0 data1 …` is a file system that the kernel mounts. What
//! is there of a layer is not converted again.

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use erofs::{PackedFiles, Source};
use layer::{Changeset, LayerWriter, Limits};

/// A layer's file of that name.
fn path(directory: &Path, name: &str, number: usize) -> PathBuf {
    directory.join(format!("{name}{number}"))
}

fn convert(archive: &Path, directory: &Path, number: usize, limits: &Limits) -> Result<(), Box<dyn Error>> {
    let file = |name| File::create(path(directory, name, number));
    let writer =
        LayerWriter { data: file("data")?, packed: file("packed")?, tree: file("tree")?, skeleton: file("skeleton")? };
    layer::read_layer(File::open(archive)?, writer, limits)?;
    Ok(())
}

/// The most memory that this process ever had, in MiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let output = arguments.next().ok_or("usage: convert OUTPUT_DIRECTORY LAYER.tar…")?;
    let archives: Vec<PathBuf> = arguments.collect();
    let limits = Limits::default();
    let mut last = Instant::now();
    let mut step = |what: &str| {
        println!("{what:<10} {:8.1} ms, peak {} MiB", last.elapsed().as_secs_f64() * 1e3, peak());
        last = Instant::now();
    };
    for (number, archive) in archives.iter().enumerate() {
        if !path(&output, "tree", number).exists() {
            convert(archive, &output, number, &limits)?;
        }
    }
    step("convert");
    let decode = |number| Ok(Changeset::decode(fs::read(path(&output, "tree", number))?, &limits)?);
    let changesets = (0..archives.len()).map(decode).collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    step("decode");
    let tree = layer::merge(&changesets, &limits)?;
    step("merge");
    let blocks: Vec<u64> = changesets.iter().map(|changeset| changeset.data_bytes() / erofs::BLOCK).collect();
    let packed = changesets.iter().enumerate();
    let packed =
        packed.map(|(number, changeset)| Ok((File::open(path(&output, "packed", number))?, changeset.packed_bytes())));
    let packed = PackedFiles::new(packed.collect::<Result<_, std::io::Error>>()?);
    let source = Source { tree: &tree, layer_data_blocks: &blocks, packed: &packed, name: b"example" };
    let image = erofs::write_metadata(&source, &mut File::create(output.join("root.erofs"))?)?;
    step("metadata");
    println!("{} inodes, {} blocks of metadata, {} in all", image.inodes, image.blocks, image.device_blocks);
    Ok(())
}
