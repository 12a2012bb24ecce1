use std::process::Command;

use state::{ContainerState, ImageRecord, ProcessRef, RootRecord};

use super::*;
use crate::process::{boot_id, current, start_time};

struct Fixture {
    _directory: tempfile::TempDir,
    home: Home,
    state: State,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let home = Home { data: directory.path().join("data"), run: directory.path().join("run") };
    for path in [&home.data, &home.run] {
        home::make_private(path).unwrap();
    }
    let state = State::open(&home.database()).unwrap();
    let image = ImageRecord {
        id: format!("sha256:{}", "1".repeat(64)),
        names: vec!["docker.io/library/busybox:latest".into()],
        digests: Vec::new(),
        manifest_digest: None,
        layers: Vec::new(),
        platform: "linux/amd64".into(),
        created: None,
        loaded_at: 0,
        size: 0,
        root: RootRecord { digest: format!("sha256:{}", "2".repeat(64)), length: 4096 },
    };
    state.put_image(&image).unwrap();
    Fixture { _directory: directory, home, state }
}

/// A process that has ended.
fn dead() -> ProcessRef {
    let mut child = Command::new("true").spawn().unwrap();
    let start_time = start_time(child.id()).unwrap_or(1);
    child.wait().unwrap();
    ProcessRef { pid: child.id(), start_time, boot_id: boot_id().unwrap() }
}

impl Fixture {
    /// A container with all its directories, kept by `keeper`.
    fn container(&self, digit: char, keeper: ProcessRef, running: bool, auto_remove: bool) -> String {
        let id = digit.to_string().repeat(64);
        let image = format!("sha256:{}", "1".repeat(64));
        let mut record = ContainerRecord::new(id.clone(), format!("name_{digit}"), image, "busybox".into(), 1);
        record.auto_remove = auto_remove;
        record.keeper = Some(keeper);
        self.state.insert_container(&record).unwrap();
        if running {
            self.state
                .transition(&id, &[ContainerState::Created], |record| {
                    record.state = ContainerState::Running;
                    record.started_at = Some(2);
                })
                .unwrap();
        }
        for directory in [self.home.container(&id), self.home.run_container(&id)] {
            home::make_private(&directory).unwrap();
            fs::write(directory.join("file"), "x").unwrap();
        }
        id
    }

    fn reconcile(&self) {
        reconcile(&self.state, &self.home).unwrap();
    }

    fn reason(&self, id: &str) -> Option<String> {
        self.state.container(id).unwrap().reason
    }
}

#[test]
fn container_that_is_kept_is_left_alone() {
    let fixture = fixture();
    let id = fixture.container('a', current().unwrap(), true, true);
    fixture.reconcile();
    assert_eq!(fixture.state.container(&id).unwrap().state, ContainerState::Running);
    assert!(fixture.home.container(&id).is_dir() && fixture.home.run_container(&id).is_dir());
}

#[test]
fn container_whose_keeper_died_has_ended_and_keeps_its_disk() {
    let fixture = fixture();
    let id = fixture.container('a', dead(), true, false);
    fixture.reconcile();
    let record = fixture.state.container(&id).unwrap();
    assert_eq!((record.state, record.exit_code), (ContainerState::Exited, Some(255)));
    assert_eq!(record.reason.as_deref(), Some("keeper_killed"));
    assert!(record.keeper.is_none() && record.finished_at.is_some());
    assert!(fixture.home.container(&id).is_dir() && !fixture.home.run_container(&id).exists());
    let before = fixture.state.container(&id).unwrap();
    fixture.reconcile();
    assert_eq!(fixture.state.container(&id).unwrap(), before);
}

#[test]
fn container_with_rm_whose_keeper_died_is_gone() {
    let fixture = fixture();
    for (digit, running) in [('a', true), ('b', false)] {
        let id = fixture.container(digit, dead(), running, true);
        fixture.reconcile();
        assert!(matches!(fixture.state.container(&id), Err(state::StateError::NoSuchContainer { .. })));
        assert!(!fixture.home.container(&id).exists() && !fixture.home.run_container(&id).exists());
    }
}

#[test]
fn keeper_of_another_boot_means_that_the_host_rebooted() {
    let fixture = fixture();
    // Its pid and start time are those of a process that runs now.
    let keeper = ProcessRef { boot_id: "00000000-0000-0000-0000-000000000000".into(), ..current().unwrap() };
    let id = fixture.container('a', keeper, true, false);
    fixture.reconcile();
    assert_eq!(fixture.reason(&id).as_deref(), Some("host_rebooted"));
}

#[test]
fn command_that_died_before_its_keeper_took_over() {
    let fixture = fixture();
    let id = fixture.container('a', dead(), false, false);
    fixture.reconcile();
    assert_eq!(fixture.reason(&id).as_deref(), Some("keeper_killed"));
    assert_eq!(fixture.state.container(&id).unwrap().state, ContainerState::Exited);
}

#[test]
fn left_over_machine_is_killed_and_a_stranger_with_its_pid_is_not() {
    let fixture = fixture();
    let mut machine = Command::new("sleep").arg("60").spawn().unwrap();
    let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
    let reference = |pid: u32, add: u64| ProcessRef {
        pid,
        start_time: start_time(pid).unwrap() + add,
        boot_id: boot_id().unwrap(),
    };
    for (digit, process) in [('a', reference(machine.id(), 0)), ('b', reference(stranger.id(), 1))] {
        let id = fixture.container(digit, dead(), true, false);
        fixture.state.update_container(&id, |record| record.machine = Some(process)).unwrap();
    }
    fixture.reconcile();
    assert!(!machine.wait().unwrap().success());
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn directories_without_a_record_are_removed() {
    let fixture = fixture();
    let id = fixture.container('a', current().unwrap(), true, false);
    for name in ["b".repeat(64), "aaa".to_owned(), "name_a".to_owned(), "not an id".to_owned()] {
        for parent in [fixture.home.containers(), fixture.home.run_containers()] {
            home::make_private(&parent.join(&name)).unwrap();
        }
    }
    fixture.reconcile();
    for parent in [fixture.home.containers(), fixture.home.run_containers()] {
        let left: Vec<_> = fs::read_dir(parent).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [std::ffi::OsString::from(&id)]);
    }
}

#[test]
fn many_commands_at_once_agree() {
    let fixture = fixture();
    for digit in "0123456789abcdef".chars() {
        fixture.container(digit, dead(), true, digit.is_ascii_digit());
    }
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let state = State::open(&fixture.home.database()).unwrap();
                reconcile(&state, &fixture.home).unwrap();
            });
        }
    });
    let left = fixture.state.containers().unwrap();
    assert_eq!(left.len(), 6);
    assert!(left.iter().all(|record| record.state == ContainerState::Exited));
}

#[test]
fn what_was_claimed_by_the_dead_is_settled() {
    let fixture = fixture();
    let claimed = |digit, claim| {
        let id = fixture.container(digit, dead(), false, false);
        // As `State::claim` leaves it, but for a process that is gone.
        fixture.state.update_container(&id, |record| record.claim = Some(claim)).unwrap();
        id
    };
    let made = claimed('a', Claim::Create);
    let removed = claimed('b', Claim::Remove);
    let read = claimed('c', Claim::Files);
    let started = claimed('d', Claim::Start);
    let repairs = reconcile(&fixture.state, &fixture.home).unwrap();
    assert_eq!(repairs.len(), 4);
    assert!(repairs.iter().all(|repair| repair.what == RepairKind::DeadCommand));
    for gone in [made, removed] {
        assert!(matches!(fixture.state.container(&gone), Err(StateError::NoSuchContainer { .. })));
        assert!(!fixture.home.container(&gone).exists());
    }
    let read = fixture.state.container(&read).unwrap();
    assert_eq!((read.state, read.keeper, read.claim), (ContainerState::Created, None, None));
    assert!(fixture.home.container(&read.id).is_dir());
    let started = fixture.state.container(&started).unwrap();
    assert_eq!((started.state, started.reason.as_deref()), (ContainerState::Exited, Some("keeper_killed")));
    assert!(reconcile(&fixture.state, &fixture.home).unwrap().is_empty(), "once is enough");
}

#[test]
fn keeper_that_died_in_any_state_leaves_an_end_and_an_event() {
    let fixture = fixture();
    for (digit, wanted) in [('a', ContainerState::Paused), ('b', ContainerState::Restarting)] {
        let id = fixture.container(digit, dead(), true, false);
        fixture
            .state
            .update_container(&id, |record| {
                record.state = wanted;
                (record.exit_code, record.finished_at) = (Some(1), Some(3));
            })
            .unwrap();
    }
    // One that had exited, was started again, and whose keeper died while its machine booted.
    let id = fixture.container('c', dead(), true, false);
    fixture.state.update_container(&id, |record| record::write_ending(record, &Ending::killed())).unwrap();
    fixture.state.update_container(&id, |record| record.keeper = Some(dead())).unwrap();
    let before = fixture.state.last_event().unwrap();
    let repairs = reconcile(&fixture.state, &fixture.home).unwrap();
    assert_eq!(repairs.iter().filter(|repair| repair.what == RepairKind::DeadKeeper).count(), 3);
    for record in fixture.state.containers().unwrap() {
        assert_eq!((record.state, record.exit_code), (ContainerState::Exited, Some(255)), "{}", record.id);
        assert_eq!(record.reason.as_deref(), Some("keeper_killed"));
    }
    let query = state::EventQuery { after: before, ..state::EventQuery::default() };
    let events = fixture.state.events(&query).unwrap();
    // The one that waited for its restart had died before.
    assert_eq!(events.len(), 2);
    for event in events {
        assert_eq!((event.action.as_str(), event.attributes["exitCode"].as_str()), ("die", "255"));
    }
}
