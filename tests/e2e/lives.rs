//! The life of a container: made, started, stopped, started again with what it wrote, and removed.

use std::time::{Duration, Instant};

use e2e::coracle::Coracle;
use e2e::fixtures;

fn loaded() -> Coracle {
    let coracle = Coracle::new();
    coracle.load(&fixtures::busybox());
    coracle
}

/// A detached container that runs a script.
fn detached(coracle: &Coracle, flags: &[&str], script: &str) -> String {
    coracle.says([&["run", "-d", "--name", "it"], flags, &["busybox", "sh", "-c", script]].concat())
}

#[test]
fn detached_container_prints_its_id_and_runs_on() {
    let coracle = loaded();
    let id = detached(&coracle, &[], "sleep 600");
    assert_eq!(id.len(), 64, "{id}");
    assert_eq!(coracle.status("it"), "running");
    assert_eq!(coracle.says(["ps", "-q", "--no-trunc"]), id);
    let _ = coracle.coracle(["rm", "it"]).expect(1).says(&["it", "rm -f"]);
    assert_eq!(coracle.says(["rm", "-f", "it"]), "it");
    coracle.nothing_left();
}

#[test]
fn what_was_written_is_there_after_stop_and_start() {
    let coracle = loaded();
    detached(&coracle, &[], "echo $$ >> /runs; trap 'exit 3' TERM; while :; do sleep 0.1; done");
    coracle.until("the first line", |it| it.coracle(["exec", "it", "cat", "/runs"]).code == 0);
    assert_eq!(coracle.says(["stop", "it"]), "it");
    let record = coracle.record("it");
    assert_eq!(record["State"]["Status"], "exited", "{record}");
    assert_eq!(record["State"]["ExitCode"], 3, "{record}");
    assert_eq!(coracle.says(["start", "it"]), "it");
    coracle.until("the second line", |it| it.says(["exec", "it", "cat", "/runs"]).lines().count() == 2);
    assert_eq!(coracle.says(["rm", "-f", "it"]), "it");
}

#[test]
fn created_container_runs_when_it_is_started() {
    let coracle = loaded();
    let id = coracle.says(["create", "--name", "it", "busybox", "echo", "started"]);
    assert_eq!(id.len(), 64);
    assert_eq!(coracle.status("it"), "created");
    assert_eq!(coracle.says(["start", "-a", "it"]), "started");
    assert_eq!(coracle.status("it"), "exited");
    assert_eq!(coracle.says(["start", "-a", "it"]), "started");
    assert_eq!(coracle.says(["rm", "it"]), "it");
}

#[test]
fn input_reaches_a_started_container() {
    let coracle = loaded();
    let _ = coracle.says(["create", "-i", "--name", "it", "busybox", "cat"]);
    let out = e2e::coracle::finish(coracle.command(["start", "-a", "-i", "it"]), b"through\n").expect(0);
    assert_eq!(out.text(), "through\n");
}

#[test]
fn stop_kills_who_does_not_listen() {
    let coracle = loaded();
    detached(&coracle, &[], "trap '' TERM; echo deaf; while :; do sleep 1; done");
    coracle.until("its word", |it| it.says(["logs", "it"]) == "deaf");
    let begun = Instant::now();
    assert_eq!(coracle.says(["stop", "-t", "1", "it"]), "it");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(coracle.record("it")["State"]["ExitCode"], 137);
}

#[test]
fn stop_signal_is_the_container_s_own() {
    let coracle = loaded();
    detached(&coracle, &["--stop-signal", "USR1"], "trap 'exit 5' USR1; echo up; while :; do sleep 0.1; done");
    coracle.until("its word", |it| it.says(["logs", "it"]) == "up");
    assert_eq!(coracle.says(["stop", "it"]), "it");
    assert_eq!(coracle.record("it")["State"]["ExitCode"], 5);
}

#[test]
fn kill_sends_any_signal() {
    let coracle = loaded();
    detached(&coracle, &[], "trap 'echo hup' HUP; echo up; while :; do sleep 0.1; done");
    coracle.until("its word", |it| it.says(["logs", "it"]) == "up");
    assert_eq!(coracle.says(["kill", "-s", "HUP", "it"]), "it");
    coracle.until("its second word", |it| it.says(["logs", "it"]) == "up\nhup");
    assert_eq!(coracle.says(["kill", "it"]), "it");
    assert_eq!(coracle.says(["wait", "it"]), "137");
    let _ = coracle.coracle(["kill", "it"]).expect(1).says(&["it", "not running"]);
    let _ = coracle.coracle(["kill", "-s", "NOSUCH", "it"]).expect(2).says(&["NOSUCH"]);
}

#[test]
fn restart_gives_a_new_process_the_same_disk() {
    let coracle = loaded();
    detached(&coracle, &[], "echo x >> /runs; sleep 600");
    coracle.until("the first line", |it| it.coracle(["exec", "it", "cat", "/runs"]).code == 0);
    let started = coracle.record("it")["State"]["StartedAt"].clone();
    assert_eq!(coracle.says(["restart", "-t", "0", "it"]), "it");
    coracle.until("the second line", |it| it.says(["exec", "it", "cat", "/runs"]) == "x\nx");
    assert_ne!(coracle.record("it")["State"]["StartedAt"], started);
}

#[test]
fn paused_container_stands_still() {
    let coracle = loaded();
    detached(&coracle, &[], "n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done");
    coracle.until("its words", |it| !it.says(["logs", "it"]).is_empty());
    assert_eq!(coracle.says(["pause", "it"]), "it");
    assert_eq!(coracle.status("it"), "paused");
    let _ = coracle.coracle(["exec", "it", "true"]).expect(1).says(&["paused"]);
    std::thread::sleep(Duration::from_millis(300));
    let before = coracle.says(["logs", "--tail", "1", "it"]);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(coracle.says(["logs", "--tail", "1", "it"]), before);
    assert_eq!(coracle.says(["unpause", "it"]), "it");
    coracle.until("more words", |it| it.says(["logs", "--tail", "1", "it"]) != before);
    assert_eq!(coracle.status("it"), "running");
}

#[test]
fn names_change() {
    let coracle = loaded();
    let id = detached(&coracle, &[], "sleep 600");
    let _ = coracle.coracle(["rename", "it", "other"]).expect(0);
    assert_eq!(coracle.says(["ps", "--format", "{{.Names}}"]), "other");
    assert_eq!(coracle.says(["inspect", "--format", "{{.Id}}", "other"]), id);
    let _ = coracle.coracle(["rename", "it", "third"]).expect(1).says(&["it"]);
    let _ = coracle.coracle(["rename", "other", "no/slash"]).expect(2).says(&["no/slash"]);
}

#[test]
fn wait_tells_the_exit_code() {
    let coracle = loaded();
    detached(&coracle, &[], "sleep 1; exit 9");
    assert_eq!(coracle.says(["wait", "it"]), "9");
    assert_eq!(coracle.says(["wait", "it"]), "9");
}

#[test]
fn container_with_rm_goes_by_itself() {
    let coracle = loaded();
    detached(&coracle, &["--rm"], "sleep 1");
    coracle.until("its end", |it| it.says(["ps", "-a", "-q"]).is_empty());
    coracle.nothing_left();
}

#[test]
fn prune_takes_what_is_stopped() {
    let coracle = loaded();
    let _ = coracle.run(["--name", "gone", "busybox", "true"]).expect(0);
    let stopped = coracle.says(["create", "--name", "stopped", "busybox", "true"]);
    detached(&coracle, &[], "sleep 600");
    let out = coracle.coracle(["container", "prune", "-f"]).expect(0);
    assert!(out.text().contains(&stopped), "{}", out.text());
    assert!(out.text().contains("reclaimed"), "{}", out.text());
    assert_eq!(coracle.says(["ps", "-a", "--format", "{{.Names}}"]), "it");
}

#[test]
fn restart_policy_brings_it_back_until_it_is_stopped() {
    let coracle = loaded();
    detached(&coracle, &["--restart", "always"], "echo run >> /runs; cat /runs; sleep 0.2; exit 1");
    coracle.until("three runs", |it| it.record("it")["RestartCount"].as_u64().is_some_and(|count| count >= 2));
    assert_eq!(coracle.says(["stop", "it"]), "it");
    assert_eq!(coracle.status("it"), "exited");
    let count = coracle.record("it")["RestartCount"].clone();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(coracle.record("it")["RestartCount"], count);
    assert!(coracle.says(["logs", "it"]).contains("run\nrun\nrun"));
}

#[test]
fn restart_on_failure_counts() {
    let coracle = loaded();
    detached(&coracle, &["--restart", "on-failure:2"], "exit 4");
    coracle.until("the end", |it| it.status("it") == "exited" && it.record("it")["RestartCount"] == 2);
    assert_eq!(coracle.record("it")["State"]["ExitCode"], 4);
}

#[test]
fn health_is_told() {
    let coracle = loaded();
    let check = ["--health-cmd", "test -e /well", "--health-interval", "300ms", "--health-retries", "2"];
    detached(&coracle, &check, "sleep 600");
    coracle.until("ill", |it| it.record("it")["State"]["Health"]["Status"] == "unhealthy");
    assert!(coracle.says(["ps"]).contains("(unhealthy)"));
    let _ = coracle.coracle(["exec", "it", "touch", "/well"]).expect(0);
    coracle.until("well", |it| it.record("it")["State"]["Health"]["Status"] == "healthy");
    let events = coracle.says(["events", "--since", "1h", "--until", "0s", "--filter", "event=health_status"]);
    assert!(events.contains("unhealthy") && events.lines().count() >= 2, "{events}");
}

#[test]
fn attach_sees_what_comes_and_leaves_by_its_keys() {
    let coracle = loaded();
    let _ = coracle.says(["run", "-d", "-i", "-t", "--name", "it", "busybox", "sh"]);
    let mut terminal = e2e::terminal::Terminal::start(&coracle.command(["attach", "it"]), 24, 80).expect("a terminal");
    terminal.send("echo six times seven is $((6*7))\r");
    terminal.expect("seven is 42");
    terminal.send("\u{10}\u{11}");
    let _ = terminal.finish();
    assert_eq!(coracle.status("it"), "running");
}
