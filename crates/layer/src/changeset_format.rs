//! The encoded form of a changeset, version 2.
//!
//! A layer is converted once; this is the index that is kept beside its contents. The file is trusted no more than
//! an archive is: every record is checked when it is read. The totals come last, so that a writer can pass records
//! on as they arise and need not go back.
//!
//! ```text
//! file      = magic "CRCLDIFF", u32 version, record*, totals                          integers little-endian
//! totals    = u64 entries, u64 data_bytes, u64 packed_bytes                           the file's last 24 bytes
//! record    = 0x00 path                                  the records below are in this directory; at first: the root
//!           | 0x01                                       the directory is opaque
//!           | 0x02 name                                  whiteout of `name`
//!           | 0x03 name path                             hard link from `name` to `path`
//!           | 0x10 name attributes                       directory (an empty name is the root itself)
//!           | 0x11 name attributes block:varint size:varint     regular file, content at block `block` of `data`
//!           | 0x12 name attributes bytes                 symbolic link and its target
//!           | 0x13 name attributes major:varint minor:varint    character device
//!           | 0x14 name attributes major:varint minor:varint    block device
//!           | 0x15 name attributes                       named pipe
//!           | 0x16 name attributes at:varint size:varint        regular file, content at byte `at` of `packed`
//! attributes = mode:varint uid:varint gid:varint seconds:zigzag varint nanoseconds:varint xattrs:bytes
//! xattrs    = (name:bytes value:bytes)*                  strictly ascending by name
//! bytes     = length:varint, that many bytes
//! path, name = bytes, lexically clean: no leading slash, no empty, `.` or `..` component
//! varint    = LEB128, 64 bits, shortest form
//! ```
//!
//! Every record but `0x00` counts as an entry. Order matters: a changeset is applied record by record. An empty file
//! is `0x11` with block 0; a packed one has 1 to [`PACKED_MAX`] bytes.

use crate::changeset::{Change, Content, Device, Entry, Inode, Kind, Place, Timestamp, Xattrs};
use crate::limits::{Limits, NAME_MAX, PATH_MAX, XATTR_TOTAL_MAX, XATTR_VALUE_MAX};
use crate::path::{self, EntryName, PathError};

/// Version of the format; part of the name under which converted things are stored.
pub const FORMAT_VERSION: u32 = 2;
/// Contents in a layer's data begin at multiples of this.
pub const BLOCK: u64 = 4096;
/// Files of at most this many bytes are packed. A quarter of a block: what every image that uses the layer copies into
/// its metadata stays small beside the three quarters of a block and more that each such file would waste, and four
/// of them with their inodes still share a block of metadata, which no inline content may cross.
pub const PACKED_MAX: u64 = 1024;

const MAGIC: &[u8; 8] = b"CRCLDIFF";
/// Magic and version.
pub(crate) const HEADER_LEN: usize = 12;
/// What is at the end.
pub(crate) const TOTALS_LEN: usize = 24;

const IN_DIRECTORY: u8 = 0x00;
const OPAQUE: u8 = 0x01;
const WHITEOUT: u8 = 0x02;
const LINK: u8 = 0x03;
const DIRECTORY: u8 = 0x10;
const FILE: u8 = 0x11;
const SYMLINK: u8 = 0x12;
const CHAR_DEVICE: u8 = 0x13;
const BLOCK_DEVICE: u8 = 0x14;
const FIFO: u8 = 0x15;
const PACKED_FILE: u8 = 0x16;

/// Why bytes are no changeset, or an entry cannot be in one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangesetError {
    /// Does not begin as a changeset does.
    #[error("not a layer index")]
    Magic,
    /// Written by another version.
    #[error("layer index of version {0}, not {FORMAT_VERSION}")]
    Version(u32),
    /// Ends within a record.
    #[error("layer index is truncated")]
    Truncated,
    /// A record that no writer makes.
    #[error("layer index is damaged: {0}")]
    Damaged(&'static str),
    /// A path that cannot be part of a tree.
    #[error("entry {path}: {error}")]
    Path {
        /// The path.
        path: EntryName,
        /// What is wrong with it.
        error: PathError,
    },
    /// An attribute or type that the tree cannot hold.
    #[error("entry {path}: {what}")]
    Entry {
        /// The path.
        path: EntryName,
        /// What is wrong with it.
        what: &'static str,
    },
    /// More entries than [`Limits::entries`].
    #[error("layer has more than {0} entries")]
    TooManyEntries(u64),
    /// More bytes than [`Limits::index_bytes`].
    #[error("layer index is larger than {0} bytes")]
    TooLarge(u64),
}

/// What a changeset begins with.
pub(crate) fn header() -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes
}

/// What a changeset ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) entries: u64,
    /// Length of the file that [`Place::Data`] points into, a multiple of [`BLOCK`].
    pub(crate) data_bytes: u64,
    /// Length of the file that [`Place::Packed`] points into.
    pub(crate) packed_bytes: u64,
}

impl Totals {
    pub(crate) fn encode(&self) -> [u8; TOTALS_LEN] {
        let mut bytes = [0; TOTALS_LEN];
        bytes[..8].copy_from_slice(&self.entries.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.data_bytes.to_le_bytes());
        bytes[16..].copy_from_slice(&self.packed_bytes.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; TOTALS_LEN]) -> Self {
        let u64_at = |at: usize| bytes[at..at + 8].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
        Self { entries: u64_at(0), data_bytes: u64_at(8), packed_bytes: u64_at(16) }
    }
}

/// The records of an encoded changeset and its totals; only the frame is checked.
fn open(bytes: &[u8]) -> Result<(&[u8], Totals), ChangesetError> {
    let (header, rest) = bytes.split_at_checked(HEADER_LEN).ok_or(ChangesetError::Truncated)?;
    let (magic, version) = header.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(ChangesetError::Magic);
    }
    let version = version.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
    if version != FORMAT_VERSION {
        return Err(ChangesetError::Version(version));
    }
    let (records, totals) = rest.split_last_chunk::<TOTALS_LEN>().ok_or(ChangesetError::Truncated)?;
    Ok((records, Totals::decode(totals)))
}

/// The records of a changeset that was checked.
pub(crate) fn records(bytes: &[u8]) -> &[u8] {
    bytes.get(HEADER_LEN..bytes.len().saturating_sub(TOTALS_LEN)).unwrap_or_default()
}

/// Checks a whole encoded changeset.
pub(crate) fn check(bytes: &[u8], limits: &Limits) -> Result<Totals, ChangesetError> {
    let (records, totals) = open(bytes)?;
    check_size(totals.entries, bytes.len() as u64, limits)?;
    if !totals.data_bytes.is_multiple_of(BLOCK) {
        return Err(ChangesetError::Damaged("data length is not a multiple of the block size"));
    }
    let mut cursor = Cursor::new(records);
    let mut directory = &[][..];
    let mut entries = 0;
    while let Some(entry) = next_entry(&mut cursor, &mut directory)? {
        check_entry(&entry)?;
        check_content(&entry, &totals)?;
        entries += 1;
    }
    if entries != totals.entries {
        return Err(ChangesetError::Damaged("wrong number of entries"));
    }
    Ok(totals)
}

pub(crate) fn check_size(entries: u64, bytes: u64, limits: &Limits) -> Result<(), ChangesetError> {
    if entries > limits.entries {
        return Err(ChangesetError::TooManyEntries(limits.entries));
    }
    if bytes > limits.index_bytes {
        return Err(ChangesetError::TooLarge(limits.index_bytes));
    }
    Ok(())
}

/// Checks what can be checked of an entry without the data file.
pub(crate) fn check_entry(entry: &Entry<'_>) -> Result<(), ChangesetError> {
    let fail = |what| Err(ChangesetError::Entry { path: entry.path(), what });
    let in_path = |error| ChangesetError::Path { path: entry.path(), error };
    path::check_clean(entry.directory).map_err(in_path)?;
    match (entry.change, entry.name) {
        (Change::Opaque, []) => {}
        (Change::Opaque, _) => return fail("an opaque mark has no name of its own"),
        (Change::Inode(Inode { kind: Kind::Directory, .. }), []) if entry.directory.is_empty() => {}
        (_, name) => path::check_component(name).map_err(in_path)?,
    }
    match &entry.change {
        Change::Whiteout | Change::Opaque => Ok(()),
        Change::Link(target) => path::check_clean(target).map_err(in_path),
        Change::Inode(inode) if inode.mode > 0o7777 => fail("mode out of range"),
        Change::Inode(inode) if inode.mtime.nanoseconds >= 1_000_000_000 => fail("nanoseconds out of range"),
        Change::Inode(inode) => check_xattrs(inode.xattrs).and_then(|()| check_kind(inode.kind)).or_else(fail),
    }
}

fn check_kind(kind: Kind<'_>) -> Result<(), &'static str> {
    match kind {
        Kind::Directory | Kind::Fifo | Kind::File(_) => Ok(()),
        Kind::Symlink([]) => Err("symbolic link to nowhere"),
        Kind::Symlink(target) if target.len() > PATH_MAX => Err("the link target is longer than a path can be"),
        Kind::Symlink(target) if target.contains(&0) => Err("the link target contains a NUL byte"),
        Kind::Symlink(_) => Ok(()),
        Kind::CharDevice(device) | Kind::BlockDevice(device) => {
            if device.major < 1 << 12 && device.minor < 1 << 20 {
                Ok(())
            } else {
                Err("device number out of range")
            }
        }
    }
}

fn check_xattrs(xattrs: Xattrs<'_>) -> Result<(), &'static str> {
    let mut cursor = Cursor::new(xattrs.bytes);
    let mut last: &[u8] = &[];
    let mut total = 0;
    while let Some((name, value)) = next_xattr(&mut cursor).map_err(|_| "damaged extended attributes")? {
        if name <= last {
            return Err("extended attributes are not sorted by name");
        }
        if name.len() > NAME_MAX || name.contains(&0) {
            return Err("an extended attribute has a name that is none");
        }
        if value.len() > XATTR_VALUE_MAX {
            return Err("an extended attribute is longer than 65535 bytes");
        }
        total += 4 + name.len() + value.len();
        last = name;
    }
    if total > XATTR_TOTAL_MAX { Err("more than 128 KiB of extended attributes") } else { Ok(()) }
}

/// Checks that an entry's content lies within its file.
pub(crate) fn check_content(entry: &Entry<'_>, totals: &Totals) -> Result<(), ChangesetError> {
    let Change::Inode(Inode { kind: Kind::File(Content { place, size }), .. }) = entry.change else { return Ok(()) };
    let ends_within = |offset: u64, length| offset.checked_add(size).is_some_and(|end| end <= length);
    let sound = match place {
        Place::Data { offset } if size == 0 => offset == 0,
        Place::Data { offset } => offset.is_multiple_of(BLOCK) && ends_within(offset, totals.data_bytes),
        Place::Packed { offset } => (1..=PACKED_MAX).contains(&size) && ends_within(offset, totals.packed_bytes),
    };
    if sound {
        return Ok(());
    }
    Err(ChangesetError::Entry { path: entry.path(), what: "the content does not lie in the layer's data" })
}

/// Reads the next entry; `directory` is the one that the last `IN_DIRECTORY` record named.
pub(crate) fn next_entry<'a>(
    cursor: &mut Cursor<'a>,
    directory: &mut &'a [u8],
) -> Result<Option<Entry<'a>>, ChangesetError> {
    loop {
        let Some(tag) = cursor.next_byte() else { return Ok(None) };
        if tag == IN_DIRECTORY {
            *directory = cursor.bytes()?;
            continue;
        }
        let name = if tag == OPAQUE { &[][..] } else { cursor.bytes()? };
        let change = match tag {
            OPAQUE => Change::Opaque,
            WHITEOUT => Change::Whiteout,
            LINK => Change::Link(cursor.bytes()?),
            DIRECTORY..=PACKED_FILE => Change::Inode(read_inode(cursor, tag)?),
            _ => return Err(ChangesetError::Damaged("unknown record")),
        };
        return Ok(Some(Entry { directory, name, change }));
    }
}

fn read_inode<'a>(cursor: &mut Cursor<'a>, tag: u8) -> Result<Inode<'a>, ChangesetError> {
    let mode = cursor.integer()?;
    let uid = cursor.integer()?;
    let gid = cursor.integer()?;
    let zigzag = cursor.varint()?;
    let seconds = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
    let mtime = Timestamp { seconds, nanoseconds: cursor.integer()? };
    let xattrs = Xattrs { bytes: cursor.bytes()? };
    let kind = match tag {
        DIRECTORY => Kind::Directory,
        FILE => {
            let offset = cursor.varint()?.checked_mul(BLOCK).ok_or(ChangesetError::Damaged("block out of range"))?;
            Kind::File(Content { place: Place::Data { offset }, size: cursor.varint()? })
        }
        PACKED_FILE => {
            let place = Place::Packed { offset: cursor.varint()? };
            Kind::File(Content { place, size: cursor.varint()? })
        }
        SYMLINK => Kind::Symlink(cursor.bytes()?),
        CHAR_DEVICE => Kind::CharDevice(Device { major: cursor.integer()?, minor: cursor.integer()? }),
        BLOCK_DEVICE => Kind::BlockDevice(Device { major: cursor.integer()?, minor: cursor.integer()? }),
        _ => Kind::Fifo,
    };
    Ok(Inode { mode, uid, gid, mtime, xattrs, kind })
}

/// Name and value of an extended attribute.
type Xattr<'a> = (&'a [u8], &'a [u8]);

pub(crate) fn next_xattr<'a>(cursor: &mut Cursor<'a>) -> Result<Option<Xattr<'a>>, ChangesetError> {
    if cursor.rest.is_empty() {
        return Ok(None);
    }
    Ok(Some((cursor.bytes()?, cursor.bytes()?)))
}

pub(crate) fn put_directory(out: &mut Vec<u8>, directory: &[u8]) {
    out.push(IN_DIRECTORY);
    put_bytes(out, directory);
}

pub(crate) fn put_entry(out: &mut Vec<u8>, entry: &Entry<'_>) {
    match &entry.change {
        Change::Opaque => out.push(OPAQUE),
        Change::Whiteout => {
            out.push(WHITEOUT);
            put_bytes(out, entry.name);
        }
        Change::Link(target) => {
            out.push(LINK);
            put_bytes(out, entry.name);
            put_bytes(out, target);
        }
        Change::Inode(inode) => put_inode(out, entry.name, inode),
    }
}

fn put_inode(out: &mut Vec<u8>, name: &[u8], inode: &Inode<'_>) {
    out.push(match inode.kind {
        Kind::Directory => DIRECTORY,
        Kind::File(Content { place: Place::Data { .. }, .. }) => FILE,
        Kind::File(Content { place: Place::Packed { .. }, .. }) => PACKED_FILE,
        Kind::Symlink(_) => SYMLINK,
        Kind::CharDevice(_) => CHAR_DEVICE,
        Kind::BlockDevice(_) => BLOCK_DEVICE,
        Kind::Fifo => FIFO,
    });
    put_bytes(out, name);
    put_varint(out, inode.mode.into());
    put_varint(out, inode.uid.into());
    put_varint(out, inode.gid.into());
    let seconds = inode.mtime.seconds;
    put_varint(out, (seconds << 1 ^ seconds >> 63).cast_unsigned());
    put_varint(out, inode.mtime.nanoseconds.into());
    put_bytes(out, inode.xattrs.bytes);
    match inode.kind {
        Kind::Directory | Kind::Fifo => {}
        Kind::File(Content { place, size }) => {
            put_varint(
                out,
                match place {
                    Place::Data { offset } => offset / BLOCK,
                    Place::Packed { offset } => offset,
                },
            );
            put_varint(out, size);
        }
        Kind::Symlink(target) => put_bytes(out, target),
        Kind::CharDevice(device) | Kind::BlockDevice(device) => {
            put_varint(out, device.major.into());
            put_varint(out, device.minor.into());
        }
    }
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[allow(clippy::cast_possible_truncation, reason = "seven bits at a time")]
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads primitives from a slice.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes that are left.
    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    fn next_byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn varint(&mut self) -> Result<u64, ChangesetError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.next_byte().ok_or(ChangesetError::Truncated)?;
            if (shift == 63 && byte > 1) || (shift > 0 && byte == 0) {
                return Err(ChangesetError::Damaged("integer not in its shortest form"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ChangesetError::Damaged("integer too long"))
    }

    fn integer<T: TryFrom<u64>>(&mut self) -> Result<T, ChangesetError> {
        T::try_from(self.varint()?).map_err(|_| ChangesetError::Damaged("integer out of range"))
    }

    fn bytes(&mut self) -> Result<&'a [u8], ChangesetError> {
        let length: usize = self.integer()?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(ChangesetError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }
}
