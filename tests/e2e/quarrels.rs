//! Many commands about one container, and many containers at once.

use e2e::coracle::{Coracle, Output, scaled};
use e2e::fixtures;

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

#[test]
fn many_cycles_leave_nothing() {
    let coracle = loaded();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..scaled(5, 2)).for_each(|_| drop(coracle.run(["busybox", "true"]).expect(0))));
        }
    });
    coracle.nothing_left();
}
