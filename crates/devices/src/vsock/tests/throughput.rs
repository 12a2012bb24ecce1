//! The worker under load: several streams at once, echoed by a driver in this process.

use std::collections::HashMap;
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

/// A guest that accepts every connection and echoes, with the credit rules of Linux.
struct Echo {
    guest: Guest,
    kicks: [EventFd; 2],
    received: HashMap<u32, u32>,
    sent: HashMap<u32, u32>,
    credit: HashMap<u32, (u32, u32)>,
    pending: Vec<(u32, Vec<u8>)>,
    in_flight: usize,
}

impl Echo {
    fn step(&mut self) -> bool {
        let packets = self.guest.packets(true);
        self.in_flight -= self.guest.transmit.used().len();
        let moved = !packets.is_empty();
        for (header, body) in packets {
            let port = header.src_port;
            self.credit.insert(port, (header.buf_alloc, header.fwd_cnt));
            *self.received.entry(port).or_default() += header.len;
            match Operation::parse(header.op).unwrap() {
                Operation::Request => self.send(Operation::Response, port, 0, &[]),
                Operation::Shutdown => self.pending.push((port, Vec::new())),
                Operation::Data => self.pending.push((port, body)),
                _ => {}
            }
        }
        if moved {
            self.kicks[0].write(1).unwrap();
        }
        self.echo() || moved
    }

    fn echo(&mut self) -> bool {
        let mut waiting = std::mem::take(&mut self.pending).into_iter();
        let mut moved = false;
        let mut blocked = Vec::new();
        for (port, body) in waiting.by_ref() {
            let (buf_alloc, fwd_cnt) = self.credit[&port];
            let sent = *self.sent.entry(port).or_default();
            let room = buf_alloc.saturating_sub(sent.wrapping_sub(fwd_cnt));
            let earlier = blocked.iter().any(|(other, _)| *other == port);
            if earlier || u32::try_from(body.len()).unwrap() > room || self.in_flight > 32 {
                blocked.push((port, body));
                continue;
            }
            moved = true;
            if body.is_empty() {
                self.send(Operation::Shutdown, port, shutdown::BOTH, &[]);
            } else {
                *self.sent.entry(port).or_default() += u32::try_from(body.len()).unwrap();
                self.send(Operation::Data, port, 0, &body);
            }
        }
        self.pending = blocked;
        moved
    }

    fn send(&mut self, op: Operation, port: u32, flags: u32, body: &[u8]) {
        let fwd_cnt = self.received.get(&port).copied().unwrap_or(0);
        let header = Header { flags, fwd_cnt, ..packet(op, port, 1000) };
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
            let (received, sent, credit) = Default::default();
            let mut echo = Echo { guest, kicks, received, sent, credit, pending: Vec::new(), in_flight: 0 };
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
