//! Where guest memory is and what the kernel may use of it.

use std::iter;
use std::ops::Range;

use thiserror::Error;

/// Low memory ends here at the latest; from here to [`GAP_END`] are devices, I/O APIC and local APICs.
pub const GAP_START: u64 = 3 << 30;
/// Memory beyond [`GAP_START`] continues here.
pub const GAP_END: u64 = 4 << 30;
/// Start of the hole that PCs have below 1 MiB.
pub const ISA_HOLE_START: u64 = 0xa_0000;
/// End of that hole: images may lie from here on.
pub const HIGH_MEMORY: u64 = 0x10_0000;
/// Size of a page.
pub const PAGE: u64 = 4096;

/// Least memory that a machine can have: enough for the tables below 1 MiB and for a kernel at its usual 16 MiB.
pub const MIN_MEMORY: u64 = 24 << 20;
/// Most memory that a machine can have. No format ends here; it keeps sums far from overflow.
pub const MAX_MEMORY: u64 = 4 << 40;

/// What a range of guest physical memory is to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Memory to use as it likes.
    Usable,
    /// Memory to leave alone.
    Reserved,
}

/// A guest's physical memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    low_end: u64,
    high: Option<Range<u64>>,
    map: Vec<(Range<u64>, Use)>,
}

impl Layout {
    /// Lays out `bytes` of memory, of which the kernel leaves `reserved` alone (empty: nothing).
    ///
    /// # Errors
    ///
    /// [`LayoutError`] if that is too little or too much, not whole pages, or `reserved` does not lie in low memory
    /// above 1 MiB.
    pub fn new(bytes: u64, reserved: Range<u64>) -> Result<Self, LayoutError> {
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&bytes) || !bytes.is_multiple_of(PAGE) {
            return Err(LayoutError::Memory { bytes });
        }
        let low = bytes.min(GAP_START);
        if !reserved.start.is_multiple_of(PAGE)
            || !reserved.end.is_multiple_of(PAGE)
            || reserved.start > reserved.end
            || (!reserved.is_empty() && (reserved.start < HIGH_MEMORY || reserved.end > low))
        {
            return Err(LayoutError::Reserved { start: reserved.start, end: reserved.end });
        }
        let mut map = vec![(0..ISA_HOLE_START, Use::Usable), (ISA_HOLE_START..HIGH_MEMORY, Use::Reserved)];
        if reserved.is_empty() {
            map.push((HIGH_MEMORY..low, Use::Usable));
        } else {
            map.push((HIGH_MEMORY..reserved.start, Use::Usable));
            map.push((reserved.clone(), Use::Reserved));
            map.push((reserved.end..low, Use::Usable));
        }
        let high = (bytes > low).then(|| GAP_END..GAP_END + (bytes - low));
        map.extend(high.clone().map(|range| (range, Use::Usable)));
        map.retain(|(range, _)| !range.is_empty());
        Ok(Self { low_end: low, high, map })
    }

    /// Ranges that are backed by memory, ascending: one below the gap and, if there is more, one above it.
    #[must_use]
    pub fn ram(&self) -> Vec<Range<u64>> {
        iter::once(0..self.low_end).chain(self.high.clone()).collect()
    }

    /// What the kernel is told, ascending and without overlaps.
    #[must_use]
    pub fn map(&self) -> &[(Range<u64>, Use)] {
        &self.map
    }

    /// End of the memory below the gap.
    #[must_use]
    pub fn low_end(&self) -> u64 {
        self.low_end
    }

    /// Whether an image may lie in `range`: in usable low memory above 1 MiB.
    #[must_use]
    pub fn allows_image(&self, range: &Range<u64>) -> bool {
        range.start >= HIGH_MEMORY
            && range.end <= self.low_end()
            && self
                .map
                .iter()
                .any(|(free, kind)| *kind == Use::Usable && free.start <= range.start && range.end <= free.end)
    }
}

/// Why memory cannot be laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// Too small, too large, or not whole pages.
    #[error(
        "guest memory of {} KiB is not whole pages between {} MiB and {} TiB",
        .bytes >> 10, MIN_MEMORY >> 20, MAX_MEMORY >> 40
    )]
    Memory {
        /// What was asked for.
        bytes: u64,
    },
    /// The reserved range.
    #[error("reserved range {start:#x}..{end:#x} is not whole pages of low memory above 1 MiB")]
    Reserved {
        /// First byte.
        start: u64,
        /// One past the last.
        end: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Range<u64> = (8 << 20)..((8 << 20) + (64 << 10));

    #[test]
    fn small_memory_is_one_range_around_the_holes() {
        let layout = Layout::new(128 << 20, LOG).unwrap();
        assert_eq!((layout.ram().len(), layout.ram()[0].clone()), (1, 0..128 << 20));
        assert_eq!(
            layout.map(),
            [
                (0..0xa_0000, Use::Usable),
                (0xa_0000..0x10_0000, Use::Reserved),
                (0x10_0000..LOG.start, Use::Usable),
                (LOG, Use::Reserved),
                (LOG.end..128 << 20, Use::Usable),
            ]
        );
    }

    #[test]
    fn memory_beyond_three_gib_continues_at_four() {
        let layout = Layout::new(5 << 30, LOG).unwrap();
        assert_eq!(layout.ram(), [0..GAP_START, GAP_END..6 << 30]);
        assert_eq!(layout.low_end(), GAP_START);
        assert_eq!(layout.map().last(), Some(&(GAP_END..6 << 30, Use::Usable)));
        assert_eq!(Layout::new(3 << 30, LOG).unwrap().ram().len(), 1);
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        for bytes in [0, 1 << 20, MIN_MEMORY - 1, MIN_MEMORY + 1, MAX_MEMORY + PAGE, u64::MAX] {
            assert_eq!(Layout::new(bytes, LOG), Err(LayoutError::Memory { bytes }));
        }
    }

    #[test]
    #[allow(clippy::reversed_empty_ranges)]
    fn reserved_ranges_out_of_place_are_refused() {
        for (start, end) in
            [(0, PAGE), (0x9_f000, 0x10_1000), (1 << 20, 65 << 20), (0x10_0001, 0x10_2000), (8 << 20, 4 << 20)]
        {
            assert_eq!(Layout::new(64 << 20, start..end), Err(LayoutError::Reserved { start, end }));
        }
        assert!(Layout::new(64 << 20, 0..0).is_ok());
    }

    #[test]
    fn images_keep_out_of_holes() {
        let layout = Layout::new(64 << 20, LOG).unwrap();
        assert!(layout.allows_image(&(16 << 20..64 << 20)));
        assert!(layout.allows_image(&(1 << 20..8 << 20)));
        for range in [0..4096, 0xf_f000..0x10_1000, 7 << 20..9 << 20, LOG, 60 << 20..(64 << 20) + 1, 1 << 40..1 << 41] {
            assert!(!layout.allows_image(&range), "{range:#x?}");
        }
    }
}
