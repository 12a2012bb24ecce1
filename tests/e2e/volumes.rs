//! Volumes keep what containers write, belong to one machine at a time, and cost what is in them; limits of disks and
//! memory that is freed.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use e2e::coracle::Coracle;
use e2e::fixtures;
use rustix::process::{Pid, Signal, kill_process};

fn fresh() -> Coracle {
    let coracle = Coracle::new();
    coracle.load(&fixtures::busybox());
    coracle
}

/// Starts a container called `name` that sleeps.
#[track_caller]
fn start(coracle: &Coracle, name: &str, flags: &[&str]) {
    let arguments = [&["run", "-d", "--name", name], flags, &["busybox", "sleep", "600"]].concat();
    let _ = coracle.says(arguments);
}

/// `coracle exec NAME sh -c SCRIPT`.
#[track_caller]
fn exec(coracle: &Coracle, name: &str, script: &str) -> String {
    coracle.says(["exec", name, "sh", "-c", script])
}

fn kilobytes(path: &PathBuf) -> u64 {
    std::fs::metadata(path).expect("a disk").blocks() / 2
}

fn volume(coracle: &Coracle, name: &str) -> PathBuf {
    coracle.home().join("data/volumes").join(name).join("disk.ext4")
}

#[test]
fn what_is_written_is_there_for_the_next_container() {
    let coracle = fresh();
    // Nobody syncs; the container goes with its disk; the next one is killed.
    let _ = coracle.run(["-v", "data:/srv", "busybox", "sh", "-c", "echo one > /srv/one"]).expect(0);
    start(&coracle, "it", &["-v", "data:/srv"]);
    assert_eq!(exec(&coracle, "it", "cat /srv/one; echo two > /srv/two"), "one");
    let _ = coracle.says(["rm", "-f", "it"]);
    let out = coracle.run(["-v", "data:/srv:ro", "busybox", "sh", "-c", "cat /srv/one /srv/two; echo > /srv/no"]);
    assert_eq!(out.text(), "one\ntwo\n", "{}", out.stderr);
    assert!(out.code != 0 && out.stderr.contains("Read-only file system"), "{}", out.stderr);
    coracle.nothing_left();
}

#[test]
fn first_use_copies_what_the_image_has() {
    let coracle = fresh();
    let before = coracle.run(["busybox", "ls", "-A", "/etc"]).expect(0);
    let passwd = coracle.run(["busybox", "cat", "/etc/passwd"]).expect(0);
    assert!(before.text().contains("passwd"));
    let copied = coracle.run(["-v", "etc:/mnt/../etc", "busybox", "true"]);
    assert_ne!(copied.code, 0, "no way around");
    let script = "cat /etc/passwd; echo mine > /etc/mine";
    let copied = coracle.run(["-v", "etc:/etc", "busybox", "sh", "-c", script]).expect(0);
    assert_eq!(copied.text(), passwd.text());
    let _ = coracle.run(["-v", "etc:/old", "busybox", "grep", "-q", "mine", "/old/mine"]).expect(0);
    let out = coracle.run(["-v", "bare:/etc:nocopy", "busybox", "ls", "/etc/passwd"]);
    assert_ne!(out.code, 0);
}

#[test]
fn a_volume_belongs_to_one_machine_until_that_is_gone() {
    let coracle = fresh();
    start(&coracle, "holder", &["-v", "data:/srv"]);
    for mount in ["data:/srv", "data:/srv:ro"] {
        let _ = coracle.run(["-v", mount, "busybox", "true"]).expect(125).says(&["volume data", "container holder"]);
    }
    let _ = coracle.coracle(["volume", "rm", "data"]).expect(1).says(&["data", "is used by"]);
    let record = coracle.record("holder");
    let keeper = record["Coracle"]["Keeper"]["Pid"].as_i64().expect("a keeper");
    let keeper = Pid::from_raw(i32::try_from(keeper).expect("a pid")).expect("a pid");
    kill_process(keeper, Signal::KILL).expect("kill");
    coracle.until("the machine is gone", |coracle| coracle.status("holder") == "exited");
    let _ = coracle.run(["-v", "data:/srv", "busybox", "true"]).expect(0);
    let _ = coracle.says(["rm", "holder"]);
    // Those that only read do not mind each other; one that writes minds them.
    for name in ["reader-1", "reader-2"] {
        start(&coracle, name, &["-v", "data:/srv:ro"]);
    }
    let refused = coracle.run(["-v", "data:/srv", "busybox", "true"]).expect(125);
    let _ = refused.says(&["volume data", "reader-1", "reader-2"]);
    let _ = coracle.says(["rm", "-f", "reader-1", "reader-2"]);
    let _ = coracle.says(["volume", "rm", "data"]);
    assert!(!volume(&coracle, "data").exists());
}

#[test]
fn what_nobody_named_goes_with_its_container_where_that_is_asked_for() {
    let coracle = fresh();
    let volumes = || coracle.says(["volume", "ls", "-q"]).lines().count();
    let _ = coracle.run(["-v", "/cache", "busybox", "sh", "-c", "echo x > /cache/x"]).expect(0);
    assert_eq!(volumes(), 0);
    let _ = coracle.coracle(["run", "--name", "kept", "-v", "/cache", "busybox", "true"]).expect(0);
    let _ = coracle.says(["rm", "kept"]);
    assert_eq!(volumes(), 1);
    let _ = coracle.coracle(["run", "--name", "gone", "-v", "/cache", "-v", "named:/n", "busybox", "true"]).expect(0);
    let _ = coracle.says(["rm", "-v", "gone"]);
    assert_eq!(volumes(), 2);
    let _ = coracle.says(["volume", "prune", "-f"]);
    assert_eq!(coracle.says(["volume", "ls", "-q"]), "named");
}

#[test]
fn space_that_is_deleted_in_a_guest_is_free_on_the_host() {
    let coracle = fresh();
    start(&coracle, "it", &["-v", "data:/srv"]);
    let id = coracle.says(["inspect", "--format", "{{.Id}}", "it"]);
    let scratch = coracle.home().join("data/containers").join(id).join("scratch.ext4");
    for (directory, disk) in [("/", scratch), ("/srv/", volume(&coracle, "data"))] {
        let before = kilobytes(&disk);
        let write = format!("dd if=/dev/urandom of={directory}big bs=1M count=24 2>/dev/null; sync");
        let _ = exec(&coracle, "it", &write);
        assert!(kilobytes(&disk) > before + (20 << 10), "{directory}: {} KiB", kilobytes(&disk));
        let _ = exec(&coracle, "it", &format!("rm {directory}big; sync"));
        coracle.until("the space is free", |_| kilobytes(&disk) < before + (6 << 10));
    }
    let _ = coracle.says(["rm", "-f", "-v", "it"]);
}

#[test]
fn disks_keep_to_their_rates() {
    let coracle = fresh();
    let script = "dd if=/dev/zero of=/srv/x bs=64k count=64 conv=fsync 2>/dev/null; cut -d' ' -f1 /proc/uptime; \
                  dd if=/dev/zero of=/x bs=64k count=64 conv=fsync 2>/dev/null; cut -d' ' -f1 /proc/uptime";
    let script = format!("cut -d' ' -f1 /proc/uptime; {script}");
    let rates = ["--device-write-bps", "data:1m", "-v", "data:/srv"];
    let out = coracle.run([&rates[..], &["busybox", "sh", "-c", &script]].concat()).expect(0);
    let times: Vec<f64> = out.text().lines().map(|line| line.parse().expect("seconds")).collect();
    let (limited, free) = (times[1] - times[0], times[2] - times[1]);
    // 4 MiB at 1 MiB a second, of which a tenth of a second's worth and one request come at once.
    assert!((3.0..12.0).contains(&limited), "{limited} s");
    assert!(free < limited / 2.0, "the other disk is not limited: {free} s, {limited} s");
    let _ = coracle.run(["--device-write-bps", "other:1m", "busybox", "true"]).expect(125).says(&["no disk \"other\""]);
}

#[test]
fn memory_that_a_guest_frees_goes_back_to_the_host() {
    let coracle = fresh();
    start(&coracle, "it", &["-m", "512m", "--shm-size", "300m"]);
    let pid = coracle.says(["inspect", "--format", "{{.Coracle.Machine.Pid}}", "it"]);
    let paid = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps_rollup");
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("Pss").to_owned();
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
    };
    let before = paid();
    let _ = exec(&coracle, "it", "dd if=/dev/zero of=/dev/shm/x bs=1M count=200 2>/dev/null");
    let full = paid();
    assert!(full > before + 180, "{before} MiB, {full} MiB");
    let _ = exec(&coracle, "it", "rm /dev/shm/x");
    coracle.until("the memory is free", |_| {
        std::thread::sleep(Duration::from_millis(500));
        paid() < before + 80
    });
    let _ = coracle.says(["rm", "-f", "it"]);
}
