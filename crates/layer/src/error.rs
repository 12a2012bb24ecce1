//! Why a layer cannot be read.

use std::{fmt, io};

use crate::changeset_format::ChangesetError;
use crate::path::{EntryName, PathError};

/// Why a layer archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The archive's reader failed (for instance, its decompressor).
    #[error("cannot read the archive after byte {position}")]
    Read {
        /// Bytes read before.
        position: u64,
        /// Why.
        source: io::Error,
    },
    /// The place for contents failed (for instance, the disk is full).
    #[error("cannot store the content of {entry}")]
    Store {
        /// The file.
        entry: EntryName,
        /// Why.
        source: io::Error,
    },
    /// The place for what else is kept of the layer failed.
    #[error("cannot store the layer")]
    Finish(#[source] io::Error),
    /// Something follows the end of the archive, more than [`Limits::ignored_bytes`](crate::Limits::ignored_bytes).
    #[error("more than {0} bytes follow the end of the archive")]
    Trailing(u64),
    /// The archive ends within a header.
    #[error("the archive is truncated: it ends within the header at {place}")]
    TruncatedHeader {
        /// Where the header begins.
        place: HeaderPlace,
    },
    /// The archive ends within a member.
    #[error("the archive is truncated: it ends within {entry}")]
    TruncatedMember {
        /// The member.
        entry: EntryName,
    },
    /// A header is no tar header, or none to be trusted.
    #[error("bad tar header at {place}: {fault}")]
    Header {
        /// Where it begins.
        place: HeaderPlace,
        /// What is wrong with it.
        fault: HeaderFault,
    },
    /// An entry says something that cannot be done.
    #[error("entry {entry}: {fault}")]
    Entry {
        /// The entry.
        entry: EntryName,
        /// What is wrong with it.
        fault: EntryFault,
    },
    /// An entry cannot be part of a changeset, or there are too many.
    #[error(transparent)]
    Changeset(#[from] ChangesetError),
}

/// Where a header is that has no name yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderPlace {
    /// Its first byte.
    pub position: u64,
    /// The last entry before it.
    pub after: Option<EntryName>,
}

impl fmt::Display for HeaderPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}", self.position)?;
        self.after.as_ref().map_or(Ok(()), |entry| write!(f, ", after {entry}"))
    }
}

/// What is wrong with a header that has no name yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// The checksum does not fit.
    #[error("wrong checksum")]
    Checksum,
    /// A zero block that is neither followed by another nor by the end.
    #[error("a lone block of zeros in the middle of the archive")]
    LoneZeroBlock,
    /// Headers that describe the next member, and no next member.
    #[error("the archive ends after a header that describes the next member")]
    Dangling,
    /// Two headers of the same kind for one member; readers disagree about which one counts.
    #[error("two {0} headers for one member")]
    Repeated(&'static str),
    /// A PAX or GNU long name header that is larger than the limit.
    #[error("a {0} header of more than {1} bytes")]
    TooLarge(&'static str, u64),
    /// A number field that is none.
    #[error("the {0} field is not a number")]
    Number(&'static str),
    /// Malformed PAX records.
    #[error("malformed PAX record: {0}")]
    Pax(&'static str),
    /// A global PAX header with a record that makes sense for one member only.
    #[error("a global PAX header sets {0}")]
    Global(&'static str),
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// A number field that is none.
    #[error("the {0} field is not a number")]
    Number(&'static str),
    /// A number that is negative or does not fit into its type.
    #[error("the {0} is out of range")]
    Range(&'static str),
    /// Two headers give different values, and readers disagree about which one counts.
    #[error("ambiguous {0}: two headers contradict each other")]
    Ambiguous(&'static str),
    /// Readers that are in wide use understand it differently, so that one would check what another then runs.
    #[error("readers of tar archives disagree about {0}")]
    Disputed(&'static str),
    /// The path cannot be part of a tree.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The root is a directory and remains one.
    #[error("only a directory can take the place of the root")]
    Root,
    /// `.wh.`, `.wh..` and `.wh...` name nothing that could be removed.
    #[error("a whiteout of nothing")]
    Whiteout,
    /// A symbolic or hard link without a target.
    #[error("a link to nowhere")]
    NoTarget,
    /// A type that no layer can hold.
    #[error("unsupported type '{}'", .0.escape_ascii())]
    Type(u8),
    /// The map of a sparse file contradicts itself or its content.
    #[error("damaged sparse map: {0}")]
    Sparse(&'static str),
    /// A sparse file with too many extents.
    #[error("sparse file of more than {0} extents")]
    SparseExtents(u64),
    /// More content than the limit allows.
    #[error("the layer's content is larger than {0} bytes")]
    Content(u64),
    /// Content of entries that have none, more than [`Limits::ignored_bytes`](crate::Limits::ignored_bytes).
    #[error("more than {0} bytes of content that belong to no file")]
    Ignored(u64),
    /// A malformed extended attribute.
    #[error("malformed extended attribute: {0}")]
    Xattr(&'static str),
}
