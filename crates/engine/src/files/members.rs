//! The members of a tar archive as the entries that guest init unpacks (`protocol::unpack`).
//!
//! Nothing is unpacked here, and no name of the archive is opened: the archive is taken apart and handed on, and what
//! its names mean is up to the container's own kernel, with the container's root as the root.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;

use protocol::unpack::{Entry, Item, Kind, encode_item};
use tar::EntryType;

use super::error::FilesError;

type Result<T> = std::result::Result<T, FilesError>;

/// Bytes that are copied at once.
const BUFFER: usize = 256 << 10;

/// Extended attributes in extended headers.
const XATTR: &str = "SCHILY.xattr.";

/// Most pieces of a sparse file.
const MAX_EXTENTS: u64 = 1 << 18;

/// What an extended header says beside what `tar` itself takes from it.
#[derive(Debug, Default)]
struct Extended {
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    mtime: Option<(i64, u32)>,
    /// Version 1.0 of sparse files: the real name and size; the map is before the content.
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_major: Option<u64>,
    /// Versions 0.0 and 0.1.
    has_old_sparse: bool,
}

/// Hands an archive's members on, and the end.
///
/// # Errors
///
/// [`FilesError::Archive`], [`FilesError::Member`]; [`FilesError::Write`] where they are taken no more.
pub(crate) fn hand_on(archive: &mut dyn Read, out: &mut dyn Write) -> Result<()> {
    let mut archive = tar::Archive::new(archive);
    let mut buffer = vec![0; BUFFER];
    for member in archive.entries().map_err(FilesError::Archive)? {
        let mut member = member.map_err(FilesError::Archive)?;
        let extended = extended(&mut member)?;
        if let Some(mut entry) = entry(&member, &extended)? {
            if extended.sparse_major == Some(1) {
                let size = extended.sparse_size.ok_or_else(|| refused(&entry.path, "a sparse file without a size"))?;
                let map = sparse_map(&mut member, size).map_err(|error| of_map(&entry.path, error))?;
                entry.kind = Kind::File { size };
                say(&entry, out)?;
                sparse_content(&mut member, &map, size, out, &mut buffer)?;
            } else {
                say(&entry, out)?;
                copy(&mut member, entry.size(), out, &mut buffer)?;
            }
        }
    }
    write_item(&Item::End, b"", out)?;
    out.flush().map_err(FilesError::Write)
}

fn refused(path: &[u8], problem: impl Into<String>) -> FilesError {
    FilesError::Member { path: OsString::from_vec(path.to_vec()).into(), problem: problem.into() }
}

fn say(entry: &Entry, out: &mut dyn Write) -> Result<()> {
    entry.check().map_err(|error| refused(&entry.path, error.to_string()))?;
    write_item(&Item::Entry(Box::new(entry.clone())), &entry.path, out)
}

fn write_item(item: &Item, path: &[u8], out: &mut dyn Write) -> Result<()> {
    let frame = encode_item(item).map_err(|error| refused(path, error.to_string()))?;
    out.write_all(&frame).map_err(FilesError::Write)
}

fn extended<R: Read>(member: &mut tar::Entry<'_, R>) -> Result<Extended> {
    let mut extended = Extended::default();
    let Some(records) = member.pax_extensions().map_err(FilesError::Archive)? else { return Ok(extended) };
    for record in records {
        let record = record.map_err(FilesError::Archive)?;
        let Ok(key) = record.key() else { continue };
        let value = record.value_bytes();
        let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
        match key {
            "mtime" => extended.mtime = std::str::from_utf8(value).ok().and_then(time),
            "GNU.sparse.name" => extended.sparse_name = Some(value.to_vec()),
            "GNU.sparse.realsize" => extended.sparse_size = number(),
            "GNU.sparse.major" => extended.sparse_major = number(),
            "GNU.sparse.map" | "GNU.sparse.numblocks" => extended.has_old_sparse = true,
            key => {
                // `trusted.` is for the kernel that it was made on.
                if let Some(name) = key.strip_prefix(XATTR).filter(|name| !name.starts_with("trusted.")) {
                    extended.xattrs.push((name.as_bytes().to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(extended)
}

/// A decimal number of seconds since 1970.
fn time(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    let seconds: i64 = whole.parse().ok()?;
    match (whole.starts_with('-'), nanoseconds) {
        (true, 1..) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
        _ => Some((seconds, nanoseconds)),
    }
}

/// A member as an entry; `None` for what is no file.
fn entry<R: Read>(member: &tar::Entry<'_, R>, extended: &Extended) -> Result<Option<Entry>> {
    let header = member.header();
    let raw = extended.sparse_name.clone().unwrap_or_else(|| member.path_bytes().into_owned());
    let path = clean(&raw).ok_or_else(|| refused(&raw, "its name leads out of the archive"))?;
    let bad = |problem: &str| refused(&path, problem);
    let device = |number: io::Result<Option<u32>>| match number {
        Ok(Some(number)) => Ok(number),
        _ => Err(bad("it has no device number")),
    };
    let target =
        || member.link_name_bytes().map(std::borrow::Cow::into_owned).ok_or_else(|| bad("it links to nothing"));
    if extended.has_old_sparse {
        return Err(bad("sparse files of this kind are not read; `tar --sparse-version=1.0` makes those that are"));
    }
    let kind = match header.entry_type() {
        // As archives before POSIX have directories.
        EntryType::Regular if raw.ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File { size: member.size() },
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink { target: target()? },
        EntryType::Link => {
            let target = target()?;
            let target = clean(&target).ok_or_else(|| bad("it links out of the archive"))?;
            Kind::Hardlink { target }
        }
        EntryType::Char => {
            Kind::Character { major: device(header.device_major())?, minor: device(header.device_minor())? }
        }
        EntryType::Block => {
            Kind::Block { major: device(header.device_major())?, minor: device(header.device_minor())? }
        }
        EntryType::Fifo => Kind::Fifo,
        EntryType::XGlobalHeader => return Ok(None),
        other => return Err(bad(&format!("it is of the unknown type {:?}", char::from(other.as_byte())))),
    };
    let number = |number: io::Result<u64>| number.ok().and_then(|number| u32::try_from(number).ok());
    let seconds = || Some((i64::try_from(header.mtime().ok()?).ok()?, 0));
    Ok(Some(Entry {
        mode: header.mode().map_err(|_| bad("it has no permissions"))? & 0o7777,
        uid: number(header.uid()).ok_or_else(|| bad("it has no owner that there can be"))?,
        gid: number(header.gid()).ok_or_else(|| bad("it has no group that there can be"))?,
        mtime: extended.mtime.or_else(seconds).ok_or_else(|| bad("it has no time that there can be"))?,
        xattrs: extended.xattrs.clone(),
        kind,
        path,
    }))
}

/// A name without what means nothing; `None` for one with `..` in it.
fn clean(name: &[u8]) -> Option<Vec<u8>> {
    let mut names = name.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    let kept: Vec<&[u8]> = names.by_ref().collect();
    (!kept.contains(&&b".."[..])).then(|| kept.join(&b'/'))
}

fn copy(from: &mut dyn Read, mut left: u64, out: &mut dyn Write, buffer: &mut [u8]) -> Result<()> {
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = match from.read(&mut buffer[..wanted]) {
            Ok(0) => return Err(FilesError::Archive(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(FilesError::Archive(error)),
        };
        out.write_all(&buffer[..count]).map_err(FilesError::Write)?;
        left -= count as u64;
    }
    Ok(())
}

fn of_map(path: &[u8], error: io::Error) -> FilesError {
    match error.kind() {
        io::ErrorKind::InvalidData => refused(path, "its map of holes is none"),
        _ => FilesError::Archive(error),
    }
}

/// The map of a sparse file, which is before its content: offset and length of each piece, ascending.
fn sparse_map(from: &mut dyn Read, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let mut block = [0; 512];
    let mut at = block.len();
    let mut number = || -> io::Result<u64> {
        let mut value: u64 = 0;
        for digits in 0.. {
            if at == block.len() {
                from.read_exact(&mut block)?;
                at = 0;
            }
            let byte = block[at];
            at += 1;
            match byte {
                b'0'..=b'9' if digits < 20 => {
                    value =
                        value.checked_mul(10).and_then(|v| v.checked_add(u64::from(byte - b'0'))).ok_or_else(bad)?;
                }
                b'\n' if digits > 0 => break,
                _ => return Err(bad()),
            }
        }
        Ok(value)
    };
    let count = number()?;
    if count > MAX_EXTENTS {
        return Err(bad());
    }
    let mut map = Vec::new();
    let mut end = 0;
    for _ in 0..count {
        let (offset, length) = (number()?, number()?);
        let next = offset.checked_add(length).filter(|next| offset >= end && *next <= size).ok_or_else(bad)?;
        end = next;
        map.push((offset, length));
    }
    Ok(map)
}

fn sparse_content(
    from: &mut dyn Read,
    map: &[(u64, u64)],
    size: u64,
    out: &mut dyn Write,
    buffer: &mut [u8],
) -> Result<()> {
    let mut at = 0;
    for (offset, length) in map {
        copy(&mut io::repeat(0), offset - at, out, buffer)?;
        copy(from, *length, out, buffer)?;
        at = offset + length;
    }
    copy(&mut io::repeat(0), size - at, out, buffer)
}

#[cfg(test)]
mod tests {
    use protocol::unpack::{Decoder, Piece};

    use super::*;

    /// What guest init will see.
    fn entries(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
        let mut stream = Vec::new();
        hand_on(&mut &archive[..], &mut stream)?;
        let (mut decoder, mut input) = (Decoder::default(), &stream[..]);
        let mut entries: Vec<(Entry, Vec<u8>)> = Vec::new();
        while let Some(piece) = decoder.take(&mut input).unwrap() {
            match piece {
                Piece::Entry(entry) => entries.push((*entry, Vec::new())),
                Piece::Content(bytes) => entries.last_mut().unwrap().1.extend_from_slice(bytes),
                Piece::End => {}
            }
        }
        decoder.finish().unwrap();
        Ok(entries)
    }

    fn archive(kind: EntryType, name: &[u8], content: &[u8], records: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions(records.iter().copied()).unwrap();
        let mut header = tar::Header::new_ustar();
        header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(5);
        header.set_gid(6);
        header.set_mtime(7);
        header.set_cksum();
        builder.append(&header, content).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn members_become_entries() {
        let records: [(&str, &[u8]); 3] =
            [("SCHILY.xattr.user.a", b"\0b"), ("SCHILY.xattr.trusted.x", b"y"), ("mtime", b"-1.25")];
        let found = entries(&archive(EntryType::Regular, b"/a/./b//c", b"content", &records)).unwrap();
        let (entry, content) = &found[0];
        assert_eq!((&entry.path[..], &content[..]), (&b"a/b/c"[..], &b"content"[..]));
        assert_eq!((entry.mode, entry.uid, entry.gid, entry.mtime), (0o644, 5, 6, (-2, 750_000_000)));
        assert_eq!(entry.xattrs, [(b"user.a".to_vec(), b"\0b".to_vec())]);
        let found = entries(&archive(EntryType::Directory, b"./", b"", &[])).unwrap();
        assert_eq!((&found[0].0.path[..], &found[0].0.kind), (&b""[..], &Kind::Directory));
    }

    #[test]
    fn sparse_files_are_filled_in() {
        let mut stored = b"2\n512\n512\n2000\n3\n".to_vec();
        stored.resize(512, 0);
        stored.extend([b'x'; 512]);
        stored.extend(b"end");
        let records: [(&str, &[u8]); 4] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"real"),
            ("GNU.sparse.realsize", b"2003"),
        ];
        let found = entries(&archive(EntryType::Regular, b"GNUSparseFile.0/real", &stored, &records)).unwrap();
        let expected = [vec![0; 512], vec![b'x'; 512], vec![0; 976], b"end".to_vec()].concat();
        assert_eq!((&found[0].0.path[..], &found[0].1), (&b"real"[..], &expected));
        for map in ["", "x\n", "1\n5000\n1\n", "99999999999999999999999\n", "2\n10\n10\n5\n1\n"] {
            let mut stored = map.as_bytes().to_vec();
            stored.resize(1024, 0);
            assert!(entries(&archive(EntryType::Regular, b"x", &stored, &records)).is_err(), "{map:?}");
        }
    }

    #[test]
    fn what_cannot_be_unpacked_is_told_by_name() {
        for (kind, name) in
            [(EntryType::Regular, "../a"), (EntryType::Regular, "a/../../b"), (EntryType::new(b'Z'), "z")]
        {
            let error = entries(&archive(kind, name.as_bytes(), b"", &[])).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        assert!(matches!(
            entries(&archive(EntryType::Regular, b"a", b"12345", &[])[..514]),
            Err(FilesError::Archive(_))
        ));
        assert!(entries(b"no archive, but more than nothing").is_err() || entries(b"").unwrap().is_empty());
    }
}
