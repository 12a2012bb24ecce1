//! Extended attributes, packed after their inode.

use layer::Xattrs;

use crate::erofs_format::{XATTR_ENTRY_LEN, XATTR_HEADER_LEN, XATTR_PREFIXES};

/// An attribute as EROFS names it: the index of a prefix, and the rest of the name.
struct Entry<'a> {
    index: u8,
    suffix: &'a [u8],
    value: &'a [u8],
}

impl Entry<'_> {
    fn len(&self) -> usize {
        (XATTR_ENTRY_LEN + self.suffix.len() + self.value.len()).next_multiple_of(XATTR_ENTRY_LEN)
    }
}

/// The attributes that EROFS has a prefix for. Others do not exist on Linux either.
fn entries(xattrs: Xattrs<'_>) -> impl Iterator<Item = Entry<'_>> {
    xattrs.iter().filter_map(|(name, value)| {
        let (index, suffix) = XATTR_PREFIXES.iter().find_map(|(index, prefix)| {
            let suffix = name.strip_prefix(*prefix)?;
            (suffix.is_empty() != prefix.ends_with(b".")).then_some((*index, suffix))
        })?;
        Some(Entry { index, suffix, value })
    })
}

/// Bytes that the attributes take, header included; 0 without attributes.
pub(crate) fn size(xattrs: Xattrs<'_>) -> usize {
    if xattrs.is_empty() {
        return 0;
    }
    match entries(xattrs).map(|entry| entry.len()).sum() {
        0 => 0,
        entries => XATTR_HEADER_LEN + entries,
    }
}

/// The inode's `xattr_icount` field for attributes of `size` bytes.
pub(crate) fn count_field(size: usize) -> Option<u16> {
    match size.checked_sub(XATTR_HEADER_LEN) {
        None => Some(0),
        Some(entries) => u16::try_from(1 + entries / XATTR_ENTRY_LEN).ok(),
    }
}

/// Writes the attributes; `target` has their [`size`] and is zero.
pub(crate) fn write(xattrs: Xattrs<'_>, target: &mut [u8]) {
    if target.is_empty() {
        return;
    }
    let mut rest = &mut target[XATTR_HEADER_LEN..];
    for entry in entries(xattrs) {
        let (place, after) = rest.split_at_mut(entry.len());
        // Lengths were checked when the changeset was made.
        place[0] = u8::try_from(entry.suffix.len()).unwrap_or(u8::MAX);
        place[1] = entry.index;
        place[2..4].copy_from_slice(&u16::try_from(entry.value.len()).unwrap_or(u16::MAX).to_le_bytes());
        let (name, value) = place[XATTR_ENTRY_LEN..].split_at_mut(entry.suffix.len());
        name.copy_from_slice(entry.suffix);
        value[..entry.value.len()].copy_from_slice(entry.value);
        rest = after;
    }
}
