//! Bad input: a clear error that names the object, a non-zero exit, and nothing left behind.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::coracle::{Coracle, Output, finish};
use e2e::fixtures;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A copy of the busybox layout that a test may damage.
struct Layout {
    directory: TempDir,
}

impl Layout {
    fn busybox() -> Self {
        let directory = TempDir::with_prefix("coracle-layout-").expect("a directory");
        let source = fixtures::busybox();
        fs::create_dir_all(directory.path().join("blobs/sha256")).expect("a directory");
        for name in ["index.json", "oci-layout"] {
            fs::copy(source.join(name), directory.path().join(name)).expect("a copy");
        }
        for blob in fs::read_dir(source.join("blobs/sha256")).expect("blobs") {
            let blob = blob.expect("a blob");
            fs::copy(blob.path(), directory.path().join("blobs/sha256").join(blob.file_name())).expect("a copy");
        }
        Self { directory }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn blob(&self, digest: &Value) -> PathBuf {
        let digest = digest.as_str().expect("a digest");
        self.path().join("blobs").join(digest.replacen(':', "/", 1))
    }

    fn json(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).expect("a JSON file")).expect("JSON")
    }

    fn index(&self) -> Value {
        Self::json(&self.path().join("index.json"))
    }

    fn manifest(&self) -> Value {
        Self::json(&self.blob(&self.index()["manifests"][0]["digest"]))
    }

    /// Writes a blob and returns its digest and size.
    fn put(&self, bytes: &[u8]) -> (Value, Value) {
        let mut sum = Command::new("sha256sum");
        sum.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let out = finish(sum, bytes);
        let digest = json!(format!("sha256:{}", out.text().split_whitespace().next().expect("a digest")));
        fs::write(self.blob(&digest), bytes).expect("written");
        (digest, json!(bytes.len()))
    }

    /// Replaces the manifest and what names it.
    fn replace_manifest(&self, manifest: &Value) {
        let (digest, size) = self.put(&serde_json::to_vec(manifest).expect("JSON"));
        let mut index = self.index();
        index["manifests"][0]["digest"] = digest;
        index["manifests"][0]["size"] = size;
        fs::write(self.path().join("index.json"), index.to_string()).expect("written");
    }

    fn replace_config(&self, change: impl FnOnce(&mut Value)) {
        let mut manifest = self.manifest();
        let mut config = Self::json(&self.blob(&manifest["config"]["digest"]));
        change(&mut config);
        let (digest, size) = self.put(&serde_json::to_vec(&config).expect("JSON"));
        manifest["config"]["digest"] = digest;
        manifest["config"]["size"] = size;
        self.replace_manifest(&manifest);
    }
}

/// Loading must fail with all of `parts` in the message and leave nothing.
#[track_caller]
fn refuses(path: &Path, parts: &[&str]) {
    let coracle = Coracle::new();
    let out = coracle.coracle(["load", "-i", path.to_str().expect("a path")]);
    assert_ne!(out.code, 0, "accepted");
    let _ = out.says(parts);
    assert_eq!(coracle.coracle(["images", "-q"]).expect(0).text(), "");
    coracle.nothing_left();
}

#[test]
fn file_that_is_no_archive() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&[b'x'; 10_000]).expect("written");
    refuses(file.path(), &[file.path().to_str().expect("a path")]);
}

#[test]
fn file_that_is_not_there() {
    refuses(Path::new("/no/such/archive.tar"), &["/no/such/archive.tar"]);
}

#[test]
fn truncated_archive() {
    let layout = Layout::busybox();
    let directory = TempDir::new().expect("a directory");
    let archive = directory.path().join("busybox.tar");
    let status = Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(layout.path()).arg(".").status();
    assert!(status.expect("tar").success());
    let length = fs::metadata(&archive).expect("the archive").len();
    for cut in [length / 2, length / 2 + 700, 1000, 100] {
        let file = fs::OpenOptions::new().write(true).open(&archive).expect("the archive");
        file.set_len(cut).expect("cut");
        refuses(&archive, &["busybox.tar"]);
    }
}

#[test]
fn layer_with_a_wrong_digest() {
    let layout = Layout::busybox();
    let digest = &layout.manifest()["layers"][0]["digest"];
    let path = layout.blob(digest);
    let mut bytes = fs::read(&path).expect("the layer");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("written");
    refuses(layout.path(), &[digest.as_str().expect("a digest")]);
}

#[test]
fn layer_with_a_wrong_size() {
    let layout = Layout::busybox();
    let digest = &layout.manifest()["layers"][0]["digest"];
    let path = layout.blob(digest);
    let file = fs::OpenOptions::new().append(true).open(path).expect("the layer");
    let length = file.metadata().expect("metadata").len();
    file.set_len(length + 1).expect("longer");
    refuses(layout.path(), &[digest.as_str().expect("a digest")]);
}

#[test]
fn missing_layer() {
    let layout = Layout::busybox();
    let digest = &layout.manifest()["layers"][0]["digest"];
    fs::remove_file(layout.blob(digest)).expect("removed");
    refuses(layout.path(), &[digest.as_str().expect("a digest")]);
}

#[test]
fn layer_whose_content_is_not_what_the_configuration_says() {
    let layout = Layout::busybox();
    layout.replace_config(|config| config["rootfs"]["diff_ids"][0] = json!(format!("sha256:{}", "0".repeat(64))));
    refuses(layout.path(), &["not what the image's configuration says"]);
}

#[test]
fn unknown_compression() {
    let layout = Layout::busybox();
    let mut manifest = layout.manifest();
    let (digest, size) = layout.put(b"\x04\x22\x4d\x18 pretends to be lz4, which no layer is");
    manifest["layers"][0]["digest"] = digest;
    manifest["layers"][0]["size"] = size;
    manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+lz4");
    layout.replace_manifest(&manifest);
    refuses(layout.path(), &["lz4"]);
}

#[test]
fn image_for_another_architecture() {
    let layout = Layout::busybox();
    layout.replace_config(|config| config["architecture"] = json!("riscv64"));
    refuses(layout.path(), &["riscv64"]);
}

#[test]
fn names_that_climb_stay_in_the_image() {
    let layout = Layout::busybox();
    let climbing = climbing_layer();
    let mut manifest = layout.manifest();
    let (digest, size) = layout.put(&climbing);
    manifest["layers"].as_array_mut().expect("layers").push(json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size,
    }));
    layout.replace_manifest(&manifest);
    layout.replace_config(|config| {
        config["rootfs"]["diff_ids"].as_array_mut().expect("diff ids").push(digest);
    });
    let coracle = Coracle::new();
    coracle.load(layout.path());
    let out = coracle.run(["busybox", "sh", "-c", "cat /climbed-up /absolute /tmp/through"]).expect(0);
    assert_eq!(out.text(), "up\nabsolute\nthrough\n");
    for path in ["/climbed-up", "/absolute", "/tmp/through"] {
        assert!(!Path::new(path).exists(), "{path} is on the host");
    }
}

/// A layer with `../climbed-up`, `/absolute`, and a file below a symbolic link that points out of the root.
fn climbing_layer() -> Vec<u8> {
    let script = r#"
import tarfile, io, sys
out = io.BytesIO()
with tarfile.open(fileobj=out, mode="w") as tar:
    def file(name, data):
        info = tarfile.TarInfo(name); info.size = len(data); tar.addfile(info, io.BytesIO(data))
    file("../../../climbed-up", b"up\n")
    file("/absolute", b"absolute\n")
    link = tarfile.TarInfo("srv-link"); link.type = tarfile.SYMTYPE; link.linkname = "../../../../tmp"; tar.addfile(link)
    file("srv-link/through", b"through\n")
sys.stdout.buffer.write(out.getvalue())
"#;
    let out = Command::new("python3").args(["-c", script]).output().expect("python3");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

#[track_caller]
fn refused(out: Output, parts: &[&str]) {
    let _ = out.expect(125).says(parts);
}

#[test]
fn image_that_is_not_there() {
    let coracle = Coracle::new();
    refused(coracle.run(["--pull", "never", "no-such-image", "true"]), &["no-such-image", "hint:"]);
    coracle.nothing_left();
}

#[test]
fn name_that_exists() {
    let coracle = Coracle::new();
    coracle.load(&fixtures::busybox());
    let _ = coracle.coracle(["run", "--name", "mine", "busybox", "true"]).expect(0);
    refused(coracle.run(["--name", "mine", "busybox", "true"]), &["mine", "hint:"]);
    let _ = coracle.coracle(["rm", "mine"]).expect(0);
    coracle.nothing_left();
}

#[test]
fn memory_below_what_the_kernel_needs() {
    refused(Coracle::shared().run(["-m", "4m", "busybox", "true"]), &["4", "at least"]);
}

#[test]
fn flags_that_make_no_sense() {
    let shared = Coracle::shared();
    for arguments in [
        ["-m", "lots", "busybox"],
        ["--cpus", "-1", "busybox"],
        ["--ulimit", "nofish=1", "busybox"],
        ["--cap-add", "FLY", "busybox"],
        ["--sysctl", "novalue", "busybox"],
        ["--name", "../up", "busybox"],
        ["--env-file", "/no/such/file", "busybox"],
        ["--platform", "plan9/mips", "busybox"],
    ] {
        let out = shared.run(arguments);
        assert!(out.code == 125 || out.code == 2, "{arguments:?} ended with {}: {}", out.code, out.stderr);
        assert!(!out.stderr.is_empty(), "{arguments:?} said nothing");
    }
}

#[test]
fn missing_emulator() {
    let coracle = Coracle::new();
    coracle.load(&fixtures::busybox());
    let mut command = coracle.command(["run", "--rm", "--accel", "emulated", "busybox", "true"]);
    command.env("PATH", "/usr/sbin:/sbin:/nowhere");
    refused(finish(command, b""), &["qemu-system-x86", "hint:"]);
    coracle.nothing_left();
}

#[test]
fn home_that_cannot_be_written() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let home = file.path().join("home");
    let mut command = Coracle::shared().command(["run", "--rm", "busybox", "true"]);
    command.env("CORACLE_HOME", &home);
    refused(finish(command, b""), &[home.to_str().expect("a path")]);
}

#[test]
fn full_disk() {
    let directory = TempDir::new().expect("a directory");
    let home = directory.path().to_str().expect("a path");
    let binary = Coracle::binary();
    let script = "mount -t tmpfs -o size=768k,mode=700 full \"$1\" && \"$2\" load -i \"$3\"; code=$?; \
                  ls -A \"$1/data/tmp\" \"$1/data/layers/sha256\" 2>/dev/null | grep -v : | grep . && code=99; exit $code";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh", home]).arg(binary).arg(fixtures::busybox());
    command.env("CORACLE_HOME", home).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let out = finish(command, b"");
    assert!(out.code != 0 && out.code != 99, "{}: {}", out.code, out.stderr);
    let _ = out.says(&["o space left on device"]);
}
