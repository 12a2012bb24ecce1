//! Launches one machine by hand and tells how it went: for work on this crate and on `coracle-vmm`.
//!
//! ```text
//! cargo run -p monitor --example launch -- \
//!     kvm|emulated CORACLE-VMM KERNEL INITRD [root=FILE] [scratch=FILE] [cpus=N] [memory=MIB] [console=FILE] [stop=MS] [-- WORDS…]
//! ```
//!
//! The words go to the guest's kernel. With `stop=` the machine is stopped after so many milliseconds.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use machine::{BlockBacking, Disk, Extent, KernelLogRegion, MachineSpec, Vsock};
use monitor::{Accelerator, Machine, MachineEnd, Surroundings, Tools, find_emulator, launch, monotonic_ns};

/// What both back ends want on every command line.
const CMDLINE: &str = "console=null loglevel=7 panic=-1 noreplace-smp ramoops.mem_address=0x800000 \
    ramoops.mem_size=0x10000 ramoops.console_size=0x10000 ramoops.record_size=0 ramoops.pmsg_size=0 \
    ramoops.ftrace_size=0 memmap=0x10000$0x800000";

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let mut next = |what: &str| words.next().ok_or_else(|| format!("missing {what}"));
    let accelerator = match next("kvm or emulated")?.as_str() {
        "kvm" => Accelerator::Kvm,
        "emulated" => Accelerator::Emulated,
        other => return Err(format!("neither kvm nor emulated: {other}").into()),
    };
    let mut tools = Tools { vmm: next("coracle-vmm")?.into(), emulator: None };
    if accelerator == Accelerator::Emulated {
        let found = find_emulator(None, None).map_err(|error| format!("{error}\nhint: {}", error.hint()))?;
        tools.emulator = Some(found.path);
    }
    let mut spec = bare(next("kernel")?.into(), next("initrd")?.into());
    let mut stop = None;
    while let Some(word) = words.next() {
        match word.split_once('=') {
            Some(("root", path)) => spec.disks.push(root(path)?),
            Some(("scratch", path)) => spec.disks.push(disk("scratch", BlockBacking::Writable { file: path.into() })),
            Some(("cpus", count)) => spec.vcpus = count.parse()?,
            Some(("memory", mib)) => spec.memory_mib = mib.parse()?,
            Some(("console", path)) => spec.console = Some(path.into()),
            Some(("stop", ms)) => stop = Some(Duration::from_millis(ms.parse()?)),
            _ if word == "--" => spec.cmdline.extend(words.by_ref().map(|word| format!(" {word}"))),
            _ => return Err(format!("what is {word}?").into()),
        }
    }
    let before = monotonic_ns();
    let machine = launch(spec, accelerator, &tools, Surroundings::default())?;
    report(&machine, before, stop);
    Ok(())
}

fn bare(kernel: PathBuf, initrd: PathBuf) -> MachineSpec<PathBuf> {
    MachineSpec {
        vcpus: 1,
        memory_mib: 256,
        kernel,
        initrd,
        cmdline: CMDLINE.into(),
        disks: Vec::new(),
        vsock: Vsock { guest_cid: machine::vsock::GUEST_CID, channel: None },
        shared_files: None,
        kernel_log: KernelLogRegion::STANDARD,
        console: None,
    }
}

fn root(path: &str) -> Result<Disk<PathBuf>, Box<dyn Error>> {
    let length = std::fs::metadata(path)?.len().next_multiple_of(4096);
    Ok(disk("root", BlockBacking::ReadOnly { extents: vec![Extent { file: path.into(), offset: 0, length }] }))
}

fn disk(id: &str, backing: BlockBacking<PathBuf>) -> Disk<PathBuf> {
    Disk::new(id, backing)
}

fn report(machine: &Machine, before: u64, stop: Option<Duration>) {
    for process in machine.processes() {
        println!("{:?} {}", process.role, process.pid);
    }
    let end = machine.wait(stop.map(|after| Instant::now() + after)).unwrap_or_else(|| {
        println!("kernel log while it runs: {:?} bytes", machine.kernel_log().map(|log| log.len()));
        machine.stop()
    });
    let now = monotonic_ns();
    let timings = machine.timings();
    let ms = |at: u64| Duration::from_nanos(at.saturating_sub(before)).as_micros() as f64 / 1000.0;
    println!(
        "spawned {} ms, started {:?} ms, ended {} ms, told {} ms",
        ms(timings.spawned),
        timings.started.map(ms),
        ms(end.at),
        ms(now)
    );
    tell(&end);
}

fn tell(end: &MachineEnd) {
    println!("{:?}: {}", end.reason, end.reason);
    println!("--- kernel log, {} bytes, its end:", end.kernel_log.len());
    let log = String::from_utf8_lossy(&end.kernel_log);
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(12)..].iter().for_each(|line| println!("{line}"));
    println!("--- stderr:\n{}", String::from_utf8_lossy(&end.stderr));
}
