//! `-t` gives a real terminal.

use e2e::coracle::Coracle;
use e2e::terminal::Terminal;

fn start(arguments: &[&str]) -> Terminal {
    let mut command = Coracle::shared().command(["run", "--rm"]);
    command.args(arguments);
    Terminal::start(&command, 33, 111).expect("a terminal")
}

#[test]
fn size_and_resize() {
    let script = "stty size; until stty size | grep -v 33; do sleep 0.1; done; exit 3";
    let mut terminal = start(&["-it", "busybox", "sh", "-c", script]);
    terminal.expect("33 111");
    terminal.resize(44, 222);
    terminal.expect("44 222");
    assert_eq!(terminal.finish(), 3);
}

/// Ctrl-C at a container started with `flags` reaches the process, which ends as it likes.
fn control_c(flags: &str) {
    let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done";
    let mut terminal = start(&[flags, "busybox", "sh", "-c", script]);
    terminal.expect("ready");
    terminal.send("\x03");
    terminal.expect("caught");
    assert_eq!(terminal.finish(), 9);
}

#[test]
fn control_c_reaches_the_process() {
    control_c("-it");
}

#[test]
fn control_c_without_a_terminal_is_a_signal() {
    control_c("-i");
}

#[test]
fn standard_streams_are_a_terminal() {
    let mut terminal = start(&["-it", "busybox", "sh", "-c", "test -t 0 && test -t 1 && test -t 2 && tty"]);
    terminal.expect("/dev/pts/0");
    assert_eq!(terminal.finish(), 0);
}

#[test]
fn terminal_without_a_terminal_is_refused() {
    let _ = Coracle::shared().run_with_input(["-it", "busybox", "true"], b"x").expect(125).says(&["not a TTY"]);
}
