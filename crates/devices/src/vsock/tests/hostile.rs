//! What a guest may try.

use std::io::{ErrorKind, Read};

use super::super::packet::{PAYLOAD_MAX, shutdown};
use super::*;
use crate::testing::eventually;

/// What a packet does to an established connection: is it there afterwards, and what is answered.
#[test]
fn wrong_packets_on_a_connection_end_it() {
    let body = [0; 64];
    type Case = (&'static str, fn(Header) -> Header, bool, &'static [Operation]);
    let cases: [Case; 18] = [
        ("length beyond the payload", |h| Header { len: 65, ..h }, false, &[Operation::Reset]),
        ("length at the end of numbers", |h| Header { len: u32::MAX, ..h }, false, &[Operation::Reset]),
        ("length short of the payload", |h| Header { len: 1, ..h }, true, &[]),
        ("length zero", |h| Header { len: 0, ..h }, true, &[]),
        ("operation 0", |h| Header { op: 0, ..h }, false, &[Operation::Reset]),
        ("operation 8", |h| Header { op: 8, ..h }, false, &[Operation::Reset]),
        ("operation 65535", |h| Header { op: u16::MAX, ..h }, false, &[Operation::Reset]),
        ("type 0", |h| Header { kind: 0, ..h }, false, &[Operation::Reset]),
        ("seqpacket, which was not offered", |h| Header { kind: 2, ..h }, false, &[Operation::Reset]),
        ("request again", |h| Header { op: 1, ..h }, false, &[Operation::Reset]),
        ("response again", |h| Header { op: 2, ..h }, false, &[Operation::Reset]),
        ("reset", |h| Header { op: 3, ..h }, false, &[]),
        ("shutdown of nothing", |h| Header { op: 4, flags: 0, ..h }, true, &[]),
        ("shutdown of both", |h| Header { op: 4, flags: 3, ..h }, false, &[Operation::Reset]),
        ("shutdown of unknown things", |h| Header { op: 4, flags: 0xffff_fffc, ..h }, true, &[]),
        ("someone else's cid", |h| Header { src_cid: 4, ..h }, true, &[]),
        ("the host's cid", |h| Header { src_cid: 2, ..h }, true, &[]),
        ("to another cid", |h| Header { dst_cid: u64::MAX, ..h }, true, &[]),
    ];
    for (what, change, stays, answer) in cases {
        let mut rig = Rig::new();
        let (_stream, host_port) = rig.connected(1000);
        let header = change(data(packet(Operation::Data, host_port, 1000), &body));
        assert_eq!(ops(&rig.exchange(&header, &body)), answer, "{what}");
        assert_eq!(rig.engine.connections(), usize::from(stays), "{what}");
    }
}

#[test]
fn packets_of_no_connection_are_reset() {
    let mut rig = Rig::new();
    for op in [Operation::Response, Operation::Shutdown, Operation::Data, Operation::CreditUpdate] {
        let answer = rig.exchange(&packet(op, 5, 6), &[]);
        assert_eq!(ops(&answer), [Operation::Reset], "{op:?}");
        assert_eq!((answer[0].0.src_port, answer[0].0.dst_port), (5, 6));
    }
    assert_eq!(rig.exchange(&packet(Operation::Reset, 5, 6), &[]), [], "a reset is not answered");
    let wrong = Header { op: 99, ..packet(Operation::Data, 5, 6) };
    assert_eq!(ops(&rig.exchange(&wrong, &[])), [Operation::Reset]);
    let seqpacket = Header { kind: 2, ..packet(Operation::Request, 5, 6) };
    assert_eq!(ops(&rig.exchange(&seqpacket, &[])), [Operation::Reset]);
    assert!(rig.host.accept().is_none());
}

#[test]
fn data_before_the_answer_is_reset() {
    let mut rig = Rig::new();
    let mut stream = rig.host.connect(1000);
    rig.settle();
    let host_port = rig.guest.packets(true)[0].0.src_port;
    assert_eq!(ops(&rig.exchange(&packet(Operation::Data, host_port, 1000), &[])), [Operation::Reset]);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn data_beyond_credit_is_reset() {
    let mut rig = Rig::new();
    let (_stream, host_port) = rig.connected(1000);
    let body = vec![0; PAYLOAD_MAX];
    // The host never reads: its socket's buffer and the backlog fill up.
    let header = data(packet(Operation::Data, host_port, 1000), &body);
    let mut packets = 0;
    while rig.exchange(&header, &body).iter().all(|(answer, _)| answer.op != Operation::Reset as u16) {
        packets += 1;
        assert!(packets < 32, "2 MiB were taken");
    }
    assert_eq!(rig.engine.connections(), 0);
}

#[test]
fn data_after_shutdown_is_reset() {
    let mut rig = Rig::new();
    let (_stream, host_port) = rig.connected(1000);
    let close = Header { flags: shutdown::SEND, ..packet(Operation::Shutdown, host_port, 1000) };
    assert_eq!(rig.exchange(&close, &[]), []);
    let header = data(packet(Operation::Data, host_port, 1000), b"x");
    assert_eq!(ops(&rig.exchange(&header, b"x")), [Operation::Reset]);
}

#[test]
fn oversized_and_headless_packets_do_nothing() {
    let mut rig = Rig::new();
    let (_stream, host_port) = rig.connected(1000);
    let body = vec![0; PAYLOAD_MAX + 1];
    let header = data(packet(Operation::Data, host_port, 1000), &body);
    assert_eq!(ops(&rig.exchange(&header, &body)), [Operation::Reset]);
    for parts in [vec![(SEND, 43, false)], vec![(SEND, 44, true)], vec![(SEND, 0, false)], vec![(u64::MAX, 44, false)]]
    {
        let head = rig.guest.transmit.chain(&parts);
        rig.settle();
        assert_eq!(rig.guest.transmit.used(), [(u32::from(head), 0)]);
    }
    assert_eq!(rig.guest.packets(true), []);
}

#[test]
fn a_split_header_is_read_as_one() {
    let mut rig = Rig::new();
    put(&rig.guest.transmit.memory, SEND, &packet(Operation::Request, 9, 10).encode());
    rig.guest.transmit.chain(&[(SEND, 1, false), (SEND + 1, 30, false), (SEND + 31, 13, false)]);
    rig.settle();
    assert_eq!(ops(&rig.guest.packets(true)), [Operation::Response]);
}

#[test]
fn a_flood_of_connections_is_bounded() {
    let mut rig = Rig::new();
    let (mut opened, mut refused) = (Vec::new(), 0);
    for port in 0..3000 {
        match ops(&rig.exchange(&packet(Operation::Request, 1, port), &[]))[..] {
            [Operation::Response] => opened.push(rig.host.accept().unwrap()),
            [Operation::Reset] => refused += 1,
            ref other => panic!("{other:?}"),
        }
    }
    // Few descriptors may be allowed to this process: then there are fewer connections, and no worse.
    assert!(opened.len() <= CONNECTIONS_MAX && refused + opened.len() == 3000);
    assert_eq!(rig.engine.connections(), opened.len());
    let closed = rig.exchange(&packet(Operation::Reset, 1, 0), &[]);
    assert_eq!(closed, []);
    opened.remove(0);
    assert_eq!(ops(&rig.exchange(&packet(Operation::Request, 1, 5000), &[])), [Operation::Response], "room again");
}

#[test]
fn a_full_or_closed_channel_resets_the_guest() {
    let mut rig = Rig::new();
    let mut ports = 0..;
    // The host never accepts: at some point its queue is full.
    let full = ports.find(|port| ops(&rig.exchange(&packet(Operation::Request, 1, *port), &[])) == [Operation::Reset]);
    assert!(full < Some(2000));
    let (host, channel) = Host::new();
    rig.engine = Engine::new(u64::from(GUEST_CID), channel).unwrap();
    drop(host);
    assert_eq!(ops(&rig.exchange(&packet(Operation::Request, 1, 70_000), &[])), [Operation::Reset]);
}

#[test]
fn a_guest_that_takes_no_resets_is_not_listened_to() {
    let mut rig = Rig::new();
    let mut taken = 0;
    for port in 0..2000 {
        rig.guest.send(&packet(Operation::Data, 1, port), &[]);
        rig.settle();
        taken += rig.guest.transmit.used().len();
        if taken < usize::try_from(port).unwrap() {
            break;
        }
    }
    assert!(taken < 500, "{taken} packets, 128 receive buffers");
    rig.guest.packets(true);
    rig.settle();
    assert!(!rig.guest.packets(true).is_empty(), "listened to again");
}

#[test]
fn the_same_ports_again_are_a_new_connection_once_the_old_is_gone() {
    let mut rig = Rig::new();
    let first = rig.dialled(1, 2);
    assert_eq!(ops(&rig.exchange(&packet(Operation::Request, 1, 2), &[])), [Operation::Reset], "twice");
    assert_eq!((&first).read(&mut [0; 1]).unwrap(), 0);
    let second = rig.dialled(1, 2);
    drop(first);
    rig.settle();
    assert_eq!(rig.guest.packets(true), []);
    second.set_nonblocking(true).unwrap();
    assert_eq!((&second).read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn odd_datagrams_from_the_host_are_dropped() {
    let mut rig = Rig::new();
    let (one, two) = UnixStream::pair().unwrap();
    let (one, two) = (OwnedFd::from(one), OwnedFd::from(two));
    rig.host.send(&encode_port(5), &[]);
    rig.host.send(b"abc", &[&one]);
    rig.host.send(b"abcde", &[&one]);
    rig.host.send(&[0; 100], &[&one]);
    rig.host.send(&encode_port(5), &[&one, &two]);
    rig.settle();
    assert_eq!(rig.guest.packets(true), []);
    rig.connected(1000);
}

#[test]
fn a_reset_device_forgets_its_guest_but_not_its_words() {
    let mut rig = Rig::new();
    let (mut stream, host_port) = rig.connected(1000);
    let body = vec![5; PAYLOAD_MAX];
    for _ in 0..4 {
        rig.exchange(&data(packet(Operation::Data, host_port, 1000), &body), &body);
    }
    rig.engine.reset();
    assert_eq!(ops(&rig.exchange(&packet(Operation::Data, host_port, 1000), &[])), [Operation::Reset]);
    let mut all = 0;
    eventually("the rest", || {
        all += stream.read(&mut [0; 4096]).unwrap();
        rig.settle();
        all == 256 << 10
    });
}

proptest::proptest! {
    #[test]
    fn any_packets_leave_the_engine_whole(
        packets in proptest::collection::vec(proptest::prelude::any::<(u16, u16, u32, u32, u32, u8, u8)>(), 1..40),
    ) {
        let mut rig = Rig::new();
        let (_stream, host_port) = rig.connected(1000);
        for (op, kind, flags, buf_alloc, fwd_cnt, body, lie) in packets {
            let header = Header {
                op: op % 9,
                kind: if kind % 8 == 0 { kind } else { TYPE_STREAM },
                flags: flags % 8,
                buf_alloc,
                fwd_cnt,
                len: u32::from(body) + u32::from(lie % 16 == 0),
                ..packet(Operation::Data, if lie % 4 == 0 { u32::from(lie) } else { host_port }, 1000)
            };
            rig.exchange(&header, &vec![1; usize::from(body)]);
            while rig.host.accept().is_some() {}
        }
        proptest::prop_assert!(rig.engine.connections() <= 41);
    }
}
