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
//! Everything is uncompressed and whole blocks (`FLAT_PLAIN` for files), so that the kernel maps a file's pages
//! straight to the device, and the host shares the page cache of a layer's data among all guests. Small files waste
//! the rest of their block, sparsely. An image costs about 64 bytes for an inode and 12 for a name. The image is a
//! function of the tree: same tree, same bytes.
//!
//! # What this crate is not for
//!
//! No compression, no knowledge of tar or of images. It does not read file contents, except through [`reader`].
//!
//! # Map
//!
//! [`erofs_format`] is the on-disk format. `layout` gives every inode its place, `write` fills the places in,
//! `directory` packs entries into blocks, `xattr` packs attributes. [`reader`] reads images, for tests and look-ups.
//!
//! # Threats
//!
//! | Input | What happens |
//! |---|---|
//! | a tree whose contents lie outside the layers' data | typed error |
//! | a device of more blocks than 32 bits count | typed error |
//! | an image with lying superblock, inodes, directories, attributes ([`reader`]) | typed error; memory bounded by what the device holds and by fixed limits |

pub mod erofs_format;
pub mod reader;

mod crc32c;
mod device;
mod directory;
mod layout;
mod write;
mod xattr;

pub use device::{FlatDevice, ReadAt};
pub use erofs_format::{BLOCK, FORMAT_VERSION};
pub use layout::ErofsError;
pub use write::{MetadataImage, write_metadata};
