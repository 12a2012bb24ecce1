//! What an image is read from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Reads at absolute positions.
pub trait ReadAt {
    /// Fills `buffer` from byte `offset` on; an error if the device ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let source = self.get(start..).and_then(|rest| rest.get(..buffer.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(source);
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buffer, offset)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

/// Extents one after the other, as the guest sees them: the metadata image and the layers' data.
#[derive(Debug)]
pub struct FlatDevice<T> {
    extents: Vec<(T, u64)>,
}

impl<T: ReadAt> FlatDevice<T> {
    /// A device of these sources, each with its length in bytes.
    pub fn new(extents: Vec<(T, u64)>) -> Self {
        Self { extents }
    }
}

impl<T: ReadAt> ReadAt for FlatDevice<T> {
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        for (source, length) in &self.extents {
            if offset >= *length {
                offset -= length;
                continue;
            }
            let here = usize::try_from(length - offset).unwrap_or(usize::MAX).min(buffer.len());
            let (head, tail) = buffer.split_at_mut(here);
            source.read_exact_at(head, offset)?;
            (buffer, offset) = (tail, 0);
            if buffer.is_empty() {
                return Ok(());
            }
        }
        if buffer.is_empty() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cross_extents() {
        let device = FlatDevice::new(vec![(&b"abcXX"[..], 3), (b"", 0), (b"defg", 4)]);
        let mut buffer = [0; 4];
        device.read_exact_at(&mut buffer, 1).unwrap();
        assert_eq!(&buffer, b"bcde");
        device.read_exact_at(&mut buffer, 3).unwrap();
        assert_eq!(&buffer, b"defg");
        assert!(device.read_exact_at(&mut buffer, 4).is_err());
        device.read_exact_at(&mut [], 7).unwrap();
    }
}
