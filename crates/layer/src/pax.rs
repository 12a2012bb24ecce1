//! PAX extended headers: `LENGTH KEY=VALUE\n` records.
//!
//! Source: POSIX.1-2024 `pax`, "pax Extended Header"; star's `SCHILY.xattr.`; libarchive's `LIBARCHIVE.xattr.`
//! (percent-encoded name, base64 value); the GNU tar manual, "Storing Sparse Files".

use std::collections::BTreeMap;

use crate::changeset::Timestamp;
use crate::error::HeaderFault;

/// What one PAX header says, as far as a layer cares. An empty value, which to POSIX takes an earlier record back, is
/// refused: to some readers it is an empty name or zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link_path: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<Timestamp>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    libarchive_xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) sparse: SparseRecords,
}

/// The `GNU.sparse.*` records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SparseRecords {
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) real_size: Option<u64>,
    pub(crate) block_count: Option<u64>,
    /// Offsets and lengths in turn, from `GNU.sparse.map` (0.1) or repeated `offset` and `numbytes` (0.0).
    pub(crate) map: Vec<u64>,
}

impl SparseRecords {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Records {
    /// Parses the body of a PAX header.
    pub(crate) fn parse(mut body: &[u8]) -> Result<Self, HeaderFault> {
        let mut records = Self::default();
        while !body.is_empty() {
            let (key, value, rest) = record(body)?;
            records.set(key, value)?;
            body = rest;
        }
        for (name, value) in std::mem::take(&mut records.libarchive_xattrs) {
            records.xattrs.entry(name).or_insert(value);
        }
        Ok(records)
    }

    /// Parses the body of a global PAX header, which may not say what makes sense for one member only.
    pub(crate) fn parse_global(body: &[u8]) -> Result<Self, HeaderFault> {
        let records = Self::parse(body)?;
        match () {
            () if records.path.is_some() => Err(HeaderFault::Global("path")),
            () if records.link_path.is_some() => Err(HeaderFault::Global("linkpath")),
            () if records.size.is_some() => Err(HeaderFault::Global("size")),
            () if !records.sparse.is_empty() => Err(HeaderFault::Global("GNU.sparse")),
            () => Ok(records),
        }
    }

    /// Adds what a later global header says.
    pub(crate) fn update_global(&mut self, later: Self) {
        self.uid = later.uid.or(self.uid);
        self.gid = later.gid.or(self.gid);
        self.mtime = later.mtime.or(self.mtime);
        self.xattrs.extend(later.xattrs);
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), HeaderFault> {
        match key {
            b"path" => self.path = Some(name(value)?),
            b"linkpath" => self.link_path = Some(name(value)?),
            b"size" => self.size = Some(integer(value)?),
            b"uid" => self.uid = Some(integer(value)?),
            b"gid" => self.gid = Some(integer(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            _ => {
                if let Some(field) = key.strip_prefix(b"GNU.sparse.") {
                    self.set_sparse(field, value)?;
                } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let name = percent_decode(name).ok_or(HeaderFault::Pax("not percent-encoded"))?;
                    let value = base64_decode(value).ok_or(HeaderFault::Pax("not base64"))?;
                    self.libarchive_xattrs.insert(name, value);
                }
            }
        }
        Ok(())
    }

    fn set_sparse(&mut self, field: &[u8], value: &[u8]) -> Result<(), HeaderFault> {
        let sparse = &mut self.sparse;
        match field {
            b"major" => sparse.major = Some(integer(value)?),
            b"minor" => sparse.minor = Some(integer(value)?),
            b"name" => sparse.name = Some(name(value)?),
            b"size" => sparse.size = Some(integer(value)?),
            b"realsize" => sparse.real_size = Some(integer(value)?),
            b"numblocks" => sparse.block_count = Some(integer(value)?),
            b"offset" | b"numbytes" => {
                if sparse.map.len() % 2 != usize::from(field == b"numbytes") {
                    return Err(HeaderFault::Pax("sparse offsets and lengths do not alternate"));
                }
                sparse.map.push(integer(value)?);
            }
            b"map" => {
                sparse.map = value.split(|&byte| byte == b',').map(integer).collect::<Result<_, _>>()?;
            }
            _ => {}
        }
        Ok(())
    }
}

type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// The first record's key and value, and what follows it.
fn record(body: &[u8]) -> Result<Record<'_>, HeaderFault> {
    let space = body.iter().take(20).position(|&byte| byte == b' ').ok_or(HeaderFault::Pax("no length"))?;
    let length = integer(&body[..space]).map_err(|_| HeaderFault::Pax("no length"))?;
    let length = usize::try_from(length).map_err(|_| HeaderFault::Pax("no length"))?;
    let (record, rest) = body.split_at_checked(length).ok_or(HeaderFault::Pax("longer than its header"))?;
    let record = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n"));
    let record = record.ok_or(HeaderFault::Pax("wrong length"))?;
    let equals = record.iter().position(|&byte| byte == b'=').ok_or(HeaderFault::Pax("no value"))?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    // GNU tar goes over blanks before the key; others take them for a part of it.
    if key.is_empty() || key.contains(&0) || key.starts_with(b" ") || key.starts_with(b"\t") {
        return Err(HeaderFault::Pax("no key"));
    }
    Ok((key, value, rest))
}

fn name(value: &[u8]) -> Result<Vec<u8>, HeaderFault> {
    match value {
        [] => Err(HeaderFault::Pax("an empty name")),
        _ if value.contains(&0) => Err(HeaderFault::Pax("a NUL byte in a name")),
        _ => Ok(value.to_vec()),
    }
}

fn integer(value: &[u8]) -> Result<u64, HeaderFault> {
    let digits = value.iter().all(u8::is_ascii_digit).then(|| str::from_utf8(value).ok()).flatten();
    digits.and_then(|digits| digits.parse().ok()).ok_or(HeaderFault::Pax("not a number"))
}

/// Seconds with an optional sign and an optional fraction; what is finer than a nanosecond is cut off towards the past.
fn time(value: &[u8]) -> Result<Timestamp, HeaderFault> {
    const FAULT: HeaderFault = HeaderFault::Pax("not a time");
    let (negative, digits) = value.strip_prefix(b"-").map_or((false, value), |digits| (true, digits));
    let (whole, fraction) = match digits.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&digits[..dot], &digits[dot + 1..]),
        None => (digits, &[][..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(FAULT);
    }
    let whole = integer(whole).map_err(|_| FAULT)?;
    let whole = i64::try_from(whole).map_err(|_| FAULT)?;
    let digit = |at: usize| fraction.get(at).map_or(0, |byte| u32::from(byte - b'0'));
    let nanoseconds = (0..9).fold(0, |value, at| value * 10 + digit(at));
    let cut = fraction.iter().skip(9).any(|&byte| byte != b'0');
    Ok(match (negative, nanoseconds + u32::from(negative && cut)) {
        (false, nanoseconds) => Timestamp { seconds: whole, nanoseconds },
        (true, 0) => Timestamp { seconds: -whole, nanoseconds: 0 },
        (true, below) => Timestamp { seconds: -whole - 1, nanoseconds: 1_000_000_000 - below },
    })
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex_digit(*bytes.next()?)? << 4 | hex_digit(*bytes.next()?)?,
            _ => byte,
        });
    }
    Some(decoded)
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Decodes base64 with or without padding; libarchive writes it without.
fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b"==").or(text.strip_suffix(b"=")).unwrap_or(text);
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut bits: u32 = 0;
        for &digit in group {
            bits = bits << 6 | u32::from(base64_digit(digit)?);
        }
        let [_, first, second, third] = (bits << (6 * (4 - group.len()))).to_be_bytes();
        let bytes = [first, second, third];
        decoded.extend_from_slice(match group.len() {
            4 => &bytes,
            3 => &bytes[..2],
            2 => &bytes[..1],
            _ => return None,
        });
    }
    Some(decoded)
}

fn base64_digit(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, nanoseconds: u32) -> Timestamp {
        Timestamp { seconds, nanoseconds }
    }

    fn record_of(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let length = (1..).find(|length: &usize| *length == length.to_string().len() + rest.len()).unwrap();
        [length.to_string().as_bytes(), &rest].concat()
    }

    #[test]
    fn times() {
        assert_eq!(time(b"0"), Ok(at(0, 0)));
        assert_eq!(time(b"1.5"), Ok(at(1, 500_000_000)));
        assert_eq!(time(b"1.1234567899"), Ok(at(1, 123_456_789)));
        assert_eq!(time(b"-1.25"), Ok(at(-2, 750_000_000)));
        assert_eq!(time(b"-3"), Ok(at(-3, 0)));
        assert_eq!(time(b"-0.0000000001"), Ok(at(-1, 999_999_999)));
        assert_eq!(time(b"253402300799.999999999"), Ok(at(253_402_300_799, 999_999_999)));
        for wrong in ["", "1.5x", "+1", "1e3", ".5", "-", "9223372036854775808"] {
            assert!(time(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn records_must_fit_their_length() {
        assert_eq!(record(b"6 a=b\nrest"), Ok((&b"a"[..], &b"b"[..], &b"rest"[..])));
        assert_eq!(record(b"9 a=b\nc=\n"), Ok((&b"a"[..], &b"b\nc="[..], &b""[..])));
        for wrong in ["", "6 a=b", "5 a=b\n", "x a=b\n", "5 ab\n", "5 =b\n", "0 a=b\n", "99999999999999999999 a=b\n"] {
            assert!(matches!(record(wrong.as_bytes()), Err(HeaderFault::Pax(_))), "{wrong:?}");
        }
    }

    #[test]
    fn empty_values_are_refused() {
        for key in ["path", "linkpath", "size", "uid", "gid", "mtime", "GNU.sparse.size", "GNU.sparse.map"] {
            assert!(Records::parse(&record_of(key, b"")).is_err(), "{key}");
        }
        assert!(Records::parse(&record_of("comment", b"")).is_ok());
    }

    #[test]
    fn extended_attributes_in_both_spellings() {
        let body = [
            record_of("SCHILY.xattr.user.a", b"a\0\nb="),
            record_of("LIBARCHIVE.xattr.user%2eb", b"YQBi"),
            record_of("LIBARCHIVE.xattr.user.a", b"YQ"),
        ];
        let records = Records::parse(&body.concat()).unwrap();
        assert_eq!(records.xattrs[&b"user.a"[..]], b"a\0\nb=");
        assert_eq!(records.xattrs[&b"user.b"[..]], b"a\0b");
    }

    #[test]
    fn base64() {
        assert_eq!(base64_decode(b"").unwrap(), b"");
        assert_eq!(base64_decode(b"YQ").unwrap(), b"a");
        assert_eq!(base64_decode(b"YWI=").unwrap(), b"ab");
        assert_eq!(base64_decode(b"YWJj").unwrap(), b"abc");
        assert_eq!(base64_decode(b"YWJjZA==").unwrap(), b"abcd");
        assert_eq!(base64_decode(b"Y"), None);
        assert_eq!(base64_decode(b"Y!=="), None);
    }
}
