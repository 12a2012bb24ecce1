//! The outer archive: where its members are.
//!
//! A tar archive (POSIX.1-2017 pax, ustar and GNU headers) is walked once, from header to header, and its regular
//! files remembered by name, so that they can be read in place and in any order. Archives of old versions of
//! `docker save` hold symbolic links between layers; those are followed by name, within the index.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::limits::{MEMBER_HEADER_BYTES, MEMBERS};
use crate::{ImageError, Result};

pub(crate) const BLOCK: usize = 512;
const LINKS_MAX: usize = 8;

/// A range of a file, read from its beginning. Clones read on their own.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Section {
    pub(crate) fn new(file: Arc<File>, offset: u64, length: u64) -> Self {
        Self { file, position: offset, end: offset.saturating_add(length) }
    }

    /// Bytes that are left.
    pub(crate) fn length(&self) -> u64 {
        self.end - self.position
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.length()).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..wanted], self.position)?;
        if count == 0 && wanted > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
        }
        self.position += count as u64;
        Ok(count)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    File { offset: u64, length: u64 },
    Link(String),
}

/// The index of an archive.
#[derive(Debug)]
pub(crate) struct Archive {
    file: Arc<File>,
    members: HashMap<String, Member>,
    /// Whether the end is marked, as every writer does.
    is_whole: bool,
}

/// Whether `block` can be the first of a tar archive.
pub(crate) fn is_header(block: &[u8]) -> bool {
    block.first_chunk().is_some_and(|block| Header(block).checksum_fits())
}

impl Archive {
    /// Walks the archive in `file`, which is `length` bytes long. `origin` names it in errors.
    pub(crate) fn index(file: File, length: u64, origin: &str) -> Result<Self> {
        let file = Arc::new(file);
        let mut walk = Walk { file: &file, length, position: 0, origin, is_whole: false };
        let mut members = HashMap::new();
        while let Some((name, member)) = walk.next_member()? {
            if members.len() >= MEMBERS {
                let what = origin.to_owned();
                return Err(ImageError::TooLarge { what, limit: MEMBERS as u64, unit: "members" });
            }
            if let (Some(name), Some(member)) = (normalize("", &name), member) {
                members.insert(name, member);
            }
        }
        let is_whole = walk.is_whole;
        Ok(Self { file, members, is_whole })
    }

    /// Whether nothing suggests that there was more once.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The regular file of that name.
    pub(crate) fn section(&self, name: &str) -> Option<Section> {
        let mut name = normalize("", name)?;
        for _ in 0..LINKS_MAX {
            match self.members.get(&name)? {
                Member::File { offset, length } => return Some(Section::new(self.file.clone(), *offset, *length)),
                Member::Link(target) => name = target.clone(),
            }
        }
        None
    }
}

/// The name without empty and `.` components, `..` taken literally; `None` where it leads out. It starts at
/// `directory`, itself such a name.
fn normalize(directory: &str, name: &str) -> Option<String> {
    let mut parts: Vec<&str> = directory.split('/').filter(|p| !p.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// What headers before a member's own say of it.
#[derive(Debug, Default)]
struct Described {
    name: Option<String>,
    link: Option<String>,
    size: Option<u64>,
}

struct Walk<'a> {
    file: &'a File,
    length: u64,
    position: u64,
    origin: &'a str,
    is_whole: bool,
}

impl Walk<'_> {
    /// The next member's name and, if it is one that matters, what it is. `None` at the end of the archive.
    fn next_member(&mut self) -> Result<Option<(String, Option<Member>)>> {
        let mut described = Described::default();
        loop {
            let Some(block) = self.block()? else { return Ok(None) };
            let header = Header(&block);
            if !header.checksum_fits() {
                let problem = format!("no tar header at byte {}", self.position - BLOCK as u64);
                return Err(ImageError::NotAnArchive { origin: self.origin.to_owned(), problem });
            }
            let size = header.size().ok_or_else(|| self.bad("the size of a member is no number"))?;
            match header.type_flag() {
                b'x' => self.read_pax(size, &mut described)?,
                b'L' => described.name = Some(self.read_text(size)?),
                b'K' => described.link = Some(self.read_text(size)?),
                b'g' => self.skip(size, "a global header")?,
                flag => {
                    let name = described.name.take().unwrap_or_else(|| header.name());
                    let link = described.link.take().unwrap_or_else(|| header.link());
                    let size = described.size.unwrap_or(size);
                    return Ok(Some(self.member(flag, name, &link, size)?));
                }
            }
        }
    }

    fn member(&mut self, flag: u8, name: String, link: &str, size: u64) -> Result<(String, Option<Member>)> {
        let parent = name.trim_end_matches('/').rsplit_once('/').map_or("", |(parent, _)| parent);
        let member = match flag {
            b'0' | b'7' | 0 => Some(Member::File { offset: self.position, length: size }),
            b'1' => normalize("", link).map(Member::Link),
            b'2' => normalize("", parent).and_then(|p| normalize(&p, link)).map(Member::Link),
            _ => None,
        };
        // Links and directories have no content whatever their size field says (POSIX.1-2017, pax, "size").
        if !(b'1'..=b'6').contains(&flag) {
            self.skip(size, &name)?;
        }
        Ok((name, member))
    }

    /// The next header block; `None` at the end, be it marked by a block of zeros or just there.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        if self.position >= self.length {
            return Ok(None);
        }
        let mut block = [0; BLOCK];
        if self.length - self.position < BLOCK as u64 {
            return Err(self.truncated("a header"));
        }
        self.file.read_exact_at(&mut block, self.position).map_err(|e| ImageError::read(self.origin, e))?;
        self.position += BLOCK as u64;
        self.is_whole = block == [0; BLOCK];
        Ok((!self.is_whole).then_some(block))
    }

    fn skip(&mut self, size: u64, within: &str) -> Result<()> {
        let end = self.position.checked_add(size).filter(|end| *end <= self.length);
        let end = end.ok_or_else(|| self.truncated(within))?;
        // The last member's padding may be missing.
        self.position = end.next_multiple_of(BLOCK as u64);
        Ok(())
    }

    fn read_bytes(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MEMBER_HEADER_BYTES {
            return Err(self.bad("the name of a member is too long"));
        }
        let start = self.position;
        self.skip(size, "a member's name")?;
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, start).map_err(|e| ImageError::read(self.origin, e))?;
        Ok(bytes)
    }

    fn read_text(&mut self, size: u64) -> Result<String> {
        Ok(text(&self.read_bytes(size)?))
    }

    /// Records of the form `length key=value\n`, where length counts the whole record.
    fn read_pax(&mut self, size: u64, described: &mut Described) -> Result<()> {
        let bytes = self.read_bytes(size)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (key, value, after) = pax_record(rest).ok_or_else(|| self.bad("a PAX record is malformed"))?;
            match key {
                b"path" => described.name = Some(text(value)),
                b"linkpath" => described.link = Some(text(value)),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                    described.size = Some(size.ok_or_else(|| self.bad("the size of a member is no number"))?);
                }
                _ => {}
            }
            rest = after;
        }
        Ok(())
    }

    fn truncated(&self, within: &str) -> ImageError {
        ImageError::Truncated { origin: self.origin.to_owned(), within: within.chars().take(200).collect() }
    }

    fn bad(&self, problem: &str) -> ImageError {
        ImageError::malformed(self.origin, format!("{problem}, before byte {}", self.position))
    }
}

fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let (record, after) = bytes.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    Some((&record[..equals], &record[equals + 1..], after))
}

/// Bytes up to the first NUL. Names that are no UTF-8 become names that nothing asks for.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

struct Header<'a>(&'a [u8; BLOCK]);

impl Header<'_> {
    fn checksum_fits(&self) -> bool {
        let stored = octal(&self.0[148..156]);
        let sum = |range: std::ops::Range<usize>| self.0[range].iter().map(|b| u64::from(*b)).sum::<u64>();
        stored == Some(sum(0..148) + 8 * u64::from(b' ') + sum(156..BLOCK))
    }

    fn type_flag(&self) -> u8 {
        self.0[156]
    }

    fn size(&self) -> Option<u64> {
        let field = &self.0[124..136];
        match field {
            // GNU: a set first bit means a big-endian number in the other bits.
            [0x80, high @ .., _, _, _, _, _, _, _, _] if high.iter().all(|b| *b == 0) => {
                Some(u64::from_be_bytes(*field.last_chunk()?))
            }
            [first, ..] if *first >= 0x80 => None,
            _ => octal(field),
        }
    }

    fn name(&self) -> String {
        let name = text(&self.0[..100]);
        // Only POSIX headers have a prefix; GNU ones keep other things there.
        let prefix = if &self.0[257..263] == b"ustar\0" { text(&self.0[345..500]) } else { String::new() };
        if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
    }

    fn link(&self) -> String {
        text(&self.0[157..257])
    }
}

fn octal(field: &[u8]) -> Option<u64> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    let digits = std::str::from_utf8(&field[..end]).ok()?.trim_matches(' ');
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn header(name: &str, size: u64, flag: u8, link: &str) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[156] = flag;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    }

    fn member(name: &str, content: &[u8]) -> Vec<u8> {
        let mut bytes = header(name, content.len() as u64, b'0', "");
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn index(bytes: &[u8]) -> Result<Archive> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Archive::index(file, bytes.len() as u64, "test")
    }

    fn content(archive: &Archive, name: &str) -> Option<String> {
        let mut text = String::new();
        archive.section(name)?.read_to_string(&mut text).unwrap();
        Some(text)
    }

    #[test]
    fn members_are_found_by_name() {
        let mut bytes = member("./index.json", b"one");
        bytes.extend(member("a/b/layer.tar", b"two"));
        bytes.extend(header("c/layer.tar", 0, b'2', "../a/b/layer.tar"));
        bytes.extend(header("out", 0, b'2', "../../etc/passwd"));
        bytes.extend(header("loop", 0, b'2', "loop"));
        bytes.extend(header("hard", 0, b'1', "a/b/layer.tar"));
        bytes.extend(header("xheader", 18, b'x', ""));
        let mut pax = b"18 path=long/name\n".to_vec();
        pax.resize(BLOCK, 0);
        bytes.extend(pax);
        bytes.extend(member("short", b"three"));
        bytes.extend(member("./index.json", b"last wins"));
        let archive = index(&bytes).unwrap();
        let content = |name| content(&archive, name);
        assert_eq!(content("index.json").as_deref(), Some("last wins"));
        assert_eq!(content("c/layer.tar").as_deref(), Some("two"));
        assert_eq!(content("hard").as_deref(), Some("two"));
        assert_eq!(content("long/name").as_deref(), Some("three"));
        for none in ["out", "loop", "short", "etc/passwd", "", "../index.json"] {
            assert_eq!(content(none), None, "{none:?}");
        }
    }

    #[test]
    fn large_sizes_are_numbers_and_absurd_ones_truncations() {
        let mut block = header("big", 0, b'0', "");
        block[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0]);
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        assert_eq!(Header(block.first_chunk().unwrap()).size(), Some(3 << 32));
        let error = index(&block).unwrap_err();
        assert!(matches!(error, ImageError::Truncated { .. }), "{error}");
    }

    #[test]
    fn every_cut_is_an_error_or_a_shorter_archive() {
        let mut bytes = member("one", &[b'x'; 700]);
        bytes.extend(member("two", b"y"));
        for cut in 0..bytes.len() {
            if let Ok(archive) = index(&bytes[..cut]) {
                let found = [archive.section("one").is_some(), archive.section("two").is_some()];
                assert_eq!(found, [cut >= BLOCK + 700, cut > 4 * BLOCK], "cut at {cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_indexed_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..2048), flag: u8) {
            let _ = index(&bytes);
            // The same with a header that passes.
            let mut archive = header("name", bytes.len() as u64, flag, "");
            archive.append(&mut bytes);
            let _ = index(&archive);
        }
    }
}
