//! kill -9 at every change that a command makes to its disk: what was begun is whole or not there, and the same
//! command then succeeds.

use e2e::disk::{Disk, Fault};
use e2e::registry::Registry;

use crate::points::try_all;
use crate::samples::{Pair, memory, pull, remove};
use crate::session::{Session, coracle_in};

#[test]
fn first_load() {
    let pair = Pair::new();
    survives_every_kill(&[pair.load("red")], 200);
}

#[test]
fn load_that_shares_layers() {
    let pair = Pair::new();
    survives_every_kill(&[pair.load("red"), pair.load("blue")], 80);
}

#[test]
fn removal() {
    let pair = Pair::new();
    survives_every_kill(&[pair.load("red"), pair.load("blue"), remove("red")], 20);
}

#[test]
fn first_pull() {
    let (registry, pair) = (Registry::open(), Pair::new());
    pair.publish(&registry);
    survives_every_kill(&[pull(&registry, "red")], 200);
}

#[test]
fn pull_that_shares_layers() {
    let (registry, pair) = (Registry::open(), Pair::new());
    pair.publish(&registry);
    survives_every_kill(&[pull(&registry, "red"), pull(&registry, "blue")], 80);
}

/// Kills the last command at each of its changes, of which there are to be `least`.
fn survives_every_kill(commands: &[Vec<String>], least: usize) {
    let session = Session::rehearse(commands);
    let points = try_all(1.., |at| survives_kill(&session, at));
    println!("killed at {points} changes");
    assert!(points >= least, "only {points} changes to be killed at, not {least}");
}

/// Whether the command was still running at its change number `at`.
fn survives_kill(session: &Session, at: usize) -> bool {
    let step = session.commands.len() - 1;
    let disk = Disk::mount(&session.stages[step].tree, Fault::Kill(at));
    let out = coracle_in(disk.path()).coracle(&session.commands[step]);
    if !disk.struck() {
        let _ = out.expect(0);
        return false;
    }
    assert_eq!(out.code, 128 + 9, "killed at change {at}");
    let directory = memory();
    disk.unmount().write_to(directory.path()).expect("written");
    session.examine(directory.path(), step, &format_args!("killed at change {at}"));
    true
}
