//! The process as its monitor sees it, as far as no guest runs.

mod support;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use machine::{BlockBacking, Disk, EndReason, Extent, FromMachine, ToMachine};
use support::{Monitor, Parts, file_of, probe, setup_text};

const PROGRAM: &str = env!("CARGO_BIN_EXE_coracle-vmm");

/// Orders a machine and returns the set-up error and standard error.
fn refusal(change: impl FnOnce(&mut Parts)) -> (String, String) {
    let mut parts = Parts::with_code(b"\xf4");
    change(&mut parts);
    let mut monitor = Monitor::start(Path::new(PROGRAM), "machine", Stdio::piped());
    monitor.launch(&parts.spec, &parts.files);
    let (end, status) = monitor.ended();
    assert_eq!(status.code(), Some(1));
    let mut stderr = String::new();
    monitor.process.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (setup_text(end.reason), stderr)
}

fn disk(id: &str, file: u32, offset: u64, length: u64) -> Disk<u32> {
    Disk::new(id, BlockBacking::ReadOnly { extents: vec![Extent { file, offset, length }] })
}

#[test]
fn refusals_name_the_object_on_the_socket_and_on_standard_error() {
    let (text, stderr) = refusal(|parts| parts.spec.vcpus = 0);
    assert_eq!(text, "0 vCPUs are not between 1 and 254");
    assert_eq!(stderr, format!("coracle-vmm: {text}\n"));
}

#[test]
fn every_part_of_a_spec_is_checked() {
    type Change = fn(&mut Parts);
    let cases: [(Change, &str); 9] = [
        (|parts| parts.spec.vcpus = 255, "255 vCPUs"),
        (|parts| parts.spec.memory_mib = 1, "guest memory of 1024 KiB"),
        (|parts| parts.spec.kernel_log.address = 40 << 20, "reserved range"),
        (|parts| parts.spec.kernel = 77, "kernel is file 77, and 3 were sent"),
        (|parts| parts.spec.disks = vec![disk("root", 9, 0, 4096)], "disk \"root\" is file 9"),
        (|parts| parts.spec.disks = vec![disk("root", 0, 100, 4096)], "disk \"root\": extent 0 at 100"),
        (|parts| parts.spec.disks = vec![disk("root", 0, 0, 4096); 2], "two disks are called \"root\""),
        (|parts| parts.spec.disks = (0..15).map(|n| disk(&format!("d{n}"), 0, 0, 4096)).collect(), "15 disks"),
        (|parts| parts.spec.cmdline = "a\nb".into(), "kernel command line: byte 1"),
    ];
    for (change, expected) in cases {
        let (text, _) = refusal(change);
        assert!(text.starts_with(expected), "{text:?} is not about {expected:?}");
    }
}

#[test]
fn a_conversation_that_makes_no_sense_ends() {
    let mut monitor = Monitor::start(Path::new(PROGRAM), "machine", Stdio::null());
    monitor.send(&ToMachine::KernelLog, &[]);
    assert_eq!(setup_text(monitor.ended().0.reason), "the monitor sent KernelLog out of order");

    let mut monitor = Monitor::start(Path::new(PROGRAM), "machine", Stdio::null());
    rustix::net::send(&monitor.socket, b"\xff\xff", rustix::net::SendFlags::empty()).unwrap();
    assert!(setup_text(monitor.ended().0.reason).starts_with("a datagram from the monitor is not a message"));

    let parts = Parts::with_code(b"\xf4");
    let mut monitor = Monitor::start(Path::new(PROGRAM), "devices", Stdio::null());
    monitor.launch(&parts.spec, &parts.files);
    assert_eq!(setup_text(monitor.ended().0.reason), "the monitor sent Launch out of order");
}

#[test]
fn a_monitor_that_goes_away_leaves_nothing() {
    for job in ["machine", "devices"] {
        let mut monitor = Monitor::start(Path::new(PROGRAM), job, Stdio::null());
        let (other, _) = support::seqpacket();
        monitor.socket = other;
        assert_eq!(monitor.exited().code(), Some(1));
    }
}

#[test]
fn devices_need_a_socket_each() {
    let mut parts = Parts::with_code(b"\xf4");
    parts.spec.disks = vec![disk("root", 0, 0, 4096)];
    let mut monitor = Monitor::start(Path::new(PROGRAM), "devices", Stdio::null());
    let files: Vec<_> = parts.files.iter().map(AsFd::as_fd).collect();
    monitor.send(&ToMachine::Files { count: 3 }, &files);
    monitor.send(&ToMachine::Serve { spec: parts.spec, sockets: vec![2] }, &[]);
    assert_eq!(setup_text(monitor.ended().0.reason), "1 sockets for 2 devices");
}

/// A process that serves a disk and vsock, and the peer's ends of their sockets.
fn serving() -> (Monitor, Vec<UnixStream>) {
    let mut parts = Parts::with_code(b"\xf4");
    let file = parts.add(file_of(&[0; 4096]));
    parts.spec.disks = vec![disk("root", file, 0, 4096)];
    let (peers, sockets): (Vec<_>, Vec<_>) = (0..2).map(|_| UnixStream::pair().unwrap()).unzip();
    let sockets: Vec<_> = sockets.into_iter().map(|socket| parts.add(socket)).collect();
    let monitor = Monitor::start(Path::new(PROGRAM), "devices", Stdio::inherit());
    let files: Vec<_> = parts.files.iter().map(AsFd::as_fd).collect();
    monitor.send(&ToMachine::Files { count: u32::try_from(files.len()).unwrap() }, &files);
    monitor.send(&ToMachine::Serve { spec: parts.spec.clone(), sockets }, &[]);
    monitor.started();
    (monitor, peers)
}

#[test]
fn devices_end_with_the_emulator() {
    let (mut monitor, peers) = serving();
    drop(peers);
    let (end, status) = monitor.ended();
    assert_eq!(end.reason, EndReason::PeerClosed);
    assert!(status.success());
}

#[test]
fn devices_stop_when_told_and_have_no_log_without_memory() {
    let (mut monitor, _peers) = serving();
    monitor.send(&ToMachine::KernelLog, &[]);
    assert_eq!(monitor.receive(), FromMachine::KernelLog(Vec::new()));
    monitor.send(&ToMachine::Stop, &[]);
    let (end, status) = monitor.ended();
    assert_eq!(end.reason, EndReason::Stopped);
    assert!(status.success());
}

#[test]
fn a_peer_that_talks_nonsense_ends_the_devices_with_what_it_was() {
    let (mut monitor, mut peers) = serving();
    peers[0].write_all(&[0xff; 64]).unwrap();
    peers[0].shutdown(std::net::Shutdown::Write).unwrap();
    let (end, status) = monitor.ended();
    assert!(matches!(end.reason, EndReason::Internal(_) | EndReason::PeerClosed), "{:?}", end.reason);
    assert!(status.success());
}

#[test]
fn the_command_line_is_understood() {
    let run = |arguments: &[&str]| Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap();
    let version = run(&["--version"]);
    assert!(version.status.success());
    assert_eq!(version.stdout, format!("coracle-vmm {}\n", env!("CARGO_PKG_VERSION")).as_bytes());
    assert!(run(&["--help"]).stdout.starts_with(b"Usage: coracle-vmm COMMAND"));
    for arguments in [&[][..], &["fly"], &["machine", "now"]] {
        assert_eq!(run(arguments).status.code(), Some(2));
    }
    let by_hand = run(&["machine"]);
    assert_eq!(by_hand.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&by_hand.stderr).contains("standard input is not the monitor's socket"));
}

#[test]
fn the_probe_says_one_line_that_agrees_with_its_status() {
    let (report, status) = probe(Path::new(PROGRAM));
    assert_eq!(report.usable, status.success());
    assert_eq!(report.usable, report.reason == machine::ProbeReason::Usable);
    assert!(!report.detail.is_empty());
}

#[test]
fn standard_input_may_be_a_file_by_mistake() {
    let output = Command::new(PROGRAM).arg("devices").stdin(file_of(b"x")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
