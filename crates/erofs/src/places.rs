//! Places for inodes: each within one block, none wasted that a later one fits into.

use std::collections::VecDeque;

use crate::erofs_format::{BLOCK, BLOCK_USIZE, SLOT, SUPERBLOCK_LEN, SUPERBLOCK_OFFSET};

/// The last blocks, in which holes are still filled. Holes are few bytes, so that a few blocks do; and what lies
/// together in the tree stays together.
pub(crate) const WINDOW: u64 = 16;

/// Hands out places: first fit among the last [`WINDOW`] blocks, at multiples of [`SLOT`].
#[derive(Debug)]
pub(crate) struct Places {
    /// Blocks with room, and how many of their bytes are taken. Ascending.
    open: VecDeque<(u64, usize)>,
    /// Blocks so far.
    pub(crate) blocks: u64,
}

impl Places {
    /// Behind the superblock.
    pub(crate) fn new() -> Self {
        let used = SUPERBLOCK_OFFSET + SUPERBLOCK_LEN;
        Self { open: VecDeque::from([(0, used)]), blocks: 1 }
    }

    /// The byte offset of a place for `length` bytes: within one block if they fit into one at all, else from the
    /// beginning of a new one on.
    pub(crate) fn take(&mut self, length: usize) -> u64 {
        let fits = |(_, used): &(u64, usize)| *used + length <= BLOCK_USIZE;
        let (at, (block, start)) = match self.open.iter().copied().enumerate().find(|(_, open)| fits(open)) {
            Some(found) => found,
            None => {
                self.blocks += 1;
                self.open.push_back((self.blocks - 1, 0));
                (self.open.len() - 1, (self.blocks - 1, 0))
            }
        };
        let used = (start + length).next_multiple_of(SLOT_USIZE);
        // What needs several blocks leaves room in the last of them.
        let beyond = used.saturating_sub(1) / BLOCK_USIZE;
        self.blocks += beyond as u64;
        self.open[at] = (block + beyond as u64, used - beyond * BLOCK_USIZE);
        let first = self.blocks.saturating_sub(WINDOW);
        self.open.retain(|(block, used)| *block >= first && *used < BLOCK_USIZE);
        block * BLOCK + start as u64
    }
}

#[allow(clippy::cast_possible_truncation, reason = "32")]
const SLOT_USIZE: usize = SLOT as usize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled_and_blocks_are_not_crossed() {
        let mut places = Places::new();
        assert_eq!(places.take(64), 1152);
        assert_eq!(places.take(3000), 4096, "does not fit into the first block");
        assert_eq!(places.take(100), 1216, "fits into the first block");
        assert_eq!(places.take(2760), 8192, "fits into neither");
        assert_eq!(places.take(1088), 1344);
        assert_eq!(places.blocks, 3);
    }

    #[test]
    fn what_is_longer_than_a_block_begins_one() {
        let mut places = Places::new();
        assert_eq!(places.take(9000), 4096);
        assert_eq!(places.blocks, 4);
        assert_eq!(places.take(3000), 3 * 4096 + 832, "room in the last of its blocks");
    }

    #[test]
    fn blocks_close_when_the_window_moves_on() {
        let mut places = Places::new();
        for _ in 0..WINDOW {
            places.take(4096);
        }
        assert!(places.take(32) >= 4096, "the first block is out of the window");
    }
}
