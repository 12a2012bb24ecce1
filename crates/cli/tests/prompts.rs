//! Questions on a terminal: a password is not shown, and Ctrl-C leaves the terminal as it was.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    process::{Command, Stdio},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};

/// The user's side of a terminal, and the program's.
fn terminal() -> (File, File) {
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&user).expect("granted");
    unlockpt(&user).expect("unlocked");
    let name = ptsname(&user, Vec::new()).expect("its name");
    let program = OpenOptions::new().read(true).write(true).open(name.to_str().expect("text")).expect("opened");
    (File::from(user), program)
}

fn read_until(terminal: &mut File, end: &str) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(end.as_bytes()) && terminal.read(&mut byte).is_ok_and(|count| count == 1) {
        text.push(byte[0]);
    }
    String::from_utf8(text).expect("text")
}

#[test]
fn password_is_not_shown_and_can_be_interrupted() {
    let home = tempfile::tempdir().expect("a directory");
    let (mut user, program) = terminal();
    let shows = || tcgetattr(&program).expect("modes").local_modes.contains(LocalModes::ECHO);
    let side = || Stdio::from(program.try_clone().expect("a descriptor"));
    // Ctrl-C goes to those whose controlling terminal it is.
    let mut command = Command::new("timeout");
    command.args(["60", "setsid", "--ctty", "--wait", env!("CARGO_BIN_EXE_coracle"), "login", "localhost:1"]);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home.path()).env("CORACLE_HOME", home.path());
    let mut child = command.stdin(side()).stdout(side()).stderr(side()).spawn().expect("setsid");
    assert_eq!(read_until(&mut user, "Username: "), "Username: ");
    assert!(shows());
    user.write_all(b"me\n").expect("written");
    assert_eq!(read_until(&mut user, "Password: "), "me\r\nPassword: ");
    assert!(!shows());
    user.write_all(b"\x03").expect("written");
    assert_eq!(child.wait().expect("its end").code(), Some(130));
    assert!(shows());
}
