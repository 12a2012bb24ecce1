//! The part of the EROFS on-disk format that this crate writes and reads.
//!
//! Source: the Linux kernel, `Documentation/filesystems/erofs.rst` and `fs/erofs/erofs_fs.h` of 6.12. All integers are
//! little-endian. Blocks are 4096 bytes.
//!
//! ```text
//! superblock, at byte 1024
//!   0  u32 magic            32  u32 build_time_nsec     80  u32 feature_incompat (0)
//!   4  u32 checksum         36  u32 blocks              84..128  zero here
//!   8  u32 feature_compat   40  u32 meta_blkaddr (0)
//!  12  u8  blkszbits (12)   44  u32 xattr_blkaddr: the shared extended attributes, 0 if there are none
//!  13  u8  sb_extslots (0)  48  [16] uuid
//!  14  u16 root_nid         64  [16] volume_name
//!  16  u64 inos             24  u64 build_time
//!
//! extended inode, 64 bytes, at meta_blkaddr * 4096 + nid * 32
//!   0  u16 format = 1 | layout << 1          20  u32 ino
//!   2  u16 xattr_icount                      24  u32 uid
//!   4  u16 mode                              28  u32 gid
//!   6  u16 zero                              32  u64 mtime
//!   8  u64 size                              40  u32 mtime_nsec
//!  16  u32 first block, or device number     44  u32 nlink
//!                                            48..64  zero
//!   then extended attributes, then for FLAT_INLINE the last, partial block of the data, within one block
//!
//! compact inode, 32 bytes
//!   0  u16 format = 0 | layout << 1           8  u32 size        20  u32 ino
//!   2  u16 xattr_icount                      12  u32 zero        24  u16 uid
//!   4  u16 mode                              16  u32 as above    26  u16 gid
//!   6  u16 nlink                                 mtime: build_time of the superblock
//!
//! extended attributes: 12-byte header (u32 name filter, u8 shared count, 7 zero), then a u32 for each shared one: its
//! byte offset from xattr_blkaddr * 4096, divided by 4; then entries, each on 4 bytes
//!   0  u8 name length   1  u8 name index   2  u16 value size   4  name without prefix, value
//!   xattr_icount = 0 if there are none, else 1 + (bytes after the header) / 4
//!
//! directory block: 12-byte entries sorted by name, `.` and `..` among them, then the names without gaps
//!   0  u64 nid   8  u16 name offset in the block   10  u8 file type   11  zero
//!   the first name offset tells how many entries there are; the last name ends at a NUL or the end of the block
//! ```
//!
//! The checksum is CRC-32C, seed `!0`, not inverted at the end, over bytes 1024 to 4096 with the field itself zero.

use layer::{Device, Kind};

/// Block size.
pub const BLOCK: u64 = 4096;
/// Version of what [`write_metadata`](crate::write_metadata) makes of a tree; part of the name under which images are
/// stored. To be raised with every change of the bytes.
pub const FORMAT_VERSION: u32 = 2;

pub(crate) const BLOCK_USIZE: usize = 4096;
pub(crate) const BLOCK_BITS: u8 = 12;
pub(crate) const SUPERBLOCK_OFFSET: usize = 1024;
pub(crate) const SUPERBLOCK_LEN: usize = 128;
/// Where the superblock's checksum is.
pub(crate) const CHECKSUM_OFFSET: usize = SUPERBLOCK_OFFSET + 4;
pub(crate) const MAGIC: u32 = 0xE0F5_E1E2;
pub(crate) const COMPAT_CHECKSUM: u32 = 1;
pub(crate) const COMPAT_MTIME: u32 = 2;

/// Inodes begin at multiples of this; a nid counts them.
pub(crate) const SLOT: u64 = 32;
pub(crate) const INODE_LEN: usize = 64;
pub(crate) const COMPACT_INODE_LEN: usize = 32;
pub(crate) const COMPACT: u16 = 0;
pub(crate) const EXTENDED: u16 = 1;
pub(crate) const FLAT_PLAIN: u16 = 0;
pub(crate) const FLAT_INLINE: u16 = 2;
pub(crate) const DIRENT_LEN: usize = 12;
pub(crate) const XATTR_HEADER_LEN: usize = 12;
pub(crate) const XATTR_ENTRY_LEN: usize = 4;
/// Most shared attributes of one inode.
pub(crate) const XATTR_SHARED_MAX: usize = 255;

/// File type bits of a mode, as in `<sys/stat.h>`.
pub(crate) const S_IFMT: u16 = 0o170_000;

/// Types of a file: of a directory entry and of a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A symbolic link.
    Symlink,
}

impl FileType {
    const ALL: [(Self, u8, u16); 7] = [
        (Self::Regular, 1, 0o100_000),
        (Self::Directory, 2, 0o040_000),
        (Self::CharDevice, 3, 0o020_000),
        (Self::BlockDevice, 4, 0o060_000),
        (Self::Fifo, 5, 0o010_000),
        (Self::Socket, 6, 0o140_000),
        (Self::Symlink, 7, 0o120_000),
    ];

    pub(crate) fn of(kind: Kind<'_>) -> Self {
        match kind {
            Kind::File(_) => Self::Regular,
            Kind::Directory => Self::Directory,
            Kind::CharDevice(_) => Self::CharDevice,
            Kind::BlockDevice(_) => Self::BlockDevice,
            Kind::Fifo => Self::Fifo,
            Kind::Symlink(_) => Self::Symlink,
        }
    }

    pub(crate) fn from_dirent(byte: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, dirent, _)| *dirent == byte).map(|(file_type, ..)| *file_type)
    }

    pub(crate) fn from_mode(mode: u16) -> Option<Self> {
        Self::ALL.iter().find(|(.., bits)| *bits == mode & S_IFMT).map(|(file_type, ..)| *file_type)
    }

    pub(crate) fn dirent(self) -> u8 {
        self.row().1
    }

    pub(crate) fn mode_bits(self) -> u16 {
        self.row().2
    }

    fn row(self) -> (Self, u8, u16) {
        let [regular, ..] = Self::ALL;
        Self::ALL.into_iter().find(|(file_type, ..)| *file_type == self).unwrap_or(regular)
    }
}

/// A device number as the kernel encodes it in 32 bits.
pub(crate) fn encode_device(device: Device) -> u32 {
    device.minor & 0xff | device.major << 8 | (device.minor & !0xff) << 12
}

pub(crate) fn decode_device(rdev: u32) -> Device {
    Device { major: rdev >> 8 & 0xfff, minor: rdev & 0xff | rdev >> 12 & 0xf_ff00 }
}

/// Name prefixes that an attribute's name index stands for. Access control lists have no name beyond the prefix.
pub(crate) const XATTR_PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_round_trip() {
        for (major, minor) in [(0, 0), (1, 3), (8, 0), (4095, 1_048_575), (259, 256), (136, 65_536)] {
            let device = Device { major, minor };
            assert_eq!(decode_device(encode_device(device)), device);
        }
        assert_eq!(encode_device(Device { major: 8, minor: 17 }), 0x811);
    }

    #[test]
    fn file_types_round_trip() {
        for (file_type, dirent, bits) in FileType::ALL {
            assert_eq!(FileType::from_dirent(dirent), Some(file_type));
            assert_eq!(FileType::from_mode(bits | 0o7777), Some(file_type));
            assert_eq!((file_type.dirent(), file_type.mode_bits()), (dirent, bits));
        }
        assert_eq!(FileType::from_dirent(0), None);
        assert_eq!(FileType::from_mode(0o644), None);
    }
}
