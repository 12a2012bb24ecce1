//! EROFS: the merged tree of an image becomes one read-only file system image, without copying any content.
//!
//! [`write_metadata`] writes superblock, inodes, directories, symbolic links and extended attributes. File contents
//! stay where the conversion of the layers put them; inodes name them by absolute block number of one flat device:
//!
//! ```text
//!  block 0            m                  m + l₀                m + l₀ + l₁
//!  │ metadata (here)  │ data of layer 0  │ data of layer 1     │ …
//! ```
//!
//! # The design decision
//!
//! Everything is uncompressed. Large files are whole blocks of the layers' data (`FLAT_PLAIN`), so that the kernel maps
//! a file's pages straight to the device, and the host shares the page cache of a layer's data among all guests. Small
//! files would waste most of a block each, and cost a read each; their contents are copied into the metadata, behind
//! their inodes (`FLAT_INLINE`).
//!
//! The image is written front to back, in memory that does not grow with what it holds but for four bytes an inode,
//! so that an image of millions of files is nothing special. It is a function of its [`Source`]: the same layers, the
//! same bytes. What does so without a loss is stated once: attributes that several inodes have are shared where that
//! takes fewer bytes, and inodes of the most common time are compact, 32 bytes instead of 64.
//!
//! # What this crate is not for
//!
//! No compression, no knowledge of tar or of images. It reads no contents of large files, except through [`reader`].
//!
//! # Map
//!
//! [`erofs_format`] is the on-disk format. `layout` gives every inode its place, with `places` (which fills holes),
//! `mtime` and `xattr` (what inodes have in common); `write` fills the places in, with `directory`, which packs entries
//! into blocks, and `packed`, where small contents come from. [`reader`] reads images, for tests and look-ups.
//!
//! # Threats
//!
//! | Input | What happens |
//! |---|---|
//! | a tree whose contents lie outside the layers' data or packed contents | typed error |
//! | a device of more blocks than 32 bits count | typed error |
//! | millions of different attributes or times | a bounded number is counted; the image is larger, not wrong |
//! | an image with lying superblock, inodes, directories, attributes ([`reader`]) | typed error; memory bounded by what the device holds and by fixed limits |

pub mod erofs_format;
pub mod reader;

mod crc32c;
mod device;
mod directory;
mod layout;
mod mtime;
mod packed;
mod places;
mod write;
mod xattr;

pub use device::{FlatDevice, ReadAt};
pub use erofs_format::{BLOCK, FORMAT_VERSION};
pub use layout::ErofsError;
pub use packed::{NothingPacked, PackedContents, PackedFiles};
pub use write::{MetadataImage, Source, write_metadata};
