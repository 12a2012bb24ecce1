//! The merge as one would write it first: a map of children for each directory, an inode for each node. The merge of
//! the crate must give the same tree, number by number, and the same errors.

use std::collections::{BTreeMap, BTreeSet};

use layer::limits::{NAME_MAX, SYMLINKS_MAX};
use layer::{Change, Changeset, Entry, EntryName, Inode, Kind, Limits, MergeError, MergeFault};

/// An inode of the model's tree.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Merged<'a> {
    pub(crate) inode: Inode<'a>,
    /// The layer, for files.
    pub(crate) layer: usize,
    pub(crate) links: u32,
    pub(crate) parent: u32,
    pub(crate) entries: Vec<(&'a [u8], u32)>,
}

/// Inodes by number.
pub(crate) type Tree<'a> = Vec<Merged<'a>>;

/// Applies the layers, bottom first. The tree borrows from them.
pub(crate) fn merge<'a>(layers: &'a [Changeset], limits: &Limits) -> Result<Tree<'a>, MergeError> {
    let mut merge = Merge::new(limits);
    for (layer, changeset) in (0..).zip(layers) {
        merge.begin_layer(layer);
        for entry in changeset.entries() {
            merge.apply(&entry).map_err(|fault| MergeError { layer: layer as usize, entry: entry.path(), fault })?;
        }
    }
    Ok(merge.finish())
}

type NodeId = u32;
const ROOT: NodeId = 0;

/// An inode of the tree under construction.
#[derive(Debug)]
struct Node<'a> {
    inode: Inode<'a>,
    /// The layer whose data file holds the content.
    layer: u32,
    directory: Option<Directory<'a>>,
}

/// What only directories have.
#[derive(Debug)]
struct Directory<'a> {
    children: BTreeMap<&'a [u8], Child>,
    parent: NodeId,
    /// Its own name in `parent`.
    name: &'a [u8],
    depth: u32,
}

#[derive(Debug, Clone, Copy)]
struct Child {
    node: NodeId,
    /// The last layer that put the name here, or something below it.
    touched: u32,
}

#[derive(Debug)]
struct Merge<'a, 'l> {
    nodes: Vec<Node<'a>>,
    layer: u32,
    /// The directory of the last entry, as spelled and as resolved. Valid until something is removed.
    last_directory: Option<(&'a [u8], NodeId)>,
    lookups: u64,
    limits: &'l Limits,
}

/// Where a path leads: an existing directory, and components below it that do not exist.
#[derive(Debug)]
struct Place<'a> {
    directory: NodeId,
    missing: Vec<&'a [u8]>,
}

impl<'a, 'l> Merge<'a, 'l> {
    fn new(limits: &'l Limits) -> Self {
        let directory = Directory { children: BTreeMap::new(), parent: ROOT, name: &[], depth: 0 };
        let root = Node { inode: Inode::IMPLIED_DIRECTORY, layer: 0, directory: Some(directory) };
        Self { nodes: vec![root], layer: 0, last_directory: None, lookups: 0, limits }
    }

    fn begin_layer(&mut self, layer: u32) {
        self.layer = layer;
        self.last_directory = None;
    }

    fn apply(&mut self, entry: &Entry<'a>) -> Result<(), MergeFault> {
        match entry.change {
            Change::Whiteout => self.whiteout(entry.directory, entry.name),
            Change::Opaque => self.opaque(entry.directory),
            Change::Link(target) => {
                let node = self.link_target(target)?;
                let parent = self.make_directory(entry.directory)?;
                self.put(parent, entry.name, node);
                Ok(())
            }
            Change::Inode(inode) if entry.name.is_empty() => {
                self.nodes[ROOT as usize].inode = inode;
                Ok(())
            }
            Change::Inode(inode) => {
                let parent = self.make_directory(entry.directory)?;
                self.put_inode(parent, entry.name, inode)
            }
        }
    }

    fn whiteout(&mut self, directory: &'a [u8], name: &'a [u8]) -> Result<(), MergeFault> {
        let Some(parent) = self.existing_directory(directory)? else { return Ok(()) };
        self.remove_lower(parent, name);
        Ok(())
    }

    fn opaque(&mut self, directory: &'a [u8]) -> Result<(), MergeFault> {
        if let Some(node) = self.existing_directory(directory)? {
            self.clear_lower(node);
        }
        Ok(())
    }

    /// Removes a name unless this layer touched it; what this layer touched keeps only what this layer put there.
    fn remove_lower(&mut self, parent: NodeId, name: &[u8]) {
        let layer = self.layer;
        let Some(children) = self.children_mut(parent) else { return };
        match children.get(name).copied() {
            Some(child) if child.touched == layer => self.clear_lower(child.node),
            Some(_) => {
                children.remove(name);
                self.last_directory = None;
            }
            None => {}
        }
    }

    /// Removes everything below a directory that this layer did not touch.
    fn clear_lower(&mut self, node: NodeId) {
        let layer = self.layer;
        let mut directories = vec![node];
        while let Some(node) = directories.pop() {
            if let Some(children) = self.children_mut(node) {
                children.retain(|_, child| child.touched == layer);
                directories.extend(children.values().map(|child| child.node));
            }
        }
        self.last_directory = None;
    }

    fn link_target(&mut self, target: &'a [u8]) -> Result<NodeId, MergeFault> {
        let missing = || MergeFault::LinkTargetMissing(target.into());
        let (directory, name) = split(target);
        if name.is_empty() {
            return Err(MergeFault::LinkToDirectory((&b"/"[..]).into()));
        }
        let parent = self.existing_directory(directory)?.ok_or_else(missing)?;
        let child = self.child(parent, name)?.ok_or_else(missing)?;
        match self.nodes[child as usize].directory {
            Some(_) => Err(MergeFault::LinkToDirectory(target.into())),
            None => Ok(child),
        }
    }

    fn put_inode(&mut self, parent: NodeId, name: &'a [u8], inode: Inode<'a>) -> Result<(), MergeFault> {
        if inode.kind != Kind::Directory {
            let node = self.new_node(inode, None)?;
            self.put(parent, name, node);
            return Ok(());
        }
        match self.child(parent, name)? {
            Some(child) if self.nodes[child as usize].directory.is_some() => {
                self.nodes[child as usize].inode = inode;
                self.put(parent, name, child);
            }
            _ => {
                self.new_directory(parent, name, inode)?;
            }
        }
        Ok(())
    }

    fn new_directory(&mut self, parent: NodeId, name: &'a [u8], inode: Inode<'a>) -> Result<NodeId, MergeFault> {
        let depth = self.nodes[parent as usize].directory.as_ref().map_or(0, |parent| parent.depth) + 1;
        if depth > self.limits.depth {
            return Err(MergeFault::TooDeep(self.limits.depth));
        }
        let directory = Directory { children: BTreeMap::new(), parent, name, depth };
        let node = self.new_node(inode, Some(directory))?;
        if name.len() > NAME_MAX {
            return Err(MergeFault::NameTooLong(name.into()));
        }
        self.put(parent, name, node);
        Ok(node)
    }

    fn new_node(&mut self, inode: Inode<'a>, directory: Option<Directory<'a>>) -> Result<NodeId, MergeFault> {
        let too_many = MergeFault::TooManyInodes(self.limits.inodes);
        let id = NodeId::try_from(self.nodes.len()).map_err(|_| too_many.clone())?;
        if u64::from(id) >= self.limits.inodes {
            return Err(too_many);
        }
        self.nodes.push(Node { inode, layer: self.layer, directory });
        Ok(id)
    }

    /// Gives a name to an inode, in place of what had the name.
    fn put(&mut self, parent: NodeId, name: &'a [u8], node: NodeId) {
        let child = Child { node, touched: self.layer };
        let Some(children) = self.children_mut(parent) else { return };
        let replaced = children.insert(name, child);
        if replaced.is_some_and(|replaced| replaced.node != node) {
            self.last_directory = None;
        }
        self.touch(parent);
    }

    /// Marks a directory and those above it as touched by this layer.
    fn touch(&mut self, mut node: NodeId) {
        let layer = self.layer;
        while node != ROOT {
            let Some(Directory { parent, name, .. }) = &self.nodes[node as usize].directory else { return };
            let (parent, name) = (*parent, *name);
            match self.children_mut(parent).and_then(|children| children.get_mut(name)) {
                Some(child) if child.node == node && child.touched != layer => child.touched = layer,
                _ => return,
            }
            node = parent;
        }
    }

    fn children_mut(&mut self, node: NodeId) -> Option<&mut BTreeMap<&'a [u8], Child>> {
        self.nodes[node as usize].directory.as_mut().map(|directory| &mut directory.children)
    }

    fn child(&mut self, parent: NodeId, name: &[u8]) -> Result<Option<NodeId>, MergeFault> {
        self.lookups += 1;
        if self.lookups > self.limits.lookups {
            return Err(MergeFault::TooManyLookups(self.limits.lookups));
        }
        let directory = self.nodes[parent as usize].directory.as_ref();
        Ok(directory.and_then(|directory| directory.children.get(name)).map(|child| child.node))
    }

    /// The directory at `path`; `None` if it does not exist or something on the way is no directory.
    fn existing_directory(&mut self, path: &'a [u8]) -> Result<Option<NodeId>, MergeFault> {
        match self.resolve(path) {
            Ok(place) => Ok(place.missing.is_empty().then_some(place.directory)),
            Err(MergeFault::NotADirectory(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// The directory at `path`, made if it does not exist.
    fn make_directory(&mut self, path: &'a [u8]) -> Result<NodeId, MergeFault> {
        if let Some((last, node)) = self.last_directory
            && last == path
        {
            return Ok(node);
        }
        let place = self.resolve(path)?;
        let mut node = place.directory;
        for name in place.missing {
            node = self.new_directory(node, name, Inode::IMPLIED_DIRECTORY)?;
        }
        self.last_directory = Some((path, node));
        Ok(node)
    }

    /// Follows every component of `path`, symbolic links included, without leaving the tree.
    fn resolve(&mut self, path: &'a [u8]) -> Result<Place<'a>, MergeFault> {
        let mut place = Place { directory: ROOT, missing: Vec::new() };
        let mut pending: Vec<&'a [u8]> = components(path).collect();
        pending.reverse();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == b".." {
                if place.missing.pop().is_none() {
                    place.directory = self.parent(place.directory);
                }
                continue;
            }
            if !place.missing.is_empty() {
                place.missing.push(name);
                continue;
            }
            let Some(child) = self.child(place.directory, name)? else {
                place.missing.push(name);
                continue;
            };
            let node = &self.nodes[child as usize];
            match node.inode.kind {
                Kind::Directory => place.directory = child,
                Kind::Symlink(target) => {
                    links += 1;
                    if links > SYMLINKS_MAX {
                        return Err(MergeFault::SymlinkLoop);
                    }
                    if target.starts_with(b"/") {
                        place.directory = ROOT;
                    }
                    let components: Vec<_> = components(target).collect();
                    self.lookups += components.len() as u64;
                    pending.extend(components.into_iter().rev());
                }
                _ => return Err(MergeFault::NotADirectory(self.path_of(place.directory, name))),
            }
        }
        Ok(place)
    }

    fn parent(&self, node: NodeId) -> NodeId {
        self.nodes[node as usize].directory.as_ref().map_or(ROOT, |directory| directory.parent)
    }

    fn path_of(&self, mut node: NodeId, name: &[u8]) -> EntryName {
        let mut names = vec![name];
        while let Some(directory) = self.nodes[node as usize].directory.as_ref().filter(|_| node != ROOT) {
            names.push(directory.name);
            node = directory.parent;
        }
        names.reverse();
        names.join(&b'/').as_slice().into()
    }

    /// Numbers what is reachable, the children of a directory one after the other, directories in breadth-first
    /// order.
    fn finish(self) -> Tree<'a> {
        let mut ids: BTreeMap<NodeId, u32> = BTreeMap::from([(ROOT, 0)]);
        let mut order = vec![(ROOT, 0)];
        let mut tree: Tree<'a> = Vec::new();
        while let Some(&(node, parent)) = order.get(tree.len()) {
            let Node { inode, layer, directory } = &self.nodes[node as usize];
            let id = u32::try_from(tree.len()).unwrap();
            let mut entries = Vec::new();
            for (name, child) in directory.iter().flat_map(|directory| &directory.children) {
                let child_id = *ids.entry(child.node).or_insert_with(|| {
                    order.push((child.node, id));
                    u32::try_from(order.len() - 1).unwrap()
                });
                entries.push((*name, child_id));
            }
            let is_file = matches!(inode.kind, Kind::File(_));
            let parent = if inode.kind == Kind::Directory { parent } else { 0 };
            tree.push(Merged {
                inode: *inode,
                layer: if is_file { *layer as usize } else { 0 },
                links: 0,
                parent,
                entries,
            });
        }
        count_links(&mut tree);
        tree
    }
}

fn count_links(tree: &mut Tree<'_>) {
    let directories: BTreeSet<u32> =
        (0..).zip(&*tree).filter(|(_, merged)| merged.inode.kind == Kind::Directory).map(|(id, _)| id).collect();
    let children: Vec<Vec<u32>> =
        tree.iter().map(|merged| merged.entries.iter().map(|entry| entry.1).collect()).collect();
    for (id, children) in (0..).zip(&children) {
        if directories.contains(&id) {
            let below = children.iter().filter(|child| directories.contains(child)).count();
            tree[id as usize].links = 2 + u32::try_from(below).unwrap();
        }
        for child in children.iter().filter(|child| !directories.contains(child)) {
            tree[*child as usize].links += 1;
        }
    }
}

/// The components of a path or link target that lead anywhere.
fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|component| !matches!(*component, b"" | b"."))
}

/// Splits a cleaned path into its directory and its last component.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}
