//! Bytes become guest memory with rings in it; each device's engine serves them, without threads.
//!
//! The input is laid over the first 64 KiB of guest memory, where the rings are, so the fuzzer writes descriptors,
//! indices, headers and payloads alike. Its first bytes say which features and which device.

#![no_main]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use devices::block::{self, Backing, ReadOnlyExtent};
use devices::device::feature;
use devices::{rng, vsock};
use libfuzzer_sys::fuzz_target;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const SIZE: u16 = 16;
const MEMORY: usize = 64 << 10;
const DISK: u64 = 64 << 10;
const ROUNDS: usize = 1000;

/// A queue whose rings lie at `base`: table, available ring, used ring, 256 bytes apart.
fn queue(base: u64, event_idx: bool) -> Queue {
    let mut queue = Queue::new(SIZE).expect("a power of two");
    queue.try_set_desc_table_address(GuestAddress(base)).expect("aligned");
    queue.try_set_avail_ring_address(GuestAddress(base + 0x100)).expect("aligned");
    queue.try_set_used_ring_address(GuestAddress(base + 0x200)).expect("aligned");
    queue.set_event_idx(event_idx);
    queue.set_ready(true);
    queue
}

fn disk(read_only: bool) -> Backing {
    let file = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
    rustix::fs::ftruncate(&file, DISK).expect("ftruncate");
    let file = Arc::new(File::from(file));
    if !read_only {
        return Backing::writable(file).expect("a disk");
    }
    let extent = |offset| ReadOnlyExtent { file: Arc::clone(&file), offset, length: DISK / 2 };
    Backing::read_only(vec![extent(DISK / 2), extent(4096)]).expect("extents")
}

/// Lets an engine work until it is done. A device may be told to write into its own available ring and so to go on:
/// a worker looks at its stop flag between requests, this counts.
fn serve(mut process: impl FnMut() -> bool) {
    for _ in 0..ROUNDS {
        if !process() {
            break;
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let [device, features, rest @ ..] = input else { return };
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
    memory.write(rest, GuestAddress(0x1000)).expect("starts inside");
    let accepted = if features & 1 == 0 { u64::MAX } else { feature::VERSION_1 };
    let mut first = queue(0x1000, features & 2 != 0);
    let mut second = queue(0x1400, features & 2 != 0);
    match device % 4 {
        0 | 1 => {
            let mut engine = block::Engine::new(disk(device % 4 == 1), "fuzz");
            engine.accept(accepted);
            serve(|| engine.process(&memory, &mut first).unwrap_or(false));
        }
        2 => {
            let mut engine = rng::Engine::default();
            engine.accept(accepted);
            serve(|| engine.process(&memory, &mut first).unwrap_or(false));
        }
        _ => {
            let (ours, theirs) = UnixDatagram::pair().expect("socketpair");
            let mut engine = vsock::Engine::new(3, OwnedFd::from(theirs)).expect("epoll");
            engine.accept(accepted);
            serve(|| {
                engine.poll(false);
                let taken = engine.process_transmit(&memory, &mut second).unwrap_or(false);
                engine.process_receive(&memory, &mut first).unwrap_or(false) | taken
            });
            drop(ours);
        }
    }
});
