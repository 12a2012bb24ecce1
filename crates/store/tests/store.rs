//! What the store promises, seen from outside: nothing half is visible, leases hold, collections are safe.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use store::facts::Facts;
use store::{Digest, Kind, LayerIngest, Lease, Object, Store, StoreError};

fn open() -> (tempfile::TempDir, Store) {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(&home.path().join("data")).unwrap();
    (home, store)
}

fn put_blob(store: &Store, lease: &Lease, bytes: &[u8]) -> Digest {
    store.ingest_blob(lease, &mut &*bytes, Some(&Digest::of(bytes)), Some(bytes.len() as u64)).unwrap()
}

const TREE: &[u8] = b"tree";

fn facts(data_length: u64) -> Facts {
    Facts {
        tree_format: 2,
        data_length,
        data_verity: Digest::from_bytes([7; 32]),
        packed_length: 6,
        packed_digest: Digest::of(b"packed"),
        tree_length: 4,
        tree_digest: Digest::of(TREE),
        skeleton_length: 5,
        skeleton_digest: Digest::of(b"bones"),
        unpacked_length: 10240,
    }
}

fn fill_layer(ingest: &LayerIngest, data: &[u8]) -> io::Result<()> {
    let files = ingest.files().unwrap();
    for (mut file, bytes) in
        [(files.data, data), (files.packed, b"packed"), (files.tree, TREE), (files.skeleton, b"bones")]
    {
        file.write_all(bytes)?;
    }
    Ok(())
}

fn put_layer(store: &Store, lease: &Lease, name: &str) -> Digest {
    let ingest = store.ingest_layer().unwrap();
    fill_layer(&ingest, &[1; 8192]).unwrap();
    let diff_id = Digest::of(name.as_bytes());
    ingest.publish(lease, &diff_id, &facts(8192)).unwrap();
    diff_id
}

fn temporary(store: &Store) -> usize {
    fs::read_dir(store.home().join("tmp")).unwrap().count()
}

fn collect(store: &Store, keep: &[Object]) -> store::Collected {
    store.collect(|| Ok::<_, StoreError>(keep.iter().copied().collect::<HashSet<_>>())).unwrap()
}

#[test]
fn a_blob_goes_in_and_comes_out() {
    let (_home, store) = open();
    let lease = store.lease(&[]).unwrap();
    let digest = put_blob(&store, &lease, b"manifest");
    assert_eq!(store.read_blob(&digest, 100).unwrap().as_deref(), Some(&b"manifest"[..]));
    assert_eq!(put_blob(&store, &lease, b"manifest"), digest, "again is no error");
    assert!(store.read_blob(&digest, 3).is_err(), "longer than the reader wants");
    assert_eq!(store.read_blob(&Digest::of(b"other"), 100).unwrap(), None);
    assert_eq!(temporary(&store), 0);
}

#[test]
fn content_that_is_not_what_it_should_be_leaves_nothing() {
    struct Endless;
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            Ok(buffer.len())
        }
    }
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the line is cut"))
        }
    }
    let (_home, store) = open();
    let lease = store.lease(&[]).unwrap();
    let digest = Digest::of(b"good");
    let ingest = |reader: &mut dyn Read, size| store.ingest_blob(&lease, reader, Some(&digest), Some(size));
    assert!(matches!(ingest(&mut &b"evil"[..], 4), Err(StoreError::WrongDigest { .. })));
    assert!(matches!(ingest(&mut &b"goo"[..], 4), Err(StoreError::WrongSize { more: false, .. })));
    assert!(matches!(ingest(&mut Endless, 4), Err(StoreError::WrongSize { more: true, .. })));
    assert!(matches!(ingest(&mut Failing, 4), Err(StoreError::Source { .. })));
    assert_eq!(temporary(&store), 0);
    assert!(store.objects().unwrap().is_empty());
}

#[test]
fn directories_are_closed_to_others() {
    let (home, store) = open();
    fs::set_permissions(store.home(), fs::Permissions::from_mode(0o755)).unwrap();
    let store = Store::open(&home.path().join("data")).unwrap();
    for name in ["", "tmp", "leases", "partial", "blobs/sha256", "layers/sha256", "roots/sha256"] {
        let mode = fs::metadata(store.home().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{name:?}");
    }
}

#[test]
fn a_home_that_cannot_be_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Store::open(&file.path().join("home")).unwrap_err();
    assert!(matches!(error, StoreError::Home { .. }));
    assert!(error.to_string().contains(file.path().to_str().unwrap()) && error.hint().is_some(), "{error}");
}

#[test]
fn a_layer_is_whole_or_noticed() {
    let (_home, store) = open();
    let lease = store.lease(&[]).unwrap();
    let diff_id = put_layer(&store, &lease, "layer");
    let layer = store.layer(&diff_id).unwrap().unwrap();
    assert_eq!((layer.facts.data_length, layer.facts.unpacked_length), (8192, 10240));
    assert_eq!(store.read_tree(&layer).unwrap(), b"tree");
    assert_eq!(store.layer(&Digest::of(b"none")).unwrap(), None);

    fs::write(&layer.tree, b"eert").unwrap();
    assert!(matches!(store.read_tree(&layer), Err(StoreError::Damaged { .. })));
    for name in ["data", "packed", "tree", "skeleton", "facts"] {
        for content in [Some("of another length"), Some(""), None] {
            let path = store.path(&Object::layer(diff_id)).join(name);
            let good = fs::read(&path).unwrap();
            content.map_or_else(|| fs::remove_file(&path), |text| fs::write(&path, text)).unwrap();
            let error = store.layer(&diff_id).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }) && error.hint().is_some(), "{error}");
            assert!(error.to_string().contains(name), "{error}");
            fs::write(&path, good).unwrap();
            store.layer(&diff_id).unwrap();
        }
    }
    store.discard(&Object::layer(diff_id)).unwrap();
    assert_eq!(store.layer(&diff_id).unwrap(), None);
    put_layer(&store, &lease, "layer");
    assert!(store.layer(&diff_id).unwrap().is_some());
    assert_eq!(temporary(&store), 0);
}

#[test]
fn a_layer_of_another_version_is_not_read() {
    let (_home, store) = open();
    let lease = store.lease(&[]).unwrap();
    let diff_id = put_layer(&store, &lease, "layer");
    let first = format!("coracle layer 1\ntree format 1\ndata 8192\ntree 4 {}\nunpacked 10240\n", Digest::of(TREE));
    fs::write(store.path(&Object::layer(diff_id)).join("facts"), first).unwrap();
    let error = store.layer(&diff_id).unwrap_err();
    assert!(error.to_string().contains("another version of Coracle"), "{error}");
    assert!(error.hint().unwrap().contains("pull or load the image again"));
}

#[test]
fn what_is_planted_in_place_of_an_object_is_damage_and_replaced() {
    let (home, store) = open();
    let lease = store.lease(&[]).unwrap();
    let outside = home.path().join("outside");
    fs::write(&outside, "mine").unwrap();
    let plant: [fn(&Path, &Path); 3] = [
        |path, _| fs::create_dir(path).unwrap(),
        |path, outside| std::os::unix::fs::symlink(outside, path).unwrap(),
        |path, _| fs::write(path, vec![b'x'; 5000]).unwrap(),
    ];
    for plant in plant {
        let digest = Digest::of(b"content");
        let path = store.path(&Object::blob(digest));
        plant(&path, &outside);
        assert!(matches!(store.read_blob(&digest, 100), Err(StoreError::Damaged { .. })));
        put_blob(&store, &lease, b"content");
        assert_eq!(store.read_blob(&digest, 100).unwrap().as_deref(), Some(&b"content"[..]));
        store.discard(&Object::blob(digest)).unwrap();

        let diff_id = put_layer(&store, &lease, "layer");
        for name in ["facts", "tree"] {
            let path = store.path(&Object::layer(diff_id)).join(name);
            fs::remove_file(&path).unwrap();
            plant(&path, &outside);
            assert!(matches!(store.layer(&diff_id), Err(StoreError::Damaged { .. })), "{name}");
            put_layer(&store, &lease, "layer");
            assert!(store.layer(&diff_id).unwrap().is_some(), "{name}");
        }
        store.discard(&Object::layer(diff_id)).unwrap();
        plant(&store.path(&Object::layer(diff_id)), &outside);
        assert!(matches!(store.layer(&diff_id), Err(StoreError::Damaged { .. })));
        put_layer(&store, &lease, "layer");
        assert!(store.layer(&diff_id).unwrap().is_some());
        store.discard(&Object::layer(diff_id)).unwrap();
    }
    assert_eq!(fs::read(&outside).unwrap(), b"mine");
    assert_eq!(temporary(&store), 0);
}

#[test]
fn a_layer_that_is_not_as_long_as_its_facts_say_is_not_published() {
    let (_home, store) = open();
    let lease = store.lease(&[]).unwrap();
    let ingest = store.ingest_layer().unwrap();
    fill_layer(&ingest, &[1; 4096]).unwrap();
    let error = ingest.publish(&lease, &Digest::of(b"l"), &facts(8192)).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert_eq!(temporary(&store), 0);
    assert!(store.objects().unwrap().is_empty());
}

#[test]
fn a_damaged_blob_is_healed_by_taking_it_in_again() {
    let (_home, store) = open();
    let lease = store.lease(&[]).unwrap();
    let digest = put_blob(&store, &lease, b"config");
    fs::write(store.path(&Object::blob(digest)), b"").unwrap();
    assert!(matches!(store.read_blob(&digest, 100), Err(StoreError::Damaged { .. })));
    put_blob(&store, &lease, b"config");
    assert!(store.read_blob(&digest, 100).unwrap().is_some());
}

#[test]
fn a_collection_spares_what_is_kept_or_leased() {
    let (_home, store) = open();
    let lease = store.lease(&[]).unwrap();
    let kept = put_blob(&store, &lease, b"kept");
    let leased = put_layer(&store, &lease, "leased");
    let gone = put_layer(&store, &lease, "gone");
    drop(lease);
    let lease = store.lease(&[Object::layer(leased)]).unwrap();
    let collected = collect(&store, &[Object::blob(kept)]);
    assert_eq!(collected.objects, [Object::layer(gone)]);
    assert!(collected.bytes >= 8192, "{collected:?}");
    assert!(store.layer(&leased).unwrap().is_some() && store.layer(&gone).unwrap().is_none());
    drop(lease);
    assert_eq!(collect(&store, &[]).objects, [Object::blob(kept), Object::layer(leased)]);
    assert!(store.objects().unwrap().is_empty());
    assert_eq!((temporary(&store), fs::read_dir(store.home().join("leases")).unwrap().count()), (0, 0));
}

#[test]
fn what_is_being_taken_in_is_spared_and_what_a_crash_left_is_not() {
    let (_home, store) = open();
    let lease = store.lease(&[]).unwrap();
    let file = store.ingest_file().unwrap();
    let layer = store.ingest_layer().unwrap();
    let lock = store.lock_conversion(&Digest::of(b"l"), || ()).unwrap();
    let tmp = store.home().join("tmp");
    fs::write(tmp.join("file-dead"), "left").unwrap();
    fs::write(tmp.join("convert-dead.lock"), "").unwrap();
    fs::create_dir(tmp.join("layer-dead")).unwrap();
    fs::write(tmp.join("layer-dead/data"), "left").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", tmp.join("link")).unwrap();
    fs::write(store.home().join("leases/lease-dead"), format!("blob {}\n", Digest::of(b"x"))).unwrap();
    let collected = collect(&store, &[]);
    assert_eq!((collected.leftovers, temporary(&store)), (3, 3));
    file.publish(&lease, &Object::root(Digest::of(b"r"))).unwrap();
    fill_layer(&layer, b"").unwrap();
    layer.publish(&lease, &Digest::of(b"l"), &facts(0)).unwrap();
    drop(lock);
    assert_eq!(temporary(&store), 0);
    assert_eq!(store.objects().unwrap().len(), 2);
    assert!(Path::new("/etc/passwd").exists());
}

#[test]
fn a_lease_ends_with_its_process() {
    let (_home, store) = open();
    let lease = store.lease(&[]).unwrap();
    let digest = put_blob(&store, &lease, b"held");
    let path = store.home().join("leases/lease-of-another");
    fs::write(&path, format!("{}\n", Object::blob(digest))).unwrap();
    drop(lease);
    // flock(1) holds the file as a process that leases would, until it is killed.
    let mut holder = Command::new("flock").arg(&path).args(["sleep", "60"]).spawn().unwrap();
    while fs::File::open(&path).unwrap().try_lock().is_ok() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(collect(&store, &[]).objects.is_empty());
    // The sleep inherits the descriptor: both have to go.
    let children = format!("/proc/{0}/task/{0}/children", holder.id());
    let sleep = fs::read_to_string(children).unwrap().trim().to_owned();
    holder.kill().unwrap();
    holder.wait().unwrap();
    Command::new("kill").args(["-9", &sleep]).status().unwrap();
    while Path::new(&format!("/proc/{sleep}/fd/0")).exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(collect(&store, &[]).objects, [Object::blob(digest)]);
}

#[test]
fn one_conversion_at_a_time() {
    let (_home, store) = open();
    let digest = Digest::of(b"layer");
    let busy = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let _lock = store.lock_conversion(&digest, || ()).unwrap();
                    assert!(!busy.swap(true, Ordering::SeqCst));
                    std::thread::yield_now();
                    busy.store(false, Ordering::SeqCst);
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..50 {
                collect(&store, &[]);
            }
        });
    });
    assert_eq!(temporary(&store), 0);
}

#[test]
fn work_on_one_thing_does_not_hold_up_other_work() {
    let (_home, store) = open();
    let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
    let nobody = || panic!("nobody is waited for");
    let _layer = store.lock_conversion(&one, nobody).unwrap();
    let _blob = store.lock_blob(&one, nobody).unwrap();
    let _other = store.lock_conversion(&other, nobody).unwrap();
}

#[test]
fn usage_is_what_du_says() {
    let (_home, store) = open();
    let lease = store.lease(&[]).unwrap();
    let blob = put_blob(&store, &lease, &[1; 100_000]);
    let layer = put_layer(&store, &lease, "layer");
    let usage = store.usage().unwrap();
    assert_eq!(usage.objects.iter().map(|(o, _)| *o).collect::<Vec<_>>(), [Object::blob(blob), Object::layer(layer)]);
    for (object, bytes) in usage.objects {
        let output = Command::new("du").args(["-s", "-B1"]).arg(store.path(&object)).output().unwrap();
        let du = String::from_utf8(output.stdout).unwrap();
        assert_eq!(du.split_whitespace().next(), Some(bytes.to_string().as_str()), "{object}");
    }
}

#[test]
fn collections_beside_ingests_take_nothing_that_is_leased() {
    let (_home, store) = open();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let store = &store;
                scope.spawn(move || {
                    for round in 0..20 {
                        let lease = store.lease(&[]).unwrap();
                        // Shared among workers, so that they collide.
                        let blob = put_blob(store, &lease, format!("blob {}", round % 3).as_bytes());
                        let layer = put_layer(store, &lease, &format!("layer {}", round % 5));
                        let own = put_layer(store, &lease, &format!("own {worker}"));
                        assert!(store.read_blob(&blob, 100).unwrap().is_some());
                        for diff_id in [layer, own] {
                            let layer = store.layer(&diff_id).unwrap().expect("leased");
                            assert_eq!(store.read_tree(&layer).unwrap(), b"tree");
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                collect(&store, &[]);
            }
        });
        let results: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    collect(&store, &[]);
    assert!(store.objects().unwrap().is_empty());
}

#[test]
fn a_spool_has_no_name() {
    let (_home, store) = open();
    let mut spool = store.spool().unwrap();
    spool.write_all(b"stream").unwrap();
    assert_eq!(temporary(&store), 0);
}

#[test]
fn a_full_disk_is_said_and_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let run = |program: &str, arguments: &[&str]| {
        assert!(Command::new(program).args(arguments).arg(path).status().unwrap().success(), "{program}: needs root");
    };
    run("mount", &["-t", "tmpfs", "-o", "size=256k", "tmpfs"]);
    let result = std::panic::catch_unwind(|| {
        let store = Store::open(&path.join("data")).unwrap();
        let lease = store.lease(&[]).unwrap();
        let error = store.ingest_blob(&lease, &mut io::repeat(1).take(1 << 20), None, None).unwrap_err();
        assert!(matches!(error, StoreError::NoSpace { .. }) && error.hint().is_some(), "{error:?}");
        let ingest = store.ingest_layer().unwrap();
        let error = fill_layer(&ingest, &vec![1; 1 << 20]).unwrap_err();
        assert!(matches!(StoreError::io("write", ingest.shown(), error), StoreError::NoSpace { .. }));
        drop(ingest);
        assert_eq!(temporary(&store), 0);
        assert!(store.objects().unwrap().is_empty());
        put_blob(&store, &lease, b"the next command works");
    });
    run("umount", &[]);
    result.unwrap();
}

#[test]
fn objects_have_paths_below_the_store() {
    let (_home, store) = open();
    for kind in [Kind::Blob, Kind::Layer, Kind::Root] {
        let path = store.path(&Object { kind, digest: Digest::of(b"") });
        assert!(path.starts_with(store.home()) && path.file_name().unwrap().len() == 64, "{path:?}");
    }
}
