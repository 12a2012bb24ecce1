//! The registers of one queue: plain data that becomes a queue only if all of it is sound.

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// What the driver wrote about a queue.
#[derive(Debug)]
pub(super) struct QueueRegisters {
    max: u16,
    pub(super) size: u32,
    pub(super) descriptors: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
    ready: bool,
}

impl QueueRegisters {
    pub(super) fn new(max: u16) -> Self {
        Self { max, size: u32::from(max), descriptors: 0, driver: 0, device: 0, ready: false }
    }

    pub(super) fn max(&self) -> u32 {
        u32::from(self.max)
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.max);
    }

    /// The driver says that the queue is ready, or no longer is. It becomes so only if it can be used.
    pub(super) fn set_ready(&mut self, ready: bool, memory: &GuestMemoryMmap) {
        self.ready = ready && self.to_queue(false).is_some_and(|queue| queue.is_valid(memory));
    }

    /// The queue that the registers describe, if its size and alignments are allowed.
    pub(super) fn to_queue(&self, event_idx: bool) -> Option<Queue> {
        let mut queue = Queue::new(self.max).ok()?;
        queue.try_set_size(u16::try_from(self.size).ok()?).ok()?;
        if self.descriptors == 0 || self.driver == 0 || self.device == 0 {
            return None;
        }
        queue.try_set_desc_table_address(GuestAddress(self.descriptors)).ok()?;
        queue.try_set_avail_ring_address(GuestAddress(self.driver)).ok()?;
        queue.try_set_used_ring_address(GuestAddress(self.device)).ok()?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Some(queue)
    }
}
