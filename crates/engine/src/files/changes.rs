//! What a container changed in its image, from one walk through the upper directory beside the image's tree.
//!
//! A name in the upper directory need not be a change: overlayfs copies what is opened for writing, and all directories
//! above it. As for Docker, a directory is changed where its attributes are, or something in it; its time and size say
//! nothing. Anything else is changed where its attributes, size or time of modification are.

use std::collections::{HashMap, HashSet};

use ext4::Inode;
use layer::{InodeId, Limits};

use super::ChangeKind;
use super::error::FilesError;
use super::mount_points;
use super::path_of;
use super::view::{Attributes, Entry, Kind, Node, View, join};

type Result<T> = std::result::Result<T, FilesError>;

/// Longest path that an archive or a program can name.
const PATH_MAX: usize = layer::limits::PATH_MAX;

/// Something to say about a path, without a leading slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) path: Vec<u8>,
    pub(crate) what: What,
}

/// What there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// What the image has there is gone.
    Deleted,
    /// What the image has there is gone with everything else in an [`What::Opaque`] directory.
    Hidden,
    /// Everything that the image has in the directory is gone. Comes before what is in it now.
    Opaque,
    /// An inode of the upper directory. What has no kind is as in the image, but a layer needs it: because it has
    /// several names, or because its directory is opaque.
    Inode { number: u32, kind: Option<ChangeKind> },
}

/// All changes in the order of a walk: directories before what is in them, names sorted.
pub(crate) fn changes(view: &View<'_>) -> Result<Vec<Item>> {
    let Some(upper) = view.upper.clone() else { return Ok(Vec::new()) };
    let mut walk = Walk { view, items: Vec::new(), changed: 0, seen: HashSet::new(), frames: Vec::new() };
    walk.root(&upper)?;
    while let Some(frame) = walk.frames.last_mut() {
        match frame.entries.next() {
            Some((name, entry)) => walk.entry(&name, entry)?,
            None => walk.leave(),
        }
    }
    Ok(walk.items)
}

/// Whether a node of the upper directory is another one than the image's under its name.
fn differs(upper: &Attributes, lower: &Attributes) -> bool {
    let is_directory = upper.kind == Kind::Directory;
    let what = |a: &Attributes| (a.mode, a.uid, a.gid);
    upper.kind != lower.kind
        || what(upper) != what(lower)
        || upper.xattrs != lower.xattrs
        || !is_directory && (upper.size, upper.mtime) != (lower.size, lower.mtime)
}

/// A directory on the way to where the walk is.
struct Frame<'a> {
    path: Vec<u8>,
    entries: std::vec::IntoIter<(Vec<u8>, Entry)>,
    /// What the image has in it that was not met yet.
    lower: HashMap<&'a [u8], InodeId>,
    /// Whether that shows through.
    shows: bool,
    /// Its item, and how many changes there were before it.
    item: Option<usize>,
    changed: usize,
    /// It is there for mount points alone, if nothing else is in it.
    is_for_mounts: bool,
}

struct Walk<'v, 'a> {
    view: &'v View<'a>,
    items: Vec<Item>,
    /// How many of them are changes.
    changed: usize,
    /// Directories that were entered: each has one name.
    seen: HashSet<u32>,
    frames: Vec<Frame<'a>>,
}

impl<'a> Walk<'_, 'a> {
    /// The root itself is no change that Docker would list, but its owner and permissions are part of a layer.
    fn root(&mut self, upper: &Inode) -> Result<()> {
        let Node::Upper(root) = self.view.node(b"", upper.clone(), Some(InodeId::ROOT))? else { return Ok(()) };
        let attributes = self.view.attributes(&Node::Upper(root.clone()))?;
        let lower = self.view.lower_attributes(InodeId::ROOT);
        if (attributes.mode, attributes.uid, attributes.gid) != (lower.mode, lower.uid, lower.gid) {
            self.push(Vec::new(), What::Inode { number: upper.number, kind: None })?;
        }
        self.enter(Vec::new(), upper, Some(InodeId::ROOT), root.below.is_some(), None, false)
    }

    fn enter(
        &mut self,
        path: Vec<u8>,
        inode: &Inode,
        lower: Option<InodeId>,
        shows: bool,
        item: Option<usize>,
        is_for_mounts: bool,
    ) -> Result<()> {
        if !self.seen.insert(inode.number) {
            return Err(self.view.damaged(&path, "the directory has two names"));
        }
        let entries = self.view.upper_entries(inode)?.into_iter();
        let lower = self.view.lower_children(lower);
        let changed = self.changed;
        self.frames.push(Frame { path, entries, lower, shows, item, changed, is_for_mounts });
        Ok(())
    }

    fn entry(&mut self, name: &[u8], entry: Entry) -> Result<()> {
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        let path = join(&frame.path, name);
        let (lower, shows) = (frame.lower.remove(name), frame.shows);
        if path.len() > PATH_MAX {
            return Err(self.not_for_archives(&path, "its path is too long"));
        }
        match entry {
            Entry::Whiteout if lower.is_none() => Ok(()),
            Entry::Whiteout => self.push(path, if shows { What::Deleted } else { What::Hidden }),
            Entry::Inode(inode) => self.inode(path, &inode, lower, shows),
        }
    }

    fn inode(&mut self, path: Vec<u8>, inode: &Inode, lower: Option<InodeId>, shows: bool) -> Result<()> {
        let node = self.view.node(&path, inode.clone(), lower.filter(|_| shows))?;
        let attributes = self.view.attributes(&node)?;
        let before = lower.map(|lower| self.view.lower_attributes(lower));
        if mount_points::is_file(&path, &attributes, before.as_ref()) {
            return Ok(());
        }
        let is_for_mounts = mount_points::may_be_directory(&path, &attributes, before.as_ref());
        let kind = match &before {
            None => Some(ChangeKind::Added),
            Some(before) => differs(&attributes, before).then_some(ChangeKind::Modified),
        };
        let number = inode.number;
        if !inode.is_dir() {
            return match kind {
                None if shows && inode.links == 1 => Ok(()),
                kind => self.push(path, What::Inode { number, kind }),
            };
        }
        let item = self.items.len();
        let was_directory = before.is_some_and(|before| before.kind == Kind::Directory);
        let Node::Upper(upper) = node else { return Ok(()) };
        let still_shows = shows && upper.below.is_some();
        self.push(path.clone(), What::Inode { number, kind })?;
        if was_directory && shows && !still_shows {
            self.push(path.clone(), What::Opaque)?;
        }
        self.enter(
            path,
            inode,
            lower.filter(|_| was_directory),
            still_shows || !was_directory && shows,
            Some(item),
            is_for_mounts,
        )
    }

    /// The end of a directory: what the image has in it and was not met, and whether it is a change itself.
    fn leave(&mut self) {
        let Some(frame) = self.frames.pop() else { return };
        if !frame.shows {
            let mut hidden: Vec<_> = frame.lower.into_keys().map(|name| join(&frame.path, name)).collect();
            hidden.sort_unstable();
            self.changed += hidden.len();
            self.items.extend(hidden.into_iter().map(|path| Item { path, what: What::Hidden }));
        }
        let Some(index) = frame.item else { return };
        let is_last = index + 1 == self.items.len();
        let parent_shows = self.frames.last().is_none_or(|parent| parent.shows);
        let Some(Item { what: What::Inode { kind, .. }, .. }) = self.items.get_mut(index) else { return };
        if kind.is_none() && self.changed > frame.changed {
            *kind = Some(ChangeKind::Modified);
            self.changed += 1;
        }
        let is_needed = (kind.is_some() && !frame.is_for_mounts) || !parent_shows;
        if is_last && !is_needed {
            self.changed -= usize::from(kind.is_some());
            self.items.pop();
        }
    }

    fn push(&mut self, path: Vec<u8>, what: What) -> Result<()> {
        if self.items.len() as u64 >= Limits::default().entries {
            return Err(self.view.damaged(&path, "there are more files than a layer can hold"));
        }
        self.changed += usize::from(matches!(what, What::Deleted | What::Hidden | What::Inode { kind: Some(_), .. }));
        self.items.push(Item { path, what });
        Ok(())
    }

    fn not_for_archives(&self, path: &[u8], problem: &'static str) -> FilesError {
        FilesError::NotForArchives { container: self.view.container.to_owned(), path: path_of(path), problem }
    }
}
