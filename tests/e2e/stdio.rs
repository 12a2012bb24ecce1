//! Standard streams flow both ways and stay apart.

use e2e::coracle::{Coracle, scaled};

#[test]
fn stdout_and_stderr_stay_apart() {
    let out = Coracle::shared().sh("echo out; echo err >&2").expect(0);
    assert_eq!(out.text(), "out\n");
    assert_eq!(out.stderr.lines().filter(|l| !l.starts_with("coracle:")).collect::<Vec<_>>(), ["err"]);
}

#[test]
fn hundred_mebibytes_in() {
    let input: Vec<u8> = (0..100_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let expected = {
        let sums = std::process::Command::new("sha256sum").arg("--version").output();
        assert!(sums.is_ok(), "sha256sum of coreutils");
        sha256(&input)
    };
    let out = Coracle::shared().run_with_input(["-i", "busybox", "sha256sum"], &input).expect(0);
    assert_eq!(out.text().split_whitespace().next(), Some(expected.as_str()));
}

#[test]
fn hundred_mebibytes_out() {
    let bytes = scaled(100 << 20, 4 << 20);
    let out = Coracle::shared().sh(&format!("yes coracle | head -c {bytes}")).expect(0);
    assert_eq!(out.stdout.len(), bytes);
    assert!(out.stdout.chunks_exact(8).all(|line| line == b"coracle\n"));
}

#[test]
fn stdin_is_closed_without_interactive() {
    let out = Coracle::shared().run_with_input(["busybox", "cat"], b"unseen").expect(0);
    assert_eq!(out.text(), "");
}

#[test]
fn end_of_stdin_reaches_the_process() {
    let out =
        Coracle::shared().run_with_input(["-i", "busybox", "sh", "-c", "cat; echo done"], b"last words").expect(0);
    assert_eq!(out.text(), "last wordsdone\n");
}

#[test]
fn process_that_does_not_read_its_stdin_ends() {
    let input = vec![b'x'; 8 << 20];
    let _ = Coracle::shared().run_with_input(["-i", "busybox", "true"], &input).expect(0);
}

#[test]
fn output_of_a_process_that_closes_stdout_early_is_whole() {
    let out = Coracle::shared().sh("echo one; exec >&-; sleep 0.1; echo two >&2").expect(0);
    assert_eq!(out.text(), "one\n");
}

fn sha256(bytes: &[u8]) -> String {
    let mut command = std::process::Command::new("sha256sum");
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let out = e2e::coracle::finish(command, bytes);
    out.text().split_whitespace().next().expect("a digest").to_owned()
}
