//! Guests of a few instructions on real KVM: how machines end.
//!
//! Where the probe says that KVM runs no guests these tests have nothing to test: they say so and return. The KVM
//! lab runs them for real.

mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use machine::{BlockBacking, Disk, EndReason, FromMachine, ToMachine};
use support::{Monitor, Parts, file_of, probe, setup_text};

const PROGRAM: &str = env!("CARGO_BIN_EXE_coracle-vmm");

/// `mov al, 0xfe; out 0x64, al; jmp $`
const RESET: &[u8] = b"\xb0\xfe\xe6\x64\xeb\xfe";
/// `jmp $`
const SPIN: &[u8] = b"\xeb\xfe";
/// `cli; hlt; jmp hlt`
const SLEEP: &[u8] = b"\xfa\xf4\xeb\xfd";

macro_rules! require_kvm {
    () => {
        let (report, _) = probe(Path::new(PROGRAM));
        if !report.usable {
            eprintln!("not run: KVM runs no guest here: {}", report.detail);
            return;
        }
    };
}

fn launch(parts: &Parts) -> Monitor {
    let monitor = Monitor::start(Path::new(PROGRAM), "machine", Stdio::inherit());
    monitor.launch(&parts.spec, &parts.files);
    monitor
}

fn end_of(code: &[u8]) -> EndReason {
    let mut monitor = launch(&Parts::with_code(code));
    monitor.started();
    let (end, status) = monitor.ended();
    assert!(status.success());
    end.reason
}

#[test]
fn a_guest_resets() {
    require_kvm!();
    assert_eq!(end_of(RESET), EndReason::Reset);
}

#[test]
fn a_triple_fault_is_told_from_a_reset() {
    require_kvm!();
    assert_eq!(end_of(b"\x0f\x0b"), EndReason::TripleFault); // ud2 without an interrupt table
}

#[test]
fn the_guest_finds_its_start_info() {
    require_kvm!();
    // cmp dword [ebx], 0x336ec578; jne to ud2; reset
    assert_eq!(end_of(&[b"\x81\x3b\x78\xc5\x6e\x33\x75\x06", RESET, b"\x0f\x0b"].concat()), EndReason::Reset);
}

#[test]
fn accesses_to_nothing_are_harmless_and_read_ones() {
    require_kvm!();
    let code = [
        &b"\xb9\x20\x4e\x00\x00"[..], // mov ecx, 20000
        b"\xa3\x00\x00\x80\xd0",      // again: mov [0xd0800000], eax
        b"\xa1\x00\x00\x80\xd0",      // mov eax, [0xd0800000]
        b"\x40\x75\x12",              // inc eax; jnz bad
        b"\x66\xba\x23\x01\xec",      // mov dx, 0x123; in al, dx
        b"\xfe\xc0\x75\x09",          // inc al; jnz bad
        b"\xef\xe2\xe7",              // out dx, eax; loop again
        RESET,                        // done
        b"\x90\x0f\x0b",              // bad: ud2
    ]
    .concat();
    assert_eq!(end_of(&code), EndReason::Reset);
}

#[test]
fn stop_works_at_once_on_spinning_and_sleeping_guests() {
    require_kvm!();
    for code in [SPIN, SLEEP] {
        for vcpus in [1, 4] {
            let mut parts = Parts::with_code(code);
            parts.spec.vcpus = vcpus;
            let mut monitor = launch(&parts);
            monitor.started();
            std::thread::sleep(Duration::from_millis(50));
            let start = Instant::now();
            monitor.send(&ToMachine::Stop, &[]);
            let (end, status) = monitor.ended();
            assert_eq!(end.reason, EndReason::Stopped);
            assert!(status.success());
            assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        }
    }
}

#[test]
fn a_monitor_that_goes_away_takes_the_machine_along() {
    require_kvm!();
    let mut monitor = launch(&Parts::with_code(SPIN));
    monitor.started();
    monitor.socket = support::seqpacket().0;
    assert!(monitor.exited().success());
}

#[test]
fn a_sleeping_guest_costs_no_processor_time() {
    require_kvm!();
    let mut parts = Parts::with_code(SLEEP);
    parts.spec.vcpus = 4;
    let monitor = launch(&parts);
    monitor.started();
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", monitor.process.id())).unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    std::thread::sleep(Duration::from_millis(200));
    let before = ticks();
    std::thread::sleep(Duration::from_secs(1));
    assert!(ticks() - before <= 2, "{} ticks of 10 ms in a second", ticks() - before);
}

#[test]
fn the_kernel_log_is_read_while_it_runs_and_after() {
    require_kvm!();
    let code = [
        &b"\xbf\x00\x00\x80\x00"[..],    // mov edi, 8 MiB
        b"\xc7\x07DBGC",                 // mov dword [edi], "DBGC"
        b"\xc7\x47\x04\x04\x00\x00\x00", // start = 4
        b"\xc7\x47\x08\x04\x00\x00\x00", // size = 4
        b"\xc7\x47\x0clast",             // the ring: "last"
        SPIN,
    ]
    .concat();
    let mut monitor = launch(&Parts::with_code(&code));
    monitor.started();
    std::thread::sleep(Duration::from_millis(200));
    monitor.send(&ToMachine::KernelLog, &[]);
    assert_eq!(monitor.receive(), FromMachine::KernelLog(b"last".to_vec()));
    monitor.send(&ToMachine::Stop, &[]);
    assert_eq!(monitor.ended().0.kernel_log, b"last");
}

#[test]
fn the_console_gets_what_the_guest_prints() {
    require_kvm!();
    let console = file_of(b"");
    // mov dx, 0x3f8; mov al, 'o'; out dx, al; mov al, 'k'; out dx, al; reset
    let mut parts = Parts::with_code(&[&b"\x66\xba\xf8\x03\xb0o\xee\xb0k\xee"[..], RESET].concat());
    parts.spec.console = Some(parts.add(console.try_clone().unwrap()));
    assert_eq!(launch(&parts).ended().0.reason, EndReason::Reset);
    let mut text = [0; 8];
    let count = std::os::unix::fs::FileExt::read_at(&console, &mut text, 0).unwrap();
    assert_eq!(&text[..count], b"ok");
}

#[test]
fn damaged_images_and_too_little_memory_are_set_up_errors() {
    require_kvm!();
    let refusal = |parts: &Parts| setup_text(launch(parts).ended().0.reason);
    let whole = support::kernel(RESET);
    let cut = Parts::new(file_of(&whole[..whole.len() - 1]), file_of(b"initrd"));
    assert_eq!(refusal(&cut), "cannot load the kernel: it is cut off");
    let script = Parts::new(file_of(&[b'#'; 4096]), file_of(b"initrd"));
    assert_eq!(refusal(&script), "cannot load the kernel: not an uncompressed ELF file");
    let empty = Parts::new(file_of(&whole), file_of(b""));
    assert_eq!(refusal(&empty), "cannot load the initrd: it is empty");
    let large = Parts::new(file_of(&whole), file_of(&vec![0; 14 << 20]));
    assert!(refusal(&large).contains("the machine needs at least 35 MiB"), "{}", refusal(&large));
}

#[test]
fn many_vcpus_and_memory_above_four_gib() {
    require_kvm!();
    let mut parts = Parts::with_code(RESET);
    (parts.spec.vcpus, parts.spec.memory_mib) = (32, 6 << 10);
    let mut monitor = launch(&parts);
    monitor.started();
    assert_eq!(monitor.ended().0.reason, EndReason::Reset);
}

#[test]
fn a_killed_machine_leaves_its_disk_and_nothing_else() {
    require_kvm!();
    let disk = file_of(&[7; 8192]);
    let mut parts = Parts::with_code(SPIN);
    let file = parts.add(disk.try_clone().unwrap());
    parts.spec.disks = vec![Disk::new("scratch", BlockBacking::Writable { file })];
    let mut monitor = launch(&parts);
    monitor.started();
    monitor.process.kill().unwrap();
    assert!(!monitor.exited().success());
    assert_eq!(disk.metadata().unwrap().len(), 8192);
}
