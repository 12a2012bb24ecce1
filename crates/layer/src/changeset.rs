//! What one layer changes: an ordered list of entries.

use std::collections::BTreeMap;
use std::fmt;

use crate::changeset_format::{self as format, ChangesetError, Cursor};
use crate::limits::Limits;
use crate::path::EntryName;

/// What one layer does to the tree below it, in archive order: a *changeset*, as the OCI image specification has it.
///
/// A changeset is kept in its encoded form ([`changeset_format`](crate::changeset_format)) and read in place: the
/// index file of a layer and its form in memory are the same bytes, so encoding is free, decoding is one checking
/// pass, and a [`merge`](crate::merge()) borrows every name, link target and attribute.
#[derive(Clone, PartialEq, Eq)]
pub struct Changeset {
    bytes: Vec<u8>,
    totals: format::Totals,
}

impl Changeset {
    /// The encoded form, to be stored.
    pub fn encode(&self) -> &[u8] {
        &self.bytes
    }

    /// Checks an encoded changeset and takes it over.
    pub fn decode(bytes: Vec<u8>, limits: &Limits) -> Result<Self, ChangesetError> {
        let totals = format::check(&bytes, limits)?;
        Ok(Self { bytes, totals })
    }

    /// A changeset of sound records, but for where contents lie.
    pub(crate) fn of(mut bytes: Vec<u8>, totals: format::Totals) -> Result<Self, ChangesetError> {
        bytes.extend_from_slice(&totals.encode());
        bytes.shrink_to_fit();
        let changeset = Self { bytes, totals };
        changeset.entries().try_for_each(|entry| format::check_content(&entry, &changeset.totals))?;
        Ok(changeset)
    }

    /// The entries in archive order.
    pub fn entries(&self) -> Entries<'_> {
        Entries { cursor: Cursor::new(format::records(&self.bytes)), directory: &[] }
    }

    /// Where in the encoded form the entry begins that `entries` gives next.
    pub(crate) fn position(&self, entries: &Entries<'_>) -> usize {
        format::HEADER_LEN + format::records(&self.bytes).len() - entries.cursor.len()
    }

    /// The entry at a [`position`](Self::position). Its directory is known only if it is stated there.
    pub(crate) fn entry_at(&self, position: usize) -> Option<Entry<'_>> {
        let records = format::records(&self.bytes).get(position.checked_sub(format::HEADER_LEN)?..)?;
        Entries { cursor: Cursor::new(records), directory: &[] }.next()
    }

    /// How many entries there are.
    pub fn len(&self) -> u64 {
        self.totals.entries
    }

    /// Whether the layer changes nothing.
    pub fn is_empty(&self) -> bool {
        self.totals.entries == 0
    }

    /// Length in bytes of the data file that the entries' contents lie in; a multiple of 4096.
    pub fn data_bytes(&self) -> u64 {
        self.totals.data_bytes
    }

    /// Length in bytes of the file that the packed entries' contents lie in.
    pub fn packed_bytes(&self) -> u64 {
        self.totals.packed_bytes
    }
}

impl fmt::Debug for Changeset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changeset").field("totals", &self.totals).finish_non_exhaustive()
    }
}

/// Iterator over the entries of a [`Changeset`].
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    cursor: Cursor<'a>,
    directory: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        // Whoever made the changeset checked every record, so this ends where the records end.
        format::next_entry(&mut self.cursor, &mut self.directory).ok().flatten()
    }
}

/// One entry: what happens to one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The directory as the archive spells it, lexically cleaned, without a leading slash; empty for the root.
    pub directory: &'a [u8],
    /// The name in that directory. Empty only where the root itself is meant, and for [`Change::Opaque`].
    pub name: &'a [u8],
    /// What happens.
    pub change: Change<'a>,
}

impl Entry<'_> {
    /// Directory and name as one path.
    pub fn path(&self) -> EntryName {
        EntryName::join(self.directory, self.name)
    }
}

/// What happens to a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// What lower layers have under this name is gone (`.wh.NAME`).
    Whiteout,
    /// Everything that lower layers have in this directory is gone (`.wh..wh..opq`).
    Opaque,
    /// The name is one more link to the inode at this path.
    Link(&'a [u8]),
    /// The name is this inode.
    Inode(Inode<'a>),
}

/// An inode: attributes and type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode<'a> {
    /// Permission bits with setuid, setgid and sticky: at most `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last modification.
    pub mtime: Timestamp,
    /// Extended attributes.
    pub xattrs: Xattrs<'a>,
    /// Type, and what belongs to it.
    pub kind: Kind<'a>,
}

impl Inode<'_> {
    /// A directory that no layer describes: 0755, root's, from the beginning of time.
    pub const IMPLIED_DIRECTORY: Inode<'static> = Inode {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp { seconds: 0, nanoseconds: 0 },
        xattrs: Xattrs::EMPTY,
        kind: Kind::Directory,
    };
}

/// File types. Tar has no sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A directory.
    Directory,
    /// A regular file.
    File(Content),
    /// A symbolic link and what it points at.
    Symlink(&'a [u8]),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
}

/// The content of a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Content {
    /// Where it lies. [`Place::Data`] at offset 0 for an empty file.
    pub place: Place,
    /// Size in bytes.
    pub size: u64,
}

impl Content {
    /// Of an empty file.
    pub const EMPTY: Content = Content { place: Place::Data { offset: 0 }, size: 0 };
}

/// Where in its layer a content lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// In the layer's data, which becomes part of the root device.
    Data {
        /// Byte offset, a multiple of 4096.
        offset: u64,
    },
    /// Among the layer's packed contents, to be copied into the metadata of every image: at most
    /// [`PACKED_MAX`](crate::PACKED_MAX) bytes.
    Packed {
        /// Byte offset.
        offset: u64,
    },
}

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// At most 12 bits.
    pub major: u32,
    /// At most 20 bits.
    pub minor: u32,
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// Extended attributes in their encoded form, sorted by name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Xattrs<'a> {
    pub(crate) bytes: &'a [u8],
}

impl<'a> Xattrs<'a> {
    /// No attributes.
    pub const EMPTY: Xattrs<'static> = Xattrs { bytes: &[] };

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Names (with their namespace, as in `user.mime_type`) and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut cursor = Cursor::new(self.bytes);
        std::iter::from_fn(move || format::next_xattr(&mut cursor).ok().flatten())
    }
}

impl fmt::Debug for Xattrs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(name, value)| (EntryName::from(name), value.escape_ascii().to_string())))
            .finish()
    }
}

/// Extended attributes under construction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct XattrBuf(Vec<u8>);

impl XattrBuf {
    /// Attributes as an inode carries them.
    pub fn as_xattrs(&self) -> Xattrs<'_> {
        Xattrs { bytes: &self.0 }
    }
}

impl From<&BTreeMap<Vec<u8>, Vec<u8>>> for XattrBuf {
    fn from(attributes: &BTreeMap<Vec<u8>, Vec<u8>>) -> Self {
        let mut bytes = Vec::new();
        for (name, value) in attributes {
            format::put_bytes(&mut bytes, name);
            format::put_bytes(&mut bytes, value);
        }
        Self(bytes)
    }
}

/// Makes a [`Changeset`], entry by entry.
#[derive(Debug)]
pub struct Builder(Records);

impl Builder {
    /// An empty changeset.
    pub fn new(limits: &Limits) -> Self {
        Self(Records::new(limits))
    }

    /// Adds an entry after the others. Whether its content exists is checked by [`finish`](Self::finish).
    pub fn push(&mut self, entry: &Entry<'_>) -> Result<(), ChangesetError> {
        self.0.push(entry)
    }

    /// The changeset, over `data_bytes` of data and `packed_bytes` of packed contents.
    pub fn finish(self, data_bytes: u64, packed_bytes: u64) -> Result<Changeset, ChangesetError> {
        let Records { pending, entries, .. } = self.0;
        Changeset::of(pending, format::Totals { entries, data_bytes, packed_bytes })
    }
}

/// Encodes a changeset, but for its totals, into bytes that may be taken away at any time.
#[derive(Debug)]
pub(crate) struct Records {
    pending: Vec<u8>,
    /// Bytes that were taken away.
    passed_on: u64,
    directory: Vec<u8>,
    entries: u64,
    limits: Limits,
}

impl Records {
    pub(crate) fn new(limits: &Limits) -> Self {
        let pending = format::header().into();
        Self { pending, passed_on: 0, directory: Vec::new(), entries: 0, limits: limits.clone() }
    }

    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    pub(crate) fn push(&mut self, entry: &Entry<'_>) -> Result<(), ChangesetError> {
        format::check_entry(entry)?;
        if self.directory != entry.directory {
            format::put_directory(&mut self.pending, entry.directory);
            self.directory.clear();
            self.directory.extend_from_slice(entry.directory);
        }
        format::put_entry(&mut self.pending, entry);
        self.entries += 1;
        format::check_size(self.entries, self.passed_on + self.pending.len() as u64, &self.limits)
    }

    /// Takes away what is encoded so far; empties `into` first.
    pub(crate) fn take(&mut self, into: &mut Vec<u8>) {
        into.clear();
        std::mem::swap(into, &mut self.pending);
        self.passed_on += into.len() as u64;
    }

    /// Bytes that [`take`](Self::take) would give.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }
}
