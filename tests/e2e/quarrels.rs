//! Many commands about one container, and many containers at once.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use e2e::coracle::{Coracle, Output, scaled};
use e2e::fixtures;
use e2e::processes::{Mark, Usage};

fn loaded() -> Coracle {
    let coracle = Coracle::new();
    coracle.load(&fixtures::busybox());
    coracle
}

/// Runs the same command many times at once.
fn at_once(coracle: &Coracle, count: usize, arguments: &[&str]) -> Vec<Output> {
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..count).map(|_| scope.spawn(|| coracle.coracle(arguments))).collect();
        runs.into_iter().map(|run| run.join().expect("a thread")).collect()
    })
}

#[test]
fn of_fifty_that_take_a_name_one_wins() {
    let coracle = loaded();
    let all = at_once(&coracle, scaled(50, 8), &["create", "--name", "it", "busybox", "true"]);
    assert_eq!(all.iter().filter(|out| out.code == 0).count(), 1);
    for out in all.iter().filter(|out| out.code != 0) {
        assert!(out.code == 1 && out.stderr.contains("it") && out.stderr.contains("use"), "{out:?}");
    }
    assert_eq!(coracle.says(["ps", "-a", "-q"]).lines().count(), 1);
}

#[test]
fn fifty_starts_start_it_once() {
    let coracle = loaded();
    let _ = coracle.says(["create", "--name", "it", "busybox", "sh", "-c", "echo x >> /runs; sleep 600"]);
    for out in at_once(&coracle, scaled(50, 8), &["start", "it"]) {
        assert!(out.code == 0 || out.stderr.contains("it"), "{out:?}");
    }
    coracle.until("running", |it| it.status("it") == "running");
    coracle.until("its line", |it| it.coracle(["exec", "it", "test", "-s", "/runs"]).code == 0);
    assert_eq!(coracle.says(["exec", "it", "cat", "/runs"]), "x");
    let removed = at_once(&coracle, scaled(20, 6), &["rm", "-f", "it"]);
    assert!(removed.iter().any(|out| out.code == 0), "{removed:?}");
    for out in removed.iter().filter(|out| out.code != 0) {
        assert!(out.stderr.contains("it"), "{out:?}");
    }
    coracle.nothing_left();
}

/// What a home has of the host: processes and their descriptors, files, and MiB of them.
#[derive(Debug, Clone, Copy)]
struct Holdings {
    processes: usize,
    descriptors: usize,
    files: usize,
    mebibytes: u64,
}

impl Holdings {
    fn of(coracle: &Coracle, mark: Mark) -> Self {
        let processes = mark.processes();
        let sizes = sizes_below(coracle.home());
        Self {
            processes: processes.len(),
            descriptors: processes.iter().map(|(pid, _)| Usage::from(*pid).descriptors()).sum(),
            files: sizes.len(),
            mebibytes: sizes.iter().sum::<u64>() >> 20,
        }
    }

    /// Nothing is more; the database has a few hundred events more, and may begin another MiB.
    fn is_within(self, before: Self) -> bool {
        let things = |it: Self| [it.processes, it.descriptors, it.files];
        things(self).iter().zip(things(before)).all(|(now, then)| *now <= then)
            && self.mebibytes <= before.mebibytes + 1
    }
}

/// Bytes on the disk of everything below a directory.
fn sizes_below(directory: &Path) -> Vec<u64> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| {
        let below = if entry.file_type().is_ok_and(|kind| kind.is_dir()) { sizes_below(&entry.path()) } else { vec![] };
        let own = entry.metadata().map_or(0, |found| found.blocks() * 512);
        below.into_iter().chain([own]).collect::<Vec<_>>()
    };
    entries.flat_map(of).collect()
}

#[test]
fn two_hundred_cycles_and_twenty_at_once_leave_nothing() {
    let mark = Mark::new();
    let coracle = loaded().marked(mark);
    let _ = coracle.says(["run", "-d", "--name", "bystander", "busybox", "sleep", "6000"]);
    let cycle = || drop(coracle.run(["busybox", "true"]).expect(0));
    cycle();
    let before = Holdings::of(&coracle, mark);
    (0..scaled(200, 6)).for_each(|_| cycle());
    std::thread::scope(|scope| (0..scaled(20, 3)).for_each(|_| drop(scope.spawn(cycle))));
    let mut after = before;
    coracle.until("no more than before", |coracle| {
        after = Holdings::of(coracle, mark);
        println!("{before:?} {after:?}");
        after.is_within(before)
    });
    let _ = coracle.says(["rm", "-f", "bystander"]);
    coracle.nothing_left();
    coracle.until("no process", |_| mark.processes().is_empty());
}
