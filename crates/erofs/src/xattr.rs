//! Extended attributes: beside their inode, or once for all inodes that have the same.

use std::collections::HashMap;

use layer::Xattrs;

use crate::erofs_format::{XATTR_ENTRY_LEN, XATTR_HEADER_LEN, XATTR_PREFIXES, XATTR_SHARED_MAX};

/// Attributes that are counted at once. Beyond it, those that were seen only once so far are forgotten; if that does
/// not make room, no further ones are counted.
const COUNTED_MAX: usize = 1 << 16;

/// An attribute as EROFS names it: the index of a prefix, and the rest of the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Attribute<'a> {
    index: u8,
    suffix: &'a [u8],
    value: &'a [u8],
}

impl Attribute<'_> {
    fn len(&self) -> usize {
        (XATTR_ENTRY_LEN + self.suffix.len() + self.value.len()).next_multiple_of(XATTR_ENTRY_LEN)
    }

    fn put(&self, out: &mut Vec<u8>) {
        let end = out.len() + self.len();
        // Lengths were checked when the changeset was made.
        out.extend_from_slice(&[u8::try_from(self.suffix.len()).unwrap_or(u8::MAX), self.index]);
        out.extend_from_slice(&u16::try_from(self.value.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(self.suffix);
        out.extend_from_slice(self.value);
        out.resize(end, 0);
    }
}

/// The attributes that EROFS has a prefix for. Others do not exist on Linux either.
fn attributes(xattrs: Xattrs<'_>) -> impl Iterator<Item = Attribute<'_>> {
    xattrs.iter().filter_map(|(name, value)| {
        let (index, suffix) = XATTR_PREFIXES.iter().find_map(|(index, prefix)| {
            let suffix = name.strip_prefix(*prefix)?;
            (suffix.is_empty() != prefix.ends_with(b".")).then_some((*index, suffix))
        })?;
        Some(Attribute { index, suffix, value })
    })
}

/// Counts attributes, so that [`Shared`] can be made.
#[derive(Debug, Default)]
pub(crate) struct Count<'a> {
    /// How often each was seen, and when first.
    seen: HashMap<Attribute<'a>, (u64, u64)>,
    moment: u64,
    full: bool,
}

impl<'a> Count<'a> {
    pub(crate) fn add(&mut self, xattrs: Xattrs<'a>) {
        for attribute in attributes(xattrs) {
            self.moment += 1;
            if let Some((count, _)) = self.seen.get_mut(&attribute) {
                *count += 1;
            } else if !self.full {
                self.seen.insert(attribute, (1, self.moment));
                self.make_room();
            }
        }
    }

    fn make_room(&mut self) {
        if self.seen.len() == COUNTED_MAX {
            self.seen.retain(|_, (count, _)| *count > 1);
            self.full = self.seen.len() > COUNTED_MAX / 2;
        }
    }

    /// Chooses the attributes that take fewer bytes when they are shared: one entry, and four bytes for each inode.
    /// They are ordered by where the tree has them first.
    pub(crate) fn share(self) -> Shared<'a> {
        let pays = |attribute: &Attribute<'_>, count| (count - 1) * attribute.len() as u64 > 4 * count;
        let mut chosen: Vec<_> =
            self.seen.into_iter().filter(|(attribute, (count, _))| pays(attribute, *count)).collect();
        chosen.sort_unstable_by_key(|(_, (_, first))| *first);
        let mut shared = Shared::default();
        for (attribute, _) in chosen {
            // Fewer than `COUNTED_MAX` of at most 64 KiB each.
            let id = u32::try_from(shared.size / XATTR_ENTRY_LEN as u64).unwrap_or(u32::MAX);
            shared.ids.insert(attribute, id);
            shared.order.push(attribute);
            shared.size += attribute.len() as u64;
        }
        shared
    }
}

/// Attributes that several inodes have, kept once.
#[derive(Debug, Default)]
pub(crate) struct Shared<'a> {
    ids: HashMap<Attribute<'a>, u32>,
    order: Vec<Attribute<'a>>,
    /// Bytes of all of them.
    pub(crate) size: u64,
}

impl<'a> Shared<'a> {
    /// The shared ones among an inode's attributes, by number, and the others.
    fn split(&self, xattrs: Xattrs<'a>) -> (Vec<u32>, Vec<Attribute<'a>>) {
        let (mut ids, mut own) = (Vec::new(), Vec::new());
        for attribute in attributes(xattrs) {
            match self.ids.get(&attribute) {
                Some(id) if ids.len() < XATTR_SHARED_MAX => ids.push(*id),
                _ => own.push(attribute),
            }
        }
        (ids, own)
    }

    /// Bytes that an inode's attributes take beside it; 0 without attributes.
    pub(crate) fn size_beside(&self, xattrs: Xattrs<'a>) -> usize {
        if xattrs.is_empty() {
            return 0;
        }
        let (ids, own) = self.split(xattrs);
        match ids.len() * XATTR_ENTRY_LEN + own.iter().map(Attribute::len).sum::<usize>() {
            0 => 0,
            bytes => XATTR_HEADER_LEN + bytes,
        }
    }

    /// Appends what stands beside an inode: [`size_beside`](Self::size_beside) bytes.
    pub(crate) fn put_beside(&self, xattrs: Xattrs<'a>, out: &mut Vec<u8>) {
        let (ids, own) = self.split(xattrs);
        if ids.is_empty() && own.is_empty() {
            return;
        }
        let mut header = [0; XATTR_HEADER_LEN];
        header[4] = u8::try_from(ids.len()).unwrap_or(u8::MAX);
        out.extend_from_slice(&header);
        for id in ids {
            out.extend_from_slice(&id.to_le_bytes());
        }
        for attribute in own {
            attribute.put(out);
        }
    }

    /// The shared attributes in their order, each in its encoded form.
    pub(crate) fn encoded(&self) -> impl Iterator<Item = Vec<u8>> {
        self.order.iter().map(|attribute| {
            let mut bytes = Vec::with_capacity(attribute.len());
            attribute.put(&mut bytes);
            bytes
        })
    }
}

/// The inode's `xattr_icount` field for attributes that take `size` bytes beside it.
pub(crate) fn count_field(size: usize) -> Option<u16> {
    match size.checked_sub(XATTR_HEADER_LEN) {
        None => Some(0),
        Some(entries) => u16::try_from(1 + entries / XATTR_ENTRY_LEN).ok(),
    }
}
