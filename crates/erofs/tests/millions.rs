//! An image of two million files is merged and written by a process that may not have more than 256 MiB, and never has
//! more than 200.

#![allow(missing_docs)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use erofs::erofs_format::FileType;
use erofs::reader::Image;
use erofs::{PackedFiles, Source, write_metadata};
use layer::{Builder, Change, Changeset, Content, Entry, Inode, Kind, Limits, Place, Timestamp, Xattrs, merge};
use rustix::process::{Resource, Rlimit, setrlimit};

const DIRECTORIES: u64 = 20_000;
const FILES: u64 = 100;
const MIB: u64 = 1 << 20;

/// Where the child finds the layers.
const DIRECTORY: &str = "CORACLE_TEST_MILLIONS";

fn limits() -> Limits {
    Limits::default()
}

fn inode(kind: Kind<'_>, number: u64) -> Change<'_> {
    let mtime = Timestamp { seconds: 1_700_000_000 + i64::try_from(number % 5000).unwrap(), nanoseconds: 0 };
    Change::Inode(Inode { mode: 0o644, uid: 0, gid: 0, mtime, xattrs: Xattrs::EMPTY, kind })
}

/// Writes every `of`th directory, beginning with `first`, with all its files: changeset and packed contents.
fn write_layer(directory: &Path, first: u64, of: u64) {
    let mut builder = Builder::new(&limits());
    let mut packed = io::BufWriter::new(File::create_new(directory.join(format!("packed{first}"))).unwrap());
    let mut offset = 0;
    for number in (first..DIRECTORIES).step_by(usize::try_from(of).unwrap()) {
        let parent = format!("usr/lib/node_modules/package-{:03}", number / 100);
        let name = format!("module-{:02}", number % 100);
        let entry = |name, change| Entry { directory: parent.as_bytes(), name, change };
        builder.push(&entry(name.as_bytes(), inode(Kind::Directory, number))).unwrap();
        let parent = format!("{parent}/{name}");
        for file in 0..FILES {
            let name = format!("source-{file:02}.js");
            let content = format!("// {parent}/{name}\n");
            let size = content.len() as u64;
            let place = if file % 2 == 0 { Place::Packed { offset } } else { Place::Data { offset: 0 } };
            if file % 2 == 0 {
                packed.write_all(content.as_bytes()).unwrap();
                offset += size;
            }
            let change = inode(Kind::File(Content { place, size }), number + file);
            builder.push(&Entry { directory: parent.as_bytes(), name: name.as_bytes(), change }).unwrap();
        }
    }
    packed.flush().unwrap();
    let changeset = builder.finish(erofs::BLOCK, offset).unwrap();
    fs::write(directory.join(format!("tree{first}")), changeset.encode()).unwrap();
}

/// The most memory that this process ever had.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Merges and writes what is in the directory.
fn merge_and_write(directory: &Path) {
    let limit = Rlimit { current: Some(256 * MIB), maximum: Some(256 * MIB) };
    setrlimit(Resource::Data, limit).unwrap();
    let start = Instant::now();
    let (mut changesets, mut packed) = (Vec::new(), Vec::new());
    while let Ok(bytes) = fs::read(directory.join(format!("tree{}", changesets.len()))) {
        let file = File::open(directory.join(format!("packed{}", changesets.len()))).unwrap();
        changesets.push(Changeset::decode(bytes, &limits()).unwrap());
        packed.push((file, changesets.last().unwrap().packed_bytes()));
    }
    let bytes: usize = changesets.iter().map(|changeset| changeset.encode().len()).sum();
    println!(
        "{} layers, {} MiB: {:?}, peak {} MiB",
        changesets.len(),
        bytes as u64 / MIB,
        start.elapsed(),
        peak() / MIB
    );
    let tree = merge(&changesets, &limits()).unwrap();
    println!("merged: {:?}, peak {} MiB", start.elapsed(), peak() / MIB);
    let blocks = vec![1; changesets.len()];
    let packed = PackedFiles::new(packed);
    let source = Source { tree: &tree, layer_data_blocks: &blocks, packed: &packed, name: b"millions" };
    let written = write_metadata(&source, &mut File::create(directory.join("image")).unwrap()).unwrap();
    println!("{} blocks: {:?}, peak {} MiB", written.blocks, start.elapsed(), peak() / MIB);
    assert_eq!(written.inodes, DIRECTORIES * FILES + DIRECTORIES + DIRECTORIES / 100 + 4);
    assert!(peak() < 200 * MIB, "{} MiB", peak() / MIB);
}

/// Runs this very test in a process of its own.
fn in_a_child(name: &str, layers: u64) {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        merge_and_write(&PathBuf::from(directory));
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for first in 0..layers {
        write_layer(directory.path(), first, layers);
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([name, "--exact", "--nocapture"]).env(DIRECTORY, directory.path());
    let output = child.output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let image = Image::open(File::open(directory.path().join("image")).unwrap()).unwrap();
    for path in ["module-00/source-00.js", "module-99/source-98.js"] {
        let path = format!("usr/lib/node_modules/package-199/{path}");
        let file = image.lookup(path.as_bytes()).unwrap().unwrap();
        assert_eq!(file.file_type, FileType::Regular);
        assert_eq!(image.read_file(&file, 1024).unwrap(), format!("// {path}\n").as_bytes());
    }
}

#[test]
fn two_million_files_in_one_layer() {
    in_a_child("two_million_files_in_one_layer", 1);
}

#[test]
fn two_million_files_in_seven_layers() {
    in_a_child("two_million_files_in_seven_layers", 7);
}
