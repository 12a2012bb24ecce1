use std::fs::File;
use std::os::fd::AsRawFd;
use std::thread::{self, JoinHandle};

use rustix::fs::{MemfdFlags, memfd_create};
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::device::feature;
use crate::rng::{QUEUE_SIZE, Rng};
use crate::testing::{DATA, MEMORY, Ring, eventually, get};

/// Where the peer says that it has guest memory.
const PEER: u64 = 0x7f00_0000_0000;

struct Peer {
    frontend: Frontend,
    ring: Ring,
    file: File,
    cell: MemoryCell,
    kick: EventFd,
    call: EventFd,
    server: JoinHandle<Result<(), ServeError>>,
}

impl Peer {
    fn new() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let cell = MemoryCell::default();
        let server = thread::spawn({
            let cell = cell.clone();
            move || serve(Box::new(Rng::new()), theirs, &cell)
        });
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(MEMORY).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), 0);
        let size = usize::try_from(MEMORY).unwrap();
        let memory = GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), size, Some(offset))]).unwrap();
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        Self {
            frontend: Frontend::from_stream(ours, 1),
            ring: Ring::new(&memory, 0, QUEUE_SIZE),
            file,
            cell,
            kick: event(),
            call: event(),
            server,
        }
    }

    fn negotiate(&mut self) {
        self.frontend.set_owner().unwrap();
        let offered = self.frontend.get_features().unwrap();
        let wanted = feature::VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        assert_eq!(offered & wanted, wanted);
        self.frontend.set_features(wanted).unwrap();
        let protocol = self.frontend.get_protocol_features().unwrap();
        self.frontend.set_protocol_features(protocol & !VhostUserProtocolFeatures::REPLY_ACK).unwrap();
    }

    fn table(&mut self, length: u64) {
        self.frontend.set_mem_table(&[self.region(length)]).unwrap();
    }

    fn region(&self, length: u64) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: length,
            userspace_addr: PEER,
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        }
    }

    fn start_ring(&mut self, base: u16) {
        self.frontend.set_vring_num(0, QUEUE_SIZE).unwrap();
        self.frontend.set_vring_base(0, base).unwrap();
        let config = VringConfigData {
            queue_max_size: QUEUE_SIZE,
            queue_size: QUEUE_SIZE,
            flags: 0,
            desc_table_addr: PEER + self.ring.table(),
            used_ring_addr: PEER + self.ring.used_ring(),
            avail_ring_addr: PEER + self.ring.available_ring(),
            log_addr: None,
        };
        self.frontend.set_vring_addr(0, &config).unwrap();
        self.frontend.set_vring_call(0, &self.call).unwrap();
        self.frontend.set_vring_kick(0, &self.kick).unwrap();
        self.frontend.set_vring_enable(0, true).unwrap();
    }

    fn request(&mut self) {
        self.ring.chain(&[(DATA, 64, true)]);
        self.kick.write(1).unwrap();
    }

    fn finish(self) -> Result<(), ServeError> {
        drop(self.frontend);
        self.server.join().unwrap()
    }
}

#[test]
fn a_device_works_behind_a_socket() {
    let mut peer = Peer::new();
    peer.negotiate();
    peer.table(MEMORY);
    peer.start_ring(0);
    peer.request();
    eventually("a request", || peer.ring.used().len() == 1);
    eventually("a call", || peer.call.read().is_ok());
    assert_ne!(get(&peer.ring.memory, DATA, 64), [0; 64]);
    let (cell, memory) = (peer.cell.clone(), peer.ring.memory.clone());
    peer.finish().unwrap();
    memory.write_slice(b"last words", GuestAddress(DATA)).unwrap();
    assert_eq!(get(&cell.get().unwrap(), DATA, 10), b"last words", "memory outlives the peer's connection");
}

#[test]
fn calls_change_while_the_device_runs() {
    let mut peer = Peer::new();
    peer.negotiate();
    peer.table(MEMORY);
    peer.start_ring(0);
    for _ in 0..10 {
        let call = EventFd::new(EFD_NONBLOCK).unwrap();
        peer.frontend.set_vring_call(0, &call).unwrap();
        peer.request();
        eventually("a request", || peer.ring.used().len() == 1);
        eventually("a call on the new descriptor", || call.read().is_ok());
    }
    peer.finish().unwrap();
}

#[test]
fn a_stopped_ring_says_where_it_was_and_goes_on() {
    let mut peer = Peer::new();
    peer.negotiate();
    peer.table(MEMORY);
    peer.start_ring(0);
    for round in 0..3u16 {
        peer.request();
        eventually("a request", || peer.ring.used().len() == 1);
        assert_eq!(peer.frontend.get_vring_base(0).unwrap(), u32::from(2 * round) + 1);
        peer.request();
        thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(peer.ring.used().len(), 0, "stopped");
        peer.start_ring(2 * round + 1);
        eventually("the request made meanwhile", || peer.ring.used().len() == 1);
    }
    peer.finish().unwrap();
}

#[test]
fn a_disabled_ring_rests() {
    let mut peer = Peer::new();
    peer.negotiate();
    peer.table(MEMORY);
    peer.start_ring(0);
    peer.frontend.set_vring_enable(0, false).unwrap();
    peer.frontend.get_features().unwrap();
    peer.request();
    thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(peer.ring.used().len(), 0);
    peer.frontend.set_vring_enable(0, true).unwrap();
    eventually("the request", || peer.ring.used().len() == 1);
    peer.table(MEMORY);
    peer.request();
    eventually("a request after a new memory table", || peer.ring.used().len() == 1);
    peer.finish().unwrap();
}

#[test]
fn the_configuration_space_is_read_whole() {
    let mut peer = Peer::new();
    peer.negotiate();
    let (_, bytes) = peer.frontend.get_config(0, 60, VhostUserConfigFlags::empty(), &[0; 60]).unwrap();
    assert_eq!(bytes, [0; 60]);
    peer.finish().unwrap();
}

#[test]
fn memory_that_is_not_there_is_not_mapped() {
    let mut peer = Peer::new();
    peer.negotiate();
    // The refusal is not told without REPLY_ACK: the rings then simply do not start.
    peer.table(MEMORY + 4096);
    peer.frontend.get_features().unwrap();
    assert!(peer.cell.get().is_none());
    peer.start_ring(0);
    peer.request();
    thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(peer.ring.used().len(), 0);
    peer.finish().unwrap();
}

#[test]
fn nonsense_ends_the_conversation_and_nothing_else() {
    use std::io::Write;
    for bytes in [&b"hello, this is no vhost-user at all"[..], &[0xff; 12], &[0; 64]] {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || serve(Box::new(Rng::new()), theirs, &MemoryCell::default()));
        ours.write_all(bytes).unwrap();
        drop(ours);
        server.join().unwrap().unwrap_err();
    }
    type Wrong = fn(&mut Frontend);
    let cases: [Wrong; 3] = [
        |peer| drop(peer.set_features(u64::MAX)),
        |peer| drop(peer.set_vring_num(0, 100)),
        |peer| drop(peer.get_vring_base(0)),
    ];
    for wrong in cases {
        let mut peer = Peer::new();
        peer.negotiate();
        wrong(&mut peer.frontend);
        // Whatever it says, it comes back.
        let _ = peer.finish();
    }
}
