//! Several layers, merged and seen through the kernel's EROFS, are what `umoci unpack` makes of the same image.

#![allow(missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use support::{Mounted, assert_same, convert, describe, fsck, run, shell};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts a blob into an OCI layout and gives its descriptor.
fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> String {
    let digest = hex(&Sha256::digest(bytes));
    fs::write(layout.join("blobs/sha256").join(&digest), bytes).unwrap();
    let media_type = format!("application/vnd.oci.image.{media_type}");
    format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{digest}","size":{}}}"#, bytes.len())
}

/// Unpacks the layers with umoci and describes the tree.
fn unpacked_by_umoci(scratch: &Path, archives: &[PathBuf]) -> BTreeMap<PathBuf, String> {
    let layout = scratch.join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    for archive in archives {
        let bytes = fs::read(archive).unwrap();
        diff_ids.push(format!("\"sha256:{}\"", hex(&Sha256::digest(&bytes))));
        layers.push(blob(&layout, "layer.v1.tar", &bytes));
    }
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}},"history":[]}}"#,
        diff_ids.join(",")
    );
    let config = blob(&layout, "config.v1+json", config.as_bytes());
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","));
    let manifest = blob(&layout, "manifest.v1+json", manifest.as_bytes());
    let named = manifest.replacen('{', r#"{"annotations":{"org.opencontainers.image.ref.name":"test"},"#, 1);
    fs::write(layout.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{named}]}}"#)).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let image = format!("{}:test", layout.display());
    let bundle = scratch.join("bundle");
    run("umoci", &["unpack".as_ref(), "--image".as_ref(), image.as_ref(), bundle.as_os_str()]);
    describe(&bundle.join("rootfs"))
}

fn compare(scratch: &Path, archives: &[PathBuf]) {
    let image = scratch.join("image");
    convert(archives, &image);
    fsck(&image);
    let mounted = Mounted::new(&image, scratch.join("mnt"));
    assert_same(&describe(&mounted.root), &unpacked_by_umoci(scratch, archives));
}

/// Archives the directory of each step; a step is a shell script that fills an empty directory.
fn archives(scratch: &Path, steps: &[&str]) -> Vec<PathBuf> {
    let archive = |(number, step): (usize, &&str)| {
        let directory = scratch.join(format!("step{number}"));
        fs::create_dir(&directory).unwrap();
        shell(&directory, step);
        let archive = scratch.join(format!("layer{number}.tar"));
        let options = "--format=posix --xattrs --xattrs-include='*' --numeric-owner --sort=name";
        shell(scratch, &format!("tar -C step{number} {options} -cf layer{number}.tar ."));
        archive
    };
    steps.iter().enumerate().map(archive).collect()
}

#[test]
fn whiteouts_replacements_and_links_are_what_umoci_unpacks() {
    let scratch = tempfile::tempdir().unwrap();
    let archives = archives(
        scratch.path(),
        &[
            "mkdir -p usr/bin usr/lib/deep etc var/cache/a var/cache/b opt/app; ln -s usr/lib lib; ln -s usr/bin bin
             echo one > etc/one; echo two > etc/two; ln etc/one etc/linked; echo lib > usr/lib/x; echo bin > usr/bin/sh
             for i in $(seq 500); do echo $i > var/cache/a/$i; echo $i > var/cache/b/$i; done
             echo app > opt/app/file; chmod 4711 usr/bin/sh; setfattr -n user.layer -v zero etc; ln -s one etc/symlink
             mknod dev-null c 1 3; mkfifo fifo; echo d > usr/lib/deep/d",
            // Whiteouts, an opaque directory that is filled again, attributes of a directory, a lower link kept.
            "mkdir -p etc var/cache/b opt; touch etc/.wh.one var/cache/.wh.a var/cache/b/.wh..wh..opq opt/.wh.app
             echo new > var/cache/b/new; chmod 700 etc; chown 5:6 etc; setfattr -n user.layer -v one etc
             echo three > etc/three; touch .wh.fifo .wh.missing",
            // Types change: file to directory, directory to file, link to file, node to link.
            "mkdir -p etc/two usr/lib; echo inside > etc/two/inside; echo flat > usr/lib/deep
             echo real > etc/symlink; ln -s etc/two dev-null; mkdir -p opt/app; echo again > opt/app/file",
            "mkdir -p etc; echo -n > etc/.wh.two; echo '' > .wh.dev-null; mkdir -p var; touch var/.wh..wh..opq",
        ],
    );
    compare(scratch.path(), &archives);
}

/// Entries whose parents are symbolic links of lower layers, and hard links into lower layers: no archiver makes
/// these from a directory.
#[test]
fn parents_that_are_symlinks_are_what_umoci_unpacks() {
    let scratch = tempfile::tempdir().unwrap();
    let script = r#"
import io, tarfile
def layer(name, *entries):
    tar = tarfile.open(name, "w", format=tarfile.PAX_FORMAT)
    for kind, path, extra in (("dir", ".", ""),) + entries:
        info = tarfile.TarInfo(path)
        info.mtime, info.mode, info.uid = 1600000000.25, 0o755, 3
        content = None
        if kind == "dir": info.type = tarfile.DIRTYPE
        elif kind == "file": content = extra.encode(); info.size = len(content)
        elif kind == "sym": info.type, info.linkname = tarfile.SYMTYPE, extra
        elif kind == "hard": info.type, info.linkname = tarfile.LNKTYPE, extra
        tar.addfile(info, content and io.BytesIO(content))
    tar.close()
layer("layer0.tar", ("dir", "usr", ""), ("dir", "usr/lib", ""), ("sym", "lib", "usr/lib"), ("sym", "abs", "/usr/lib"),
      ("sym", "up", "../../../usr"), ("file", "usr/lib/low", "low"), ("sym", "twice", "abs"), ("dir", "data", ""))
layer("layer1.tar", ("file", "lib/x", "x"), ("file", "abs/y", "y"), ("file", "up/z", "z"), ("file", "twice/w", "w"),
      ("hard", "data/low", "lib/low"), ("hard", "data/self", "data/low"), ("file", "lib/../data/dots", "dots"),
      ("file", "../../climb", "climb"), ("file", "/absolute", "absolute"), ("file", "./data//odd", "odd"))
layer("layer2.tar", ("file", "lib/.wh.x", ""), ("file", "usr/lib/low", "replaced"), ("dir", "abs", ""),
      ("file", "abs/new", "new"), ("sym", "data/low", "nowhere"))
"#;
    fs::write(scratch.path().join("layers.py"), script).unwrap();
    shell(scratch.path(), "python3 layers.py");
    let archives: Vec<PathBuf> = (0..3).map(|number| scratch.path().join(format!("layer{number}.tar"))).collect();
    compare(scratch.path(), &archives);
}

/// A real distribution: parts of this machine's own file system, split into layers that change each other.
#[test]
fn a_distribution_in_layers_is_what_umoci_unpacks() {
    let scratch = tempfile::tempdir().unwrap();
    let layers = archives(
        scratch.path(),
        &[
            "mkdir -p usr/share/doc usr/bin; cp -a /etc .; cp -a /usr/bin/[a-e]* usr/bin; cp -a /usr/share/doc/a* usr/share/doc",
            "mkdir -p usr/bin etc/apt usr/share/doc; cp -a /usr/bin/[d-g]* usr/bin; touch etc/apt/.wh..wh..opq usr/bin/.wh.awk
             for i in /usr/share/doc/a[a-m]*; do touch usr/share/doc/.wh.$(basename $i); done; cp -a /usr/share/doc/b* usr/share/doc",
            "mkdir -p usr; touch usr/.wh.share .wh.etc; mkdir -p usr/sbin; cp -a /usr/sbin/[a-c]* usr/sbin",
            "mkdir -p etc; cp -a /etc/passwd /etc/group etc; mkdir -p usr/share/doc; cp -a /usr/share/doc/c* usr/share/doc",
        ],
    );
    compare(scratch.path(), &layers);
}
