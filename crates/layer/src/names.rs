//! Which node a name in a directory stands for: the edges of a tree under construction.
//!
//! An edge is 20 bytes, whatever its name: the name is an address in [`Sources`]. Edges are found through one hash
//! table for all directories, and each directory has a list of its own. The hash is keyed by chance, so that no layer
//! can be made of names that collide; nothing that comes out depends on it.

use std::hash::{BuildHasher, RandomState};

use crate::sources::{Address, Sources};

/// A node of the tree under construction: directories and others are counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node(u32);

impl Node {
    /// Nothing: the name was removed.
    pub(crate) const NONE: Self = Self(u32::MAX);
    const DIRECTORY: u32 = 1 << 31;
    /// One more than the highest number.
    pub(crate) const END: u32 = Self::DIRECTORY - 1;

    pub(crate) fn directory(number: DirectoryId) -> Self {
        Self(number | Self::DIRECTORY)
    }

    pub(crate) fn other(number: u32) -> Self {
        Self(number)
    }

    /// Its number, if it is a directory.
    pub(crate) fn as_directory(self) -> Option<DirectoryId> {
        (self != Self::NONE && self.0 & Self::DIRECTORY != 0).then_some(self.0 & !Self::DIRECTORY)
    }

    /// Its number, if it is something else.
    pub(crate) fn as_other(self) -> Option<u32> {
        (self.0 & Self::DIRECTORY == 0).then_some(self.0)
    }
}

/// Number of a directory.
pub(crate) type DirectoryId = u32;
/// Number of an edge.
pub(crate) type EdgeId = u32;

/// The end of a list, and the edge that the root does not have.
pub(crate) const NO_EDGE: EdgeId = EdgeId::MAX;

/// A name in a directory. Once made it stays, so that its number does; a name that is removed leads nowhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edge {
    /// The directory that the name is in.
    pub(crate) parent: DirectoryId,
    pub(crate) node: Node,
    /// The next edge of the same directory.
    pub(crate) next: EdgeId,
    name: Address,
    /// The last layer that put the name here, or something below it.
    pub(crate) touched: u16,
    length: u8,
    /// Whether it is in its directory's list.
    pub(crate) listed: bool,
}

impl Edge {
    pub(crate) fn name<'a>(&self, sources: &Sources<'a>) -> &'a [u8] {
        sources.bytes(self.name, self.length.into())
    }

    /// Address and length of the name.
    pub(crate) fn place(&self) -> (Address, u8) {
        (self.name, self.length)
    }
}

/// All edges.
#[derive(Debug, Default)]
pub(crate) struct Names {
    edges: Vec<Edge>,
    /// Open addressing with linear probing: the number of an edge plus one, or zero.
    slots: Vec<u32>,
    hasher: RandomState,
}

impl Names {
    pub(crate) fn edge(&self, id: EdgeId) -> &Edge {
        &self.edges[id as usize]
    }

    pub(crate) fn edge_mut(&mut self, id: EdgeId) -> &mut Edge {
        &mut self.edges[id as usize]
    }

    /// The edges alone, without what finds them.
    pub(crate) fn into_edges(self) -> Vec<Edge> {
        self.edges
    }

    /// The edge of a name, whether it leads anywhere or not.
    pub(crate) fn find(&self, sources: &Sources<'_>, parent: DirectoryId, name: &[u8]) -> Option<EdgeId> {
        if self.slots.is_empty() {
            return None;
        }
        let mut slot = self.first_slot(parent, name);
        loop {
            let id = self.slots[slot].checked_sub(1)?;
            let edge = self.edge(id);
            if edge.parent == parent && edge.name(sources) == name {
                return Some(id);
            }
            slot = self.next_slot(slot);
        }
    }

    /// Adds an edge for the name of `length` bytes at `at`, which has none yet. `None` if there are too many.
    pub(crate) fn add(
        &mut self,
        sources: &Sources<'_>,
        parent: DirectoryId,
        at: Address,
        length: u8,
    ) -> Option<EdgeId> {
        let id = EdgeId::try_from(self.edges.len()).ok().filter(|id| *id < Node::END)?;
        if (self.edges.len() + 1) * 2 > self.slots.len() {
            self.grow(sources);
        }
        let edge = Edge { parent, node: Node::NONE, next: NO_EDGE, name: at, touched: 0, length, listed: false };
        let slot = self.free_slot(parent, edge.name(sources));
        self.slots[slot] = id + 1;
        self.edges.push(edge);
        Some(id)
    }

    fn grow(&mut self, sources: &Sources<'_>) {
        let slots = (self.slots.len() * 2).max(64);
        // The old ones go before the new ones come.
        self.slots = Vec::new();
        self.slots = vec![0; slots];
        for id in 0..self.edges.len() {
            let edge = &self.edges[id];
            let slot = self.free_slot(edge.parent, edge.name(sources));
            // `add` numbers edges within 32 bits.
            self.slots[slot] = EdgeId::try_from(id + 1).unwrap_or(0);
        }
    }

    fn free_slot(&self, parent: DirectoryId, name: &[u8]) -> usize {
        let mut slot = self.first_slot(parent, name);
        while self.slots[slot] != 0 {
            slot = self.next_slot(slot);
        }
        slot
    }

    #[allow(clippy::cast_possible_truncation, reason = "any part of the hash will do")]
    fn first_slot(&self, parent: DirectoryId, name: &[u8]) -> usize {
        self.hasher.hash_one((parent, name)) as usize & (self.slots.len() - 1)
    }

    fn next_slot(&self, slot: usize) -> usize {
        (slot + 1) & (self.slots.len() - 1)
    }
}
