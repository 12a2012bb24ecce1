//! What the records promise: names are unique, transitions follow the diagram, damage is said.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use state::{ContainerRecord, ContainerState, ImageRecord, LayerRecord, ProcessRef, RootRecord, State, StateError};
use tempfile::TempDir;

use ContainerState::{Created, Exited, Running};

fn open() -> (TempDir, State) {
    let home = tempfile::tempdir().unwrap();
    let state = State::open(&home.path().join("state.db")).unwrap();
    (home, state)
}

fn layer(blob_digest: Option<&str>) -> LayerRecord {
    LayerRecord {
        diff_id: "sha256:d".into(),
        blob_digest: blob_digest.map(str::to_owned),
        blob_size: blob_digest.map(|_| 9),
        media_type: blob_digest.map(|_| "layer".to_owned()),
        data_length: 4096,
        packed_length: 3,
    }
}

fn image(digit: char, names: &[&str]) -> ImageRecord {
    ImageRecord {
        id: format!("sha256:{}", digit.to_string().repeat(64)),
        names: names.iter().map(ToString::to_string).collect(),
        manifest_digest: Some("sha256:m".into()),
        digests: Vec::new(),
        layers: vec![layer(None)],
        platform: "linux/amd64".into(),
        created: None,
        loaded_at: 5,
        size: 4096,
        root: RootRecord { digest: "sha256:r".into(), length: 4096 },
    }
}

fn container(id: &str, name: &str) -> ContainerRecord {
    ContainerRecord::new(id.to_owned(), name.to_owned(), image('1', &[]).id, "busybox".into(), 7)
}

fn start(record: &mut ContainerRecord) {
    record.state = Running;
    record.keeper = Some(ProcessRef { pid: 1, start_time: 2, boot_id: "boot".into() });
    record.started_at = Some(10);
}

fn exit(record: &mut ContainerRecord) {
    record.state = Exited;
    record.exit_code = Some(0);
    record.finished_at = Some(20);
}

#[test]
fn a_container_lives_and_every_field_comes_back() {
    let (home, state) = open();
    state.put_image(&image('1', &[])).unwrap();
    let mut record = container("aa11", "boat");
    record.timings = Some(serde_json::json!({"kernel": 12.5}));
    record.spec = serde_json::json!({"cmd": ["sh"]});
    state.insert_container(&record).unwrap();
    assert_eq!(state.container("boat").unwrap(), record);
    let running = state.transition("aa11", &[Created], start).unwrap();
    assert_eq!(state.container("aa").unwrap(), running);
    assert!(matches!(state.remove_container("aa11"), Err(StateError::ContainerRunning { .. })));
    let exited = state.transition("aa11", &[Running], exit).unwrap();
    // Another process sees it too.
    let other = State::open(&home.path().join("state.db")).unwrap();
    assert_eq!(other.containers().unwrap(), [exited]);
    other.transition("aa11", &[Exited], start).unwrap();
    other.transition("aa11", &[Running], exit).unwrap();
    other.remove_container("aa11").unwrap();
    assert!(matches!(state.container("boat"), Err(StateError::NoSuchContainer { .. })));
}

#[test]
fn only_the_arrows_of_the_diagram_are_taken() {
    let (_home, state) = open();
    state.put_image(&image('1', &[])).unwrap();
    state.insert_container(&container("aa", "boat")).unwrap();
    let stale = state.transition("aa", &[Running, Exited], exit).unwrap_err();
    assert_eq!(stale.to_string(), "container aa is created, not running or exited");
    let incomplete = state.update_container("aa", |r| r.state = Running).unwrap_err();
    assert_eq!(incomplete.to_string(), "container aa cannot be running without a keeper");
    state.update_container("aa", start).unwrap();
    let back = state.update_container("aa", |r| r.state = Created).unwrap_err();
    assert_eq!(back.to_string(), "container aa cannot go from running to created");
    let incomplete = state.update_container("aa", |r| r.state = Exited).unwrap_err();
    assert_eq!(incomplete.to_string(), "container aa cannot be exited without an exit code");
    assert_eq!(state.container("aa").unwrap().state, Running, "a refused change changes nothing");
    let born_running = container("bb", "other");
    let mut born_running = born_running;
    start(&mut born_running);
    assert!(matches!(state.insert_container(&born_running), Err(StateError::ForbiddenTransition { .. })));
}

#[test]
fn identity_does_not_change() {
    let (_home, state) = open();
    state.put_image(&image('1', &[])).unwrap();
    state.insert_container(&container("aa", "boat")).unwrap();
    let changed = state.update_container("aa", |r| {
        r.id = "bb".into();
        r.image_id = "other".into();
        r.created_at = 0;
        r.name = "ship".into();
    });
    let changed = changed.unwrap();
    assert_eq!((changed.id.as_str(), changed.name.as_str(), changed.created_at), ("aa", "ship", 7));
    assert!(state.container("boat").is_err() && state.container("ship").is_ok());
}

#[test]
fn a_name_has_one_owner() {
    let (_home, state) = open();
    state.put_image(&image('1', &[])).unwrap();
    state.insert_container(&container("aa", "boat")).unwrap();
    let taken = state.insert_container(&container("bb", "boat")).unwrap_err();
    assert!(matches!(&taken, StateError::NameInUse { name, by } if name == "boat" && by == "aa"), "{taken}");
    state.insert_container(&container("bb", "ship")).unwrap();
    assert!(matches!(state.update_container("bb", |r| r.name = "boat".into()), Err(StateError::NameInUse { .. })));
    assert!(matches!(state.insert_container(&container("bb", "raft")), Err(StateError::IdInUse { .. })));
}

#[test]
fn fifty_at_once_and_one_wins() {
    let (home, state) = open();
    state.put_image(&image('1', &[])).unwrap();
    let path = home.path().join("state.db");
    let won: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..50)
            .map(|index| {
                let path = &path;
                scope.spawn(move || {
                    let state = State::open(path).unwrap();
                    match state.insert_container(&container(&format!("{index:02}"), "boat")) {
                        Ok(()) => 1,
                        Err(StateError::NameInUse { .. }) => 0,
                        Err(e) => panic!("{e:?}"),
                    }
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(won, 1);
}

#[test]
fn twenty_open_a_fresh_home_at_once() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("state.db");
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| State::open(&path).unwrap().containers().unwrap());
        }
    });
}

#[test]
fn prefixes_find_one_or_say_how_many() {
    let (_home, state) = open();
    state.put_image(&image('1', &[])).unwrap();
    for (id, name) in [("abc1", "one"), ("abd2", "two"), ("ff", "abc")] {
        state.insert_container(&container(id, name)).unwrap();
    }
    assert_eq!(state.container("abc").unwrap().id, "ff", "a name comes before a prefix");
    assert_eq!(state.container("abd").unwrap().id, "abd2");
    assert!(matches!(state.container("ab"), Err(StateError::Ambiguous { count: 2, .. })));
    for nothing in ["", "zz", "%", "a'b", "abc1e"] {
        assert!(matches!(state.container(nothing), Err(StateError::NoSuchContainer { .. })), "{nothing:?}");
    }
}

#[test]
fn image_names_move() {
    let (_home, state) = open();
    state.put_image(&image('1', &["a:1", "a:2"])).unwrap();
    state.put_image(&image('2', &["a:2", "b:1"])).unwrap();
    assert_eq!(state.image_named("a:2").unwrap().unwrap().names, ["a:2", "b:1"]);
    assert_eq!(state.image_named("a:1").unwrap().unwrap(), image('1', &["a:1"]));
    state.put_image(&image('1', &["c:1"])).unwrap();
    assert_eq!(state.image_named("c:1").unwrap().unwrap().names, ["a:1", "c:1"], "loading again keeps names");
    assert_eq!(state.unname_image("a:1").unwrap().names, ["c:1"]);
    assert!(matches!(state.unname_image("a:1"), Err(StateError::NoSuchImage { .. })));
    state.name_image("d:1", &image('1', &[]).id).unwrap();
    assert_eq!(state.images().unwrap().len(), 2);
    assert_eq!(state.images_with_prefix("sha256:1").unwrap().len(), 1);
    assert_eq!(state.images_with_prefix("sha256:").unwrap().len(), 2);
    assert_eq!(state.images_with_manifest("sha256:m").unwrap().len(), 2);
    assert!(matches!(state.name_image("e:1", "none"), Err(StateError::NoSuchImage { .. })));
}

#[test]
fn digests_belong_to_one_image() {
    let (_home, state) = open();
    let digest = |text: &str| format!("docker.io/library/boat@sha256:{text}");
    let with = |mut record: ImageRecord, digests: &[&str]| {
        record.digests = digests.iter().map(|d| digest(d)).collect();
        record
    };
    state.put_image(&with(image('1', &["a:1"]), &["bb", "aa"])).unwrap();
    assert_eq!(state.images().unwrap()[0].digests, [digest("aa"), digest("bb")], "sorted");
    state.put_image(&with(image('1', &[]), &["cc"])).unwrap();
    assert_eq!(state.images().unwrap()[0].digests.len(), 3, "merged");
    state.put_image(&with(image('2', &[]), &["cc"])).unwrap();
    assert_eq!(state.image_by_digest(&digest("cc")).unwrap().unwrap().id, image('2', &[]).id, "it moved");
    state.add_digest(&digest("dd"), &image('1', &[]).id).unwrap();
    let found = state.image_by_digest(&digest("dd")).unwrap().unwrap();
    assert_eq!(found.digests, [digest("aa"), digest("bb"), digest("dd")]);
    assert_eq!(state.remove_digest(&digest("aa")).unwrap().digests.len(), 2);
    assert!(matches!(state.remove_digest(&digest("aa")), Err(StateError::NoSuchImage { .. })));
    assert!(matches!(state.add_digest(&digest("ee"), "none"), Err(StateError::NoSuchImage { .. })));
    state.remove_image(&image('1', &[]).id).unwrap();
    assert_eq!(state.image_by_digest(&digest("dd")).unwrap(), None, "gone with its image");
}

#[test]
fn a_record_without_a_manifest_takes_none_away() {
    let (_home, state) = open();
    let pulled = ImageRecord { layers: vec![layer(Some("sha256:b"))], ..image('1', &[]) };
    state.put_image(&pulled).unwrap();
    let from_archive = ImageRecord { manifest_digest: None, loaded_at: 9, ..image('1', &[]) };
    state.put_image(&from_archive).unwrap();
    let found = state.images_with_manifest("sha256:m").unwrap().remove(0);
    assert_eq!(found, ImageRecord { loaded_at: 9, ..pulled });
    // Another manifest brings its own layers.
    let other = ImageRecord { manifest_digest: Some("sha256:n".into()), ..image('1', &[]) };
    state.put_image(&other).unwrap();
    assert_eq!(state.images().unwrap(), [other]);
    assert!(state.images_with_manifest("sha256:m").unwrap().is_empty());
}

/// What version 1 made, with an image and a container in it.
const FIRST_VERSION: &str = r#"
    CREATE TABLE images (id TEXT PRIMARY KEY, manifest TEXT, loaded_at INTEGER NOT NULL, record TEXT NOT NULL)
        STRICT, WITHOUT ROWID;
    CREATE INDEX images_by_manifest ON images (manifest);
    CREATE TABLE names (name TEXT PRIMARY KEY, image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE)
        STRICT, WITHOUT ROWID;
    CREATE INDEX names_by_image ON names (image);
    CREATE TABLE containers (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE,
        image TEXT NOT NULL REFERENCES images (id) ON DELETE RESTRICT, created_at INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('created', 'running', 'exited')), record TEXT NOT NULL)
        STRICT, WITHOUT ROWID;
    CREATE INDEX containers_by_image ON containers (image);
    INSERT INTO images VALUES ('sha256:1', 'sha256:m', 5, '{"id":"sha256:1","manifest_digest":"sha256:m",
        "layers":[{"diff_id":"sha256:d","blob_digest":"sha256:b","data_length":4096}],"platform":"linux/amd64",
        "created":"2024-01-02T03:04:05Z","loaded_at":5,"size":4096,"root":{"digest":"sha256:r","length":4096}}');
    INSERT INTO names VALUES ('docker.io/library/boat:1', 'sha256:1');
    INSERT INTO containers VALUES ('aa11', 'boat', 'sha256:1', 7, 'created', '{"id":"aa11","name":"boat",
        "image_id":"sha256:1","image_ref":"boat:1","created_at":7,"started_at":null,"finished_at":null,
        "state":"created","auto_remove":false,"keeper":null,"machine":null,"exit_code":null,"reason":null,
        "error":null,"kernel_log_tail":null,"timings":null,"spec":null}');
    PRAGMA user_version = 1;
"#;

#[test]
fn records_of_the_first_version_are_brought_up_to_date() {
    let home = tempfile::tempdir().unwrap();
    rusqlite::Connection::open(path_of(&home)).unwrap().execute_batch(FIRST_VERSION).unwrap();
    // Several commands find it at once.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(State::open(&path_of(&home)).unwrap().images().unwrap().len(), 1));
        }
    });
    let state = State::open(&path_of(&home)).unwrap();
    let record = state.image_named("docker.io/library/boat:1").unwrap().unwrap();
    let layer = &record.layers[0];
    assert_eq!((layer.blob_digest.as_deref(), layer.data_length), (Some("sha256:b"), 4096));
    assert_eq!((layer.blob_size, layer.media_type.as_deref(), layer.packed_length), (None, None, 0));
    assert!(record.digests.is_empty());
    assert_eq!(state.container("boat").unwrap().image_id, "sha256:1");
    state.add_digest("docker.io/library/boat@sha256:m", "sha256:1").unwrap();
    assert_eq!(state.images().unwrap()[0].digests.len(), 1);
    let connection = rusqlite::Connection::open(path_of(&home)).unwrap();
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, 4);
}

#[test]
fn a_metadata_image_moves_but_brings_no_image_back() {
    let (_home, state) = open();
    let record = image('1', &["a:1"]);
    let root = RootRecord { digest: "sha256:new".into(), length: 8192 };
    state.set_root(&record.id, &root).unwrap();
    assert!(state.images().unwrap().is_empty());
    state.put_image(&record).unwrap();
    state.set_root(&record.id, &root).unwrap();
    assert_eq!(state.images().unwrap(), [ImageRecord { root, ..record }]);
}

#[test]
fn an_image_with_containers_stays() {
    let (_home, state) = open();
    let record = image('1', &["a:1"]);
    state.put_image(&record).unwrap();
    state.insert_container(&container("aa", "boat")).unwrap();
    let used = state.remove_image(&record.id).unwrap_err();
    assert!(matches!(&used, StateError::ImageInUse { container, running: false, .. } if container == "boat"), "{used}");
    assert_eq!(state.remove_unused_image(&record.id, |_| true).unwrap(), None);
    state.remove_container("aa").unwrap();
    assert_eq!(state.remove_unused_image(&record.id, |now| now.names.is_empty()).unwrap(), None, "it has a name");
    assert_eq!(state.remove_image(&record.id).unwrap(), record);
    assert!(state.image_named("a:1").unwrap().is_none());
    assert_eq!(state.remove_unused_image(&record.id, |_| true).unwrap(), None, "gone already");
    let gone = state.insert_container(&container("aa", "boat")).unwrap_err();
    assert!(matches!(gone, StateError::NoSuchImage { .. }), "{gone}");
}

fn path_of(home: &TempDir) -> PathBuf {
    home.path().join("state.db")
}

#[test]
fn the_file_is_closed_to_others() {
    let (home, state) = open();
    state.put_image(&image('1', &[])).unwrap();
    for entry in fs::read_dir(home.path()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
    }
}

#[test]
fn damage_is_said_with_the_name_of_the_file() {
    let home = tempfile::tempdir().unwrap();
    fs::write(path_of(&home), vec![b'x'; 4096]).unwrap();
    let error = State::open(&path_of(&home)).unwrap_err();
    assert!(matches!(error, StateError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("state.db") && error.hint().is_some(), "{error}");
    assert_eq!(fs::read(path_of(&home)).unwrap(), vec![b'x'; 4096], "nothing was written");
}

#[test]
fn a_damaged_table_is_said() {
    let (home, state) = open();
    state.put_image(&image('1', &[])).unwrap();
    drop(state);
    let connection = rusqlite::Connection::open(path_of(&home)).unwrap();
    connection.execute_batch("UPDATE images SET record = '{'; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(connection);
    let error = State::open(&path_of(&home)).unwrap().images().unwrap_err();
    assert!(matches!(error, StateError::Corrupt { .. }), "{error:?}");

    let mut bytes = fs::read(path_of(&home)).unwrap();
    bytes[4096..].fill(0x5a);
    fs::write(path_of(&home), bytes).unwrap();
    let error = State::open(&path_of(&home)).and_then(|s| s.images()).unwrap_err();
    assert!(matches!(error, StateError::Corrupt { .. }), "{error:?}");
}

#[test]
fn a_newer_schema_is_refused_untouched() {
    let (home, state) = open();
    drop(state);
    let connection = rusqlite::Connection::open(path_of(&home)).unwrap();
    connection.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(connection);
    let error = State::open(&path_of(&home)).unwrap_err();
    assert!(matches!(error, StateError::NewerSchema { found: 99, .. }), "{error:?}");
}

#[test]
fn a_directory_that_is_not_there_is_said() {
    let error = State::open(Path::new("/proc/none/state.db")).unwrap_err();
    assert!(matches!(error, StateError::Unusable { .. }) && error.hint().is_some(), "{error:?}");
}
