//! Configurations as control input: each either refused with an error that says why, or accepted with a meaning that
//! is stated here. Whatever is accepted is kept as text: nothing in a configuration becomes a path, a command or a
//! number of this host while an image is loaded, shown, saved and removed.

mod kit;

use std::time::{Duration, Instant};

use image::ListFilter;
use kit::*;
use serde_json::{Value, json};

const LAYERS: usize = 1;

fn layers() -> [Layer; LAYERS] {
    [small_layer("a", "content")]
}

/// An image with this configuration, as bytes.
fn layout(config: &[u8]) -> Layout {
    let mut layout = Layout::default();
    let config = layout.descriptor(OCI_CONFIG, config);
    let layers: Vec<Value> = layers().iter().map(|l| layout.descriptor(&l.media_type, &l.blob)).collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers});
    let descriptor = layout.descriptor(OCI_MANIFEST, manifest.to_string().as_bytes());
    layout.named(descriptor, "boat:1")
}

fn good() -> Value {
    config("amd64", &layers())
}

/// A good configuration with one member of it, by its path, set.
fn with(path: &str, value: Value) -> Vec<u8> {
    let mut config = good();
    let (parent, key) = path.rsplit_once('/').unwrap();
    config.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.into(), value);
    config.to_string().into_bytes()
}

fn without(path: &str) -> Vec<u8> {
    let mut config = good();
    let (parent, key) = path.rsplit_once('/').unwrap();
    config.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
    config.to_string().into_bytes()
}

fn refused(config: &[u8], expected: &str) {
    let home = Home::new();
    let begun = Instant::now();
    let shown = String::from_utf8_lossy(&config[..config.len().min(300)]).into_owned();
    let error = home.load_layout(&layout(config)).expect_err(&shown);
    let text = chain(&error);
    assert!(text.contains(expected), "{text:?} does not say {expected:?}; it is about {shown}");
    assert!(text.len() < 2000 && !text.chars().any(char::is_control), "{text:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(home.leftovers().is_empty() && home.images.list().unwrap().is_empty());
}

#[test]
fn what_is_no_configuration() {
    for text in ["", "null", "[]", "1", "\"text\"", "{", "{}{}", "{} x", "\u{feff}{}", "{\"rootfs\"}"] {
        refused(text.as_bytes(), "configuration");
    }
    let good = good().to_string();
    refused(&good.as_bytes()[..good.len() - 1], "is malformed");
    refused(format!("{good}\0").as_bytes(), "is malformed");
    refused(&[good.as_bytes(), b"{}"].concat(), "is malformed");
    refused(&good.replace("linux", "li\\ud800nux").into_bytes(), "is malformed");
    refused(&[&good.as_bytes()[..10], b"\xff\xfe", &good.as_bytes()[10..]].concat(), "is malformed");
    refused(&good.clone().into_bytes().iter().flat_map(|b| [*b, 0]).collect::<Vec<_>>(), "is malformed");
    let deep = format!("{{\"x\":{}{},{}", "[".repeat(200_000), "]".repeat(200_000), &good[1..]);
    refused(deep.as_bytes(), "recursion limit");
    refused(format!("{{\"x\":1e999,{}", &good[1..]).as_bytes(), "is malformed");
    refused(format!("{{\"x\":\"{}\",{}", "x".repeat(8 << 20), &good[1..]).as_bytes(), "too large");
}

#[test]
fn roots_that_are_none() {
    let digest = layers()[0].diff_id().to_string();
    let rootfs = |diff_ids: Value| with("/rootfs", json!({"type": "layers", "diff_ids": diff_ids}));
    let cases = [
        (without("/rootfs"), "rootfs"),
        (with("/rootfs", Value::Null), "is malformed"),
        (with("/rootfs", json!([])), "is malformed"),
        (with("/rootfs", json!({"diff_ids": [digest]})), "is malformed"),
        (with("/rootfs", json!({"type": "layers+base", "diff_ids": [digest]})), "not of the type"),
        (rootfs(json!("sha256")), "is malformed"),
        (rootfs(json!({"0": digest})), "is malformed"),
        (rootfs(json!([null])), "is malformed"),
        (rootfs(json!([1])), "is malformed"),
        (rootfs(json!(["../../../etc/passwd"])), "not a digest"),
        (rootfs(json!([format!("sha256:../../{}", &digest[13..])])), "not a digest"),
        (rootfs(json!([digest.to_uppercase()])), "not a digest"),
        (rootfs(json!([format!("{digest}\n")])), "not a digest"),
        (rootfs(json!([format!("sha512:{}", "0".repeat(128))])), "only sha256 is"),
        (rootfs(json!([])), "0 diff ids for 1 layers"),
        (rootfs(json!(null)), "0 diff ids for 1 layers"),
        (rootfs(json!([digest, digest])), "2 diff ids for 1 layers"),
        (rootfs(json!(vec![digest.clone(); 501])), "more than 500 layers"),
        (rootfs(json!(vec![digest.clone(); 90_000])), "more than 500 layers"),
        (rootfs(json!([format!("sha256:{}", "0".repeat(64))])), "not what the image's configuration says"),
    ];
    for (config, expected) in cases {
        refused(&config, expected);
    }
}

#[test]
fn platforms_that_are_none_or_others() {
    let cases = [
        (with("/os", json!("windows")), "it is for windows/amd64"),
        (with("/os", json!("LINUX")), "it is for LINUX/amd64"),
        (with("/os", json!("linux\u{1b}[2J\n")), "is not for linux/amd64"),
        (with("/os", json!(7)), "is malformed"),
        (with("/os", json!(["linux"])), "is malformed"),
        (with("/architecture", json!("amd64\0")), "is not for linux/amd64"),
        (with("/architecture", json!("x".repeat(100_000))), "is not for linux/amd64"),
        (with("/architecture", json!({"a": 1})), "is malformed"),
        (with("/architecture", json!(null)), "is malformed"),
        (with("/variant", json!(5)), "is malformed"),
        (with("/created", json!(5)), "is malformed"),
    ];
    for (config, expected) in cases {
        refused(&config, expected);
    }
}

#[test]
fn settings_of_another_type() {
    let cases = [
        ("/config", json!([])),
        ("/config", json!("sh")),
        ("/config/Cmd", json!("sh")),
        ("/config/Cmd", json!([1])),
        ("/config/Cmd", json!([null])),
        ("/config/Cmd", json!({"0": "sh"})),
        ("/config/Entrypoint", json!("sh -c x")),
        ("/config/Env", json!("A=b")),
        ("/config/Env", json!({"A": "b"})),
        ("/config/Env", json!([["A", "b"]])),
        ("/config/User", json!(0)),
        ("/config/User", json!(["root"])),
        ("/config/WorkingDir", json!(["/"])),
        ("/config/Labels", json!([])),
        ("/config/Labels", json!({"a": 1})),
        ("/config/Labels", json!({"a": {"b": "c"}})),
        ("/config/StopSignal", json!(9)),
        ("/config/Volumes", json!("/data")),
        ("/config/ExposedPorts", json!("80")),
        ("/history", json!({})),
        ("/history", json!([1])),
        ("/history", json!([{"empty_layer": "yes"}])),
        ("/author", json!(1)),
        ("/config/Cmd", json!("x".repeat(5 << 20))),
        ("/config/Labels", json!({"a": ["\u{1b}[2J".repeat(100_000)]})),
        ("/rootfs/diff_ids", json!("\u{1b}[2J".repeat(100_000))),
    ];
    for (path, value) in cases {
        refused(&with(path, value), "is malformed");
    }
}

/// Loads, and looks at the image in every way that there is.
fn accepted(config: &[u8]) -> (Home, oci_spec::image::ImageConfiguration) {
    let home = Home::new();
    let sentinel = home.directory.path().join("sentinel");
    std::fs::write(&sentinel, "untouched").unwrap();
    let shown = String::from_utf8_lossy(&config[..config.len().min(300)]).into_owned();
    home.load_layout(&layout(config)).unwrap_or_else(|e| panic!("{}: {shown}", chain(&e)));
    let image = home.images.resolve("boat:1").unwrap();
    let read = home.images.config(&image).unwrap();
    home.images.inspect(&image).unwrap();
    home.images.history(&image).unwrap();
    home.images.list_filtered(&ListFilter { labels: vec!["x".into()], ..ListFilter::default() }).unwrap();
    let mut archive = Vec::new();
    home.images.save(&["boat:1".into()], &mut archive).unwrap();
    let other = Home::new();
    assert_eq!(other.load_stream(archive).unwrap()[0].id, image.id, "every byte of it is kept");
    assert_eq!(home.file_content("boat:1", "etc/a").as_deref(), Some("content"));
    assert_eq!(std::fs::read_to_string(sentinel).unwrap(), "untouched");
    (home, read)
}

#[test]
fn texts_are_kept_as_they_are() {
    let texts = [
        "",
        " ",
        "/",
        "..",
        "../../../../etc/shadow",
        "/proc/self/fd/8",
        "/proc/self/fd/../../../etc",
        "/dev/../../x",
        "C:\\windows",
        "a:b:c",
        "-1",
        "4294967296",
        "99999999999999999999",
        "0x0",
        "root\nroot::0:0",
        "a\0b",
        "\u{1b}[31m",
        "\u{202e}txt.exe",
        "ünïcödé ☃ 日本",
        "$(reboot)",
        "`reboot`",
        "; rm -rf /",
        "%s%n%x",
        "{{.Config}}",
        "${HOME}",
        "\u{ffff}",
        "\u{10ffff}",
    ];
    let long = "x".repeat(300_000);
    for text in texts.into_iter().chain([&long[..]]) {
        let mut config = good();
        config["author"] = json!(text);
        config["created"] = json!(text);
        config["comment"] = json!(text);
        config["variant"] = json!(text);
        config["config"] = json!({
            "User": text, "WorkingDir": text, "StopSignal": text, "Cmd": [text], "Entrypoint": [text, text],
            "Env": [text, format!("A={text}")], "Labels": {text: text}, "Volumes": {text: {}}, "ExposedPorts": {text: {}},
            "Domainname": text, "Shell": [text], "OnBuild": [text],
        });
        config["history"] = json!([{"created_by": text, "comment": text, "created": text, "author": text}]);
        let (home, read) = accepted(config.to_string().as_bytes());
        let settings = read.config().as_ref().unwrap();
        assert_eq!(settings.user().as_deref(), Some(text));
        assert_eq!(settings.working_dir().as_deref(), Some(text));
        assert_eq!(settings.cmd().as_deref(), Some(&[text.to_owned()][..]));
        assert_eq!(settings.volumes().as_deref(), Some(&[text.to_owned()][..]));
        let image = home.images.resolve("boat:1").unwrap();
        assert_eq!(home.images.history(&image).unwrap()[0].created_by, text);
    }
}

#[test]
fn careless_and_odd_ones_mean_what_they_mean_to_docker() {
    let raw = good().to_string();
    let again = |member: &str| format!("{},{member}}}", raw.strip_suffix('}').unwrap());
    // The last of two members of one name counts, as in Go.
    let (_, read) = accepted(again(r#""config":{"Cmd":["last"]}"#).as_bytes());
    assert_eq!(read.config().as_ref().unwrap().cmd().as_deref(), Some(&["last".to_owned()][..]));
    // What is unknown, and another spelling of what is known, says nothing.
    let (_, read) =
        accepted(again(r#""Config":{"Cmd":["other"]},"container_config":{"Cmd":["old"]},"x":[1,{}]"#).as_bytes());
    assert_eq!(read.config().as_ref().unwrap().cmd().as_deref(), Some(&["sh".to_owned()][..]));
    for key in ["config", "history", "created", "author", "variant"] {
        accepted(&with(&format!("/{key}"), Value::Null));
    }
    for key in ["Cmd", "Env", "Entrypoint", "User", "WorkingDir", "Labels", "Volumes", "ExposedPorts", "StopSignal"] {
        accepted(&with(&format!("/config/{key}"), Value::Null));
    }
    accepted(&without("/config"));
    // What does not say what it is for does for this host.
    for key in ["os", "architecture"] {
        accepted(&without(&format!("/{key}")));
    }
    // Steps without layers, and more of them than there are layers.
    let steps = vec![json!({"created_by": "RUN x"}); 5000];
    let (home, _) = accepted(&with("/history", json!(steps)));
    let history = home.images.history(&home.images.resolve("boat:1").unwrap()).unwrap();
    assert_eq!((history.len(), history.iter().filter(|e| e.size > 0).count()), (5000, LAYERS));
    // A date that is none is as good as none.
    let (home, _) = accepted(&with("/created", json!("-99999-13-77T25:61:61Z")));
    assert_eq!(home.images.list_filtered(&ListFilter { until: Some(1), ..ListFilter::default() }).unwrap().len(), 1);
}

#[test]
fn what_is_large_costs_time_in_proportion() {
    let many: Vec<String> = (0..150_000).map(|n| format!("VARIABLE_{n}=value")).collect();
    let begun = Instant::now();
    let (_, read) = accepted(&with("/config/Env", json!(many)));
    assert_eq!(read.config().as_ref().unwrap().env().as_ref().unwrap().len(), many.len());
    let labels: serde_json::Map<_, _> = (0..150_000).map(|n| (format!("label-{n}"), json!("x"))).collect();
    accepted(&with("/config/Labels", Value::Object(labels)));
    let volumes: serde_json::Map<_, _> = (0..150_000).map(|n| (format!("/v/{n}"), json!({}))).collect();
    accepted(&with("/config/Volumes", Value::Object(volumes)));
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
}
