//! The worker under load: several streams at once, echoed by a driver in this process.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::packet::shutdown;
use super::*;
use crate::device::ActiveQueue;
use crate::testing::Counter;

const STREAMS: usize = 4;
const BYTES: usize = if cfg!(debug_assertions) { 8 << 20 } else { 100 << 20 };

/// A connection as the guest sees it. A packet without payload in `pending` is the end.
#[derive(Default)]
struct Stream {
    consumed: u32,
    sent: u32,
    credit: (u32, u32),
    pending: VecDeque<Vec<u8>>,
}

/// A guest that accepts every connection and echoes what it gets, within its credit.
struct Echo {
    guest: Guest,
    kicks: [EventFd; 2],
    streams: HashMap<u32, Stream>,
    in_flight: usize,
}

impl Echo {
    fn step(&mut self) -> bool {
        let packets = self.guest.packets(true);
        self.in_flight -= self.guest.transmit.used().len();
        let moved = !packets.is_empty();
        for (header, body) in packets {
            let stream = self.streams.entry(header.src_port).or_default();
            stream.credit = (header.buf_alloc, header.fwd_cnt);
            match Operation::parse(header.op).unwrap() {
                Operation::Request => self.send(Operation::Response, header.src_port, 0, &[]),
                Operation::Shutdown => stream.pending.push_back(Vec::new()),
                Operation::Data => stream.pending.push_back(body),
                _ => {}
            }
        }
        if moved {
            self.kicks[0].write(1).unwrap();
        }
        let ports: Vec<u32> = self.streams.keys().copied().collect();
        ports.into_iter().fold(moved, |moved, port| self.echo(port) || moved)
    }

    fn echo(&mut self, port: u32) -> bool {
        let mut moved = false;
        while self.in_flight < 32 {
            let stream = self.streams.get_mut(&port).unwrap();
            let Some(body) = stream.pending.front() else { break };
            let length = u32::try_from(body.len()).unwrap();
            let (buf_alloc, fwd_cnt) = stream.credit;
            if length > buf_alloc.saturating_sub(stream.sent.wrapping_sub(fwd_cnt)) {
                break;
            }
            stream.sent = stream.sent.wrapping_add(length);
            stream.consumed = stream.consumed.wrapping_add(length);
            let body = stream.pending.pop_front().unwrap();
            match length {
                0 => self.send(Operation::Shutdown, port, shutdown::BOTH, &[]),
                _ => self.send(Operation::Data, port, 0, &body),
            }
            moved = true;
        }
        moved
    }

    fn send(&mut self, op: Operation, port: u32, flags: u32, body: &[u8]) {
        let header = Header { flags, fwd_cnt: self.streams[&port].consumed, ..packet(op, port, 1000) };
        self.guest.send(&data(header, body), body);
        self.in_flight += 1;
        self.kicks[1].write(1).unwrap();
    }
}

#[test]
fn several_streams_at_once_do_not_stall() {
    let (host, channel) = Host::new();
    let mut guest = Guest::new();
    guest.offer(QUEUE_SIZE);
    let kicks = [(); 2].map(|()| EventFd::new(EFD_NONBLOCK).unwrap());
    let rings = [&guest.receive, &guest.transmit];
    let queues = rings.iter().zip(&kicks);
    let queues = queues.map(|(ring, kick)| ActiveQueue { queue: ring.queue(), kick: kick.try_clone().unwrap() });
    let mut device = Vsock::new(GUEST_CID, channel).unwrap();
    let counter = Arc::new(Counter::default());
    let activation = Activation {
        memory: guest.receive.memory.clone(),
        features: feature::VERSION_1,
        queues: queues.collect(),
        interrupt: Arc::clone(&counter) as _,
    };
    device.activate(activation).unwrap();
    let done = AtomicBool::new(false);
    let start = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut echo = Echo { guest, kicks, streams: HashMap::new(), in_flight: 0 };
            while !done.load(Ordering::Relaxed) {
                if !echo.step() {
                    thread::yield_now();
                }
            }
        });
        let streams: Vec<_> = (0..STREAMS).map(|_| scope.spawn(|| exchange(host.connect(1000)))).collect();
        streams.into_iter().for_each(|stream| stream.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    let mebibytes = (2 * STREAMS * BYTES) >> 20;
    let interrupts = counter.queue.load(Ordering::SeqCst);
    println!("{mebibytes} MiB in {:?}, {interrupts} interrupts", start.elapsed());
    device.quiesce();
}

fn exchange(mut stream: UnixStream) {
    let mut writer = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let block: Vec<u8> = (0..1 << 20).map(|at: u32| u8::try_from(at % 251).unwrap()).collect();
            (0..BYTES >> 20).for_each(|_| writer.write_all(&block).unwrap());
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let (mut total, mut block) = (0, vec![0; 1 << 20]);
        loop {
            let count = stream.read(&mut block).unwrap();
            if count == 0 {
                break;
            }
            let right = block[..count].iter().zip(total..).all(|(byte, at)| usize::from(*byte) == at % (1 << 20) % 251);
            assert!(right, "bytes changed after {total}");
            total += count;
        }
        assert_eq!(total, BYTES);
    });
}
