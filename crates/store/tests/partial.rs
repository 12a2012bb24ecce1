//! Downloads that are interrupted, shared, finished, and given up.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use store::{Digest, Object, Partial, Store, StoreError};

const CONTENT: &[u8] = b"the bytes of a blob";

fn open() -> (tempfile::TempDir, Store) {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(&home.path().join("data")).unwrap();
    (home, store)
}

fn path(store: &Store, digest: &Digest) -> PathBuf {
    store.home().join("partial").join(digest.hex())
}

fn download(store: &Store, digest: &Digest) -> Partial {
    store.partial(digest, || ()).unwrap()
}

fn collect(store: &Store) -> store::Collected {
    store.collect(|| Ok::<_, StoreError>(std::collections::HashSet::new())).unwrap()
}

#[test]
fn a_download_goes_on_where_it_was_interrupted_and_becomes_the_blob() {
    let (_home, store) = open();
    let digest = Digest::of(CONTENT);
    let partial = download(&store, &digest);
    assert_eq!(partial.length().unwrap(), 0);
    partial.file().write_all(&CONTENT[..7]).unwrap();
    drop(partial);
    let partial = download(&store, &digest);
    assert_eq!((partial.length().unwrap(), partial.digest()), (7, &digest));
    let mut begun = Vec::new();
    partial.file().read_to_end(&mut begun).unwrap();
    assert_eq!(begun, &CONTENT[..7], "it is read from its beginning, then written at its end");
    partial.file().write_all(&CONTENT[7..]).unwrap();
    let lease = store.lease(&[]).unwrap();
    store.keep_blob(&lease, partial, &digest).unwrap();
    assert_eq!(store.read_blob(&digest, 100).unwrap().as_deref(), Some(CONTENT));
    assert!(!path(&store, &digest).exists());
    assert!(collect(&store).objects.is_empty(), "leased");
    drop(lease);
    assert_eq!(collect(&store).objects, [Object::blob(digest)]);
}

#[test]
fn a_download_of_other_bytes_is_not_kept() {
    let (_home, store) = open();
    let lease = store.lease(&[]).unwrap();
    let digest = Digest::of(CONTENT);
    let partial = download(&store, &digest);
    partial.file().write_all(b"other").unwrap();
    let error = store.keep_blob(&lease, partial, &Digest::of(b"other")).unwrap_err();
    assert!(matches!(error, StoreError::WrongDigest { .. }), "{error}");
    assert!(!path(&store, &digest).exists() && store.objects().unwrap().is_empty());

    let partial = download(&store, &digest);
    partial.file().write_all(b"other").unwrap();
    partial.restart().unwrap();
    assert_eq!((partial.length().unwrap(), partial.file().stream_position().unwrap()), (0, 0));
    partial.discard().unwrap();
    assert!(!path(&store, &digest).exists());
}

#[test]
fn a_damaged_blob_gives_way_to_its_download() {
    let (_home, store) = open();
    let lease = store.lease(&[]).unwrap();
    let digest = Digest::of(CONTENT);
    fs::write(store.path(&Object::blob(digest)), b"other bytes of blob").unwrap();
    let partial = download(&store, &digest);
    partial.file().write_all(CONTENT).unwrap();
    store.keep_blob(&lease, partial, &digest).unwrap();
    assert_eq!(store.read_blob(&digest, 100).unwrap().as_deref(), Some(CONTENT));
}

#[test]
fn however_many_ask_one_downloads() {
    let (_home, store) = open();
    let digest = Digest::of(CONTENT);
    let downloads = AtomicUsize::new(0);
    let held = download(&store, &digest);
    let waiting = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let lease = store.lease(&[Object::blob(digest)]).unwrap();
                let partial = store.partial(&digest, || _ = waiting.fetch_add(1, Ordering::Relaxed)).unwrap();
                if store.read_blob(&digest, 100).unwrap().is_some() {
                    return partial.discard().unwrap();
                }
                downloads.fetch_add(1, Ordering::Relaxed);
                partial.file().write_all(CONTENT).unwrap();
                store.keep_blob(&lease, partial, &digest).unwrap();
                std::mem::forget(lease);
            });
        }
        download(&store, &Digest::of(b"another does not wait")).discard().unwrap();
        while waiting.load(Ordering::Relaxed) < 16 {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(held);
    });
    assert_eq!(downloads.into_inner(), 1);
    assert_eq!(fs::read_dir(store.home().join("partial")).unwrap().count(), 0);
}

#[test]
fn a_download_whose_process_dies_is_free_for_the_next() {
    let (_home, store) = open();
    let digest = Digest::of(CONTENT);
    drop(download(&store, &digest));
    // flock(1) holds the file as a process that downloads would. It keeps the lock itself: -F runs no child beside.
    let mut holder = Command::new("flock").arg("-F").arg(path(&store, &digest)).args(["sleep", "60"]).spawn().unwrap();
    while File::open(path(&store, &digest)).unwrap().try_lock().is_ok() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(store.remove_partials(Duration::ZERO).unwrap().count, 0, "it is in use");
    holder.kill().unwrap();
    holder.wait().unwrap();
    download(&store, &digest).discard().unwrap();
}

#[test]
fn downloads_that_are_given_up_go_after_a_week_or_when_asked() {
    let (_home, store) = open();
    let (old, young) = (Digest::of(b"old"), Digest::of(b"young"));
    for digest in [old, young] {
        download(&store, &digest).file().write_all(&[1; 10_000]).unwrap();
    }
    let week_ago = SystemTime::now() - Duration::from_secs(8 * 24 * 3600);
    File::open(path(&store, &old)).unwrap().set_modified(week_ago).unwrap();
    let usage = store.usage().unwrap();
    assert!(usage.partial >= 20_000 && usage.objects.is_empty() && usage.temporary == 0, "{usage:?}");
    let collected = collect(&store);
    assert!(collected.leftovers == 1 && collected.bytes >= 10_000, "{collected:?}");
    assert!(!path(&store, &old).exists() && path(&store, &young).exists());
    let removed = store.remove_partials(Duration::ZERO).unwrap();
    assert!(removed.count == 1 && removed.bytes >= 10_000, "{removed:?}");
    assert_eq!(store.usage().unwrap().partial, 0);
}

#[test]
fn what_is_planted_among_downloads_is_not_followed() {
    let (home, store) = open();
    let digest = Digest::of(CONTENT);
    let outside = home.path().join("outside");
    fs::write(&outside, "mine").unwrap();
    std::os::unix::fs::symlink(&outside, path(&store, &digest)).unwrap();
    assert!(store.partial(&digest, || ()).is_err());
    store.remove_partials(Duration::ZERO).unwrap();
    assert_eq!(fs::read(&outside).unwrap(), b"mine");
}
