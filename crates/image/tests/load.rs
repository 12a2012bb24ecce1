//! Every form that images come in, and what is the same for all of them.

mod kit;

use std::fs;
use std::process::Command;

use image::{ImageError, LoadSource, Platform};
use kit::*;
use serde_json::json;

fn three_layers() -> Vec<Layer> {
    vec![
        Layer::plain(&Tar::default().directory("etc").file("etc/a", b"one").file("etc/b", b"two")),
        Layer::gzip(&Tar::default().file("etc/.wh.a", b"").file("etc/b", b"changed")),
        Layer::zstd(&Tar::default().file("etc/c", b"three").symlink("etc/link", "c")),
    ]
}

fn check_three(home: &Home, name: &str) {
    assert_eq!(home.file_content(name, "etc/a"), None);
    assert_eq!(home.file_content(name, "etc/b").as_deref(), Some("changed"));
    assert_eq!(home.file_content(name, "etc/c").as_deref(), Some("three"));
}

#[test]
fn a_layout_directory() {
    let home = Home::new();
    let loaded = home.load_layout(&Layout::image("boat:1", &three_layers())).unwrap();
    assert_eq!(loaded[0].names, ["docker.io/library/boat:1"]);
    check_three(&home, "boat:1");
}

#[test]
fn archives_by_path_and_by_stream_plain_and_compressed() {
    let tar = Layout::image("boat:1", &three_layers()).tar();
    for (index, bytes) in [tar.clone(), gzip(&tar), zstd(&tar)].into_iter().enumerate() {
        let home = Home::new();
        home.load_path(home.file("image", &bytes)).unwrap_or_else(|e| panic!("form {index}: {}", chain(&e)));
        check_three(&home, "boat:1");
        let home = Home::new();
        home.load_stream(bytes).unwrap_or_else(|e| panic!("form {index}: {}", chain(&e)));
        check_three(&home, "docker.io/library/boat:1");
        assert!(fs::read_dir(home.images.store().home().join("tmp")).unwrap().next().is_none());
    }
}

#[test]
fn a_fifo_is_a_stream() {
    let home = Home::new();
    let path = home.directory.path().join("fifo");
    run("mkfifo", &[path.to_str().unwrap()]);
    let tar = Layout::image("boat:1", &three_layers()).tar();
    std::thread::scope(|scope| {
        scope.spawn(|| fs::write(&path, &tar).unwrap());
        home.load_path(&path).unwrap();
    });
    check_three(&home, "boat:1");
}

fn docker_archive(tags: &serde_json::Value, layers: &[Layer]) -> Tar {
    let config = config("amd64", layers).to_string();
    let config_name = format!("{}.json", store::Digest::of(config.as_bytes()).hex());
    let names: Vec<_> = (0..layers.len()).map(|i| format!("{i}/layer.tar")).collect();
    let mut tar = Tar::default();
    for (name, layer) in names.iter().zip(layers) {
        tar = tar.directory(name.trim_end_matches("/layer.tar")).file(name, &layer.blob);
    }
    let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]);
    tar.file(&config_name, config.as_bytes()).file("manifest.json", manifest.to_string().as_bytes())
}

#[test]
fn an_archive_of_old_docker() {
    let home = Home::new();
    let tags = json!(["boat:1", "registry.example.com:5000/fleet/boat:v2"]);
    let loaded = home.load_path(home.file("a.tar", &docker_archive(&tags, &three_layers()).end())).unwrap();
    assert_eq!(loaded[0].names, ["docker.io/library/boat:1", "registry.example.com:5000/fleet/boat:v2"]);
    check_three(&home, "boat:1");
    let record = home.images.resolve("boat:1").unwrap();
    assert_eq!((record.manifest_digest, record.layers.len()), (None, 3));
}

#[test]
fn an_archive_of_docker_whose_layers_link_to_each_other() {
    let home = Home::new();
    let layer = Layer::plain(&Tar::default().file("a", b"one"));
    let config = config("amd64", &[layer.clone(), layer.clone()]).to_string();
    let manifest = json!([{"Config": "c.json", "RepoTags": ["boat:1"], "Layers": ["1/layer.tar", "2/layer.tar"]}]);
    let tar = Tar::default()
        .file("1/layer.tar", &layer.blob)
        .symlink("2/layer.tar", "../1/layer.tar")
        .file("c.json", config.as_bytes())
        .file("manifest.json", manifest.to_string().as_bytes());
    home.load_stream(tar.end()).unwrap();
    assert_eq!(home.file_content("boat:1", "a").as_deref(), Some("one"));
}

#[test]
fn an_image_without_a_name_is_found_by_its_id() {
    let home = Home::new();
    let loaded = home.load_stream(docker_archive(&json!(null), &three_layers()).end()).unwrap();
    assert!(loaded[0].names.is_empty());
    let id = &loaded[0].id;
    let hex = id.strip_prefix("sha256:").unwrap();
    for name in [id.as_str(), hex, &hex[..12], &id[..20]] {
        assert_eq!(&home.images.resolve(name).unwrap().id, id, "{name}");
    }
    check_three(&home, hex);
}

#[test]
fn a_layout_with_dockers_manifest_beside_it_takes_its_names() {
    let mut layout = Layout::default();
    let layers = three_layers();
    let config = config("amd64", &layers);
    let descriptor = layout.manifest(&config, &layers);
    layout.index.push(descriptor);
    let hex = store::Digest::of(config.to_string().as_bytes()).hex();
    let manifest = json!([{"Config": format!("blobs/sha256/{hex}"), "RepoTags": ["boat:1"], "Layers": []}]);
    layout.files.insert("manifest.json".into(), manifest.to_string().into_bytes());
    let home = Home::new();
    let loaded = home.load_stream(layout.tar()).unwrap();
    assert_eq!(loaded[0].names, ["docker.io/library/boat:1"]);
}

#[test]
fn several_images_and_several_names_in_one_archive() {
    let mut layout = Layout::default();
    let (one, two) = ([small_layer("a", "one")], [small_layer("a", "two")]);
    let first = layout.manifest(&config("amd64", &one), &one);
    let second = layout.manifest(&config("amd64", &two), &two);
    let layout = layout.named(first.clone(), "boat:1").named(first, "boat:latest").named(second, "ship:1");
    let home = Home::new();
    let loaded = home.load_layout(&layout).unwrap();
    assert_eq!(loaded.len(), 2);
    assert_eq!(loaded[0].names, ["docker.io/library/boat:1", "docker.io/library/boat:latest"]);
    assert_eq!(home.file_content("boat", "etc/a").as_deref(), Some("one"));
    assert_eq!(home.file_content("ship:1", "etc/a").as_deref(), Some("two"));
}

fn two_platforms(nested: bool) -> Layout {
    let mut layout = Layout::default();
    let mut manifests = Vec::new();
    for architecture in ["arm64", "amd64"] {
        let layers = [small_layer("arch", architecture)];
        let mut descriptor = layout.manifest(&config(architecture, &layers), &layers);
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        manifests.push(descriptor);
    }
    let attestation = json!({"schemaVersion": 2, "config": {}, "layers": []}).to_string();
    let mut attestation = layout.descriptor(OCI_MANIFEST, attestation.as_bytes());
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    manifests.push(attestation);
    if nested {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).to_string();
        let descriptor = layout.descriptor(OCI_INDEX, index.as_bytes());
        return layout.named(descriptor, "boat:1");
    }
    layout.index = manifests;
    layout
}

#[test]
fn the_hosts_platform_is_picked_from_an_index() {
    for nested in [true, false] {
        let home = Home::new();
        let loaded = home.load_layout(&two_platforms(nested)).unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(home.file_content(&loaded[0].id, "etc/arch").as_deref(), Some("amd64"));
        assert_eq!(home.images.resolve(&loaded[0].id).unwrap().platform, "linux/amd64");
    }
}

#[test]
fn another_platform_can_be_asked_for() {
    let home = Home::new();
    let path = two_platforms(true).write(home.directory.path());
    let arm: Platform = "linux/arm64".parse().unwrap();
    let loaded = home.images.load(LoadSource::Path(path.clone()), &(), Some(&arm)).unwrap();
    assert_eq!(home.images.resolve(&loaded[0].id).unwrap().platform, "linux/arm64");
    let riscv: Platform = "linux/riscv64".parse().unwrap();
    let error = home.images.load(LoadSource::Path(path), &(), Some(&riscv)).unwrap_err();
    assert_eq!(error.to_string(), "boat:1 is not for linux/riscv64: it is for linux/amd64, linux/arm64");
}

#[test]
fn layers_are_shared_and_not_read_again() {
    let home = Home::new();
    let base = Layer::plain(&Tar::default().file("base", &noise(100_000, 1)));
    home.load_layout(&Layout::image("one:1", std::slice::from_ref(&base))).unwrap();
    let layers = [base, small_layer("b", "two")];
    let path = Layout::image("two:1", &layers).write(&home.directory.path().join("two"));
    let record = Record::default();
    home.images.load(LoadSource::Path(path), &record, None).unwrap();
    assert_eq!(record.counts(), (1, 1));
    assert_eq!(record.lines(), ["two:1 2", "Assembling", "Done"]);
    let paths = |name: &str| home.images.root_device(&home.images.resolve(name).unwrap()).unwrap().extents;
    assert_eq!(paths("one:1")[1], paths("two:1")[1], "the same file is in both devices");
}

#[test]
fn loading_again_changes_nothing_and_moves_names() {
    let home = Home::new();
    let layout = Layout::image("boat:1", &three_layers());
    let first = home.load_layout(&layout).unwrap();
    assert_eq!(home.load_layout(&layout).unwrap(), first);
    assert_eq!(home.images.list().unwrap().len(), 1);
    let second = home.load_layout(&Layout::image("boat:1", &[small_layer("n", "new")])).unwrap();
    assert_eq!(home.images.resolve("boat:1").unwrap().id, second[0].id);
    assert!(home.images.resolve(&first[0].id).unwrap().names.is_empty(), "the old one lost its name");
}

#[test]
fn media_types_that_lie_about_compression_are_accepted() {
    let tar = Tar::default().file("a", b"one");
    let lying = |mut layer: Layer, media_type: &str| {
        layer.media_type = media_type.to_owned();
        layer
    };
    let layers = [
        lying(Layer::plain(&tar), "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        lying(Layer::gzip(&tar.clone().file("b", b"two")), OCI_LAYER),
        lying(Layer::zstd(&tar.clone().file("c", b"three")), "application/vnd.oci.image.layer.v1.tar+gzip"),
    ];
    let home = Home::new();
    home.load_layout(&Layout::image("boat:1", &layers)).unwrap();
    assert_eq!(home.file_content("boat:1", "c").as_deref(), Some("three"));
}

#[test]
fn compressed_streams_of_several_parts() {
    let tar = Tar::default().file("a", &noise(3_000_000, 5)).end();
    let (head, tail) = tar.split_at(1_234_567);
    let mut frames = b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip".to_vec();
    frames.extend([zstd(head), zstd(tail)].concat());
    let layers = [
        Layer { blob: [gzip(head), gzip(tail)].concat(), tar: tar.clone(), media_type: format!("{OCI_LAYER}+gzip") },
        Layer { blob: frames, tar, media_type: format!("{OCI_LAYER}+zstd") },
    ];
    for layer in layers {
        let home = Home::new();
        home.load_layout(&Layout::image("boat:1", std::slice::from_ref(&layer))).unwrap();
        assert_eq!(home.images.resolve("boat:1").unwrap().size, layer.tar.len() as u64);
    }
}

#[test]
fn an_image_without_layers_and_one_with_empty_layers() {
    let home = Home::new();
    home.load_layout(&Layout::image("nothing:1", &[])).unwrap();
    let empty = Layer::gzip(&Tar::default());
    home.load_layout(&Layout::image("empty:1", &[empty.clone(), empty])).unwrap();
    for name in ["nothing:1", "empty:1"] {
        let record = home.images.resolve(name).unwrap();
        assert_eq!(home.images.root_device(&record).unwrap().extents.len(), 1, "{name}");
        assert_eq!(home.file_content(name, "etc"), None);
    }
}

#[test]
fn the_configuration_and_what_inspect_shows() {
    let home = Home::new();
    home.load_layout(&Layout::image("boat:1", &three_layers())).unwrap();
    home.images.tag("boat:1", "registry.example.com/boat:v1").unwrap();
    let record = home.images.resolve("boat:1").unwrap();
    let config = home.images.config(&record).unwrap();
    assert_eq!(config.config().as_ref().unwrap().cmd().as_deref(), Some(&["sh".to_owned()][..]));
    let shown = serde_json::to_value(home.images.inspect(&record).unwrap()).unwrap();
    assert_eq!(shown["Id"], record.id);
    assert_eq!(shown["RepoTags"], json!(["boat:1", "registry.example.com/boat:v1"]));
    let digest = record.manifest_digest.unwrap();
    assert_eq!(shown["RepoDigests"], json!([format!("boat@{digest}"), format!("registry.example.com/boat@{digest}")]));
    assert_eq!(shown["Config"]["Env"], json!(["PATH=/bin"]));
    assert_eq!((&shown["Os"], &shown["Architecture"]), (&json!("linux"), &json!("amd64")));
    assert_eq!(shown["RootFS"]["Layers"].as_array().unwrap().len(), 3);
    assert_eq!(shown["Created"], "2024-01-02T03:04:05Z");
    let by_digest = home.images.resolve(&format!("boat@{digest}")).unwrap();
    assert_eq!(by_digest.id, record.id);
    assert_eq!(home.images.resolve(&digest).unwrap().id, record.id);
    assert!(home.images.resolve(&format!("ship@{digest}")).is_err(), "another repository");
}

#[test]
fn removing_names_and_images() {
    let home = Home::new();
    let base = Layer::plain(&Tar::default().file("base", &noise(100_000, 1)));
    home.load_layout(&Layout::image("one:1", std::slice::from_ref(&base))).unwrap();
    home.load_layout(&Layout::image("two:1", &[base, small_layer("b", "two")])).unwrap();
    home.images.tag("two:1", "two:latest").unwrap();
    let id = home.images.resolve("two:1").unwrap().id;
    assert!(matches!(home.images.remove(&id, false), Err(ImageError::SeveralNames { .. })));
    let removed = home.images.remove("two", false).unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted, removed.layers), (1, None, 0));
    let removed = home.images.remove("two:1", false).unwrap();
    assert_eq!((removed.deleted, removed.layers), (Some(id), 1), "the shared layer stays");
    assert_eq!(home.images.resolve("one:1").unwrap().names.len(), 1);
    let removed = home.images.remove("one:1", true).unwrap();
    assert!(removed.layers == 1 && removed.bytes >= 100_000, "{removed:?}");
    assert!(home.leftovers().is_empty(), "{:?}", home.leftovers());
    assert!(matches!(home.images.remove("one:1", true), Err(ImageError::NoSuchImage { .. })));
}

#[test]
fn an_image_that_a_container_uses_stays() {
    let home = Home::new();
    home.load_layout(&Layout::image("boat:1", &[small_layer("a", "b")])).unwrap();
    let image = home.images.resolve("boat:1").unwrap();
    let container = state::ContainerRecord::new("aa".into(), "c".into(), image.id.clone(), "boat:1".into(), 1);
    home.images.state().insert_container(&container).unwrap();
    let error = home.images.remove("boat:1", false).unwrap_err();
    assert!(matches!(error, ImageError::State(state::StateError::ImageInUse { .. })), "{error}");
    assert!(error.hint().is_some());
    let removed = home.images.remove("boat:1", true).unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted), (1, None));
    home.images.root_device(&home.images.resolve(&image.id).unwrap()).unwrap();
    home.images.state().remove_container("aa").unwrap();
    home.images.remove(&image.id, false).unwrap();
    assert!(home.leftovers().is_empty());
}

#[test]
fn a_root_device_keeps_its_files_while_it_lives() {
    let home = Home::new();
    home.load_layout(&Layout::image("boat:1", &three_layers())).unwrap();
    let device = home.images.root_device(&home.images.resolve("boat:1").unwrap()).unwrap();
    assert_eq!(home.images.remove("boat:1", true).unwrap().layers, 0);
    for extent in &device.extents {
        assert!(extent.path.exists() && extent.length.is_multiple_of(4096) && extent.offset == 0, "{extent:?}");
        assert!(fs::metadata(&extent.path).unwrap().len() <= extent.length);
    }
    drop(device);
    assert_eq!(home.images.collect().unwrap().objects.len(), 4);
    assert!(home.leftovers().is_empty());
}

#[test]
fn a_damaged_layer_is_noticed_and_healed_by_loading_again() {
    let home = Home::new();
    let layout = Layout::image("boat:1", &three_layers());
    home.load_layout(&layout).unwrap();
    let record = home.images.resolve("boat:1").unwrap();
    let object = store::Object::layer(record.layers[0].diff_id.parse().unwrap());
    let directory = home.images.store().path(&object);
    for name in ["data", "packed", "tree", "skeleton"] {
        let file = fs::OpenOptions::new().write(true).open(directory.join(name)).unwrap();
        file.set_len(file.metadata().unwrap().len() + 5).unwrap();
        let error = home.images.root_device(&record).unwrap_err();
        assert!(matches!(&error, ImageError::Damaged { image, .. } if image == "boat:1"), "{name}: {error}");
        assert!(error.hint().unwrap().contains("load the image again"));
        home.load_layout(&layout).unwrap();
        check_three(&home, "boat:1");
    }
    fs::remove_dir_all(directory).unwrap();
    assert!(matches!(home.images.root_device(&record), Err(ImageError::Damaged { .. })));
    home.load_layout(&layout).unwrap();
    check_three(&home, "boat:1");
}

#[test]
fn a_metadata_image_that_is_gone_or_short_is_written_again() {
    let home = Home::new();
    home.load_layout(&Layout::image("boat:1", &three_layers())).unwrap();
    let record = home.images.resolve("boat:1").unwrap();
    let path = home.images.root_device(&record).unwrap().extents[0].path.clone();
    let good = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    check_three(&home, "boat:1");
    fs::write(&path, &good[..100]).unwrap();
    check_three(&home, "boat:1");
    assert_eq!(fs::read(&path).unwrap(), good, "the same bytes");
}

#[test]
fn a_damaged_configuration_is_noticed() {
    let home = Home::new();
    let layout = Layout::image("boat:1", &three_layers());
    let loaded = home.load_layout(&layout).unwrap();
    let path = home.images.store().path(&store::Object::blob(loaded[0].id.parse().unwrap()));
    fs::write(&path, "{}").unwrap();
    let record = home.images.resolve("boat:1").unwrap();
    let error = home.images.config(&record).unwrap_err();
    assert!(chain(&error).contains("damaged") && error.hint().is_some(), "{error}");
    home.load_layout(&layout).unwrap();
    home.images.config(&record).unwrap();
}

#[test]
fn bombs_stay_small_on_disk_and_in_memory() {
    // 16 MiB of zeros in 70 KiB of gzip, in a file of the layer.
    let home = Home::new();
    let size: u64 = 16 << 20;
    let path = home.directory.path().join("layer.gz");
    let script = format!(
        "mkdir r && truncate -s {size} r/zeros && tar --sort=name -cf - r | tee >(sha256sum > sum) | gzip -1 > {}",
        path.display()
    );
    let made = Command::new("bash").args(["-ec", &script]).current_dir(home.directory.path()).status().unwrap();
    assert!(made.success());
    let sum = loop {
        // tee's other end may still be writing.
        match fs::read_to_string(home.directory.path().join("sum")) {
            Ok(text) if text.len() > 64 => break text[..64].to_owned(),
            _ => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    };
    let blob = fs::read(&path).unwrap();
    let mut layout = Layout::default();
    let config = json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]}});
    let layer = Layer { tar: Vec::new(), blob, media_type: format!("{OCI_LAYER}+gzip") };
    let descriptor = layout.manifest(&config, &[layer]);
    home.load_layout(&layout.named(descriptor, "bomb:1")).unwrap();
    let record = home.images.resolve("bomb:1").unwrap();
    assert_eq!(record.layers[0].data_length, size);
    let data = &home.images.root_device(&record).unwrap().extents[1];
    let used = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&data.path).unwrap()) * 512;
    assert!(used < 1 << 20, "{used} bytes on disk");
}
