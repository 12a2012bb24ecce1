//! A driver for tests: it writes rings as a guest does, and as a hostile one does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::device::Interrupt;

/// Bytes of guest memory.
pub(crate) const MEMORY: u64 = 16 << 20;

/// Where tests put their data; rings lie below.
pub(crate) const DATA: u64 = 1 << 20;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

pub(crate) fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), usize::try_from(MEMORY).unwrap())]).unwrap()
}

pub(crate) fn put(memory: &GuestMemoryMmap, address: u64, bytes: &[u8]) {
    memory.write_slice(bytes, GuestAddress(address)).unwrap();
}

pub(crate) fn get(memory: &GuestMemoryMmap, address: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
    bytes
}

pub(crate) fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

/// The driver's side of one queue.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) memory: GuestMemoryMmap,
    base: u64,
    pub(crate) size: u16,
    free: u16,
    available: u16,
    seen: u16,
}

impl Ring {
    /// The `position`th ring of a guest.
    pub(crate) fn new(memory: &GuestMemoryMmap, position: u64, size: u16) -> Self {
        let base = 0x10000 * (position + 1);
        Self { memory: memory.clone(), base, size, free: 0, available: 0, seen: 0 }
    }

    pub(crate) fn table(&self) -> u64 {
        self.base
    }

    pub(crate) fn available_ring(&self) -> u64 {
        self.base + 0x8000
    }

    pub(crate) fn used_ring(&self) -> u64 {
        self.base + 0xc000
    }

    pub(crate) fn queue(&self) -> Queue {
        let mut queue = Queue::new(self.size).unwrap();
        queue.try_set_desc_table_address(GuestAddress(self.table())).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(self.available_ring())).unwrap();
        queue.try_set_used_ring_address(GuestAddress(self.used_ring())).unwrap();
        queue.set_ready(true);
        queue
    }

    pub(crate) fn set(&self, index: u16, descriptor: [u8; 16]) {
        put(&self.memory, self.table() + u64::from(index) * 16, &descriptor);
    }

    /// Makes `head` available, whatever it is.
    pub(crate) fn offer(&mut self, head: u16) {
        let at = self.available_ring() + 4 + u64::from(self.available % self.size) * 2;
        put(&self.memory, at, &head.to_le_bytes());
        self.set_available(self.available.wrapping_add(1));
    }

    pub(crate) fn set_available(&mut self, index: u16) {
        self.available = index;
        self.memory.store(index.to_le(), GuestAddress(self.available_ring() + 2), Ordering::Release).unwrap();
    }

    /// The descriptor that the next chain starts with.
    pub(crate) fn next_free(&self) -> u16 {
        self.free
    }

    /// Offers a chain of (address, length, device may write).
    pub(crate) fn chain(&mut self, parts: &[(u64, u32, bool)]) -> u16 {
        let head = self.free;
        for (position, (address, length, writable)) in parts.iter().enumerate() {
            let last = position + 1 == parts.len();
            let index = self.free;
            self.free = (self.free + 1) % self.size;
            let flags = if *writable { WRITE } else { 0 } | if last { 0 } else { NEXT };
            self.set(index, descriptor(*address, *length, flags, self.free));
        }
        self.offer(head);
        head
    }

    /// What the device used since the last call: heads and lengths.
    pub(crate) fn used(&mut self) -> Vec<(u32, u32)> {
        let index: u16 = self.memory.load(GuestAddress(self.used_ring() + 2), Ordering::Acquire).unwrap();
        let mut used = Vec::new();
        while self.seen != index {
            let at = self.used_ring() + 4 + u64::from(self.seen % self.size) * 8;
            let word = |at| u32::from_le_bytes(get(&self.memory, at, 4).try_into().unwrap());
            used.push((word(at), word(at + 4)));
            self.seen = self.seen.wrapping_add(1);
        }
        used
    }
}

/// Counts what the device says.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    pub(crate) queue: AtomicUsize,
    pub(crate) needs_reset: AtomicUsize,
}

impl Interrupt for Counter {
    fn queue(&self, _index: u16) {
        self.queue.fetch_add(1, Ordering::SeqCst);
    }

    fn config(&self) {}

    fn needs_reset(&self) {
        self.needs_reset.fetch_add(1, Ordering::SeqCst);
    }
}

/// Waits until `done`, for as long as a busy machine may need.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(1));
    }
}
