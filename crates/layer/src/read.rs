//! Tar members become the records of a changeset; their contents go to a layer's files.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use crate::archive::{Archive, Member};
use crate::changeset::{Change, Content, Device, Entry, Inode, Kind, Place, Records, XattrBuf};
use crate::changeset_format::{BLOCK, PACKED_MAX, Totals};
use crate::data::Contents;
use crate::error::{EntryFault, LayerError};
use crate::limits::Limits;
use crate::path;
use crate::sparse::SparseMap;

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
/// What AUFS kept for itself in the root of a layer, and old Docker versions packed along.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// Where the parts of a layer go.
#[derive(Debug)]
pub(crate) struct Parts<D, P, T, S> {
    pub(crate) data: D,
    pub(crate) packed: P,
    pub(crate) tree: T,
    pub(crate) skeleton: S,
}

/// The parts of a layer that was read, and what is to be added to its tree.
type Complete<D, P, T, S> = (Parts<D, P, T, S>, Totals);

/// Reads an archive to the end of `from` and gives the parts back, the tree complete but for its totals, in which the
/// length of the data is still missing.
pub(crate) fn read_into<R: Read, D: Contents, P: Write, T: Write, S: Write>(
    from: R,
    parts: Parts<D, P, T, S>,
    limits: &Limits,
) -> Result<Complete<D, P, T, S>, LayerError> {
    let Parts { data, packed, tree, skeleton } = parts;
    let records = Records::new(limits);
    let mut reader =
        LayerReader { records, data, packed, packed_bytes: 0, tree, encoded: Vec::new(), content_bytes: 0, limits };
    let mut archive = Archive::new(from, skeleton, limits);
    while let Some(member) = archive.next_member()? {
        reader.member(&mut archive, &member)?;
        reader.pass_records_on(RECORDS)?;
    }
    let skeleton = archive.finish()?;
    reader.pass_records_on(0)?;
    let LayerReader { records, data, packed, packed_bytes, tree, .. } = reader;
    let totals = Totals { entries: records.entries(), data_bytes: 0, packed_bytes };
    Ok((Parts { data, packed, tree, skeleton }, totals))
}

/// Bytes of records that are written at once.
const RECORDS: usize = 64 << 10;

struct LayerReader<'l, D, P, T> {
    records: Records,
    data: D,
    packed: P,
    packed_bytes: u64,
    tree: T,
    /// Records on their way to `tree`.
    encoded: Vec<u8>,
    /// Content so far, each file rounded up to whole blocks.
    content_bytes: u64,
    limits: &'l Limits,
}

impl<D: Contents, P: Write, T: Write> LayerReader<'_, D, P, T> {
    fn pass_records_on(&mut self, from: usize) -> Result<(), LayerError> {
        if self.records.pending() > from {
            self.records.take(&mut self.encoded);
            self.tree.write_all(&self.encoded).map_err(LayerError::Finish)?;
        }
        Ok(())
    }

    fn member<R: Read, S: Write>(
        &mut self,
        archive: &mut Archive<'_, R, S>,
        member: &Member,
    ) -> Result<(), LayerError> {
        let path = path::clean(&member.name).map_err(|error| member.fault(error))?;
        let (directory, name) = path::split(&path);
        if path.starts_with(AUFS_PREFIX) && path != OPAQUE_MARK {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
            return self.whiteout(member, directory, name, hidden);
        }
        if member.type_flag == b'1' {
            return self.link(member, directory, name);
        }
        let kind = match member.type_flag {
            b'0' => Kind::File(self.content(archive, member)?),
            b'2' if member.link_name.is_empty() => return Err(member.fault(EntryFault::NoTarget)),
            b'2' => Kind::Symlink(&member.link_name),
            b'3' => Kind::CharDevice(device(member)?),
            b'4' => Kind::BlockDevice(device(member)?),
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            flag => return Err(member.fault(EntryFault::Type(flag))),
        };
        if name.is_empty() && kind != Kind::Directory {
            return Err(member.fault(EntryFault::Root));
        }
        let xattrs = xattrs(member, kind)?;
        let Member { mode, uid, gid, mtime, .. } = *member;
        // Symbolic links have no mode of their own on Linux; every unpacker makes them 0777.
        let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { mode };
        let change = Change::Inode(Inode { mode, uid, gid, mtime, xattrs: xattrs.as_xattrs(), kind });
        Ok(self.records.push(&Entry { directory, name, change })?)
    }

    fn whiteout(&mut self, member: &Member, directory: &[u8], name: &[u8], hidden: &[u8]) -> Result<(), LayerError> {
        let entry = match hidden {
            _ if name == OPAQUE_MARK => Entry { directory, name: &[], change: Change::Opaque },
            b"" | b"." | b".." => return Err(member.fault(EntryFault::Whiteout)),
            hidden => Entry { directory, name: hidden, change: Change::Whiteout },
        };
        Ok(self.records.push(&entry)?)
    }

    fn link(&mut self, member: &Member, directory: &[u8], name: &[u8]) -> Result<(), LayerError> {
        if member.link_name.is_empty() {
            return Err(member.fault(EntryFault::NoTarget));
        }
        if name.is_empty() {
            return Err(member.fault(EntryFault::Root));
        }
        let target = path::clean(&member.link_name).map_err(|error| member.fault(error))?;
        Ok(self.records.push(&Entry { directory, name, change: Change::Link(&target) })?)
    }

    fn content<R: Read, S: Write>(
        &mut self,
        archive: &mut Archive<'_, R, S>,
        member: &Member,
    ) -> Result<Content, LayerError> {
        let size = member.content.size;
        let limit = self.limits.content_bytes;
        let total = size.checked_next_multiple_of(BLOCK).and_then(|size| size.checked_add(self.content_bytes));
        self.content_bytes =
            total.filter(|&total| total <= limit).ok_or_else(|| member.fault(EntryFault::Content(limit)))?;
        if size == 0 {
            return Ok(Content::EMPTY);
        }
        let mut reader = archive.content();
        if size <= PACKED_MAX && member.content.is_whole() {
            let stored = io::copy(&mut reader, &mut self.packed);
            stored.map_err(|error| reader.explain(error))?;
            archive.record_packed(size)?;
            let offset = self.packed_bytes;
            self.packed_bytes += size;
            return Ok(Content { place: Place::Packed { offset }, size });
        }
        let stored = store(&mut self.data, &mut reader, &member.content);
        let offset = stored.map_err(|error| reader.explain(error))?;
        archive.record_data(offset, &member.content)?;
        Ok(Content { place: Place::Data { offset }, size })
    }
}

fn store(data: &mut impl Contents, from: &mut dyn Read, content: &SparseMap) -> io::Result<u64> {
    let offset = data.begin()?;
    let mut position = 0;
    for extent in &content.extents {
        if extent.offset > position {
            data.hole(extent.offset - position)?;
        }
        data.copy(from, extent.length)?;
        position = extent.offset + extent.length;
    }
    if content.size > position {
        data.hole(content.size - position)?;
    }
    Ok(offset)
}

fn device(member: &Member) -> Result<Device, LayerError> {
    let part = |number, limit| u32::try_from(number).ok().filter(|&number| number < limit);
    let (major, minor) = member.device;
    match (part(major, 1 << 12), part(minor, 1 << 20)) {
        (Some(major), Some(minor)) => Ok(Device { major, minor }),
        _ => Err(member.fault(EntryFault::Range("device number"))),
    }
}

/// The extended attributes that the inode gets.
///
/// Left out, as every unpacker leaves them out or its file system refuses them: namespaces that Linux does not have,
/// `user.*` on anything but files and directories, access control lists on symbolic links; and `trusted.overlay.*`,
/// by which a layer would talk to the overlay file system that the tree is mounted under.
fn xattrs(member: &Member, kind: Kind<'_>) -> Result<XattrBuf, LayerError> {
    if member.xattrs.is_empty() {
        return Ok(XattrBuf::default());
    }
    let kept = |name: &[u8]| match name.split_at_checked(name.iter().position(|&byte| byte == b'.').unwrap_or(0)) {
        Some((b"user", rest)) => rest.len() > 1 && matches!(kind, Kind::File(_) | Kind::Directory),
        Some((b"trusted", rest)) => rest.len() > 1 && !rest.starts_with(b".overlay."),
        Some((b"security", rest)) => rest.len() > 1,
        Some((b"system", rest)) => {
            matches!(rest, b".posix_acl_access" | b".posix_acl_default") && !matches!(kind, Kind::Symlink(_))
        }
        _ => false,
    };
    let kept: BTreeMap<_, _> = member.xattrs.clone().into_iter().filter(|(name, _)| kept(name)).collect();
    match kept.keys().find(|name| name.contains(&0)) {
        Some(_) => Err(member.fault(EntryFault::Xattr("a NUL byte in its name"))),
        None => Ok(XattrBuf::from(&kept)),
    }
}
