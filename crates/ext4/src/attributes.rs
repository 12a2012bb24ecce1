//! Extended attributes, in the inode behind its fields and in a block.
//!
//! Linux `Documentation/filesystems/ext4/attributes.rst`.
//!
//! ```text
//! in the inode   magic, entries, values; a value's offset counts from the first entry
//! in a block     header of 32 bytes, entries, values; a value's offset counts from the block's beginning
//! entry          length and prefix of the name, offset, inode and size of the value, hash, name       in fours
//! ```

use std::collections::BTreeMap;

use crate::acl;
use crate::blocks::{Blocks, ReadAt};
use crate::bytes::{u16_at, u32_at};
use crate::checksum::crc32c;
use crate::error::{Ext4Error, Place};
use crate::inode::Inode;
use crate::superblock::{Checksums, Superblock};

type Result<T> = std::result::Result<T, Ext4Error>;

const MAGIC: u32 = 0xEA02_0000;
const BLOCK_HEADER: usize = 32;
const ENTRY: usize = 16;

/// Names (with their namespace) and values, sorted by name.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

pub(crate) fn read<S: ReadAt>(superblock: &Superblock, blocks: &Blocks<S>, inode: &Inode) -> Result<Xattrs> {
    let place = Place::Attributes(inode.number);
    let mut found = Xattrs::new();
    if u32_at(&inode.attributes, 0) == MAGIC {
        let area = inode.attributes.get(4..).unwrap_or_default();
        entries(place, area, 0, &mut found)?;
    }
    if inode.attribute_block != 0 {
        let number = inode.attribute_block;
        place.check(superblock.has_blocks(number, 1), "their block is not on the disk")?;
        let block = blocks.block(number)?;
        place.check(u32_at(&block, 0) == MAGIC && u32_at(&block, 8) == 1, "their block is none")?;
        if superblock.checksums == Checksums::All {
            place.check(u32_at(&block, 0x10) == sum(superblock.seed, number, &block), "their checksum is wrong")?;
        }
        entries(place, &block, BLOCK_HEADER, &mut found)?;
    }
    Ok(found)
}

fn sum(seed: u32, number: u64, block: &[u8]) -> u32 {
    let (head, tail) = (block.get(..0x10).unwrap_or_default(), block.get(0x14..).unwrap_or_default());
    crc32c(crc32c(crc32c(crc32c(seed, &number.to_le_bytes()), head), &[0; 4]), tail)
}

/// Reads entries from byte `first` of an area on, to the four zeros behind the last.
fn entries(place: Place, area: &[u8], first: usize, found: &mut Xattrs) -> Result<()> {
    let mut at = first;
    loop {
        place.check(at + 4 <= area.len(), "they have no end")?;
        if u32_at(area, at) == 0 {
            return Ok(());
        }
        let name_length = usize::from(area[at]);
        let end = (at + ENTRY + name_length).next_multiple_of(4);
        place.check(end <= area.len(), "a name is not where they are")?;
        let name = full_name(area[at + 1], &area[at + ENTRY..at + ENTRY + name_length]);
        let name = name.ok_or_else(|| place.damaged("a name is none"))?;
        place.check(u32_at(area, at + 4) == 0, "a value is in an inode of its own")?;
        let (offset, size) = (usize::from(u16_at(area, at + 2)), u32_at(area, at + 8) as usize);
        // A value that is empty is nowhere.
        let value = if size == 0 { Some(&[][..]) } else { area.get(offset..).and_then(|rest| rest.get(..size)) };
        let value = value.ok_or_else(|| place.damaged("a value is not where they are"))?;
        let value = if acl::is_acl(&name) {
            acl::to_xattr(value).ok_or_else(|| place.damaged("an access control list is none"))?
        } else {
            value.to_vec()
        };
        place.check(found.insert(name, value).is_none(), "a name is there twice")?;
        at = end;
    }
}

/// A name with its namespace, which is kept as a number.
fn full_name(prefix: u8, rest: &[u8]) -> Option<Vec<u8>> {
    let (prefix, is_whole): (&[u8], bool) = match prefix {
        1 => (b"user.", false),
        2 => (acl::ACCESS, true),
        3 => (acl::DEFAULT, true),
        4 => (b"trusted.", false),
        6 => (b"security.", false),
        7 => (b"system.", false),
        _ => return None,
    };
    let is_name = rest.is_empty() == is_whole && !rest.contains(&0);
    is_name.then(|| [prefix, rest].concat())
}
