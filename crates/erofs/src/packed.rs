//! Contents of small files, on their way from the layers into the metadata image.

use std::cell::RefCell;
use std::io;

use crate::device::ReadAt;

/// The packed contents of an image's layers.
pub trait PackedContents {
    /// Fills `buffer` with the packed contents of a layer, counted from 0 at the bottom, from byte `offset` on.
    ///
    /// # Errors
    ///
    /// Where they cannot be read, or end before.
    fn read(&self, layer: usize, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// Layers without packed contents.
#[derive(Debug, Clone, Copy, Default)]
pub struct NothingPacked;

impl PackedContents for NothingPacked {
    fn read(&self, _: usize, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Bytes that are read at once.
const PAGE: u64 = 16 << 10;
/// Pages that are kept: 8 MiB.
const PAGES: usize = 512;

/// Packed contents that are read from files, by pages, of which the last ones are kept. Contents are asked for in the
/// order of the tree and stored in that of the archives: mostly neighbours, directory by directory.
#[derive(Debug)]
pub struct PackedFiles<T> {
    layers: Vec<(T, u64)>,
    pages: RefCell<Vec<Page>>,
}

/// Some of a layer's packed contents.
#[derive(Debug, Clone, Default)]
struct Page {
    layer: usize,
    number: u64,
    /// Empty where nothing was read yet.
    bytes: Vec<u8>,
}

impl<T: ReadAt> PackedFiles<T> {
    /// The files of all layers, bottom first, each with its length in bytes.
    pub fn new(layers: Vec<(T, u64)>) -> Self {
        Self { layers, pages: RefCell::new(vec![Page::default(); PAGES]) }
    }

    /// Reads a page into the place of another one, unless it is there.
    fn load(&self, page: &mut Page, layer: usize, number: u64) -> io::Result<()> {
        if !page.bytes.is_empty() && (page.layer, page.number) == (layer, number) {
            return Ok(());
        }
        let (file, length) = self.layers.get(layer).ok_or(io::ErrorKind::UnexpectedEof)?;
        let here = length.saturating_sub(number * PAGE).min(PAGE);
        let mut bytes = std::mem::take(&mut page.bytes);
        bytes.resize(usize::try_from(here).unwrap_or(0), 0);
        file.read_exact_at(&mut bytes, number * PAGE)?;
        *page = Page { layer, number, bytes };
        Ok(())
    }
}

impl<T: ReadAt> PackedContents for PackedFiles<T> {
    fn read(&self, layer: usize, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        let mut pages = self.pages.borrow_mut();
        while !buffer.is_empty() {
            let number = offset / PAGE;
            let slot = usize::try_from(number % PAGES as u64).unwrap_or(0);
            let page = &mut pages[(slot + layer) % PAGES];
            self.load(page, layer, number)?;
            let skip = usize::try_from(offset % PAGE).unwrap_or(0);
            let source = page.bytes.get(skip..).filter(|rest| !rest.is_empty());
            let source = source.ok_or(io::ErrorKind::UnexpectedEof)?;
            let (here, rest) = buffer.split_at_mut(source.len().min(buffer.len()));
            here.copy_from_slice(&source[..here.len()]);
            offset += here.len() as u64;
            buffer = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_read_across_pages_and_not_beyond_the_end() {
        let bytes: Vec<u8> = (0..PAGE * 3 + 5).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let files = PackedFiles::new(vec![(&b"below"[..], 5), (&bytes[..], bytes.len() as u64)]);
        let mut buffer = [0; 5];
        files.read(0, 0, &mut buffer).unwrap();
        assert_eq!(&buffer, b"below");
        for offset in [0, 1, PAGE - 1, PAGE * 2 - 500, PAGE * 3 - 3, PAGE * 3 - 700] {
            let mut buffer = [0; 701];
            let start = usize::try_from(offset).unwrap();
            let buffer = &mut buffer[..(bytes.len() - start).min(701)];
            files.read(1, offset, buffer).unwrap();
            assert_eq!(buffer, &bytes[start..start + buffer.len()]);
        }
        for (layer, offset) in [(0, 1), (0, PAGE), (1, PAGE * 3 + 1), (1, u64::MAX - 2), (2, 0)] {
            assert!(files.read(layer, offset, &mut buffer).is_err(), "{layer} {offset}");
        }
    }
}
