//! Streams between the host and the guest's server.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use machine::vsock::{decode_port, encode_port};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

const MIB: usize = 1 << 20;
const LARGE: usize = 100 * MIB;

/// Connects to a port of the guest.
pub(crate) fn connect(channel: &OwnedFd, port: u32) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().expect("socketpair");
    let rights = [theirs.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&rights));
    let datagram = encode_port(port);
    rustix::net::sendmsg(channel, &[IoSlice::new(&datagram)], &mut ancillary, SendFlags::empty()).expect("channel");
    ours.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
    ours.set_write_timeout(Some(Duration::from_secs(30))).expect("timeout");
    ours
}

/// Takes a connection that the guest made.
fn accept(channel: &OwnedFd) -> (u32, UnixStream) {
    let mut bytes = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(channel, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags).expect("channel");
    let stream = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    (decode_port(&bytes).expect("port"), UnixStream::from(stream.expect("stream")))
}

/// All that is asked of vsock.
pub(crate) fn drive(channel: &OwnedFd) {
    nobody_listens(channel);
    timed("100 MiB to the guest", || sink(channel, LARGE));
    timed("100 MiB from the guest", || source(channel, LARGE));
    timed("100 MiB echoed", || echo(&mut connect(channel, 1000), LARGE));
    timed("4 streams of 25 MiB echoed at once", || {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| echo(&mut connect(channel, 1000), LARGE / 4));
            }
        });
    });
    timed("guest connects, 25 MiB echoed", || {
        connect(channel, 1003).write_all(&5555u32.to_le_bytes()).expect("port");
        let (port, mut stream) = accept(channel);
        assert_eq!(port, 5555);
        echo(&mut stream, LARGE / 4);
    });
    timed("500 short connections", || (0..500).for_each(|_| echo(&mut connect(channel, 1000), 100)));
}

fn nobody_listens(channel: &OwnedFd) {
    let count = connect(channel, 99).read(&mut [0; 1]).expect("an end, not a timeout");
    assert_eq!(count, 0, "nobody listens there");
}

fn sink(channel: &OwnedFd, size: usize) {
    let mut stream = connect(channel, 1001);
    let block = vec![7; MIB];
    (0..size / MIB).for_each(|_| stream.write_all(&block).expect("write"));
    stream.shutdown(Shutdown::Write).expect("half-close");
    let mut count = [0; 8];
    stream.read_exact(&mut count).expect("the count, after our half-close");
    assert_eq!(u64::from_le_bytes(count), size as u64);
    assert_eq!(stream.read(&mut count).expect("end"), 0);
}

fn source(channel: &OwnedFd, size: usize) {
    let mut stream = connect(channel, 1002);
    stream.write_all(&(size as u64).to_le_bytes()).expect("count");
    let mut block = vec![0; MIB];
    let mut total = 0;
    loop {
        match stream.read(&mut block).expect("read") {
            0 => break,
            count => total += count,
        }
    }
    assert_eq!(total, size);
}

fn echo(stream: &mut UnixStream, size: usize) {
    let mut writer = stream.try_clone().expect("clone");
    let pattern = |at: usize| u8::try_from(at % 251).expect("small");
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut at = 0;
            while at < size {
                let block: Vec<u8> = (at..size.min(at + MIB)).map(pattern).collect();
                writer.write_all(&block).expect("write");
                at += block.len();
            }
            writer.shutdown(Shutdown::Write).expect("half-close");
        });
        let mut block = vec![0; MIB];
        let mut at = 0;
        loop {
            let count = stream.read(&mut block).expect("read");
            if count == 0 {
                break;
            }
            let same = block[..count].iter().enumerate().all(|(index, byte)| *byte == pattern(at + index));
            assert!(same, "bytes changed after {at}");
            at += count;
        }
        assert_eq!(at, size);
    });
}

fn timed(what: &str, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    println!("{what}: {:.2?}", start.elapsed());
}
