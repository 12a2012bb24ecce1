//! Converts one uncompressed layer archive into a device image: `convert LAYER.tar OUTPUT_DIRECTORY`.
//!
//! Leaves `data`, `tree` and `root.erofs` in the directory and prints what each step took. Shell: `cat root.erofs data`
//! is a file system that the kernel mounts.

use std::error::Error;
use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

use layer::{FileSink, Limits};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(archive), Some(output)) = (arguments.next(), arguments.next()) else {
        return Err("usage: convert LAYER.tar OUTPUT_DIRECTORY".into());
    };
    let limits = Limits::default();
    let start = Instant::now();
    let mut last = start;
    let mut step = |what: &str| {
        println!("{what:<10} {:8.1} ms", last.elapsed().as_secs_f64() * 1e3);
        last = Instant::now();
    };
    let mut sink = FileSink::new(File::create(output.join("data"))?);
    let changeset = layer::read_layer(File::open(archive)?, &mut sink, &limits)?;
    std::fs::write(output.join("tree"), changeset.encode())?;
    step("read");
    let changesets = [changeset];
    let merged = layer::merge(&changesets, &limits)?;
    step("merge");
    let blocks = changesets[0].data_bytes() / erofs::BLOCK;
    let image = erofs::write_metadata(&merged, &[blocks], &mut File::create(output.join("root.erofs"))?)?;
    step("metadata");
    println!("{} inodes, {} blocks of metadata, {blocks} blocks of data", image.inodes, image.blocks);
    println!("{:<10} {:8.1} ms", "total", start.elapsed().as_secs_f64() * 1e3);
    Ok(())
}
