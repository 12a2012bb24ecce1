//! Input that is wrong: each case with its own error, and nothing left behind.

mod kit;

use std::fs;
use std::path::Path;

use image::{ImageError, Images};
use kit::*;
use serde_json::{Value, json};

/// The error must be as expected, name what it is about, and leave nothing; then a good image must load.
fn refused(home: &Home, result: Result<Vec<image::Loaded>, ImageError>, expected: &[&str]) {
    let error = result.expect_err("it must be refused");
    let text = chain(&error);
    for part in expected {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
    assert!(home.leftovers().is_empty(), "{text}: left {:?}", home.leftovers());
    assert!(home.images.list().unwrap().is_empty());
    home.load_layout(&Layout::image("good:1", &[small_layer("a", "b")])).expect("the next command works");
}

fn refused_layout(layout: &Layout, expected: &[&str]) {
    let home = Home::new();
    refused(&home, home.load_layout(layout), expected);
    let home = Home::new();
    refused(&home, home.load_stream(layout.tar()), expected);
}

fn refused_file(bytes: &[u8], expected: &[&str]) {
    let home = Home::new();
    let path = home.file("image.tar", bytes);
    refused(&home, home.load_path(&path), &[&["image.tar"], expected].concat());
    let home = Home::new();
    refused(&home, home.load_stream(bytes.to_vec()), &[&["standard input"], expected].concat());
}

fn good() -> Layout {
    Layout::image("boat:1", &[small_layer("a", "one"), small_layer("b", "two")])
}

/// The name of the file that holds the n-th layer's blob.
fn layer_file(layer: &Layer) -> String {
    format!("blobs/sha256/{}", store::Digest::of(&layer.blob).hex())
}

#[test]
fn files_that_are_no_archive() {
    refused_file(b"", &["not an image archive", "empty"]);
    refused_file(b"just some text", &["not an image archive"]);
    refused_file(&noise(100_000, 3), &["not an image archive"]);
    refused_file(&[0; 10240], &["not an image archive"]);
    refused_file(&gzip(b"just some text"), &["not an image archive"]);
    refused_file(&gzip(&gzip(&good().tar())), &["not an image archive"]);
    refused_file(b"BZh91AY&SY and more", &["bzip2", "not supported"]);
    refused_file(b"\xfd7zXZ\0 and more", &["xz", "not supported"]);
}

#[test]
fn archives_and_directories_of_something_else() {
    refused_file(&Tar::default().file("etc/passwd", b"root").end(), &["holds no image", "index.json"]);
    refused_file(&Tar::default().end()[..512], &["not an image archive"]);
    let home = Home::new();
    let directory = tempfile::tempdir().unwrap();
    refused(&home, home.load_path(directory.path()), &["holds no image"]);
    let home = Home::new();
    refused(&home, home.load_path("/nonexistent/image.tar"), &["cannot read /nonexistent/image.tar"]);
}

#[test]
fn archives_cut_anywhere() {
    let tar = good().tar();
    let whole = tar.len() - 1024;
    // The padding of the last member is no part of what counts.
    for cut in (100..whole - 512).step_by(whole / 40) {
        let home = Home::new();
        let result = home.load_path(home.file("cut.tar", &tar[..cut]));
        refused(&home, result, &[]);
    }
    refused_file(&tar[..tar.len() / 2 + 7], &["truncated"]);
    let compressed = gzip(&tar);
    refused_file(&compressed[..compressed.len() / 2], &["truncated", "compressed stream"]);
    let compressed = zstd(&tar);
    refused_file(&compressed[..compressed.len() / 2], &["truncated", "compressed stream"]);
    // Without its end marker it is whole all the same.
    Home::new().load_stream(tar[..whole].to_vec()).unwrap();
}

#[test]
fn a_blob_of_another_size_or_content() {
    let layers = [small_layer("a", "one"), small_layer("b", "two")];
    let mut layout = Layout::image("boat:1", &layers);
    let blob = layout.files.get_mut(&layer_file(&layers[1])).unwrap();
    blob.push(0);
    refused_layout(&layout, &["layer 2 of", "should be", "bytes long"]);

    let mut layout = Layout::image("boat:1", &layers);
    let blob = layout.files.get_mut(&layer_file(&layers[1])).unwrap();
    let middle = blob.len() / 2;
    blob[middle] ^= 1;
    refused_layout(&layout, &["layer 2 of boat:1", "damaged", "digest"]);

    let plain = [Layer::plain(&Tar::default().file("a", b"one"))];
    let mut layout = Layout::image("boat:1", &plain);
    layout.files.get_mut(&layer_file(&plain[0])).unwrap()[513] ^= 1;
    refused_layout(&layout, &["layer 1 of boat:1", "damaged", "digest"]);
}

#[test]
fn documents_of_another_size_or_content() {
    for what in ["manifest", "config"] {
        let layout = good();
        let manifest = layout.index[0]["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
        let parsed: Value = serde_json::from_slice(&layout.files[&manifest]).unwrap();
        let config = parsed["config"]["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
        let file = if what == "manifest" { manifest } else { config };
        let mut longer = layout.clone();
        longer.files.get_mut(&file).unwrap().push(b' ');
        refused_layout(&longer, &[what, "bytes long"]);
        let mut other = layout.clone();
        *other.files.get_mut(&file).unwrap().last_mut().unwrap() = b' ';
        refused_layout(&other, &[what, "damaged"]);
        let mut missing = layout;
        missing.files.remove(&file);
        refused_layout(&missing, &[what, "missing from"]);
    }
}

#[test]
fn a_layer_that_is_missing() {
    let layers = [small_layer("a", "one"), small_layer("b", "two")];
    let mut layout = Layout::image("boat:1", &layers);
    layout.files.remove(&layer_file(&layers[1]));
    refused_layout(&layout, &["layer 2 of", "missing from"]);
}

#[test]
fn layers_that_are_not_what_the_configuration_says() {
    let layers = [small_layer("a", "one")];
    let others = [small_layer("a", "other")];
    for layers in [&layers[..], &[Layer::plain(&Tar::default().file("x", b"y"))]] {
        let mut layout = Layout::default();
        let descriptor = layout.manifest(&config("amd64", &others), layers);
        refused_layout(&layout.named(descriptor, "boat:1"), &["layer 1 of boat:1", "configuration says"]);
    }
    let mut layout = Layout::default();
    let descriptor = layout.manifest(&config("amd64", &[]), &layers);
    refused_layout(&layout.named(descriptor, "boat:1"), &["0 diff ids for 1 layers"]);
}

#[test]
fn compressions_that_are_not_known() {
    let mut layer = small_layer("a", "one");
    layer.media_type = format!("{OCI_LAYER}+lz4");
    refused_layout(&Layout::image("boat:1", std::slice::from_ref(&layer)), &["compressed with lz4", "not supported"]);
    layer.media_type = format!("{OCI_LAYER}+gzip");
    layer.blob = b"BZh91AY&SY and so on".to_vec();
    refused_layout(&Layout::image("boat:1", std::slice::from_ref(&layer)), &["compressed with bzip2"]);
    layer.media_type = "application/octet-stream".into();
    refused_layout(&Layout::image("boat:1", std::slice::from_ref(&layer)), &["layer 1", "application/octet-stream"]);
}

#[test]
fn compressed_streams_that_are_broken() {
    let tar = Tar::default().file("a", &noise(200_000, 9)).end();
    let whole = gzip(&tar);
    let mut wrong_sum = whole.clone();
    let at = wrong_sum.len() - 6;
    wrong_sum[at] ^= 1;
    let mut garbage = whole.clone();
    garbage.extend(b"garbage behind the end");
    let cases = [
        (whole[..whole.len() / 2].to_vec(), "truncated"),
        (whole[..12].to_vec(), "truncated"),
        (wrong_sum, "cannot be decompressed"),
        (garbage, "cannot be decompressed"),
        (zstd(&tar)[..50_000].to_vec(), "truncated"),
        (b"\x28\xb5\x2f\xfd and then nonsense".to_vec(), "cannot be decompressed"),
    ];
    for (blob, expected) in cases {
        let layer = Layer { tar: tar.clone(), blob, media_type: format!("{OCI_LAYER}+gzip") };
        refused_layout(&Layout::image("boat:1", &[layer]), &["layer 1 of boat:1", expected]);
    }
}

#[test]
fn layers_that_are_no_tar_archives() {
    for tar in [noise(5000, 7), b"text".to_vec(), Tar::default().file("a", &[1; 5000]).end()[..1000].to_vec()] {
        let layer = Layer { blob: gzip(&tar), tar, media_type: format!("{OCI_LAYER}+gzip") };
        refused_layout(&Layout::image("boat:1", &[layer]), &["layer 1 of boat:1", "cannot be converted"]);
    }
}

#[test]
fn an_image_for_another_architecture() {
    let layers = [small_layer("a", "one")];
    let mut layout = Layout::default();
    let descriptor = layout.manifest(&config("arm64", &layers), &layers);
    let layout = layout.named(descriptor, "boat:1");
    refused_layout(&layout, &["boat:1 is not for linux/amd64: it is for linux/arm64"]);

    let config = config("s390x", &layers).to_string();
    let manifest = json!([{"Config": "c.json", "RepoTags": ["boat:1"], "Layers": ["layer.tar"]}]).to_string();
    let tar = Tar::default().file("layer.tar", &layers[0].blob).file("c.json", config.as_bytes());
    let tar = tar.file("manifest.json", manifest.as_bytes()).end();
    let home = Home::new();
    refused(&home, home.load_stream(tar), &["boat:1 is not for linux/amd64: it is for linux/s390x"]);
}

fn with_file(name: &str, content: &str) -> Layout {
    let mut layout = good();
    layout.files.insert(name.into(), content.into());
    layout
}

#[test]
fn malformed_documents() {
    for text in ["", "{", "[]", "null", "{}", r#"{"manifests":{}}"#, r#"{"manifests":[{}]}"#, "\u{feff}{}"] {
        refused_layout(&with_file("index.json", text), &["index.json is malformed"]);
    }
    refused_layout(&with_file("index.json", r#"{"schemaVersion":2,"manifests":[]}"#), &["names no image"]);
    refused_layout(&with_file("oci-layout", r#"{"imageLayoutVersion":"2.0.0"}"#), &["oci-layout is malformed"]);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    refused_layout(&with_file("index.json", &deep), &["index.json is malformed"]);
    let evil = json!({"schemaVersion": 2, "manifests":
        [{"mediaType": OCI_MANIFEST, "digest": "sha256:../../../../etc/passwd", "size": 10}]});
    refused_layout(&with_file("index.json", &evil.to_string()), &["not a digest"]);
    let sha512 = evil.to_string().replace("sha256:../../../../etc/passwd", &format!("sha512:{}", "0".repeat(128)));
    refused_layout(&with_file("index.json", &sha512), &["only sha256 is"]);
}

#[test]
fn an_index_and_a_manifest_at_once() {
    let mut layout = Layout::default();
    let layers = [small_layer("a", "one")];
    let inner = layout.manifest(&config("amd64", &layers), &layers);
    let config = layout.descriptor(OCI_CONFIG, config("amd64", &layers).to_string().as_bytes());
    let both = json!({"schemaVersion": 2, "config": config, "layers": [], "manifests": [inner]}).to_string();
    for media_type in [OCI_MANIFEST, OCI_INDEX] {
        let mut layout = layout.clone();
        let descriptor = layout.descriptor(media_type, both.as_bytes());
        refused_layout(&layout.named(descriptor, "boat:1"), &["an index and a manifest at once"]);
    }
}

#[test]
fn an_index_called_a_manifest() {
    let mut layout = Layout::default();
    let index = json!({"schemaVersion": 2, "manifests": []}).to_string();
    let descriptor = layout.descriptor(OCI_MANIFEST, index.as_bytes());
    refused_layout(&layout.named(descriptor, "boat:1"), &["is something else"]);
}

#[test]
fn artifacts_and_schema_1() {
    let mut layout = Layout::default();
    let artifact = json!({"schemaVersion": 2, "layers": [],
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": store::Digest::of(b"{}").to_string(), "size": 2}});
    let descriptor = layout.descriptor(OCI_MANIFEST, artifact.to_string().as_bytes());
    refused_layout(&layout.named(descriptor, "boat:1"), &["application/vnd.oci.empty.v1+json", "not supported"]);
    let mut layout = Layout::default();
    let descriptor = layout.descriptor(OCI_MANIFEST, br#"{"schemaVersion":1,"fsLayers":[]}"#);
    refused_layout(&layout.named(descriptor, "boat:1"), &["manifest.v1+json", "not supported"]);
}

#[test]
fn indexes_within_indexes_without_end() {
    let mut layout = Layout::default();
    let layers = [small_layer("a", "one")];
    let mut descriptor = layout.manifest(&config("amd64", &layers), &layers);
    for _ in 0..10 {
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]}).to_string();
        descriptor = layout.descriptor(OCI_INDEX, index.as_bytes());
    }
    refused_layout(&layout.named(descriptor, "boat:1"), &["too large", "within one another"]);
}

#[test]
fn documents_and_counts_beyond_the_limits() {
    refused_layout(&with_file("index.json", &" ".repeat((4 << 20) + 1)), &["index.json is too large"]);
    let entry = good().index[0].clone();
    let many = json!({"schemaVersion": 2, "manifests": vec![entry; 1001]}).to_string();
    refused_layout(&with_file("index.json", &many), &["more than 1000 images"]);
    let layers = vec![small_layer("a", "one"); 501];
    refused_layout(&Layout::image("boat:1", &layers), &["more than 500 layers"]);
}

#[test]
fn docker_archives_that_are_wrong() {
    let layer = Layer::plain(&Tar::default().file("a", b"one"));
    let config = config("amd64", std::slice::from_ref(&layer)).to_string();
    let archive = |entry: &Value| {
        let manifest = entry.to_string();
        Tar::default()
            .file("layer.tar", &layer.blob)
            .file("c.json", config.as_bytes())
            .file(&format!("{}.json", store::Digest::of(b"other").hex()), config.as_bytes())
            .file("manifest.json", manifest.as_bytes())
            .end()
    };
    let other = format!("{}.json", store::Digest::of(b"other").hex());
    let entry =
        |config: &str, tag: &str, layers: Value| json!([{"Config": config, "RepoTags": [tag], "Layers": layers}]);
    let cases = [
        (json!([]), "names no image"),
        (json!({}), "manifest.json is malformed"),
        (entry("none.json", "a:1", json!(["layer.tar"])), "none.json is missing from"),
        (entry("../../etc/passwd", "a:1", json!(["layer.tar"])), "missing from"),
        (entry(&other, "a:1", json!(["layer.tar"])), "damaged"),
        (entry("c.json", "a:1", json!(["none.tar"])), "layer 1 of a:1"),
        (entry("c.json", "a:1", json!(["/etc/passwd"])), "missing from"),
        (entry("c.json", "a:1", json!([])), "1 diff ids for 0 layers"),
        (entry("c.json", "A B:1", json!(["layer.tar"])), "not a valid image name"),
        (entry("manifest.json", "a:1", json!(["layer.tar"])), "malformed"),
    ];
    for (manifest, expected) in cases {
        let home = Home::new();
        refused(&home, home.load_stream(archive(&manifest)), &[expected]);
    }
}

#[test]
fn layouts_with_things_that_are_no_files() {
    let layers = [small_layer("a", "one")];
    let layout = Layout::image("boat:1", &layers);
    let home = Home::new();
    let directory = tempfile::tempdir().unwrap();
    layout.write(directory.path());
    let blob = directory.path().join(layer_file(&layers[0]));
    fs::remove_file(&blob).unwrap();
    run("mkfifo", &[blob.to_str().unwrap()]);
    refused(&home, home.load_path(directory.path()), &["not a regular file"]);
    fs::remove_file(&blob).unwrap();
    fs::create_dir(&blob).unwrap();
    let home = Home::new();
    refused(&home, home.load_path(directory.path()), &["not a regular file"]);
}

#[test]
fn names_that_climb_stay_inside_the_image() {
    let sentinel = tempfile::tempdir().unwrap();
    let outside = sentinel.path().join("outside");
    let tar = Tar::default()
        .file("../../../../../../tmp/climbed", b"up")
        .file(outside.to_str().unwrap(), b"absolute")
        .symlink("link", sentinel.path().to_str().unwrap())
        .file("link/through", b"link");
    let home = Home::new();
    let result = home.load_layout(&Layout::image("boat:1", &[Layer::gzip(&tar)]));
    assert!(fs::read_dir(sentinel.path()).unwrap().next().is_none(), "something came out");
    assert!(!Path::new("/tmp/climbed").exists());
    if let Err(error) = result {
        refused(&home, Err(error), &["layer 1 of boat:1"]);
    }
}

#[test]
fn a_failure_leaves_images_that_were_there_alone() {
    let home = Home::new();
    let shared = small_layer("a", "one");
    home.load_layout(&Layout::image("good:1", std::slice::from_ref(&shared))).unwrap();
    let before = home.leftovers().len();
    let broken = Layer { blob: gzip(b"text"), tar: b"text".to_vec(), media_type: format!("{OCI_LAYER}+gzip") };
    home.load_layout(&Layout::image("bad:1", &[shared, small_layer("b", "new"), broken])).unwrap_err();
    assert_eq!(home.leftovers().len(), before);
    assert_eq!(home.file_content("good:1", "etc/a").as_deref(), Some("one"));
}

#[test]
fn an_unwritable_home() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Images::open(&file.path().join("home")).unwrap_err();
    assert!(chain(&error).contains("cannot use") && error.hint().unwrap().contains("CORACLE_HOME"), "{error}");
}

#[test]
fn a_home_that_became_read_only() {
    // Root is not stopped by permissions, a read-only file system stops it too.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    run("mount", &["-t", "tmpfs", "tmpfs", path]);
    let result = std::panic::catch_unwind(|| {
        drop(Images::open(&directory.path().join("data")).unwrap());
        run("mount", &["-o", "remount,ro", path]);
        let error = Images::open(&directory.path().join("data")).unwrap_err();
        assert!(error.hint().unwrap().contains("CORACLE_HOME"), "{}", chain(&error));
    });
    run("umount", &[path]);
    result.unwrap();
}

#[test]
fn a_full_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let layers = [small_layer("a", "one"), Layer::gzip(&Tar::default().file("big", &noise(6 << 20, 4)))];
    let tar = Layout::image("boat:1", &layers).tar();
    run("mount", &["-t", "tmpfs", "-o", "size=4m", "tmpfs", path]);
    let result = std::panic::catch_unwind(|| {
        let home = Home {
            images: Images::open(&directory.path().join("data")).unwrap(),
            directory: tempfile::tempdir().unwrap(),
        };
        // Full while the layer is converted, and full while the stream is spooled.
        for result in [home.load_path(home.file("a.tar", &tar)), home.load_stream(tar.clone())] {
            let error = result.unwrap_err();
            assert!(chain(&error).contains("no space left"), "{}", chain(&error));
            assert!(error.hint().unwrap().contains("free some space"));
            assert!(home.leftovers().is_empty(), "{:?}", home.leftovers());
        }
        home.load_layout(&Layout::image("good:1", &layers[..1])).expect("the next command works");
    });
    run("umount", &[path]);
    result.unwrap();
}
