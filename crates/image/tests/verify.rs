//! Damaged stores: what is wrong is found by its use or by `verify`, healed where that can be, and made again by the
//! next load; and whatever is wrong, images can be removed. The list is that of podman's `331-system-check.bats` and
//! `330-corrupt-images.bats`.

mod kit;

use std::fs;
use std::path::PathBuf;

use image::{
    Check, ImageError, Images, ImportRequest, LoadSource, Options, Outcome, PruneRequest, Report, VerifyRequest,
};
use kit::*;
use store::{Digest, Kind, Object};

fn layers() -> [Layer; 2] {
    let base = Tar::default().directory("etc").file("etc/name", b"base").file("bin/tool", &noise(200_000, 1));
    [Layer::gzip(&base), Layer::zstd(&Tar::default().file("etc/name", b"own").file("data", &noise(60_000, 2)))]
}

fn layout() -> Layout {
    Layout::image("boat:1", &layers())
}

fn loaded() -> Home {
    let home = Home::new();
    home.load_layout(&layout()).unwrap();
    home
}

fn verify(images: &Images) -> Report {
    images.verify(&VerifyRequest::default(), &()).unwrap()
}

fn only_report() -> VerifyRequest {
    VerifyRequest { report_only: true, ..VerifyRequest::default() }
}

fn file_of(home: &Home, layer: usize, name: &str) -> PathBuf {
    home.images.store().path(&Object::layer(layers()[layer].diff_id())).join(name)
}

fn config_path(home: &Home) -> PathBuf {
    home.images.store().path(&Object::blob(home.images.list().unwrap()[0].id.parse().unwrap()))
}

fn manifest_path(home: &Home) -> PathBuf {
    let digest = home.images.list().unwrap()[0].manifest_digest.clone().unwrap();
    home.images.store().path(&Object::blob(digest.parse().unwrap()))
}

fn root_path(home: &Home) -> PathBuf {
    let digest = home.images.list().unwrap()[0].root.digest.clone();
    home.images.store().path(&Object::root(digest.parse().unwrap()))
}

fn flip(path: &std::path::Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

fn append(path: &std::path::Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes.extend(b"more");
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_whole_store_is_whole() {
    let home = loaded();
    home.load_layout(&Layout::image("other:1", &layers()[..1])).unwrap();
    let mut record = Record::default();
    let report = home.images.verify(&VerifyRequest::default(), &record).unwrap();
    assert!(report.is_whole() && report.damaged().count() == 0 && report.unneeded.is_empty(), "{report:?}");
    let kinds = |kind| report.checks.iter().filter(|check| check.object.kind == kind).count();
    assert_eq!((kinds(Kind::Blob), kinds(Kind::Layer), kinds(Kind::Root)), (4, 2, 2));
    assert!(report.checks.iter().all(|check| check.outcome == Outcome::Whole));
    let shared = report.checks.iter().find(|check| check.object == Object::layer(layers()[0].diff_id())).unwrap();
    assert_eq!(shared.images, ["other:1", "boat:1"]);
    assert_eq!(record.lines(), ["2 images 2", "Done"]);
    record = Record::default();
    let request = VerifyRequest { names: vec!["boat:1".into(), "boat".into()], report_only: false };
    assert!(matches!(home.images.verify(&request, &record), Err(ImageError::NoSuchImage { .. })));
    let request = VerifyRequest { names: vec!["boat:1".into()], report_only: false };
    assert_eq!(home.images.verify(&request, &record).unwrap().checks.len(), 5);
    assert!(verify(&Home::new().images).is_whole(), "an empty store");
}

/// How a case is done, what is told of it, and whether it heals by itself.
struct Case {
    name: &'static str,
    damage: fn(&Home),
    problem: &'static str,
    kind: Kind,
    healed: bool,
    /// Whether running the image says so, or heals it, without `verify`.
    noticed_in_use: bool,
}

const CASES: &[Case] = &[
    Case {
        name: "layer data modified",
        damage: |h| flip(&file_of(h, 0, "data")),
        problem: "data has digest",
        kind: Kind::Layer,
        healed: false,
        noticed_in_use: false,
    },
    Case {
        name: "layer data cut",
        damage: |h| fs::write(file_of(h, 0, "data"), "").unwrap(),
        problem: "data: it should be",
        kind: Kind::Layer,
        healed: false,
        noticed_in_use: true,
    },
    Case {
        name: "layer data missing",
        damage: |h| fs::remove_file(file_of(h, 1, "data")).unwrap(),
        problem: "data: it is missing",
        kind: Kind::Layer,
        healed: false,
        noticed_in_use: true,
    },
    Case {
        name: "content added",
        damage: |h| append(&file_of(h, 0, "data")),
        problem: "data: it should be",
        kind: Kind::Layer,
        healed: true,
        noticed_in_use: true,
    },
    Case {
        name: "packed modified",
        damage: |h| flip(&file_of(h, 0, "packed")),
        problem: "packed has digest",
        kind: Kind::Layer,
        healed: false,
        noticed_in_use: false,
    },
    Case {
        name: "tree modified",
        damage: |h| flip(&file_of(h, 0, "tree")),
        problem: "tree has digest",
        kind: Kind::Layer,
        healed: true,
        noticed_in_use: false,
    },
    Case {
        name: "tree missing",
        damage: |h| fs::remove_file(file_of(h, 0, "tree")).unwrap(),
        problem: "tree: it is missing",
        kind: Kind::Layer,
        healed: true,
        noticed_in_use: true,
    },
    Case {
        name: "skeleton modified",
        damage: |h| flip(&file_of(h, 0, "skeleton")),
        problem: "skeleton has digest",
        kind: Kind::Layer,
        healed: false,
        noticed_in_use: false,
    },
    Case {
        name: "facts missing",
        damage: |h| fs::remove_file(file_of(h, 0, "facts")).unwrap(),
        problem: "facts: it is missing",
        kind: Kind::Layer,
        healed: true,
        noticed_in_use: true,
    },
    Case {
        name: "facts of a first version",
        damage: |h| fs::write(file_of(h, 0, "facts"), "coracle layer 1\n").unwrap(),
        problem: "another version of Coracle",
        kind: Kind::Layer,
        healed: true,
        noticed_in_use: true,
    },
    Case {
        name: "digest changed",
        damage: wrong_verity,
        problem: "data has digest",
        kind: Kind::Layer,
        healed: true,
        noticed_in_use: false,
    },
    Case {
        name: "length of the archive changed",
        damage: wrong_length,
        problem: "facts: they are not those",
        kind: Kind::Layer,
        healed: true,
        noticed_in_use: false,
    },
    Case {
        name: "layer missing",
        damage: |h| fs::remove_dir_all(file_of(h, 1, "")).unwrap(),
        problem: "it is missing",
        kind: Kind::Layer,
        healed: false,
        noticed_in_use: true,
    },
    Case {
        name: "layer of another archive",
        damage: other_layer,
        problem: "the archive that is made from it has digest",
        kind: Kind::Layer,
        healed: false,
        noticed_in_use: false,
    },
    Case {
        name: "configuration modified",
        damage: |h| flip(&config_path(h)),
        problem: "its content has digest",
        kind: Kind::Blob,
        healed: false,
        noticed_in_use: true,
    },
    Case {
        name: "configuration missing",
        damage: |h| fs::remove_file(config_path(h)).unwrap(),
        problem: "it is missing",
        kind: Kind::Blob,
        healed: false,
        noticed_in_use: true,
    },
    Case {
        name: "manifest modified",
        damage: |h| append(&manifest_path(h)),
        problem: "its content has digest",
        kind: Kind::Blob,
        healed: false,
        noticed_in_use: false,
    },
    Case {
        name: "metadata image modified",
        damage: |h| flip(&root_path(h)),
        problem: "it is not what its layers make",
        kind: Kind::Root,
        healed: true,
        noticed_in_use: false,
    },
    Case {
        name: "metadata image cut",
        damage: |h| fs::write(root_path(h), "").unwrap(),
        problem: "it is not what its layers make",
        kind: Kind::Root,
        healed: true,
        noticed_in_use: true,
    },
    Case {
        name: "metadata image missing",
        damage: |h| fs::remove_file(root_path(h)).unwrap(),
        problem: "it is missing",
        kind: Kind::Root,
        healed: true,
        noticed_in_use: true,
    },
];

/// The facts claim another fs-verity digest.
fn wrong_verity(home: &Home) {
    let path = file_of(home, 0, "facts");
    let facts = fs::read_to_string(&path).unwrap();
    let data = facts.lines().find(|line| line.starts_with("data ")).unwrap();
    let (rest, _) = data.split_once("sha256:").unwrap();
    fs::write(&path, facts.replace(data, &format!("{rest}{}", Digest::of(b"other")))).unwrap();
}

fn wrong_length(home: &Home) {
    let path = file_of(home, 0, "facts");
    let facts = fs::read_to_string(&path).unwrap();
    let length = facts.lines().last().unwrap();
    fs::write(&path, facts.replace(length, "unpacked 1")).unwrap();
}

/// A layer that is whole in itself, under the name of another.
fn other_layer(home: &Home) {
    let (one, other) = (file_of(home, 0, ""), file_of(home, 1, ""));
    for name in ["data", "packed", "tree", "skeleton", "facts"] {
        fs::copy(other.join(name), one.join(name)).unwrap();
    }
}

/// What using the image says, and whether it then has the right content.
fn use_it(home: &Home) -> Result<Option<String>, ImageError> {
    let image = home.images.resolve("boat:1")?;
    home.images.config(&image)?;
    home.images.root_device(&image)?;
    Ok(home.file_content("boat:1", "etc/name"))
}

#[test]
fn damage_is_found_told_and_healed_by_the_next_load() {
    for case in CASES {
        let home = loaded();
        (case.damage)(&home);
        let report = home.images.verify(&only_report(), &()).unwrap();
        let damaged: Vec<&Check> = report.damaged().collect();
        let [check] = damaged[..] else { panic!("{}: {damaged:?}", case.name) };
        let Outcome::Damaged { problem, healed } = &check.outcome else { unreachable!() };
        assert!(problem.contains(case.problem) && !healed, "{}: {problem}", case.name);
        assert_eq!((check.object.kind, &check.images[..]), (case.kind, &["boat:1".to_owned()][..]), "{}", case.name);
        assert!(!report.is_whole());
        assert_eq!(home.images.verify(&only_report(), &()).unwrap(), report, "{}: nothing was touched", case.name);

        let report = verify(&home.images);
        assert_eq!(report.is_whole(), case.healed, "{}: {report:?}", case.name);
        if case.healed {
            assert_eq!(verify(&home.images).damaged().count(), 0, "{}", case.name);
            assert_eq!(use_it(&home).unwrap().as_deref(), Some("own"), "{}", case.name);
        } else if case.kind == Kind::Layer {
            let error = use_it(&home).unwrap_err();
            assert!(error.hint().unwrap().contains("pull or load the image again"), "{}: {error}", case.name);
        }
        home.load_layout(&layout()).unwrap();
        assert!(verify(&home.images).is_whole(), "{}: loaded again", case.name);
        assert_eq!(use_it(&home).unwrap().as_deref(), Some("own"), "{}", case.name);
    }
}

#[test]
fn damage_is_noticed_when_the_image_is_used() {
    for case in CASES.iter().filter(|case| case.noticed_in_use) {
        let home = loaded();
        (case.damage)(&home);
        match use_it(&home) {
            Err(error) => {
                assert!(case.kind != Kind::Root && error.hint().is_some(), "{}: {}", case.name, chain(&error));
                // A load heals without being asked to, because lengths are looked at.
                home.load_layout(&layout()).unwrap();
                assert_eq!(use_it(&home).unwrap().as_deref(), Some("own"), "{}", case.name);
            }
            Ok(content) => {
                assert_eq!(case.kind, Kind::Root, "{} went unnoticed", case.name);
                assert_eq!(content.as_deref(), Some("own"), "{}", case.name);
            }
        }
    }
}

#[test]
fn what_is_damaged_can_be_removed_all_the_same() {
    for case in CASES {
        let home = loaded();
        (case.damage)(&home);
        home.images
            .list_filtered(&image::ListFilter { labels: vec!["a".into()], ..image::ListFilter::default() })
            .unwrap();
        home.images.usage().unwrap();
        if case.name.len() % 2 == 0 {
            home.images.remove("boat:1", true).unwrap();
        } else {
            home.images.prune(&PruneRequest { all: true, ..PruneRequest::default() }).unwrap();
        }
        assert!(home.leftovers().is_empty(), "{}: {:?}", case.name, home.leftovers());
        home.load_layout(&layout()).unwrap();
        assert!(verify(&home.images).is_whole());
    }
}

#[test]
fn a_kept_blob_heals_its_layer() {
    let home = Home::new();
    let options = Options { keep_blobs: true, ..Options::default() };
    let images = Images::open(home.images.store().home()).unwrap().with_options(options);
    images.load(LoadSource::Path(layout().write(&home.directory.path().join("layout"))), &(), None).unwrap();
    flip(&file_of(&home, 0, "data"));
    fs::remove_dir_all(file_of(&home, 1, "")).unwrap();
    let report = verify(&images);
    assert!(report.is_whole() && report.damaged().count() == 2, "{report:?}");
    assert_eq!(verify(&images).damaged().count(), 0);
    // A kept blob that is damaged heals nothing, and goes.
    let blob = images.store().path(&Object::blob(Digest::of(&layers()[0].blob)));
    flip(&blob);
    flip(&file_of(&home, 0, "data"));
    let report = verify(&images);
    assert!(!report.is_whole() && report.damaged().count() == 2, "{report:?}");
    assert!(!blob.exists());
    home.load_layout(&layout()).unwrap();
    assert!(verify(&images).is_whole());
}

#[test]
fn what_nobody_needs_is_told_and_removed() {
    let home = loaded();
    let store = home.images.store();
    let lease = store.lease(&[]).unwrap();
    let blob = store.ingest_blob(&lease, &mut &b"left behind"[..], None, None).unwrap();
    let held = store.ingest_blob(&lease, &mut &b"about to be needed"[..], None, None).unwrap();
    drop(lease);
    let layer = Object::layer(Digest::of(b"unmanaged"));
    fs::create_dir(store.path(&layer)).unwrap();
    let unneeded = home.images.verify(&only_report(), &()).unwrap().unneeded;
    assert_eq!(unneeded.len(), 3, "{unneeded:?}");
    let _lease = store.lease(&[Object::blob(held)]).unwrap();
    let report = verify(&home.images);
    assert!(report.is_whole());
    assert_eq!(report.unneeded, [Object::blob(blob), layer]);
    assert_eq!(home.images.list().unwrap().len(), 1);
}

#[test]
fn one_damaged_layer_leaves_other_images_alone() {
    let home = loaded();
    let other = ImportRequest { name: Some("other".into()), ..ImportRequest::default() };
    let tar = Tar::default().file("a", b"alone").end();
    home.images.import(LoadSource::Stream(Box::new(std::io::Cursor::new(tar))), &other, &()).unwrap();
    flip(&file_of(&home, 0, "data"));
    let report = verify(&home.images);
    let unchecked: Vec<_> = report.checks.iter().filter(|check| check.outcome == Outcome::Unchecked).collect();
    assert!(unchecked.len() == 1 && unchecked[0].images == ["boat:1"], "{report:?}");
    assert!(report.damaged().all(|check| check.images == ["boat:1"]));
    let request = VerifyRequest { names: vec!["other".into()], report_only: false };
    assert!(home.images.verify(&request, &()).unwrap().is_whole());
    assert_eq!(home.file_content("other", "a").as_deref(), Some("alone"));
}
