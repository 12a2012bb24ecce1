//! What containers say and how they are: logs, ps, events, top, stats.

use std::io::{BufRead, BufReader};

use e2e::coracle::{Coracle, full_size, scaled};
use e2e::fixtures;
use serde_json::Value;

fn loaded() -> Coracle {
    let coracle = Coracle::new();
    coracle.load(&fixtures::busybox());
    coracle
}

#[test]
fn logs_keep_the_streams_apart() {
    let coracle = loaded();
    let _ = coracle.says([
        "run",
        "-d",
        "--name",
        "it",
        "busybox",
        "sh",
        "-c",
        "echo one; echo two >&2; echo three; printf end",
    ]);
    let _ = coracle.says(["wait", "it"]);
    let out = coracle.coracle(["logs", "it"]).expect(0);
    assert_eq!(out.text(), "one\nthree\nend");
    assert_eq!(out.stderr, "two\n");
    assert_eq!(coracle.says(["logs", "--tail", "1", "it"]), "end");
    let stamped = coracle.coracle(["logs", "-t", "--tail", "3", "it"]).expect(0);
    assert!(stamped.text().lines().all(|line| line.starts_with("20") && line.contains("Z ")), "{}", stamped.text());
    assert_eq!(coracle.says(["logs", "--since", "2100-01-01", "it"]), "");
}

#[test]
fn logs_follow_to_the_end() {
    let coracle = loaded();
    let _ = coracle.says([
        "run",
        "-d",
        "--name",
        "it",
        "busybox",
        "sh",
        "-c",
        "for n in 1 2 3 4 5; do echo $n; sleep 0.2; done",
    ]);
    assert_eq!(coracle.says(["logs", "-f", "it"]), "1\n2\n3\n4\n5");
    assert_eq!(coracle.status("it"), "exited");
}

/// 10 GiB where the full size is asked for, otherwise what takes half a minute on emulation: lines of 100 bytes.
#[test]
fn logs_stay_within_their_bound_and_nobody_waits_for_a_reader() {
    let coracle = loaded();
    let options = ["--tmpfs", "/tmp", "--log-opt", "max-size=1m", "--log-opt", "max-file=2"];
    let rounds = if full_size() { (10_usize << 30).div_ceil(16_000_000) } else { scaled(200, 1) };
    let script = format!(
        "yes $(head -c 99 /dev/zero | tr '\\0' x) | head -c 4000000 > /tmp/4; \
         i=0; while [ $i -lt {rounds} ]; do cat /tmp/4 /tmp/4 /tmp/4 /tmp/4; i=$((i+1)); done; echo the end"
    );
    let _ = coracle.says([&["run", "-d", "--name", "it"], &options[..], &["busybox", "sh", "-c", &script]].concat());
    // It follows and never reads.
    let mut idle = coracle.command(["logs", "-f", "it"]).spawn().expect("coracle");
    assert_eq!(coracle.says(["wait", "it"]), "0");
    idle.kill().expect("kill");
    let _ = idle.wait();
    assert_eq!(coracle.says(["logs", "--tail", "1", "it"]), "the end");
    let id = coracle.says(["inspect", "-f", "{{.Id}}", "it"]);
    let logs = coracle.home().join("data/containers").join(id).join("log");
    let sizes =
        std::fs::read_dir(&logs).expect("logs").map(|entry| entry.expect("entry").metadata().expect("file").len());
    let total: u64 = sizes.sum();
    assert!(total <= (2 << 20) + (64 << 10), "{total} bytes of log");
}

#[test]
fn ps_shows_what_docker_shows() {
    let coracle = loaded();
    let _ = coracle.says(["run", "-d", "--name", "runs", "--label", "tier=web", "busybox", "sleep", "600"]);
    let _ = coracle.coracle(["run", "--name", "ended", "busybox", "sh", "-c", "exit 3"]).expect(3);
    let table = coracle.says(["ps", "-a"]);
    let header = table.lines().next().unwrap_or_default();
    for word in ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"] {
        assert!(header.contains(word), "{header}");
    }
    assert!(table.contains("Exited (3)") && table.contains("Up "), "{table}");
    let names = |filter: &str| coracle.says(["ps", "-a", "--filter", filter, "--format", "{{.Names}}"]);
    assert_eq!(names("status=exited"), "ended");
    assert_eq!(names("label=tier=web"), "runs");
    assert_eq!(names("exited=3"), "ended");
    assert_eq!(names("name=run"), "runs");
    assert_eq!(names("ancestor=busybox").lines().count(), 2);
    assert_eq!(coracle.says(["ps", "-l", "--format", "{{.Names}}"]), "ended");
    let json: Value =
        serde_json::from_str(coracle.says(["ps", "--format", "json"]).lines().next().unwrap()).expect("JSON");
    assert_eq!(json["Names"], "runs");
    assert!(coracle.says(["ps", "-s", "-a"]).contains("virtual"));
    let _ = coracle.coracle(["ps", "--filter", "colour=red"]).expect(1).says(&["colour"]);
}

#[test]
fn events_tell_the_story() {
    let coracle = loaded();
    let follow = ["events", "--since", "1h", "--format", "{{.Action}}", "--filter", "type=container"];
    let mut follower = coracle.command(follow).spawn().expect("coracle");
    let _ = coracle.coracle(["run", "--name", "it", "busybox", "sh", "-c", "exit 4"]).expect(4);
    let _ = coracle.says(["rm", "it"]);
    let lines = BufReader::new(follower.stdout.take().expect("stdout")).lines().map_while(Result::ok);
    let mut seen = Vec::new();
    for line in lines {
        let last = line == "destroy";
        seen.push(line);
        if last {
            break;
        }
    }
    follower.kill().expect("kill");
    let _ = follower.wait();
    let story: Vec<&str> = seen.iter().map(String::as_str).filter(|action| *action != "attach").collect();
    assert_eq!(story, ["create", "start", "die", "destroy"]);
    let past = coracle.says(["events", "--since", "1h", "--until", "0s", "--filter", "event=die", "--format", "json"]);
    let event: Value = serde_json::from_str(past.lines().next().expect("an event")).expect("JSON");
    assert_eq!(event["Actor"]["Attributes"]["exitCode"], "4", "{event}");
}

#[test]
fn top_and_stats_look_inside() {
    let coracle = loaded();
    let _ = coracle.says(["run", "-d", "--name", "it", "busybox", "sh", "-c", "sleep 600; true"]);
    coracle.until("its child", |it| it.says(["top", "it"]).contains("sleep 600"));
    let header = coracle.says(["top", "it"]);
    assert!(header.lines().next().is_some_and(|line| line.contains("PID") && line.contains("CMD")), "{header}");
    let stats = coracle.says(["stats", "--no-stream", "--format", "json", "it"]);
    let stats: Value = serde_json::from_str(stats.lines().next().expect("a line")).expect("JSON");
    assert_eq!(stats["Name"], "it", "{stats}");
    assert!(coracle.says(["stats", "--no-stream"]).contains("it"));
}

#[test]
fn inspect_has_the_fields_that_scripts_read() {
    let coracle = loaded();
    let id = coracle.says([
        "run",
        "-d",
        "--name",
        "it",
        "--label",
        "a=b",
        "--restart",
        "on-failure:3",
        "-m",
        "256m",
        "busybox",
        "sleep",
        "600",
    ]);
    let read = |format: &str| coracle.says(["inspect", "--format", format, "it"]);
    assert_eq!(read("{{.Id}}"), id);
    assert_eq!(read("{{.State.Running}}"), "true");
    assert_eq!(read("{{.Config.Labels.a}}"), "b");
    assert_eq!(
        read("{{.HostConfig.RestartPolicy.Name}}:{{.HostConfig.RestartPolicy.MaximumRetryCount}}"),
        "on-failure:3"
    );
    assert_eq!(read("{{.HostConfig.Memory}}"), (256 << 20).to_string());
    assert_ne!(read("{{.State.Pid}}"), "0");
    assert_eq!(read("{{.RestartCount}}"), "0");
    assert_eq!(read("{{json .Config.Cmd}}"), r#"["sleep","600"]"#);
}
