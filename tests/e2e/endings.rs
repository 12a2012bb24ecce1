//! Every container ends with its own exit code and a typed reason.

use std::time::Duration;

use e2e::coracle::{Coracle, Output};
use e2e::fixtures;
use serde_json::Value;

fn loaded() -> Coracle {
    let coracle = Coracle::new();
    coracle.load(&fixtures::busybox());
    coracle
}

fn record(coracle: &Coracle, name: &str) -> Value {
    let out = coracle.coracle(["inspect", name]).expect(0);
    let all: Value = serde_json::from_str(out.text()).expect("JSON");
    all[0].clone()
}

/// The typed reason, the exit code, and whether memory ran out, as `inspect` tells them.
fn ending(coracle: &Coracle, name: &str) -> (String, i64, bool) {
    let record = record(coracle, name);
    let state = &record["State"];
    assert_eq!(state["Status"], "exited", "{state}");
    (
        record["Coracle"]["Reason"].as_str().unwrap_or_else(|| panic!("no reason: {record}")).to_owned(),
        state["ExitCode"].as_i64().expect("an exit code"),
        state["OOMKilled"].as_bool().expect("OOMKilled"),
    )
}

/// Runs a container named `it` to its end, without `--rm`.
fn run(coracle: &Coracle, arguments: &[&str]) -> Output {
    coracle.coracle([&["run", "--name", "it"], arguments].concat())
}

#[test]
fn exited() {
    let coracle = loaded();
    let _ = run(&coracle, &["busybox", "sh", "-c", "exit 7"]).expect(7);
    assert_eq!(ending(&coracle, "it"), ("exited".into(), 7, false));
    assert!(record(&coracle, "it")["Coracle"]["Timings"].is_object());
}

#[test]
fn signalled() {
    let coracle = loaded();
    let _ = run(&coracle, &["busybox", "in-guest", "crash"]).expect(139);
    assert_eq!(ending(&coracle, "it"), ("signalled".into(), 139, false));
}

#[test]
fn guest_out_of_memory() {
    let coracle = loaded();
    let _ = run(&coracle, &["-m", "128m", "busybox", "in-guest", "fill-memory", "400"]).expect(137);
    assert_eq!(ending(&coracle, "it"), ("guest_out_of_memory".into(), 137, true));
}

#[test]
fn guest_panic() {
    let coracle = loaded();
    let out = run(&coracle, &["--privileged", "busybox", "sh", "-c", "echo c > /proc/sysrq-trigger; sleep 60"]);
    assert_ne!(out.code, 0);
    let _ = out.says(&["panic"]);
    let (reason, code, _) = ending(&coracle, "it");
    assert_eq!(reason, "guest_panic");
    assert_ne!(code, 0);
    let log = record(&coracle, "it")["Coracle"]["KernelLog"].to_string();
    assert!(log.contains("Kernel panic"), "{log}");
}

#[test]
fn machine_killed() {
    let coracle = loaded();
    let mut command = coracle.command(["run", "--name", "it", "busybox", "sh", "-c", "echo ready; sleep 600"]);
    let mut child = command.spawn().expect("coracle");
    let mut stdout = child.stdout.take().expect("stdout");
    let mut ready = [0; 6];
    std::io::Read::read_exact(&mut stdout, &mut ready).expect("ready");
    let pid = record(&coracle, "it")["Coracle"]["Machine"]["Pid"].as_i64().expect("the machine's pid");
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
    let status = e2e::coracle::wait(&mut child, std::time::Instant::now() + Duration::from_secs(60));
    assert_ne!(e2e::coracle::shell_code(status), 0);
    assert_eq!(ending(&coracle, "it").0, "machine_killed");
}

#[test]
fn boot_failure_shows_why() {
    let coracle = loaded();
    let mut command = coracle.command(["run", "--name", "it", "busybox", "true"]);
    let kernel = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(kernel.path(), b"\x7fELF and nothing more").expect("written");
    command.env("CORACLE_KERNEL", kernel.path());
    let out = e2e::coracle::finish(command, b"").expect(125);
    let _ = out.says(&["kernel"]);
}
