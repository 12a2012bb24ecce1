//! Descriptor chains: hostile ring memory becomes plain data, once.
//!
//! [`pop`] takes the next available chain off a queue and copies every descriptor exactly once into a
//! [`Chain`], checking each against the rules of virtio 1.2, 2.7.5: what a device then works on cannot be
//! changed by the driver any more (the bytes that the segments point to can: a device copies a header before
//! it looks at it). The walker of `virtio-queue` ends a malformed chain early and silently; this one says so.
//!
//! A malformed chain costs its driver that request: it is given back with length 0. A malformed ring (an
//! index that runs ahead, a head that does not exist) cannot be answered at all: [`QueueError`], and the
//! device stops serving the queue until it is reset.

use thiserror::Error;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

/// Most descriptors that a chain may have, those in an indirect table included. Above what any of our devices
/// invites, below `IOV_MAX`.
pub const MAX_DESCRIPTORS: usize = 512;

const DESCRIPTOR_SIZE: u32 = 16;

/// A range of guest memory that was inside guest memory when its chain was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First byte.
    pub address: GuestAddress,
    /// Bytes, at least 1.
    pub length: u32,
}

/// A well-formed descriptor chain.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    head: u16,
    segments: Vec<Segment>,
    readable: usize,
}

impl Chain {
    /// Index of its first descriptor: what goes into the used ring.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// What the device may read.
    #[must_use]
    pub fn readable(&self) -> &[Segment] {
        &self.segments[..self.readable]
    }

    /// What the device may write.
    #[must_use]
    pub fn writable(&self) -> &[Segment] {
        &self.segments[self.readable..]
    }
}

/// Why a chain is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChainError {
    /// More descriptors than its table has, or than [`MAX_DESCRIPTORS`]; a loop ends here.
    #[error("descriptor chain is too long")]
    TooLong,
    /// A next index beyond its table.
    #[error("next descriptor is outside its table")]
    Next,
    /// A readable descriptor behind a writable one.
    #[error("readable descriptor behind a writable one")]
    Order,
    /// A buffer, or an indirect table, that is not all in guest memory.
    #[error("descriptor points outside guest memory")]
    Address,
    /// Together 4 GiB or more.
    #[error("descriptor chain of 4 GiB or more")]
    Length,
    /// An indirect table not negotiated, nested, chained on, empty, or of an odd length.
    #[error("misused indirect descriptor")]
    Indirect,
}

/// Why a queue cannot be served any more.
#[derive(Debug, Error)]
pub enum QueueError {
    /// The available index is ahead of what fits the queue, or a ring is not in guest memory.
    #[error("malformed ring: {0}")]
    Ring(virtio_queue::Error),
    /// The available ring names a descriptor that does not exist.
    #[error("available ring names descriptor {0}, which is outside the table")]
    Head(u16),
}

impl From<virtio_queue::Error> for QueueError {
    fn from(error: virtio_queue::Error) -> Self {
        Self::Ring(error)
    }
}

/// What [`pop`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Popped {
    /// No chain is available.
    Empty,
    /// The chain has been filled in.
    Chain,
    /// A chain with this head that breaks the rules.
    Malformed {
        /// Index of its first descriptor, valid for the used ring.
        head: u16,
        /// What it breaks.
        error: ChainError,
    },
}

/// Takes the next available chain off `queue` into `chain`, whose allocation is reused. `indirect` says
/// whether indirect descriptors were negotiated.
///
/// # Errors
///
/// [`QueueError`] if the ring itself is broken.
pub fn pop(
    queue: &mut Queue,
    memory: &GuestMemoryMmap,
    indirect: bool,
    chain: &mut Chain,
) -> Result<Popped, QueueError> {
    let Some(head) = queue.iter(memory)?.next().map(|found| found.head_index()) else {
        return Ok(Popped::Empty);
    };
    if head >= queue.size() {
        return Err(QueueError::Head(head));
    }
    chain.head = head;
    match walk(Table { address: GuestAddress(queue.desc_table()), entries: queue.size() }, memory, indirect, chain) {
        Ok(()) => Ok(Popped::Chain),
        Err(error) => Ok(Popped::Malformed { head, error }),
    }
}

/// Puts the last `count` chains that were taken off `queue` back, to be found again.
pub fn unpop(queue: &mut Queue, count: u16) {
    queue.set_next_avail(queue.next_avail().wrapping_sub(count));
}

#[derive(Clone, Copy)]
struct Table {
    address: GuestAddress,
    entries: u16,
}

impl Table {
    fn read(self, index: u16, memory: &GuestMemoryMmap) -> Result<Descriptor, ChainError> {
        let offset = u64::from(index) * u64::from(DESCRIPTOR_SIZE);
        let address = self.address.checked_add(offset).ok_or(ChainError::Address)?;
        memory.read_obj(address).map_err(|_| ChainError::Address)
    }

    fn indirect(descriptor: &Descriptor) -> Result<Self, ChainError> {
        let entries = descriptor.len() / DESCRIPTOR_SIZE;
        if !descriptor.len().is_multiple_of(DESCRIPTOR_SIZE) || entries == 0 || descriptor.has_next() {
            return Err(ChainError::Indirect);
        }
        let entries = u16::try_from(entries).map_err(|_| ChainError::TooLong)?;
        Ok(Self { address: descriptor.addr(), entries })
    }
}

fn walk(mut table: Table, memory: &GuestMemoryMmap, indirect: bool, chain: &mut Chain) -> Result<(), ChainError> {
    chain.segments.clear();
    chain.readable = 0;
    let mut may_go_indirect = indirect;
    let mut index = chain.head;
    let mut left = table.entries;
    let mut visited = 0;
    let mut total: u32 = 0;
    loop {
        if left == 0 || visited == MAX_DESCRIPTORS {
            return Err(ChainError::TooLong);
        }
        left -= 1;
        visited += 1;
        let descriptor = table.read(index, memory)?;
        if descriptor.refers_to_indirect_table() {
            if !may_go_indirect {
                return Err(ChainError::Indirect);
            }
            may_go_indirect = false;
            table = Table::indirect(&descriptor)?;
            left = table.entries;
            index = 0;
            continue;
        }
        total = total.checked_add(descriptor.len()).ok_or(ChainError::Length)?;
        push(chain, &descriptor, memory)?;
        if !descriptor.has_next() {
            return Ok(());
        }
        index = descriptor.next();
        if index >= table.entries {
            return Err(ChainError::Next);
        }
    }
}

fn push(chain: &mut Chain, descriptor: &Descriptor, memory: &GuestMemoryMmap) -> Result<(), ChainError> {
    let writable_before = chain.segments.len() > chain.readable;
    if !descriptor.is_write_only() && writable_before {
        return Err(ChainError::Order);
    }
    if descriptor.len() == 0 {
        return Ok(());
    }
    let access = if descriptor.is_write_only() { Permissions::Write } else { Permissions::Read };
    let length = usize::try_from(descriptor.len()).map_err(|_| ChainError::Length)?;
    if !memory.check_range(descriptor.addr(), length, access) {
        return Err(ChainError::Address);
    }
    chain.segments.push(Segment { address: descriptor.addr(), length: descriptor.len() });
    if !descriptor.is_write_only() {
        chain.readable += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
