//! The encoded changesets of all layers as one address space of 32 bits.
//!
//! A tree of millions of files costs little memory only if names and attributes stay where they are, in the
//! changesets. What the merge keeps of them is an address: of a record, or of a name with its length.

use std::fmt;

use crate::changeset::{Change, Changeset, Entry, Inode};

/// An address: the bytes of all changesets, bottom layer first, one after the other.
pub(crate) type Address = u32;

/// Where no record is: the attributes of a directory that no layer describes.
pub(crate) const IMPLIED: Address = Address::MAX;

/// Changesets of all layers, bottom first.
#[derive(Clone)]
pub(crate) struct Sources<'a> {
    layers: &'a [Changeset],
    /// First address of each layer.
    starts: Vec<Address>,
}

impl<'a> Sources<'a> {
    /// `Err` with the first layer that does not fit into 4 GiB with those below it.
    pub(crate) fn new(layers: &'a [Changeset]) -> Result<Self, usize> {
        let mut end: Address = 0;
        let mut starts = Vec::with_capacity(layers.len());
        for (layer, changeset) in layers.iter().enumerate() {
            starts.push(end);
            let length = Address::try_from(changeset.encode().len()).ok();
            end = length.and_then(|length| end.checked_add(length)).filter(|end| *end < IMPLIED).ok_or(layer)?;
        }
        Ok(Self { layers, starts })
    }

    /// The address of an offset in a layer's bytes.
    pub(crate) fn address(&self, layer: usize, offset: usize) -> Address {
        Address::try_from(offset).map_or(IMPLIED, |offset| self.starts[layer].saturating_add(offset))
    }

    /// The address of a slice that was borrowed from a layer's bytes.
    pub(crate) fn address_of(&self, layer: usize, part: &[u8]) -> Address {
        let first = self.layers[layer].encode().as_ptr().addr();
        self.address(layer, part.as_ptr().addr().wrapping_sub(first))
    }

    /// The layer that an address is in.
    pub(crate) fn layer_of(&self, at: Address) -> usize {
        self.starts.partition_point(|start| *start <= at).saturating_sub(1)
    }

    /// Layer and offset.
    fn resolve(&self, at: Address) -> Option<(usize, usize)> {
        let layer = self.layer_of(at);
        Some((layer, at.checked_sub(*self.starts.get(layer)?)? as usize))
    }

    /// The bytes at an address.
    pub(crate) fn bytes(&self, at: Address, length: usize) -> &'a [u8] {
        let bytes = self.resolve(at).and_then(|(layer, offset)| self.layers[layer].encode().get(offset..));
        bytes.and_then(|bytes| bytes.get(..length)).unwrap_or_default()
    }

    fn entry(&self, at: Address) -> Option<Entry<'a>> {
        let (layer, offset) = self.resolve(at)?;
        self.layers[layer].entry_at(offset)
    }

    /// The inode that a record describes.
    pub(crate) fn inode(&self, at: Address) -> Inode<'a> {
        if at == IMPLIED {
            return Inode::IMPLIED_DIRECTORY;
        }
        match self.entry(at) {
            Some(Entry { change: Change::Inode(inode), .. }) => inode,
            // Changesets are checked when they are made, and addresses come from their records.
            _ => Inode::IMPLIED_DIRECTORY,
        }
    }
}

impl fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("starts", &self.starts).finish_non_exhaustive()
    }
}
