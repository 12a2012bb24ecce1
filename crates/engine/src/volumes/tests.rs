use super::*;

fn mount(volume: &str) -> VolumeMount {
    VolumeMount {
        volume: volume.to_owned(),
        target: "/srv".to_owned(),
        read_only: false,
        copy_up: true,
        anonymous: false,
        size: Some(64 << 20),
        labels: BTreeMap::new(),
    }
}

fn engine() -> (tempfile::TempDir, Engine) {
    let directory = tempfile::tempdir().unwrap();
    let home = Home { data: directory.path().join("data"), run: directory.path().join("run") };
    let nowhere = PathBuf::from("/nowhere");
    let installation = crate::Installation {
        vmm: nowhere.clone(),
        kernel: nowhere.clone(),
        initrd: nowhere,
        emulator: None,
        file_daemon: None,
    };
    let engine = Engine::open(home, installation, &crate::Settings::default()).unwrap();
    (directory, engine)
}

fn create(engine: &Engine, name: &str, options: &[&str]) -> Result<VolumeRecord, Error> {
    let options = options.iter().map(|option| (*option).to_owned()).collect();
    engine.create_volume(&CreateVolume { name: Some(name.to_owned()), options, ..CreateVolume::default() })
}

fn container(engine: &Engine, id: &str, name: &str, claim: Option<state::Claim>) {
    let image = state::ImageRecord {
        id: "sha256:1".into(),
        names: Vec::new(),
        manifest_digest: None,
        digests: Vec::new(),
        layers: Vec::new(),
        platform: "linux/amd64".into(),
        created: None,
        loaded_at: 5,
        size: 4096,
        root: state::RootRecord { digest: "sha256:r".into(), length: 4096 },
    };
    engine.state().put_image(&image).unwrap();
    let mut record = state::ContainerRecord::new(id.into(), name.into(), image.id, "busybox".into(), 7);
    record.keeper = Some(process::current().unwrap());
    record.claim = claim;
    engine.state().insert_container(&record).unwrap();
}

#[test]
fn a_volume_is_made_listed_and_removed() {
    let (_directory, engine) = engine();
    let made = create(&engine, "data", &["size=64m"]).unwrap();
    assert_eq!((made.size, made.anonymous), (64 << 20, false));
    assert_eq!(create(&engine, "data", &[]).unwrap(), made);
    assert!(matches!(create(&engine, "data", &["size=1g"]), Err(Error::VolumeSize { size, .. }) if size == 64 << 20));
    assert!(matches!(create(&engine, "data", &["colour=blue"]), Err(Error::Mount(MountError::Option(_)))));
    assert!(matches!(create(&engine, "-", &[]), Err(Error::Mount(MountError::Name(_)))));
    let unnamed = engine.create_volume(&CreateVolume::default()).unwrap();
    assert!(unnamed.anonymous && unnamed.name.len() == 64 && unnamed.size == volume::DEFAULT_SIZE);

    let listed = engine.volumes(&VolumeFilters::default()).unwrap();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|volume| volume.bytes > 0 && volume.bytes < 16 << 20 && volume.users.is_empty()));
    let value = engine.inspect_volume("data").unwrap();
    assert_eq!((&value["Name"], &value["Driver"]), (&json!("data"), &json!("block")));
    assert_eq!(value["Coracle"]["AttachedTo"], json!([]));

    assert_eq!(engine.prune_volumes(false, &VolumeFilters::default()).unwrap().names, [unnamed.name]);
    engine.remove_volume("data", false).unwrap();
    assert!(!engine.home().volume("data").exists());
    assert!(matches!(engine.remove_volume("data", false), Err(Error::State(StateError::NoSuchVolume { .. }))));
    engine.remove_volume("data", true).unwrap();
}

#[test]
fn a_disk_that_cannot_be_made_leaves_no_volume() {
    let (_directory, engine) = engine();
    assert!(matches!(create(&engine, "data", &["size=1m"]), Err(Error::Volume(_))));
    std::fs::write(engine.home().data.join("volumes"), "in the way").unwrap();
    assert!(create(&engine, "data", &[]).is_err());
    assert!(engine.volumes(&VolumeFilters::default()).unwrap().is_empty());
}

#[test]
fn a_machine_has_a_volume_alone_or_reads_it_with_others() {
    let (_directory, engine) = engine();
    container(&engine, "c1", "first", None);
    container(&engine, "c2", "second", Some(state::Claim::Start));
    container(&engine, "c3", "third", Some(state::Claim::Start));
    engine.use_volumes("c3", &[mount("data")]).unwrap();
    engine.use_volumes("c1", &[mount("data")]).unwrap();
    engine.use_volumes("c2", &[mount("data")]).unwrap();
    let reading = VolumeMount { read_only: true, ..mount("data") };
    let disks = |mount: &VolumeMount| engine.volume_disks("c2", std::slice::from_ref(mount), 4);
    // Nobody has mounted it: even a reader must write.
    assert!(!disks(&reading).unwrap()[0].shared);
    let path = disks(&mount("data")).unwrap()[0].path.clone();
    let machine = Volume::try_lock(&path, false).unwrap().unwrap();
    for mount in [mount("data"), reading] {
        let error = disks(&mount).unwrap_err();
        assert_eq!(error.to_string(), "volume data is in use by container first");
        assert!(error.hint().unwrap().contains(":ro"));
    }
    let busy = |path: &Path| explain(engine.home(), "c2", LaunchError::DiskBusy { path: path.to_owned() }).to_string();
    assert_eq!(busy(&path), "volume data is in use by container first");
    assert_eq!(busy(Path::new("/h/scratch")), "the machine cannot be launched");
    assert_eq!(engine.inspect_volume("data").unwrap()["Coracle"]["AttachedTo"], json!(["first"]));
    assert!(matches!(engine.remove_volume("data", true), Err(Error::State(StateError::VolumeInUse { .. }))));
    drop(machine);
    disks(&mount("data")).unwrap();
    assert!(matches!(
        engine.volume_disks("c2", &vec![mount("data"); 5], 4),
        Err(Error::Mount(MountError::TooMany { .. }))
    ));
}

#[test]
fn a_volume_that_a_machine_still_has_is_not_removed() {
    let (_directory, engine) = engine();
    create(&engine, "data", &[]).unwrap();
    let path = engine.home().volume("data").join(volume::DISK_NAME);
    let machine = Volume::try_lock(&path, false).unwrap().unwrap();
    assert!(matches!(engine.remove_volume("data", false), Err(Error::VolumeAttached { by, .. }) if by.is_empty()));
    assert!(engine.prune_volumes(true, &VolumeFilters::default()).unwrap().names.is_empty());
    drop(machine);
    assert_eq!(engine.prune_volumes(true, &VolumeFilters::default()).unwrap().names, ["data"]);
}

#[test]
fn a_removal_is_finished_by_the_next_command() {
    let (_directory, engine) = engine();
    create(&engine, "data", &[]).unwrap();
    engine.state().begin_volume_removal("data").unwrap();
    assert!(engine.volumes(&VolumeFilters::default()).unwrap().is_empty());
    crate::reconcile::reconcile(engine.state(), engine.home()).unwrap();
    assert!(!engine.home().volume("data").exists());
    assert!(engine.state().volumes().unwrap().is_empty());
}

#[test]
fn what_nobody_named_goes_with_its_container() {
    let (_directory, engine) = engine();
    container(&engine, "c1", "first", Some(state::Claim::Start));
    container(&engine, "c2", "second", Some(state::Claim::Start));
    let unnamed = |name: &str| VolumeMount { anonymous: true, ..mount(name) };
    engine.use_volumes("c1", &[mount("kept"), unnamed("alone"), unnamed("lent")]).unwrap();
    engine.use_volumes("c2", &[mount("lent")]).unwrap();
    crate::keeper::record::remove_with_volumes(engine.state(), engine.home(), "c1").unwrap();
    let left = engine.volumes(&VolumeFilters::default()).unwrap();
    assert_eq!(left.iter().map(|volume| volume.record.name.as_str()).collect::<Vec<_>>(), ["kept", "lent"]);
    assert!(!engine.home().volume("alone").exists());
}

#[test]
fn a_disk_that_is_missing_is_made_and_one_without_a_record_is_found_again() {
    let (_directory, engine) = engine();
    create(&engine, "data", &["size=64m"]).unwrap();
    let directory = engine.home().volume("data");
    std::fs::remove_dir_all(&directory).unwrap();
    engine.volume_disks("c2", &[mount("data")], 4).unwrap();
    let path = directory.join(volume::DISK_NAME);
    let before = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
    engine.state().begin_volume_removal("data").unwrap();
    engine.state().forget_volume("data").unwrap();
    create(&engine, "data", &["size=64m"]).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap()), before);
}

#[test]
fn filters_match() {
    let record =
        VolumeRecord { labels: [("a".to_owned(), "b".to_owned())].into(), ..VolumeRecord::new("data".into(), 1, 1) };
    let volume = VolumeInfo { record, directory: PathBuf::new(), bytes: 0, users: vec!["c1".into()] };
    let matches = |filters: VolumeFilters| filters.match_volume(&volume);
    let all = VolumeFilters::default;
    assert!(matches(all()));
    assert!(matches(VolumeFilters { names: vec!["x".into(), "at".into()], ..all() }));
    assert!(!matches(VolumeFilters { names: vec!["x".into()], ..all() }));
    assert!(matches(VolumeFilters { labels: vec![("a".into(), None)], ..all() }));
    assert!(!matches(VolumeFilters { labels: vec![("a".into(), Some("c".into()))], ..all() }));
    assert!(matches(VolumeFilters { dangling: Some(false), drivers: vec!["block".into()], ..all() }));
    assert!(!matches(VolumeFilters { dangling: Some(true), ..all() }));
    assert!(!matches(VolumeFilters { drivers: vec!["local".into()], ..all() }));
}
