//! Inodes, and the group descriptors that say where they are.
//!
//! Linux `Documentation/filesystems/ext4/inodes.rst`, `group_descr.rst`.

use crate::blocks::{Blocks, ReadAt};
use crate::bytes::{u16_at, u32_at, wide};
use crate::checksum::{crc16, crc32c};
use crate::error::{Ext4Error, Place};
use crate::superblock::{Checksums, Superblock};

type Result<T> = std::result::Result<T, Ext4Error>;

/// The root directory's inode.
pub(crate) const ROOT: u32 = 2;

/// Bytes of an inode that all have.
const CLASSIC: usize = 128;

/// Descriptor flag: no inode of the group was ever used, its table need not have been written.
const INODES_UNUSED: u16 = 0x1;

/// Inode flags that matter to a reader.
pub(crate) mod flags {
    pub(crate) const COMPRESSED: u32 = 0x200;
    pub(crate) const ENCRYPTED: u32 = 0x800;
    pub(crate) const INDEXED: u32 = 0x1000;
    pub(crate) const EXTENTS: u32 = 0x8_0000;
    pub(crate) const ATTRIBUTE_VALUE: u32 = 0x20_0000;
    pub(crate) const INLINE_DATA: u32 = 0x1000_0000;
    /// Those that a file system without the features behind them cannot have.
    pub(crate) const REFUSED: u32 = COMPRESSED | ENCRYPTED | ATTRIBUTE_VALUE | INLINE_DATA;
}

/// Type of an inode, and what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// At most 12 bits.
    pub major: u32,
    /// At most 20 bits.
    pub minor: u32,
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// An inode that was read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Its number.
    pub number: u32,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: at most `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of its content.
    pub size: u64,
    /// Last modification of its content.
    pub mtime: Timestamp,
    /// How many names it has. Directories with very many directories in them have 1.
    pub links: u16,
    pub(crate) flags: u32,
    /// `i_block`: the root of the block map, or a short symbolic link.
    pub(crate) map: [u8; 60],
    /// The block of its extended attributes, or 0.
    pub(crate) attribute_block: u64,
    /// What lies behind the inode's fields, where it has such: the attributes in the inode.
    pub(crate) attributes: Vec<u8>,
    /// The state that CRC-32Cs of what belongs to it begin with.
    pub(crate) seed: u32,
}

impl Inode {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// Reads an inode that a name or the superblock says is there.
    pub(crate) fn read<S: ReadAt>(superblock: &Superblock, blocks: &Blocks<S>, number: u32) -> Result<Self> {
        let place = Place::Inode(number);
        place.check((1..=superblock.inodes).contains(&number), "there is no such inode")?;
        let index = u64::from(number - 1);
        let per_group = u64::from(superblock.inodes_per_group);
        let table = Table::read(superblock, blocks, index / per_group)?;
        place.check(!table.is_unused, "none of its group is in use")?;
        let mut bytes = vec![0; superblock.inode_size as usize];
        blocks.read(&mut bytes, table.first, index % per_group * u64::from(superblock.inode_size))?;
        Self::parse(superblock, number, &bytes)
    }

    fn parse(superblock: &Superblock, number: u32, bytes: &[u8]) -> Result<Self> {
        let place = Place::Inode(number);
        let extra = if bytes.len() > CLASSIC { usize::from(u16_at(bytes, 0x80)) } else { 0 };
        place.check(CLASSIC + extra <= bytes.len() && extra % 4 == 0, "its size is too large")?;
        let generation = u32_at(bytes, 0x64);
        let seed = crc32c(crc32c(superblock.seed, &number.to_le_bytes()), &generation.to_le_bytes());
        if superblock.checksums == Checksums::All {
            place.check(check_sum(seed, bytes, extra), "its checksum is wrong")?;
        }
        let links = u16_at(bytes, 0x1A);
        place.check(links > 0, "it is deleted")?;
        let mut map = [0; 60];
        map.copy_from_slice(bytes.get(0x28..0x64).unwrap_or(&[0; 60]));
        let mode = u16_at(bytes, 0);
        let kind = kind(mode, &map).ok_or_else(|| place.damaged("it has no type that there is"))?;
        let flags = u32_at(bytes, 0x20);
        place.check(flags & flags::REFUSED == 0, "it has flags of features that the file system has not")?;
        let has_high_size = kind == Kind::File || superblock.has_large_directories;
        let attributes = bytes.get(CLASSIC + extra..).filter(|_| extra > 0).unwrap_or_default();
        Ok(Self {
            number,
            kind,
            mode: mode & 0o7777,
            uid: u32::from(u16_at(bytes, 0x78)) << 16 | u32::from(u16_at(bytes, 0x2)),
            gid: u32::from(u16_at(bytes, 0x7A)) << 16 | u32::from(u16_at(bytes, 0x18)),
            size: wide(if has_high_size { u32_at(bytes, 0x6C) } else { 0 }, u32_at(bytes, 0x4)),
            mtime: timestamp(u32_at(bytes, 0x10), if extra >= 0xC { u32_at(bytes, 0x88) } else { 0 }),
            links,
            flags,
            map,
            attribute_block: wide(u16_at(bytes, 0x76).into(), u32_at(bytes, 0x68)),
            attributes: attributes.to_vec(),
            seed,
        })
    }
}

/// Where a group's inodes are.
struct Table {
    first: u64,
    is_unused: bool,
}

impl Table {
    fn read<S: ReadAt>(superblock: &Superblock, blocks: &Blocks<S>, group: u64) -> Result<Self> {
        let mut bytes = vec![0; superblock.descriptor_size as usize];
        let (block, within) = superblock.descriptor_at(group);
        blocks.read(&mut bytes, block, within)?;
        let place = Place::Group(group);
        let (found, expected) = match superblock.checksums {
            Checksums::None => (0, 0),
            Checksums::Groups => (u16_at(&bytes, 0x1E), group_sum_16(superblock, group, &bytes)),
            Checksums::All => (u16_at(&bytes, 0x1E), group_sum(superblock, group, &bytes)),
        };
        // Before the journal is replayed a descriptor may be torn. Where the inodes are does not change.
        place.check(found == expected || blocks.is_stale, "its checksum is wrong")?;
        let first = wide(u32_at(&bytes, 0x28), u32_at(&bytes, 0x8));
        let bytes_of_table = u64::from(superblock.inodes_per_group) * u64::from(superblock.inode_size);
        let length = bytes_of_table.div_ceil(superblock.block_size.into());
        place.check(superblock.has_blocks(first, length), "its inodes are not on the disk")?;
        let has_flags = superblock.checksums != Checksums::None;
        Ok(Self { first, is_unused: has_flags && u16_at(&bytes, 0x12) & INODES_UNUSED != 0 })
    }
}

fn group_number(group: u64) -> [u8; 4] {
    // There are at most 2³² inodes, and each group has one.
    u32::try_from(group).unwrap_or(u32::MAX).to_le_bytes()
}

fn group_sum(superblock: &Superblock, group: u64, bytes: &[u8]) -> u16 {
    let (head, tail) = (&bytes[..0x1E], bytes.get(0x20..).unwrap_or_default());
    let state = crc32c(crc32c(superblock.seed, &group_number(group)), head);
    let [low, high, ..] = crc32c(crc32c(state, &[0; 2]), tail).to_le_bytes();
    u16::from_le_bytes([low, high])
}

fn group_sum_16(superblock: &Superblock, group: u64, bytes: &[u8]) -> u16 {
    let (head, tail) = (&bytes[..0x1E], bytes.get(0x20..).unwrap_or_default());
    crc16(crc16(crc16(crc16(!0, &superblock.uuid), &group_number(group)), head), tail)
}

/// Whether an inode's checksum is right. Its upper half is where the inode is large enough.
fn check_sum(seed: u32, bytes: &[u8], extra: usize) -> bool {
    const LOW: usize = 0x7C;
    const HIGH: usize = 0x82;
    let mut covered = bytes.to_vec();
    covered[LOW..LOW + 2].fill(0);
    let has_high = extra >= 4;
    if has_high {
        covered[HIGH..HIGH + 2].fill(0);
    }
    let sum = crc32c(seed, &covered);
    let found = u32::from(u16_at(bytes, LOW)) | if has_high { u32::from(u16_at(bytes, HIGH)) << 16 } else { 0 };
    found == if has_high { sum } else { sum & 0xFFFF }
}

fn kind(mode: u16, map: &[u8; 60]) -> Option<Kind> {
    Some(match mode & 0o170_000 {
        0o100_000 => Kind::File,
        0o040_000 => Kind::Directory,
        0o120_000 => Kind::Symlink,
        0o020_000 => Kind::CharDevice(device(map)),
        0o060_000 => Kind::BlockDevice(device(map)),
        0o010_000 => Kind::Fifo,
        0o140_000 => Kind::Socket,
        _ => return None,
    })
}

/// Device numbers that fit into 16 bits are kept as they always were, others in the second word.
fn device(map: &[u8; 60]) -> Device {
    match (u32_at(map, 0), u32_at(map, 4)) {
        (0, new) => Device { major: new >> 8 & 0xFFF, minor: new & 0xFF | new >> 12 & 0xF_FF00 },
        (old, _) => Device { major: old >> 8 & 0xFF, minor: old & 0xFF },
    }
}

/// Two more bits of seconds are in the lowest of the field that has the nanoseconds.
fn timestamp(seconds: u32, extra: u32) -> Timestamp {
    let epoch = i64::from(extra & 3) << 32;
    let nanoseconds = (extra >> 2).min(999_999_999);
    Timestamp { seconds: i64::from(seconds.cast_signed()) + epoch, nanoseconds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_and_after_2038() {
        let seconds = |seconds, extra| timestamp(seconds, extra).seconds;
        assert_eq!(seconds(0xFFFF_FFFF, 0), -1);
        assert_eq!(seconds(0x8000_0000, 1), 0x8000_0000);
        assert_eq!(seconds(0x7FFF_FFFF, 3), 0x3_7FFF_FFFF);
        assert_eq!(timestamp(0, 5 << 2).nanoseconds, 5);
        assert_eq!(timestamp(0, u32::MAX).nanoseconds, 999_999_999);
    }

    #[test]
    fn device_numbers_old_and_new() {
        let mut map = [0; 60];
        map[..2].copy_from_slice(&[3, 1]);
        assert_eq!(device(&map), Device { major: 1, minor: 3 });
        map[..8].copy_from_slice(&[0, 0, 0, 0, 0x34, 0xF1, 0x2F, 0x12]);
        assert_eq!(device(&map), Device { major: 0xFF1, minor: 0x1_2234 });
    }
}
