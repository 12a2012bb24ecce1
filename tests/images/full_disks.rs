//! Disks that are full, break, or cannot be written: the command says so and fails, nothing half-done can be seen,
//! and the same command succeeds when the disk is well again.

use std::path::Path;
use std::process::{Command, Stdio};

use e2e::coracle::{Coracle, Output, finish};
use e2e::disk::{Disk, Fault};
use e2e::registry::Registry;

use crate::points::try_all;
use crate::samples::{Pair, memory, pull, remove};
use crate::session::{Session, coracle_in};

/// What is said of a disk without space; after the first, in the words of SQLite.
const FULL: &[&str] = &["o space left on device", "disk is full", "unable to open database file", "disk I/O error"];
/// What is said of a disk that fails; after the first, in the words of SQLite.
const BROKEN: &[&str] = &["nput/output error", "disk I/O error", "unable to open database file"];

#[test]
fn load_on_a_disk_that_fills_up() {
    let pair = Pair::new();
    survives_every_fault(&[pair.load("red")], Fault::Full, FULL);
    survives_every_fault(&[pair.load("red"), pair.load("blue")], Fault::Full, FULL);
}

#[test]
fn load_on_a_disk_that_fails_once() {
    let pair = Pair::new();
    survives_every_fault(&[pair.load("red")], Fault::Broken, BROKEN);
}

#[test]
fn removal_on_a_disk_that_fails_once() {
    let pair = Pair::new();
    survives_every_fault(&[pair.load("red"), pair.load("blue"), remove("red")], Fault::Broken, BROKEN);
}

#[test]
fn pull_on_a_disk_that_fills_up_or_fails_once() {
    let (registry, pair) = (Registry::open(), Pair::new());
    pair.publish(&registry);
    survives_every_fault(&[pull(&registry, "red")], Fault::Full, FULL);
    survives_every_fault(&[pull(&registry, "red"), pull(&registry, "blue")], Fault::Broken, BROKEN);
}

/// Lets the disk fail at each change of the last command.
fn survives_every_fault(commands: &[Vec<String>], fault: fn(usize) -> Fault, complaints: &[&str]) {
    let session = Session::rehearse(commands);
    let points = try_all(1.., |at| survives_fault(&session, fault(at), complaints));
    println!("{:?}: failed at {points} changes", fault(0));
}

/// Whether the command was still running at the fault's change.
fn survives_fault(session: &Session, fault: Fault, complaints: &[&str]) -> bool {
    let step = session.commands.len() - 1;
    let disk = Disk::mount(&session.stages[step].tree, fault);
    let out = coracle_in(disk.path()).coracle(&session.commands[step]);
    let struck = disk.struck();
    let directory = memory();
    disk.unmount().write_to(directory.path()).expect("written");
    let when = format!("{fault:?}, code {}, {:?}", out.code, out.stderr);
    if out.code == 0 {
        // What failed was not needed: all of it is there.
        session.examine_after(directory.path(), step, &when);
    } else {
        assert!(complaints.iter().any(|complaint| out.stderr.contains(complaint)), "{when}: says nothing of the disk");
        session.examine(directory.path(), step, &when);
    }
    struck
}

#[test]
fn file_systems_too_small_for_the_image() {
    let pair = Pair::new();
    for (count, kib) in (64..8192).step_by(160).enumerate() {
        let out = load_into(&format!("size={kib}k"), "size=64m", &pair.layout("red"));
        if out.code == 0 {
            assert!(count > 8, "{kib} KiB are enough, which says little");
            return;
        }
        assert!(FULL.iter().any(|text| out.stderr.contains(text)), "{kib} KiB: {}: {}", out.code, out.stderr);
    }
    panic!("an image of 2 MiB does not fit into 8 MiB");
}

#[test]
fn file_systems_with_too_few_inodes() {
    let pair = Pair::new();
    for inodes in [3, 6, 9, 12, 15, 18, 21, 24] {
        let out = load_into(&format!("nr_inodes={inodes}"), "nr_inodes=0", &pair.layout("red"));
        assert!(out.code != 0, "{inodes} inodes are enough");
        assert!(FULL.iter().any(|text| out.stderr.contains(text)), "{inodes} inodes: {}: {}", out.code, out.stderr);
    }
}

/// Loads into a file system with `limits`, and then once more with `relief`. In between no image is listed, and nothing
/// is left after a prune.
fn load_into(limits: &str, relief: &str, layout: &Path) -> Output {
    let directory = memory();
    let script = r#"
        mount -t tmpfs -o "$1",mode=700 full "$3" || exit 98
        "$4" load -i "$5"; code=$?
        [ "$code" = 0 ] && exit 0
        mount -o "remount,$2" "$3" || exit 98
        [ -z "$("$4" images -q)" ] || exit 99
        "$4" image prune --force > /dev/null || exit 99
        cd "$3"/data && find tmp leases layers/sha256 blobs/sha256 roots/sha256 -mindepth 1 | grep . >&2 && exit 99
        "$4" load -q -i "$5" > /dev/null || exit 99
        exit "$code""#;
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh", limits, relief]).arg(directory.path());
    command.arg(Coracle::binary()).arg(layout).env("CORACLE_HOME", directory.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let out = finish(command, b"");
    assert!(![98, 99].contains(&out.code), "{limits}: {}", out.stderr);
    out
}

#[test]
fn store_that_cannot_be_written() {
    let pair = Pair::new();
    let directory = memory();
    let home = directory.path().join("home");
    let coracle = Coracle::at(&home);
    let _ = coracle.coracle(pair.load("red")).expect(0);
    for arguments in [pair.load("blue"), remove("red")] {
        let mut command = Command::new("unshare");
        let script = r#"mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@""#;
        command.args(["-m", "sh", "-c", script, "sh"]).arg(&home).arg(Coracle::binary()).args(&arguments);
        command.env("CORACLE_HOME", &home).stdout(Stdio::piped()).stderr(Stdio::piped());
        let out = finish(command, b"");
        assert!(out.code != 0, "{arguments:?} succeeded");
        let _ = out.says(&["ead-only file system", home.to_str().expect("a path that is text")]);
    }
    let _ = coracle.coracle(pair.load("blue")).expect(0);
    let _ = coracle.coracle(["rmi", "red", "blue"]).expect(0);
    coracle.nothing_left();
}
