//! What the records promise of containers' lives: the diagram is the database's own, claims have one winner, and what
//! happens is told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use state::{
    Claim, ContainerRecord, ContainerState, EventKind, EventQuery, ImageRecord, ProcessRef, RootRecord, State,
    StateError,
};
use tempfile::TempDir;

use ContainerState::{Created, Exited, Paused, Restarting, Running};

const IMAGE: &str = "sha256:1";

fn path_of(home: &TempDir) -> PathBuf {
    home.path().join("state.db")
}

fn open() -> (TempDir, State) {
    let home = tempfile::tempdir().unwrap();
    let state = State::open(&path_of(&home)).unwrap();
    let root = RootRecord { digest: "sha256:r".into(), length: 4096 };
    let image = ImageRecord {
        id: IMAGE.into(),
        names: vec!["docker.io/library/busybox:latest".into()],
        digests: Vec::new(),
        manifest_digest: None,
        layers: Vec::new(),
        platform: "linux/amd64".into(),
        created: None,
        loaded_at: 5,
        size: 4096,
        root,
    };
    state.put_image(&image).unwrap();
    (home, state)
}

fn process(pid: u32) -> ProcessRef {
    ProcessRef { pid, start_time: 2, boot_id: "boot".into() }
}

fn container(id: &str, name: &str) -> ContainerRecord {
    let mut record = ContainerRecord::new(id.into(), name.into(), IMAGE.into(), "busybox".into(), 7);
    record.labels = BTreeMap::from([("tier".to_owned(), "front".to_owned())]);
    record
}

/// Puts a record in a state with all that the state needs.
fn put(record: &mut ContainerRecord, state: ContainerState) {
    record.state = state;
    record.keeper = state.is_live().then(|| record.keeper.take().unwrap_or_else(|| process(1)));
    record.started_at = Some(1_000_000_000);
    if matches!(state, Exited | Restarting) {
        record.exit_code = Some(3);
        record.finished_at = Some(record.finished_at.unwrap_or(1_000_000_000) + 2_000_000_000);
    }
}

/// A container in that state, by the shortest way.
fn make(state: &State, id: &str, wanted: ContainerState) {
    state.insert_container(&container(id, &format!("name-{id}"))).unwrap();
    let way: &[ContainerState] = match wanted {
        Created => &[],
        Running => &[Running],
        Paused => &[Running, Paused],
        Restarting => &[Running, Restarting],
        Exited => &[Exited],
    };
    for next in way {
        state.update_container(id, |record| put(record, *next)).unwrap();
    }
}

#[test]
fn code_and_database_have_the_same_diagram() {
    let (home, state) = open();
    let raw = Connection::open(path_of(&home)).unwrap();
    for (index, from) in ContainerState::ALL.into_iter().enumerate() {
        for (number, to) in ContainerState::ALL.into_iter().enumerate() {
            let id = format!("{index}{number}");
            make(&state, &id, from);
            // Past the code: what any program could try.
            let mut record = state.container(&id).unwrap();
            put(&mut record, to);
            let text = serde_json::to_string(&record).unwrap();
            let update = "UPDATE containers SET state = ?2, record = ?3 WHERE id = ?1";
            let raw = raw.execute(update, [&id, to.as_str(), &text]);
            assert_eq!(raw.is_ok(), from.may_become(to), "{from} to {to}: {raw:?}");
            let other = format!("x{id}");
            make(&state, &other, from);
            let moved = state.update_container(&other, |record| put(record, to));
            assert_eq!(moved.is_ok(), from.may_become(to), "{from} to {to}: {moved:?}");
        }
    }
}

#[test]
fn the_database_refuses_what_no_record_may_be() {
    let (home, state) = open();
    make(&state, "aa", Running);
    make(&state, "bb", Created);
    make(&state, "cc", Exited);
    let raw = Connection::open(path_of(&home)).unwrap();
    for (what, change) in [
        ("removal of what lives", "DELETE FROM containers WHERE id = 'aa'"),
        ("an unknown state", "UPDATE containers SET state = 'dead' WHERE id = 'cc'"),
        ("a state that the record does not have", "UPDATE containers SET state = 'exited' WHERE id = 'aa'"),
        ("life without a keeper", "UPDATE containers SET record = json_remove(record, '$.keeper') WHERE id = 'aa'"),
        ("life without a start", "UPDATE containers SET record = json_remove(record, '$.started_at') WHERE id = 'aa'"),
        ("an end without a code", "UPDATE containers SET record = json_remove(record, '$.exit_code') WHERE id = 'cc'"),
        (
            "an end without a time",
            "UPDATE containers SET record = json_remove(record, '$.finished_at') WHERE id = 'cc'",
        ),
        ("another keeper", "UPDATE containers SET record = json_set(record, '$.keeper.pid', 9) WHERE id = 'aa'"),
        ("a record of another", "UPDATE containers SET record = json_set(record, '$.id', 'zz') WHERE id = 'bb'"),
        ("no JSON", "UPDATE containers SET record = '{' WHERE id = 'bb'"),
        (
            "a birth in mid-life",
            "INSERT INTO containers SELECT 'dd', 'dd', image, 1, 'exited', json_set(record, '$.id', 'dd')
             FROM containers WHERE id = 'cc'",
        ),
    ] {
        assert!(raw.execute_batch(change).is_err(), "{what}");
    }
    // Nothing of that has happened, and what is allowed still is.
    assert_eq!(state.containers().unwrap().len(), 3);
    state.update_container("aa", |record| put(record, Exited)).unwrap();
    state.remove_container("aa").unwrap();
}

/// What version 2 made, with records as it wrote them: one of each state.
const SECOND_VERSION: &str = r#"
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
    CREATE TABLE digests (reference TEXT PRIMARY KEY, image TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE)
        STRICT, WITHOUT ROWID;
    CREATE INDEX digests_by_image ON digests (image);
    INSERT INTO images VALUES ('sha256:1', 'sha256:m', 5, '{"id":"sha256:1","manifest_digest":"sha256:m",
        "layers":[],"platform":"linux/amd64","created":"2024-01-02T03:04:05Z","loaded_at":5,"size":4096,
        "root":{"digest":"sha256:r","length":4096}}');
    INSERT INTO containers VALUES ('aa', 'made', 'sha256:1', 7, 'created', '{"id":"aa","name":"made",
        "image_id":"sha256:1","image_ref":"boat:1","created_at":7,"started_at":null,"finished_at":null,
        "state":"created","auto_remove":false,"keeper":{"pid":77,"start_time":5,"boot_id":"old"},"machine":null,
        "exit_code":null,"reason":null,"error":null,"kernel_log_tail":null,"timings":null,"spec":{"a":[1]}}');
    INSERT INTO containers VALUES ('bb', 'runs', 'sha256:1', 8, 'running', '{"id":"bb","name":"runs",
        "image_id":"sha256:1","image_ref":"boat:1","created_at":8,"started_at":9,"finished_at":null,
        "state":"running","auto_remove":true,"keeper":{"pid":78,"start_time":5,"boot_id":"old"},
        "machine":{"pid":79,"start_time":6,"boot_id":"old"},"exit_code":null,"reason":null,"error":null,
        "kernel_log_tail":null,"timings":null,"spec":null}');
    INSERT INTO containers VALUES ('cc', 'over', 'sha256:1', 9, 'exited', '{"id":"cc","name":"over",
        "image_id":"sha256:1","image_ref":"boat:1","created_at":9,"started_at":9,"finished_at":12,
        "state":"exited","auto_remove":false,"keeper":null,"machine":null,"exit_code":137,
        "reason":"guest_out_of_memory","error":"the container ran out of memory","kernel_log_tail":"x",
        "timings":{"begun":1,"oom_killed":true},"spec":{}}');
    PRAGMA user_version = 2;
"#;

#[test]
fn records_of_the_second_version_live_on() {
    let home = tempfile::tempdir().unwrap();
    Connection::open(path_of(&home)).unwrap().execute_batch(SECOND_VERSION).unwrap();
    let state = State::open(&path_of(&home)).unwrap();
    let names: Vec<_> = state.containers().unwrap().into_iter().map(|r| (r.name, r.state)).collect();
    assert_eq!(names, [("over".into(), Exited), ("runs".into(), Running), ("made".into(), Created)]);
    let over = state.container("over").unwrap();
    assert_eq!((over.exit_code, over.restart_count, over.stopped_by_user), (Some(137), 0, false));
    assert!(over.labels.is_empty() && over.health.is_none() && over.claim.is_none());
    assert_eq!(state.container("made").unwrap().spec, serde_json::json!({"a": [1]}));
    // They take the new ways.
    state.update_container("bb", |record| put(record, Paused)).unwrap();
    state.update_container("bb", |record| put(record, Exited)).unwrap();
    state.claim("cc", Claim::Start, &process(5)).unwrap();
    // What refers to images still does.
    assert!(matches!(state.remove_image("sha256:1"), Err(StateError::ImageInUse { .. })));
    let raw = Connection::open(path_of(&home)).unwrap();
    raw.pragma_update(None, "foreign_keys", true).unwrap();
    assert!(raw.execute("DELETE FROM images", []).is_err());
    let problems: i64 = raw.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0)).unwrap();
    assert_eq!(problems, 0);
}

#[test]
fn a_claim_keeps_others_away() {
    let (_home, state) = open();
    make(&state, "aa", Created);
    let claimed = state.claim("aa", Claim::Start, &process(4711)).unwrap();
    assert_eq!((claimed.keeper, claimed.claim), (Some(process(4711)), Some(Claim::Start)));
    let refused = state.claim("aa", Claim::Remove, &process(5)).unwrap_err();
    assert_eq!(refused.to_string(), "container name-aa is being started by process 4711");
    let refused = state.remove_claimed("aa", &process(5)).unwrap_err();
    assert!(matches!(refused, StateError::Claimed { pid: 4711, .. }), "{refused}");
    // Somebody else's release does nothing.
    state.release("aa", &process(5)).unwrap();
    assert!(state.claim("aa", Claim::Files, &process(5)).is_err());
    // The keeper takes over: now it is nobody's to give back.
    state
        .update_container("aa", |record| {
            (record.keeper, record.claim) = (Some(process(6)), None);
        })
        .unwrap();
    state.release("aa", &process(6)).unwrap();
    let refused = state.claim("aa", Claim::Remove, &process(5)).unwrap_err();
    assert_eq!(refused.to_string(), "container name-aa is being started by process 6");
    // But a keeper hands nothing on.
    assert!(matches!(
        state.update_container("aa", |record| record.keeper = Some(process(7))),
        Err(StateError::Forbidden { .. })
    ));
    state
        .update_container("aa", |record| {
            put(record, Running);
            record.keeper = Some(process(6));
        })
        .unwrap();
    let refused = state.claim("aa", Claim::Remove, &process(5)).unwrap_err();
    assert_eq!(refused.to_string(), "container name-aa is running");
    state.update_container("aa", |record| put(record, Exited)).unwrap();
    state.claim("aa", Claim::Remove, &process(5)).unwrap();
    state.remove_claimed("aa", &process(5)).unwrap();
    assert!(matches!(state.claim("aa", Claim::Start, &process(5)), Err(StateError::NoSuchContainer { .. })));
    state.release("aa", &process(5)).unwrap();
}

#[test]
fn of_fifty_threads_one_gets_the_container() {
    let (home, state) = open();
    make(&state, "aa", Created);
    let path = path_of(&home);
    let won: Vec<u32> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..50)
            .map(|index| {
                let path = &path;
                scope.spawn(move || match State::open(path).unwrap().claim("aa", Claim::Start, &process(100 + index)) {
                    Ok(_) => Some(100 + index),
                    Err(StateError::Claimed { claim: Claim::Start, .. }) => None,
                    Err(error) => panic!("{error:?}"),
                })
            })
            .collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(won.len(), 1);
    assert_eq!(state.container("aa").unwrap().keeper, Some(process(won[0])));
}

const RACER: &str = "CORACLE_TEST_RACER";

/// A process of the next test; no test by itself.
#[test]
fn racer() {
    let Some(path) = std::env::var_os(RACER) else { return };
    let own = process(std::process::id());
    let state = State::open(Path::new(&path)).unwrap();
    match state.claim("aa", Claim::Remove, &own) {
        Ok(_) => {
            // Others find it claimed for a while, then gone.
            std::thread::sleep(Duration::from_millis(50));
            state.remove_claimed("aa", &own).unwrap();
            std::process::exit(10);
        }
        Err(StateError::Claimed { claim: Claim::Remove, .. } | StateError::NoSuchContainer { .. }) => {
            std::process::exit(11)
        }
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn of_fifty_processes_one_removes_the_container() {
    let (home, state) = open();
    make(&state, "aa", Exited);
    let program = std::env::current_exe().unwrap();
    let start = || {
        let mut command = Command::new(&program);
        command.args(["racer", "--exact", "--quiet"]).env(RACER, path_of(&home));
        command.stdout(std::process::Stdio::null()).spawn().unwrap()
    };
    let mut racers: Vec<_> = (0..50).map(|_| start()).collect();
    let codes: Vec<_> = racers.iter_mut().map(|racer| racer.wait().unwrap().code()).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(10)).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == Some(11)).count(), 49, "{codes:?}");
    let destroyed = state.events(&EventQuery::default()).unwrap();
    assert_eq!(destroyed.iter().filter(|event| event.action == "destroy").count(), 1);
}

fn actions(state: &State) -> Vec<String> {
    state.events(&EventQuery::default()).unwrap().into_iter().map(|event| event.action).collect()
}

#[test]
fn a_life_is_told() {
    let (_home, state) = open();
    make(&state, "aa", Created);
    for next in [Running, Paused, Running, Restarting, Running] {
        state.update_container("aa", |record| put(record, next)).unwrap();
    }
    for status in ["starting", "healthy", "healthy", "unhealthy"] {
        let health = Some(serde_json::json!({"Status": status}));
        state.update_container("aa", |record| record.health = health).unwrap();
    }
    state.update_container("aa", |record| record.name = "ship".into()).unwrap();
    let killed = state.update_container("aa", |record| {
        put(record, Exited);
        (record.exit_code, record.oom_killed) = (Some(137), true);
    });
    let killed = killed.unwrap();
    state.container_event(&killed, "stop", &[("signal", "9".to_owned())]).unwrap();
    state.remove_container("aa").unwrap();
    let told = actions(&state);
    let expected = "create start pause unpause die start health_status: healthy health_status: unhealthy rename oom die \
                    stop destroy";
    assert_eq!(told.join(" "), expected);
    let events = state.events(&EventQuery::default()).unwrap();
    let die = events.iter().rfind(|event| event.action == "die").unwrap();
    let attributes: Vec<_> = die.attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(attributes, ["execDuration=4", "exitCode=137", "image=busybox", "name=ship", "tier=front"]);
    assert_eq!((die.kind, die.id.as_str()), (EventKind::Container, "aa"));
    let rename = events.iter().find(|event| event.action == "rename").unwrap();
    assert_eq!((rename.attributes["oldName"].as_str(), rename.attributes["name"].as_str()), ("name-aa", "ship"));
    assert!(events.is_sorted_by_key(|event| event.seq) && events.is_sorted_by_key(|event| event.at));
}

#[test]
fn what_did_not_happen_is_not_told() {
    let (_home, state) = open();
    make(&state, "aa", Created);
    assert!(state.update_container("aa", |record| put(record, Paused)).is_err());
    assert!(state.insert_container(&container("bb", "name-aa")).is_err());
    state.update_container("aa", |record| record.error = Some("x".into())).unwrap();
    assert_eq!(actions(&state), ["create"]);
    // An end before the process ran is one, each time.
    state.update_container("aa", |record| put(record, Exited)).unwrap();
    state.update_container("aa", |record| put(record, Exited)).unwrap();
    assert_eq!(actions(&state), ["create", "die", "die"]);
}

#[test]
fn the_newest_events_are_kept() {
    let (home, state) = open();
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10500)
                INSERT INTO events (at, kind, action, id, attributes) SELECT i, 'image', 'pull', 'x', '{}' FROM n";
    Connection::open(path_of(&home)).unwrap().execute(fill, []).unwrap();
    state.insert_event(EventKind::Volume, "create", "data", &BTreeMap::new()).unwrap();
    let events = state.events(&EventQuery::default()).unwrap();
    assert_eq!(events.len(), state::event::EVENTS_KEPT);
    assert_eq!((events[0].seq, events.last().unwrap().seq), (502, 10_501));
    let some = state.events(&EventQuery { after: 600, since: Some(610), until: Some(612) }).unwrap();
    assert_eq!(some.iter().map(|event| event.at).collect::<Vec<_>>(), [610, 611, 612]);
    assert_eq!(state.last_event().unwrap(), 10_501);
}

#[test]
fn who_waits_hears_of_it_soon() {
    let (home, state) = open();
    let after = state.last_event().unwrap();
    let query = EventQuery { after, ..EventQuery::default() };
    let begun = Instant::now();
    assert!(state.wait_for_events(&query, Duration::from_millis(120)).unwrap().is_empty());
    assert!(begun.elapsed() >= Duration::from_millis(120));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            make(&State::open(&path_of(&home)).unwrap(), "aa", Created);
        });
        let events = state.wait_for_events(&query, Duration::from_secs(20)).unwrap();
        assert_eq!(events[0].action, "create");
    });
    // What was written by oneself is there at once.
    state.insert_event(EventKind::Image, "tag", "x", &BTreeMap::new()).unwrap();
    let query = EventQuery { after: after + 1, ..EventQuery::default() };
    assert_eq!(state.wait_for_events(&query, Duration::ZERO).unwrap().len(), 1);
}
