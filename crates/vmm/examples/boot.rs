//! Boots a kernel by hand: plays the monitor for `coracle-vmm machine` and prints what comes of it.
//!
//!     boot VMM KERNEL INITRD [option=value …]
//!
//! Options: `memory=MIB`, `vcpus=N`, `cmdline=WORDS`, `console=FILE`, `scratch=FILE` (a writable disk), `root=FILE`
//! (a read-only disk), `stop=MS` (stop it after that), `echo=1` (echo what the guest sends over vsock), `log=0` (no
//! kernel log), `timed=0` (do not wait for the start: the set-up may fail), `rss=1` (the process's memory at the end
//! of `stop`).

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use machine::{BlockBacking, Disk, EndReason, Extent, ToMachine};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use support::{Monitor, Parts};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [vmm, kernel, initrd, options @ ..] = arguments.as_slice() else {
        eprintln!("usage: boot VMM KERNEL INITRD [option=value …]");
        return ExitCode::from(2);
    };
    let mut parts = Parts::new(File::open(kernel).unwrap(), File::open(initrd).unwrap());
    parts.spec.memory_mib = 256;
    let run = apply(&mut parts, options);
    let began = Instant::now();
    let mut monitor = Monitor::start(Path::new(vmm), "machine", Stdio::inherit());
    let clock = vmm::monotonic_ns();
    monitor.launch(&parts.spec, &parts.files);
    let vsock = parts.vsock;
    if run.echo {
        std::thread::spawn(move || {
            while let Some(stream) = accept(&vsock) {
                echo(stream);
            }
        });
    }
    if run.timed {
        println!("vCPUs run after {:.2} ms", since(clock, monitor.started()));
    }
    if let Some(delay) = run.stop {
        std::thread::sleep(delay);
        if run.rss {
            report_memory(monitor.process.id());
        }
        monitor.send(&ToMachine::Stop, &[]);
    }
    let (end, status) = monitor.ended();
    println!(
        "ended {:?} at {:.2} ms, exited ({status}) at {:.2} ms",
        end.reason,
        since(clock, end.at),
        began.elapsed().as_secs_f64() * 1e3
    );
    if run.log {
        println!("{}", String::from_utf8_lossy(&end.kernel_log));
    }
    if matches!(end.reason, EndReason::Reset | EndReason::Stopped) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Milliseconds between two readings of the monotonic clock.
fn since(earlier: u64, later: u64) -> f64 {
    Duration::from_nanos(later.saturating_sub(earlier)).as_secs_f64() * 1e3
}

struct Run {
    timed: bool,
    stop: Option<Duration>,
    echo: bool,
    log: bool,
    rss: bool,
}

fn apply(parts: &mut Parts, options: &[String]) -> Run {
    let mut run = Run { timed: true, stop: None, echo: false, log: true, rss: false };
    for option in options {
        let (name, value) = option.split_once('=').expect("options have the form name=value");
        match name {
            "memory" => parts.spec.memory_mib = value.parse().unwrap(),
            "vcpus" => parts.spec.vcpus = value.parse().unwrap(),
            "cmdline" => parts.spec.cmdline = value.into(),
            "console" => {
                let file = OpenOptions::new().create(true).append(true).open(value).unwrap();
                parts.spec.console = Some(parts.add(file));
            }
            "scratch" => {
                let file = parts.add(OpenOptions::new().read(true).write(true).open(value).unwrap());
                let backing = BlockBacking::Writable { file };
                parts.spec.disks.push(Disk::new("scratch", backing));
            }
            "root" => {
                let file = File::open(value).unwrap();
                let length = file.metadata().unwrap().len().next_multiple_of(4096);
                let extents = vec![Extent { file: parts.add(file), offset: 0, length }];
                parts.spec.disks.push(Disk::new("root", BlockBacking::ReadOnly { extents }));
            }
            "stop" => run.stop = Some(Duration::from_millis(value.parse().unwrap())),
            "echo" => run.echo = value == "1",
            "timed" => run.timed = value == "1",
            "log" => run.log = value == "1",
            "rss" => run.rss = value == "1",
            _ => panic!("there is no option {name}"),
        }
    }
    run
}

fn accept(vsock: &OwnedFd) -> Option<UnixStream> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut port = [0; 8];
    let buffers = &mut [std::io::IoSliceMut::new(&mut port)];
    let received = recvmsg(vsock, buffers, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    println!("the guest connected to port {:?}", machine::vsock::decode_port(&port[..received.bytes])?);
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next().map(UnixStream::from),
        _ => None,
    })
}

fn echo(mut stream: UnixStream) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
    });
}

/// What the process costs beyond guest pages, which are the two largest private mappings.
fn report_memory(pid: u32) {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut mappings: Vec<(u64, u64)> = Vec::new();
    for line in rollup.lines() {
        let mut words = line.split_whitespace();
        let (name, value) = (words.next().unwrap_or(""), words.next().and_then(|word| word.parse().ok()));
        match (name, value) {
            ("Size:", Some(size)) => mappings.push((size, 0)),
            ("Rss:", Some(rss)) => mappings.last_mut().unwrap().1 = rss,
            _ => {}
        }
    }
    let guest = mappings.iter().filter(|(size, _)| *size >= 16 << 10).map(|(_, rss)| rss).sum::<u64>();
    let total = mappings.iter().map(|(_, rss)| rss).sum::<u64>();
    println!("memory: {guest} KiB of guest pages, {} KiB beyond", total - guest);
}
