mod flow;
mod hostile;
mod throughput;

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use machine::vsock::{GUEST_CID, HOST_CID, decode_port, encode_port};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::packet::{HEADER_SIZE, Header, Operation, TYPE_STREAM};
use super::*;
use crate::testing::{DATA, Ring, get, memory, put};

/// Bytes of a receive buffer, its header included: about what Linux offers.
const BUFFER: u32 = 3776;

/// Where receive buffers lie, and packets to send.
const RECEIVE: u64 = DATA;
const SEND: u64 = DATA + (4 << 20);
const SEND_PLACES: u32 = 64;

/// The host's end of the channel.
struct Host(OwnedFd);

impl Host {
    fn new() -> (Self, OwnedFd) {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        (Self(ours), theirs)
    }

    fn send(&self, bytes: &[u8], files: &[&OwnedFd]) {
        let rights: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !rights.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&rights));
        }
        sendmsg(&self.0, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::empty()).unwrap();
    }

    fn connect(&self, port: u32) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.send(&encode_port(port), &[&theirs.into()]);
        ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        ours.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        ours
    }

    /// What the guest connected to, if it did.
    fn accept(&self) -> Option<(u32, UnixStream)> {
        let mut bytes = [0; 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::DONTWAIT).ok()?;
        let stream = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        Some((decode_port(&bytes)?, stream?.into()))
    }
}

/// A guest's driver and the device's engine, without threads.
struct Rig {
    host: Host,
    engine: Engine,
    guest: Guest,
    queues: [Queue; 2],
}

/// The guest's side of both queues.
struct Guest {
    receive: Ring,
    transmit: Ring,
    sent: u32,
}

impl Guest {
    fn new() -> Self {
        let memory = memory();
        Self { receive: Ring::new(&memory, 0, QUEUE_SIZE), transmit: Ring::new(&memory, 1, QUEUE_SIZE), sent: 0 }
    }

    /// Offers `count` receive buffers.
    fn offer(&mut self, count: u16) {
        for _ in 0..count {
            self.offer_one(BUFFER);
        }
    }

    /// Offers a receive buffer of `length` bytes, each descriptor having a page of its own.
    fn offer_one(&mut self, length: u32) {
        let at = RECEIVE + u64::from(self.receive.next_free()) * 0x1000;
        self.receive.chain(&[(at, length, true)]);
    }

    /// The packets that arrived since the last call; their buffers are offered again if `again`.
    fn packets(&mut self, again: bool) -> Vec<(Header, Vec<u8>)> {
        let mut packets = Vec::new();
        for (head, length) in self.receive.used() {
            let at = RECEIVE + u64::from(head) * 0x1000;
            let header = Header::parse(&get(&self.receive.memory, at, HEADER_SIZE).try_into().unwrap());
            let body = usize::try_from(length).unwrap() - HEADER_SIZE;
            assert_eq!(body, usize::try_from(header.len).unwrap());
            packets.push((header, get(&self.receive.memory, at + HEADER_SIZE as u64, body)));
            if again {
                self.receive.offer(u16::try_from(head).unwrap());
            }
        }
        packets
    }

    fn send(&mut self, header: &Header, body: &[u8]) {
        let place = SEND + u64::from(self.sent % SEND_PLACES) * 0x11000;
        self.sent = self.sent.wrapping_add(1);
        let memory = &self.transmit.memory;
        put(memory, place, &header.encode());
        put(memory, place + HEADER_SIZE as u64, body);
        let header = (place, u32::try_from(HEADER_SIZE).unwrap(), false);
        let body = (place + HEADER_SIZE as u64, u32::try_from(body.len()).unwrap(), false);
        self.transmit.chain(&[header, body]);
    }
}

fn packet(op: Operation, host_port: u32, guest_port: u32) -> Header {
    Header {
        src_cid: u64::from(GUEST_CID),
        dst_cid: u64::from(HOST_CID),
        src_port: guest_port,
        dst_port: host_port,
        kind: TYPE_STREAM,
        op: op as u16,
        buf_alloc: 256 << 10,
        ..Header::default()
    }
}

impl Rig {
    fn new() -> Self {
        let (host, channel) = Host::new();
        let guest = Guest::new();
        let queues = [guest.receive.queue(), guest.transmit.queue()];
        let mut rig = Self { host, engine: Engine::new(u64::from(GUEST_CID), channel).unwrap(), guest, queues };
        rig.guest.offer(128);
        rig
    }

    /// Lets the engine work until nothing moves.
    fn settle(&mut self) {
        let memory = self.guest.receive.memory.clone();
        for _ in 0..64 {
            self.engine.poll(false);
            let [receive, transmit] = &mut self.queues;
            let mut moved = self.engine.process_transmit(&memory, transmit).unwrap();
            moved |= self.engine.process_channel();
            moved |= self.engine.process_receive(&memory, receive).unwrap();
            if !moved {
                self.engine.poll(false);
                if !self.engine.process_receive(&memory, receive).unwrap() {
                    break;
                }
            }
        }
    }

    /// Sends a packet and returns what comes back.
    fn exchange(&mut self, header: &Header, body: &[u8]) -> Vec<(Header, Vec<u8>)> {
        self.guest.send(header, body);
        self.settle();
        self.guest.transmit.used();
        self.guest.packets(true)
    }

    /// A connection made by the host and accepted by the guest: the stream and the host's port.
    fn connected(&mut self, guest_port: u32) -> (UnixStream, u32) {
        let stream = self.host.connect(guest_port);
        self.settle();
        let packets = self.guest.packets(true);
        assert_eq!(ops(&packets), [Operation::Request]);
        let host_port = packets[0].0.src_port;
        assert_eq!(packets[0].0.dst_port, guest_port);
        let answer = self.exchange(&packet(Operation::Response, host_port, guest_port), &[]);
        assert_eq!(ops(&answer), []);
        (stream, host_port)
    }

    /// A connection made by the guest.
    fn dialled(&mut self, host_port: u32, guest_port: u32) -> UnixStream {
        let answer = self.exchange(&packet(Operation::Request, host_port, guest_port), &[]);
        assert_eq!(ops(&answer), [Operation::Response]);
        let (port, stream) = self.host.accept().unwrap();
        assert_eq!(port, host_port);
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }
}

fn ops(packets: &[(Header, Vec<u8>)]) -> Vec<Operation> {
    packets.iter().map(|(header, _)| Operation::parse(header.op).unwrap()).collect()
}

fn data(header: Header, body: &[u8]) -> Header {
    Header { len: u32::try_from(body.len()).unwrap(), ..header }
}
