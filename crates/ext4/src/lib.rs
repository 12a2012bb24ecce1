//! ext4: reads a file system from its disk, without mounting it, and without trusting it.
//!
//! A container writes to an ext4 file system of its own, in a machine of its own. What it wrote is wanted on the host:
//! as a list of changes, as a layer, as an archive. A mount would need root and would give the kernel of the host,
//! which was never made for that, a file system that the container could bend at will. So it is read here.
//!
//! ```text
//!  disk ── superblock ── journal: which blocks have newer versions in it
//!              │
//!              └─▶ Blocks ── group descriptors ── inodes ─┬─ directories
//!                                                         ├─ block maps ── contents
//!                                                         └─ extended attributes
//! ```
//!
//! # The design decision
//!
//! A disk that was not unmounted needs no second thought: the journal is read once, into a table of the blocks that it
//! holds newer versions of, and every later read goes through that table. The disk itself is never written, and what is
//! read is what the kernel would show after mounting it.
//!
//! The directory index (`dir_index`) is not used: whoever reads a whole directory has no use for it, and it is one
//! more thing that can lie. Block and inode bitmaps, the orphan list, quotas and reserved inodes say nothing about
//! what is in the tree, and are not looked at.
//!
//! # What this crate is not for
//!
//! No writing, no repair, no walking: a path, a tree or what overlayfs means by its whiteouts are for whoever calls.
//! Inline data, encrypted and case-insensitive directories, fast commits and external journals are refused by name.
//!
//! # Map
//!
//! [`FileSystem`] is the way in. `superblock` (geometry, features), `inode` (with the group descriptors), `map` (with
//! `extents` and `indirect`), `directory`, `attributes` (with `acl`), [`content`](Content), `journal`; below them
//! `blocks`, `checksum`, `bytes`.
//!
//! # Threats
//!
//! | From the disk | What happens |
//! |---|---|
//! | geometry that does not fit on the disk, absurd sizes | refused with the superblock |
//! | wrong checksums, where the file system has them | refused, naming what is damaged |
//! | maps that loop, share nodes, go back, or lead off the disk | logical blocks only ascend, each node is used once |
//! | a map of more blocks than there are; many files over the same blocks | both are counted |
//! | sizes of exabytes | holes cost nothing; contents are given as ranges |
//! | names with `/` or NUL, `.` and `..`, doubles, of 0 or 256 bytes | refused |
//! | directories of holes, entries without a length, reserved or deleted inodes | refused |
//! | attributes outside of their area, doubles, values elsewhere | refused |
//! | a journal that goes round for ever, lies about its length, revokes everything | bounded by its ring |
//!
//! Directory loops are not found here, because nothing walks here: a directory has one name, and who walks must keep
//! to that.

mod acl;
mod attributes;
mod blocks;
mod bytes;
mod checksum;
mod content;
mod directory;
mod error;
mod extents;
mod file_system;
mod indirect;
mod inode;
mod journal;
mod map;
mod superblock;

pub use attributes::Xattrs;
pub use blocks::ReadAt;
pub use content::{Content, ContentReader};
pub use directory::DirEntry;
pub use error::{Ext4Error, Place};
pub use file_system::FileSystem;
pub use inode::{Device, Inode, Kind, Timestamp};
