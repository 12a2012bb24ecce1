//! Every container ends with its own exit code and a typed reason, and `inspect`, `ps`, `wait` and `events` agree.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use e2e::coracle::{Coracle, Output, finish};
use e2e::fixtures;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const SLEEP: [&str; 4] = ["busybox", "sh", "-c", "echo ready; sleep 600"];

fn loaded() -> Coracle {
    let coracle = Coracle::new();
    coracle.load(&fixtures::busybox());
    coracle
}

fn emulated() -> bool {
    std::env::var("CORACLE_TEST_ACCEL").is_ok_and(|accelerator| accelerator == "emulated")
}

/// Runs a container named `it` to its end, without `--rm`.
fn run(coracle: &Coracle, arguments: &[&str]) -> Output {
    coracle.coracle([&["run", "--name", "it"], arguments].concat())
}

/// Starts a container named `it` and waits until its process has spoken.
fn detached(coracle: &Coracle, arguments: &[&str]) {
    let _ = coracle.says([&["run", "-d", "--name", "it"], arguments].concat());
    coracle.until("its first word", |it| !it.says(["logs", "it"]).is_empty());
}

/// The pid of a process of `it`, as the record has it.
fn process(coracle: &Coracle, name: &str) -> Pid {
    let record = coracle.record("it");
    let pid = record["Coracle"][name]["Pid"].as_i64().unwrap_or_else(|| panic!("no {name} in {record}"));
    Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid")
}

/// What a death looks like from outside, in each of the places that tell it.
#[track_caller]
fn told(coracle: &Coracle, reason: &str, code: i64, out_of_memory: bool) {
    coracle.until("the end", |it| it.status("it") == "exited");
    let record = coracle.record("it");
    let state = &record["State"];
    assert_eq!(record["Coracle"]["Reason"], reason, "{record}");
    assert_eq!(state["ExitCode"], code, "{state}");
    assert_eq!(state["OOMKilled"], out_of_memory, "{state}");
    assert_eq!((&state["Running"], &state["Pid"]), (&Value::Bool(false), &Value::from(0)), "{state}");
    assert!(state["FinishedAt"].as_str() > record["Created"].as_str(), "{record}");
    assert!(state["FinishedAt"].as_str() >= state["StartedAt"].as_str(), "{state}");
    let listed = coracle.says(["ps", "-a", "--format", "{{.Status}}"]);
    assert!(listed.starts_with(&format!("Exited ({code})")), "{listed}");
    assert_eq!(coracle.says(["wait", "it"]), code.to_string());
    let died = coracle.says(["events", "--since", "1h", "--until", "0s", "--filter", "event=die", "--format", "json"]);
    let event: Value = serde_json::from_str(died.lines().last().expect("a die event")).expect("JSON");
    assert_eq!(event["Actor"]["Attributes"]["exitCode"], code.to_string(), "{event}");
    assert_eq!(event["Actor"]["Attributes"]["name"], "it", "{event}");
}

#[test]
fn exited() {
    let coracle = loaded();
    let _ = run(&coracle, &["busybox", "sh", "-c", "exit 7"]).expect(7);
    told(&coracle, "exited", 7, false);
    assert!(coracle.record("it")["Coracle"]["Timings"].is_object());
}

#[test]
fn signalled_by_itself() {
    let coracle = loaded();
    let _ = run(&coracle, &["busybox", "in-guest", "crash"]).expect(139);
    told(&coracle, "signalled", 139, false);
}

#[test]
fn signalled_by_the_user() {
    let coracle = loaded();
    detached(&coracle, &["--init", "busybox", "sh", "-c", "echo ready; exec sleep 600"]);
    let _ = coracle.says(["kill", "-s", "TERM", "it"]);
    // The small init reports what its child died of as shells do.
    coracle.until("the end", |it| it.status("it") == "exited");
    let reason = coracle.record("it")["Coracle"]["Reason"].clone();
    told(&coracle, reason.as_str().expect("a reason"), 143, false);
    assert!(reason == "signalled" || reason == "exited", "{reason}");
}

#[test]
fn killed_by_the_user() {
    let coracle = loaded();
    detached(&coracle, &SLEEP);
    let _ = coracle.says(["kill", "it"]);
    told(&coracle, "signalled", 137, false);
}

#[test]
fn stopped_in_time() {
    let coracle = loaded();
    detached(&coracle, &["busybox", "sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done"]);
    let _ = coracle.says(["stop", "it"]);
    told(&coracle, "exited", 0, false);
}

#[test]
fn stopped_too_late() {
    let coracle = loaded();
    detached(&coracle, &["busybox", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]);
    let _ = coracle.says(["stop", "-t", "0", "it"]);
    told(&coracle, "signalled", 137, false);
}

#[test]
fn guest_out_of_memory() {
    let coracle = loaded();
    let _ = run(&coracle, &["-m", "128m", "busybox", "in-guest", "fill-memory", "400"]).expect(137);
    told(&coracle, "guest_out_of_memory", 137, true);
}

#[test]
fn guest_panic() {
    let coracle = loaded();
    let out = run(&coracle, &["--privileged", "busybox", "sh", "-c", "echo c > /proc/sysrq-trigger; sleep 60"]);
    let _ = out.expect(134).says(&["panic"]);
    told(&coracle, "guest_panic", 134, false);
    let log = coracle.record("it")["Coracle"]["KernelLog"].to_string();
    assert!(log.contains("Kernel panic"), "{log}");
}

#[test]
fn guest_that_resets_itself() {
    let coracle = loaded();
    let out = run(&coracle, &["--privileged", "busybox", "sh", "-c", "echo b > /proc/sysrq-trigger; sleep 60"]);
    assert_ne!(out.code, 0);
    // Without a keyboard controller, which the emulator's machine lacks, the kernel resets by a triple fault.
    let reason = if emulated() { "guest_panic" } else { "guest_error" };
    told(&coracle, reason, out.code.into(), false);
}

#[test]
fn machine_killed() {
    let coracle = loaded();
    detached(&coracle, &SLEEP);
    kill_process(process(&coracle, "Machine"), Signal::KILL).expect("kill");
    told(&coracle, "machine_killed", 255, false);
}

#[test]
fn keeper_killed() {
    let coracle = loaded();
    detached(&coracle, &SLEEP);
    kill_process(process(&coracle, "Keeper"), Signal::KILL).expect("kill");
    told(&coracle, "keeper_killed", 255, false);
}

#[test]
fn keeper_and_machine_killed() {
    let coracle = loaded();
    detached(&coracle, &SLEEP);
    let both = ["Keeper", "Machine"].map(|name| process(&coracle, name));
    for pid in both {
        // The second may have followed the first already.
        let _ = kill_process(pid, Signal::KILL);
    }
    told(&coracle, "keeper_killed", 255, false);
    assert_eq!(coracle.says(["start", "it"]), "it");
    assert_eq!(coracle.status("it"), "running");
}

#[test]
fn program_that_is_not_there() {
    let coracle = loaded();
    let _ = run(&coracle, &["busybox", "no-such-command"]).expect(127);
    told(&coracle, "spawn_failed", 127, false);
}

#[test]
fn boot_failure_shows_why() {
    let coracle = loaded();
    let _ = coracle.says(["create", "--name", "it", "busybox", "true"]);
    let kernel = tempfile::NamedTempFile::new().expect("a file");
    fs::write(kernel.path(), b"\x7fELF and nothing more").expect("written");
    let mut command = coracle.command(["start", "-a", "it"]);
    command.env("CORACLE_KERNEL", kernel.path());
    let out = finish(command, b"");
    assert_ne!(out.code, 0);
    let _ = out.says(&["kernel"]);
}

/// Where a container's scratch disk is.
fn scratch(coracle: &Coracle) -> PathBuf {
    let id = coracle.says(["inspect", "-f", "{{.Id}}", "it"]);
    coracle.home().join("data/containers").join(id).join("scratch.ext4")
}

#[test]
fn corrupt_scratch() {
    let coracle = loaded();
    let _ = coracle.says(["create", "--name", "it", "busybox", "true"]);
    let disk = fs::OpenOptions::new().write(true).open(scratch(&coracle)).expect("the scratch disk");
    disk.write_all_at(&[0xa5; 64 << 10], 0).expect("written");
    let out = coracle.coracle(["start", "-a", "it"]);
    assert_ne!(out.code, 0, "{out:?}");
    let _ = out.says(&["scratch"]);
    let _ = coracle.says(["rm", "it"]);
    coracle.nothing_left();
}
