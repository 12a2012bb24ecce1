//! Where file contents go.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use crate::changeset_format::BLOCK;

const BLOCK_USIZE: usize = 4096;
const BUFFER: usize = 1 << 20;

/// Takes the contents of a layer's regular files, one file after the other, each at the next multiple of 4096.
///
/// For every file that is not empty: one [`begin`](Self::begin), then [`copy`](Self::copy) and
/// [`hole`](Self::hole) in the order of the content; at the end of the layer one [`finish`](Self::finish).
pub trait ContentSink {
    /// Starts a file and gives its offset.
    fn begin(&mut self) -> io::Result<u64>;

    /// Takes exactly `length` bytes from `from`, which ends early only with an error or a read of nothing; that is
    /// [`io::ErrorKind::UnexpectedEof`].
    fn copy(&mut self, from: &mut dyn Read, length: u64) -> io::Result<()>;

    /// Stands for `length` zero bytes, which need not be stored.
    fn hole(&mut self, length: u64) -> io::Result<()>;

    /// Stores what is buffered and gives the length of the data, a multiple of 4096.
    fn finish(&mut self) -> io::Result<u64>;
}

/// A [`ContentSink`] that writes to a fresh, empty file, in large writes at aligned offsets. Blocks of zeros are
/// left out and so become holes.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    buffer: Box<[u8]>,
    /// Bytes of `buffer` that are in use.
    filled: usize,
    /// Where the buffer begins in the file.
    start: u64,
}

impl FileSink {
    /// Writes to `file`, which must be empty.
    pub fn new(file: File) -> Self {
        Self { file, buffer: vec![0; BUFFER].into(), filled: 0, start: 0 }
    }

    /// The file, for `fsync`.
    pub fn into_file(self) -> File {
        self.file
    }

    fn position(&self) -> u64 {
        self.start + self.filled as u64
    }

    /// Writes the buffer, leaving out runs of zero blocks.
    fn flush(&mut self) -> io::Result<()> {
        let data = &self.buffer[..self.filled];
        let mut run = 0;
        for at in (0..data.len()).step_by(BLOCK_USIZE) {
            let block = &data[at..data.len().min(at + BLOCK_USIZE)];
            if is_zero(block) {
                self.file.write_all_at(&data[run..at], self.start + run as u64)?;
                run = at + block.len();
            }
        }
        self.file.write_all_at(&data[run..], self.start + run as u64)?;
        self.start += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    fn align(&mut self) -> io::Result<()> {
        let end = self.filled.next_multiple_of(BLOCK_USIZE);
        self.buffer[self.filled..end].fill(0);
        self.filled = end;
        if self.filled == self.buffer.len() { self.flush() } else { Ok(()) }
    }
}

impl ContentSink for FileSink {
    fn begin(&mut self) -> io::Result<u64> {
        // The buffer starts at a block boundary except after a hole of odd length; then it is flushed first.
        if !self.start.is_multiple_of(BLOCK) {
            self.flush()?;
            self.start = self.start.next_multiple_of(BLOCK);
        }
        self.align()?;
        Ok(self.position())
    }

    fn copy(&mut self, from: &mut dyn Read, mut length: u64) -> io::Result<()> {
        while length > 0 {
            if self.filled == self.buffer.len() {
                self.flush()?;
            }
            let free = &mut self.buffer[self.filled..];
            let wanted = usize::try_from(length).unwrap_or(usize::MAX).min(free.len());
            match from.read(&mut free[..wanted]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.filled += read;
                    length -= read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn hole(&mut self, length: u64) -> io::Result<()> {
        let free = self.buffer.len() - self.filled;
        match usize::try_from(length) {
            Ok(short) if short <= free.min(BLOCK_USIZE) => {
                self.buffer[self.filled..self.filled + short].fill(0);
                self.filled += short;
            }
            _ => {
                self.flush()?;
                self.start = self.start.checked_add(length).ok_or(io::ErrorKind::FileTooLarge)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<u64> {
        self.flush()?;
        let length = self.start.checked_next_multiple_of(BLOCK).ok_or(io::ErrorKind::FileTooLarge)?;
        self.file.set_len(length)?;
        Ok(length)
    }
}

/// Whether a block holds nothing but zeros. Looks at the first word before all others: most blocks end there.
fn is_zero(block: &[u8]) -> bool {
    block.first_chunk::<8>().is_none_or(|first| *first == [0; 8]) && block.iter().fold(0, |seen, byte| seen | byte) == 0
}

/// A [`ContentSink`] that keeps nothing but the lengths: for checking a layer.
#[derive(Debug, Default)]
pub struct NullSink {
    position: u64,
}

impl ContentSink for NullSink {
    fn begin(&mut self) -> io::Result<u64> {
        self.position = self.position.checked_next_multiple_of(BLOCK).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(self.position)
    }

    fn copy(&mut self, from: &mut dyn Read, length: u64) -> io::Result<()> {
        if io::copy(&mut from.take(length), &mut io::sink())? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.hole(length)
    }

    fn hole(&mut self, length: u64) -> io::Result<()> {
        self.position = self.position.checked_add(length).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<u64> {
        self.begin()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn sink() -> FileSink {
        FileSink::new(tempfile::tempfile().unwrap())
    }

    fn content(sink: FileSink) -> Vec<u8> {
        let file = sink.into_file();
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn files_begin_at_block_boundaries() {
        let mut sink = sink();
        assert_eq!(sink.begin().unwrap(), 0);
        sink.copy(&mut &b"one"[..], 3).unwrap();
        assert_eq!(sink.begin().unwrap(), 4096);
        sink.copy(&mut &[7; 4096][..], 4096).unwrap();
        assert_eq!(sink.begin().unwrap(), 8192);
        sink.copy(&mut &b"three"[..], 5).unwrap();
        assert_eq!(sink.finish().unwrap(), 12288);
        let bytes = content(sink);
        assert_eq!(bytes.len(), 12288);
        assert_eq!(
            (&bytes[..4], &bytes[4095..4098], &bytes[8192..8198]),
            (&b"one\0"[..], &b"\0\x07\x07"[..], &b"three\0"[..])
        );
    }

    #[test]
    fn holes_of_any_length_keep_the_places_around_them() {
        for hole in [1, 4095, 4096, 4097, 10_000, 3 << 20] {
            let mut sink = sink();
            sink.begin().unwrap();
            sink.copy(&mut &[1; 5000][..], 5000).unwrap();
            sink.hole(hole).unwrap();
            sink.copy(&mut &[2; 10][..], 10).unwrap();
            let next = sink.begin().unwrap();
            assert_eq!(next, (5010 + hole).next_multiple_of(4096));
            sink.copy(&mut &[3; 10][..], 10).unwrap();
            sink.finish().unwrap();
            let bytes = content(sink);
            let hole = usize::try_from(hole).unwrap();
            let next = usize::try_from(next).unwrap();
            assert!(bytes[..5000].iter().all(|&byte| byte == 1));
            assert!(bytes[5000..5000 + hole].iter().all(|&byte| byte == 0));
            assert!(bytes[5000 + hole..5010 + hole].iter().all(|&byte| byte == 2));
            assert!(bytes[5010 + hole..next].iter().all(|&byte| byte == 0));
            assert!(bytes[next..next + 10].iter().all(|&byte| byte == 3));
        }
    }

    #[test]
    fn zeros_are_not_stored() {
        let mut sink = sink();
        sink.begin().unwrap();
        sink.copy(&mut io::repeat(0).take(8 << 20), 8 << 20).unwrap();
        assert_eq!(sink.finish().unwrap(), 8 << 20);
        assert_eq!(sink.into_file().metadata().unwrap().blocks(), 0);
    }

    #[test]
    fn a_short_reader_is_an_error() {
        assert_eq!(sink().copy(&mut &b"ab"[..], 3).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(NullSink::default().copy(&mut &b"ab"[..], 3).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
