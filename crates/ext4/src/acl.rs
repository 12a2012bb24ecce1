//! POSIX access control lists: ext4 keeps them shorter than programs see them.
//!
//! ```text
//! on the disk   version 1; tag, permissions, and an id for users and groups with names alone       4 or 8 bytes
//! as attribute  version 2; tag, permissions, id                                                    8 bytes
//! ```
//!
//! Linux `fs/ext4/acl.h` and `include/uapi/linux/posix_acl_xattr.h` have the formats.

use crate::bytes::{u16_at, u32_at};

pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

const ON_DISK: u32 = 1;
const AS_ATTRIBUTE: u32 = 2;
const NO_ID: u32 = u32::MAX;

/// Whether an attribute of that name is one.
pub(crate) fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

/// The attribute that programs see; `None` where the bytes are no list.
pub(crate) fn to_xattr(disk: &[u8]) -> Option<Vec<u8>> {
    if disk.len() < 4 || u32_at(disk, 0) != ON_DISK {
        return None;
    }
    let mut attribute = AS_ATTRIBUTE.to_le_bytes().to_vec();
    let mut rest = &disk[4..];
    while !rest.is_empty() {
        let (length, has_id) = match u16_at(rest, 0) {
            // The owner, the group, the mask, others.
            0x01 | 0x04 | 0x10 | 0x20 => (4, false),
            // A user, a group.
            0x02 | 0x08 => (8, true),
            _ => return None,
        };
        let (entry, after) = rest.split_at_checked(length)?;
        attribute.extend_from_slice(&entry[..4]);
        attribute.extend_from_slice(&if has_id { u32_at(entry, 4) } else { NO_ID }.to_le_bytes());
        rest = after;
    }
    Some(attribute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_what_programs_see() {
        let disk = [&[1, 0, 0, 0][..], &[1, 0, 6, 0], &[2, 0, 4, 0, 0xE8, 3, 0, 0], &[0x20, 0, 4, 0]].concat();
        let attribute = [
            &[2, 0, 0, 0][..],
            &[1, 0, 6, 0, 255, 255, 255, 255],
            &[2, 0, 4, 0, 0xE8, 3, 0, 0],
            &[0x20, 0, 4, 0, 255, 255, 255, 255],
        ];
        assert_eq!(to_xattr(&disk).unwrap(), attribute.concat());
        for length in [0, 3, 5, 11, 15] {
            assert_eq!(to_xattr(&disk[..length]), None, "{length}");
        }
        assert_eq!(to_xattr(&[1, 0, 0, 0, 3, 0, 0, 0]), None);
    }
}
