use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::Duration;

use machine::{DiskRates, Rate};
use proptest::prelude::*;
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::device::ActiveQueue;
use crate::testing::{Counter, DATA, MEMORY, Ring, eventually, get, memory, put};
use crate::worker::RequestEngine;

#[path = "rate_tests.rs"]
mod rate_tests;

const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x100;
const BODY: u64 = DATA + 0x1000;
const SECTORS: u64 = 256;
const ALL: u64 = u64::MAX;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
/// What is in the status byte if the device did not write it.
const UNTOUCHED: u8 = 0xee;

struct Rig {
    ring: Ring,
    queue: Queue,
    engine: Engine,
    file: Arc<File>,
}

impl Rig {
    fn over(file: File, backing: impl FnOnce(Arc<File>) -> Backing, features: u64) -> Self {
        let file = Arc::new(file);
        let ring = Ring::new(&memory(), 0, QUEUE_SIZE);
        let mut engine = Engine::new(backing(Arc::clone(&file)), "scratch");
        engine.accept(features);
        Self { queue: ring.queue(), ring, engine, file }
    }

    fn writable() -> Self {
        Self::over(disk(), |file| Backing::writable(file).unwrap(), ALL)
    }

    fn read_only() -> Self {
        let extent = |file| ReadOnlyExtent { file, offset: 0, length: SECTORS * 512 };
        Self::over(disk(), |file| Backing::read_only(vec![extent(file)]).unwrap(), ALL)
    }

    /// Offers a chain as it is; the status byte afterwards and the used length.
    fn submit(&mut self, kind: u32, sector: u64, parts: &[(u64, u32, bool)]) -> (u8, u32) {
        put(&self.ring.memory, HEADER, &header(kind, sector));
        put(&self.ring.memory, STATUS, &[UNTOUCHED]);
        let head = self.ring.chain(parts);
        self.engine.process(&self.ring.memory, &mut self.queue).unwrap();
        let used = self.ring.used();
        assert_eq!(used.len(), 1);
        assert_eq!(used[0].0, u32::from(head));
        (get(&self.ring.memory, STATUS, 1)[0], used[0].1)
    }

    /// A request with `length` bytes of data.
    fn request(&mut self, kind: u32, sector: u64, length: u32, device_writes: bool) -> u8 {
        let body = (BODY, length, device_writes);
        self.submit(kind, sector, &[(HEADER, 16, false), body, (STATUS, 1, true)]).0
    }
}

fn disk() -> File {
    let file = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..SECTORS * 512).map(|at| u8::try_from(at / 512 % 256).unwrap()).collect();
    file.write_all_at(&bytes, 0).unwrap();
    file
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

#[test]
fn requests_end_with_the_status_they_deserve() {
    let length = u32::try_from(SECTORS * 512).unwrap();
    for (what, kind, sector, bytes, device_writes, expected) in [
        ("read one sector", IN, 7, 512, true, OK),
        ("read the last sector", IN, SECTORS - 1, 512, true, OK),
        ("read everything", IN, 0, length, true, OK),
        ("read nothing", IN, 0, 0, true, OK),
        ("read nothing at the end", IN, SECTORS, 0, true, OK),
        ("read at capacity", IN, SECTORS, 512, true, IOERR),
        ("read across capacity", IN, SECTORS - 1, 1024, true, IOERR),
        ("read beyond capacity", IN, SECTORS + 1, 0, true, IOERR),
        ("read at the end of numbers", IN, u64::MAX, 512, true, IOERR),
        ("sector times 512 overflows", IN, u64::MAX / 512 + 1, 512, true, IOERR),
        ("read one byte", IN, 0, 1, true, IOERR),
        ("read 513 bytes", IN, 0, 513, true, IOERR),
        ("write one sector", OUT, 7, 512, false, OK),
        ("write nothing", OUT, 0, 0, false, OK),
        ("write at capacity", OUT, SECTORS, 512, false, IOERR),
        ("write across capacity", OUT, SECTORS - 1, 1024, false, IOERR),
        ("write at the end of numbers", OUT, u64::MAX, 512, false, IOERR),
        ("write 511 bytes", OUT, 0, 511, false, IOERR),
        ("flush", FLUSH, 0, 0, true, OK),
        ("flush with data", FLUSH, 0, 512, false, OK),
        ("flush of an odd sector", FLUSH, u64::MAX, 0, true, OK),
        ("identify", GET_ID, 0, 20, true, OK),
        ("identify into nothing", GET_ID, 0, 0, true, IOERR),
        ("identify into one byte", GET_ID, 0, 1, true, OK),
        ("identify into a page", GET_ID, 0, 4096, true, OK),
        ("SCSI command", 2, 0, 512, true, UNSUPP),
        ("SCSI command, reply", 3, 0, 512, true, UNSUPP),
        ("flush out", 5, 0, 0, true, UNSUPP),
        ("lifetime", 10, 0, 512, true, UNSUPP),
        ("secure erase", 14, 0, 16, false, UNSUPP),
        ("barrier bit", OUT | 1 << 31, 0, 512, false, UNSUPP),
        ("all bits", u32::MAX, 0, 512, false, UNSUPP),
        ("discard of nothing", DISCARD, 0, 0, false, IOERR),
        ("discard of part of a range", DISCARD, 0, 15, false, IOERR),
        ("discard of 65 ranges", DISCARD, 0, 65 * 16, false, IOERR),
        ("zeroes of nothing", WRITE_ZEROES, 0, 0, false, IOERR),
    ] {
        assert_eq!(Rig::writable().request(kind, sector, bytes, device_writes), expected, "{what}");
    }
}

#[test]
fn data_in_the_wrong_direction_is_no_data() {
    // What the device may not write is not written, what it may not read is not read.
    let mut rig = Rig::writable();
    put(&rig.ring.memory, BODY, &[0xaa; 512]);
    assert_eq!(rig.request(IN, 0, 512, false), OK);
    assert_eq!(get(&rig.ring.memory, BODY, 512), [0xaa; 512]);
    assert_eq!(rig.request(OUT, 1, 512, true), OK);
    let mut sector = [0; 512];
    rig.file.read_exact_at(&mut sector, 512).unwrap();
    assert_eq!(sector, [1; 512]);
}

#[test]
fn odd_chains_cost_their_driver_the_request() {
    let header = (HEADER, 16, false);
    let status = (STATUS, 1, true);
    type Part = (u64, u32, bool);
    let cases: [(&str, &[Part], (u8, u32)); 8] = [
        ("no status", &[header], (UNTOUCHED, 0)),
        ("status readable", &[header, (STATUS, 1, false)], (UNTOUCHED, 0)),
        ("only a status", &[status], (IOERR, 1)),
        ("header too short", &[(HEADER, 15, false), status], (IOERR, 1)),
        ("header writable", &[(HEADER, 16, true), status], (IOERR, 17)),
        ("header split", &[(HEADER, 3, false), (HEADER + 3, 13, false), (BODY, 512, true), status], (OK, 513)),
        ("data and status in one", &[header, (STATUS - 512, 513, true)], (OK, 513)),
        ("out of memory", &[header, (MEMORY - 256, 512, true), status], (UNTOUCHED, 0)),
    ];
    for (what, parts, expected) in cases {
        assert_eq!(Rig::writable().submit(IN, 0, parts), expected, "{what}");
    }
}

#[test]
fn an_oversized_request_is_refused() {
    let mut rig = Rig::over(disk(), |file| Backing::writable(file).unwrap(), ALL);
    rig.file.set_len(1 << 30).unwrap();
    rig.engine = Engine::new(Backing::writable(Arc::clone(&rig.file)).unwrap(), "big");
    let part = (BODY, 8 << 20, true);
    let parts = [&[(HEADER, 16, false)][..], &[part; 5], &[(STATUS, 1, true)]].concat();
    assert_eq!(rig.submit(IN, 0, &parts).0, IOERR, "40 MiB");
    let parts = [&[(HEADER, 16, false)][..], &[part; 3], &[(STATUS, 1, true)]].concat();
    assert_eq!(rig.submit(IN, 0, &parts).0, OK, "24 MiB");
}

#[test]
fn a_read_only_device_is_not_written() {
    for (what, kind, length) in [("write", OUT, 512), ("discard", DISCARD, 16), ("zeroes", WRITE_ZEROES, 16)] {
        let mut rig = Rig::read_only();
        put(&rig.ring.memory, BODY, &range(0, 8, 0));
        assert_ne!(rig.request(kind, 0, length, false), OK, "{what}");
        let mut sector = [1; 512];
        rig.file.read_exact_at(&mut sector, 0).unwrap();
        assert_eq!(sector, [0; 512], "{what}");
    }
    assert_eq!(Rig::read_only().request(FLUSH, 0, 0, true), OK);
}

#[test]
fn ranges_are_checked_before_any_is_acted_on() {
    for (what, kind, ranges, expected) in [
        ("good", DISCARD, vec![range(0, 8, 0)], OK),
        ("to the end", DISCARD, vec![range(8, 248, 0)], OK),
        ("overlapping", DISCARD, vec![range(0, 16, 0), range(8, 16, 0)], OK),
        ("misaligned", DISCARD, vec![range(1, 3, 0)], OK),
        ("beyond the end", DISCARD, vec![range(0, 8, 0), range(250, 8, 0)], IOERR),
        ("overflow", DISCARD, vec![range(0, 8, 0), range(u64::MAX, 8, 0)], IOERR),
        ("sectors at the end of numbers", DISCARD, vec![range(0, u32::MAX, 0)], IOERR),
        ("empty", DISCARD, vec![range(0, 0, 0)], IOERR),
        ("unmap flag on discard", DISCARD, vec![range(0, 8, 1)], UNSUPP),
        ("unknown flag", WRITE_ZEROES, vec![range(0, 8, 2)], UNSUPP),
        ("zeroes", WRITE_ZEROES, vec![range(0, 8, 0)], OK),
        ("zeroes that unmap", WRITE_ZEROES, vec![range(0, 8, 1)], OK),
    ] {
        let mut rig = Rig::writable();
        rig.file.write_all_at(&[9; 4096], 0).unwrap();
        let bytes = ranges.concat();
        put(&rig.ring.memory, BODY, &bytes);
        assert_eq!(rig.request(kind, 0, u32::try_from(bytes.len()).unwrap(), false), expected, "{what}");
        let mut first = [0; 8];
        rig.file.read_exact_at(&mut first, 0).unwrap();
        let touched = expected == OK && what != "misaligned" && what != "to the end";
        assert_eq!(first == [0; 8], touched, "{what}");
    }
}

#[test]
fn discard_and_zeroes_need_their_features() {
    let features = ALL & !(features::DISCARD | features::WRITE_ZEROES);
    for kind in [DISCARD, WRITE_ZEROES] {
        let mut rig = Rig::over(disk(), |file| Backing::writable(file).unwrap(), features);
        put(&rig.ring.memory, BODY, &range(0, 8, 0));
        assert_eq!(rig.request(kind, 0, 16, false), UNSUPP);
    }
}

#[test]
fn discard_gives_space_back() {
    let mut rig = Rig::writable();
    rig.file.sync_all().unwrap();
    let before = rig.file.metadata().unwrap().blocks();
    put(&rig.ring.memory, BODY, &range(0, 256, 0));
    assert_eq!(rig.request(DISCARD, 0, 16, false), OK);
    assert!(rig.file.metadata().unwrap().blocks() < before);
    assert_eq!(rig.file.metadata().unwrap().len(), SECTORS * 512);
}

#[test]
fn a_host_that_refuses_is_an_io_error() {
    let file = File::from(rustix::fs::memfd_create("sealed", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap());
    file.set_len(SECTORS * 512).unwrap();
    let mut rig = Rig::over(file, |file| Backing::writable(file).unwrap(), ALL);
    rustix::fs::fcntl_add_seals(&*rig.file, rustix::fs::SealFlags::WRITE).unwrap();
    assert_eq!(rig.request(OUT, 0, 512, false), IOERR);
    assert_eq!(rig.request(IN, 0, 512, true), OK, "and reads go on");
}

#[test]
fn the_identifier_is_padded_with_zeros() {
    let mut rig = Rig::writable();
    assert_eq!(rig.request(GET_ID, 0, 20, true), OK);
    assert_eq!(get(&rig.ring.memory, BODY, 20), b"scratch\0\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn files_that_cannot_be_disks_are_refused() {
    let extent = |offset, length| ReadOnlyExtent { file: Arc::new(disk()), offset, length };
    for (what, extents) in [
        ("misaligned offset", vec![extent(512, 4096)]),
        ("misaligned length", vec![extent(0, 512)]),
        ("empty", vec![extent(0, 4096), extent(0, 0)]),
        ("offset overflow", vec![extent(u64::MAX - 4095, 4096)]),
        ("beyond file offsets", vec![extent(1 << 62, 1 << 62)]),
        ("together too long", vec![extent(0, 1 << 62), extent(0, 1 << 62)]),
    ] {
        assert!(Backing::read_only(extents).is_err(), "{what}");
    }
    let odd = disk();
    odd.set_len(513).unwrap();
    assert!(matches!(Backing::writable(Arc::new(odd)), Err(BackingError::Size(513))));
    let path = tempfile::NamedTempFile::new().unwrap();
    let read_only = File::open(path.path()).unwrap();
    assert!(matches!(Backing::writable(Arc::new(read_only)), Err(BackingError::Access(_))));
    assert!(matches!(Backing::writable(Arc::new(File::open("/").unwrap())), Err(BackingError::NotAFile)));
}

fn active(ring: &Ring, counter: &Arc<Counter>, kick: &EventFd) -> Activation {
    Activation {
        memory: ring.memory.clone(),
        features: ALL,
        queues: vec![ActiveQueue { queue: ring.queue(), kick: kick.try_clone().unwrap() }],
        interrupt: Arc::clone(counter) as _,
    }
}

#[test]
fn the_worker_serves_kicks_stops_and_goes_on() {
    let mut ring = Ring::new(&memory(), 0, QUEUE_SIZE);
    let (counter, kick) = (Arc::new(Counter::default()), EventFd::new(EFD_NONBLOCK).unwrap());
    let mut device = Block::new(Backing::writable(Arc::new(disk())).unwrap(), "x", DiskRates::default());
    let mut activation = active(&ring, &counter, &kick);
    for _ in 0..3 {
        device.activate(activation).unwrap();
        put(&ring.memory, HEADER, &header(IN, 0));
        for _ in 0..5 {
            ring.chain(&[(HEADER, 16, false), (BODY, 512, true), (STATUS, 1, true)]);
            kick.write(1).unwrap();
            let mut used = Vec::new();
            eventually("a request", || {
                used.extend(ring.used());
                used.len() == 1
            });
        }
        let mut queues = device.quiesce();
        activation = active(&ring, &counter, &kick);
        activation.queues[0].queue = queues.remove(0);
    }
    eventually("interrupts", || counter.queue.load(std::sync::atomic::Ordering::SeqCst) >= 15);
}

#[test]
fn a_broken_ring_asks_for_a_reset_and_stops_cleanly() {
    let mut ring = Ring::new(&memory(), 0, QUEUE_SIZE);
    let (counter, kick) = (Arc::new(Counter::default()), EventFd::new(EFD_NONBLOCK).unwrap());
    let mut device = Block::new(Backing::writable(Arc::new(disk())).unwrap(), "x", DiskRates::default());
    ring.set_available(9999);
    device.activate(active(&ring, &counter, &kick)).unwrap();
    eventually("a request for reset", || counter.needs_reset.load(std::sync::atomic::Ordering::SeqCst) == 1);
    assert_eq!(device.quiesce().len(), 1);
}

#[test]
fn an_unusable_queue_is_not_activated() {
    let ring = Ring::new(&memory(), 0, QUEUE_SIZE);
    let (counter, kick) = (Arc::new(Counter::default()), EventFd::new(EFD_NONBLOCK).unwrap());
    let mut device = Block::new(Backing::writable(Arc::new(disk())).unwrap(), "x", DiskRates::default());
    let mut activation = active(&ring, &counter, &kick);
    activation.queues[0].queue.set_used_ring_address(None, Some(1));
    assert!(matches!(device.activate(activation), Err(ActivateError::Queue(0))));
    let mut activation = active(&ring, &counter, &kick);
    activation.queues.clear();
    assert!(matches!(device.activate(activation), Err(ActivateError::Queue(0))));
    device.activate(active(&ring, &counter, &kick)).unwrap();
    assert!(device.activate(active(&ring, &counter, &kick)).is_err(), "already running");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn extents_read_as_their_files_one_after_the_other(
        pieces in prop::collection::vec((0u64..3, 0u64..4, 1u64..4), 1..8),
        start in 0u64..64,
        splits in prop::collection::vec(1u32..5000, 1..6),
    ) {
        let files: Vec<(Arc<File>, Vec<u8>)> = (0..3u8)
            .map(|seed| {
                let bytes: Vec<u8> = (0..5000 * (usize::from(seed) + 1)).map(|at| u8::try_from(at * 7 % 251).unwrap() ^ seed).collect();
                let file = tempfile::tempfile().unwrap();
                file.write_all_at(&bytes, 0).unwrap();
                (Arc::new(file), bytes)
            })
            .collect();
        let (mut extents, mut model) = (Vec::new(), Vec::new());
        for (file, offset, length) in pieces {
            let (file, bytes) = &files[usize::try_from(file).unwrap()];
            let (offset, length) = (offset * 4096, length * 4096);
            extents.push(ReadOnlyExtent { file: Arc::clone(file), offset, length });
            let at = |at: u64| bytes.get(usize::try_from(at).unwrap()).copied().unwrap_or(0);
            model.extend((offset..offset + length).map(at));
        }
        let mut rig = Rig::over(disk(), |_| Backing::read_only(extents).unwrap(), ALL);
        let total = splits.iter().sum::<u32>() / 512 * 512;
        let mut parts = vec![(HEADER, 16, false)];
        let (mut at, mut left) = (BODY, total);
        for split in splits {
            let count = split.min(left);
            parts.push((at, count, true));
            at += u64::from(count) + 3;
            left -= count;
        }
        parts.push((STATUS, 1, true));
        let from = usize::try_from(start * 512).unwrap();
        let expected = model.get(from..from + usize::try_from(total).unwrap());
        let (status, _) = rig.submit(IN, start, &parts);
        prop_assert_eq!(status == OK, expected.is_some());
        if let Some(expected) = expected {
            let parts = parts[1..parts.len() - 1].iter();
            let read: Vec<u8> = parts.flat_map(|part| get(&rig.ring.memory, part.0, usize::try_from(part.1).unwrap())).collect();
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn what_was_written_is_read(sector in 0u64..250, sectors in 1u32..6, seed: u8) {
        let mut rig = Rig::writable();
        let bytes: Vec<u8> = (0..sectors * 512).map(|at| u8::try_from(at % 251).unwrap() ^ seed).collect();
        put(&rig.ring.memory, BODY, &bytes);
        prop_assert_eq!(rig.request(OUT, sector, sectors * 512, false), OK);
        put(&rig.ring.memory, BODY, &vec![0; bytes.len()]);
        prop_assert_eq!(rig.request(IN, sector, sectors * 512, true), OK);
        prop_assert_eq!(get(&rig.ring.memory, BODY, bytes.len()), bytes);
    }
}
