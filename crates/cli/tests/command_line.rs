//! What the command line says, word for word: help, usage errors, and errors that need no container.
//! `CORACLE_BLESS=1` rewrites the golden files.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A command with a home of its own and nothing from the environment.
fn coracle(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("CORACLE_HOME", home).env("COLUMNS", "100");
    command.stdin(std::process::Stdio::null()).output().expect("coracle")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[track_caller]
fn golden(name: &str, found: &str) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("CORACLE_BLESS").is_some() {
        std::fs::write(&path, found).expect("the golden file");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "{} differs; CORACLE_BLESS=1 rewrites it. Now:\n{found}", path.display());
}

#[test]
fn help() {
    let home = tempfile::tempdir().expect("a directory");
    let single = "run create start stop restart kill pause unpause wait exec attach logs top stats port cp diff export \
                  commit rename update rm ps inspect load images rmi tag history pull push save import login logout \
                  events doctor completion man container image volume system";
    let nested = [
        "container ls",
        "container prune",
        "container rm",
        "image rm",
        "image prune",
        "image pull",
        "image verify",
        "volume create",
        "volume ls",
        "volume inspect",
        "volume rm",
        "volume prune",
        "system check",
        "system df",
        "system prune",
    ];
    for name in [""].into_iter().chain(single.split(' ')).chain(nested) {
        let words: Vec<_> = name.split(' ').filter(|word| !word.is_empty()).chain(["--help"]).collect();
        let out = coracle(home.path(), &words);
        assert!(out.status.success() && out.stderr.is_empty(), "{name}");
        let file = if name.is_empty() { "help".to_owned() } else { name.replace(' ', "-") };
        golden(&format!("{file}.txt"), text(&out.stdout));
    }
}

#[test]
fn verbs_of_containers_are_the_same_behind_container() {
    let home = tempfile::tempdir().expect("a directory");
    for verb in ["run", "exec", "rm", "cp", "stats", "logs"] {
        let short = text(&coracle(home.path(), &[verb, "--help"]).stdout).to_owned();
        let long = text(&coracle(home.path(), &["container", verb, "--help"]).stdout).to_owned();
        assert_eq!(long.replace("coracle container ", "coracle "), short, "{verb}");
    }
}

#[test]
fn commands_that_need_another_say_which_there_are() {
    let home = tempfile::tempdir().expect("a directory");
    for arguments in [&[][..], &["container"], &["image"], &["volume"], &["system"]] {
        let out = coracle(home.path(), arguments);
        assert_eq!(out.status.code(), Some(0), "{arguments:?}");
        assert!(text(&out.stdout).contains("Usage: coracle") && out.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn empty_values_are_none() {
    let home = tempfile::tempdir().expect("a directory");
    let flags = ["run", "--pull=never", "-w", "", "--hostname", "", "--name", "", "--platform", "", "-u", ""];
    let out = coracle(home.path(), &[&flags[..], &["no-such-image"]].concat());
    assert_eq!(out.status.code(), Some(125));
    assert!(text(&out.stderr).contains("no such image"), "{}", text(&out.stderr));
}

#[test]
fn keeper_is_not_for_users() {
    let home = tempfile::tempdir().expect("a directory");
    assert!(!text(&coracle(home.path(), &["--help"]).stdout).contains("keeper"));
    let out = coracle(home.path(), &["keeper"]);
    assert_eq!((out.status.code(), out.stdout.len(), out.stderr.len()), (Some(1), 0, 0));
}

#[test]
fn bad_flags_of_run_are_125() {
    let home = tempfile::tempdir().expect("a directory");
    let mut all = String::new();
    for arguments in [
        &["run"][..],
        &["run", "--no-such-flag", "busybox"],
        &["container", "run", "--no-such-flag", "busybox"],
        &["run", "-d", "-a", "stdout", "busybox"],
        &["run", "--volume", "/a:/b:shared", "busybox"],
        &["run", "--mount", "type=bind,dst=/b", "busybox"],
        &["run", "--oom-kill-disable", "busybox"],
        &["run", "--device", "/dev/kvm", "busybox"],
        &["run", "--gpus", "all", "busybox"],
        &["run", "--network", "host", "busybox"],
        &["run", "-p", "80:80", "busybox"],
        &["run", "-P", "busybox"],
        &["run", "--pid=host", "busybox"],
        &["run", "--memory-swap", "1g", "busybox"],
        &["run", "--rm", "--restart", "always", "busybox"],
        &["run", "--restart", "sometimes", "busybox"],
        &["run", "--restart", "always:3", "busybox"],
        &["run", "--health-interval", "soon", "busybox"],
        &["run", "--no-healthcheck", "--health-cmd", "true", "busybox"],
        &["run", "--stop-signal", "SIGNOTHING", "busybox"],
        &["run", "--stop-timeout", "-2", "busybox"],
        &["run", "--detach-keys", "ctrl-1", "busybox"],
        &["run", "--label", "=x", "busybox"],
        &["run", "--label-file", "/no/such/file", "busybox"],
        &["run", "--annotation", "x", "busybox"],
        &["run", "--device-read-bps", "/dev/sda:fast", "busybox"],
        &["run", "--log-opt", "max-size", "busybox"],
        &["run", "--oom-score-adj", "2000", "busybox"],
        &["run", "--memroy", "1g", "busybox"],
        &["run", "-u", "-1", "busybox"],
        &["run", "-m", "lots", "busybox"],
        &["run", "-m", "99999999999999999999", "busybox"],
        &["run", "--cpus", "-1", "busybox"],
        &["run", "--cpus", "0", "busybox"],
        &["run", "--ulimit", "nofish=1", "busybox"],
        &["run", "--ulimit", "nofile=2:1", "busybox"],
        &["run", "--cap-add", "FLY", "busybox"],
        &["run", "--sysctl", "novalue", "busybox"],
        &["run", "--name", "../up", "busybox"],
        &["run", "--hostname", "-", "busybox"],
        &["run", "--hostname", "a b", "busybox"],
        &["run", "-w", "relative", "busybox"],
        &["run", "-e", "=x", "busybox"],
        &["run", "--tmpfs", "relative", "busybox"],
        &["run", "--storage-opt", "speed=1", "busybox"],
        &["run", "--security-opt", "seccomp=/x.json", "busybox"],
        &["run", "--platform", "plan9", "busybox"],
        &["run", "--accel", "magic", "busybox"],
        &["run", "--env-file", "/no/such/file", "busybox"],
        &["run", "-it", "busybox"],
        &["run", "--rm", "--pull", "never", "no-such-image"],
        &["run", "--rm", "UPPER"],
        &["run", "--rm", ""],
        &["run", "--pull", "sometimes", "busybox"],
    ] {
        let out = coracle(home.path(), arguments);
        assert_eq!(out.status.code(), Some(125), "{arguments:?}: {}", text(&out.stderr));
        assert!(out.stdout.is_empty(), "{arguments:?}");
        all.push_str(&format!("$ coracle {}\n{}\n", arguments.join(" "), text(&out.stderr)));
    }
    golden("run-errors.txt", &all);
}

#[test]
fn other_errors() {
    let home = tempfile::tempdir().expect("a directory");
    let mut all = String::new();
    for (arguments, code) in [
        (&["rm", "nobody"][..], 1),
        (&["rmi", "no-such-image"], 1),
        (&["inspect", "nobody"], 1),
        (&["image", "inspect", "no-such-image"], 1),
        (&["load", "-i", "/no/such/archive.tar"], 1),
        (&["inspect", "--type", "image", "no-such-image"], 1),
        (&["tag", "no-such-image", "b"], 1),
        (&["images", "-f", "size=3"], 1),
        (&["images", "-f", "until=soon"], 1),
        (&["images", "-f", "dangling"], 2),
        (&["images", "busy[box"], 1),
        (&["history", "no-such-image"], 1),
        (&["pull", "UPPER"], 1),
        (&["pull", "-a", "busybox"], 1),
        (&["push", "no-such-image"], 1),
        (&["save", "no-such-image"], 1),
        (&["save", "-o", "/no/such/directory/x", "no-such-image"], 1),
        (&["save"], 2),
        (&["import", "https://example.com/root.tar"], 1),
        (&["import", "-c", "RUN true", "/no/such/archive.tar"], 1),
        (&["import", "/no/such/archive.tar"], 1),
        (&["image", "verify", "no-such-image"], 1),
        (&["login"], 1),
        (&["login", "-u", "me", "a b"], 1),
        (&["login", "--password-stdin"], 2),
        (&["image", "prune"], 1),
        (&["system", "prune", "-a", "--filter", "until=24h"], 1),
        (&["image", "prune", "-f", "--filter", "reference=x"], 1),
        (&["images", "--format", "xml"], 2),
        (&["images", "--format", "{{.ID"], 2),
        (&["images", "--format", "table {{frob .ID}}"], 2),
        (&["image", "inspect", "--format", "plain", "a"], 2),
        (&["rm", "-f", "nobody"], 0),
        (&["start", "nobody"], 1),
        (&["start", "-a", "one", "two"], 1),
        (&["stop", "nobody"], 1),
        (&["stop", "-t", "soon", "nobody"], 2),
        (&["restart", "nobody"], 1),
        (&["kill", "nobody"], 1),
        (&["kill", "-s", "NOTHING", "nobody"], 2),
        (&["pause", "nobody"], 1),
        (&["unpause", "nobody"], 1),
        (&["wait", "nobody"], 1),
        (&["exec", "nobody", "true"], 1),
        (&["exec", "nobody"], 2),
        (&["exec", "-it", "nobody", "sh"], 1),
        (&["attach", "nobody"], 1),
        (&["logs", "nobody"], 1),
        (&["logs", "--since", "soon", "nobody"], 1),
        (&["logs", "--tail", "few", "nobody"], 2),
        (&["top", "nobody"], 1),
        (&["top", "nobody", "aux"], 1),
        (&["stats", "--no-stream", "nobody"], 1),
        (&["port", "nobody"], 1),
        (&["port", "nobody", "http"], 2),
        (&["cp", "nobody:/a", "."], 1),
        (&["cp", "a", "b"], 1),
        (&["cp", "a:/b", "c:/d"], 1),
        (&["cp", "nobody:", "."], 1),
        (&["diff", "nobody"], 1),
        (&["export", "nobody"], 1),
        (&["export", "-o", "/no/such/directory/x", "nobody"], 1),
        (&["commit", "nobody"], 1),
        (&["rename", "nobody", "somebody"], 1),
        (&["rename", "nobody", "-"], 2),
        (&["update", "nobody"], 1),
        (&["update", "--restart", "always", "nobody"], 1),
        (&["create", "--pull=never", "no-such-image"], 1),
        (&["create", "--gpus", "all", "no-such-image"], 1),
        (&["container", "inspect", "nobody"], 1),
        (&["container", "prune"], 1),
        (&["ps", "-f", "network=x"], 1),
        (&["ps", "-f", "status=asleep"], 1),
        (&["events", "--filter", "type=network"], 1),
        (&["volume", "inspect", "nothing"], 1),
        (&["volume", "rm", "nothing"], 1),
        (&["volume", "create", "../up"], 1),
        (&["volume", "create", "-d", "nfs", "x"], 1),
        (&["volume", "create", "-o", "size=lots", "x"], 1),
        (&["volume", "prune"], 1),
        (&["completion", "tcsh"], 2),
        (&["rm"], 2),
        (&["tag", "a"], 2),
        (&["sail"], 2),
    ] {
        let out = coracle(home.path(), arguments);
        assert_eq!(out.status.code(), Some(code), "{arguments:?}: {}", text(&out.stderr));
        all.push_str(&format!("$ coracle {}\n{}\n", arguments.join(" "), text(&out.stderr)));
    }
    golden("other-errors.txt", &all);
}

#[test]
fn empty_home_has_empty_lists() {
    let home = tempfile::tempdir().expect("a directory");
    let list = |arguments: &[&str]| text(&coracle(home.path(), arguments).stdout).to_owned();
    assert_eq!(list(&["images"]), "REPOSITORY   TAG   IMAGE ID   CREATED   SIZE\n");
    assert_eq!(list(&["ps", "-a"]), "CONTAINER ID   IMAGE   COMMAND   CREATED   STATUS   PORTS   NAMES\n");
    assert_eq!(list(&["ps", "-as"]), "CONTAINER ID   IMAGE   COMMAND   CREATED   STATUS   PORTS   NAMES   SIZE\n");
    assert_eq!(list(&["volume", "ls"]), "DRIVER   VOLUME NAME\n");
    assert_eq!(list(&["container", "prune", "-f"]), "Total reclaimed space: 0B\n");
    assert_eq!(list(&["volume", "rm", "-f", "nothing"]), "nothing\n");
    assert_eq!(list(&["images", "--digests"]), "REPOSITORY   TAG   DIGEST   IMAGE ID   CREATED   SIZE\n");
    assert_eq!(list(&["images", "--format", r"table {{.ID}}\t{{upper .Tag}}"]), "IMAGE ID   TAG\n");
    for quiet in [["images", "-q"], ["ps", "-q"], ["ps", "--format={{.ID}}"], ["images", "--format=json"]] {
        assert_eq!(list(&quiet), "");
    }
}

#[test]
fn command_belongs_to_the_container_from_its_first_word() {
    let home = tempfile::tempdir().expect("a directory");
    // Unknown image: the flags behind it were not ours to refuse.
    let out = coracle(
        home.path(),
        &["run", "--pull=never", "-e", "-X=1", "no-such-image", "ls", "-l", "--no-such-flag", "-h"],
    );
    assert_eq!(out.status.code(), Some(125));
    assert!(text(&out.stderr).contains("no-such-image"), "{}", text(&out.stderr));
}

#[test]
fn home_that_is_no_directory() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("file");
    std::fs::write(&file, "").expect("written");
    let out = coracle(&file, &["images"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("hint: CORACLE_HOME and --home must name a directory"), "{}", text(&out.stderr));
}

#[test]
fn settings_file_that_is_wrong_is_named() {
    let home = tempfile::tempdir().expect("a directory");
    std::fs::write(home.path().join("settings.json"), r#"{"acel": "kvm"}"#).expect("written");
    let out = coracle(home.path(), &["images"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("settings.json") && text(&out.stderr).contains("acel"), "{}", text(&out.stderr));
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let home = tempfile::tempdir().expect("a directory");
    for shell in ["bash", "zsh", "fish"] {
        let out = coracle(home.path(), &["completion", shell]);
        assert!(out.status.success(), "{}", text(&out.stderr));
        for word in ["unpause", "device-read-bps", "volume"] {
            assert!(text(&out.stdout).contains(word), "{shell}: {word}");
        }
        assert!(!text(&out.stdout).contains("oom-kill-disable"), "{shell} completes what is refused");
    }
    let pages = home.path().join("man");
    let out = coracle(home.path(), &["man", pages.to_str().expect("a path")]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    for page in ["coracle", "coracle-run", "coracle-container-rm", "coracle-volume-create", "coracle-system-df"] {
        let found = std::fs::read_to_string(pages.join(format!("{page}.1"))).expect(page);
        assert!(found.starts_with(".ie") || found.contains(".TH"), "{page}");
    }
    let run = std::fs::read_to_string(pages.join("coracle-run.1")).expect("a page");
    assert!(run.contains(r"\fBcoracle run\fR [OPTIONS] IMAGE"), "{run}");
}
