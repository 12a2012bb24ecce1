//! The kernel's requests as [`Change`]s.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::tree::{Change, Content, Kind, Node};
use super::{State, lock};

/// Nobody but the kernel's clients changes the tree: what it knows stays true.
const FOREVER: Duration = Duration::from_secs(86_400);

#[derive(Debug)]
pub(super) struct Server(Arc<Mutex<State>>);

type Answer<T> = Result<T, rustix::io::Errno>;

impl Server {
    pub(super) fn new(state: Arc<Mutex<State>>) -> Self {
        Self(state)
    }

    fn make(&self, request: &Request, change: Change) -> Answer<()> {
        lock(&self.0).make(change, request.pid())
    }

    /// A new inode with a name.
    fn create_node(&self, request: &Request, parent: INodeNo, name: &OsStr, node: Node) -> Answer<FileAttr> {
        let mut state = lock(&self.0);
        let inode = state.tree.number();
        let change = Change::Make { parent: parent.0, name: name.to_owned(), inode, node };
        state.make(change, request.pid())?;
        attributes(&state, inode)
    }

    fn attributes(&self, inode: u64) -> Answer<FileAttr> {
        attributes(&lock(&self.0), inode)
    }
}

fn attributes(state: &State, inode: u64) -> Answer<FileAttr> {
    let node = state.tree.node(inode).ok_or(rustix::io::Errno::NOENT)?;
    let modified = UNIX_EPOCH + Duration::from_secs(node.modified);
    Ok(FileAttr {
        ino: INodeNo(inode),
        size: node.length(),
        blocks: node.length().div_ceil(512),
        atime: modified,
        mtime: modified,
        ctime: modified,
        crtime: modified,
        kind: file_type(&node.kind),
        perm: u16::try_from(node.mode & 0o7777).unwrap_or(0),
        nlink: if matches!(node.kind, Kind::Directory(_)) { 2 } else { node.links },
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

fn file_type(kind: &Kind) -> FileType {
    match kind {
        Kind::File(_) => FileType::RegularFile,
        Kind::Directory(_) => FileType::Directory,
        Kind::Symlink(_) => FileType::Symlink,
        Kind::Special(libc::S_IFSOCK) => FileType::Socket,
        Kind::Special(_) => FileType::NamedPipe,
    }
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_i32(error.raw_os_error())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn answer(result: Answer<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn entry(result: Answer<FileAttr>, reply: ReplyEntry) {
    match result {
        Ok(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
        Err(error) => reply.error(errno(error)),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without a handle there is nothing to open, and nothing to release.
        let wanted = InitFlags::FUSE_NO_OPEN_SUPPORT | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        config.add_capabilities(wanted).map_err(|_| io::Error::other("the kernel's FUSE is too old"))
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = lock(&self.0);
        let found = state.tree.find(parent.0, name).ok_or(rustix::io::Errno::NOENT);
        entry(found.and_then(|inode| attributes(&state, inode)), reply);
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode.0) {
            Ok(attributes) => reply.attr(&FOREVER, &attributes),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let inode = inode.0;
        let modified = modified.map(|time| match time {
            TimeOrNow::SpecificTime(time) => seconds(time),
            TimeOrNow::Now => seconds(SystemTime::now()),
        });
        let resize = size.map(|length| Change::Resize { inode, length });
        let described = mode.is_some() || modified.is_some() && size.is_none();
        let describe = described.then_some(Change::Describe { inode, mode, modified });
        let mut changes = resize.into_iter().chain(describe);
        match changes.try_for_each(|change| self.make(request, change)).and_then(|()| self.attributes(inode)) {
            Ok(attributes) => reply.attr(&FOREVER, &attributes),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        match lock(&self.0).tree.node(inode.0).map(|node| &node.kind) {
            Some(Kind::Symlink(target)) => reply.data(target.as_os_str().as_bytes()),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: u32, reply: ReplyEntry) {
        let kind = match mode & libc::S_IFMT {
            libc::S_IFREG => Kind::File(Content::default()),
            bits => Kind::Special(bits),
        };
        entry(self.create_node(request, parent, name, Node::new(kind, mode)), reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, reply: ReplyEntry) {
        let node = Node::new(Kind::Directory(BTreeMap::new()), mode);
        entry(self.create_node(request, parent, name, node), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        entry(self.create_node(request, parent, name, Node::new(Kind::Symlink(target.to_owned()), 0o777)), reply);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.make(request, Change::Remove { parent: parent.0, name: name.to_owned() }), reply);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.make(request, Change::Remove { parent: parent.0, name: name.to_owned() }), reply);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return reply.error(Errno::EINVAL);
        }
        if flags.contains(RenameFlags::RENAME_NOREPLACE) && lock(&self.0).tree.find(to.0, to_name).is_some() {
            return reply.error(Errno::EEXIST);
        }
        let change = Change::Rename { from: (parent.0, name.to_owned()), to: (to.0, to_name.to_owned()) };
        answer(self.make(request, change), reply);
    }

    fn link(&self, request: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let change = Change::Link { parent: parent.0, name: name.to_owned(), inode: inode.0 };
        entry(self.make(request, change).and_then(|()| self.attributes(inode.0)), reply);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn create(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: i32, reply: ReplyCreate) {
        let node = Node::new(Kind::File(Content::default()), mode);
        match self.create_node(request, parent, name, node) {
            Ok(attributes) => {
                reply.created(&FOREVER, &attributes, Generation(0), FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match lock(&self.0).tree.node(inode.0).map(|node| &node.kind) {
            Some(Kind::File(content)) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
                reply.data(&content[start..(start + size as usize).min(content.len())]);
            }
            _ => reply.error(Errno::EISDIR),
        }
    }

    fn write(
        &self,
        request: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.make(request, Change::Write { inode: inode.0, offset, bytes: data.to_vec() }) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(0)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn fsync(&self, request: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.make(request, Change::Sync { inode: inode.0 }), reply);
    }

    fn fsyncdir(&self, request: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer(self.make(request, Change::Sync { inode: inode.0 }), reply);
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = lock(&self.0);
        let Some(entries) = state.tree.node(inode.0).and_then(Node::entries) else {
            return reply.error(Errno::ENOTDIR);
        };
        // Cookies that stay true while names come and go: who deletes a directory reads it at the same time.
        let dots = [(1, OsStr::new("."), inode.0), (2, OsStr::new(".."), inode.0)];
        let mut all: Vec<_> = entries.iter().map(|(name, inode)| (inode + 2, name.as_os_str(), *inode)).collect();
        all.sort_unstable();
        for (cookie, name, inode) in dots.into_iter().chain(all).filter(|(cookie, ..)| *cookie > offset) {
            let kind = state.tree.node(inode).map_or(FileType::RegularFile, |node| file_type(&node.kind));
            if reply.add(INodeNo(inode), cookie, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        const BLOCKS: u64 = 1 << 28;
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, BLOCKS, BLOCKS, 4096, 255, 4096);
    }
}
