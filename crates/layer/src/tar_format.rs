//! One tar header: 512 bytes become fields.
//!
//! ```text
//! offset size field        offset size  field
//!      0  100 name            257    6  magic: "ustar\0" (POSIX), "ustar " (GNU), anything else is V7
//!    100    8 mode            263    2  version: anything (POSIX), " \0" (GNU)
//!    108    8 uid             265   32  uname   (not used: numeric owners count)
//!    116    8 gid             297   32  gname
//!    124   12 size            329    8  devmajor
//!    136   12 mtime           337    8  devminor
//!    148    8 checksum        345  155  POSIX: name prefix (131 bytes where 508 holds star's "tar\0")
//!    156    1 type            386   96  GNU: four sparse extents; 482: whether a map block follows; 483: real size
//!    157  100 link name
//! ```
//!
//! Numbers are octal text, or base 256 with the first bit set (GNU; two's complement, the second bit is the sign).
//! Source: POSIX.1-2024 `pax`, "ustar Interchange Format"; the GNU tar manual, "Basic Tar Format".

/// Size of a tar block.
pub(crate) const BLOCK: usize = 512;

const NAME: usize = 0;
const MODE: usize = 100;
const UID: usize = 108;
const GID: usize = 116;
const SIZE: usize = 124;
const MTIME: usize = 136;
const CHECKSUM: usize = 148;
const TYPE: usize = 156;
const LINK_NAME: usize = 157;
const MAGIC: usize = 257;
const DEV_MAJOR: usize = 329;
const DEV_MINOR: usize = 337;
const PREFIX: usize = 345;
const GNU_SPARSE: usize = 386;
const GNU_EXTENDED: usize = 482;
const GNU_REAL_SIZE: usize = 483;
const STAR_TRAILER: usize = 508;

/// Which kind of header it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V7,
    Posix,
    Star,
    Gnu,
}

/// A header whose checksum fits.
#[derive(Debug)]
pub(crate) struct Header<'a> {
    block: &'a [u8; BLOCK],
    dialect: Dialect,
}

impl<'a> Header<'a> {
    /// Takes a block for a header; `None` if its checksum says otherwise.
    pub(crate) fn new(block: &'a [u8; BLOCK]) -> Option<Self> {
        let field = &block[CHECKSUM..CHECKSUM + 8];
        let stored = number(field)?;
        let sum = |bytes: &[u8]| bytes.iter().map(|&byte| i64::from(byte)).sum::<i64>();
        let unsigned = sum(block) - sum(field) + 8 * i64::from(b' ');
        // Some old writers summed signed bytes; every reader takes both.
        let high_bytes = |bytes: &[u8]| bytes.iter().map(|&byte| i64::from(byte >> 7)).sum::<i64>();
        if stored != unsigned && stored != unsigned - 256 * (high_bytes(block) - high_bytes(field)) {
            return None;
        }
        let dialect = match (&block[MAGIC..MAGIC + 8], &block[STAR_TRAILER..]) {
            ([b'u', b's', b't', b'a', b'r', 0, ..], b"tar\0") => Dialect::Star,
            ([b'u', b's', b't', b'a', b'r', 0, ..], _) => Dialect::Posix,
            (b"ustar  \0", _) => Dialect::Gnu,
            _ => Dialect::V7,
        };
        Some(Self { block, dialect })
    }

    /// The name without prefix.
    pub(crate) fn plain_name(&self) -> &'a [u8] {
        text(&self.block[NAME..MODE])
    }

    /// Prefix and name; `None` where it is not clear how long the prefix is, or whether there is one.
    pub(crate) fn name(&self) -> Option<Vec<u8>> {
        let name = self.plain_name();
        let field = &self.block[PREFIX..PREFIX + 155];
        let prefix = match self.dialect {
            Dialect::Posix => text(field),
            // star keeps times behind 131 bytes of prefix; who does not know that reads on if no NUL ends it.
            Dialect::Star if field[..131].contains(&0) => text(field),
            Dialect::V7 if field[0] == 0 => &[],
            Dialect::Star | Dialect::V7 => return None,
            // The field holds times in GNU headers, but for those that Go wrote before version 1.8.
            Dialect::Gnu if number(&field[..12]).is_none() => text(field),
            Dialect::Gnu => &[],
        };
        Some(if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() })
    }

    /// Whether it is a GNU header.
    pub(crate) fn is_gnu(&self) -> bool {
        self.dialect == Dialect::Gnu
    }

    pub(crate) fn link_name(&self) -> &'a [u8] {
        text(&self.block[LINK_NAME..MAGIC])
    }

    pub(crate) fn type_flag(&self) -> u8 {
        self.block[TYPE]
    }

    pub(crate) fn mode(&self) -> Option<i64> {
        number(&self.block[MODE..UID])
    }

    pub(crate) fn uid(&self) -> Option<i64> {
        number(&self.block[UID..GID])
    }

    pub(crate) fn gid(&self) -> Option<i64> {
        number(&self.block[GID..SIZE])
    }

    pub(crate) fn size(&self) -> Option<i64> {
        number(&self.block[SIZE..MTIME])
    }

    pub(crate) fn mtime(&self) -> Option<i64> {
        number(&self.block[MTIME..CHECKSUM])
    }

    pub(crate) fn device(&self) -> Option<(i64, i64)> {
        if self.dialect == Dialect::V7 {
            return Some((0, 0));
        }
        Some((number(&self.block[DEV_MAJOR..DEV_MINOR])?, number(&self.block[DEV_MINOR..PREFIX])?))
    }

    /// The extents of an old GNU sparse header as bytes for [`sparse_slots`], whether more blocks of them follow,
    /// and the size of the file.
    pub(crate) fn gnu_sparse(&self) -> Option<(&'a [u8], bool, i64)> {
        let real_size = number(&self.block[GNU_REAL_SIZE..GNU_REAL_SIZE + 12])?;
        Some((&self.block[GNU_SPARSE..GNU_EXTENDED], self.block[GNU_EXTENDED] != 0, real_size))
    }
}

/// A block that continues an old GNU sparse header: 21 extents, and whether another block follows.
pub(crate) fn gnu_sparse_continuation(block: &[u8; BLOCK]) -> (&[u8], bool) {
    (&block[..504], block[504] != 0)
}

/// The extents in a field of old GNU sparse slots: offset and length of 12 bytes each, up to the first empty one.
pub(crate) fn sparse_slots(field: &[u8]) -> impl Iterator<Item = Option<(i64, i64)>> {
    field
        .chunks_exact(24)
        .take_while(|slot| slot[0] != 0)
        .map(|slot| Some((number(&slot[..12])?, number(&slot[12..])?)))
}

/// Text up to the first NUL.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A number field; an empty one is zero.
fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

fn base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] | 0x80 } else { field[0] & 0x7f };
    let mut value = if negative { -1 } else { 0 };
    for byte in std::iter::once(first).chain(field[1..].iter().copied()) {
        value = i64::checked_mul(value, 256)? | i64::from(byte);
    }
    Some(value)
}

fn octal(field: &[u8]) -> Option<i64> {
    let start = field.iter().position(|&byte| byte != b' ').unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(|&byte| byte == b' ' || byte == 0).unwrap_or(digits.len());
    let (digits, padding) = digits.split_at(end);
    if padding.iter().any(|&byte| byte != b' ' && byte != 0) {
        return None;
    }
    digits.iter().try_fold(0_i64, |value, &byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"77777777777 "), Some(0o77_777_777_777));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(number(b"-000644\0"), None);
        assert_eq!(number(b"644\0junk"), None);
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\0"), Some(256));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"), Some(-2));
        assert_eq!(number(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), Some(i64::MAX));
        assert_eq!(number(b"\x80\0\0\0\x80\0\0\0\0\0\0\0"), None);
    }
}
