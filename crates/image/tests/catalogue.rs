//! Finding, filtering, measuring, removing and pruning images.

mod kit;

use std::fs;
use std::process::Command;

use image::{ImageError, Images, ListFilter, PruneRequest};
use kit::*;
use serde_json::{Value, json};
use state::ContainerRecord;

const BUSYBOX: &str = "docker.io/library/busybox";

fn digest(byte: u8) -> String {
    format!("sha256:{}", format!("{byte:02x}").repeat(32))
}

/// Loads an image with one layer, and a configuration that `change` has changed.
fn load(home: &Home, name: &str, change: impl FnOnce(&mut Value)) -> String {
    let layers =
        [Layer::plain(&Tar::default().file(&format!("etc/{}", name.replace([':', '/'], "-")), &noise(9000, 1)))];
    let mut config = config("amd64", &layers);
    change(&mut config);
    let mut layout = Layout::default();
    let descriptor = layout.manifest(&config, &layers);
    home.load_layout(&layout.named(descriptor, name)).unwrap()[0].id.clone()
}

fn contain(home: &Home, name: &str, image: &str) {
    let record = ContainerRecord::new(name.into(), name.into(), image.into(), "it".into(), 1);
    home.images.state().insert_container(&record).unwrap();
}

/// Short names and digests of what a filter lets through, sorted.
fn names(images: &Images, filter: &ListFilter) -> Vec<String> {
    let found = images.list_filtered(filter).unwrap();
    let label = |image: &state::ImageRecord| {
        let all = [&image.names[..], &image.digests[..]].concat();
        if all.is_empty() { vec!["<none>".to_owned()] } else { all.iter().map(|n| image::familiar(n).into()).collect() }
    };
    let mut names: Vec<String> = found.iter().flat_map(label).collect();
    names.sort();
    names
}

#[test]
fn lists_are_filtered_as_dockers_are() {
    let home = Home::new();
    load(&home, "busybox:1", |c| c["created"] = json!("2020-01-01T00:00:00Z"));
    load(&home, "busybox:glibc", |c| c["config"]["Labels"] = json!({"stage": "test", "empty": ""}));
    load(&home, "registry.example.com/team/app:v1", |c| c["created"] = json!("2025-01-01T00:00:00.5+01:00"));
    let nameless = load(&home, "gone:1", |c| c["created"] = Value::Null);
    home.images.state().unname_image("docker.io/library/gone:1").unwrap();
    let pulled = load(&home, "pulled:1", |c| c["author"] = json!("me"));
    let by_digest = format!("{BUSYBOX}@{}", digest(7));
    home.images.state().add_digest(&by_digest, &pulled).unwrap();
    home.images.state().unname_image("docker.io/library/pulled:1").unwrap();
    let by_digest = format!("busybox@{}", digest(7));
    let all = ["<none>", "busybox:1", "busybox:glibc", &by_digest, "registry.example.com/team/app:v1"];
    let some = |indices: &[usize]| indices.iter().map(|i| all[*i].to_owned()).collect::<Vec<_>>();

    let filter = ListFilter::default;
    let owned = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    let references = |texts: &[&str]| ListFilter { references: owned(texts), ..filter() };
    let labels = |texts: &[&str]| ListFilter { labels: owned(texts), ..filter() };
    let cases = [
        (filter(), some(&[0, 1, 2, 3, 4])),
        (ListFilter { dangling: Some(true), ..filter() }, some(&[0, 3])),
        (ListFilter { dangling: Some(false), ..filter() }, some(&[1, 2, 3, 4])),
        (references(&["busybox"]), some(&[1, 2, 3])),
        (references(&["busybox:*"]), some(&[1, 2])),
        (references(&["busy*:g*", "*/*/app"]), some(&[2, 4])),
        (references(&["*"]), some(&[1, 2, 3])),
        (references(&["*.example.com/*/*"]), some(&[4])),
        (references(&["docker.io/library/busybox"]), some(&[])),
        (ListFilter { dangling: Some(true), ..references(&["busybox"]) }, some(&[3])),
        (labels(&["stage"]), some(&[2])),
        (labels(&["stage=test", "empty="]), some(&[2])),
        (labels(&["stage=prod"]), some(&[])),
        (ListFilter { without_labels: owned(&["stage"]), ..filter() }, some(&[0, 1, 3, 4])),
        (ListFilter { before: owned(&["busybox:glibc"]), ..filter() }, some(&[0, 1])),
        (ListFilter { since: owned(&["busybox:glibc"]), ..filter() }, some(&[4])),
        (ListFilter { since: owned(&[&nameless, "busybox:1"]), ..filter() }, some(&[2, 3, 4])),
        (ListFilter { until: Some(1_577_836_800_000_000_001), ..filter() }, some(&[0, 1])),
        (ListFilter { until: Some(1_577_836_800_000_000_000), ..filter() }, some(&[0])),
    ];
    for (filter, mut expected) in cases {
        expected.sort();
        assert_eq!(names(&home.images, &filter), expected, "{filter:?}");
    }
    let bad = home.images.list_filtered(&references(&["[x"])).unwrap_err();
    assert!(matches!(bad, ImageError::Pattern { .. }) && bad.hint().is_some(), "{bad}");
    let nothing = home.images.list_filtered(&ListFilter { before: owned(&["none"]), ..filter() }).unwrap_err();
    assert!(matches!(nothing, ImageError::NoSuchImage { .. }));
}

#[test]
fn an_image_is_found_by_what_it_was_pulled_as() {
    let home = Home::new();
    let id = load(&home, "boat:1", |_| ());
    let state = home.images.state();
    state.add_digest(&format!("{BUSYBOX}@{}", digest(1)), &id).unwrap();
    for name in ["busybox@", "busybox:any@", "docker.io/library/busybox@", "index.docker.io/library/busybox:x@"] {
        assert_eq!(home.images.resolve(&format!("{name}{}", digest(1))).unwrap().id, id, "{name}");
    }
    for name in [format!("busybox@{}", digest(2)), format!("boat@{}", digest(1)), "busybox".into()] {
        assert!(matches!(home.images.resolve(&name), Err(ImageError::NoSuchImage { .. })), "{name}");
    }
    let record = home.images.resolve("boat:1").unwrap();
    let manifest = record.manifest_digest.clone().unwrap();
    assert_eq!(home.images.resolve(&format!("boat@{manifest}")).unwrap().id, id, "its own, in its repository");
    let shown = home.images.inspect(&record).unwrap().repo_digests;
    assert_eq!(shown, [format!("busybox@{}", digest(1)), format!("boat@{manifest}")]);
    state.add_digest(&format!("docker.io/library/boat@{}", digest(3)), &id).unwrap();
    let shown = home.images.inspect(&home.images.resolve("boat:1").unwrap()).unwrap().repo_digests;
    assert_eq!(
        shown,
        [format!("boat@{}", digest(3)), format!("busybox@{}", digest(1))],
        "the index it was pulled from"
    );
}

#[test]
fn digests_are_removed_like_names() {
    let home = Home::new();
    let id = load(&home, "busybox:1", |_| ());
    let reference = |byte| format!("{BUSYBOX}@{}", digest(byte));
    let add = |byte| home.images.state().add_digest(&reference(byte), &id).unwrap();
    add(1);
    add(2);
    let removed = home.images.remove(&format!("busybox@{}", digest(1)), false).unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec![reference(1)], None));
    // Another repository keeps the image, the last tag of this one takes its digests along.
    home.images.tag("busybox:1", "ship:1").unwrap();
    let removed = home.images.remove("busybox:1", false).unwrap();
    assert_eq!(removed.untagged, [format!("{BUSYBOX}:1"), reference(2)]);
    assert_eq!(removed.deleted, None);
    // By id, a tag and digests of the same repository are one; of two repositories they are not.
    add(3);
    let several = home.images.remove(&id, false).unwrap_err();
    assert!(matches!(&several, ImageError::SeveralNames { names, .. } if names.len() == 2), "{several}");
    home.images.remove("ship:1", false).unwrap();
    let removed = home.images.remove(&format!("busybox@{}", digest(3)), false).unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec![reference(3)], Some(id)), "with the last one the image goes");
    assert!(home.leftovers().is_empty());

    let id = load(&home, "busybox:1", |_| ());
    home.images.state().add_digest(&reference(4), &id).unwrap();
    contain(&home, "cc", &id);
    let in_use = home.images.remove("busybox:1", false).unwrap_err();
    assert!(matches!(in_use, ImageError::State(state::StateError::ImageInUse { .. })), "{in_use}");
    let removed = home.images.remove(&id, true).unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted), (2, None));
}

/// Bytes on disk of what the store keeps, as du(1) counts; directories that are always there not.
fn du(home: &Home) -> u64 {
    let path = home.images.store().home();
    let script = "find blobs/sha256 layers/sha256 roots/sha256 partial tmp leases -mindepth 1 -printf '%b\\n' | awk '{s+=$1} END {print s*512}'";
    let output = Command::new("sh").args(["-c", script]).current_dir(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// A home on a disk, where small files cost blocks.
fn on_disk() -> Home {
    Home::below(&std::env::temp_dir())
}

#[test]
fn pruning_says_exactly_what_it_freed() {
    let home = on_disk();
    let store = home.images.store();
    let base = Layer::gzip(&Tar::default().file("base", &noise(200_000, 1)));
    let own = |n: u64| Layer::gzip(&Tar::default().file("own", &noise(30_000, n)));
    home.load_layout(&Layout::image("kept:1", &[base.clone(), own(2)])).unwrap();
    home.load_layout(&Layout::image("boat:1", &[base.clone(), own(3)])).unwrap();
    home.load_layout(&Layout::image("boat:1", &[base.clone(), own(4)])).unwrap();
    assert_eq!(home.images.prune(&PruneRequest::default()).unwrap().deleted.len(), 1, "it lost its name");
    assert_eq!(home.images.prune(&PruneRequest::default()).unwrap(), image::Pruned::default(), "nothing is left to do");

    home.load_layout(&Layout::image("boat:1", &[base, own(5)])).unwrap();
    let partial = store.partial(&store::Digest::of(b"p"), || ()).unwrap();
    std::io::Write::write_all(&mut partial.file(), &noise(50_000, 6)).unwrap();
    drop(partial);
    fs::write(store.home().join("tmp/file-of-a-dead-process"), noise(20_000, 7)).unwrap();
    let lease = store.lease(&[]).unwrap();
    store.ingest_blob(&lease, &mut &noise(10_000, 8)[..], None, None).unwrap();
    drop(lease);
    Command::new("sync").arg("-f").arg(store.home()).status().unwrap();
    let before = du(&home);
    let pruned = home.images.prune(&PruneRequest::default()).unwrap();
    assert_eq!(pruned.bytes, before - du(&home), "{pruned:?}");
    assert!(pruned.bytes > 100_000);
    // Of the image that lost its name: configuration, manifest, its own layer, metadata image; and the blob.
    assert_eq!((pruned.deleted.len(), pruned.objects.len(), pruned.leftovers), (1, 5, 2), "{pruned:?}");
    assert!(pruned.untagged.is_empty());
    assert_eq!(names(&home.images, &ListFilter::default()), ["boat:1", "kept:1"]);

    contain(&home, "cc", &home.images.resolve("kept:1").unwrap().id);
    let (usage, before) = (home.images.usage().unwrap(), du(&home));
    let pruned = home.images.prune(&PruneRequest { all: true, ..PruneRequest::default() }).unwrap();
    assert_eq!(pruned.untagged, ["docker.io/library/boat:1"]);
    assert_eq!((pruned.bytes, pruned.bytes), (before - du(&home), usage.reclaimable), "{pruned:?}");
    assert_eq!(names(&home.images, &ListFilter::default()), ["kept:1"], "it has a container");
    home.images.state().remove_container("cc").unwrap();
    home.images.prune(&PruneRequest { all: true, ..PruneRequest::default() }).unwrap();
    assert_eq!(du(&home), 0);
}

#[test]
fn pruning_spares_what_a_filter_spares() {
    let home = Home::new();
    load(&home, "old:1", |c| c["created"] = json!("2020-01-01T00:00:00Z"));
    load(&home, "kept:1", |c| c["config"]["Labels"] = json!({"keep": "yes"}));
    load(&home, "new:1", |c| c["created"] = json!("2030-01-01T00:00:00Z"));
    let request = PruneRequest { all: true, ..PruneRequest::default() };
    let until = PruneRequest { until: Some(1_600_000_000_000_000_000), ..request.clone() };
    assert_eq!(home.images.prune(&until).unwrap().untagged, ["docker.io/library/old:1"]);
    let unlabelled = PruneRequest { without_labels: vec!["keep".into()], ..request.clone() };
    assert_eq!(home.images.prune(&unlabelled).unwrap().untagged, ["docker.io/library/new:1"]);
    let labelled = PruneRequest { labels: vec!["keep=no".into()], ..request.clone() };
    assert_eq!(home.images.prune(&labelled).unwrap().untagged.len(), 0);
    assert_eq!(home.images.prune(&request).unwrap().untagged, ["docker.io/library/kept:1"]);
    assert!(home.leftovers().is_empty());
}

#[test]
fn usage_counts_what_is_shared_once() {
    let home = on_disk();
    let base = Layer::plain(&Tar::default().file("base", &noise(400_000, 1)));
    let own = Layer::plain(&Tar::default().file("own", &noise(100_000, 2)));
    home.load_layout(&Layout::image("one:1", std::slice::from_ref(&base))).unwrap();
    // The same layer twice costs what it costs once.
    home.load_layout(&Layout::image("two:1", &[base.clone(), own.clone(), own])).unwrap();
    contain(&home, "cc", &home.images.resolve("one:1").unwrap().id);
    contain(&home, "dd", &home.images.resolve("one:1").unwrap().id);
    let usage = home.images.usage().unwrap();
    assert_eq!((usage.images.len(), usage.active, usage.layers.count, usage.roots.count), (2, 1, 2, 2));
    assert_eq!((usage.blobs.count, usage.unneeded.count, usage.partial, usage.temporary), (4, 0, 0, 0));
    assert_eq!(usage.size, usage.layers.bytes + usage.blobs.bytes + usage.roots.bytes);
    assert_eq!(usage.size, du(&home));
    let [two, one] = &usage.images[..] else { panic!("{usage:?}") };
    assert_eq!((two.containers, one.containers), (0, 2));
    assert!(one.shared == two.shared && one.shared >= 400_000, "{usage:?}");
    assert_eq!(usage.size, one.unique() + two.unique() + one.shared);
    assert_eq!(usage.reclaimable, two.unique());
}

#[test]
fn the_history_of_an_image() {
    let home = Home::new();
    let layers = [small_layer("a", "one"), small_layer("b", "two")];
    let mut config = config("amd64", &layers);
    config["history"] = json!([
        {"created": "2024-01-01T00:00:00Z", "created_by": "ADD rootfs", "comment": "base"},
        {"created_by": "ENV A=b", "empty_layer": true},
        {},
        {"created": null, "created_by": "RUN more", "empty_layer": false},
    ]);
    let mut layout = Layout::default();
    let descriptor = layout.manifest(&config, &layers);
    home.load_layout(&layout.named(descriptor, "boat:1")).unwrap();
    let record = home.images.resolve("boat:1").unwrap();
    let history = home.images.history(&record).unwrap();
    let size = layers[0].tar.len() as u64;
    let shown: Vec<_> = history.iter().map(|e| (e.created_by.as_str(), e.comment.as_str(), e.size)).collect();
    // One step claims a layer too many.
    assert_eq!(shown, [("RUN more", "", 0), ("", "", size), ("ENV A=b", "", 0), ("ADD rootfs", "base", size)]);
    assert_eq!(history[0].id.as_deref(), Some(record.id.as_str()));
    assert!(history[1..].iter().all(|entry| entry.id.is_none()));
    assert_eq!(history[3].created.as_deref(), Some("2024-01-01T00:00:00Z"));

    home.load_layout(&Layout::image("ship:1", &layers)).unwrap();
    let history = home.images.history(&home.images.resolve("ship:1").unwrap()).unwrap();
    assert_eq!(history.iter().map(|e| e.size).collect::<Vec<_>>(), [size, size], "nothing was written down");
    load(&home, "nothing:1", |c| c["history"] = Value::Null);
    assert_eq!(home.images.history(&home.images.resolve("nothing:1").unwrap()).unwrap().len(), 1);
}

#[test]
fn what_happens_to_images_is_told() {
    let home = Home::new();
    let id = load(&home, "busybox:1", |_| {});
    home.images.tag("busybox:1", "boat:2").unwrap();
    home.images.save(&["boat:2".to_owned()], &mut std::io::sink()).unwrap();
    home.images.remove("boat:2", false).unwrap();
    home.images.remove("busybox:1", false).unwrap();
    let events = home.images.state().events(&state::EventQuery::default()).unwrap();
    let told: Vec<_> = events.iter().map(|event| format!("{} {}", event.action, event.attributes["name"])).collect();
    let expected = ["load busybox:1", "tag boat:2", &format!("save {id}"), "untag boat:2", "untag busybox:1"];
    assert_eq!(told[..5], expected);
    assert_eq!(told[5..], [format!("delete {id}")]);
    assert!(events.iter().all(|event| event.id == id && event.kind == state::EventKind::Image));
}
