//! Machines whose processes are fakes: this test program itself, run again as `coracle-vmm` or as the emulator.
//!
//! A wrapper script stands in for each program. It says in `FAKE` how to behave and runs this program with the
//! one test [`fake_process`], which then speaks the machine's wire on its standard input.

mod bench;
mod confined;
mod fake;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use machine::{BlockBacking, Extent};
use monitor::{
    Accelerator, LaunchError, Machine, MachineEnd, MachineEndReason as Reason, Surroundings, Tools, VsockError, launch,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use crate::bench::{Bench, alive, gone_within, kill, open_descriptors, pids, soon, this_program};

/// Not a test: the body of the fake processes.
#[test]
fn fake_process() {
    if let Ok(behaviour) = std::env::var("FAKE") {
        fake::run(&behaviour);
    }
}

fn end(machine: &Machine) -> MachineEnd {
    machine.wait(soon()).expect("the machine ends")
}

#[test]
fn a_machine_starts_and_ends_as_it_says() {
    let bench = Bench::new();
    let machine = bench.kvm("reset");
    assert!(machine.wait_started(soon()));
    let end = end(&machine);
    assert_eq!((&end.reason, end.kernel_log.as_slice()), (&Reason::Reset, &b"[ 1.0] reboot: Restarting system\n"[..]));
    let timings = machine.timings();
    let started = timings.started.unwrap();
    assert!(timings.spawned <= started && started <= end.at && timings.ended == Some(end.at), "{timings:?}");
    assert_eq!(machine.kernel_log().unwrap(), end.kernel_log);
    assert_eq!(machine.stop(), end);
}

#[test]
fn every_file_arrives_in_order_however_many() {
    let bench = Bench::new();
    let tools = Tools { vmm: bench.fake("vmm", "report-files"), emulator: None };
    for extents in [1, 600] {
        let mut spec = bench.spec();
        let extent = Extent { file: bench.path("layer"), offset: 0, length: 4096 };
        spec.disks[0].backing = BlockBacking::ReadOnly { extents: vec![extent; extents] };
        let report = end(&launch(spec, Accelerator::Kvm, &tools, Surroundings::default()).unwrap()).kernel_log;
        let report = String::from_utf8(report).unwrap();
        assert_eq!(report, "kernel=kernel initrd=initrd root=layer scratch=scratch channel=socket");
    }
}

#[test]
fn a_failed_set_up_is_told() {
    let bench = Bench::new();
    let failed = Reason::SetUp("kernel: not an ELF file".into());
    assert_eq!(end(&bench.kvm("set-up-failure")).reason, failed);
    assert_eq!(end(&bench.emulated("set-up-failure", "wait")).reason, failed);
}

#[test]
fn a_guest_panic_is_told_with_its_message() {
    let bench = Bench::new();
    let panic = Reason::GuestPanic { message: "sysrq triggered crash".into() };
    assert_eq!(end(&bench.kvm("panic")).reason, panic);
    assert_eq!(end(&bench.emulated("peer-closed-panic", "exit-soon")).reason, panic);
}

#[test]
fn an_early_death_is_told_with_the_last_words() {
    let bench = Bench::new();
    let vmm = bench.script("vmm", "echo 'no such luck' >&2; exit 3");
    let machine =
        launch(bench.spec(), Accelerator::Kvm, &Tools { vmm, emulator: None }, Surroundings::default()).unwrap();
    let end = end(&machine);
    assert_eq!((end.reason, end.stderr.as_slice()), (Reason::Exited(3), &b"no such luck\n"[..]));
    assert!(!machine.wait_started(None));
    assert!(matches!(machine.vsock().accept(soon()), Err(VsockError::Closed)));
}

#[test]
fn a_death_by_signal_is_told() {
    let bench = Bench::new();
    let machine = bench.kvm("wait");
    assert!(machine.wait_started(soon()));
    kill(machine.pid(), Signal::KILL);
    assert_eq!(end(&machine).reason, Reason::KilledBySignal(9));
    let vmm = bench.script("vmm", "kill -SEGV $$");
    let machine =
        launch(bench.spec(), Accelerator::Kvm, &Tools { vmm, emulator: None }, Surroundings::default()).unwrap();
    assert_eq!(end(&machine).reason, Reason::KilledBySignal(11));
}

#[test]
fn a_killed_emulator_ends_its_devices_too() {
    let bench = Bench::new();
    let machine = bench.emulated("serve", "wait");
    assert!(machine.wait_started(soon()));
    assert_eq!(machine.processes().len(), 2);
    kill(machine.pid(), Signal::KILL);
    let end = end(&machine);
    assert_eq!((end.reason, end.kernel_log.is_empty()), (Reason::KilledBySignal(9), false));
    assert!(gone_within(&pids(&machine), Duration::ZERO), "reaped before the end is told");
}

#[test]
fn devices_that_die_end_their_emulator_too() {
    let bench = Bench::new();
    let machine = bench.emulated("wait", "wait");
    assert!(machine.wait_started(soon()));
    kill(machine.processes()[0].pid, Signal::KILL);
    assert_eq!(end(&machine).reason, Reason::KilledBySignal(9));
    assert!(gone_within(&pids(&machine), Duration::ZERO));
}

#[test]
fn an_emulator_that_refuses_is_quoted() {
    let bench = Bench::new();
    let emulator = bench.script("emulator", "echo 'qemu: unknown device' >&2; exit 1");
    let tools = Tools { vmm: bench.fake("vmm", "serve"), emulator: Some(emulator) };
    let machine = launch(bench.spec(), Accelerator::Emulated, &tools, Surroundings::default()).unwrap();
    assert_eq!(end(&machine).reason, Reason::SetUp("qemu: unknown device".into()));
}

#[test]
fn stop_ends_what_listens_and_what_does_not() {
    let bench = Bench::new();
    for behaviour in ["wait", "hang"] {
        let machine = bench.kvm(behaviour);
        assert!(machine.wait_started(soon()));
        let before = Instant::now();
        assert_eq!(machine.stop().reason, Reason::Stopped, "{behaviour}");
        assert!(before.elapsed() < Duration::from_secs(2), "{behaviour}: {:?}", before.elapsed());
        assert!(gone_within(&pids(&machine), Duration::ZERO));
    }
    let machine = bench.emulated("serve", "wait");
    assert!(machine.wait_started(soon()));
    assert_eq!(machine.stop().reason, Reason::Stopped);
    assert!(gone_within(&pids(&machine), Duration::ZERO));
}

#[test]
fn what_breaks_the_protocol_is_ended() {
    let bench = Bench::new();
    for behaviour in ["garbage", "flood-of-logs", "message-with-a-file", "too-long"] {
        let machine = bench.kvm(behaviour);
        assert!(matches!(end(&machine).reason, Reason::Internal(_)), "{behaviour}");
        assert!(gone_within(&pids(&machine), Duration::ZERO), "{behaviour}");
    }
}

#[test]
fn a_flood_of_stderr_is_kept_to_its_end() {
    let bench = Bench::new();
    let end = end(&bench.kvm("flood-of-stderr"));
    assert_eq!(end.reason, Reason::Reset);
    assert!(end.stderr.len() <= 8 << 10 && end.stderr.ends_with(b"the end\n"));
}

#[test]
fn a_machine_that_closes_its_control_socket_and_lives_on_is_killed() {
    let bench = Bench::new();
    let machine = bench.kvm("hang-up");
    assert!(matches!(end(&machine).reason, Reason::Internal(_)));
    assert!(gone_within(&pids(&machine), Duration::ZERO));
}

#[test]
fn the_kernel_log_can_be_asked_for() {
    let bench = Bench::new();
    let machine = bench.kvm("wait");
    assert!(machine.wait_started(soon()));
    assert_eq!(machine.kernel_log().unwrap(), b"log 1");
    assert_eq!(machine.kernel_log().unwrap(), b"log 2");
}

#[test]
fn a_machine_that_does_not_answer_has_no_kernel_log() {
    let bench = Bench::new();
    let machine = bench.kvm("hang");
    assert!(machine.wait_started(soon()));
    let before = Instant::now();
    assert_eq!(machine.kernel_log(), None);
    assert!(before.elapsed() < Duration::from_secs(5));
}

#[test]
fn vsock_connections_go_both_ways() {
    let bench = Bench::new();
    let machine = bench.kvm("echo");
    let (port, mut stream) = machine.vsock().accept(soon()).unwrap();
    let mut hello = String::new();
    stream.read_to_string(&mut hello).unwrap();
    assert_eq!((port, hello.as_str()), (1024, "hello from the guest"));
    let mut stream = machine.vsock().connect(7).unwrap();
    stream.write_all(b"echo").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut echo = String::new();
    stream.read_to_string(&mut echo).unwrap();
    assert_eq!(echo, "echo");
    assert_eq!(machine.stop().reason, Reason::Stopped);
}

#[test]
fn an_end_can_be_polled_for() {
    let bench = Bench::new();
    let machine = bench.kvm("wait");
    assert!(machine.wait(Some(Instant::now() + Duration::from_millis(50))).is_none());
    assert!(machine.try_wait().is_none());
    let mut fds = [PollFd::new(&machine, PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&Timespec::default())).unwrap(), 0);
    kill(machine.pid(), Signal::TERM);
    assert_eq!(poll(&mut fds, None).unwrap(), 1);
    assert_eq!(machine.try_wait().unwrap().reason, Reason::KilledBySignal(15));
    assert_eq!(poll(&mut fds, Some(&Timespec::default())).unwrap(), 1, "it stays readable");
}

#[test]
fn dropping_the_handle_leaves_nothing() {
    let bench = Bench::new();
    drop(bench.kvm("reset"));
    let before = open_descriptors();
    for behaviour in ["wait", "hang", "reset", "garbage", "hang-up"] {
        let machine = bench.kvm(behaviour);
        let pids = pids(&machine);
        drop(machine);
        assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()), "{behaviour}: reaped");
    }
    drop(bench.emulated("serve", "wait"));
    assert_eq!(open_descriptors(), before, "descriptors leak");
}

#[test]
fn a_launch_that_fails_leaves_nothing() {
    let bench = Bench::new();
    let before = open_descriptors();
    let nowhere = PathBuf::from("/nonexistent/program");
    let tools = Tools { vmm: nowhere.clone(), emulator: None };
    let error = launch(bench.spec(), Accelerator::Kvm, &tools, Surroundings::default()).unwrap_err();
    assert!(matches!(&error, LaunchError::Spawn { program, .. } if *program == nowhere), "{error}");
    let vmm = bench.fake("vmm", "wait");
    let tools = Tools { vmm: vmm.clone(), emulator: Some(nowhere.clone()) };
    let error = launch(bench.spec(), Accelerator::Emulated, &tools, Surroundings::default()).unwrap_err();
    assert!(matches!(&error, LaunchError::Spawn { program, .. } if *program == nowhere), "{error}");
    let tools = Tools { vmm, emulator: None };
    assert!(matches!(
        launch(bench.spec(), Accelerator::Emulated, &tools, Surroundings::default()),
        Err(LaunchError::NoEmulator)
    ));
    assert_eq!(open_descriptors(), before, "descriptors leak");
}

#[test]
fn a_scratch_disk_is_locked_as_long_as_its_machine_lives() {
    let bench = Bench::new();
    let machine = bench.kvm("wait");
    assert!(machine.wait_started(soon()));
    let tools = Tools { vmm: bench.path("vmm"), emulator: None };
    let second = launch(bench.spec(), Accelerator::Kvm, &tools, Surroundings::default());
    assert!(matches!(second, Err(LaunchError::DiskBusy { .. })));
    machine.stop();
    launch(bench.spec(), Accelerator::Kvm, &tools, Surroundings::default()).unwrap();
}

/// Not a test: launches the machine in the directory `KEEPER` and waits to be killed.
#[test]
fn keeper_process() {
    let Ok(dir) = std::env::var("KEEPER") else { return };
    let (bench, dir) = (Bench::new(), PathBuf::from(dir));
    let tools = Tools { vmm: dir.join("vmm"), emulator: Some(dir.join("emulator")) };
    let machine = launch(bench.spec(), Accelerator::Emulated, &tools, Surroundings::default()).unwrap();
    assert!(machine.wait_started(soon()));
    println!("\npids {:?}", pids(&machine));
    machine.wait(None);
}

#[test]
fn nothing_outlives_a_keeper_that_is_killed() {
    let bench = Bench::new();
    // Neither cares that its sockets close.
    bench.fake("vmm", "hang");
    bench.fake("emulator", "wait");
    let mut command = Command::new(this_program());
    command.args(["--exact", "keeper_process", "--nocapture"]).env("KEEPER", bench.dir.path());
    let mut keeper = command.stdout(Stdio::piped()).spawn().unwrap();
    let pids = read_pids(keeper.stdout.as_mut().unwrap());
    assert!(pids.len() == 2 && pids.iter().all(|pid| alive(*pid)));
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    assert!(gone_within(&pids, Duration::from_secs(1)));
}

/// The numbers of the line `pids […]`.
fn read_pids(output: &mut impl Read) -> Vec<u32> {
    let mut text = String::new();
    let mut byte = [0];
    while output.read(&mut byte).unwrap() == 1 {
        text.push(char::from(byte[0]));
        if let Some(line) = text.lines().find(|line| line.starts_with("pids ") && line.ends_with(']')) {
            let words = line.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
            return words.map(|word| word.parse().unwrap()).collect();
        }
    }
    panic!("the keeper did not launch: {text}");
}
