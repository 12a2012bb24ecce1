//! Where the contents of large files go.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use crate::changeset_format::BLOCK;
use crate::verity::{Verity, is_zero};

const BLOCK_USIZE: usize = 4096;
const BUFFER: usize = 1 << 20;

/// Takes contents, one file after the other, each at the next multiple of 4096.
///
/// For every file: one [`begin`](Self::begin), then [`copy`](Self::copy) and [`hole`](Self::hole) in the order of the
/// content.
pub(crate) trait Contents {
    /// Starts a file and gives its offset.
    fn begin(&mut self) -> io::Result<u64>;

    /// Takes exactly `length` bytes from `from`, which ends early only with an error or a read of nothing; that is
    /// [`io::ErrorKind::UnexpectedEof`].
    fn copy(&mut self, from: &mut dyn Read, length: u64) -> io::Result<()>;

    /// Stands for `length` zero bytes, which need not be stored.
    fn hole(&mut self, length: u64) -> io::Result<()>;
}

/// Writes contents to a fresh, empty file, in large writes at aligned offsets, and computes the file's fs-verity digest
/// on the way. Blocks of zeros are left out and so become holes.
#[derive(Debug)]
pub(crate) struct DataWriter {
    file: File,
    buffer: Box<[u8]>,
    /// Bytes of `buffer` that are in use.
    filled: usize,
    /// Where the buffer begins in the file.
    start: u64,
    verity: Verity,
}

impl DataWriter {
    pub(crate) fn new(file: File) -> Self {
        Self { file, buffer: vec![0; BUFFER].into(), filled: 0, start: 0, verity: Verity::new() }
    }

    /// Stores what is buffered and gives the file's length, a multiple of 4096, and its digest.
    pub(crate) fn finish(mut self) -> io::Result<(u64, [u8; 32])> {
        self.align()?;
        self.flush()?;
        self.file.set_len(self.start)?;
        Ok((self.start, self.verity.finish()))
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
        self.verity.update(data);
        self.start += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        self.start = self.start.checked_add(length).ok_or(io::ErrorKind::FileTooLarge)?;
        self.verity.zeros(length);
        Ok(())
    }

    /// Fills up with zeros to a multiple of a block.
    fn align(&mut self) -> io::Result<()> {
        // The buffer starts at a block boundary except after a hole of odd length; then it is flushed first.
        if !self.start.is_multiple_of(BLOCK) {
            self.flush()?;
            self.skip(self.start.wrapping_neg() % BLOCK)?;
        }
        let end = self.filled.next_multiple_of(BLOCK_USIZE);
        self.buffer[self.filled..end].fill(0);
        self.filled = end;
        if self.filled == self.buffer.len() { self.flush() } else { Ok(()) }
    }
}

impl Contents for DataWriter {
    fn begin(&mut self) -> io::Result<u64> {
        self.align()?;
        Ok(self.start + self.filled as u64)
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
                Ok(())
            }
            _ => {
                self.flush()?;
                self.skip(length)
            }
        }
    }
}

/// Keeps nothing but the length: for checking a layer.
#[derive(Debug, Default)]
pub(crate) struct NoContents {
    position: u64,
}

impl NoContents {
    /// The length that the data would have.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        self.begin()
    }
}

impl Contents for NoContents {
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
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::verity;

    fn writer() -> (DataWriter, File) {
        let file = tempfile::tempfile().unwrap();
        (DataWriter::new(file.try_clone().unwrap()), file)
    }

    fn content(writer: DataWriter, file: &File) -> Vec<u8> {
        let (length, digest) = writer.finish().unwrap();
        assert_eq!(file.metadata().unwrap().len(), length);
        assert_eq!(verity::of_file(file).unwrap(), digest);
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn files_begin_at_block_boundaries() {
        let (mut writer, file) = writer();
        assert_eq!(writer.begin().unwrap(), 0);
        writer.copy(&mut &b"one"[..], 3).unwrap();
        assert_eq!(writer.begin().unwrap(), 4096);
        writer.copy(&mut &[7; 4096][..], 4096).unwrap();
        assert_eq!(writer.begin().unwrap(), 8192);
        writer.copy(&mut &b"three"[..], 5).unwrap();
        let bytes = content(writer, &file);
        assert_eq!(bytes.len(), 12288);
        assert_eq!(
            (&bytes[..4], &bytes[4095..4098], &bytes[8192..8198]),
            (&b"one\0"[..], &b"\0\x07\x07"[..], &b"three\0"[..])
        );
    }

    #[test]
    fn holes_of_any_length_keep_the_places_around_them() {
        for hole in [1, 4095, 4096, 4097, 10_000, 3 << 20] {
            let (mut writer, file) = writer();
            writer.begin().unwrap();
            writer.copy(&mut &[1; 5000][..], 5000).unwrap();
            writer.hole(hole).unwrap();
            writer.copy(&mut &[2; 10][..], 10).unwrap();
            let next = writer.begin().unwrap();
            assert_eq!(next, (5010 + hole).next_multiple_of(4096));
            writer.copy(&mut &[3; 10][..], 10).unwrap();
            let bytes = content(writer, &file);
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
        let (mut writer, file) = writer();
        writer.begin().unwrap();
        writer.copy(&mut io::repeat(0).take(8 << 20), 8 << 20).unwrap();
        assert_eq!(content(writer, &file).len(), 8 << 20);
        assert_eq!(file.metadata().unwrap().blocks(), 0);
    }

    #[test]
    fn a_short_reader_is_an_error() {
        let short = |contents: &mut dyn Contents| contents.copy(&mut &b"ab"[..], 3).unwrap_err().kind();
        assert_eq!(short(&mut writer().0), io::ErrorKind::UnexpectedEof);
        assert_eq!(short(&mut NoContents::default()), io::ErrorKind::UnexpectedEof);
    }
}
