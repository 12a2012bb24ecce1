//! The host's bound on machine processes, where this host lets us have one; else that it says so.

use std::fs;
use std::path::Path;
use std::time::Duration;

use monitor::{Accelerator, HostLimits, Machine, MachineEndReason as Reason, Surroundings, Tools, launch};

use crate::bench::{Bench, kill, soon};

fn confined(bench: &Bench, behaviour: &str, limits: HostLimits) -> Machine {
    let tools = Tools { vmm: bench.fake("vmm", behaviour), emulator: None };
    let surroundings = Surroundings { limits: Some(limits), ..Surroundings::default() };
    launch(bench.spec(), Accelerator::Kvm, &tools, surroundings).unwrap()
}

/// Its cgroup, or `None` on a host that has none to give.
fn cgroup(machine: &Machine) -> Option<&Path> {
    let confinement = machine.confinement();
    assert_eq!(confinement.cgroup.is_none(), confinement.problem.is_some(), "{confinement:?}");
    if let Some(problem) = &confinement.problem {
        eprintln!("not tried: {problem}");
    }
    confinement.cgroup.as_deref()
}

fn limits(name: &str, cpu_milli: Option<u32>, memory: Option<u64>) -> HostLimits {
    HostLimits { name: format!("{name}{}", std::process::id()), cpu_milli, memory }
}

fn used_microseconds(cgroup: &Path) -> u64 {
    let stat = fs::read_to_string(cgroup.join("cpu.stat")).unwrap();
    stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap().parse().unwrap()
}

#[test]
fn a_machine_that_spins_gets_its_share() {
    let bench = Bench::new();
    let machine = confined(&bench, "spin", limits("spin", Some(200), None));
    let Some(cgroup) = cgroup(&machine).map(Path::to_owned) else {
        machine.limit_cpu(100).unwrap_err();
        return;
    };
    assert!(machine.wait_started(soon()));
    let spent = || {
        let before = used_microseconds(&cgroup);
        std::thread::sleep(Duration::from_secs(2));
        used_microseconds(&cgroup) - before
    };
    let fifth = spent();
    assert!(fifth < 600_000, "{fifth} µs of 2 s at a fifth of a CPU");
    machine.limit_cpu(50).unwrap();
    let twentieth = spent();
    assert!(twentieth < 250_000, "{twentieth} µs of 2 s at a twentieth of a CPU");
    machine.stop();
    assert!(!cgroup.exists(), "it goes with its machine");
}

#[test]
fn a_machine_that_swallows_memory_ends_with_that_reason() {
    let bench = Bench::new();
    let machine = confined(&bench, "swallow", limits("swallow", None, Some(64 << 20)));
    let Some(cgroup) = cgroup(&machine).map(Path::to_owned) else { return };
    assert_eq!(machine.wait(soon()).unwrap().reason, Reason::HostOutOfMemory);
    assert!(!cgroup.exists());
}

#[test]
fn a_machine_that_somebody_kills_is_not_out_of_memory() {
    let bench = Bench::new();
    let machine = confined(&bench, "wait", limits("wait", Some(1000), Some(1 << 30)));
    assert!(machine.wait_started(soon()));
    kill(machine.pid(), rustix::process::Signal::KILL);
    assert_eq!(machine.wait(soon()).unwrap().reason, Reason::KilledBySignal(9));
}

#[test]
fn what_a_killed_keeper_left_is_in_nobodys_way() {
    let bench = Bench::new();
    let first = confined(&bench, "wait", limits("left", Some(500), None));
    let Some(cgroup) = cgroup(&first).map(Path::to_owned) else { return };
    drop(first);
    fs::create_dir(&cgroup).unwrap();
    let second = confined(&bench, "wait", limits("left", Some(500), None));
    assert_eq!(second.confinement().cgroup.as_deref(), Some(cgroup.as_path()));
    drop(second);
    fs::create_dir(&cgroup).unwrap();
    monitor::cgroup::remove_left(&cgroup, &limits("left", None, None).name);
    assert!(!cgroup.exists());
}
