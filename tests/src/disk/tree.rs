//! A file system's tree as plain data, and what can be done to it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

/// The inode of the root.
pub const ROOT: u64 = 1;

/// A file's bytes. Copies are cheap until one of them is written to.
pub type Content = Arc<Vec<u8>>;

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File(Content),
    /// A directory: names and inodes.
    Directory(BTreeMap<OsString, u64>),
    /// A symbolic link and its target.
    Symlink(PathBuf),
    /// A socket or a FIFO, by its file type bits.
    Special(u32),
}

/// An inode.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permissions.
    pub mode: u32,
    /// Names that lead to it.
    pub links: u32,
    /// Seconds since 1970.
    pub modified: u64,
}

impl Node {
    /// An inode that no name leads to yet.
    #[must_use]
    pub fn new(kind: Kind, mode: u32) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { kind, mode: mode & 0o7777, links: 0, modified: now.as_secs() }
    }

    /// How many bytes `stat` shows.
    #[must_use]
    pub fn length(&self) -> u64 {
        match &self.kind {
            Kind::File(content) => content.len() as u64,
            Kind::Symlink(target) => target.as_os_str().len() as u64,
            Kind::Directory(_) | Kind::Special(_) => 0,
        }
    }

    /// Names and inodes of a directory; of anything else, none.
    #[must_use]
    pub fn entries(&self) -> Option<&BTreeMap<OsString, u64>> {
        if let Kind::Directory(entries) = &self.kind { Some(entries) } else { None }
    }
}

/// One thing that a process does to a tree. Parents and targets are inodes.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the fields are the arguments of the system calls")]
pub enum Change {
    /// A new inode with a name.
    Make { parent: u64, name: OsString, inode: u64, node: Node },
    /// Another name.
    Link { parent: u64, name: OsString, inode: u64 },
    /// A name is taken away: `unlink` and `rmdir`.
    Remove { parent: u64, name: OsString },
    /// A name is moved, over what has it.
    Rename { from: (u64, OsString), to: (u64, OsString) },
    /// Bytes are written; a file that is shorter grows.
    Write { inode: u64, offset: u64, bytes: Vec<u8> },
    /// A file gets a length.
    Resize { inode: u64, length: u64 },
    /// Permissions or the time of the last change are set.
    Describe { inode: u64, mode: Option<u32>, modified: Option<u64> },
    /// What is in a file or a directory is made durable.
    Sync { inode: u64 },
}

impl Change {
    /// Whether a full disk refuses it.
    #[must_use]
    pub fn needs_space(&self) -> bool {
        matches!(self, Self::Make { .. } | Self::Link { .. } | Self::Write { .. })
    }
}

/// A tree of inodes. Those that no name leads to stay: somebody may have them open.
#[derive(Debug, Clone)]
pub struct Tree {
    nodes: HashMap<u64, Node>,
    next: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self { nodes: HashMap::from([(ROOT, Node::new(Kind::Directory(BTreeMap::new()), 0o755))]), next: ROOT + 1 }
    }
}

impl Tree {
    /// A number for a new inode.
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// An inode.
    #[must_use]
    pub fn node(&self, inode: u64) -> Option<&Node> {
        self.nodes.get(&inode)
    }

    /// All inodes and their numbers, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = (u64, &Node)> {
        self.nodes.iter().map(|(number, node)| (*number, node))
    }

    /// An inode to change.
    pub fn node_mut(&mut self, inode: u64) -> Option<&mut Node> {
        self.nodes.get_mut(&inode)
    }

    /// Puts in an inode.
    pub fn insert(&mut self, inode: u64, node: Node) {
        self.nodes.insert(inode, node);
        self.next = self.next.max(inode + 1);
    }

    /// The inode of a name.
    #[must_use]
    pub fn find(&self, parent: u64, name: &OsStr) -> Option<u64> {
        self.node(parent)?.entries()?.get(name).copied()
    }

    /// Whether the kernel's checks leave `change` possible.
    ///
    /// # Errors
    ///
    /// What the system call gets.
    pub fn check(&self, change: &Change) -> Result<(), Errno> {
        let directory = |inode: u64| self.node(inode).and_then(Node::entries).ok_or(Errno::NOTDIR);
        match change {
            Change::Make { parent, name, .. } | Change::Link { parent, name, .. } => {
                if directory(*parent)?.contains_key(name) { Err(Errno::EXIST) } else { Ok(()) }
            }
            Change::Remove { parent, name } => self.check_gone(*directory(*parent)?.get(name).ok_or(Errno::NOENT)?),
            Change::Rename { from, to } => {
                let moved = *directory(from.0)?.get(&from.1).ok_or(Errno::NOENT)?;
                match directory(to.0)?.get(&to.1) {
                    Some(target) if *target != moved => self.check_gone(*target),
                    _ => Ok(()),
                }
            }
            Change::Write { inode, .. }
            | Change::Resize { inode, .. }
            | Change::Describe { inode, .. }
            | Change::Sync { inode } => self.node(*inode).map(|_| ()).ok_or(Errno::NOENT),
        }
    }

    fn check_gone(&self, inode: u64) -> Result<(), Errno> {
        let entries = self.node(inode).and_then(Node::entries);
        if entries.is_some_and(|entries| !entries.is_empty()) { Err(Errno::NOTEMPTY) } else { Ok(()) }
    }

    /// Makes a change that [`Self::check`] allows.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Make { parent, name, inode, node } => {
                self.insert(*inode, node.clone());
                self.enter(*parent, name, *inode);
            }
            Change::Link { parent, name, inode } => self.enter(*parent, name, *inode),
            Change::Remove { parent, name } => self.leave(*parent, name),
            Change::Rename { from, to } => {
                let Some(inode) = self.find(from.0, &from.1) else { return };
                if self.find(to.0, &to.1) != Some(inode) {
                    self.leave(to.0, &to.1);
                    self.enter(to.0, &to.1, inode);
                    self.leave(from.0, &from.1);
                }
            }
            Change::Write { inode, offset, bytes } => self.write(*inode, *offset, bytes),
            Change::Resize { inode, length } => {
                let length = usize::try_from(*length).expect("a file that fits in memory");
                self.content(*inode, |content| content.resize(length, 0));
            }
            Change::Describe { inode, mode, modified } => {
                if let Some(node) = self.node_mut(*inode) {
                    node.mode = mode.map_or(node.mode, |mode| mode & 0o7777);
                    node.modified = modified.unwrap_or(node.modified);
                }
            }
            Change::Sync { .. } => {}
        }
    }

    fn write(&mut self, inode: u64, offset: u64, bytes: &[u8]) {
        let offset = usize::try_from(offset).expect("a file that fits in memory");
        self.content(inode, |content| {
            let end = offset + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[offset..end].copy_from_slice(bytes);
        });
    }

    fn content(&mut self, inode: u64, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(Node { kind: Kind::File(content), .. }) = self.node_mut(inode) {
            change(Arc::make_mut(content));
        }
    }

    fn enter(&mut self, parent: u64, name: &OsStr, inode: u64) {
        if let Some(Node { kind: Kind::Directory(entries), .. }) = self.node_mut(parent) {
            entries.insert(name.to_owned(), inode);
        }
        if let Some(node) = self.node_mut(inode) {
            node.links += 1;
        }
    }

    fn leave(&mut self, parent: u64, name: &OsStr) {
        let Some(Node { kind: Kind::Directory(entries), .. }) = self.node_mut(parent) else { return };
        let Some(inode) = entries.remove(name) else { return };
        if let Some(node) = self.node_mut(inode) {
            node.links = node.links.saturating_sub(1);
        }
    }

    /// Reads a real directory. Files are to be small.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        tree.read_into(ROOT, path)?;
        Ok(tree)
    }

    fn read_into(&mut self, parent: u64, path: &Path) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let found = entry.metadata()?;
            let kind = if found.is_dir() {
                Kind::Directory(BTreeMap::new())
            } else if found.is_symlink() {
                Kind::Symlink(fs::read_link(entry.path())?)
            } else if found.is_file() {
                Kind::File(Arc::new(fs::read(entry.path())?))
            } else {
                continue;
            };
            let inode = self.number();
            let node = Node::new(kind, found.permissions().mode());
            let directory = found.is_dir();
            self.apply(&Change::Make { parent, name: entry.file_name(), inode, node });
            if directory {
                self.read_into(inode, &entry.path())?;
            }
        }
        Ok(())
    }

    /// Writes what can be reached from the root into a real directory.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn write_to(&self, path: &Path) -> io::Result<()> {
        self.write_below(ROOT, path)
    }

    fn write_below(&self, directory: u64, path: &Path) -> io::Result<()> {
        for (name, inode) in self.node(directory).and_then(Node::entries).into_iter().flatten() {
            let Some(node) = self.node(*inode) else { continue };
            let path = path.join(OsStr::from_bytes(name.as_bytes()));
            match &node.kind {
                Kind::File(content) => fs::write(&path, content.as_slice())?,
                Kind::Symlink(target) => {
                    symlink(target, &path)?;
                    continue;
                }
                Kind::Directory(_) => {
                    fs::create_dir(&path)?;
                    self.write_below(*inode, &path)?;
                }
                Kind::Special(_) => continue,
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(node.mode))?;
        }
        Ok(())
    }
}
