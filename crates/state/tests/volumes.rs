//! What the records promise of volumes: one of a name, none removed that is used, a removal that can be finished.

use state::{ContainerRecord, EventQuery, ImageRecord, RootRecord, State, StateError, VolumeRecord};
use tempfile::TempDir;

fn open() -> (TempDir, State) {
    let home = tempfile::tempdir().unwrap();
    let state = State::open(&home.path().join("state.db")).unwrap();
    let image = ImageRecord {
        id: "sha256:1".into(),
        names: Vec::new(),
        manifest_digest: None,
        digests: Vec::new(),
        layers: Vec::new(),
        platform: "linux/amd64".into(),
        created: None,
        loaded_at: 5,
        size: 4096,
        root: RootRecord { digest: "sha256:r".into(), length: 4096 },
    };
    state.put_image(&image).unwrap();
    for (id, name) in [("c1", "first"), ("c2", "second")] {
        let container = ContainerRecord::new(id.into(), name.into(), image.id.clone(), "busybox".into(), 7);
        state.insert_container(&container).unwrap();
    }
    (home, state)
}

fn volume(name: &str) -> VolumeRecord {
    VolumeRecord::new(name.to_owned(), 1 << 30, 9)
}

#[test]
fn a_volume_is_made_once() {
    let (_home, state) = open();
    assert_eq!(state.insert_volume(&volume("data")).unwrap(), (volume("data"), true));
    let larger = VolumeRecord { size: 2 << 30, ..volume("data") };
    assert_eq!(state.insert_volume(&larger).unwrap(), (volume("data"), false));
    let used = state.use_volumes("c1", &[larger, volume("other")]).unwrap();
    assert_eq!(used, [(volume("data"), false), (volume("other"), true)]);
    assert_eq!(state.volumes().unwrap(), [volume("data"), volume("other")]);
    assert_eq!(state.volumes_of("c1").unwrap().len(), 2);
    assert!(matches!(state.use_volumes("c9", &[volume("new")]), Err(StateError::NoSuchContainer { .. })));
    assert!(matches!(state.volume("new"), Err(StateError::NoSuchVolume { name }) if name == "new"));
}

#[test]
fn a_volume_in_use_stays() {
    let (_home, state) = open();
    state.use_volumes("c1", &[volume("data")]).unwrap();
    state.use_volumes("c2", &[volume("data")]).unwrap();
    let error = state.begin_volume_removal("data").unwrap_err();
    assert_eq!(error.to_string(), "volume data is used by containers c1, c2");
    assert!(error.hint().unwrap().contains("coracle rm c1"));
    state.remove_container("c1").unwrap();
    assert_eq!(state.users_of_volume("data").unwrap(), ["c2"]);
    state.remove_container("c2").unwrap();
    assert!(state.begin_volume_removal("data").unwrap().removing);
}

#[test]
fn a_removal_can_be_finished_by_another() {
    let (_home, state) = open();
    state.insert_volume(&volume("data")).unwrap();
    // Not begun: nothing to finish.
    state.forget_volume("data").unwrap();
    state.begin_volume_removal("data").unwrap();
    assert!(matches!(state.insert_volume(&volume("data")), Err(StateError::VolumeGoes { .. })));
    assert!(matches!(state.use_volumes("c1", &[volume("data")]), Err(StateError::VolumeGoes { .. })));
    // The first one died here.
    state.begin_volume_removal("data").unwrap();
    state.forget_volume("data").unwrap();
    state.forget_volume("data").unwrap();
    assert!(matches!(state.begin_volume_removal("data"), Err(StateError::NoSuchVolume { .. })));
    let events = state.events(&EventQuery::default()).unwrap();
    let of_volumes: Vec<_> = events.iter().filter(|event| event.kind.as_str() == "volume").collect();
    assert_eq!(of_volumes.iter().map(|event| event.action.as_str()).collect::<Vec<_>>(), ["create", "destroy"]);
    state.insert_volume(&volume("data")).unwrap();
}
