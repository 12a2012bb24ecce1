//! The journal: what was committed and has not reached its place.
//!
//! Linux `Documentation/filesystems/ext4/journal.rst`. A journal (jbd2) is a file of blocks; the first is its
//! superblock, the others are a ring of transactions, and numbers are big-endian:
//!
//! ```text
//!  descriptor   magic 0xC03B3998, type 1, sequence; tags that say which blocks follow     tail: CRC-32C
//!  blocks       new versions of metadata; one that begins with the magic has zeros there
//!  revoke       type 5; blocks that older versions of are not to be replayed               tail: CRC-32C
//!  commit       type 2; the transaction is whole                                           CRC-32C, or CRC-32 of all
//! ```
//!
//! Nothing is written. What replaying would do is kept as a table from a block to where in the journal its newest
//! version is ([`Newer`]), which all reading goes through. The rules are those of the kernel's recovery: transactions
//! count in the order of their sequence up to the first that is not whole; a block that a later or the same
//! transaction revokes is left as it is; a block whose checksum is wrong in a transaction that is whole is an error.
//!
//! With asynchronous commits the commit block may reach the disk before what it commits; its checksum is what tells.

use std::collections::{BTreeMap, HashMap};

use crate::blocks::{Blocks, JOURNAL_MAGIC, Newer, ReadAt};
use crate::bytes::{be16_at, be32_at, wide};
use crate::checksum::{crc32_be, crc32c};
use crate::error::{Ext4Error, Place};
use crate::inode::{Inode, Kind};
use crate::map::{self, Run};
use crate::superblock::Superblock;

type Result<T> = std::result::Result<T, Ext4Error>;

const JOURNAL: Place = Place::Journal;

/// Types of blocks.
mod kind {
    pub(super) const DESCRIPTOR: u32 = 1;
    pub(super) const COMMIT: u32 = 2;
    pub(super) const SUPERBLOCK_1: u32 = 3;
    pub(super) const SUPERBLOCK_2: u32 = 4;
    pub(super) const REVOKE: u32 = 5;
}

/// Features.
mod feature {
    pub(super) const TRANSACTION_CHECKSUMS: u32 = 0x1;
    pub(super) const REVOKE: u32 = 0x1;
    pub(super) const WIDE: u32 = 0x2;
    pub(super) const ASYNC_COMMIT: u32 = 0x4;
    pub(super) const CHECKSUMS_2: u32 = 0x8;
    pub(super) const CHECKSUMS_3: u32 = 0x10;
    pub(super) const READ: u32 = REVOKE | WIDE | ASYNC_COMMIT | CHECKSUMS_2 | CHECKSUMS_3;
    pub(super) const FAST_COMMIT: u32 = 0x20;
}

/// Flags of a tag.
mod tag {
    pub(super) const ESCAPED: u32 = 0x1;
    pub(super) const SAME_UUID: u32 = 0x2;
    pub(super) const LAST: u32 = 0x8;
}

const HEADER: usize = 12;

/// Most blocks that the transactions of one journal revoke: a block of 4 KiB revokes some 500.
const MAX_REVOKED: usize = 4 << 20;

/// Finds what the journal of a file system holds newer versions of.
pub(crate) fn replay<S: ReadAt>(
    superblock: &Superblock,
    blocks: &Blocks<S>,
    inode: u32,
) -> Result<BTreeMap<u64, Newer>> {
    let inode = Inode::read(superblock, blocks, inode)?;
    JOURNAL.check(inode.kind == Kind::File, "it is no file")?;
    let runs = map::runs(superblock, blocks, &inode)?;
    let Some(journal) = Journal::open(blocks, runs, inode.size / u64::from(blocks.size))? else {
        return Ok(BTreeMap::new());
    };
    let transactions = journal.transactions()?;
    journal.apply(&transactions, superblock)
}

/// How blocks and transactions are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checks {
    None,
    /// Whole transactions, in the commit block.
    Transactions,
    /// Each block: the lower half of its checksum in its tag.
    Version2,
    /// Each block: its checksum in its tag.
    Version3,
}

struct Journal<'a, S> {
    blocks: &'a Blocks<S>,
    runs: Vec<Run>,
    /// The ring.
    first: u64,
    end: u64,
    /// The oldest transaction: where, and its sequence.
    start: u64,
    sequence: u32,
    checks: Checks,
    is_wide: bool,
    seed: u32,
}

/// A transaction that is whole.
struct Transaction {
    sequence: u32,
    /// Changed blocks.
    tags: Vec<Tag>,
    revoked: Vec<u64>,
}

/// A block that a transaction changes.
struct Tag {
    /// The block of the disk.
    block: u64,
    flags: u32,
    checksum: u32,
    /// Where in the journal.
    at: u64,
}

impl<'a, S: ReadAt> Journal<'a, S> {
    /// `None` where there is nothing to replay.
    fn open(blocks: &'a Blocks<S>, runs: Vec<Run>, length: u64) -> Result<Option<Self>> {
        let mut journal = Self {
            blocks,
            runs,
            first: 0,
            end: length,
            start: 0,
            sequence: 0,
            checks: Checks::None,
            is_wide: false,
            seed: 0,
        };
        let bytes = journal.block(0)?;
        let bytes = &bytes[..1024];
        let version = be32_at(bytes, 4);
        let is_superblock = bytes[..4] == JOURNAL_MAGIC && matches!(version, kind::SUPERBLOCK_1 | kind::SUPERBLOCK_2);
        JOURNAL.check(is_superblock, "its superblock is none")?;
        if version == kind::SUPERBLOCK_2 {
            journal.take_features(bytes)?;
        }
        JOURNAL.check(be32_at(bytes, 0xC) == blocks.size, "its blocks have another size than the file system's")?;
        let (end, first, start) = (be32_at(bytes, 0x10), be32_at(bytes, 0x14), be32_at(bytes, 0x1C));
        if start == 0 {
            return Ok(None);
        }
        (journal.end, journal.first, journal.start) = (end.into(), first.into(), start.into());
        journal.sequence = be32_at(bytes, 0x18);
        let is_ring = journal.first >= 1 && journal.first < journal.end && journal.end <= length;
        JOURNAL.check(is_ring, "its blocks are not in its file")?;
        let is_inside = (journal.first..journal.end).contains(&journal.start);
        JOURNAL.check(is_inside, "it begins outside of its blocks")?;
        Ok(Some(journal))
    }

    fn take_features(&mut self, bytes: &[u8]) -> Result<()> {
        let (compat, incompat) = (be32_at(bytes, 0x24), be32_at(bytes, 0x28));
        if incompat & feature::FAST_COMMIT != 0 {
            return Err(Ext4Error::Unsupported { what: "a journal of fast commits that was not replayed".to_owned() });
        }
        if incompat & !feature::READ != 0 {
            let what = format!("a journal with features {:#x}", incompat & !feature::READ);
            return Err(Ext4Error::Unsupported { what });
        }
        let has = |bit| incompat & bit != 0;
        self.is_wide = has(feature::WIDE);
        self.checks = match (has(feature::CHECKSUMS_2), has(feature::CHECKSUMS_3)) {
            (true, true) => return Err(JOURNAL.damaged("it has two kinds of checksums")),
            (true, false) => Checks::Version2,
            (false, true) => Checks::Version3,
            _ if compat & feature::TRANSACTION_CHECKSUMS != 0 => Checks::Transactions,
            _ => Checks::None,
        };
        self.seed = crc32c(!0, bytes.get(0x30..0x40).unwrap_or_default());
        if self.has_block_sums() {
            if bytes.get(0x50) != Some(&4) {
                return Err(Ext4Error::Unsupported { what: "a journal with checksums other than CRC-32C".to_owned() });
            }
            let sum = crc32c(crc32c(crc32c(!0, &bytes[..0xFC]), &[0; 4]), &bytes[0x100..]);
            JOURNAL.check(be32_at(bytes, 0xFC) == sum, "the checksum of its superblock is wrong")?;
        }
        Ok(())
    }

    fn has_block_sums(&self) -> bool {
        matches!(self.checks, Checks::Version2 | Checks::Version3)
    }

    /// Where on the disk a block of the journal is.
    fn physical(&self, at: u64) -> Result<u64> {
        let after = self.runs.partition_point(|run| run.logical <= at);
        let run =
            after.checked_sub(1).and_then(|index| self.runs.get(index)).filter(|run| at - run.logical < run.length);
        run.map(|run| run.physical + (at - run.logical)).ok_or_else(|| JOURNAL.damaged("its file has a hole"))
    }

    fn block(&self, at: u64) -> Result<Vec<u8>> {
        self.blocks.block(self.physical(at)?)
    }

    /// So many blocks further in the ring.
    fn advance(&self, at: u64, blocks: u64) -> u64 {
        let at = at + blocks;
        if at >= self.end { at - (self.end - self.first) } else { at }
    }

    /// All transactions that are whole, oldest first.
    fn transactions(&self) -> Result<Vec<Transaction>> {
        let mut transactions = Vec::new();
        let mut log = Log { at: self.start, left: self.end - self.first, revoked: 0 };
        let mut sequence = self.sequence;
        while let Some(transaction) = self.transaction(&mut log, sequence)? {
            transactions.push(transaction);
            sequence = sequence.wrapping_add(1);
        }
        Ok(transactions)
    }

    /// The transaction of that sequence; `None` where the log ends before it is whole.
    fn transaction(&self, log: &mut Log, sequence: u32) -> Result<Option<Transaction>> {
        let mut transaction = Transaction { sequence, tags: Vec::new(), revoked: Vec::new() };
        let mut sum = !0;
        while let Some(at) = log.take(1, self) {
            let block = self.block(at)?;
            if block[..4] != JOURNAL_MAGIC || be32_at(&block, 8) != sequence {
                return Ok(None);
            }
            match be32_at(&block, 4) {
                kind::DESCRIPTOR if self.tail_is_right(&block) => {
                    if !self.descriptor(log, &block, &mut transaction, &mut sum)? {
                        return Ok(None);
                    }
                }
                kind::REVOKE if self.tail_is_right(&block) => self.revoke(log, &block, &mut transaction)?,
                kind::COMMIT => return Ok(self.commit_is_right(&block, sum).then_some(transaction)),
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Takes the tags of a descriptor; `false` where the log is too short for the blocks behind it.
    fn descriptor(&self, log: &mut Log, block: &[u8], transaction: &mut Transaction, sum: &mut u32) -> Result<bool> {
        if self.checks == Checks::Transactions {
            *sum = crc32_be(*sum, block);
        }
        let size = self.tag_size();
        let end = block.len() - if self.has_block_sums() { 4 } else { 0 };
        let mut next = HEADER;
        while next + size <= end {
            let (number, flags, checksum) = self.tag(&block[next..]);
            next += size + if flags & tag::SAME_UUID == 0 { 16 } else { 0 };
            let Some(at) = log.take(1, self) else { return Ok(false) };
            if self.checks == Checks::Transactions {
                *sum = crc32_be(*sum, &self.block(at)?);
            }
            transaction.tags.push(Tag { block: number, flags, checksum, at });
            if flags & tag::LAST != 0 {
                break;
            }
        }
        Ok(true)
    }

    fn tag_size(&self) -> usize {
        let narrow = match self.checks {
            Checks::Version3 => return 16,
            Checks::Version2 => 10,
            _ => 8,
        };
        narrow + if self.is_wide { 4 } else { 0 }
    }

    /// Block, flags and checksum.
    fn tag(&self, bytes: &[u8]) -> (u64, u32, u32) {
        let high = if self.is_wide { be32_at(bytes, 8) } else { 0 };
        let block = wide(high, be32_at(bytes, 0));
        match self.checks {
            Checks::Version3 => (block, be32_at(bytes, 4), be32_at(bytes, 12)),
            _ => (block, be16_at(bytes, 6).into(), be16_at(bytes, 4).into()),
        }
    }

    fn revoke(&self, log: &mut Log, block: &[u8], transaction: &mut Transaction) -> Result<()> {
        let used = be32_at(block, 12) as usize;
        let end = block.len() - if self.has_block_sums() { 4 } else { 0 };
        JOURNAL.check((16..=end).contains(&used), "a list of revoked blocks has no length that it can have")?;
        let size = if self.is_wide { 8 } else { 4 };
        for entry in block[16..used].chunks_exact(size) {
            let number =
                if self.is_wide { wide(be32_at(entry, 0), be32_at(entry, 4)) } else { be32_at(entry, 0).into() };
            transaction.revoked.push(number);
        }
        log.revoked += transaction.revoked.len();
        JOURNAL.check(log.revoked <= MAX_REVOKED, "it revokes too many blocks")
    }

    /// Whether a descriptor or a list of revoked blocks is as it was written.
    fn tail_is_right(&self, block: &[u8]) -> bool {
        let (covered, tail) = block.split_at(block.len() - 4);
        !self.has_block_sums() || be32_at(tail, 0) == crc32c(crc32c(self.seed, covered), &[0; 4])
    }

    fn commit_is_right(&self, block: &[u8], sum: u32) -> bool {
        let found = be32_at(block, 0x10);
        match self.checks {
            Checks::None => true,
            Checks::Transactions => {
                let (kind, size) = (block[0xC], block[0xD]);
                (kind, size, found) == (1, 4, sum) || (kind, size, found) == (0, 0, 0)
            }
            Checks::Version2 | Checks::Version3 => {
                let (head, tail) = (&block[..0x10], &block[0x14..]);
                found == crc32c(crc32c(crc32c(self.seed, head), &[0; 4]), tail)
            }
        }
    }

    /// The newest version of each block.
    fn apply(&self, transactions: &[Transaction], superblock: &Superblock) -> Result<BTreeMap<u64, Newer>> {
        // The number of a transaction among these is what its sequence is, without running over.
        let mut revoked: HashMap<u64, usize> = HashMap::new();
        for (index, transaction) in transactions.iter().enumerate() {
            revoked.extend(transaction.revoked.iter().map(|block| (*block, index)));
        }
        let mut newer = BTreeMap::new();
        for (index, transaction) in transactions.iter().enumerate() {
            for tag in &transaction.tags {
                if revoked.get(&tag.block).is_some_and(|last| *last >= index) {
                    continue;
                }
                JOURNAL.check(tag.block < superblock.blocks, "it holds a block that is not on the disk")?;
                self.check_block(transaction.sequence, tag)?;
                let block = self.physical(tag.at)?;
                newer.insert(tag.block, Newer { block, escaped: tag.flags & tag::ESCAPED != 0 });
            }
        }
        Ok(newer)
    }

    fn check_block(&self, sequence: u32, tag: &Tag) -> Result<()> {
        if !self.has_block_sums() {
            return Ok(());
        }
        let sum = crc32c(crc32c(self.seed, &sequence.to_be_bytes()), &self.block(tag.at)?);
        let expected = if self.checks == Checks::Version2 { sum & 0xFFFF } else { sum };
        JOURNAL.check(tag.checksum == expected, "the checksum of a block in it is wrong")
    }
}

/// How far the log was read. It never goes round further than to where it began.
struct Log {
    at: u64,
    left: u64,
    revoked: usize,
}

impl Log {
    /// Takes blocks, and says where the first of them is.
    fn take<S: ReadAt>(&mut self, blocks: u64, journal: &Journal<'_, S>) -> Option<u64> {
        self.left = self.left.checked_sub(blocks)?;
        let at = self.at;
        self.at = journal.advance(at, blocks);
        Some(at)
    }
}
