//! Root file systems become images.

mod kit;

use std::fs;
use std::io;

use image::{ImageError, ImportRequest, LoadSource, Loaded};
use kit::*;
use serde_json::{Value, json};
use store::Digest;

const MOMENT: i64 = 1_700_000_000_000_000_000;

fn root_fs() -> Vec<u8> {
    Tar::default().directory("etc").file("etc/hostname", b"boat").file("bin/tool", &noise(50_000, 1)).end()
}

fn request(name: &str, changes: &[&str]) -> ImportRequest {
    ImportRequest {
        name: Some(name.into()),
        changes: changes.iter().map(|c| (*c).to_owned()).collect(),
        created: Some(MOMENT),
        ..ImportRequest::default()
    }
}

fn import(home: &Home, bytes: &[u8], request: &ImportRequest) -> Result<Loaded, ImageError> {
    home.images.import(LoadSource::Stream(Box::new(io::Cursor::new(bytes.to_vec()))), request, &())
}

fn raw_config(home: &Home, id: &str) -> Value {
    let path = home.images.store().path(&store::Object::blob(id.parse().unwrap()));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn an_archive_becomes_an_image_however_it_comes() {
    let tar = root_fs();
    let mut ids = Vec::new();
    for bytes in [tar.clone(), gzip(&tar), zstd(&tar)] {
        let home = Home::new();
        let loaded = import(&home, &bytes, &request("boat", &["CMD [\"/bin/tool\"]", "ENV A=b"])).unwrap();
        assert_eq!(loaded.names, ["docker.io/library/boat:latest"]);
        assert_eq!(home.file_content("boat", "etc/hostname").as_deref(), Some("boat"));
        let config = home.images.config(&home.images.resolve("boat").unwrap()).unwrap();
        assert_eq!(config.config().as_ref().unwrap().cmd().as_deref(), Some(&["/bin/tool".to_owned()][..]));
        let raw = raw_config(&home, &loaded.id);
        assert_eq!(raw["rootfs"]["diff_ids"], json!([Digest::of(&tar).to_string()]));
        assert_eq!(raw["created"], "2023-11-14T22:13:20Z");
        assert_eq!((&raw["os"], &raw["config"]["Env"]), (&json!("linux"), &json!(["A=b"])));
        assert_eq!(raw["comment"], "Imported from the standard input");
        assert_eq!(raw["history"], json!([{"created": "2023-11-14T22:13:20Z", "comment": raw["comment"]}]));
        ids.push(loaded.id);
    }
    assert!(ids[0] == ids[1] && ids[1] == ids[2], "{ids:?}");
    let home = Home::new();
    let path = home.file("root.tar", &tar);
    let full = ImportRequest {
        platform: Some("linux/arm64/v8".parse().unwrap()),
        message: Some("from the workshop".into()),
        ..request("boat:arm", &[])
    };
    let loaded = home.images.import(LoadSource::Path(path), &full, &()).unwrap();
    let raw = raw_config(&home, &loaded.id);
    assert_eq!((&raw["architecture"], &raw["variant"]), (&json!("arm64"), &json!("v8")));
    assert_eq!(raw["history"][0]["comment"], "from the workshop");
    assert_eq!(home.images.resolve("boat:arm").unwrap().platform, "linux/arm64/v8");
}

#[test]
fn what_is_imported_can_be_saved_and_loaded() {
    let home = Home::new();
    let nameless = ImportRequest { name: None, ..request("", &["WORKDIR /srv", "USER 7"]) };
    let loaded = import(&home, &gzip(&root_fs()), &nameless).unwrap();
    assert!(loaded.names.is_empty());
    let record = home.images.resolve(&loaded.id).unwrap();
    let mut archive = Vec::new();
    home.images.save(std::slice::from_ref(&loaded.id), &mut archive).unwrap();
    let other = Home::new();
    assert_eq!(other.load_stream(archive).unwrap()[0].id, loaded.id);
    let there = other.images.resolve(&loaded.id).unwrap();
    assert_eq!(there.manifest_digest, record.manifest_digest, "the very manifest");
    assert_eq!(home.images.history(&record).unwrap()[0].size, root_fs().len() as u64);
}

#[test]
fn the_same_layer_is_there_once_and_a_damaged_one_is_replaced() {
    let home = Home::new();
    let first = import(&home, &root_fs(), &request("one", &[])).unwrap();
    let second = import(&home, &root_fs(), &request("two", &["USER me"])).unwrap();
    assert_ne!(first.id, second.id);
    let objects = home.images.store().objects().unwrap();
    assert_eq!(objects.iter().filter(|o| o.kind == store::Kind::Layer).count(), 1);
    let layer = home.images.store().path(&store::Object::layer(Digest::of(&root_fs())));
    fs::write(layer.join("tree"), "short").unwrap();
    import(&home, &root_fs(), &request("one", &[])).unwrap();
    assert_eq!(home.file_content("two", "etc/hostname").as_deref(), Some("boat"));
}

#[test]
fn what_cannot_be_imported_leaves_nothing() {
    let cut = gzip(&root_fs());
    let cases: [(&[u8], ImportRequest, &str); 8] = [
        (b"just some text, longer than a header: ".repeat(40).leak(), request("a", &[]), "standard input"),
        (&cut[..cut.len() / 2], request("a", &[]), "truncated"),
        (b"BZh91AY&SY and more", request("a", &[]), "bzip2"),
        (&[], request("A b", &[]), "not a valid image name"),
        (&[], request(&format!("a@{}", Digest::of(b"")), &[]), "cannot have a digest"),
        (&[], request("a", &["RUN make"]), "cannot apply \"RUN make\""),
        (&[], request("a", &["EXPOSE http"]), "a port is a number"),
        (&[], request("a", &["CMD [\"x\"]", "ENV A"]), "cannot apply \"ENV A\""),
    ];
    for (bytes, request, expected) in cases {
        let home = Home::new();
        let error = import(&home, bytes, &request).unwrap_err();
        assert!(chain(&error).contains(expected), "{}", chain(&error));
        assert!(home.leftovers().is_empty() && home.images.list().unwrap().is_empty());
    }
    let home = Home::new();
    for path in ["/nonexistent.tar", "/etc"] {
        let error = home.images.import(LoadSource::Path(path.into()), &request("a", &[]), &()).unwrap_err();
        assert!(chain(&error).contains(path), "{}", chain(&error));
    }
}

#[test]
fn tar_of_a_real_tree_is_imported_whole() {
    let work = tempfile::tempdir().unwrap();
    let script =
        "mkdir -p root/etc root/sub && cd root && echo hi > etc/motd && ln -s motd etc/link && ln etc/motd sub/hard
                  truncate -s 3M sparse && echo end >> sparse && chmod 4711 etc/motd && tar -cSf ../root.tar .";
    run("sh", &["-ec", &format!("cd {} && {script}", work.path().display())]);
    let home = Home::new();
    home.images.import(LoadSource::Path(work.path().join("root.tar")), &request("tree", &[]), &()).unwrap();
    assert_eq!(home.file_content("tree", "sub/hard").as_deref(), Some("hi\n"));
    let mut archive = Vec::new();
    home.images.save(&["tree".into()], &mut archive).unwrap();
    let tar = fs::read(work.path().join("root.tar")).unwrap();
    let hex = Digest::of(&tar).hex();
    let mut saved = tar::Archive::new(&archive[..]);
    let mut entries = saved.entries().unwrap().map(Result::unwrap);
    let mut entry = entries.find(|e| e.path().unwrap().ends_with(&hex)).unwrap();
    let mut bytes = Vec::new();
    io::copy(&mut entry, &mut bytes).unwrap();
    assert!(bytes == tar, "byte for byte");
}
