//! Image layers: a tar stream becomes a changeset, and the changesets of all layers become one file tree.
//!
//! A layer is converted while it streams by, once, however many images use it:
//!
//! ```text
//!  tar stream ── read_layer ──▶ data      contents of large files, block aligned: part of the root device
//!                         ├───▶ packed    contents of small files, to be copied into each image's metadata
//!                         ├───▶ tree      the encoded Changeset                            one of each per layer,
//!                         └───▶ skeleton  all other bytes of the archive, compressed       stored
//!  all Changesets ── merge ──▶ MergedTree ──▶ crate `erofs`                                one per image
//!  skeleton, data, packed ── Rebuild ──▶ the tar stream, byte for byte                     for save and push
//! ```
//!
//! # The design decision
//!
//! Nothing is ever unpacked. Unpacking to a directory is slow, needs root, and is where path traversal lives; here
//! a name can only ever name a place in a tree in memory. What a layer does is kept as an ordered list of entries, not
//! as a tree of its own: what an entry means (where its directory's symbolic links lead, which inode a hard link
//! shares) depends on the layers below, so it is decided when all of them are there, by applying them in order, as
//! every unpacker does. An index that was tampered with is therefore no worse than an archive that was.
//!
//! # What this crate is not for
//!
//! No decompression and no digest of the archive (wrap the reader), no paths of the host, no knowledge of images or
//! EROFS.
//!
//! # Map
//!
//! [`read_layer`] and the files it writes are in `writer`. What an entry means is in `read`, on top of `archive` (bytes
//! to members), which uses `tape` (what is content and what is skeleton), `tar_format` (one header block), `pax` and
//! `sparse`. Contents go through `data`, hashed by [`verity`]; [`skeleton`] has that format and [`Rebuild`].
//! [`Changeset`] is in `changeset`, its bytes in [`changeset_format`]. [`merge()`] is in `merge`, on top of `sources`
//! (all changesets as one address space) and `names` (which name leads where); `numbering` makes its result, the
//! [`MergedTree`] in `merged`.
//!
//! # Threats
//!
//! | From the archive or the index | What happens |
//! |---|---|
//! | `..`, absolute names, symbolic links out of the tree | cleaned, and resolved inside the tree; there is no outside |
//! | archives that GNU tar, Python or Go read differently (two names, sizes of what has none, …) | refused |
//! | endless or huge headers, maps, names, attributes; bombs of inodes, depth, symbolic links | [`Limits`], typed error |
//! | sizes that lie | content is counted; a short archive is an error |
//! | holes of exabytes | never written; the sum of contents is limited |
//! | an index with broken records | every record is checked before the first is used |
//! | a skeleton that is bent | nothing is read twice or beyond a file's end; a small window; the digest decides |

pub mod changeset;
pub mod changeset_format;
pub mod error;
pub mod limits;
pub mod merge;
pub mod merged;
pub mod path;
pub mod skeleton;
pub mod verity;

mod archive;
mod data;
mod names;
mod numbering;
mod pax;
mod read;
mod sources;
mod sparse;
mod tape;
mod tar_format;
mod writer;

pub use changeset::{
    Builder, Change, Changeset, Content, Device, Entry, Inode, Kind, Place, Timestamp, XattrBuf, Xattrs,
};
pub use changeset_format::{BLOCK, ChangesetError, FORMAT_VERSION, PACKED_MAX};
pub use error::{EntryFault, HeaderFault, HeaderPlace, LayerError};
pub use limits::Limits;
pub use merge::{MergeError, MergeFault, merge};
pub use merged::{InodeId, MergedInode, MergedTree};
pub use path::{EntryName, PathError};
pub use skeleton::{Rebuild, SkeletonError};
pub use writer::{LayerOutput, LayerWriter, read_changeset, read_layer};
