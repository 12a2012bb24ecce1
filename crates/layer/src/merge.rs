//! Changesets of all layers become one tree.
//!
//! The layers are applied in order, entry by entry, to a tree in memory, by the rules that unpackers follow on a
//! file system (OCI image specification, "Applying Changesets"; checked against umoci and containerd):
//!
//! - The directory part of a path is resolved in the tree as it stands: symbolic links are followed, absolute ones
//!   from the tree's root, `..` stops at the root. So `lib/x` over a lower `lib -> usr/lib` lands in `usr/lib`.
//! - The last component is never followed: a new entry replaces what has its name, a symbolic link included, with
//!   everything below it. Only a directory over a directory keeps the children and takes the new attributes.
//! - Missing directories are made: [`Inode::IMPLIED_DIRECTORY`](crate::Inode::IMPLIED_DIRECTORY).
//! - A hard link shares the inode that its target names at that moment, whichever layer that came from.
//! - Whiteouts and opaque marks remove what *lower layers* put there, in whatever order a layer's entries come: every
//!   name carries the layer that last touched it or something below it.
//!
//! # Memory
//!
//! Of a node only the address of its record is kept, of a name an edge of 20 bytes (module `names`); names,
//! attributes and link targets are read from the changesets when they are asked for. A file costs about 35 bytes
//! while layers are applied and 20 in the [`MergedTree`], beside those of the changesets themselves.

use crate::changeset::{Change, Changeset, Entry, Kind};
use crate::limits::{Limits, NAME_MAX, SYMLINKS_MAX};
use crate::merged::MergedTree;
use crate::names::{DirectoryId, Edge, EdgeId, NO_EDGE, Names, Node};
use crate::numbering;
use crate::path::{self, EntryName};
use crate::sources::{Address, IMPLIED, Sources};

/// Why layers do not make a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("layer {layer}, entry {entry}: {fault}")]
pub struct MergeError {
    /// Which layer, counted from 0 at the bottom.
    pub layer: usize,
    /// The entry.
    pub entry: EntryName,
    /// What is wrong with it.
    pub fault: MergeFault,
}

/// What is wrong with an entry, given the tree below it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeFault {
    /// A component of the entry's directory is something else.
    #[error("{0} is not a directory")]
    NotADirectory(EntryName),
    /// Too many symbolic links on the way to the entry.
    #[error("too many levels of symbolic links")]
    SymlinkLoop,
    /// A hard link to something that does not exist at that moment.
    #[error("hard link to {0}, which does not exist")]
    LinkTargetMissing(EntryName),
    /// A hard link to a directory.
    #[error("hard link to {0}, which is a directory")]
    LinkToDirectory(EntryName),
    /// A component of a symbolic link's target that no file system could hold, in the place of a directory.
    #[error("{0} is longer than a name can be")]
    NameTooLong(EntryName),
    /// Nested deeper than [`Limits::depth`].
    #[error("more than {0} directories deep")]
    TooDeep(u32),
    /// More inodes than [`Limits::inodes`].
    #[error("the image has more than {0} inodes")]
    TooManyInodes(u64),
    /// More look-ups than [`Limits::lookups`].
    #[error("resolving the image's paths takes more than {0} look-ups")]
    TooManyLookups(u64),
    /// More layers than 65,535, or more than 4 GiB of changesets.
    #[error("the image's layers are too many or too large")]
    TooMuch,
}

/// Applies the layers, bottom first. The tree borrows from them.
pub fn merge<'a>(layers: &'a [Changeset], limits: &Limits) -> Result<MergedTree<'a>, MergeError> {
    let mut merge = Merge::new(layers, limits)?;
    for (layer, changeset) in layers.iter().enumerate() {
        merge.begin_layer(layer)?;
        let mut entries = changeset.entries();
        loop {
            let position = changeset.position(&entries);
            let Some(entry) = entries.next() else { break };
            let record = merge.sources.address(layer, position);
            merge.apply(&entry, record).map_err(|fault| MergeError { layer, entry: entry.path(), fault })?;
        }
    }
    let Merge { sources, names, records, directories, .. } = merge;
    Ok(numbering::number(sources, names.into_edges(), &records, &directories))
}

/// That there are too many layers, or that they are too large.
fn too_much(layer: usize) -> MergeError {
    MergeError { layer, entry: EntryName::from(&[][..]), fault: MergeFault::TooMuch }
}

const ROOT: DirectoryId = 0;

/// What only directories have.
#[derive(Debug)]
pub(crate) struct Directory {
    /// Its attributes.
    pub(crate) record: Address,
    /// Its own name in the directory above; none for the root.
    edge: EdgeId,
    /// Its edges, latest first. All that lead somewhere, and some that do not.
    pub(crate) first: EdgeId,
    depth: u32,
    /// The last layer that removed everything that lower layers had put here. There is nothing more to remove then.
    cleared: Option<u16>,
}

#[derive(Debug)]
struct Merge<'a, 'l> {
    sources: Sources<'a>,
    names: Names,
    /// The records of the nodes that are no directories.
    records: Vec<Address>,
    directories: Vec<Directory>,
    layer: u16,
    /// The directory of the last entry, as spelled and as resolved. Valid until something is removed.
    last_directory: Option<(&'a [u8], DirectoryId)>,
    lookups: u64,
    limits: &'l Limits,
}

/// A component of a path, and the layer that it is borrowed from.
#[derive(Debug, Clone, Copy)]
struct Component<'a> {
    name: &'a [u8],
    layer: usize,
}

/// Where a path leads: an existing directory, and components below it that do not exist.
#[derive(Debug)]
struct Place<'a> {
    directory: DirectoryId,
    missing: Vec<Component<'a>>,
}

impl<'a, 'l> Merge<'a, 'l> {
    fn new(layers: &'a [Changeset], limits: &'l Limits) -> Result<Self, MergeError> {
        let root = Directory { record: IMPLIED, edge: NO_EDGE, first: NO_EDGE, depth: 0, cleared: None };
        Ok(Self {
            sources: Sources::new(layers).map_err(too_much)?,
            names: Names::default(),
            records: Vec::new(),
            directories: vec![root],
            layer: 0,
            last_directory: None,
            lookups: 0,
            limits,
        })
    }

    fn begin_layer(&mut self, layer: usize) -> Result<(), MergeError> {
        self.layer = u16::try_from(layer).map_err(|_| too_much(layer))?;
        self.last_directory = None;
        Ok(())
    }

    fn apply(&mut self, entry: &Entry<'a>, record: Address) -> Result<(), MergeFault> {
        match entry.change {
            Change::Whiteout => self.whiteout(entry.directory, entry.name),
            Change::Opaque => self.opaque(entry.directory),
            Change::Link(target) => {
                let node = self.link_target(target)?;
                let parent = self.make_directory(entry.directory)?;
                let name = self.component(entry.name);
                self.put(parent, name, node).map(|_| ())
            }
            Change::Inode(_) if entry.name.is_empty() => {
                self.directory_mut(ROOT).record = record;
                Ok(())
            }
            Change::Inode(inode) => {
                let parent = self.make_directory(entry.directory)?;
                let name = self.component(entry.name);
                self.put_inode(parent, name, record, inode.kind == Kind::Directory)
            }
        }
    }

    /// A name that was borrowed from the layer that is being applied.
    fn component(&self, name: &'a [u8]) -> Component<'a> {
        Component { name, layer: self.layer.into() }
    }

    fn directory(&self, id: DirectoryId) -> &Directory {
        &self.directories[id as usize]
    }

    fn directory_mut(&mut self, id: DirectoryId) -> &mut Directory {
        &mut self.directories[id as usize]
    }

    fn whiteout(&mut self, directory: &'a [u8], name: &'a [u8]) -> Result<(), MergeFault> {
        let Some(parent) = self.existing_directory(directory)? else { return Ok(()) };
        self.remove_lower(parent, name);
        Ok(())
    }

    fn opaque(&mut self, directory: &'a [u8]) -> Result<(), MergeFault> {
        if let Some(directory) = self.existing_directory(directory)? {
            self.clear_lower(directory);
        }
        Ok(())
    }

    /// Removes a name unless this layer touched it; what this layer touched keeps only what this layer put there.
    fn remove_lower(&mut self, parent: DirectoryId, name: &[u8]) {
        let Some(id) = self.names.find(&self.sources, parent, name) else { return };
        let edge = self.names.edge_mut(id);
        if edge.node == Node::NONE {
            return;
        }
        self.last_directory = None;
        if edge.touched != self.layer {
            edge.node = Node::NONE;
        } else if let Some(directory) = edge.node.as_directory() {
            self.clear_lower(directory);
        }
    }

    /// Removes everything below a directory that this layer did not touch.
    fn clear_lower(&mut self, directory: DirectoryId) {
        let mut pending = vec![directory];
        while let Some(directory) = pending.pop() {
            let layer = self.layer;
            if self.directory_mut(directory).cleared.replace(layer) != Some(layer) {
                self.clear_children(directory, &mut pending);
            }
        }
        self.last_directory = None;
    }

    /// Removes from one directory what this layer did not touch; the directories that it did touch become `pending`.
    fn clear_children(&mut self, directory: DirectoryId, pending: &mut Vec<DirectoryId>) {
        let mut next = self.directory(directory).first;
        let mut kept = NO_EDGE;
        while next != NO_EDGE {
            let id = next;
            let edge = self.names.edge_mut(id);
            next = edge.next;
            if edge.node != Node::NONE && edge.touched == self.layer {
                edge.next = kept;
                kept = id;
                pending.extend(edge.node.as_directory());
            } else {
                (edge.node, edge.listed) = (Node::NONE, false);
            }
        }
        self.directory_mut(directory).first = kept;
    }

    fn link_target(&mut self, target: &'a [u8]) -> Result<Node, MergeFault> {
        let missing = || MergeFault::LinkTargetMissing(target.into());
        let (directory, name) = path::split(target);
        if name.is_empty() {
            return Err(MergeFault::LinkToDirectory((&b"/"[..]).into()));
        }
        let parent = self.existing_directory(directory)?.ok_or_else(missing)?;
        let child = self.child(parent, name)?.ok_or_else(missing)?;
        match child.as_directory() {
            Some(_) => Err(MergeFault::LinkToDirectory(target.into())),
            None => Ok(child),
        }
    }

    fn put_inode(
        &mut self,
        parent: DirectoryId,
        name: Component<'a>,
        record: Address,
        is_directory: bool,
    ) -> Result<(), MergeFault> {
        if !is_directory {
            self.check_inodes()?;
            let node = Node::other(u32::try_from(self.records.len()).map_err(|_| self.too_many_inodes())?);
            self.records.push(record);
            return self.put(parent, name, node).map(|_| ());
        }
        let child = self.child(parent, name.name)?;
        match child.and_then(|child| Some((child, child.as_directory()?))) {
            Some((child, directory)) => {
                self.directory_mut(directory).record = record;
                self.put(parent, name, child).map(|_| ())
            }
            None => self.new_directory(parent, name, record).map(|_| ()),
        }
    }

    fn new_directory(
        &mut self,
        parent: DirectoryId,
        name: Component<'a>,
        record: Address,
    ) -> Result<DirectoryId, MergeFault> {
        let depth = self.directory(parent).depth + 1;
        if depth > self.limits.depth {
            return Err(MergeFault::TooDeep(self.limits.depth));
        }
        self.check_inodes()?;
        let id = DirectoryId::try_from(self.directories.len()).map_err(|_| self.too_many_inodes())?;
        let edge = self.put(parent, name, Node::directory(id))?;
        self.directories.push(Directory { record, edge, first: NO_EDGE, depth, cleared: None });
        Ok(id)
    }

    /// Refuses one more inode than the limits allow, or than can be numbered.
    fn check_inodes(&self) -> Result<(), MergeFault> {
        let inodes = (self.records.len() + self.directories.len()) as u64;
        if inodes >= self.limits.inodes.min(Node::END.into()) { Err(self.too_many_inodes()) } else { Ok(()) }
    }

    fn too_many_inodes(&self) -> MergeFault {
        MergeFault::TooManyInodes(self.limits.inodes)
    }

    /// Gives a name to a node, in place of what had the name.
    fn put(&mut self, parent: DirectoryId, name: Component<'a>, node: Node) -> Result<EdgeId, MergeFault> {
        let id = match self.names.find(&self.sources, parent, name.name) {
            Some(id) => id,
            None => self.new_edge(parent, name)?,
        };
        let layer = self.layer;
        let edge = self.names.edge_mut(id);
        if edge.node != Node::NONE && edge.node != node {
            self.last_directory = None;
        }
        (edge.node, edge.touched) = (node, layer);
        if !std::mem::replace(&mut edge.listed, true) {
            edge.next = std::mem::replace(&mut self.directories[parent as usize].first, id);
        }
        self.touch(parent);
        Ok(id)
    }

    fn new_edge(&mut self, parent: DirectoryId, name: Component<'a>) -> Result<EdgeId, MergeFault> {
        // Names of entries are checked; components of link targets are not.
        let length = u8::try_from(name.name.len()).ok().filter(|length| usize::from(*length) <= NAME_MAX);
        let length = length.ok_or_else(|| MergeFault::NameTooLong(name.name.into()))?;
        let at = self.sources.address_of(name.layer, name.name);
        self.names.add(&self.sources, parent, at, length).ok_or(MergeFault::TooMuch)
    }

    /// Marks a directory and those above it as touched by this layer.
    fn touch(&mut self, mut directory: DirectoryId) {
        while directory != ROOT {
            let id = self.directory(directory).edge;
            let edge = self.names.edge_mut(id);
            if edge.node != Node::directory(directory) || edge.touched == self.layer {
                return;
            }
            edge.touched = self.layer;
            directory = edge.parent;
        }
    }

    fn child(&mut self, parent: DirectoryId, name: &[u8]) -> Result<Option<Node>, MergeFault> {
        self.lookups += 1;
        if self.lookups > self.limits.lookups {
            return Err(MergeFault::TooManyLookups(self.limits.lookups));
        }
        let edge = self.names.find(&self.sources, parent, name).map(|id| self.names.edge(id).node);
        Ok(edge.filter(|node| *node != Node::NONE))
    }

    /// The directory at `path`; `None` if it does not exist or something on the way is no directory.
    fn existing_directory(&mut self, path: &'a [u8]) -> Result<Option<DirectoryId>, MergeFault> {
        match self.resolve(path) {
            Ok(place) => Ok(place.missing.is_empty().then_some(place.directory)),
            Err(MergeFault::NotADirectory(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// The directory at `path`, made if it does not exist.
    fn make_directory(&mut self, path: &'a [u8]) -> Result<DirectoryId, MergeFault> {
        if let Some((last, directory)) = self.last_directory
            && last == path
        {
            return Ok(directory);
        }
        let place = self.resolve(path)?;
        let mut directory = place.directory;
        for name in place.missing {
            directory = self.new_directory(directory, name, IMPLIED)?;
        }
        self.last_directory = Some((path, directory));
        Ok(directory)
    }

    /// Follows every component of `path`, symbolic links included, without leaving the tree.
    fn resolve(&mut self, path: &'a [u8]) -> Result<Place<'a>, MergeFault> {
        let mut place = Place { directory: ROOT, missing: Vec::new() };
        let mut pending: Vec<Component<'a>> = components(path, self.layer.into()).collect();
        pending.reverse();
        let mut links = 0;
        while let Some(component) = pending.pop() {
            let name = component.name;
            if name == b".." {
                if place.missing.pop().is_none() {
                    place.directory = self.parent(place.directory);
                }
                continue;
            }
            if !place.missing.is_empty() {
                place.missing.push(component);
                continue;
            }
            let Some(child) = self.child(place.directory, name)? else {
                place.missing.push(component);
                continue;
            };
            if let Some(directory) = child.as_directory() {
                place.directory = directory;
                continue;
            }
            let not_a_directory = |merge: &Self| MergeFault::NotADirectory(merge.path_of(place.directory, name));
            let record = child.as_other().map(|number| self.records[number as usize]);
            let record = record.ok_or_else(|| not_a_directory(self))?;
            let Kind::Symlink(target) = self.sources.inode(record).kind else { return Err(not_a_directory(self)) };
            links += 1;
            if links > SYMLINKS_MAX {
                return Err(MergeFault::SymlinkLoop);
            }
            if target.starts_with(b"/") {
                place.directory = ROOT;
            }
            let end = pending.len();
            pending.extend(components(target, self.sources.layer_of(record)));
            pending[end..].reverse();
            self.lookups += (pending.len() - end) as u64;
        }
        Ok(place)
    }

    /// The edge of a directory that is not the root.
    fn own_edge(&self, directory: DirectoryId) -> Option<&Edge> {
        (directory != ROOT).then(|| self.names.edge(self.directory(directory).edge))
    }

    fn parent(&self, directory: DirectoryId) -> DirectoryId {
        self.own_edge(directory).map_or(ROOT, |edge| edge.parent)
    }

    fn path_of(&self, mut directory: DirectoryId, name: &[u8]) -> EntryName {
        let mut names = vec![name];
        while let Some(edge) = self.own_edge(directory) {
            names.push(edge.name(&self.sources));
            directory = edge.parent;
        }
        names.reverse();
        names.join(&b'/').as_slice().into()
    }
}

/// The components of a path or link target that lead anywhere.
fn components(path: &[u8], layer: usize) -> impl Iterator<Item = Component<'_>> {
    let names = path.split(|&byte| byte == b'/').filter(|component| !matches!(*component, b"" | b"."));
    names.map(move |name| Component { name, layer })
}
