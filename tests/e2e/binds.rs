//! Directories and files of the host in containers: seen, written and owned as on the host, never more of them than was
//! shared, and gone with their machine.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use e2e::coracle::{Coracle, Output, finish};
use e2e::fixtures;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A directory of the host with a file `greeting`, which says hello, and a directory `theirs` of the user 1000.
struct Shared(TempDir);

impl Shared {
    fn new() -> Self {
        let directory = TempDir::with_prefix("coracle-shared-").expect("a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        let shared = Self(directory);
        fs::write(shared.path("greeting"), "hello\n").expect("a file");
        fs::create_dir(shared.path("theirs")).expect("a directory");
        chown(shared.path("theirs"), Some(1000), Some(1000)).expect("an owner");
        shared
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// `-v` of a name in it.
    fn on(&self, name: &str, rest: &str) -> String {
        let path = self.path(name);
        format!("{}:{rest}", path.to_str().expect("a text").trim_end_matches('/'))
    }
}

/// Somebody whom the host gave no ids beside his own.
const USER: &str = "12345";

/// A copy of what is under test that every user can execute; gives back the command.
fn installed(directory: PathBuf) -> PathBuf {
    let distribution = Coracle::binary().ancestors().nth(2).expect("bin/coracle in a directory").to_owned();
    if !directory.exists() {
        copy_for_all(&distribution, &directory);
    }
    directory.join("bin/coracle")
}

fn copy_for_all(from: &Path, to: &Path) {
    let mut copy = Command::new("sh");
    copy.args(["-c", r#"cp -r "$0" "$1" && chmod -R a+rX "$1""#]).args([from, to]);
    copy.stdout(Stdio::piped()).stderr(Stdio::piped());
    let _ = finish(copy, b"").expect(0);
}

fn as_user(user: &str, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", user, "--clear-groups"]).arg(program);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn sh(mounts: &[&str], script: &str) -> Output {
    let mut arguments = Vec::new();
    mounts.iter().for_each(|mount| arguments.extend(["-v", mount]));
    Coracle::shared().run([&arguments[..], &["busybox", "sh", "-c", script]].concat())
}

/// The daemons of a keeper's machines.
fn daemons(keeper: i64) -> Vec<Pid> {
    let of_keeper = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.split_once("(virtiofsd) ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok()) == Some(keeper)
    };
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(of_keeper);
    pids.filter_map(Pid::from_raw).collect()
}

#[test]
fn directories_and_files_are_seen_written_and_owned_as_on_the_host() {
    let shared = Shared::new();
    fs::write(shared.path("single"), "one\n").expect("a file");
    let script = "cat /dir/greeting /etc/motd && stat -c '%u %g' /dir/theirs && echo two >> /etc/motd && \
                  mkdir /dir/theirs/new && chown 7:8 /dir/theirs/new && ln -s greeting /dir/link && \
                  ln /dir/greeting /dir/hard && mv /dir/hard /dir/theirs/hard && touch -d @86400 /dir/old";
    let out = sh(&[&shared.on("", "/dir"), &shared.on("single", "/etc/motd")], script).expect(0);
    assert_eq!(out.text(), "hello\none\n1000 1000\n");
    assert_eq!(shared.text("single"), "one\ntwo\n");
    let new = fs::metadata(shared.path("theirs/new")).expect("a directory");
    assert_eq!((new.uid(), new.gid()), (7, 8));
    assert_eq!(fs::read_link(shared.path("link")).expect("a link"), Path::new("greeting"));
    let inode = |name| fs::metadata(shared.path(name)).expect("a file").ino();
    assert_eq!(inode("theirs/hard"), inode("greeting"));
    assert_eq!(fs::metadata(shared.path("old")).expect("a file").mtime(), 86400);
}

#[test]
fn what_the_host_changes_is_seen() {
    let shared = Shared::new();
    let coracle = Coracle::new();
    coracle.load(&fixtures::busybox());
    let _ = coracle.says(["run", "-d", "--name", "it", "-v", &shared.on("", "/dir"), "busybox", "sleep", "600"]);
    assert_eq!(coracle.says(["exec", "it", "cat", "/dir/greeting"]), "hello");
    fs::write(shared.path("greeting"), "welcome\n").expect("a file");
    fs::write(shared.path("later"), "later\n").expect("a file");
    coracle
        .until("the new text", |it| it.says(["exec", "it", "cat", "/dir/greeting", "/dir/later"]) == "welcome\nlater");
    // A file that another took the place of is another.
    fs::write(shared.path("next"), "next\n").expect("a file");
    fs::rename(shared.path("next"), shared.path("greeting")).expect("a rename");
    coracle.until("the new file", |it| it.says(["exec", "it", "cat", "/dir/greeting"]) == "next");
    let _ = coracle.says(["rm", "-f", "it"]);
    coracle.nothing_left();
}

#[test]
fn what_is_read_only_is_so_for_the_host() {
    let shared = Shared::new();
    fs::write(shared.path("theirs/file"), "kept\n").expect("a file");
    let mounts =
        [&shared.on("", "/dir:ro")[..], &shared.on("greeting", "/file:ro"), &shared.on("theirs", "/dir/theirs")];
    let script = "echo x > /dir/new; echo x > /file; rm /dir/greeting; echo x > /dir/theirs/new";
    let out = sh(&mounts, script).expect(0);
    assert_eq!(out.stderr.matches("Read-only file system").count(), 3, "{}", out.stderr);
    assert_eq!(shared.text("theirs/new"), "x\n");
    // Root of the guest may do with its mounts what it likes, and it changes nothing.
    let arguments = ["--privileged", "-v", &shared.on("", "/dir:ro"), "busybox", "sh", "-c"];
    let script = "mkdir /all && mount -t virtiofs binds /all && mount -o remount,rw /dir && grep -q ' /dir virtiofs rw' \
                  /proc/mounts && for try in /all/new /all/greeting /dir/new /dir/greeting; do echo x > $try; done; \
                  rm /all/greeting; chmod 777 /dir/greeting; true";
    let out = Coracle::shared().run([&arguments[..], &[script]].concat()).expect(0);
    assert_eq!(out.stderr.matches("Read-only file system").count(), 6, "{}", out.stderr);
    assert_eq!(shared.text("greeting"), "hello\n");
    assert!(!shared.path("new").exists());
}

#[test]
fn links_lead_nowhere_on_the_host() {
    let shared = Shared::new();
    let secret = TempDir::with_prefix("coracle-secret-").expect("a directory");
    fs::write(secret.path().join("secret"), "secret\n").expect("a file");
    symlink(secret.path().join("secret"), shared.path("absolute")).expect("a link");
    let up = format!("../{}/secret", secret.path().file_name().and_then(|name| name.to_str()).expect("a name"));
    symlink(&up, shared.path("relative")).expect("a link");
    let script =
        format!("ls /dir/..; cat /dir/absolute /dir/relative /dir/{up}; mknod /dir/node b 7 0; mknod /dir/pipe p");
    let out = sh(&[&shared.on("", "/dir")], &script).expect(0);
    assert!(!out.text().contains("secret"), "{}", out.text());
    assert_eq!(out.stderr.matches("No such file or directory").count(), 3, "{}", out.stderr);
    assert!(out.stderr.contains("/dir/node: Operation not permitted"), "{}", out.stderr);
    assert!(!shared.path("node").exists() && shared.path("pipe").exists());
}

#[test]
fn nothing_of_the_host_is_replaced_by_what_containers_have_of_their_own() {
    let shared = Shared::new();
    symlink("../run/resolv.conf", shared.path("resolv.conf")).expect("a link");
    fs::write(shared.path("hosts"), "the host's\n").expect("a file");
    let out = sh(&[&shared.on("", "/etc")], "cat /etc/hosts /etc/greeting").expect(0);
    assert!(out.text().contains("localhost") && out.text().ends_with("hello\n"), "{}", out.text());
    assert_eq!(shared.text("hosts"), "the host's\n");
    assert!(shared.path("resolv.conf").is_symlink());
}

#[test]
fn refusals_name_the_path() {
    let shared = Shared::new();
    let run = |mount: &str| Coracle::shared().run(["-v", mount, "busybox", "true"]);
    let _ = run(&shared.on("missing", "/dir")).expect(125).says(&["missing", "it is not there", "mkdir -p"]);
    let _socket = std::os::unix::net::UnixListener::bind(shared.path("socket")).expect("a socket");
    let _ = run(&shared.on("socket", "/dir")).expect(125).says(&["socket", "neither a directory nor a regular file"]);
    let _ = run(&shared.on("greeting", "/etc")).expect(125).says(&["/etc", "a file on a file"]);
    let _ = run(&shared.on("", "/dir:shared")).expect(125).says(&["invalid volume"]);
    let coracle = Coracle::new();
    coracle.load(&fixtures::busybox());
    fs::write(coracle.home().join("settings.json"), r#"{"file_daemon": "/nowhere/virtiofsd"}"#).expect("settings");
    let mount = shared.on("", "/dir");
    let out = coracle.run(["-v", &mount, "busybox", "true"]).expect(125);
    let _ = out.says(&["virtiofsd", "/nowhere/virtiofsd", "hint:"]);
    // A program that is no daemon is an end with its own words.
    fs::write(coracle.home().join("settings.json"), r#"{"file_daemon": "/bin/false"}"#).expect("settings");
    let _ = coracle.run(["-v", &mount, "busybox", "true"]).expect(125).says(&["virtiofsd exited with status 1"]);
    coracle.nothing_left();
}

#[test]
fn a_daemon_lives_as_long_as_its_machine() {
    let shared = Shared::new();
    let coracle = Coracle::new();
    coracle.load(&fixtures::busybox());
    let _ = coracle.says(["run", "-d", "--name", "it", "-v", &shared.on("", "/dir"), "busybox", "sleep", "600"]);
    let keeper = || coracle.record("it")["Coracle"]["Keeper"]["Pid"].as_i64().expect("a keeper");
    let first = daemons(keeper());
    assert_eq!(first.len(), 1, "one for each machine");
    assert_eq!(coracle.record("it")["Mounts"][0]["Type"], "bind");
    assert_eq!(coracle.says(["ps", "-q", "--no-trunc", "--filter", "volume=/dir"]), coracle.record("it")["Id"]);
    let _ = coracle.coracle(["cp", "it:/dir/greeting", "-"]).expect(1).says(&["on the host it is", "/greeting"]);
    kill_process(first[0], Signal::KILL).expect("kill");
    coracle.until("its end", |it| it.status("it") == "exited");
    let record = coracle.record("it");
    assert_ne!(record["State"]["ExitCode"], 0, "{record}");
    assert_eq!(record["Coracle"]["Reason"], "machine_killed", "{record}");
    let _ = coracle.says(["start", "it"]);
    assert_eq!(coracle.says(["exec", "it", "cat", "/dir/greeting"]), "hello");
    let keeper = keeper();
    assert_eq!(daemons(keeper).len(), 1);
    // Into a mount of a container that is at rest, by its own machine.
    let _ = coracle.says(["kill", "it"]);
    coracle.until("its end", |it| it.status("it") == "exited");
    assert_eq!(daemons(keeper), []);
    let _ = coracle.says(["cp", shared.path("greeting").to_str().expect("a text"), "it:/dir/copied"]);
    assert_eq!(shared.text("copied"), "hello\n");
    let _ = coracle.says(["rm", "it"]);
    coracle.nothing_left();
}

#[test]
fn what_a_users_container_makes_is_the_users() {
    let shared = Shared::new();
    let user = USER.parse().expect("a number");
    for name in ["", "greeting"] {
        chown(shared.path(name), Some(user), Some(user)).expect("an owner");
    }
    let coracle = installed(shared.path("dist"));
    let layout = shared.path("busybox");
    copy_for_all(&fixtures::busybox(), &layout);
    let run = |words: &[&str]| {
        let accelerator = std::env::var("CORACLE_TEST_ACCEL").unwrap_or_else(|_| "emulated".into());
        let mut command = as_user(USER, &coracle);
        command.env("CORACLE_HOME", shared.path("home")).env("CORACLE_ACCEL", accelerator).args(words);
        finish(command, b"").expect(0)
    };
    let _ = run(&["load", "-q", "-i", layout.to_str().expect("a text")]);
    let script =
        "stat -c %u /dir/greeting && touch /dir/roots && chmod 777 /dir && chown 7:8 /dir/roots && cat /dir/greeting";
    let out = run(&["run", "--rm", "-v", &shared.on("", "/dir"), "busybox", "sh", "-c", script]);
    assert_eq!(out.text(), "0\nhello\n", "{}", out.stderr);
    let _ = run(&["run", "--rm", "-u", "1000", "-v", &shared.on("", "/dir"), "busybox", "touch", "/dir/others"]);
    for name in ["roots", "others"] {
        assert_eq!(fs::metadata(shared.path(name)).expect("a file").uid(), user, "{name}");
    }
}

/// What `coracle share` leaves a program to see, as root and as another user.
#[test]
fn a_daemon_sees_what_is_shared_and_nothing_else() {
    let shared = Shared::new();
    let daemon = shared.path("daemon");
    let script = "#!/bin/sh\nls /sys; cat /sys/0/greeting; cat /sys/1; echo x > /sys/0/new && echo written; \
                  echo x > /sys/1 || echo refused; echo x > /sys/new || echo refused; \
                  grep -c . /proc/self/uid_map\n";
    fs::write(&daemon, script).expect("a script");
    fs::set_permissions(&daemon, fs::Permissions::from_mode(0o755)).expect("a mode");
    fs::set_permissions(shared.path(""), fs::Permissions::from_mode(0o777)).expect("a mode");
    for user in ["0", USER] {
        let mut command = as_user(user, &installed(shared.path("dist")));
        command.arg("share").arg(&daemon).arg(format!("rw:{}", shared.0.path().display()));
        command.arg(format!("ro:{}", shared.path("greeting").display()));
        let out = finish(command, b"").expect(0);
        assert_eq!(out.text(), "0\n1\nhello\nhello\nwritten\nrefused\nrefused\n1\n", "user {user}: {}", out.stderr);
        let new = fs::metadata(shared.path("new")).expect("a file");
        assert_eq!(new.uid().to_string(), user);
        fs::remove_file(shared.path("new")).expect("removed");
    }
    let mut command = as_user("0", &Coracle::binary());
    command.args(["share", "/bin/true", "ro:/nowhere"]);
    let _ = finish(command, b"").expect(1).says(&["sharing /nowhere", "No such file"]);
}
