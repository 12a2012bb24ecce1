//! Archives and the exact tree or the exact error that they give.
//!
//! A tree is written as one line for each name: path, type and what belongs to it, then mode, owner, time and extended
//! attributes where they are not the default. Names of one inode say so.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use layer::{
    Changeset, Content, InodeId, Kind, LayerWriter, Limits, MergedTree, Place, Rebuild, Timestamp, merge,
    read_changeset, read_layer, verity,
};
use sha2::{Digest, Sha256};

use crate::tar::Tar;

/// What the layers make together, or the first error with its causes.
pub(crate) fn tree_of(layers: &[Vec<u8>]) -> Result<String, String> {
    tree_within(layers, &Limits::default())
}

pub(crate) fn tree_within(layers: &[Vec<u8>], limits: &Limits) -> Result<String, String> {
    let layers: Vec<_> = layers.iter().map(|layer| Layer::read(layer, limits)).collect::<Result<_, _>>()?;
    let changesets: Vec<_> = layers.iter().map(|layer| layer.changeset.clone()).collect();
    let tree = merge(&changesets, limits).map_err(|error| chain(&error))?;
    Ok(describe(&tree, &layers))
}

/// A layer that was read.
pub(crate) struct Layer {
    pub(crate) changeset: Changeset,
    data: File,
    packed: File,
}

impl Layer {
    /// Reads an archive and checks what must hold of every layer that can be read: the files have the lengths and
    /// digests that were told, and give the archive back.
    pub(crate) fn read(archive: &[u8], limits: &Limits) -> Result<Self, String> {
        let [data, packed, tree, skeleton] = [(); 4].map(|()| tempfile::tempfile().unwrap());
        let clone = |file: &File| file.try_clone().unwrap();
        let writer =
            LayerWriter { data: clone(&data), packed: clone(&packed), tree: clone(&tree), skeleton: clone(&skeleton) };
        let mut input = archive;
        let output = read_layer(&mut input, writer, limits).map_err(|error| chain(&error))?;
        assert!(input.is_empty(), "an archive is read to its end");

        assert_eq!(data.metadata().unwrap().len(), output.data_length);
        assert_eq!(verity::of_file(&data).unwrap(), output.data_verity);
        let told = |file, length, digest| {
            let bytes = bytes_of(file);
            assert_eq!((bytes.len() as u64, Sha256::digest(&bytes).into()), (length, digest));
            bytes
        };
        let tree = told(&tree, output.tree_length, output.tree_digest);
        told(&packed, output.packed_length, output.packed_digest);
        let skeleton = told(&skeleton, output.skeleton_length, output.skeleton_digest);

        let mut rebuilt = Vec::new();
        let mut rebuild = Rebuild::new(&skeleton[..], clone(&data), clone(&packed)).unwrap();
        rebuild.read_to_end(&mut rebuilt).unwrap();
        assert!(rebuilt == archive, "the archive comes back byte for byte");

        let changeset = Changeset::decode(tree, limits).unwrap();
        assert_eq!(changeset, read_changeset(archive, limits).unwrap(), "the same without files");
        assert_eq!((changeset.len(), changeset.data_bytes()), (output.entries, output.data_length));
        assert_eq!(changeset.packed_bytes(), output.packed_length);
        Ok(Self { changeset, data, packed })
    }

    pub(crate) fn content(&self, content: Content) -> Vec<u8> {
        let (file, offset) = match content.place {
            Place::Data { offset } => (&self.data, offset),
            Place::Packed { offset } => (&self.packed, offset),
        };
        let mut bytes = vec![0; usize::try_from(content.size).unwrap()];
        file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }
}

fn bytes_of(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        write!(text, ": {error}").unwrap();
        source = error.source();
    }
    text
}

pub(crate) fn describe(tree: &MergedTree<'_>, layers: &[Layer]) -> String {
    let mut lines = BTreeMap::new();
    let mut pending = vec![(InodeId::ROOT, Vec::new())];
    while let Some((directory, path)) = pending.pop() {
        for (name, id) in tree.entries(directory) {
            let path = [&path[..], b"/", name].concat();
            let merged = tree.inode(id);
            let inode = &merged.inode;
            let what = match inode.kind {
                Kind::Directory => {
                    pending.push((id, path.clone()));
                    String::from("d")
                }
                Kind::File(content) if content.size > 64 => format!("f {} bytes", content.size),
                Kind::File(content) => {
                    let bytes = layers[merged.layer].content(content);
                    format!("f {:?}", String::from_utf8_lossy(&bytes))
                }
                Kind::Symlink(target) => format!("l {:?}", String::from_utf8_lossy(target)),
                Kind::CharDevice(device) => format!("c {}:{}", device.major, device.minor),
                Kind::BlockDevice(device) => format!("b {}:{}", device.major, device.minor),
                Kind::Fifo => String::from("p"),
            };
            let mut line = what;
            let default_mode = match inode.kind {
                Kind::Directory => 0o755,
                Kind::Symlink(_) => 0o777,
                _ => 0o644,
            };
            if inode.mode != default_mode {
                write!(line, " {:04o}", inode.mode).unwrap();
            }
            if (inode.uid, inode.gid) != (0, 0) {
                write!(line, " {}:{}", inode.uid, inode.gid).unwrap();
            }
            if inode.mtime != Timestamp::default() {
                write!(line, " @{}.{:09}", inode.mtime.seconds, inode.mtime.nanoseconds).unwrap();
            }
            if !inode.xattrs.is_empty() {
                write!(line, " {:?}", inode.xattrs).unwrap();
            }
            lines.insert(path, (id, line));
        }
    }
    let mut text = String::new();
    let mut first_names = BTreeMap::new();
    for (path, (id, line)) in lines {
        let path = String::from_utf8_lossy(&path).escape_debug().to_string();
        let first = first_names.entry(id).or_insert_with(|| path.clone());
        let same = if *first == path { String::new() } else { format!(" = {first}") };
        writeln!(text, "{path} {line}{same}").unwrap();
    }
    text
}

/// Layers as archives, and what they make: lines of a tree, or an error.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) expected: Result<&'static str, &'static str>,
    /// Why umoci does something else.
    pub(crate) unlike_umoci: Option<&'static str>,
}

impl Case {
    /// umoci does something else, and this is why that is no fault of ours.
    pub(crate) fn unlike_umoci(self, why: &'static str) -> Self {
        Self { unlike_umoci: Some(why), ..self }
    }
}

pub(crate) fn case(
    name: &'static str,
    layers: impl IntoIterator<Item = Tar>,
    expected: Result<&'static str, &'static str>,
) -> Case {
    Case { name, layers: layers.into_iter().map(Tar::end).collect(), expected, unlike_umoci: None }
}

pub(crate) fn raw(name: &'static str, layer: Vec<u8>, expected: Result<&'static str, &'static str>) -> Case {
    Case { name, layers: vec![layer], expected, unlike_umoci: None }
}

pub(crate) fn check(cases: &[Case]) {
    let mut wrong = String::new();
    for Case { name, layers, expected, .. } in cases {
        let found = tree_of(layers);
        let same = match (&found, expected) {
            (Ok(found), Ok(expected)) => {
                found.lines().eq(expected.lines().map(str::trim).filter(|line| !line.is_empty()))
            }
            (Err(found), Err(expected)) => found == expected,
            _ => false,
        };
        if !same {
            write!(wrong, "\n{name}\n  expected {expected:?}\n  found    {found:?}\n").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

pub(crate) fn t() -> Tar {
    Tar::new()
}
