//! Findings about the host that cost something to make, kept in files until what they depend on changes.
//!
//! A file is JSON: `{"version": 1, "key": …, "until": …, "value": …}`. It counts only if version and key are the
//! ones asked for and `until` (seconds since the epoch; absent: for ever) has not passed. Anything else, damage
//! included, is as good as no file.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

const VERSION: u32 = 1;

/// Largest file that is read.
const SIZE_LIMIT: u64 = 64 << 10;

#[derive(Serialize, Deserialize)]
struct Verdict<K, V> {
    version: u32,
    key: K,
    until: Option<u64>,
    value: V,
}

/// A file's identity and content, as far as its inode tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileStamp {
    dev: u64,
    ino: u64,
    mode: u32,
    size: u64,
    /// Nanoseconds since the epoch. Nothing for devices: their times change with use.
    mtime: Option<i128>,
}

impl FileStamp {
    /// Of a program.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        let mtime = i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec());
        Some(Self { dev: file.dev(), ino: file.ino(), mode: file.mode(), size: file.size(), mtime: Some(mtime) })
    }

    /// Of a device node.
    pub(crate) fn of_device(path: &Path) -> Option<Self> {
        Self::of(path).map(|stamp| Self { mtime: None, ..stamp })
    }
}

/// The value kept in `dir` under `name`, if it was kept for `key` and is not out of date.
pub(crate) fn recall<K, V>(dir: &Path, name: &str, key: &K) -> Option<V>
where
    K: DeserializeOwned + PartialEq,
    V: DeserializeOwned,
{
    let mut text = Vec::new();
    File::open(dir.join(name)).ok()?.take(SIZE_LIMIT).read_to_end(&mut text).ok()?;
    let verdict: Verdict<K, V> = serde_json::from_slice(&text).ok()?;
    let fresh = verdict.until.is_none_or(|until| now() < until);
    (verdict.version == VERSION && verdict.key == *key && fresh).then_some(verdict.value)
}

/// Keeps a value. That it cannot be kept costs time later, and is no error.
pub(crate) fn keep<K: Serialize, V: Serialize>(dir: &Path, name: &str, key: &K, value: &V, span: Option<Duration>) {
    let until = span.map(|span| now() + span.as_secs());
    let verdict = Verdict { version: VERSION, key, until, value };
    let draft = dir.join(format!(".{name}.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let text = serde_json::to_vec(&verdict)?;
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?.write_all(&text)?;
        fs::rename(&draft, dir.join(name))
    };
    if write().is_err() {
        let _ = fs::remove_file(&draft);
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_kept_for_its_key_and_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let recall = |key: u32| recall::<u32, String>(dir.path(), "v.json", &key);
        assert_eq!(recall(1), None);
        keep(dir.path(), "v.json", &1, &"one", None);
        assert_eq!(recall(1), Some("one".into()));
        assert_eq!(recall(2), None);
        keep(dir.path(), "v.json", &1, &"late", Some(Duration::ZERO));
        assert_eq!(recall(1), None);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn damage_is_as_good_as_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for damage in ["", "{", "[]", "{\"version\":2,\"key\":1,\"until\":null,\"value\":\"x\"}"] {
            fs::write(dir.path().join("v.json"), damage).unwrap();
            assert_eq!(recall::<u32, String>(dir.path(), "v.json", &1), None);
        }
        keep(&dir.path().join("not-there"), "v.json", &1, &"one", None);
    }

    #[test]
    fn a_program_that_changed_has_another_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        assert_eq!(FileStamp::of(&path), None);
        fs::write(&path, "one").unwrap();
        let before = FileStamp::of(&path);
        assert_eq!(FileStamp::of(&path), before);
        fs::write(&path, "three").unwrap();
        assert_ne!(FileStamp::of(&path), before);
    }
}
