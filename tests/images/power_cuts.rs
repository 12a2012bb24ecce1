//! A power cut at every change that commands make to their disk, with what was not synced lost in several ways:
//! what a command that had ended brought is there and whole, and of the one that was running all or nothing.

use std::collections::HashSet;

use e2e::disk::cut::{Cutter, Loss, fingerprint};
use e2e::disk::{Disk, Fault, History, Tree};
use e2e::registry::Registry;

use crate::points::try_all;
use crate::samples::{Pair, memory, pull, remove};
use crate::session::{Session, coracle_in};

#[test]
fn loads_and_removals() {
    let pair = Pair::new();
    let commands = [pair.load("red"), pair.load("blue"), remove("red"), pair.load("red")];
    survives_every_cut(&Session::rehearse(&commands), 400);
}

#[test]
fn pulls_and_removals() {
    let (registry, pair) = (Registry::open(), Pair::new());
    pair.publish(&registry);
    let red = registry.image("red");
    let commands = [pull(&registry, "red"), pull(&registry, "blue"), remove(&red), pull(&registry, "red")];
    survives_every_cut(&Session::rehearse(&commands), 400);
}

#[test]
fn pull_that_keeps_layers_as_they_come() {
    let (registry, pair) = (Registry::open(), Pair::new());
    pair.publish(&registry);
    survives_every_cut(&Session::rehearse_with(r#"{"keep_blobs": true}"#, &[pull(&registry, "red")]), 200);
}

/// What is on the disk after a cut.
struct Remains {
    tree: Tree,
    /// Commands that had ended.
    step: usize,
    when: String,
}

/// Cuts the power at each change of the commands, of which there are to be `least`.
fn survives_every_cut(session: &Session, least: usize) {
    let history = perform(session);
    let remains = remains(&history);
    let points = history.changes.len();
    println!("{points} cuts with {} losses each leave {} different disks", Loss::ALL.len(), remains.len());
    assert!(points >= least, "only {points} changes to cut at, not {least}");
    try_all(remains.into_iter(), |Remains { tree, step, when }| {
        let directory = memory();
        tree.write_to(directory.path()).expect("written");
        session.examine(directory.path(), step, &when);
        true
    });
}

/// Runs the session once more, on a disk that remembers.
fn perform(session: &Session) -> History {
    let disk = Disk::mount(&session.stages[0].tree, Fault::None);
    for command in &session.commands {
        let _ = coracle_in(disk.path()).coracle(command).expect(0);
        disk.mark();
    }
    disk.into_history()
}

/// Every different disk that a cut leaves.
fn remains(history: &History) -> Vec<Remains> {
    let mut cutter = Cutter::new(history);
    let mut known = HashSet::new();
    let mut remains = Vec::new();
    loop {
        let position = cutter.position();
        let step = history.marks.iter().filter(|mark| **mark <= position).count();
        for loss in Loss::ALL {
            let tree = cutter.cut(loss);
            if known.insert((step, fingerprint(&tree))) {
                let when = format!("power cut after change {position}, losing {loss:?}");
                remains.push(Remains { tree, step, when });
            }
        }
        if !cutter.advance() {
            return remains;
        }
    }
}
