//! An image of two million files is merged and written by a process that may not have more than 256 MiB, and never has
//! more than 200: in one layer, in several, all in one directory.

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

/// One layer of an image: where its files go to.
struct Layer {
    builder: Builder,
    packed: io::BufWriter<File>,
    packed_bytes: u64,
}

impl Layer {
    fn new(directory: &Path, number: u64) -> Self {
        let packed = File::create_new(directory.join(format!("packed{number}"))).unwrap();
        Self { builder: Builder::new(&limits()), packed: io::BufWriter::new(packed), packed_bytes: 0 }
    }

    /// Adds a file that holds its own path; every second one is packed.
    fn file(&mut self, directory: &str, name: &str, number: u64) {
        let content = format!("// {directory}/{name}\n");
        let mut place = Place::Data { offset: 0 };
        if number.is_multiple_of(2) {
            place = Place::Packed { offset: self.packed_bytes };
            self.packed.write_all(content.as_bytes()).unwrap();
            self.packed_bytes += content.len() as u64;
        }
        let change = inode(Kind::File(Content { place, size: content.len() as u64 }), number);
        self.builder.push(&Entry { directory: directory.as_bytes(), name: name.as_bytes(), change }).unwrap();
    }

    fn finish(mut self, directory: &Path, number: u64) {
        self.packed.flush().unwrap();
        let changeset = self.builder.finish(erofs::BLOCK, self.packed_bytes).unwrap();
        fs::write(directory.join(format!("tree{number}")), changeset.encode()).unwrap();
    }
}

/// Writes every `of`th directory, beginning with `first`, with all its files.
fn write_layer(directory: &Path, first: u64, of: u64) {
    let mut layer = Layer::new(directory, first);
    for number in (first..DIRECTORIES).step_by(usize::try_from(of).unwrap()) {
        let parent = format!("usr/lib/node_modules/package-{:03}", number / 100);
        let name = format!("module-{:02}", number % 100);
        let change = inode(Kind::Directory, number);
        layer.builder.push(&Entry { directory: parent.as_bytes(), name: name.as_bytes(), change }).unwrap();
        for file in 0..FILES {
            layer.file(&format!("{parent}/{name}"), &format!("source-{file:02}.js"), number * FILES + file);
        }
    }
    layer.finish(directory, first);
}

/// Writes all files into one directory, in no order.
fn write_flat_layer(directory: &Path) {
    let mut layer = Layer::new(directory, 0);
    for number in 0..DIRECTORIES * FILES {
        // A permutation: the multiplier is odd, and the number of files no multiple of it.
        let name = number * 7_654_321 % (DIRECTORIES * FILES);
        layer.file("flat", &format!("file-{name:07}"), name);
    }
    layer.finish(directory, 0);
}

/// The most memory that this process ever had.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Merges and writes what is in the directory, so many inodes.
fn merge_and_write(directory: &Path, inodes: u64) {
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
    assert_eq!(written.inodes, inodes);
    assert!(peak() < 200 * MIB, "{} MiB", peak() / MIB);
}

/// Runs this very test in a process of its own, and looks some files up in the image that it writes.
fn in_a_child(name: &str, inodes: u64, paths: &[&str], write: impl Fn(&Path)) {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        merge_and_write(&PathBuf::from(directory), inodes);
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    write(directory.path());
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([name, "--exact", "--nocapture"]).env(DIRECTORY, directory.path());
    let output = child.output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let image = Image::open(File::open(directory.path().join("image")).unwrap()).unwrap();
    for path in paths {
        let file = image.lookup(path.as_bytes()).unwrap().unwrap();
        assert_eq!(file.file_type, FileType::Regular);
        assert_eq!(image.read_file(&file, 1024).unwrap(), format!("// {path}\n").as_bytes());
    }
}

/// Files, their directories, those above, and four at the top.
const INODES: u64 = DIRECTORIES * FILES + DIRECTORIES + DIRECTORIES / 100 + 4;
const PATHS: [&str; 2] = [
    "usr/lib/node_modules/package-000/module-00/source-00.js",
    "usr/lib/node_modules/package-199/module-99/source-98.js",
];

#[test]
fn two_million_files_in_one_layer() {
    in_a_child("two_million_files_in_one_layer", INODES, &PATHS, |directory| write_layer(directory, 0, 1));
}

#[test]
fn two_million_files_in_seven_layers() {
    in_a_child("two_million_files_in_seven_layers", INODES, &PATHS, |directory| {
        (0..7).for_each(|first| write_layer(directory, first, 7));
    });
}

#[test]
fn two_million_files_in_one_directory() {
    let paths = ["flat/file-0000000", "flat/file-1234566", "flat/file-1999998"];
    in_a_child("two_million_files_in_one_directory", DIRECTORIES * FILES + 2, &paths, write_flat_layer);
}
