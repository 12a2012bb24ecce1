//! kill -9 at every change that a command makes to its disk: what was begun is whole or not there, and the same
//! command then succeeds.

use std::fs;
use std::path::Path;

use e2e::coracle::Output;
use e2e::disk::{Disk, Fault, Tree};
use e2e::registry::Registry;

use crate::points::try_all;
use crate::samples::{Pair, memory, pull, remove};
use crate::session::{Session, coracle_in};

#[test]
fn first_load() {
    let pair = Pair::new();
    survives_every_kill(&Session::rehearse(&[pair.load("red")]), 200);
}

#[test]
fn load_that_shares_layers() {
    let pair = Pair::new();
    survives_every_kill(&Session::rehearse(&[pair.load("red"), pair.load("blue")]), 80);
}

#[test]
fn removal() {
    let pair = Pair::new();
    survives_every_kill(&Session::rehearse(&[pair.load("red"), pair.load("blue"), remove("red")]), 20);
}

#[test]
fn prune_of_an_image_that_lost_its_name() {
    let pair = Pair::new();
    let lose = ["tag", "blue", "red"].map(str::to_owned).into();
    let prune = ["image", "prune", "--force"].map(str::to_owned).into();
    survives_every_kill(&Session::rehearse(&[pair.load("red"), pair.load("blue"), lose, prune]), 20);
}

#[test]
fn first_pull() {
    let (registry, pair) = (Registry::open(), Pair::new());
    pair.publish(&registry);
    survives_every_kill(&Session::rehearse(&[pull(&registry, "red")]), 200);
}

#[test]
fn pull_that_shares_layers() {
    let (registry, pair) = (Registry::open(), Pair::new());
    pair.publish(&registry);
    survives_every_kill(&Session::rehearse(&[pull(&registry, "red"), pull(&registry, "blue")]), 80);
}

#[test]
fn pull_that_keeps_layers_as_they_come() {
    let (registry, pair) = (Registry::open(), Pair::new());
    pair.publish(&registry);
    let settings = r#"{"keep_blobs": true, "parallel_layers": 1}"#;
    survives_every_kill(&Session::rehearse_with(settings, &[pull(&registry, "red")]), 200);
}

#[test]
fn a_download_goes_on_where_it_was_killed() {
    let (registry, pair) = (Registry::open(), Pair::new());
    pair.publish(&registry);
    let session = Session::rehearse(&[pull(&registry, "red")]);
    for at in 1.. {
        let (out, tree) = killed(&session, at);
        assert!(out.code != 0, "the command ended before a part of a layer was there");
        let directory = memory();
        tree.write_to(directory.path()).expect("written");
        let coracle = coracle_in(directory.path());
        let Some((digest, length)) = part_of_a_layer(coracle.home()) else { continue };
        let before = registry.parts_sent();
        let _ = coracle.coracle(&session.commands[0]).expect(0);
        let after = registry.parts_sent();
        assert!(after.get(&digest) > before.get(&digest), "killed with {length} bytes of {digest}: begun anew");
        return;
    }
}

/// The digest and the length of what is there of a layer.
fn part_of_a_layer(home: &Path) -> Option<(String, u64)> {
    let parts = fs::read_dir(home.join("data/partial")).ok()?;
    let parts = parts.map(|part| part.expect("an entry"));
    let found = parts.map(|part| (part.file_name(), part.metadata().expect("metadata").len()));
    let (name, length) = found.into_iter().find(|(name, length)| *length > 0 && name.len() == 64)?;
    Some((format!("sha256:{}", name.to_str()?), length))
}

/// Kills the last command at each of its changes, of which there are to be `least`.
fn survives_every_kill(session: &Session, least: usize) {
    let points = try_all(1.., |at| survives_kill(session, at));
    println!("killed at {points} changes");
    assert!(points >= least, "only {points} changes to be killed at, not {least}");
}

/// Whether the command was still running at its change number `at`.
fn survives_kill(session: &Session, at: usize) -> bool {
    let (out, tree) = killed(session, at);
    if out.code == 0 {
        return false;
    }
    assert_eq!(out.code, 128 + 9, "killed at change {at}: {}", out.stderr);
    let directory = memory();
    tree.write_to(directory.path()).expect("written");
    session.examine(directory.path(), session.commands.len() - 1, &format_args!("killed at change {at}"));
    true
}

/// Runs the last command, which is killed at its change number `at`; gives back what is on the disk then.
fn killed(session: &Session, at: usize) -> (Output, Tree) {
    let step = session.commands.len() - 1;
    let disk = Disk::mount(&session.stages[step].tree, Fault::Kill(at));
    let out = coracle_in(disk.path()).coracle(&session.commands[step]);
    assert_eq!(out.code != 0, disk.struck(), "killed at change {at}: {}: {}", out.code, out.stderr);
    (out, disk.unmount())
}
