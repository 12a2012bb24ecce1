//! kill -9 of the command line, the keeper and the machine at points all over what commands do: the next command works,
//! nothing is left over, and what was synced or committed is there.

use std::fs;
use std::thread;
use std::time::Duration;

use e2e::coracle::{Coracle, Output, scaled};
use e2e::fixtures;
use e2e::processes::{Mark, Role, kill};

const VICTIMS: [Role; 3] = [Role::Command, Role::Keeper, Role::Machine];

const KEEP: &str = "test -s /kept || echo precious > /kept; sync; echo synced";

/// A home, and who lives in it.
struct Scene {
    coracle: Coracle,
    mark: Mark,
}

impl Scene {
    fn new() -> Self {
        let mark = Mark::new();
        let coracle = Coracle::new().marked(mark);
        coracle.load(&fixtures::busybox());
        Self { coracle, mark }
    }

    /// Runs a command and kills somebody at `count` points of it; `ready` goes before and `check` after each. The points
    /// are spread over the shortest time that it took undisturbed, and evenly, however many are needed.
    fn strike(&self, count: usize, command: &[&str], ready: impl Fn(&Self), check: impl Fn(&Self, &Output)) {
        const GOLDEN: f64 = 0.618_033_988_749_895;
        let (mut span, mut struck, mut part) = (Duration::MAX, 0, 0.0);
        for attempt in 0.. {
            assert!(attempt < 4 * (count + 1), "{command:?}: struck at {struck} points only");
            ready(self);
            let victim = (attempt > 0).then(|| (VICTIMS[attempt % VICTIMS.len()], span.mul_f64(part)));
            let (out, hit) = self.run(command, victim, attempt);
            self.settle();
            check(self, &out);
            if !hit {
                span = span.min(out.expect(0).took);
            } else if struck + 1 == count {
                return;
            }
            struck += usize::from(hit);
            part = (part + GOLDEN).fract();
        }
    }

    /// Runs a command; kills a victim after so long, if the command still runs then. In place of one that is not there
    /// yet, or no more, it is the command line; of two machine processes it is one or the other.
    fn run(&self, command: &[&str], victim: Option<(Role, Duration)>, attempt: usize) -> (Output, bool) {
        thread::scope(|scope| {
            let run = scope.spawn(|| self.coracle.coracle(command));
            let hit = victim.is_some_and(|(role, after)| {
                thread::sleep(after);
                let pids = [role, Role::Command].map(|role| self.mark.of(role));
                let pids = if pids[0].is_empty() { &pids[1] } else { &pids[0] };
                let pid = pids.get(attempt / VICTIMS.len() % pids.len().max(1)).filter(|_| !run.is_finished());
                pid.inspect(|&&pid| kill(pid)).is_some()
            });
            (run.join().expect("a command"), hit)
        })
    }

    /// The next command works, and says of the container what is so: it has its processes, or there are none.
    fn settle(&self) {
        self.coracle.until("processes as the list has it", |coracle| {
            let running = coracle.says(["ps", "-q"]).lines().count();
            let is = |role| self.mark.of(role).len();
            let machines = is(Role::Machine);
            is(Role::Command) == 0 && is(Role::Keeper) == running && (machines >= running && machines <= 2 * running)
        });
    }

    fn exists(&self) -> bool {
        !self.coracle.says(["ps", "-a", "-q"]).is_empty()
    }

    /// There is a container that has written something, synced it, and sleeps.
    fn sleeper(&self) {
        if !self.exists() {
            let script = format!("{KEEP}; exec sleep 600");
            let _ = self.coracle.says(["run", "-d", "--name", "it", "busybox", "sh", "-c", &script]);
            self.coracle.until("the sync", |coracle| coracle.says(["logs", "it"]) == "synced");
        } else if self.coracle.status("it") != "running" {
            let _ = self.coracle.says(["start", "it"]);
        }
    }

    /// What was synced is there, whether the container runs or not.
    fn kept(&self) {
        let tar = self.coracle.coracle(["cp", "it:/kept", "-"]).expect(0).stdout;
        assert!(tar.windows(8).any(|part| part == b"precious"), "what was synced is lost");
    }

    /// Removes what is there; then nothing is.
    fn leave(&self) {
        if self.exists() {
            let _ = self.coracle.says(["rm", "-f", "it"]);
        }
        self.coracle.nothing_left();
        self.settle();
    }

    /// Nothing that a container or a command needs is left in the end.
    fn end(&self) {
        self.leave();
        let _ = self.coracle.says(["image", "prune", "-f"]);
        let home = self.coracle.home();
        for directory in ["data/tmp", "data/leases", "data/partial"] {
            let left: Vec<_> = fs::read_dir(home.join(directory)).into_iter().flatten().flatten().collect();
            assert!(left.is_empty(), "{left:?}");
        }
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        assert!(!mounts.contains(home.to_str().expect("text")), "{mounts}");
    }
}

#[test]
fn run() {
    let command = ["run", "--name", "it", "busybox", "sh", "-c", KEEP];
    let scene = Scene::new();
    scene.strike(scaled(36, 6), &command, Scene::leave, |scene, out| {
        // What a killed command left runs on to its end.
        scene.coracle.until("its end", |coracle| coracle.says(["ps", "-q"]).is_empty());
        if out.text() == "synced\n" {
            scene.kept();
        }
    });
    scene.end();
}

#[test]
fn exec() {
    let command = ["exec", "it", "sh", "-c", "echo more >> /kept; sync"];
    let scene = Scene::new();
    scene.strike(scaled(30, 3), &command, Scene::sleeper, |scene, _| scene.kept());
    scene.end();
}

#[test]
fn stop() {
    let scene = Scene::new();
    scene.strike(scaled(24, 3), &["stop", "-t", "0", "it"], Scene::sleeper, |scene, _| scene.kept());
    scene.end();
}

/// A removal that was begun is carried through, or was not begun.
fn removed_or_not(scene: &Scene, out: &Output) {
    if out.code == 0 {
        assert!(!scene.exists());
    } else if scene.exists() {
        scene.kept();
    }
}

#[test]
fn removal() {
    let scene = Scene::new();
    scene.strike(scaled(12, 2), &["rm", "-f", "it"], Scene::sleeper, removed_or_not);
    let stopped = |scene: &Scene| {
        if !scene.exists() {
            let _ = scene.coracle.coracle(["run", "--name", "it", "busybox", "sh", "-c", KEEP]).expect(0);
        }
    };
    scene.strike(scaled(6, 1), &["rm", "it"], stopped, removed_or_not);
    scene.end();
}

#[test]
fn commit() {
    let scene = Scene::new();
    scene.strike(scaled(24, 3), &["commit", "it", "made"], Scene::sleeper, |scene, out| {
        scene.kept();
        if out.code == 0 {
            let _ = scene.coracle.says(["image", "inspect", "made"]);
        }
        let _ = scene.coracle.says(["image", "verify"]);
    });
    let _ = scene.coracle.says(["commit", "it", "made"]);
    assert_eq!(scene.coracle.run(["made", "cat", "/kept"]).expect(0).text(), "precious\n");
    scene.end();
}
