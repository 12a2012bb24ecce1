//! The other end of the wire, well-behaved and otherwise.

use std::fs;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use machine::{BlockBacking, End, EndReason, FileIndex, FromMachine, MAX_MESSAGE, MachineSpec, ToMachine};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

const PANIC: &str = "[ 1.0] Kernel panic - not syncing: sysrq triggered crash\n";
const ORDERLY: &str = "[ 1.0] reboot: Restarting system\n";

/// What was received before Launch or Serve.
struct Received {
    files: Vec<OwnedFd>,
    spec: MachineSpec<FileIndex>,
    sockets: Vec<FileIndex>,
}

pub(crate) fn run(behaviour: &str) {
    match behaviour {
        // Emulators: their standard input is not a control socket.
        "exit-soon" => std::process::exit(0),
        "wait" if !has_control() => sleep(),
        _ => machine(behaviour),
    }
    std::process::exit(0);
}

fn machine(behaviour: &str) {
    let received = receive_launch();
    match behaviour {
        "report-files" => ended(EndReason::Reset, report_files(&received).as_bytes()),
        "set-up-failure" => ended(EndReason::Setup("kernel: not an ELF file".into()), b""),
        "peer-closed-panic" => ended(EndReason::PeerClosed, PANIC.as_bytes()),
        _ => {
            say(&FromMachine::Started { at: monitor::monotonic_ns() });
            started(behaviour, &received);
        }
    }
}

fn started(behaviour: &str, received: &Received) {
    match behaviour {
        "reset" => ended(EndReason::Reset, ORDERLY.as_bytes()),
        "panic" => ended(EndReason::Reset, PANIC.as_bytes()),
        "wait" => converse(),
        "hang" => sleep(),
        "spin" => loop {
            std::hint::spin_loop();
        },
        "swallow" => swallow(),
        "hang-up" => {
            rustix::stdio::dup2_stdin(fs::File::open("/dev/null").unwrap()).unwrap();
            sleep();
        }
        "serve" => serve(received),
        "garbage" => {
            send(b"\xff\xff\xff", &[]);
            sleep();
        }
        "too-long" => {
            // The socket's buffer takes more than a message may have.
            send(&vec![0; MAX_MESSAGE + 1], &[]);
            sleep();
        }
        "message-with-a-file" => {
            let file = fs::File::open("/dev/null").unwrap();
            send(&machine::encode(&FromMachine::KernelLog(vec![])).unwrap(), &[file.as_fd()]);
            sleep();
        }
        "flood-of-logs" => loop {
            say(&FromMachine::KernelLog(vec![b'x'; 1000]));
        },
        "flood-of-stderr" => {
            let line = [b'x'; 999];
            for _ in 0..5000 {
                std::io::stderr().write_all(&line).unwrap();
            }
            std::io::stderr().write_all(b"the end\n").unwrap();
            ended(EndReason::Reset, ORDERLY.as_bytes());
        }
        "echo" => echo(received),
        other => panic!("unknown behaviour {other}"),
    }
}

/// Takes and touches memory for ever, at a bearable speed.
fn swallow() {
    let mut taken = Vec::new();
    for round in 0..4096_u32 {
        taken.push(vec![u8::try_from(round % 255).unwrap() + 1; 1 << 20]);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(taken.len(), 4096);
}

fn sleep() {
    std::thread::sleep(Duration::from_secs(60));
}

/// Answers until told to stop.
fn converse() {
    let mut asked = 0;
    loop {
        match receive().map(|(message, _)| message) {
            Some(ToMachine::KernelLog) => {
                asked += 1;
                say(&FromMachine::KernelLog(format!("log {asked}").into_bytes()));
            }
            Some(ToMachine::Stop) | None => return ended(EndReason::Stopped, b"log"),
            Some(other) => panic!("unexpected {other:?}"),
        }
    }
}

/// Ends when the emulator closes its device sockets, or when told to.
fn serve(received: &Received) {
    use rustix::event::{PollFd, PollFlags};
    let mut fds: Vec<_> =
        received.sockets.iter().map(|index| PollFd::new(&received.files[*index as usize], PollFlags::IN)).collect();
    let stdin = std::io::stdin();
    fds.push(PollFd::new(&stdin, PollFlags::IN));
    rustix::event::poll(&mut fds, None).unwrap();
    let told = !fds.last().unwrap().revents().is_empty();
    ended(if told { EndReason::Stopped } else { EndReason::PeerClosed }, b"[ 1.0] booted\n");
}

fn echo(received: &Received) {
    let channel = &received.files[received.spec.vsock.channel.unwrap() as usize];
    let (ours, theirs) = UnixStream::pair().unwrap();
    send_on(channel, &machine::vsock::encode_port(1024), &[theirs.as_fd()]);
    drop(theirs);
    (&ours).write_all(b"hello from the guest").unwrap();
    drop(ours);
    let (datagram, mut files) = receive_on(channel).unwrap();
    assert_eq!(machine::vsock::decode_port(&datagram), Some(7));
    let mut stream = UnixStream::from(files.pop().unwrap());
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    stream.write_all(&text).unwrap();
    drop(stream);
    converse();
}

fn report_files(received: &Received) -> String {
    let text = |index: FileIndex| {
        let mut file = fs::File::open(format!("/proc/self/fd/{}", received.files[index as usize].as_raw_fd())).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    };
    let spec = &received.spec;
    let mut report = format!("kernel={} initrd={}", text(spec.kernel), text(spec.initrd));
    for disk in &spec.disks {
        let file = match &disk.backing {
            BlockBacking::ReadOnly { extents } => extents.last().unwrap().file,
            BlockBacking::Writable { file } | BlockBacking::Shared { file } => *file,
        };
        report.push_str(&format!(" {}={}", disk.id.0, text(file)));
    }
    let channel = &received.files[spec.vsock.channel.unwrap() as usize];
    let is_socket = rustix::net::sockopt::socket_type(channel) == Ok(rustix::net::SocketType::SEQPACKET);
    report.push_str(if is_socket { " channel=socket" } else { " channel=?" });
    report
}

fn receive_launch() -> Received {
    let mut files = Vec::new();
    loop {
        match receive().expect("the monitor speaks") {
            (ToMachine::Files { count }, received) => {
                assert_eq!(received.len(), count as usize);
                files.extend(received);
            }
            (ToMachine::Launch { spec }, _) => return Received { files, spec, sockets: Vec::new() },
            (ToMachine::Serve { spec, sockets }, _) => return Received { files, spec, sockets },
            (other, _) => panic!("unexpected {other:?}"),
        }
    }
}

fn has_control() -> bool {
    rustix::net::sockopt::socket_type(std::io::stdin()).is_ok()
}

fn ended(reason: EndReason, kernel_log: &[u8]) {
    say(&FromMachine::Ended(End { reason, at: monitor::monotonic_ns(), kernel_log: kernel_log.to_vec() }));
}

fn say(message: &FromMachine) {
    send(&machine::encode(message).unwrap(), &[]);
}

fn send(bytes: &[u8], files: &[BorrowedFd<'_>]) {
    send_on(&std::io::stdin(), bytes, files);
}

fn send_on(socket: &impl AsFd, bytes: &[u8], files: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(files)));
    }
    if rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).is_err() {
        std::process::exit(0);
    }
}

fn receive() -> Option<(ToMachine, Vec<OwnedFd>)> {
    let (datagram, files) = receive_on(&std::io::stdin())?;
    Some((machine::decode(&datagram).unwrap(), files))
}

fn receive_on(socket: &impl AsFd) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = vec![0; MAX_MESSAGE];
    let received =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .ok()?;
    let mut files = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    buffer.truncate(received.bytes);
    (received.bytes > 0).then_some((buffer, files))
}
