//! What is left of a layer's archive when its contents are taken out, and how the archive comes back.
//!
//! A layer's digest covers every byte of its tar archive, and a registry or `docker save` wants those very bytes. The
//! contents are in the layer's data and packed files already; the skeleton holds the rest (headers, padding, end
//! blocks, whatever follows them) and says where the contents go.
//!
//! # Format, version 1
//!
//! ```text
//! file      = zstd frame of stream
//! stream    = magic "CRCLSKEL", u32 version (little-endian), segment*, end
//! segment   = 0x01 length:varint, that many bytes     these bytes
//!           | 0x02 gap:varint length:varint           bytes of `data`, `gap` after the last such segment's end
//!           | 0x03 length:varint                      the next bytes of `packed`
//! end       = 0x00 length:varint                      the archive's length; nothing follows
//! varint    = LEB128, 64 bits; no length of a segment is 0
//! ```
//!
//! References only ever go forward, so that no byte of `data` or `packed` is given out twice: a bent skeleton can make
//! an archive large by literal bytes alone, which cost decompression like those of any archive.
//!
//! Decompression is held to a window of [`WINDOW_LOG`] bits.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;

/// Version of the format.
pub const SKELETON_VERSION: u32 = 1;
/// Largest zstd window that is read: 8 MiB. Writers use less.
pub const WINDOW_LOG: u32 = 23;

const MAGIC: &[u8; 8] = b"CRCLSKEL";
const END: u8 = 0x00;
const LITERAL: u8 = 0x01;
const DATA: u8 = 0x02;
const PACKED: u8 = 0x03;

/// Literal bytes are collected up to this many, encoded segments too.
const BUFFER: usize = 64 << 10;

/// Why bytes are no skeleton of these files. Comes inside an [`io::Error`] of kind
/// [`InvalidData`](io::ErrorKind::InvalidData).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SkeletonError {
    /// Does not begin as a skeleton does.
    #[error("not a layer skeleton")]
    Magic,
    /// Written by another version.
    #[error("layer skeleton of version {0}, not {SKELETON_VERSION}")]
    Version(u32),
    /// Ends before its end.
    #[error("layer skeleton is truncated")]
    Truncated,
    /// Something that no writer makes.
    #[error("layer skeleton is damaged: {0}")]
    Damaged(&'static str),
    /// Refers to bytes beyond the end of the layer's data or packed contents.
    #[error("layer skeleton wants content that is not in the layer's {0} file")]
    Outside(&'static str),
}

impl From<SkeletonError> for io::Error {
    fn from(error: SkeletonError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Writes the stream, uncompressed.
#[derive(Debug)]
pub(crate) struct Segments<W> {
    out: W,
    literal: Vec<u8>,
    encoded: Vec<u8>,
    data_end: u64,
    length: u64,
}

impl<W: Write> Segments<W> {
    pub(crate) fn new(out: W) -> Self {
        let encoded = [&MAGIC[..], &SKELETON_VERSION.to_le_bytes()].concat();
        Self { out, literal: Vec::with_capacity(BUFFER), encoded, data_end: 0, length: 0 }
    }

    /// The archive's next bytes are these.
    pub(crate) fn literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(BUFFER) {
            if self.literal.len() + piece.len() > BUFFER {
                self.end_literal();
                self.flush()?;
            }
            self.literal.extend_from_slice(piece);
        }
        Ok(())
    }

    /// The archive's next bytes are `length` bytes of `data` from `offset`, at or after the end of the last ones.
    pub(crate) fn data(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let gap = offset.checked_sub(self.data_end).ok_or(io::ErrorKind::InvalidInput)?;
        self.reference(DATA, Some(gap), length)?;
        self.data_end = offset + length;
        Ok(())
    }

    /// The archive's next bytes are the next `length` bytes of `packed`.
    pub(crate) fn packed(&mut self, length: u64) -> io::Result<()> {
        self.reference(PACKED, None, length)
    }

    fn reference(&mut self, tag: u8, gap: Option<u64>, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        self.end_literal();
        self.encoded.push(tag);
        gap.into_iter().chain([length]).for_each(|number| put_varint(&mut self.encoded, number));
        self.length += length;
        if self.encoded.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn end_literal(&mut self) {
        if !self.literal.is_empty() {
            self.encoded.push(LITERAL);
            put_varint(&mut self.encoded, self.literal.len() as u64);
            self.length += self.literal.len() as u64;
            self.encoded.append(&mut self.literal);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.encoded)?;
        self.encoded.clear();
        Ok(())
    }

    /// Ends the stream and gives back what it was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.end_literal();
        self.encoded.push(END);
        put_varint(&mut self.encoded, self.length);
        self.flush()?;
        Ok(self.out)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "seven bits at a time")]
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A layer's archive, byte for byte, from its skeleton and its contents. Streams; memory is the zstd window and a few
/// buffers. The skeleton is not trusted: what does not fit is a [`SkeletonError`]. Whether the bytes are the right
/// ones only their digest can tell.
pub struct Rebuild<S: Read> {
    skeleton: BufReader<zstd::Decoder<'static, BufReader<S>>>,
    data: File,
    data_length: u64,
    packed: BufReader<FileFrom>,
    packed_left: u64,
    segment: Segment,
    /// Where the next reference into `data` counts from.
    data_at: u64,
    /// Bytes given out.
    length: u64,
}

/// What the next bytes are.
#[derive(Debug, Clone, Copy)]
enum Segment {
    /// The stream's header.
    Start,
    Literal(u64),
    Data(u64),
    Packed(u64),
    End,
}

impl<S: Read> std::fmt::Debug for Rebuild<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rebuild").field("segment", &self.segment).field("length", &self.length).finish_non_exhaustive()
    }
}

impl<S: Read> Rebuild<S> {
    /// Puts contents from `data` and `packed` into `skeleton`.
    pub fn new(skeleton: S, data: File, packed: File) -> io::Result<Self> {
        let mut decoder = zstd::Decoder::new(skeleton)?;
        decoder.window_log_max(WINDOW_LOG)?;
        Ok(Self {
            skeleton: BufReader::with_capacity(BUFFER, decoder),
            data_length: data.metadata()?.len(),
            data,
            packed_left: packed.metadata()?.len(),
            packed: BufReader::with_capacity(BUFFER, FileFrom { file: packed, at: 0 }),
            segment: Segment::Start,
            data_at: 0,
            length: 0,
        })
    }

    /// Reads up to the next segment that has bytes, or to the end.
    fn next_segment(&mut self) -> io::Result<Segment> {
        if matches!(self.segment, Segment::Start) {
            self.header()?;
        }
        Ok(match self.byte()? {
            LITERAL => Segment::Literal(self.segment_length()?),
            DATA => {
                let gap = self.varint()?;
                let length = self.segment_length()?;
                let start = self.data_at.checked_add(gap);
                let end = start.and_then(|start| start.checked_add(length));
                match (start, end) {
                    (Some(start), Some(end)) if end <= self.data_length => self.data_at = start,
                    _ => return Err(SkeletonError::Outside("data").into()),
                }
                Segment::Data(length)
            }
            PACKED => {
                let length = self.segment_length()?;
                let left = self.packed_left.checked_sub(length).ok_or(SkeletonError::Outside("packed"))?;
                self.packed_left = left;
                Segment::Packed(length)
            }
            END => {
                self.end()?;
                Segment::End
            }
            _ => return Err(SkeletonError::Damaged("unknown segment").into()),
        })
    }

    fn header(&mut self) -> io::Result<()> {
        let mut magic = [0; MAGIC.len()];
        let mut version = [0; 4];
        self.skeleton.read_exact(&mut magic).map_err(truncated)?;
        if magic != *MAGIC {
            return Err(SkeletonError::Magic.into());
        }
        self.skeleton.read_exact(&mut version).map_err(truncated)?;
        match u32::from_le_bytes(version) {
            SKELETON_VERSION => Ok(()),
            version => Err(SkeletonError::Version(version).into()),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        if self.varint()? != self.length {
            return Err(SkeletonError::Damaged("wrong length").into());
        }
        // Also the frame has to end here, with the checks that its decoder makes then.
        match self.skeleton.read(&mut [0]).map_err(truncated)? {
            0 => Ok(()),
            _ => Err(SkeletonError::Damaged("it goes on after its end").into()),
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.skeleton.read_exact(&mut byte).map_err(truncated)?;
        Ok(byte[0])
    }

    fn segment_length(&mut self) -> io::Result<u64> {
        match self.varint()? {
            0 => Err(SkeletonError::Damaged("an empty segment").into()),
            length => Ok(length),
        }
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(SkeletonError::Damaged("integer too long").into())
    }
}

impl<S: Read> Read for Rebuild<S> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if target.is_empty() {
            return Ok(0);
        }
        if matches!(self.segment, Segment::Start | Segment::Literal(0) | Segment::Data(0) | Segment::Packed(0)) {
            self.segment = self.next_segment()?;
        }
        let (Segment::Literal(left) | Segment::Data(left) | Segment::Packed(left)) = self.segment else {
            return Ok(0);
        };
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(target.len());
        let target = &mut target[..wanted];
        let (read, lacking) = match self.segment {
            Segment::Data(_) => (self.data.read_at(target, self.data_at)?, SkeletonError::Outside("data")),
            Segment::Packed(_) => (self.packed.read(target)?, SkeletonError::Outside("packed")),
            _ => (self.skeleton.read(target).map_err(truncated)?, SkeletonError::Truncated),
        };
        if read == 0 {
            return Err(lacking.into());
        }
        self.length = self.length.checked_add(read as u64).ok_or(SkeletonError::Damaged("endless"))?;
        let left = left - read as u64;
        self.segment = match self.segment {
            Segment::Data(_) => {
                self.data_at += read as u64;
                Segment::Data(left)
            }
            Segment::Packed(_) => Segment::Packed(left),
            _ => Segment::Literal(left),
        };
        Ok(read)
    }
}

fn truncated(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => SkeletonError::Truncated.into(),
        _ => error,
    }
}

/// A file read from `at` on, whatever its position is.
#[derive(Debug)]
struct FileFrom {
    file: File,
    at: u64,
}

impl Read for FileFrom {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(target, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
