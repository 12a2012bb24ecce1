//! Sparse files: which parts of a file an archive holds.
//!
//! Four encodings say the same (GNU tar manual, "Storing Sparse Files"): slots in the header block (type `S`), PAX
//! records (0.0 and 0.1), or decimal lines before the content (PAX 1.0).

use crate::error::EntryFault;
use crate::pax::SparseRecords;
use crate::tar_format::BLOCK;

/// A file's size and the extents of it that are stored, in order; the rest is holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SparseMap {
    pub(crate) size: u64,
    pub(crate) extents: Vec<Extent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// How a PAX header describes a sparse file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PaxSparse {
    /// Versions 0.0 and 0.1: the map is in the header.
    Header(SparseMap),
    /// Version 1.0: the map precedes the content. The file has this size.
    Content(u64),
}

impl SparseMap {
    /// A map from offsets and lengths in turn.
    pub(crate) fn new(size: u64, numbers: &[u64]) -> Result<Self, EntryFault> {
        let (pairs, rest) = numbers.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(EntryFault::Sparse("an extent without a length"));
        }
        let extents = pairs.iter().map(|&[offset, length]| Extent { offset, length }).collect();
        Self { size, extents }.check()
    }

    /// Whether the archive holds all of the file in one piece.
    pub(crate) fn is_whole(&self) -> bool {
        self.extents == [Extent { offset: 0, length: self.size }]
    }

    fn check(self) -> Result<Self, EntryFault> {
        // GNU tar pads every extent to whole blocks, others take them one after the other; so only the last may be odd.
        let mut stored = self.extents.iter().filter(|extent| extent.length > 0);
        stored.next_back();
        if stored.any(|extent| !extent.length.is_multiple_of(BLOCK as u64)) {
            return Err(EntryFault::Disputed("where an extent that is no multiple of 512 bytes ends"));
        }
        let mut position = 0;
        for extent in &self.extents {
            if extent.offset < position {
                return Err(EntryFault::Sparse("extents overlap or are out of order"));
            }
            match extent.offset.checked_add(extent.length) {
                Some(end) if end <= self.size => position = end,
                _ => return Err(EntryFault::Sparse("an extent lies beyond the end of the file")),
            }
        }
        Ok(self)
    }

    /// Checks that the archive stores as much as the map says.
    pub(crate) fn check_stored(&self, stored: u64) -> Result<(), EntryFault> {
        // The extents lie one after the other below `size`, so that the sum cannot overflow.
        if self.extents.iter().map(|extent| extent.length).sum::<u64>() == stored {
            return Ok(());
        }
        Err(EntryFault::Sparse("the extents do not add up to the stored content"))
    }
}

impl PaxSparse {
    pub(crate) fn new(records: &SparseRecords) -> Result<Self, EntryFault> {
        let missing = EntryFault::Sparse("no size");
        match (records.major, records.minor) {
            (Some(1), Some(0)) => records.real_size.map(Self::Content).ok_or(missing),
            (None | Some(0), None | Some(0 | 1)) if records.map.is_empty() => Err(EntryFault::Sparse("no map")),
            (None | Some(0), None | Some(0 | 1)) => {
                let map = SparseMap::new(records.size.or(records.real_size).ok_or(missing)?, &records.map)?;
                if records.block_count.is_some_and(|count| count != map.extents.len() as u64) {
                    return Err(EntryFault::Sparse("wrong number of extents"));
                }
                Ok(Self::Header(map))
            }
            _ => Err(EntryFault::Sparse("unknown version")),
        }
    }
}

/// Reads the decimal lines of a PAX 1.0 map: their number first, then offsets and lengths in turn.
#[derive(Debug, Default)]
pub(crate) struct MapLines {
    expected: Option<u64>,
    numbers: Vec<u64>,
    digits: u32,
    value: u64,
}

impl MapLines {
    /// Takes one block of lines. True once the map is complete; the rest of that block is padding.
    pub(crate) fn feed(&mut self, block: &[u8], max_extents: u64) -> Result<bool, EntryFault> {
        for &byte in block {
            match byte {
                b'0'..=b'9' if self.digits < 20 => {
                    let value = self.value.checked_mul(10).and_then(|value| value.checked_add(u64::from(byte - b'0')));
                    self.value = value.ok_or(EntryFault::Sparse("number out of range"))?;
                    self.digits += 1;
                }
                b'\n' if self.digits > 0 => {
                    if self.line(max_extents)? {
                        return Ok(true);
                    }
                }
                _ => return Err(EntryFault::Sparse("not a number")),
            }
        }
        Ok(false)
    }

    fn line(&mut self, max_extents: u64) -> Result<bool, EntryFault> {
        let value = std::mem::take(&mut self.value);
        self.digits = 0;
        if self.expected.is_some() {
            self.numbers.push(value);
        } else if value > max_extents {
            return Err(EntryFault::SparseExtents(max_extents));
        } else {
            self.expected = Some(value * 2);
        }
        Ok(self.expected == Some(self.numbers.len() as u64))
    }

    pub(crate) fn finish(&self, size: u64) -> Result<SparseMap, EntryFault> {
        SparseMap::new(size, &self.numbers)
    }
}
