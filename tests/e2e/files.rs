//! Files of containers from outside: cp, diff, export, commit; of those that run, and of those that do not.

use std::fs;
use std::process::Command;

use e2e::coracle::{Coracle, finish};
use e2e::fixtures;
use tempfile::TempDir;

const CHANGES: &str = "echo new > /new; rm /etc/not-executable; mkdir -p /d/e; ln /new /d/hard; ln -s ../new /d/soft; \
    chmod 4755 /new; chown 1000:1000 /d/e; mkdir /sparse; dd if=/dev/zero of=/sparse/f bs=1 count=1 seek=10485760 2>/dev/null; sync";

fn loaded() -> Coracle {
    let coracle = Coracle::new();
    coracle.load(&fixtures::busybox());
    coracle
}

fn changed(coracle: &Coracle) {
    let _ = coracle.coracle(["run", "--name", "it", "busybox", "sh", "-c", CHANGES]).expect(0);
}

#[test]
fn diff_of_a_stopped_container() {
    let coracle = loaded();
    changed(&coracle);
    let diff = coracle.says(["diff", "it"]);
    let lines: Vec<&str> = diff.lines().collect();
    for line in ["A /new", "D /etc/not-executable", "C /etc", "A /d", "A /d/e", "A /d/hard", "A /d/soft"] {
        assert!(lines.contains(&line), "{line} is not in\n{diff}");
    }
    let machine = &coracle.record("it")["Coracle"]["Machine"]["Pid"];
    assert!(machine.is_null(), "{machine}");
}

#[test]
fn diff_of_a_running_container() {
    let coracle = loaded();
    let _ = coracle.says(["run", "-d", "--name", "it", "busybox", "sh", "-c", "echo x > /made; echo done; sleep 600"]);
    coracle.until("its word", |it| it.says(["logs", "it"]) == "done");
    assert!(coracle.says(["diff", "it"]).lines().any(|line| line == "A /made"));
    assert_eq!(coracle.says(["exec", "it", "cat", "/made"]), "x");
}

#[test]
fn commit_makes_an_image_that_runs() {
    let coracle = loaded();
    changed(&coracle);
    let id = coracle.says([
        "commit",
        "-m",
        "more",
        "-a",
        "me",
        "-c",
        "CMD [\"cat\", \"/new\"]",
        "-c",
        "ENV A=1",
        "it",
        "changed:1",
    ]);
    assert!(id.starts_with("sha256:"), "{id}");
    let out = coracle.run(["changed:1"]).expect(0);
    assert_eq!(out.text(), "new\n");
    let script = "ls -ldn /d/e /new; test ! -e /etc/not-executable && stat -c %h /new; readlink /d/soft; stat -c '%s %b' /sparse/f";
    let out = coracle.run(["changed:1", "sh", "-c", script]).expect(0);
    let text = out.text();
    assert!(text.contains("-rwsr-xr-x") && text.contains("1000     1000") && text.contains("../new"), "{text}");
    assert!(coracle.says(["history", "changed:1"]).contains("more"));
    // The same changes give the same layer.
    let again = coracle.says(["commit", "it", "changed:2"]);
    let layers = |image: &str| coracle.says(["image", "inspect", "-f", "{{json .RootFS.Layers}}", image]);
    assert_eq!(layers("changed:1"), layers("changed:2"));
    assert_ne!(id, again);
    let _ = coracle.coracle(["image", "verify"]).expect(0);
}

#[test]
fn export_is_the_whole_tree() {
    let coracle = loaded();
    changed(&coracle);
    let directory = TempDir::new().expect("a directory");
    let tar = directory.path().join("it.tar");
    let _ = coracle.coracle(["export", "-o", tar.to_str().expect("UTF-8"), "it"]).expect(0);
    let listed = Command::new("tar").arg("-tf").arg(&tar).output().expect("tar");
    let names = String::from_utf8(listed.stdout).expect("UTF-8");
    let has = |name: &str| names.lines().any(|line| line.trim_start_matches("./").trim_end_matches('/') == name);
    for name in ["new", "d/e", "d/hard", "bin/busybox", "etc/passwd"] {
        assert!(has(name), "{name} is not in\n{names}");
    }
    assert!(!has("etc/not-executable"));
    let _ = coracle.coracle(["import", tar.to_str().expect("UTF-8"), "again"]).expect(0);
    assert_eq!(coracle.run(["again", "cat", "/d/hard"]).expect(0).text(), "new\n");
}

#[test]
fn copies_out_of_a_stopped_container() {
    let coracle = loaded();
    changed(&coracle);
    let directory = TempDir::new().expect("a directory");
    let to = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    let _ = coracle.coracle(["cp", "it:/new", &to("file")]).expect(0);
    assert_eq!(fs::read_to_string(to("file")).expect("a file"), "new\n");
    let _ = coracle.coracle(["cp", "it:/d", &to("tree")]).expect(0);
    assert_eq!(fs::read_link(to("tree/soft")).expect("a link").to_str(), Some("../new"));
    let tar = coracle.coracle(["cp", "it:/etc/passwd", "-"]).expect(0).stdout;
    assert!(tar.windows(6).any(|part| part == b"passwd"));
    let _ = coracle.coracle(["cp", "it:/no/such", &to("x")]).expect(1).says(&["/no/such"]);
    let _ = coracle.coracle(["cp", "nobody:/new", &to("x")]).expect(1).says(&["nobody"]);
}

#[test]
fn copies_into_a_running_container_and_back() {
    let coracle = loaded();
    let _ = coracle.says(["run", "-d", "--name", "it", "busybox", "sleep", "600"]);
    let directory = TempDir::new().expect("a directory");
    let from = directory.path().join("tree");
    fs::create_dir_all(from.join("sub")).expect("a directory");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    fs::write(from.join("sub/large"), &bytes).expect("a file");
    std::os::unix::fs::symlink("sub/large", from.join("link")).expect("a link");
    let path = from.to_str().expect("UTF-8");
    let _ = coracle.coracle(["cp", path, "it:/put"]).expect(0);
    assert_eq!(coracle.says(["exec", "it", "readlink", "/put/link"]), "sub/large");
    assert_eq!(coracle.says(["exec", "it", "wc", "-c", "/put/sub/large"]), "3000000 /put/sub/large");
    let back = directory.path().join("back");
    let _ = coracle.coracle(["cp", "it:/put/sub/large", back.to_str().expect("UTF-8")]).expect(0);
    assert!(fs::read(&back).expect("a file") == bytes);
    let tar = Command::new("tar").arg("-C").arg(&from).args(["-cf", "-", "link"]).output().expect("tar").stdout;
    let _ = finish(coracle.command(["cp", "-", "it:/etc"]), &tar).expect(0);
    assert_eq!(coracle.says(["exec", "it", "readlink", "/etc/link"]), "sub/large");
}

#[test]
fn copies_into_a_stopped_container() {
    let coracle = loaded();
    let _ = coracle.says(["create", "--name", "it", "busybox", "cat", "/given"]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), "from outside\n").expect("written");
    let _ = coracle.coracle(["cp", file.path().to_str().expect("UTF-8"), "it:/given"]).expect(0);
    assert_eq!(coracle.status("it"), "created");
    assert_eq!(coracle.says(["start", "-a", "it"]), "from outside");
}

#[test]
fn what_was_synced_outlives_everything() {
    let coracle = loaded();
    let script = "echo precious > /kept; sync; echo synced; sleep 600";
    let _ = coracle.says(["run", "-d", "--name", "it", "busybox", "sh", "-c", script]);
    coracle.until("its word", |it| it.says(["logs", "it"]) == "synced");
    let record = coracle.record("it");
    for process in ["Keeper", "Machine"] {
        let pid = record["Coracle"][process]["Pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a pid");
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_raw(pid).expect("a pid"),
            rustix::process::Signal::KILL,
        );
    }
    coracle.until("its end", |it| it.status("it") == "exited");
    // The disk was never unmounted: its journal is replayed, on the host here and in the guest below.
    assert!(coracle.says(["diff", "it"]).lines().any(|line| line == "A /kept"));
    let _ = coracle.says(["start", "it"]);
    assert_eq!(coracle.says(["exec", "it", "cat", "/kept"]), "precious");
}
