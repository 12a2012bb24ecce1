//! The disk as blocks, with those that the journal holds newer versions of.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Ext4Error;

type Result<T> = std::result::Result<T, Ext4Error>;

/// A disk: reads at absolute positions.
pub trait ReadAt {
    /// Fills `buffer` from byte `offset` on.
    ///
    /// # Errors
    ///
    /// Where the disk ends before, or cannot be read.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Its length in bytes.
    ///
    /// # Errors
    ///
    /// Where that cannot be found out.
    fn length(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let source = self.get(start..).and_then(|rest| rest.get(..buffer.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(source);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        self.as_slice().length()
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        (**self).length()
    }
}

/// Where in the journal the newest version of a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Newer {
    /// The block of the disk that holds it.
    pub(crate) block: u64,
    /// Its first four bytes were the journal's magic number, and were taken out.
    pub(crate) escaped: bool,
}

/// The first bytes of the journal's own blocks.
pub(crate) const JOURNAL_MAGIC: [u8; 4] = 0xC03B_3998_u32.to_be_bytes();

/// Blocks of a disk, numbered from 0.
#[derive(Debug)]
pub(crate) struct Blocks<S> {
    source: S,
    pub(crate) size: u32,
    pub(crate) newer: BTreeMap<u64, Newer>,
    /// The journal was not looked at yet: what is read may be older than what there is.
    pub(crate) is_stale: bool,
    /// How many more blocks of files and directories may be asked for.
    budget: AtomicU64,
}

/// How often each block of a file system may be asked for. Whoever reads all of it reads each once, or a few times;
/// a disk that shares blocks among files to make a reader's output endless is found out.
const PASSES: u64 = 4;

impl<S: ReadAt> Blocks<S> {
    pub(crate) fn new(source: S, size: u32, count: u64) -> Self {
        let budget = AtomicU64::new(count.saturating_mul(PASSES).saturating_add(4096));
        Self { source, size, newer: BTreeMap::new(), is_stale: false, budget }
    }

    /// Takes note that a file or a directory uses so many blocks.
    pub(crate) fn charge(&self, blocks: u64) -> Result<()> {
        let charged = self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(blocks));
        charged.map(drop).map_err(|_| Ext4Error::Amplified)
    }

    /// Bytes at an absolute position, as they are on the disk.
    pub(crate) fn raw(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.source.read_exact_at(buffer, offset).map_err(|source| Ext4Error::Read { offset, source })
    }

    /// A whole block.
    pub(crate) fn block(&self, block: u64) -> Result<Vec<u8>> {
        let mut buffer = vec![0; self.size as usize];
        self.read(&mut buffer, block, 0)?;
        Ok(buffer)
    }

    /// Bytes from byte `within` of a block on, which may go on in the following blocks.
    pub(crate) fn read(&self, buffer: &mut [u8], block: u64, within: u64) -> Result<()> {
        let size = u64::from(self.size);
        let (mut block, mut within) = (block.saturating_add(within / size), within % size);
        let mut left = buffer;
        while !left.is_empty() {
            let newer = self.newer.range(block..).next();
            if let Some((_, newer)) = newer.filter(|(number, _)| **number == block) {
                let here = usize::try_from(size - within).unwrap_or(usize::MAX).min(left.len());
                let (head, tail) = left.split_at_mut(here);
                self.read_newer(head, *newer, within)?;
                (left, block, within) = (tail, block + 1, 0);
                continue;
            }
            let blocks = newer.map_or(u64::MAX, |(number, _)| number - block);
            let bytes = blocks.saturating_mul(size) - within;
            let here = usize::try_from(bytes).unwrap_or(usize::MAX).min(left.len());
            let (head, tail) = left.split_at_mut(here);
            self.raw(head, block.saturating_mul(size).saturating_add(within))?;
            // If there is more, then from the beginning of the next newer block.
            (left, block, within) = (tail, block.saturating_add(blocks), 0);
        }
        Ok(())
    }

    fn read_newer(&self, buffer: &mut [u8], newer: Newer, within: u64) -> Result<()> {
        self.raw(buffer, newer.block * u64::from(self.size) + within)?;
        if newer.escaped {
            let skip = usize::try_from(within).unwrap_or(usize::MAX).min(JOURNAL_MAGIC.len());
            buffer.iter_mut().zip(&JOURNAL_MAGIC[skip..]).for_each(|(byte, magic)| *byte = *magic);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_versions_come_before_what_is_on_the_disk() {
        let disk: Vec<u8> = (0..80_u8).collect();
        let mut blocks = Blocks::new(disk, 8, 10);
        blocks.newer.insert(2, Newer { block: 8, escaped: false });
        blocks.newer.insert(3, Newer { block: 9, escaped: true });
        let mut buffer = [0; 24];
        blocks.read(&mut buffer, 1, 4).unwrap();
        let expected = [
            &[12, 13, 14, 15][..],
            &[64, 65, 66, 67, 68, 69, 70, 71],
            &JOURNAL_MAGIC,
            &[76, 77, 78, 79],
            &[32, 33, 34, 35],
        ];
        assert_eq!(buffer[..], expected.concat());
        let mut two = [0; 2];
        blocks.read(&mut two, 3, 2).unwrap();
        assert_eq!(two, [0x39, 0x98]);
        blocks.read(&mut two, 1, 22).unwrap();
        assert_eq!(two, [78, 79]);
        assert_eq!(blocks.block(5).unwrap(), (40..48).collect::<Vec<u8>>());
        assert!(blocks.block(10).is_err() && blocks.block(u64::MAX).is_err());
    }

    #[test]
    fn what_may_be_asked_for_is_bounded() {
        let blocks = Blocks::new(Vec::new(), 1024, 10);
        blocks.charge(4136).unwrap();
        assert!(matches!(blocks.charge(1), Err(Ext4Error::Amplified)));
    }
}
