//! What the tests share: converting archives, mounting the result with the kernel, and describing a directory tree
//! entry by entry. The tests need root, for mounts and device nodes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use erofs::{PackedFiles, Source};
use layer::{Changeset, LayerWriter, Limits};
use sha2::{Digest, Sha256};

/// Runs a program and fails the test unless it succeeds; gives its standard output.
pub(crate) fn run(program: &str, arguments: &[&OsStr]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs `{program}`: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Runs a shell script in a directory.
pub(crate) fn shell(directory: &Path, script: &str) {
    let script = format!("set -eu; cd '{}'; {script}", directory.display());
    run("bash", &["-c".as_ref(), script.as_ref()]);
}

/// A layer's files.
struct Layer {
    changeset: Changeset,
    data: PathBuf,
    packed: File,
}

/// Converts an archive to files in `directory`.
fn convert_layer(archive: &Path, directory: &Path, number: usize) -> Layer {
    let file = |name: &str| {
        let path = directory.join(format!("{name}{number}"));
        (File::options().read(true).write(true).create_new(true).open(&path).expect("a file of the layer"), path)
    };
    let ((data, data_path), (packed, _), (tree, tree_path)) = (file("data"), file("packed"), file("tree"));
    let contents = packed.try_clone().expect("the same file");
    let writer = LayerWriter { data, packed, tree, skeleton: file("skeleton").0 };
    let limits = Limits::default();
    let written = layer::read_layer(File::open(archive).expect("archive"), writer, &limits)
        .unwrap_or_else(|error| panic!("{}: {error}", archive.display()));
    let changeset = Changeset::decode(fs::read(tree_path).expect("tree"), &limits).expect("decodes");
    assert_eq!((changeset.data_bytes(), changeset.packed_bytes()), (written.data_length, written.packed_length));
    Layer { changeset, data: data_path, packed: contents }
}

/// Converts layer archives and writes metadata and data to one file, as the guest sees them.
pub(crate) fn convert(archives: &[PathBuf], image: &Path) {
    let directory = image.parent().expect("the image is in a directory");
    let layers = archives.iter().enumerate().map(|(number, archive)| convert_layer(archive, directory, number));
    let layers: Vec<Layer> = layers.collect();
    let changesets: Vec<Changeset> = layers.iter().map(|layer| layer.changeset.clone()).collect();
    let merged = layer::merge(&changesets, &Limits::default()).expect("layers merge");
    let blocks: Vec<u64> = changesets.iter().map(|changeset| changeset.data_bytes() / erofs::BLOCK).collect();
    let packed = layers.iter().map(|layer| (&layer.packed, layer.changeset.packed_bytes())).collect();
    let packed = PackedFiles::new(packed);
    let source = Source { tree: &merged, layer_data_blocks: &blocks, packed: &packed, name: b"a test" };
    let mut out = File::create_new(image).expect("image");
    let written = erofs::write_metadata(&source, &mut out).expect("metadata is written");
    assert_eq!(out.metadata().expect("metadata").len(), written.blocks * erofs::BLOCK);
    let mut end = written.blocks * erofs::BLOCK;
    for (layer, blocks) in layers.iter().zip(&blocks) {
        // Keeps holes, and thereby makes images of sparse files cheap.
        let arguments = [OsStr::new("if="), layer.data.as_os_str(), OsStr::new("of="), image.as_os_str()];
        let joined = |at: usize| [arguments[at], arguments[at + 1]].join(OsStr::new(""));
        let seek = format!("seek={}", end / erofs::BLOCK);
        run("dd", &[&joined(0), &joined(2), seek.as_ref(), "bs=4096".as_ref(), "conv=sparse,notrunc".as_ref()]);
        end += blocks * erofs::BLOCK;
    }
    out.set_len(end).expect("length");
    assert_eq!(end, written.device_blocks * erofs::BLOCK);
}

/// A mounted file system; unmounted when dropped.
pub(crate) struct Mounted {
    pub(crate) root: PathBuf,
}

impl Mounted {
    pub(crate) fn new(image: &Path, root: PathBuf) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test mounts file systems: run it as root");
        fs::create_dir(&root).expect("mount point");
        let options: [&OsStr; 4] = ["-t".as_ref(), "erofs".as_ref(), "-o".as_ref(), "ro,loop".as_ref()];
        run("mount", &[&options[..], &[image.as_os_str(), root.as_os_str()]].concat());
        Self { root }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(&self.root).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot unmount {}", self.root.display());
    }
}

/// Checks an image with `fsck.erofs`, contents included.
pub(crate) fn fsck(image: &Path) {
    run("fsck.erofs", &["--extract".as_ref(), image.as_os_str()]);
}

/// Every entry of a tree, by path relative to its root, in words. Names of one inode show its first name.
pub(crate) fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut tree = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    let mut pending = vec![root.to_path_buf()];
    let mut paths = Vec::new();
    while let Some(path) = pending.pop() {
        if fs::symlink_metadata(&path).expect("metadata").is_dir() {
            pending.extend(fs::read_dir(&path).expect("directory").map(|entry| entry.expect("entry").path()));
        }
        paths.push(path);
    }
    paths.sort();
    for path in paths {
        let metadata = fs::symlink_metadata(&path).expect("metadata");
        let name = path.strip_prefix(root).expect("below the root").to_path_buf();
        let file_type = metadata.file_type();
        let what = if file_type.is_file() {
            format!("file {} {:x?}", metadata.len(), Sha256::digest(fs::read(&path).expect("content")))
        } else if file_type.is_symlink() {
            format!("link {:?}", fs::read_link(&path).expect("link"))
        } else if file_type.is_block_device() || file_type.is_char_device() {
            format!("device {:?} {:#x}", file_type, metadata.rdev())
        } else {
            format!("{:o}", metadata.mode() & 0o170_000)
        };
        let identity = match metadata.is_dir() || metadata.nlink() == 1 {
            true => String::new(),
            false => format!(" = {:?}", first_names.entry((metadata.dev(), metadata.ino())).or_insert(name.clone())),
        };
        let (uid, gid, links) = (metadata.uid(), metadata.gid(), metadata.nlink());
        let (mode, mtime, nanoseconds) = (metadata.mode() & 0o7777, metadata.mtime(), metadata.mtime_nsec());
        let xattrs = xattrs(&path);
        let line = format!("{what} {mode:o} {uid}:{gid} {mtime}.{nanoseconds:09} x{links} {xattrs:?}{identity}");
        tree.insert(name, line);
    }
    tree
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names).expect("list of attributes");
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let value_of = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).expect("attribute");
        value.truncate(length);
        value
    };
    names.map(|name| (String::from_utf8_lossy(name).into_owned(), value_of(name))).collect()
}

/// Fails with the differing entries, if there are any.
pub(crate) fn assert_same(ours: &BTreeMap<PathBuf, String>, theirs: &BTreeMap<PathBuf, String>) {
    let differences: Vec<String> = ours
        .keys()
        .chain(theirs.keys().filter(|path| !ours.contains_key(*path)))
        .filter(|path| ours.get(*path) != theirs.get(*path))
        .map(|path| format!("{}\n  ours:   {:?}\n  theirs: {:?}", path.display(), ours.get(path), theirs.get(path)))
        .collect();
    let shown = differences.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(differences.is_empty(), "{} of {} entries differ:\n{shown}", differences.len(), theirs.len());
    assert!(ours.len() > 1, "nothing was compared");
}
