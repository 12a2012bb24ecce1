//! The files that a layer becomes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use crate::changeset::Changeset;
use crate::changeset_format::Totals;
use crate::data::{DataWriter, NoContents};
use crate::error::LayerError;
use crate::limits::Limits;
use crate::read::{Parts, read_into};

/// The four files of a layer, fresh and empty. Their positions do not matter.
#[derive(Debug)]
pub struct LayerWriter {
    /// Contents of large files, each at a multiple of 4096; becomes part of the root device of every image that has
    /// the layer.
    pub data: File,
    /// Contents of small files ([`PACKED_MAX`](crate::PACKED_MAX)), back to back.
    pub packed: File,
    /// The changeset ([`changeset_format`](crate::changeset_format)).
    pub tree: File,
    /// All bytes of the archive that are no contents, and where the contents were ([`skeleton`](crate::skeleton)).
    pub skeleton: File,
}

/// What was written: lengths in bytes, and digests, each SHA-256 of the file's bytes except where said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerOutput {
    /// Length of the data, a multiple of 4096.
    pub data_length: u64,
    /// The data's fs-verity digest ([`verity`](crate::verity)).
    pub data_verity: [u8; 32],
    /// Length of the packed contents.
    pub packed_length: u64,
    /// Their digest.
    pub packed_digest: [u8; 32],
    /// Length of the encoded changeset.
    pub tree_length: u64,
    /// Its digest.
    pub tree_digest: [u8; 32],
    /// Length of the skeleton.
    pub skeleton_length: u64,
    /// Its digest.
    pub skeleton_digest: [u8; 32],
    /// Entries of the changeset.
    pub entries: u64,
}

/// zstd's fastest regular level: the skeleton is mostly headers of 512 bytes that resemble one another.
const SKELETON_LEVEL: i32 = 1;

/// Reads one uncompressed layer archive to the end of `from`, whatever follows the end of the archive included, so
/// that a digest over `from` covers the whole blob, and writes the layer's files. Nothing else is touched.
///
/// Memory: buffers of about 2 MiB and the zstd encoder's, whatever the archive holds. Nothing is synced.
pub fn read_layer(from: impl Read, to: LayerWriter, limits: &Limits) -> Result<LayerOutput, LayerError> {
    let skeleton = zstd::Encoder::new(HashedFile::new(to.skeleton), SKELETON_LEVEL);
    let parts = Parts {
        data: DataWriter::new(to.data),
        packed: HashedFile::new(to.packed),
        tree: HashedFile::new(to.tree),
        skeleton: skeleton.map_err(LayerError::Finish)?,
    };
    let (parts, totals) = read_into(from, parts, limits)?;
    finish(parts, totals).map_err(LayerError::Finish)
}

/// Reads an archive for what it changes alone, as [`read_layer`] does but without files. Contents are passed over.
pub fn read_changeset(from: impl Read, limits: &Limits) -> Result<Changeset, LayerError> {
    let parts = Parts { data: NoContents::default(), packed: io::sink(), tree: Vec::new(), skeleton: io::sink() };
    let (parts, mut totals) = read_into(from, parts, limits)?;
    totals.data_bytes = parts.data.finish().map_err(LayerError::Finish)?;
    Ok(Changeset::of(parts.tree, totals)?)
}

type FileParts = Parts<DataWriter, HashedFile, HashedFile, zstd::Encoder<'static, HashedFile>>;

fn finish(parts: FileParts, mut totals: Totals) -> io::Result<LayerOutput> {
    let Parts { data, packed, mut tree, skeleton } = parts;
    let (data_length, data_verity) = data.finish()?;
    totals.data_bytes = data_length;
    tree.write_all(&totals.encode())?;
    let (tree_length, tree_digest) = tree.finish()?;
    let (packed_length, packed_digest) = packed.finish()?;
    let (skeleton_length, skeleton_digest) = skeleton.finish()?.finish()?;
    Ok(LayerOutput {
        data_length,
        data_verity,
        packed_length,
        packed_digest,
        tree_length,
        tree_digest,
        skeleton_length,
        skeleton_digest,
        entries: totals.entries,
    })
}

/// Writes a file from its start and hashes it.
struct HashedFile {
    file: File,
    length: u64,
    buffer: Vec<u8>,
    hasher: Sha256,
}

impl HashedFile {
    const BUFFER: usize = 256 << 10;

    fn new(file: File) -> Self {
        Self { file, length: 0, buffer: Vec::with_capacity(Self::BUFFER), hasher: Sha256::new() }
    }

    /// The file's length and digest.
    fn finish(mut self) -> io::Result<(u64, [u8; 32])> {
        self.flush()?;
        Ok((self.length, self.hasher.finalize().into()))
    }
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() == Self::BUFFER {
            self.flush()?;
        }
        let taken = bytes.len().min(Self::BUFFER - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.length)?;
        self.hasher.update(&self.buffer);
        self.length += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
