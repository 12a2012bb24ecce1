//! Exit codes are the process's own; 125, 126, 127 and 128+n as Docker has them.

use e2e::coracle::Coracle;

#[test]
fn hello() {
    let out = Coracle::shared().run(["busybox", "echo", "hello", "from a hull"]).expect(0);
    assert_eq!(out.text(), "hello from a hull\n");
}

#[test]
fn exit_code_is_the_process_s() {
    for code in [0, 1, 42, 255] {
        let _ = Coracle::shared().sh(&format!("exit {code}")).expect(code);
    }
}

#[test]
fn command_that_is_not_there_is_127() {
    let _ = Coracle::shared().run(["busybox", "no-such-command"]).expect(127).says(&["no-such-command"]);
}

#[test]
fn command_that_cannot_be_executed_is_126() {
    let _ = Coracle::shared().run(["busybox", "/etc/not-executable"]).expect(126).says(&["/etc/not-executable"]);
    let _ = Coracle::shared().run(["busybox", "/etc"]).expect(126).says(&["/etc"]);
}

#[test]
fn signal_that_ends_the_process_is_128_and_its_number() {
    let _ = Coracle::shared().run(["--init", "busybox", "sh", "-c", "kill -KILL $$"]).expect(137);
    let _ = Coracle::shared().run(["--init", "busybox", "sh", "-c", "kill -TERM $$"]).expect(143);
}

#[test]
fn image_without_a_command_gets_the_image_s_own() {
    let out = Coracle::shared().run_with_input(["-i", "busybox"], b"echo $((6 * 7))\n").expect(0);
    assert_eq!(out.text(), "42\n");
}

#[test]
fn entrypoint_takes_the_arguments() {
    let out = Coracle::shared().run(["--entrypoint", "/bin/echo", "busybox", "a", "b"]).expect(0);
    assert_eq!(out.text(), "a b\n");
}

#[test]
fn timings_are_told_on_stderr() {
    let out = Coracle::shared().run(["--timings", "busybox", "true"]).expect(0);
    let _ = out.says(&["plan", "disks", "machine process", "kernel", "guest init", "spawn", "exit"]);
}
