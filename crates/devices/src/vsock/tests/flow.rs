//! What streams may rely on.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use super::super::packet::shutdown;
use super::*;

#[test]
fn bytes_go_both_ways() {
    let mut rig = Rig::new();
    let (mut stream, host_port) = rig.connected(1000);
    stream.write_all(b"question").unwrap();
    rig.settle();
    let packets = rig.guest.packets(true);
    assert_eq!(ops(&packets), [Operation::Data]);
    assert_eq!(packets[0].1, b"question");
    let header = data(packet(Operation::Data, host_port, 1000), b"answer");
    assert_eq!(rig.exchange(&header, b"answer"), []);
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
}

#[test]
fn the_guest_connects() {
    let mut rig = Rig::new();
    let mut stream = rig.dialled(77, 4000);
    stream.write_all(b"hi").unwrap();
    rig.settle();
    assert_eq!(rig.guest.packets(true)[0].1, b"hi");
}

#[test]
fn nobody_listening_closes_the_stream() {
    let mut rig = Rig::new();
    let mut stream = rig.host.connect(1000);
    rig.settle();
    let host_port = rig.guest.packets(true)[0].0.src_port;
    assert_eq!(rig.exchange(&packet(Operation::Reset, host_port, 1000), &[]), []);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(rig.engine.connections(), 0);
}

#[test]
fn a_half_close_comes_after_all_data_to_the_guest() {
    let mut rig = Rig::new();
    let (mut stream, host_port) = rig.connected(1000);
    stream.write_all(&[7; 100_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    rig.settle();
    let packets = rig.guest.packets(true);
    let (last, before) = packets.split_last().unwrap();
    assert_eq!(before.iter().map(|(_, body)| body.len()).sum::<usize>(), 100_000);
    assert_eq!((last.0.op, last.0.flags), (Operation::Shutdown as u16, shutdown::SEND));
    let header = data(packet(Operation::Data, host_port, 1000), b"still there");
    rig.exchange(&header, b"still there");
    let mut answer = [0; 11];
    stream.read_exact(&mut answer).unwrap();
}

#[test]
fn a_half_close_comes_after_all_data_to_the_host() {
    let mut rig = Rig::new();
    let (mut stream, host_port) = rig.connected(1000);
    let body = [7; 32 << 10];
    for _ in 0..8 {
        rig.exchange(&data(packet(Operation::Data, host_port, 1000), &body), &body);
    }
    let close = Header { flags: shutdown::SEND, ..packet(Operation::Shutdown, host_port, 1000) };
    assert_eq!(rig.exchange(&close, &[]), []);
    let mut all = 0;
    loop {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        all += count;
        rig.settle();
    }
    assert_eq!(all, 256 << 10);
    stream.write_all(b"and back").unwrap();
    rig.settle();
    assert!(rig.guest.packets(true).iter().any(|(_, body)| body == b"and back"));
}

#[test]
fn a_guest_that_closes_is_answered_and_its_data_kept() {
    let mut rig = Rig::new();
    let (mut stream, host_port) = rig.connected(1000);
    let body = [7; 64 << 10];
    for _ in 0..4 {
        rig.exchange(&data(packet(Operation::Data, host_port, 1000), &body), &body);
    }
    let close = Header { flags: shutdown::BOTH, ..packet(Operation::Shutdown, host_port, 1000) };
    assert_eq!(ops(&rig.exchange(&close, &[])), [Operation::Reset]);
    assert_eq!(rig.engine.connections(), 1, "an orphan with a backlog");
    let mut all = 0;
    let mut buffer = [0; 65536];
    loop {
        let count = stream.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        all += count;
        rig.settle();
    }
    assert_eq!(all, 256 << 10);
    assert_eq!(rig.engine.connections(), 0);
}

#[test]
fn a_host_that_closes_says_so_after_its_data() {
    let mut rig = Rig::new();
    let mut stream = rig.host.connect(1000);
    stream.write_all(b"last words").unwrap();
    drop(stream);
    rig.settle();
    let packets = rig.guest.packets(true);
    assert_eq!(ops(&packets), [Operation::Request], "written before the guest answered, and not lost");
    let host_port = packets[0].0.src_port;
    let packets = rig.exchange(&packet(Operation::Response, host_port, 1000), &[]);
    assert_eq!(packets.iter().flat_map(|(_, body)| body.clone()).collect::<Vec<_>>(), b"last words");
    assert_eq!(packets.last().unwrap().0.flags, shutdown::BOTH);
    assert_eq!(rig.exchange(&packet(Operation::Reset, host_port, 1000), &[]), []);
    assert_eq!(rig.engine.connections(), 0);
}

#[test]
fn a_guest_that_will_not_receive_is_not_sent_to() {
    let mut rig = Rig::new();
    let (mut stream, host_port) = rig.connected(1000);
    let close = Header { flags: shutdown::RECEIVE, ..packet(Operation::Shutdown, host_port, 1000) };
    assert_eq!(rig.exchange(&close, &[]), []);
    assert_eq!(stream.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    rig.exchange(&data(packet(Operation::Data, host_port, 1000), b"out"), b"out");
    let mut answer = [0; 3];
    stream.read_exact(&mut answer).unwrap();
}

#[test]
fn the_guest_gets_no_more_than_its_credit() {
    let mut rig = Rig::new();
    let (mut stream, host_port) = rig.connected(1000);
    let update = |buf_alloc, fwd_cnt| Header { buf_alloc, fwd_cnt, ..packet(Operation::CreditUpdate, host_port, 1000) };
    rig.exchange(&update(5000, 0), &[]);
    stream.write_all(&[1; 20_000]).unwrap();
    let count = |packets: Vec<(Header, Vec<u8>)>| packets.iter().map(|(_, body)| body.len()).sum::<usize>();
    rig.settle();
    assert_eq!(count(rig.guest.packets(true)), 5000);
    assert_eq!(count(rig.exchange(&update(5000, 1), &[])), 1);
    assert_eq!(count(rig.exchange(&update(0, 5001), &[])), 0, "no buffer at all");
    assert_eq!(count(rig.exchange(&update(5000, u32::MAX), &[])), 0, "more forwarded than ever sent");
    assert_eq!(count(rig.exchange(&update(u32::MAX, 5001), &[])), 14_999, "a buffer without end");
}

#[test]
fn the_guest_is_told_of_its_credit() {
    let mut rig = Rig::new();
    let (mut stream, host_port) = rig.connected(1000);
    let asked = rig.exchange(&packet(Operation::CreditRequest, host_port, 1000), &[]);
    assert_eq!(ops(&asked), [Operation::CreditUpdate]);
    assert_eq!((asked[0].0.buf_alloc, asked[0].0.fwd_cnt), (256 << 10, 0));
    let body = [7; 64 << 10];
    let mut told = Vec::new();
    for _ in 0..4 {
        told.extend(rig.exchange(&data(packet(Operation::Data, host_port, 1000), &body), &body));
    }
    for _ in 0..50 {
        stream.read_exact(&mut [0; 4000]).unwrap();
        rig.settle();
        told.extend(rig.guest.packets(true));
    }
    let forwarded = told.iter().map(|(header, _)| header.fwd_cnt).max();
    assert!(forwarded >= Some(128 << 10), "{forwarded:?}");
    assert!(told.len() <= 3, "a few updates are enough: {}", told.len());
}

#[test]
fn withheld_receive_buffers_hold_the_host_back() {
    let mut rig = Rig::new();
    let (mut stream, host_port) = rig.connected(1000);
    let much = Header { buf_alloc: 1 << 30, ..packet(Operation::CreditUpdate, host_port, 1000) };
    rig.exchange(&much, &[]);
    stream.set_nonblocking(true).unwrap();
    let mut taken = 0;
    // The guest never gives a buffer back.
    for _ in 0..64 {
        match stream.write(&[1; 64 << 10]) {
            Ok(count) => taken += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        rig.settle();
        rig.guest.packets(false);
    }
    assert!(taken < 1 << 20, "{taken} bytes went nowhere");
    rig.guest.offer(128);
    rig.settle();
    assert!(!rig.guest.packets(false).is_empty(), "and it goes on");
}

#[test]
fn small_and_odd_receive_buffers_are_used_or_given_back() {
    let mut rig = Rig::new();
    let (mut stream, _) = rig.connected(1000);
    stream.write_all(&[1; 4096]).unwrap();
    let taken = rig.guest.receive.used().len();
    assert_eq!(taken, 0);
    rig.settle();
    let body: usize = rig.guest.packets(false).iter().map(|(_, body)| body.len()).sum();
    assert_eq!(body, 4096);
    // Now only buffers of odd sizes: a header alone, one byte more, nothing like it.
    let (host, channel) = Host::new();
    let guest = Guest::new();
    let queues = [guest.receive.queue(), guest.transmit.queue()];
    let mut rig = Rig { host, engine: Engine::new(u64::from(GUEST_CID), channel).unwrap(), guest, queues };
    rig.guest.offer_one(44);
    rig.guest.offer_one(1);
    rig.guest.offer_one(45);
    drop(rig.host.connect(1000));
    rig.settle();
    assert_eq!(rig.guest.receive.used().iter().map(|used| used.1).collect::<Vec<_>>(), [0, 0, 44]);
}
