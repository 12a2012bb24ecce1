//! Images made by the tools that people use, mounted by the kernel, compared with what those tools unpack. Needs root.

mod kit;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use image::LoadSource;
use kit::*;
use tempfile::TempDir;

/// A layout made with umoci: two layers, with what file systems can hold.
fn umoci_image(directory: &Path) -> PathBuf {
    let layout = directory.join("layout");
    let image = format!("{}:boat", layout.display());
    let bundle = directory.join("bundle");
    let (layout_text, bundle_text) = (layout.to_str().unwrap(), bundle.to_str().unwrap());
    run("umoci", &["init", "--layout", layout_text]);
    run("umoci", &["new", "--image", &image]);
    let layers = [
        "mkdir -p etc bin dev deep/er/still; echo boat > etc/hostname; echo gone > etc/gone; ln -s hostname etc/link
         echo hard > deep/one; ln deep/one deep/er/two; mknod dev/null c 1 3; mkfifo dev/fifo; mkdir -m 1777 tmp
         head -c 70000 /dev/urandom > bin/tool; chmod 4755 bin/tool; chown 1234:5678 etc/hostname
         truncate -s 5M sparse; echo end >> sparse; setfattr -n user.coracle -v afloat etc/hostname
         setcap cap_net_raw+ep bin/tool; touch -d '2001-02-03 04:05:06.123456789' etc/link; mkdir full; touch full/{1..50}",
        "rm etc/gone; echo changed > etc/hostname; rm -r full; mkdir full; touch full/new; rm -r deep; echo file > deep",
    ];
    for script in layers {
        run("umoci", &["unpack", "--image", &image, bundle_text]);
        let status = Command::new("bash").args(["-euc", script]).current_dir(bundle.join("rootfs")).status();
        assert!(status.unwrap().success(), "{script}");
        run("umoci", &["repack", "--image", &image, bundle_text]);
        fs::remove_dir_all(&bundle).unwrap();
    }
    run("umoci", &["config", "--image", &image, "--config.cmd=sh", "--config.user=1234", "--config.env=A=b"]);
    layout
}

/// A root device as one file.
fn flatten(home: &Home, name: &str) -> PathBuf {
    let device = home.images.root_device(&home.images.resolve(name).unwrap()).unwrap();
    let path = home.directory.path().join(format!("{}.erofs", name.replace([':', '/'], "-")));
    let mut out = File::create(&path).unwrap();
    for extent in &device.extents {
        let file = File::open(&extent.path).unwrap();
        let copied = io::copy(&mut file.take(extent.length), &mut out).unwrap();
        assert_eq!(copied, extent.length);
    }
    path
}

struct Mount(TempDir);

impl Mount {
    fn erofs(image: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        run("mount", &["-t", "erofs", "-o", "loop,ro", image.to_str().unwrap(), directory.path().to_str().unwrap()]);
        Self(directory)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &[self.0.path().to_str().unwrap()]);
    }
}

/// Everything in a tree that a container can see, one entry a line.
fn listing(root: &Path) -> String {
    let script = r"
        find . -mindepth 1 -printf '%P %y %m %U %G %n %l' \( -type f -printf ' %s' -o -true \) -printf ' %T@\n' | LC_ALL=C sort
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0r sha256sum
        getfattr -R -d -m - --absolute-names . 2>/dev/null | LC_ALL=C sort
    ";
    let output = Command::new("bash").args(["-euc", script]).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn assert_same_tree(home: &Home, name: &str, expected: &Path) {
    let image = flatten(home, name);
    run("fsck.erofs", &[image.to_str().unwrap()]);
    let mount = Mount::erofs(&image);
    let (ours, theirs) = (listing(mount.0.path()), listing(expected));
    for (ours, theirs) in ours.lines().zip(theirs.lines()) {
        assert_eq!(ours, theirs, "{name}");
    }
    assert_eq!(ours.lines().count(), theirs.lines().count(), "{name}");
    assert!(ours.lines().count() > 20, "{ours}");
}

fn unpacked(layout: &Path, directory: &Path) -> PathBuf {
    let bundle = directory.join("expected");
    run("umoci", &["unpack", "--image", &format!("{}:boat", layout.display()), bundle.to_str().unwrap()]);
    bundle.join("rootfs")
}

#[test]
fn what_umoci_makes_and_skopeo_converts() {
    let work = tempfile::tempdir().unwrap();
    let layout = umoci_image(work.path());
    let expected = unpacked(&layout, work.path());
    let source = format!("oci:{}:boat", layout.display());
    let copy = |options: &[&str], target: &str| {
        let policy = ["--insecure-policy", "copy", "--quiet"];
        run("skopeo", &[&policy[..], options, &[&source, target]].concat());
    };
    let path = |name: &str| work.path().join(name);
    let shown = |name: &str| path(name).display().to_string();
    copy(&[], &format!("oci-archive:{}:skiff:1", shown("oci.tar")));
    copy(&[], &format!("docker-archive:{}:skiff:2", shown("docker.tar")));
    copy(&["--dest-compress-format=zstd", "--dest-compress"], &format!("oci:{}:skiff:3", shown("zstd")));
    run("gzip", &["-k", &shown("docker.tar")]);

    let home = Home::new();
    home.load_path(&layout).unwrap();
    assert_same_tree(&home, "boat", &expected);
    let cases = [("oci.tar", "skiff:1"), ("docker.tar", "skiff:2"), ("zstd", "skiff:3"), ("docker.tar.gz", "skiff:2")];
    for (file, name) in cases {
        let home = Home::new();
        home.load_path(path(file)).unwrap_or_else(|e| panic!("{file}: {}", chain(&e)));
        assert_same_tree(&home, name, &expected);
        let config = home.images.config(&home.images.resolve(name).unwrap()).unwrap();
        assert_eq!(config.config().as_ref().unwrap().user().as_deref(), Some("1234"), "{file}");
    }
    // As a stream, into a home on a disk.
    let home = Home::below(work.path());
    let stream = File::open(path("docker.tar.gz")).unwrap();
    home.images.load(LoadSource::Stream(Box::new(stream)), &(), None).unwrap();
    assert_same_tree(&home, "skiff:2", &expected);
    // The same layers again, by way of another format: none is converted twice.
    let record = Record::default();
    home.images.load(LoadSource::Path(layout), &record, None).unwrap();
    assert_eq!(record.counts(), (0, 2));
}

/// A distribution in twelve layers, where `cargo run -p e2e --bin fixtures` has built it.
#[test]
fn a_debian_of_twelve_layers_is_what_umoci_unpacks() {
    let fixtures = std::env::var_os("CORACLE_FIXTURES").map(PathBuf::from);
    let fixtures = fixtures.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures"));
    let debian = fixtures.join("debian");
    if !debian.join("index.json").exists() {
        return eprintln!("skipped: there is no {}", debian.display());
    }
    let work = tempfile::tempdir().unwrap();
    let layout = work.path().join("layout");
    run("cp", &["-r", debian.to_str().unwrap(), layout.to_str().unwrap()]);
    let index = fs::read_to_string(layout.join("index.json")).unwrap();
    let mut index: serde_json::Value = serde_json::from_str(&index).unwrap();
    // umoci takes no name with a colon.
    index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] = "boat".into();
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    let expected = unpacked(&layout, work.path());

    let home = Home::below(work.path());
    home.load_path(&layout).unwrap();
    assert_same_tree(&home, "boat", &expected);
    let image = flatten(&home, "boat");
    let extracted = work.path().join("extracted");
    run("fsck.erofs", &[&format!("--extract={}", extracted.display()), image.to_str().unwrap()]);
    // What is no file, directory or link differs for diff as such.
    let mut same = vec!["-r", "--no-dereference", "--exclude=dev", "--exclude=fifo", "--exclude=null"];
    same.extend([extracted.to_str().unwrap(), expected.to_str().unwrap()]);
    assert_eq!(run("diff", &same), "");
}

#[test]
fn what_buildah_makes() {
    let work = tempfile::tempdir().unwrap();
    let file = |name: &str| work.path().join(name).display().to_string();
    let storage = ["--root", &file("storage"), "--runroot", &file("run"), "--storage-driver", "vfs"];
    let buildah = |arguments: &[&str]| {
        let mut command = vec![arguments[0]];
        command.splice(0..0, storage);
        command.extend(&arguments[1..]);
        run("buildah", &command)
    };
    fs::create_dir(file("context")).unwrap();
    fs::write(file("context/one"), "one").unwrap();
    // Another length: the storage driver compares no contents.
    fs::write(file("context/two"), "two!").unwrap();
    let recipe = "FROM scratch\nCOPY one /etc/one\nCOPY two /etc/one\nCOPY two /etc/two\nVOLUME /data\nEXPOSE 80\n\
                  ENTRYPOINT [\"/bin/x\"]\n";
    fs::write(file("context/Containerfile"), recipe).unwrap();
    buildah(&["bud", "--layers", "-q", "-t", "skiff:4", &file("context")]);
    buildah(&["push", "-q", "skiff:4", &format!("docker-archive:{}:skiff:4", file("a.tar"))]);
    buildah(&["push", "-q", "skiff:4", &format!("oci-archive:{}", file("b.tar"))]);
    let home = Home::new();
    home.load_path(file("a.tar")).unwrap();
    assert_eq!(home.file_content("skiff:4", "etc/one").as_deref(), Some("two!"));
    let loaded = home.load_path(file("b.tar")).unwrap();
    assert!(loaded[0].names.is_empty(), "{loaded:?}");
    let record = home.images.resolve(&loaded[0].id).unwrap();
    let config = home.images.config(&record).unwrap();
    let config = config.config().as_ref().unwrap().clone();
    assert_eq!(config.volumes().as_deref(), Some(&["/data".to_owned()][..]));
    assert_eq!(config.exposed_ports().as_deref().map(<[_]>::len), Some(1));
    assert_eq!(config.entrypoint().as_deref(), Some(&["/bin/x".to_owned()][..]));
}
