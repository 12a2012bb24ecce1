//! Nodes of a container's tree as members of a tar archive.
//!
//! POSIX.1-2001 (`pax`), as OCI layers are: names, link targets and times that do not fit into the header, and extended
//! attributes as `SCHILY.xattr.NAME`, are in an extended header before the member. Numbers that do not fit are base 256,
//! which everybody reads. A file with large holes is sparse as GNU tar's version 1.0 has it. Everything depends on the
//! tree alone: the same tree, the same bytes.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::ops::Range;

use tar::{Builder, EntryType, Header};

use super::error::FilesError;
use super::path_of;
use super::view::{Attributes, Identity, Kind, Node, View};

type Result<T> = std::result::Result<T, FilesError>;

/// Bytes of a name in the header.
const NAME: usize = 100;
/// Bytes of holes from which on a file is stored as sparse: less than that is not worth a form that few need.
const SPARSE: u64 = 16 << 20;
/// Contents of sparse files are stored in units of this.
const BLOCK: u64 = 512;

/// Records of an extended header.
type Records = Vec<(String, Vec<u8>)>;

/// Writes an archive of nodes of one tree.
pub(crate) struct Archive<'v, 'a, W: Write> {
    tar: Builder<W>,
    view: &'v View<'a>,
    /// The names of inodes that have several, as they are in the archive.
    names: HashMap<Identity, Vec<u8>>,
}

impl<'v, 'a, W: Write> Archive<'v, 'a, W> {
    pub(crate) fn new(view: &'v View<'a>, out: W) -> Self {
        Self { tar: Builder::new(out), view, names: HashMap::new() }
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.tar.finish().map_err(failure)?;
        self.tar.into_inner().map_err(failure)
    }

    /// An empty file whose name means something: a whiteout.
    pub(crate) fn mark(&mut self, name: &[u8]) -> Result<()> {
        let attributes = Attributes {
            kind: Kind::File,
            mode: 0o600,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: (0, 0),
            xattrs: std::collections::BTreeMap::new(),
        };
        self.member(EntryType::Regular, name, &[], &attributes, Vec::new(), 0, io::empty())
    }

    /// A node under a name; `path` is where it is in the tree. Sockets are left out: there is no member for them.
    pub(crate) fn node(&mut self, name: &[u8], path: &[u8], node: &Node) -> Result<()> {
        let attributes = self.view.attributes(node)?;
        if attributes.kind != Kind::Directory
            && let Some(identity) = self.view.identity(node)
        {
            if let Some(first) = self.names.get(&identity) {
                let first = first.clone();
                return self.member(EntryType::Link, name, &first, &attributes, Vec::new(), 0, io::empty());
            }
            self.names.insert(identity, name.to_vec());
        }
        let records = self.xattrs(path, &attributes)?;
        let simple = |kind| (kind, Vec::new());
        let (kind, target) = match &attributes.kind {
            Kind::File => return self.file(name, path, node, &attributes, records),
            Kind::Socket => return Ok(()),
            Kind::Directory => {
                let name = [name, b"/"].concat();
                return self.member(EntryType::Directory, &name, &[], &attributes, records, 0, io::empty());
            }
            Kind::Symlink(target) => (EntryType::Symlink, target.clone()),
            Kind::Char(..) => simple(EntryType::Char),
            Kind::Block(..) => simple(EntryType::Block),
            Kind::Fifo => simple(EntryType::Fifo),
        };
        self.member(kind, name, &target, &attributes, records, 0, io::empty())
    }

    fn file(
        &mut self,
        name: &[u8],
        path: &[u8],
        node: &Node,
        attributes: &Attributes,
        mut records: Records,
    ) -> Result<()> {
        let content = self.view.content(path, node)?;
        let size = attributes.size;
        let data = in_blocks(content.data()?, size);
        let stored: u64 = data.iter().map(|range| range.end - range.start).sum();
        if size - stored < SPARSE {
            let whole: Vec<_> = std::iter::once(0..size).collect();
            return self.member(EntryType::Regular, name, &[], attributes, records, size, content.reader(&whole));
        }
        let map = sparse_map(&data, size);
        records.push(("GNU.sparse.major".to_owned(), b"1".to_vec()));
        records.push(("GNU.sparse.minor".to_owned(), b"0".to_vec()));
        records.push(("GNU.sparse.name".to_owned(), name.to_vec()));
        records.push(("GNU.sparse.realsize".to_owned(), size.to_string().into_bytes()));
        let size = map.len() as u64 + stored;
        let reader = map.as_slice().chain(content.reader(&data));
        self.member(EntryType::Regular, name, &[], attributes, records, size, reader)
    }

    fn xattrs(&self, path: &[u8], attributes: &Attributes) -> Result<Records> {
        let record = |(name, value): (&Vec<u8>, &Vec<u8>)| match std::str::from_utf8(name) {
            Ok(name) if !name.contains(['=', '\n']) => Ok((format!("SCHILY.xattr.{name}"), value.clone())),
            _ => Err(FilesError::NotForArchives {
                container: self.view.container.to_owned(),
                path: path_of(path),
                problem: "the name of an extended attribute of it cannot be written",
            }),
        };
        attributes.xattrs.iter().map(record).collect()
    }

    #[allow(clippy::too_many_arguments, reason = "each is another part of a member")]
    fn member(
        &mut self,
        kind: EntryType,
        name: &[u8],
        target: &[u8],
        attributes: &Attributes,
        mut records: Records,
        size: u64,
        content: impl Read,
    ) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(u32::from(attributes.mode));
        header.set_uid(attributes.uid.into());
        header.set_gid(attributes.gid.into());
        header.set_size(size);
        let (seconds, nanoseconds) = attributes.mtime;
        header.set_mtime(u64::try_from(seconds).unwrap_or(0));
        if seconds < 0 || nanoseconds > 0 {
            records.push(("mtime".to_owned(), time(seconds, nanoseconds).into_bytes()));
        }
        if let (Kind::Char(major, minor) | Kind::Block(major, minor), EntryType::Char | EntryType::Block) =
            (&attributes.kind, kind)
        {
            header.set_device_major(*major).and_then(|()| header.set_device_minor(*minor)).map_err(failure)?;
        }
        if let Some(ustar) = header.as_ustar_mut() {
            for (field, text, key) in [(&mut ustar.name, name, "path"), (&mut ustar.linkname, target, "linkpath")] {
                let length = text.len().min(NAME);
                field[..length].copy_from_slice(&text[..length]);
                if text.len() > NAME {
                    records.push((key.to_owned(), text.to_vec()));
                }
            }
        }
        header.set_cksum();
        records.sort_unstable();
        let records = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        self.tar.append_pax_extensions(records).map_err(failure)?;
        self.tar.append(&header, content).map_err(failure)
    }
}

/// An error of a reader comes as it was made; all else is the writer's.
fn failure(error: io::Error) -> FilesError {
    match error.downcast::<FilesError>() {
        Ok(error) => error,
        Err(error) => FilesError::Write(error),
    }
}

/// Ranges in whole blocks of an archive, those that touch made one; the end of the file is its size.
fn in_blocks(data: Vec<Range<u64>>, size: u64) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for range in data {
        let (start, end) = (range.start / BLOCK * BLOCK, range.end.next_multiple_of(BLOCK).min(size));
        match ranges.last_mut() {
            Some(last) if last.end >= start => last.end = end,
            _ => ranges.push(start..end),
        }
    }
    ranges
}

/// How many extents, then offset and length of each, a number a line, to whole blocks. As GNU tar does, the last one is
/// empty and at the end, where the file ends with a hole.
fn sparse_map(data: &[Range<u64>], size: u64) -> Vec<u8> {
    let mut extents: Vec<(u64, u64)> = data.iter().map(|range| (range.start, range.end - range.start)).collect();
    if data.last().is_none_or(|last| last.end < size) {
        extents.push((size, 0));
    }
    let mut map = format!("{}\n", extents.len());
    for (offset, length) in extents {
        map.push_str(&format!("{offset}\n{length}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(512), 0);
    map
}

/// Seconds since 1970 as a decimal number.
fn time(seconds: i64, nanoseconds: u32) -> String {
    match (seconds, nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (seconds @ ..0, nanoseconds) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
        (seconds, nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_1970() {
        assert_eq!(time(5, 0), "5");
        assert_eq!(time(5, 1_000), "5.000001000");
        assert_eq!(time(-1, 0), "-1");
        assert_eq!(time(-2, 500_000_000), "-1.500000000");
        assert_eq!(time(-1, 999_999_999), "-0.000000001");
    }

    #[test]
    fn maps_of_sparse_files() {
        assert_eq!(in_blocks(vec![1..2, 500..600, 5000..5001], 5001), [0..1024, 4608..5001]);
        let map = sparse_map(&[0..1024, 4608..5001], 5001);
        assert_eq!((map.len(), &map[..17]), (512, &b"2\n0\n1024\n4608\n393"[..]));
        assert!(sparse_map(&[], 99).starts_with(b"1\n99\n0\n\0"));
    }
}
