//! Whether a layer, a blob or a metadata image is what it was.
//!
//! A check says what is wrong, or that nothing is; that a file cannot be read is something wrong. Only what keeps the
//! check itself from being made is an error.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use layer::{Changeset, LayerError, Limits, Rebuild, read_changeset, verity};
use store::facts::Facts;
use store::{Digest, Hasher, LayerFiles, Object, Store, StoreError};

/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;

/// What is wrong with something, in words; nothing if nothing is.
pub(crate) type Finding = Option<String>;

/// Reads a blob and compares its digest.
pub(crate) fn blob(store: &Store, digest: &Digest) -> Finding {
    let path = store.path(&Object::blob(*digest));
    is_unlike("its content", file_digest(&path), digest)
}

/// Reads all of a layer: each file against its recorded digest; then the archive that it gives back against the layer's
/// diff id, and what that archive would be converted to against what is there. So nothing is trusted but the diff id.
///
/// `on_bytes` is told now and then how many bytes of the archive have been seen.
pub(crate) fn layer(store: &Store, diff_id: &Digest, on_bytes: &dyn Fn(u64)) -> Finding {
    let layer = match store.layer(diff_id) {
        Ok(Some(layer)) => layer,
        Ok(None) => return Some("it is missing".to_owned()),
        Err(StoreError::Damaged { path, problem, .. }) => return Some(format!("{}: {problem}", name(&path))),
        Err(e) => return Some(e.to_string()),
    };
    if layer.facts.tree_format != layer::FORMAT_VERSION {
        return Some("it was written by another version of Coracle".to_owned());
    }
    files(&layer).or_else(|| archive(store, &layer, on_bytes))
}

fn files(layer: &LayerFiles) -> Finding {
    let Facts { data_verity, packed_digest, tree_digest, skeleton_digest, .. } = layer.facts;
    let verity = File::open(&layer.data).and_then(|file| verity::of_file(&file)).map(Digest::from_bytes);
    is_unlike("data", verity, &data_verity)
        .or_else(|| is_unlike("packed", file_digest(&layer.packed), &packed_digest))
        .or_else(|| is_unlike("tree", file_digest(&layer.tree), &tree_digest))
        .or_else(|| is_unlike("skeleton", file_digest(&layer.skeleton), &skeleton_digest))
}

fn archive(store: &Store, layer: &LayerFiles, on_bytes: &dyn Fn(u64)) -> Finding {
    let mut archive = match open_archive(store, &layer.diff_id) {
        Ok(reader) => Counted { reader, hasher: Hasher::default(), length: 0, told: 0, on_bytes },
        Err(e) => return Some(format!("skeleton: {e}")),
    };
    let tree = read_changeset(&mut archive, &Limits::default());
    let (length, found) = (archive.length, archive.hasher.finish());
    match tree {
        Ok(tree) if found == layer.diff_id => is_other_tree(layer, &tree, length),
        Ok(_) => Some(format!("the archive that is made from it has digest {found}")),
        Err(e) => Some(format!("the archive that is made from it is none: {}", innermost(&e))),
    }
}

fn is_other_tree(layer: &LayerFiles, tree: &Changeset, length: u64) -> Finding {
    let facts = &layer.facts;
    let is_same = Digest::of(tree.encode()) == facts.tree_digest
        && tree.data_bytes() == facts.data_length
        && length == facts.unpacked_length;
    (!is_same).then(|| "facts: they are not those of the archive that is made from it".to_owned())
}

/// The uncompressed archive of a layer, whatever it is worth.
pub(crate) fn open_archive(store: &Store, diff_id: &Digest) -> io::Result<Rebuild<File>> {
    let directory = store.path(&Object::layer(*diff_id));
    let open = |name: &str| File::open(directory.join(name));
    Rebuild::new(open("skeleton")?, open("data")?, open("packed")?)
}

/// Compares two files byte by byte.
pub(crate) fn is_same(one: &mut File, other: &mut File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let count = fill(one, &mut left)?;
        if count != fill(other, &mut right)? || left[..count] != right[..count] {
            return Ok(false);
        }
        if count == 0 {
            return Ok(true);
        }
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn file_digest(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; BUFFER];
    let mut hasher = Hasher::default();
    loop {
        match fill(&mut file, &mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

fn is_unlike(what: &str, found: io::Result<Digest>, expected: &Digest) -> Finding {
    match found {
        Ok(found) if found == *expected => None,
        Ok(found) => Some(format!("{what} has digest {found}")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Some("it is missing".to_owned()),
        Err(e) => Some(format!("{what} cannot be read: {e}")),
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn innermost(error: &LayerError) -> String {
    let first: &(dyn std::error::Error + 'static) = error;
    let last = std::iter::successors(Some(first), |error| error.source()).last();
    last.map(ToString::to_string).unwrap_or_default()
}

struct Counted<'a, R> {
    reader: R,
    hasher: Hasher,
    length: u64,
    told: u64,
    on_bytes: &'a dyn Fn(u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.length += count as u64;
        if self.length - self.told >= 4 << 20 {
            self.told = self.length;
            (self.on_bytes)(self.length);
        }
        Ok(count)
    }
}
