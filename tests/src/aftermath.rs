//! What must be true of a home after a crash, a power cut or a full disk.
//!
//! Conversion is deterministic, so a home in which nothing ever went wrong is the measure: an image that is listed
//! has exactly the objects that it has there, byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::coracle::Coracle;

/// Images as a list shows them: `NAME ID`.
pub type Listed = BTreeSet<String>;

/// Files of the store by their path below it.
pub type Objects = BTreeMap<PathBuf, Vec<u8>>;

/// What `coracle images` shows.
///
/// # Panics
///
/// If the command fails: lists work whatever happened.
#[track_caller]
#[must_use]
pub fn listed(coracle: &Coracle) -> Listed {
    let out = coracle.coracle(["images", "--no-trunc", "--format", "json"]).expect(0);
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).expect("a row of JSON");
        let field = |name: &str| row[name].as_str().expect("a field").to_owned();
        format!("{}:{} {}", field("Repository"), field("Tag"), field("ID"))
    };
    out.text().lines().map(row).collect()
}

/// Everything in the store but what is being made.
///
/// # Panics
///
/// If a file cannot be read.
#[must_use]
pub fn objects(home: &Path) -> Objects {
    let store = home.join("data");
    let mut found = Objects::new();
    for kind in ["blobs", "layers", "roots"] {
        read_below(&store, Path::new(kind), &mut found);
    }
    found
}

fn read_below(store: &Path, below: &Path, found: &mut Objects) {
    let Ok(entries) = fs::read_dir(store.join(below)) else { return };
    for entry in entries {
        let path = below.join(entry.expect("an entry").file_name());
        let whole = store.join(&path);
        if whole.is_dir() {
            read_below(store, &path, found);
        } else {
            found.insert(path, fs::read(&whole).expect("a readable file"));
        }
    }
}

/// Fails the test unless every object of `wanted` is in the store as it should be.
///
/// # Panics
///
/// If one is missing or differs, naming it.
#[track_caller]
pub fn holds(home: &Path, wanted: &Objects, when: &str) {
    let found = objects(home);
    for (path, bytes) in wanted {
        match found.get(path) {
            None => panic!("{when}: {} is missing", path.display()),
            Some(other) => assert!(other == bytes, "{when}: {} is damaged", path.display()),
        }
    }
}

/// Names of everything that a command takes away when it ends, and of all objects.
#[must_use]
pub fn leftovers(home: &Path) -> Vec<PathBuf> {
    let mut left: Vec<PathBuf> = objects(home).into_keys().collect();
    for directory in ["tmp", "leases", "partial"] {
        let entries = fs::read_dir(home.join("data").join(directory)).into_iter().flatten().flatten();
        left.extend(entries.map(|entry| Path::new(directory).join(entry.file_name())));
    }
    for kind in ["layers/sha256", "blobs/sha256", "roots/sha256"] {
        let entries = fs::read_dir(home.join("data").join(kind)).into_iter().flatten().flatten();
        left.extend(entries.map(|entry| Path::new(kind).join(entry.file_name())));
    }
    left
}
