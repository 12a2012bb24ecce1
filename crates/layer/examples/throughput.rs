//! How fast layers are read and rebuilt: `cargo run --release -p layer --example throughput -- LAYER.tar [DIRECTORY]`.
//!
//! The archive is read into memory first; the layer's files are written to unnamed files in the directory.

use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use layer::verity::{self, Verity};
use layer::{LayerWriter, Limits, Rebuild, read_changeset, read_layer};
use sha2::{Digest, Sha256};

const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let archive = std::fs::read(arguments.next().ok_or("no archive given")?)?;
    let directory = arguments.next().unwrap_or_else(|| OsString::from("."));
    let limits = Limits::default();
    let length = archive.len() as f64;

    report("SHA-256 of the archive", length, || {
        Sha256::digest(&archive);
        Ok(())
    })?;
    report("fs-verity of the archive", length, || {
        let mut verity = Verity::new();
        archive.chunks(1 << 20).for_each(|piece| verity.update(piece));
        verity.finish();
        Ok(())
    })?;
    report("headers alone", length, || {
        read_changeset(&archive[..], &limits)?;
        Ok(())
    })?;
    let mut written = None;
    report("into files", length, || {
        written = None;
        written = Some(write(&archive, directory.as_ref(), &limits)?);
        Ok(())
    })?;
    let Some((writer, output)) = written else { return Ok(()) };
    report("rebuilt", length, || {
        let skeleton = FileReader(&writer.skeleton, 0);
        let mut rebuild = Rebuild::new(skeleton, writer.data.try_clone()?, writer.packed.try_clone()?)?;
        let copied = copy(&mut rebuild)?;
        assert_eq!(copied, archive.len() as u64);
        Ok(())
    })?;
    report("data verified", output.data_length as f64, || {
        verity::of_file(&writer.data)?;
        Ok(())
    })?;
    let layer::LayerOutput { entries, data_length, packed_length, tree_length, skeleton_length, .. } = output;
    println!(
        "{entries} entries; bytes: data {data_length}, packed {packed_length}, tree {tree_length}, skeleton {skeleton_length}"
    );
    Ok(())
}

fn write(
    archive: &[u8],
    directory: &Path,
    limits: &Limits,
) -> Result<(LayerWriter, layer::LayerOutput), Box<dyn Error>> {
    let file = || tempfile::tempfile_in(directory);
    let kept = LayerWriter { data: file()?, packed: file()?, tree: file()?, skeleton: file()? };
    let writer = LayerWriter {
        data: kept.data.try_clone()?,
        packed: kept.packed.try_clone()?,
        tree: kept.tree.try_clone()?,
        skeleton: kept.skeleton.try_clone()?,
    };
    let output = read_layer(archive, writer, limits)?;
    Ok((kept, output))
}

/// The best of some rounds.
fn report(what: &str, length: f64, mut run: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed());
    }
    println!("{what:<26} {:>8.0} MB/s  {best:.1?}", length / best.as_secs_f64() / 1e6);
    Ok(())
}

fn copy(from: &mut impl Read) -> io::Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut length = 0;
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(length),
            read => length += read as u64,
        }
    }
}

/// A file from its start.
struct FileReader<'a>(&'a File, u64);

impl Read for FileReader<'_> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(self.0, target, self.1)?;
        self.1 += read as u64;
        Ok(read)
    }
}
