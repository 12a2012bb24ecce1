//! The superblock: what kind of file system it is, and where things are.
//!
//! Linux `Documentation/filesystems/ext4/super.rst`.

use crate::blocks::ReadAt;
use crate::bytes::{u16_at, u32_at, wide};
use crate::checksum::crc32c;
use crate::error::{Ext4Error, Place};

/// Where on the disk it is, and how long.
pub(crate) const OFFSET: u64 = 1024;
pub(crate) const LENGTH: usize = 1024;

const MAGIC: u16 = 0xEF53;

/// Blocks are at most 64 KiB.
const MAX_LOG_BLOCK_SIZE: u32 = 6;

/// `s_feature_incompat`. What is not here is not read.
mod incompat {
    pub(super) const FILE_TYPE: u32 = 0x2;
    pub(super) const RECOVER: u32 = 0x4;
    pub(super) const META_GROUPS: u32 = 0x10;
    pub(super) const EXTENTS: u32 = 0x40;
    pub(super) const WIDE: u32 = 0x80;
    pub(super) const MULTIPLE_MOUNTS: u32 = 0x100;
    pub(super) const FLEXIBLE_GROUPS: u32 = 0x200;
    pub(super) const CHECKSUM_SEED: u32 = 0x2000;
    pub(super) const LARGE_DIRECTORIES: u32 = 0x4000;
    pub(super) const READ: u32 = FILE_TYPE
        | RECOVER
        | META_GROUPS
        | EXTENTS
        | WIDE
        | MULTIPLE_MOUNTS
        | FLEXIBLE_GROUPS
        | CHECKSUM_SEED
        | LARGE_DIRECTORIES;
    /// Names of some that are not.
    pub(super) const KNOWN: [(u32, &str); 7] = [
        (0x1, "compressed files"),
        (0x8, "an external journal"),
        (0x400, "large extended attributes in inodes of their own"),
        (0x1000, "data in directory entries"),
        (0x8000, "data in inodes"),
        (0x1_0000, "encrypted files"),
        (0x2_0000, "directories that ignore case"),
    ];
}

/// `s_feature_ro_compat`. Who only reads may ignore those that it does not know.
mod ro_compat {
    pub(super) const SPARSE_SUPERBLOCKS: u32 = 0x1;
    pub(super) const GROUP_CHECKSUMS: u32 = 0x10;
    pub(super) const METADATA_CHECKSUMS: u32 = 0x400;
}

/// `s_feature_compat`.
mod compat {
    pub(super) const JOURNAL: u32 = 0x4;
    pub(super) const SPARSE_SUPERBLOCKS_2: u32 = 0x200;
}

/// Which metadata have checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checksums {
    None,
    /// Group descriptors, CRC-16.
    Groups,
    /// Everything, CRC-32C.
    All,
}

/// Which groups have copies of the superblock; descriptors of meta block groups lie behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Copies {
    Everywhere,
    Powers,
    In([u32; 2]),
}

/// A checked superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) block_size: u32,
    pub(crate) blocks: u64,
    pub(crate) first_data_block: u64,
    pub(crate) blocks_per_group: u64,
    pub(crate) groups: u64,
    pub(crate) inodes: u32,
    pub(crate) inodes_per_group: u32,
    pub(crate) inode_size: u32,
    /// The first inode that is not reserved.
    pub(crate) first_inode: u32,
    pub(crate) descriptor_size: u32,
    /// The first block of descriptors that is with its groups.
    first_meta_block: Option<u64>,
    copies: Copies,
    pub(crate) checksums: Checksums,
    /// The state that CRC-32Cs begin with.
    pub(crate) seed: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) has_file_types: bool,
    pub(crate) has_large_directories: bool,
    /// The journal's inode, if it is to be replayed.
    pub(crate) dirty_journal: Option<u32>,
}

/// Reads the bytes of the superblock.
pub(crate) fn read(source: &impl ReadAt) -> Result<Vec<u8>, Ext4Error> {
    let mut bytes = vec![0; LENGTH];
    match source.read_exact_at(&mut bytes, OFFSET) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(Ext4Error::NotExt4),
        Err(source) => Err(Ext4Error::Read { offset: OFFSET, source }),
    }
}

impl Superblock {
    /// Checks a superblock of a disk of `length` bytes.
    pub(crate) fn parse(bytes: &[u8], length: u64) -> Result<Self, Ext4Error> {
        if u16_at(bytes, 0x38) != MAGIC {
            return Err(Ext4Error::NotExt4);
        }
        let features = Features::parse(bytes)?;
        if features.checksums == Checksums::All {
            check_sum(bytes)?;
        }
        let superblock = Self::geometry(bytes, &features)?;
        superblock.check(length)?;
        Ok(superblock)
    }

    fn geometry(bytes: &[u8], features: &Features) -> Result<Self, Ext4Error> {
        let log_block_size = u32_at(bytes, 0x18);
        Place::Superblock.check(log_block_size <= MAX_LOG_BLOCK_SIZE, "its block size is too large")?;
        // Revision 0 had neither choices of sizes nor features.
        let old = u32_at(bytes, 0x4C) == 0;
        let is_wide = features.incompat & incompat::WIDE != 0;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(bytes.get(0x68..0x78).unwrap_or(&[0; 16]));
        let has_seed = features.incompat & incompat::CHECKSUM_SEED != 0;
        let blocks = wide(if is_wide { u32_at(bytes, 0x150) } else { 0 }, u32_at(bytes, 0x4));
        let first_data_block = u64::from(u32_at(bytes, 0x14));
        let blocks_per_group = u64::from(u32_at(bytes, 0x20));
        Place::Superblock.check(blocks_per_group > 0, "its groups have no blocks")?;
        let first_meta_block = u64::from(u32_at(bytes, 0x104));
        let has_meta_groups = features.incompat & incompat::META_GROUPS != 0;
        let journal = u32_at(bytes, 0xE0);
        let has_journal = features.compat & compat::JOURNAL != 0;
        let is_dirty = features.incompat & incompat::RECOVER != 0;
        Ok(Self {
            block_size: 1024 << log_block_size,
            blocks,
            first_data_block,
            blocks_per_group,
            groups: blocks.saturating_sub(first_data_block).div_ceil(blocks_per_group),
            inodes: u32_at(bytes, 0),
            inodes_per_group: u32_at(bytes, 0x28),
            inode_size: if old { 128 } else { u16_at(bytes, 0x58).into() },
            first_inode: if old { 11 } else { u32_at(bytes, 0x54) },
            descriptor_size: if is_wide { u16_at(bytes, 0xFE).into() } else { 32 },
            first_meta_block: has_meta_groups.then_some(first_meta_block),
            copies: features.copies(bytes),
            checksums: features.checksums,
            seed: if has_seed { u32_at(bytes, 0x270) } else { crc32c(!0, &uuid) },
            uuid,
            has_file_types: features.incompat & incompat::FILE_TYPE != 0,
            has_large_directories: features.incompat & incompat::LARGE_DIRECTORIES != 0,
            dirty_journal: (has_journal && is_dirty).then_some(journal),
        })
    }

    fn check(&self, length: u64) -> Result<(), Ext4Error> {
        let check = |holds, problem| Place::Superblock.check(holds, problem);
        let size = u64::from(self.block_size);
        check(self.blocks.checked_mul(size).is_some_and(|bytes| bytes <= length), "its blocks do not fit on the disk")?;
        check(self.first_data_block <= self.own_block(), "its first block is not where it must be")?;
        check(self.blocks > self.first_data_block, "it has no blocks")?;
        let inode_size = self.inode_size;
        check(inode_size.is_power_of_two() && (128..=self.block_size).contains(&inode_size), "its inode size is none")?;
        let per_group = self.inodes_per_group;
        check(per_group > 0 && per_group <= 8 * self.block_size, "its groups have no or too many inodes")?;
        let inodes = self.groups.checked_mul(per_group.into());
        check(inodes == Some(self.inodes.into()), "its number of inodes is not that of its groups")?;
        check(self.first_inode >= 11 && self.first_inode <= self.inodes, "its first inode is reserved or not there")?;
        let sizes = if self.descriptor_size == 32 { 32..=32 } else { 64..=self.block_size.min(1024) };
        check(
            sizes.contains(&self.descriptor_size) && self.descriptor_size.is_power_of_two(),
            "its descriptors have no size that they can have",
        )?;
        check(self.dirty_journal != Some(0), "its journal has no inode")
    }

    /// Whether a block can belong to a file.
    pub(crate) fn has_blocks(&self, first: u64, count: u64) -> bool {
        first >= self.first_data_block.max(1) && first.checked_add(count).is_some_and(|end| end <= self.blocks)
    }

    /// Block and byte within it where a group's descriptor begins.
    pub(crate) fn descriptor_at(&self, group: u64) -> (u64, u64) {
        let size = u64::from(self.descriptor_size);
        let per_block = u64::from(self.block_size) / size;
        let (block, within) = (group / per_block, group % per_block * size);
        match self.first_meta_block {
            Some(first) if block >= first => {
                let group = block * per_block;
                let start = self.first_data_block + group * self.blocks_per_group;
                // Before the first group's superblock there may be the boot block.
                let boot = if group == 0 { self.own_block() - self.first_data_block } else { 0 };
                (start + u64::from(self.copies.has(group)) + boot, within)
            }
            _ => (self.own_block() + 1 + block, within),
        }
    }

    /// The block that the superblock is in.
    fn own_block(&self) -> u64 {
        OFFSET / u64::from(self.block_size)
    }
}

impl Copies {
    fn has(&self, group: u64) -> bool {
        let is_power = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        match self {
            Self::Everywhere => true,
            Self::Powers => group <= 1 || [3, 5, 7].into_iter().any(is_power),
            Self::In(groups) => group == 0 || groups.iter().any(|copy| u64::from(*copy) == group),
        }
    }
}

/// What the superblock says that the file system has.
struct Features {
    compat: u32,
    incompat: u32,
    ro_compat: u32,
    checksums: Checksums,
}

impl Features {
    fn parse(bytes: &[u8]) -> Result<Self, Ext4Error> {
        let (compat, incompat, ro_compat) = match u32_at(bytes, 0x4C) {
            0 => (0, 0, 0),
            _ => (u32_at(bytes, 0x5C), u32_at(bytes, 0x60), u32_at(bytes, 0x64)),
        };
        let unknown = incompat & !incompat::READ;
        if unknown != 0 {
            let known = incompat::KNOWN.iter().find(|(bit, _)| unknown & bit != 0);
            let what = known.map_or_else(|| format!("features {unknown:#x}"), |(_, name)| (*name).to_owned());
            return Err(Ext4Error::Unsupported { what });
        }
        let has = |bit| ro_compat & bit != 0;
        let checksums = match (has(ro_compat::METADATA_CHECKSUMS), has(ro_compat::GROUP_CHECKSUMS)) {
            (true, true) => return Err(Place::Superblock.damaged("it has two kinds of checksums")),
            (true, false) => Checksums::All,
            (false, true) => Checksums::Groups,
            (false, false) => Checksums::None,
        };
        if checksums == Checksums::All && bytes.get(0x175) != Some(&1) {
            return Err(Ext4Error::Unsupported { what: "checksums other than CRC-32C".to_owned() });
        }
        Ok(Self { compat, incompat, ro_compat, checksums })
    }

    fn copies(&self, bytes: &[u8]) -> Copies {
        if self.compat & compat::SPARSE_SUPERBLOCKS_2 != 0 {
            Copies::In([u32_at(bytes, 0x24C), u32_at(bytes, 0x250)])
        } else if self.ro_compat & ro_compat::SPARSE_SUPERBLOCKS != 0 {
            Copies::Powers
        } else {
            Copies::Everywhere
        }
    }
}

fn check_sum(bytes: &[u8]) -> Result<(), Ext4Error> {
    let covered = bytes.get(..0x3FC).unwrap_or_default();
    Place::Superblock.check(u32_at(bytes, 0x3FC) == crc32c(!0, covered), "its checksum is wrong")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_in_few_groups() {
        let with = |copies: &Copies| (0..130).filter(|group| copies.has(*group)).collect::<Vec<_>>();
        assert_eq!(with(&Copies::Powers), [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
        assert_eq!(with(&Copies::In([1, 79])), [0, 1, 79]);
        assert_eq!(with(&Copies::Everywhere).len(), 130);
    }
}
