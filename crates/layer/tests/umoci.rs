//! Where an archive is legal, the merged tree is what `umoci unpack` leaves in a directory: types, contents, link
//! targets, hard links, modes, owners, times, device numbers, extended attributes. Needs root, for the owners and devices.
//!
//! The archives are the odd ones that `odd_archives.rs` checks as well. Where umoci does something else, the case in
//! `corpus` says why.

#![allow(missing_docs)]

mod cases;
mod corpus;
mod tar;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use cases::Case;
use sha2::{Digest, Sha256};

/// Writes a blob and gives its descriptor.
fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> (String, String) {
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(layout.join("blobs/sha256").join(&digest), bytes).unwrap();
    let media_type = format!("application/vnd.oci.image.{media_type}");
    let size = bytes.len();
    let descriptor = format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{digest}","size":{size}}}"#);
    (descriptor, format!("\"sha256:{digest}\""))
}

/// Makes an OCI layout of one image.
fn layout(directory: &Path, layers: &[Vec<u8>]) {
    fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
    let (layers, diff_ids): (Vec<_>, Vec<_>) =
        layers.iter().map(|layer| blob(directory, "layer.v1.tar", layer)).unzip();
    let diff_ids = diff_ids.join(",");
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}}}}"#
    );
    let (config, _) = blob(directory, "config.v1+json", config.as_bytes());
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","));
    let (manifest, _) = blob(directory, "manifest.v1+json", manifest.as_bytes());
    let named = manifest.replacen('{', r#"{"annotations":{"org.opencontainers.image.ref.name":"test"},"#, 1);
    fs::write(directory.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{named}]}}"#)).unwrap();
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// Unpacks the layers and describes the tree in the notation of `cases`.
fn unpacked(layers: &[Vec<u8>]) -> Result<String, String> {
    let scratch = tempfile::tempdir().unwrap();
    layout(&scratch.path().join("layout"), layers);
    let root = scratch.path().join("root");
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let image = format!("{}/layout:test", scratch.path().display());
    let output = Command::new("umoci").args(["raw", "unpack", "--image", &image]).arg(&root).output();
    let output = output.expect("`cargo xtask setup` installs umoci");
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(text.lines().last().unwrap_or_default().into());
    }
    let mut names = BTreeMap::new();
    walk(&root, &root, start, &mut names).unwrap();
    let mut text = String::new();
    let mut first_names = BTreeMap::new();
    for (path, (inode, line)) in names {
        let path = String::from_utf8_lossy(&path).escape_debug().to_string();
        let first = first_names.entry(inode).or_insert_with(|| path.clone());
        let same = if *first == path { String::new() } else { format!(" = {first}") };
        writeln!(text, "{path} {line}{same}").unwrap();
    }
    Ok(text)
}

type Names = BTreeMap<Vec<u8>, (u64, String)>;

fn walk(root: &Path, directory: &Path, start: i64, names: &mut Names) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let metadata = path.symlink_metadata()?;
        let kind = metadata.file_type();
        let device = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        let mut line = match () {
            () if kind.is_dir() => String::from("d"),
            () if kind.is_symlink() => {
                format!("l {:?}", String::from_utf8_lossy(fs::read_link(&path)?.as_os_str().as_bytes()))
            }
            () if kind.is_char_device() => format!("c {}:{}", device.0, device.1),
            () if kind.is_block_device() => format!("b {}:{}", device.0, device.1),
            () if kind.is_fifo() => String::from("p"),
            () if metadata.len() > 64 => format!("f {} bytes", metadata.len()),
            () => format!("f {:?}", String::from_utf8_lossy(&fs::read(&path)?)),
        };
        let mode = metadata.mode() & 0o7777;
        if mode
            != if kind.is_dir() {
                0o755
            } else if kind.is_symlink() {
                0o777
            } else {
                0o644
            }
        {
            write!(line, " {mode:04o}").unwrap();
        }
        if (metadata.uid(), metadata.gid()) != (0, 0) {
            write!(line, " {}:{}", metadata.uid(), metadata.gid()).unwrap();
        }
        // Directories that no layer describes are as new as they are; ours are from the beginning of time.
        if (metadata.mtime(), metadata.mtime_nsec()) != (0, 0) && !(kind.is_dir() && metadata.mtime() >= start) {
            write!(line, " @{}.{:09}", metadata.mtime(), metadata.mtime_nsec()).unwrap();
        }
        line += &xattrs(&path)?;
        if kind.is_dir() {
            walk(root, &path, start, names)?;
        }
        let name = [b"/", path.strip_prefix(root).unwrap().as_os_str().as_bytes()].concat();
        names.insert(name, (metadata.ino(), line));
    }
    Ok(())
}

fn xattrs(path: &Path) -> io::Result<String> {
    let mut list = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut list)?;
    let mut attributes = BTreeMap::new();
    for name in list[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65_536];
        let length = rustix::fs::lgetxattr(path, name, &mut value)?;
        attributes.insert(String::from_utf8_lossy(name).into_owned(), value[..length].escape_ascii().to_string());
    }
    Ok(if attributes.is_empty() { String::new() } else { format!(" {attributes:?}") })
}

#[test]
fn legal_archives_are_what_umoci_unpacks() {
    let mut wrong = String::new();
    let mut compared = 0;
    for Case { name, layers, expected, unlike_umoci } in corpus::all() {
        let Ok(expected) = expected else { continue };
        let found = unpacked(&layers);
        let same = found
            .as_ref()
            .is_ok_and(|found| found.lines().eq(expected.lines().map(str::trim).filter(|line| !line.is_empty())));
        compared += usize::from(same);
        if same == unlike_umoci.is_some() {
            write!(wrong, "\n{name}\n  ours  {expected:?}\n  umoci {found:?}\n").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(compared >= 60, "only {compared} archives compared");
}
