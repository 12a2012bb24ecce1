//! Many commands at once in one home: each blob is downloaded once, nobody gets in another's way, and nothing is left.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use e2e::aftermath;
use e2e::archives::{Layer, Layout};
use e2e::coracle::Coracle;
use e2e::registry::Registry;
use serde_json::Value;

use crate::samples::layer;
use crate::tools::{Surroundings, oci};

/// Processes at the same time.
const CROWD: usize = 20;

/// Images that share layers, each with one of its own.
const IMAGES: usize = 5;

/// A registry with [`IMAGES`] images: layers 0 to 3 are in all of them.
fn fleet(user: &Surroundings) -> Registry {
    let registry = Registry::open();
    let mut layout = Layout::new(&user.path("fleet"));
    for number in 0..IMAGES as u64 {
        let layers: Vec<Layer> = [0, 1, 2, 3, 100 + number].map(|number| layer(&layout, number)).into();
        let manifest = layout.manifest(&layers, &format!("command-{number}"));
        let name = format!("boat-{number}:latest");
        layout.name(manifest, &name);
        let to = format!("docker://{}", registry.image(&format!("fleet/{name}")));
        user.skopeo_copy(&[], &oci(layout.path(), &name), &to);
    }
    registry
}

fn boat(registry: &Registry, number: usize) -> String {
    registry.image(&format!("fleet/boat-{}:latest", number % IMAGES))
}

/// Runs `work` in a crowd of threads and gives back what each came to.
fn crowd<T: Send>(size: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..size).map(|number| scope.spawn(move || work(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread of the crowd")).collect()
    })
}

/// The manifests' and layers' digests of an image in the registry: what must be downloaded for it.
fn blobs(user: &Surroundings, image: &str) -> Vec<String> {
    let manifest: Value = serde_json::from_str(&user.raw_manifest(image)).expect("JSON");
    let layers = manifest["layers"].as_array().expect("layers").iter();
    let all = layers.chain([&manifest["config"]]);
    all.map(|descriptor| descriptor["digest"].as_str().expect("a digest").to_owned()).collect()
}

fn pruned(coracle: &Coracle) {
    let _ = coracle.coracle(["image", "prune", "--all", "--force"]).expect(0);
    let left = aftermath::leftovers(coracle.home());
    assert!(left.is_empty(), "left when all images are removed: {left:?}");
}

#[test]
fn each_blob_is_downloaded_once() {
    let user = Surroundings::new();
    let registry = fleet(&user);
    let coracle = user.coracle("home");
    let mut expected = BTreeMap::new();
    for number in 0..IMAGES {
        expected.extend(blobs(&user, &boat(&registry, number)).into_iter().map(|digest| (digest, 1)));
    }
    let before = registry.blobs_sent();
    for out in crowd(CROWD, |number| coracle.coracle(["pull", "-q", &boat(&registry, number)])) {
        let _ = out.expect(0);
    }
    let mut sent = registry.blobs_sent();
    sent.retain(|digest, count| {
        *count -= before.get(digest).copied().unwrap_or(0);
        *count > 0
    });
    assert_eq!(sent, expected);
    assert_eq!(aftermath::listed(&coracle).len(), IMAGES);
    let _ = coracle.coracle(["image", "verify"]).expect(0);
    pruned(&coracle);
}

#[test]
fn pulls_removals_and_prunes_at_once() {
    const ROUNDS: usize = 6;
    let user = Surroundings::new();
    let registry = fleet(&user);
    let coracle = user.coracle("home");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let removers: Vec<_> = (0..2)
            .map(|remover| {
                let (coracle, registry, done) = (&coracle, &registry, &done);
                scope.spawn(move || {
                    for round in 0.. {
                        if done.load(Ordering::Relaxed) {
                            break;
                        }
                        let image = boat(registry, round);
                        if remover == 0 {
                            let out = coracle.coracle(["rmi", "-f", &image]);
                            // It may not be there, or be gone a moment later, and that is what is said.
                            let explained = out.code == 0 || out.stderr.contains("no such image");
                            assert!(explained, "rmi: {}: {}", out.code, out.stderr);
                        } else {
                            let out = coracle.coracle(["image", "prune", "--all", "--force"]);
                            assert_eq!(out.code, 0, "prune: {}", out.stderr);
                        }
                    }
                })
            })
            .collect();
        crowd(CROWD, |number| {
            for round in 0..ROUNDS {
                let out = coracle.coracle(["pull", "-q", &boat(&registry, number + round)]);
                assert_eq!(out.code, 0, "pull: {}", out.stderr);
            }
        });
        done.store(true, Ordering::Relaxed);
        removers.into_iter().for_each(|remover| remover.join().expect("a remover"));
    });
    // What is there now is whole, and nobody's leftovers are in the way.
    for number in 0..IMAGES {
        let _ = coracle.coracle(["pull", "-q", &boat(&registry, number)]).expect(0);
    }
    let _ = coracle.coracle(["image", "verify"]).expect(0);
    assert_eq!(aftermath::listed(&coracle).len(), IMAGES);
    pruned(&coracle);
}
