//! What is saved is what was loaded: by us, by skopeo, byte for byte.

mod kit;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use image::{ImageError, Images, Options};
use kit::*;
use serde_json::Value;
use store::Digest;

fn save(images: &Images, names: &[&str]) -> Result<Vec<u8>, ImageError> {
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let mut out = Vec::new();
    images.save(&names, &mut out).map(|()| out)
}

/// The members of an archive: name to content.
fn members(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut members = BTreeMap::new();
    let mut order = Vec::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let header = entry.header().clone();
        assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0), "{name}");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        order.push(name.clone());
        assert!(members.insert(name, content).is_none(), "each once");
    }
    assert!(order.is_sorted(), "{order:?}");
    members
}

fn json_of(members: &BTreeMap<String, Vec<u8>>, name: &str) -> Value {
    serde_json::from_slice(&members[name]).unwrap()
}

/// Layers with what makes archives differ: sparse contents, links, empty and large and small files, odd padding.
fn odd_layers() -> [Layer; 3] {
    let mut tar = Tar::default()
        .directory("bin")
        .file("bin/tool", &noise(300_000, 1))
        .file("small", b"tiny")
        .file("empty", b"")
        .file("zeros", &[0; 70_000])
        .symlink("link", "bin/tool")
        .end();
    tar.extend(b"what follows the end of an archive belongs to it too");
    let odd = Layer { blob: gzip(&tar), tar, media_type: "application/vnd.docker.image.rootfs.diff.tar.gzip".into() };
    [odd, Layer::zstd(&Tar::default().file("etc/two", &noise(5000, 2))), Layer::plain(&Tar::default().file("p", b"p"))]
}

#[test]
fn what_is_saved_is_an_oci_layout_and_a_docker_archive() {
    let home = Home::new();
    home.load_layout(&Layout::image("boat:1", &odd_layers())).unwrap();
    let id = home.images.resolve("boat:1").unwrap().id;
    let archive = save(&home.images, &["boat:1"]).unwrap();
    assert_eq!(save(&home.images, &["boat:1"]).unwrap(), archive, "the same bytes again");
    let members = members(&archive);
    for (name, content) in &members {
        if let Some(hex) = name.strip_prefix("blobs/sha256/").filter(|hex| !hex.is_empty()) {
            assert_eq!(Digest::of(content).hex(), hex);
        }
    }
    assert_eq!(json_of(&members, "oci-layout")["imageLayoutVersion"], "1.0.0");
    let entry = &json_of(&members, "index.json")["manifests"][0];
    assert_eq!(entry["annotations"]["io.containerd.image.name"], "docker.io/library/boat:1");
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "1");
    assert_eq!((&entry["platform"]["os"], &entry["platform"]["architecture"]), (&"linux".into(), &"amd64".into()));
    let docker = json_of(&members, "manifest.json");
    assert_eq!(docker[0]["RepoTags"], serde_json::json!(["boat:1"]));
    assert_eq!(docker[0]["Config"], format!("blobs/sha256/{}", &id[7..]));
    let expected: Vec<_> = odd_layers().iter().map(|l| format!("blobs/sha256/{}", l.diff_id().hex())).collect();
    assert_eq!(docker[0]["Layers"], serde_json::json!(expected), "uncompressed");
    for layer in odd_layers() {
        assert_eq!(members[&format!("blobs/sha256/{}", layer.diff_id().hex())], layer.tar, "byte for byte");
    }
    // And back again, elsewhere.
    let other = Home::new();
    let loaded = other.load_stream(archive.clone()).unwrap();
    assert_eq!(
        (loaded[0].id.as_str(), &loaded[0].names[..]),
        (id.as_str(), &["docker.io/library/boat:1".to_owned()][..])
    );
    assert_eq!(save(&other.images, &["boat:1"]).unwrap(), archive);
}

#[test]
fn images_share_layers_and_have_the_names_that_were_asked_for() {
    let home = Home::new();
    let [base, own, _] = odd_layers();
    home.load_layout(&Layout::image("one:1", std::slice::from_ref(&base))).unwrap();
    home.load_layout(&Layout::image("team/two:latest", &[base.clone(), own.clone(), own])).unwrap();
    home.images.tag("one:1", "registry.example.com:5000/one:x").unwrap();
    let id = home.images.resolve("one:1").unwrap().id;
    let archive = save(&home.images, &["team/two", "one:1", "registry.example.com:5000/one:x", "one:1"]).unwrap();
    let members = members(&archive);
    // Two configurations, two manifests, two layers.
    assert_eq!(members.keys().filter(|name| name.len() > 70).count(), 6);
    let index = json_of(&members, "index.json");
    let names: Vec<_> = index["manifests"].as_array().unwrap().iter().map(|m| &m["annotations"]).collect();
    assert_eq!(names.len(), 3);
    let docker = json_of(&members, "manifest.json");
    assert_eq!(docker[1]["RepoTags"], serde_json::json!(["one:1", "registry.example.com:5000/one:x"]));
    let other = Home::new();
    assert_eq!(other.load_stream(archive).unwrap().len(), 2);
    assert_eq!(other.images.resolve("one:1").unwrap().names.len(), 2);
    assert!(other.images.resolve("team/two").is_ok());

    let nameless = save(&home.images, &[&id[7..19]]).unwrap();
    let other = Home::new();
    let loaded = other.load_stream(nameless).unwrap();
    assert_eq!((loaded[0].id.as_str(), loaded[0].names.len()), (id.as_str(), 0), "by id, without a name");
    assert!(matches!(save(&home.images, &["one:1", "none"]), Err(ImageError::NoSuchImage { .. })));
}

#[test]
fn kept_blobs_are_saved_with_the_manifest_that_names_them() {
    let home = Home::new();
    let options = Options { keep_blobs: true, ..Options::default() };
    let images = Images::open(home.images.store().home()).unwrap().with_options(options);
    let directory = Layout::image("boat:1", &odd_layers()).write(&home.directory.path().join("layout"));
    images.load(image::LoadSource::Path(directory), &(), None).unwrap();
    let record = images.resolve("boat:1").unwrap();
    let archive = save(&images, &["boat:1"]).unwrap();
    let saved = members(&archive);
    for layer in odd_layers() {
        assert_eq!(saved[&format!("blobs/sha256/{}", Digest::of(&layer.blob).hex())], layer.blob);
    }
    let entry = &json_of(&saved, "index.json")["manifests"][0];
    assert_eq!(entry["digest"].as_str(), record.manifest_digest.as_deref(), "the very manifest");
    // One of them is gone: the others go as they came, and a new manifest says so.
    let first = record.layers[0].blob_digest.as_ref().unwrap().parse().unwrap();
    images.store().discard(&store::Object::blob(first)).unwrap();
    let saved = members(&save(&images, &["boat:1"]).unwrap());
    let entry = &json_of(&saved, "index.json")["manifests"][0];
    assert_ne!(entry["digest"].as_str(), record.manifest_digest.as_deref());
    let manifest = json_of(&saved, &format!("blobs/sha256/{}", &entry["digest"].as_str().unwrap()[7..]));
    assert_eq!(manifest["layers"][0]["digest"], odd_layers()[0].diff_id().to_string());
    assert_eq!(manifest["layers"][1]["mediaType"], odd_layers()[1].media_type);
    let other = Home::new();
    assert_eq!(other.load_stream(archive).unwrap()[0].id, record.id);
}

#[test]
fn a_damaged_layer_is_never_saved_silently() {
    let home = Home::new();
    home.load_layout(&Layout::image("boat:1", &odd_layers())).unwrap();
    let diff_id = odd_layers()[0].diff_id();
    for name in ["data", "packed", "skeleton"] {
        let path = home.images.store().path(&store::Object::layer(diff_id)).join(name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 0x55;
        fs::write(&path, &bad).unwrap();
        let error = save(&home.images, &["boat:1"]).unwrap_err();
        assert!(chain(&error).contains(&diff_id.to_string()) && error.hint().is_some(), "{name}: {}", chain(&error));
        assert!(matches!(error, ImageError::Store(store::StoreError::Damaged { .. })), "{name}: {error:?}");
        fs::write(&path, &bad[..middle]).unwrap();
        let error = save(&home.images, &["boat:1"]).unwrap_err();
        assert!(matches!(error, ImageError::Store(store::StoreError::Damaged { .. })), "{name}: {error:?}");
        fs::write(&path, &good).unwrap();
        save(&home.images, &["boat:1"]).unwrap();
    }
}

#[test]
fn who_takes_no_more_is_told_apart_from_what_cannot_be_read() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let home = Home::new();
    let layer = Layer::plain(&Tar::default().file("big", &noise(3 << 20, 1)));
    home.load_layout(&Layout::image("boat:1", &[layer])).unwrap();
    for room in [0, 1000, 2 << 20] {
        let error = home.images.save(&["boat:1".into()], &mut Full(room)).unwrap_err();
        assert!(matches!(&error, ImageError::Archive { source } if source.kind() == io::ErrorKind::StorageFull));
    }
}

#[test]
fn removing_an_image_while_it_is_saved_does_not_cut_it_short() {
    struct Removing<'a>(&'a Home, Vec<u8>, bool);
    impl Write for Removing<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !std::mem::replace(&mut self.2, true) {
                assert_eq!(self.0.images.remove("boat:1", true).unwrap().layers, 0, "they are leased");
            }
            self.1.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let home = Home::new();
    home.load_layout(&Layout::image("boat:1", &odd_layers())).unwrap();
    let expected = save(&home.images, &["boat:1"]).unwrap();
    let mut out = Removing(&home, Vec::new(), false);
    home.images.save(&["boat:1".into()], &mut out).unwrap();
    assert_eq!(out.1, expected);
    home.images.collect().unwrap();
    assert!(home.leftovers().is_empty());
}

#[test]
fn skopeo_and_umoci_read_what_is_saved() {
    let work = tempfile::tempdir().unwrap();
    let path = |name: &str| work.path().join(name).display().to_string();
    let home = Home::new();
    home.load_layout(&Layout::image("boat:1", &odd_layers())).unwrap();
    let id = home.images.resolve("boat:1").unwrap().id;
    fs::write(path("saved.tar"), save(&home.images, &["boat:1"]).unwrap()).unwrap();
    for from in ["oci-archive", "docker-archive"] {
        let source = format!("{from}:{}", path("saved.tar"));
        let raw = run("skopeo", &["inspect", "--config", "--raw", &source]);
        assert_eq!(Digest::of(raw.as_bytes()).to_string(), id, "{from}");
        let copy = path(&format!("{from}.tar"));
        run("skopeo", &["copy", "-q", &source, &format!("{from}:{copy}:skiff:2")]);
        let other = Home::new();
        let loaded = other.load_path(Path::new(&copy)).unwrap();
        assert_eq!(loaded[0].id, id, "{from}");
        assert_eq!(other.file_content("skiff:2", "small").as_deref(), Some("tiny"));
    }
    let layout = path("layout");
    run("skopeo", &["copy", "-q", &format!("oci-archive:{}", path("saved.tar")), &format!("oci:{layout}:it")]);
    run("umoci", &["unpack", "--image", &format!("{layout}:it"), &path("bundle")]);
    assert_eq!(fs::read(path("bundle/rootfs/bin/tool")).unwrap(), noise(300_000, 1));
}
