//! More processes in a container that runs.

use e2e::coracle::{Coracle, finish, scaled};
use e2e::fixtures;
use e2e::processes::Usage;

fn sleeper(flags: &[&str]) -> Coracle {
    let coracle = Coracle::new();
    coracle.load(&fixtures::busybox());
    let _ = coracle.says([&["run", "-d", "--name", "it"], flags, &["busybox", "sleep", "6000"]].concat());
    coracle
}

#[test]
fn exec_has_its_own_streams_and_code() {
    let coracle = sleeper(&[]);
    let out = coracle.coracle(["exec", "it", "sh", "-c", "echo out; echo err >&2; exit 9"]).expect(9).says(&["err"]);
    assert_eq!(out.text(), "out\n");
    let _ = coracle.coracle(["exec", "it", "no-such-command"]).expect(127).says(&["no-such-command"]);
    let _ = coracle.coracle(["exec", "it", "/etc/not-executable"]).expect(126);
    assert_eq!(coracle.status("it"), "running");
}

#[test]
fn exec_is_in_the_container() {
    let coracle = sleeper(&["-e", "BOTH=container", "--hostname", "hull"]);
    assert_eq!(coracle.says(["exec", "it", "hostname"]), "hull");
    assert_eq!(coracle.says(["exec", "-e", "MINE=1", "it", "sh", "-c", "echo $BOTH $MINE"]), "container 1");
    assert_eq!(coracle.says(["exec", "-u", "alice", "it", "id", "-u"]), "1000");
    assert_eq!(coracle.says(["exec", "-w", "/etc", "it", "pwd"]), "/etc");
    assert_eq!(coracle.says(["exec", "it", "cat", "/proc/1/comm"]), "sleep");
    let capabilities =
        |flags: &[&str]| coracle.says([&["exec"], flags, &["it", "grep", "CapEff", "/proc/self/status"]].concat());
    assert_ne!(capabilities(&["--privileged"]), capabilities(&[]));
}

#[test]
fn hundred_mebibytes_through_exec_each_way() {
    let coracle = sleeper(&[]);
    let bytes = scaled(100 << 20, 8 << 20);
    let out = coracle.coracle(["exec", "it", "head", "-c", &bytes.to_string(), "/dev/zero"]).expect(0);
    assert_eq!(out.stdout.len(), bytes);
    let out = finish(coracle.command(["exec", "-i", "it", "wc", "-c"]), &vec![b'x'; bytes]).expect(0);
    assert_eq!(out.text().trim(), bytes.to_string());
}

#[test]
fn exec_with_a_terminal() {
    let coracle = sleeper(&[]);
    let command = coracle.command(["exec", "-it", "it", "sh"]);
    let mut terminal = e2e::terminal::Terminal::start(&command, 24, 80).expect("a terminal");
    terminal.send("test -t 0 && echo it is $((40+2)); exit 3\r");
    terminal.expect("it is 42");
    assert_eq!(terminal.finish(), 3);
}

#[test]
fn many_at_once_and_detached() {
    let coracle = sleeper(&[]);
    let _ = coracle.coracle(["exec", "-d", "it", "sh", "-c", "sleep 0.5; touch /detached"]).expect(0);
    std::thread::scope(|scope| {
        for n in 0..8 {
            let coracle = &coracle;
            scope.spawn(move || assert_eq!(coracle.says(["exec", "it", "echo", &n.to_string()]), n.to_string()));
        }
    });
    coracle.until("the detached one", |it| it.coracle(["exec", "it", "test", "-e", "/detached"]).code == 0);
}

/// Program text is left out of the comparison: it is a process's own or not by who else maps it at the moment.
#[test]
fn thousand_execs_leave_both_ends_as_small_as_before() {
    let coracle = sleeper(&[]);
    let keeper = coracle.record("it")["Coracle"]["Keeper"]["Pid"].as_i64().and_then(Usage::of).expect("a keeper");
    let in_the_guest = || {
        let text = coracle.says(["exec", "it", "grep", "-E", "^(AnonPages|SUnreclaim|KernelStack):", "/proc/meminfo"]);
        let kilobytes = text.lines().filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        kilobytes.sum::<u64>() << 10
    };
    let at_rest = keeper.descriptors();
    let round = |count| {
        (0..count).for_each(|_| drop(coracle.coracle(["exec", "it", "true"]).expect(0)));
        // A command may end before its keeper has closed what it had for it.
        coracle.until("no more descriptors than before", |_| keeper.descriptors() <= at_rest);
        coracle.until("a small keeper", |_| keeper.private() < 4 << 20);
    };
    round(scaled(100, 10));
    let before = (keeper.anonymous(), in_the_guest());
    round(scaled(1000, 20));
    // What it needs no more goes back a moment later.
    coracle.until("as little memory as before", |_| keeper.anonymous() < before.0 + (256 << 10));
    coracle.until("a guest as small as before", |_| in_the_guest() < before.1 + (1 << 20));
}

#[test]
fn exec_ends_with_the_container() {
    let coracle = sleeper(&[]);
    let mut child = coracle.command(["exec", "it", "sleep", "6000"]).spawn().expect("coracle");
    coracle.until("its process", |it| it.says(["top", "it"]).matches("sleep").count() >= 2);
    let _ = coracle.says(["kill", "it"]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    assert_ne!(e2e::coracle::shell_code(e2e::coracle::wait(&mut child, deadline)), 0);
    let _ = coracle.coracle(["exec", "it", "true"]).expect(1).says(&["not running"]);
}
