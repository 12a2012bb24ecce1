//! Images go from other tools to us and from us to other tools, and are the same afterwards.

use std::fs;
use std::path::Path;
use std::process::Command;

use e2e::aftermath;
use e2e::archives::{Layer, Layout, Tar, digest};
use e2e::coracle::Coracle;
use e2e::registry::Registry;
use serde_json::{Value, json};

use crate::samples::{Pair, layer};
use crate::tools::{Surroundings, inspected, oci};

/// Converted layers and metadata images: what an image is made of, however it came.
fn content(coracle: &Coracle) -> Vec<(std::path::PathBuf, String)> {
    let objects = aftermath::objects(coracle.home()).into_iter();
    objects.filter(|(path, _)| !path.starts_with("blobs")).map(|(path, bytes)| (path, digest(&bytes))).collect()
}

/// Pulls `image`, pushes it to `COPY`, and compares what skopeo reads of the two; gives back the manifest.
#[track_caller]
fn there_and_back(user: &Surroundings, registry: &Registry, image: &str) -> Value {
    let [from, to] = [registry.image(image), registry.image(&format!("copies/{image}"))];
    let manifest = user.raw_manifest(&from);
    let coracle = user.keeping_coracle("keeping");
    let out = coracle.coracle(["pull", &from]).expect(0);
    assert!(out.text().contains(&format!("Digest: {}", digest(manifest.as_bytes()))), "{}", out.text());
    let _ = coracle.coracle(["tag", &from, &to]).expect(0);
    let _ = coracle.coracle(["push", &to]).expect(0);
    let copy = user.raw_manifest(&to);
    assert_eq!(copy, manifest, "{image}: the manifest that was pushed");
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    assert_eq!(json!(inspected(&coracle, &from)["Id"]), manifest["config"]["digest"]);
    // Every blob is there, too: skopeo reads them all and checks their digests.
    let directory = user.path("read-back");
    user.skopeo_copy(&[], &format!("docker://{to}"), &format!("dir:{}", directory.display()));
    fs::remove_dir_all(directory).expect("removed");
    manifest
}

#[test]
fn what_skopeo_pushed_comes_back_to_it_unchanged() {
    let (user, registry, pair) = (Surroundings::new(), Registry::open(), Pair::new());
    let source = oci(&pair.layout("red"), "red:latest");
    user.skopeo_copy(&[], &source, &format!("docker://{}", registry.image("made/oci:1")));
    user.skopeo_copy(&["--format", "v2s2"], &source, &format!("docker://{}", registry.image("made/docker:1")));
    let manifest = there_and_back(&user, &registry, "made/oci:1");
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(5));
    let manifest = there_and_back(&user, &registry, "made/docker:1");
    assert_eq!(manifest["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");

    // The same content, whether it was pulled or loaded.
    let (pulled, loaded) = (user.coracle("pulled"), user.coracle("loaded"));
    let _ = pulled.coracle(["pull", &registry.image("made/oci:1")]).expect(0);
    let _ = loaded.coracle(pair.load("red")).expect(0);
    assert_eq!(content(&pulled), content(&loaded));
}

#[test]
fn layers_of_zstd_and_without_compression() {
    let (user, registry) = (Surroundings::new(), Registry::open());
    let mut layout = Layout::new(&user.path("layout"));
    let tar = Tar::default().directory("etc").file("etc/motd", &b"the same line\n".repeat(5000)).end();
    let plain = layout.blob("application/vnd.oci.image.layer.v1.tar", &tar);
    fs::write(user.path("work/layer.tar"), Tar::default().file("second", &b"twice\n".repeat(9000)).end())
        .expect("written");
    user.run("zstd", ["-q", "layer.tar", "-o", "layer.tar.zst"]);
    let [tar, zstd] = ["layer.tar", "layer.tar.zst"].map(|name| fs::read(user.path("work").join(name)).expect("read"));
    let zstd = layout.blob("application/vnd.oci.image.layer.v1.tar+zstd", &zstd);
    let layers = [
        Layer { diff_id: plain["digest"].as_str().expect("text").to_owned(), descriptor: plain },
        Layer { diff_id: digest(&tar), descriptor: zstd },
    ];
    let manifest = layout.manifest(&layers, "sh");
    layout.name(manifest, "mixed:latest");
    let to = format!("docker://{}", registry.image("mixed:latest"));
    user.skopeo_copy(&[], &oci(layout.path(), "mixed:latest"), &to);
    let manifest = there_and_back(&user, &registry, "mixed:latest");
    assert_eq!(manifest["layers"][1]["mediaType"], "application/vnd.oci.image.layer.v1.tar+zstd");
}

#[test]
fn layers_that_were_not_kept_are_made_again() {
    let (user, registry, pair) = (Surroundings::new(), Registry::open(), Pair::new());
    let [first, second] = ["red:1", "red:2"].map(|image| registry.image(image));
    user.skopeo_copy(&[], &oci(&pair.layout("red"), "red:latest"), &format!("docker://{first}"));
    let coracle = user.coracle("home");
    let _ = coracle.coracle(["pull", &first]).expect(0);
    let elsewhere = Registry::open();
    let there = elsewhere.image("red:2");
    let _ = coracle.coracle(["tag", &first, &there]).expect(0);
    let _ = coracle.coracle(["push", &there]).expect(0);
    let [came, went] =
        [&first, &there].map(|image| serde_json::from_str::<Value>(&user.raw_manifest(image)).expect("JSON"));
    assert_eq!(went["config"], came["config"], "the configuration, and so the image's id");
    // Reading it back, skopeo compares each layer with the configuration's diff ids.
    let archive = user.path("archive.tar");
    user.skopeo_copy(&[], &format!("docker://{there}"), &format!("docker-archive:{}:red:3", archive.display()));
    let again = user.coracle("again");
    let _ = again.coracle(["load", "-i", archive.to_str().expect("text")]).expect(0);
    assert_eq!(content(&again), content(&coracle));
    // To where the blobs still are, they are not sent: the manifest is the one that it came with.
    let _ = coracle.coracle(["tag", &first, &second]).expect(0);
    let _ = coracle.coracle(["push", &second]).expect(0);
    assert_eq!(user.raw_manifest(&second), user.raw_manifest(&first));
}

#[test]
fn one_platform_of_several_by_tag_and_by_digest() {
    let (user, registry) = (Surroundings::new(), Registry::open());
    let mut layout = Layout::new(&user.path("layout"));
    let manifests: Vec<Value> = [("amd64", 1), ("arm64", 2)]
        .map(|(architecture, number)| {
            let layers = [layer(&layout, number)];
            layout.manifest_for(architecture, &layers, "sh")
        })
        .into();
    let index = layout.index(&manifests);
    let index_digest = index["digest"].as_str().expect("text").to_owned();
    layout.name(index, "boats:all");
    let image = registry.image("boats:all");
    user.skopeo_copy(&["--all"], &oci(layout.path(), "boats:all"), &format!("docker://{image}"));

    let coracle = user.coracle("home");
    let out = coracle.coracle(["pull", &image]).expect(0);
    assert!(out.text().contains(&format!("Digest: {index_digest}")), "{}", out.text());
    assert_eq!(inspected(&coracle, &image)["Architecture"], "amd64");
    let _ = coracle.coracle(["pull", "--platform", "linux/arm64", &image]).expect(0);
    assert_eq!(inspected(&coracle, &image)["Architecture"], "arm64");
    let _ = coracle.coracle(["pull", "--platform", "linux/riscv64", &image]).says(&["riscv64"]).expect(1);

    for (descriptor, architecture) in manifests.iter().zip(["amd64", "arm64"]) {
        let coracle = user.coracle(architecture);
        let by_digest = format!("{}@{}", registry.image("boats"), descriptor["digest"].as_str().expect("text"));
        let _ = coracle.coracle(["pull", "--platform", &format!("linux/{architecture}"), &by_digest]).expect(0);
        assert_eq!(inspected(&coracle, &by_digest)["Architecture"], architecture);
        let listed = coracle.coracle(["images", "--digests", "--no-trunc"]).expect(0);
        assert!(listed.text().contains(descriptor["digest"].as_str().expect("text")), "{}", listed.text());
    }
}

#[test]
fn podman_pulls_what_we_push_and_we_what_it_pushes() {
    let (user, registry, pair) = (Surroundings::new(), Registry::open(), Pair::new());
    let coracle = user.coracle("home");
    let _ = coracle.coracle(pair.load("red")).expect(0);
    let ours = registry.image("ours:1");
    let _ = coracle.coracle(["tag", "red", &ours]).expect(0);
    let _ = coracle.coracle(["push", &ours]).expect(0);
    let id = user.with_store("podman", &["pull", "-q", "--tls-verify=false", &ours]);
    let seen = inspected(&coracle, &ours);
    assert_eq!(seen["Id"], format!("sha256:{id}"));
    let theirs: Value = serde_json::from_str(&user.with_store("podman", &["image", "inspect", &ours])).expect("JSON");
    assert_eq!(theirs[0]["RootFS"]["Layers"], seen["RootFS"]["Layers"]);
    assert_eq!(theirs[0]["Config"]["Cmd"], json!(["red"]));

    // And back: through its registry client, and through its archives.
    let back = registry.image("theirs:1");
    user.with_store("podman", &["push", "-q", "--tls-verify=false", &ours, &back]);
    let _ = user.coracle("pulled").coracle(["pull", &back]).expect(0);
    let pulled = user.coracle("pulled");
    assert_eq!(content(&pulled), content(&coracle));
    for format in ["docker-archive", "oci-archive"] {
        let archive = user.path(&format!("{format}.tar"));
        let archive = archive.to_str().expect("text");
        user.with_store("podman", &["save", "-q", "--format", format, "-o", archive, &ours]);
        let loaded = user.coracle(format);
        let _ = loaded.coracle(["load", "-i", archive]).expect(0);
        assert_eq!(content(&loaded), content(&coracle), "{format}");
    }
}

#[test]
fn podman_loads_what_we_save() {
    let (user, pair) = (Surroundings::new(), Pair::new());
    for (coracle, archive) in [(user.coracle("home"), "remade.tar"), (user.keeping_coracle("keeping"), "kept.tar")] {
        let _ = coracle.coracle(pair.load("red")).expect(0);
        let _ = coracle.coracle(pair.load("blue")).expect(0);
        let archive = user.path(archive);
        let archive = archive.to_str().expect("text");
        let _ = coracle.coracle(["save", "-o", archive, "red", "blue:latest"]).expect(0);
        user.with_store("podman", &["load", "-q", "-i", archive]);
        for name in ["red", "blue"] {
            let theirs = user.with_store("podman", &["image", "inspect", "--format", "{{.Id}}", name]);
            assert_eq!(inspected(&coracle, name)["Id"], format!("sha256:{theirs}"), "{archive}: {name}");
        }
        user.with_store("podman", &["rmi", "--all", "--force"]);
        let again = user.coracle(&format!("{archive}-again"));
        let _ = again.coracle(["load", "-i", archive]).expect(0);
        assert_eq!(content(&again), content(&coracle), "{archive}");
        // skopeo reads both faces of an archive; in an OCI layout of one image its tag is its name, as Docker writes it.
        let _ = coracle.coracle(["save", "-o", archive, "red"]).expect(0);
        for from in [format!("docker-archive:{archive}:red:latest"), format!("oci-archive:{archive}:latest")] {
            let directory = user.path("read");
            user.skopeo_copy(&[], &from, &format!("dir:{}", directory.display()));
            fs::remove_dir_all(directory).expect("removed");
        }
    }
}

#[test]
fn what_buildah_built() {
    let (user, registry) = (Surroundings::new(), Registry::open());
    fs::write(user.path("work/hello"), "hello from buildah\n").expect("written");
    let container = user.with_store("buildah", &["from", "scratch"]);
    user.with_store("buildah", &["copy", "-q", &container, "hello", "/etc/hello"]);
    user.with_store("buildah", &["config", "--cmd", "true", "--label", "boat=coracle", &container]);
    let image = registry.image("built:1");
    user.with_store("buildah", &["commit", "-q", "--rm", &container, &image]);
    user.with_store("buildah", &["push", "-q", "--tls-verify=false", &image]);
    let manifest = there_and_back(&user, &registry, "built:1");
    let coracle = user.keeping_coracle("keeping");
    assert_eq!(inspected(&coracle, &image)["Config"]["Labels"]["boat"], "coracle");
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1));
}

#[test]
fn what_umoci_made_as_a_docker_archive() {
    let (user, registry) = (Surroundings::new(), Registry::open());
    let layout = user.path("layout");
    let reference = format!("{}:boat", layout.display());
    let shown = layout.to_str().expect("text");
    user.run("umoci", ["init", "--layout", shown]);
    user.run("umoci", ["new", "--image", &reference]);
    user.run("umoci", ["unpack", "--image", &reference, "bundle"]);
    let root = user.path("work/bundle/rootfs");
    for step in
        ["mkdir -p a/b; echo one > a/b/c; ln a/b/c a/hard; ln -s b a/soft", "rm -r a/b; echo two > d; mknod null c 1 3"]
    {
        let status = Command::new("sh").args(["-euc", step]).current_dir(&root).status().expect("sh");
        assert!(status.success(), "{step}");
        user.run("umoci", ["repack", "--refresh-bundle", "--image", &reference, "bundle"]);
    }
    let archive = user.path("archive.tar");
    user.skopeo_copy(&[], &format!("oci:{reference}"), &format!("docker-archive:{}:boat:1", archive.display()));
    user.skopeo_copy(&[], &format!("oci:{reference}"), &format!("docker://{}", registry.image("boat:1")));
    there_and_back(&user, &registry, "boat:1");
    let loaded = user.coracle("loaded");
    let _ = loaded.coracle(["load", "-i", archive.to_str().expect("text")]).expect(0);
    let pulled = user.coracle("pulled");
    let _ = pulled.coracle(["pull", &registry.image("boat:1")]).expect(0);
    assert_eq!(content(&loaded), content(&pulled));
    check_verity(&loaded);
}

/// The digest in each layer's facts is the one that `fsverity` takes of its data.
fn check_verity(coracle: &Coracle) {
    let layers = coracle.home().join("data/layers/sha256");
    let mut checked = 0;
    for layer in fs::read_dir(layers).expect("layers") {
        let layer = layer.expect("an entry").path();
        let facts = fs::read_to_string(layer.join("facts")).expect("facts");
        let line = facts.lines().find(|line| line.starts_with("data ")).expect("a line about the data");
        let ours = line.rsplit(' ').next().expect("a digest");
        assert_eq!(ours, verity(&layer.join("data")), "{}", layer.display());
        checked += 1;
    }
    assert!(checked > 0, "no layers");
}

fn verity(path: &Path) -> String {
    let out = Command::new("fsverity").args(["digest", "--compact"]).arg(path).output().expect("fsverity");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    format!("sha256:{}", String::from_utf8_lossy(&out.stdout).trim())
}

#[test]
fn verity_digests_are_those_of_fsverity() {
    let (user, pair) = (Surroundings::new(), Pair::new());
    let coracle = user.coracle("home");
    let _ = coracle.coracle(pair.load("red")).expect(0);
    let _ = coracle.coracle(pair.load("blue")).expect(0);
    check_verity(&coracle);
}
