//! Image layers: a tar stream becomes a changeset, and the changesets of all layers become one file tree.
//!
//! A layer is converted while it streams by, once, however many images use it:
//!
//! ```text
//!  tar stream ── read_layer ──▶ Changeset (encoded: the layer's index)      one per layer, stored
//!                     └───────▶ ContentSink (the layer's data file)         contents, block aligned
//!  all Changesets ── merge ──▶ MergedTree ──▶ crate `erofs`                 one per image
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
//! No decompression, no digests (wrap the reader), no paths of the host, no knowledge of images or EROFS.
//!
//! # Map
//!
//! [`read_layer`] is in `read`, on top of `archive` (bytes to members), which uses `tar_format` (one header block),
//! `pax` and `sparse`. [`ContentSink`] is in `sink`. [`Changeset`] is in `changeset`, its bytes in
//! [`changeset_format`]. [`merge()`] is in `merge`, on top of `sources` (all changesets as one address space) and
//! `names` (which name leads where); `numbering` makes its result, the [`MergedTree`] in `merged`.
//!
//! # Threats
//!
//! | From the archive or the index | What happens |
//! |---|---|
//! | `..`, absolute names, symbolic links out of the tree | cleaned, and resolved inside the tree; there is no outside |
//! | headers that parsers read differently (two names, repeated headers) | refused |
//! | endless or huge headers, maps, names, attributes; bombs of inodes, depth, symbolic links | [`Limits`], typed error |
//! | sizes that lie | content is counted; a short archive is an error |
//! | holes of exabytes | never written; the sum of contents is limited |
//! | an index with broken records | every record is checked before the first is used |

pub mod changeset;
pub mod changeset_format;
pub mod error;
pub mod limits;
pub mod merge;
pub mod merged;
pub mod path;
pub mod sink;

mod archive;
mod names;
mod numbering;
mod pax;
mod read;
mod sources;
mod sparse;
mod tar_format;

pub use changeset::{
    Builder, Change, Changeset, Content, Device, Entry, Inode, Kind, Place, Timestamp, XattrBuf, Xattrs,
};
pub use changeset_format::{BLOCK, ChangesetError, FORMAT_VERSION, PACKED_MAX};
pub use error::{EntryFault, HeaderFault, LayerError};
pub use limits::Limits;
pub use merge::{MergeError, MergeFault, merge};
pub use merged::{InodeId, MergedInode, MergedTree};
pub use path::{EntryName, PathError};
pub use read::read_layer;
pub use sink::{ContentSink, FileSink, NullSink};
