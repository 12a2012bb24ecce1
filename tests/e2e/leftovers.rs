//! What a killed command leaves is found and cleaned by the next one.

use std::io::Read;
use std::process::Child;
use std::time::{Duration, Instant};

use e2e::coracle::Coracle;
use e2e::fixtures;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Starts a container that says `ready` and sleeps.
fn start(coracle: &Coracle, flags: &[&str]) -> Child {
    let arguments = [&["run", "--name", "it"], flags, &["busybox", "sh", "-c", "echo ready; sleep 600"]].concat();
    let mut child = coracle.command(arguments).spawn().expect("coracle");
    let mut ready = [0; 6];
    child.stdout.as_mut().expect("stdout").read_exact(&mut ready).expect("ready");
    child
}

fn record(coracle: &Coracle) -> Value {
    let out = coracle.coracle(["inspect", "it"]).expect(0);
    let all: Value = serde_json::from_str(out.text()).expect("JSON");
    all[0].clone()
}

fn pid(record: &Value, process: &str) -> Pid {
    let pid = record["Coracle"][process]["Pid"].as_i64().unwrap_or_else(|| panic!("no {process} in {record}"));
    Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid")
}

fn kill(pid: Pid) {
    kill_process(pid, Signal::KILL).expect("kill");
}

/// Waits until a process is gone.
#[track_caller]
fn gone(pid: Pid) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    while state().is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline, "process {pid:?} still runs");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn killed_keeper_takes_the_machine_along_and_is_recorded() {
    let coracle = Coracle::new();
    coracle.load(&fixtures::busybox());
    let mut child = start(&coracle, &[]);
    let before = record(&coracle);
    let (keeper, machine) = (pid(&before, "Keeper"), pid(&before, "Machine"));
    kill(keeper);
    assert_ne!(e2e::coracle::shell_code(child.wait().expect("wait")), 0);
    gone(machine);
    let after = record(&coracle);
    assert_eq!(after["State"]["Status"], "exited", "{after}");
    assert_eq!(after["Coracle"]["Reason"], "keeper_killed", "{after}");
    let _ = coracle.coracle(["rm", "it"]).expect(0);
    coracle.nothing_left();
}

#[test]
fn killed_keeper_of_a_container_with_rm_leaves_nothing() {
    let coracle = Coracle::new();
    coracle.load(&fixtures::busybox());
    let mut child = start(&coracle, &["--rm"]);
    let machine = pid(&record(&coracle), "Machine");
    kill(pid(&record(&coracle), "Keeper"));
    let _ = child.wait().expect("wait");
    gone(machine);
    coracle.nothing_left();
}

#[test]
fn killed_command_line_does_not_touch_the_container() {
    let coracle = Coracle::new();
    coracle.load(&fixtures::busybox());
    let mut child = start(&coracle, &["--rm"]);
    child.kill().expect("kill");
    let _ = child.wait().expect("wait");
    std::thread::sleep(Duration::from_millis(500));
    let running = record(&coracle);
    assert_eq!(running["State"]["Status"], "running", "{running}");
    let (keeper, machine) = (pid(&running, "Keeper"), pid(&running, "Machine"));
    let _ = coracle.coracle(["rm", "-f", "it"]).expect(0);
    gone(machine);
    gone(keeper);
    coracle.nothing_left();
}

#[test]
fn container_stays_without_rm_until_it_is_removed() {
    let coracle = Coracle::new();
    coracle.load(&fixtures::busybox());
    let _ = coracle.coracle(["run", "--name", "it", "busybox", "true"]).expect(0);
    assert_eq!(coracle.coracle(["ps", "-a", "-q"]).expect(0).text().lines().count(), 1);
    let _ = coracle.coracle(["rm", "it"]).expect(0);
    coracle.nothing_left();
}
