//! Tar members become a changeset; their contents go to a sink.

use std::collections::BTreeMap;
use std::io::{self, Read};

use crate::archive::{Archive, Member};
use crate::changeset::{Builder, Change, Changeset, Content, Device, Entry, Inode, Kind, Place, XattrBuf};
use crate::changeset_format::BLOCK;
use crate::error::{EntryFault, LayerError};
use crate::limits::Limits;
use crate::path;
use crate::sink::ContentSink;

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
/// What AUFS kept for itself in the root of a layer, and old Docker versions packed along.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// Reads one uncompressed layer archive to the end of `tar`, whatever follows the end of the archive included, so
/// that a digest over `tar` covers the whole blob.
///
/// File contents go to `sink`; what the layer changes is returned. Nothing outside `sink` is touched. Memory: a
/// buffer of 64 KiB and the changeset, which `limits` bounds.
pub fn read_layer(tar: impl Read, sink: &mut impl ContentSink, limits: &Limits) -> Result<Changeset, LayerError> {
    let mut reader = LayerReader { builder: Builder::new(limits), sink, content_bytes: 0, limits };
    let mut archive = Archive::new(tar, limits);
    while let Some(member) = archive.next_member()? {
        reader.member(&mut archive, &member)?;
    }
    archive.drain()?;
    let data_bytes = reader.sink.finish().map_err(LayerError::Finish)?;
    Ok(reader.builder.finish(data_bytes, 0)?)
}

struct LayerReader<'s, S> {
    builder: Builder,
    sink: &'s mut S,
    /// Content so far, each file rounded up to whole blocks.
    content_bytes: u64,
    limits: &'s Limits,
}

impl<S: ContentSink> LayerReader<'_, S> {
    fn member<R: Read>(&mut self, archive: &mut Archive<'_, R>, member: &Member) -> Result<(), LayerError> {
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
        Ok(self.builder.push(&Entry { directory, name, change })?)
    }

    fn whiteout(&mut self, member: &Member, directory: &[u8], name: &[u8], hidden: &[u8]) -> Result<(), LayerError> {
        let entry = match hidden {
            _ if name == OPAQUE_MARK => Entry { directory, name: &[], change: Change::Opaque },
            b"" | b"." | b".." => return Err(member.fault(EntryFault::Whiteout)),
            hidden => Entry { directory, name: hidden, change: Change::Whiteout },
        };
        Ok(self.builder.push(&entry)?)
    }

    fn link(&mut self, member: &Member, directory: &[u8], name: &[u8]) -> Result<(), LayerError> {
        if member.link_name.is_empty() {
            return Err(member.fault(EntryFault::NoTarget));
        }
        if name.is_empty() {
            return Err(member.fault(EntryFault::Root));
        }
        let target = path::clean(&member.link_name).map_err(|error| member.fault(error))?;
        Ok(self.builder.push(&Entry { directory, name, change: Change::Link(&target) })?)
    }

    fn content<R: Read>(&mut self, archive: &mut Archive<'_, R>, member: &Member) -> Result<Content, LayerError> {
        let size = member.content.size;
        let limit = self.limits.content_bytes;
        let total = size.checked_next_multiple_of(BLOCK).and_then(|size| size.checked_add(self.content_bytes));
        self.content_bytes =
            total.filter(|&total| total <= limit).ok_or_else(|| member.fault(EntryFault::Content(limit)))?;
        if size == 0 {
            return Ok(Content::EMPTY);
        }
        let mut reader = archive.content();
        match store(self.sink, &mut reader, member) {
            Ok(offset) => Ok(Content { place: Place::Data { offset }, size }),
            Err(error) => Err(reader.explain(error)),
        }
    }
}

fn store(sink: &mut impl ContentSink, from: &mut dyn Read, member: &Member) -> io::Result<u64> {
    let offset = sink.begin()?;
    let mut position = 0;
    for extent in &member.content.extents {
        if extent.offset > position {
            sink.hole(extent.offset - position)?;
        }
        sink.copy(from, extent.length)?;
        position = extent.offset + extent.length;
    }
    if member.content.size > position {
        sink.hole(member.content.size - position)?;
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
