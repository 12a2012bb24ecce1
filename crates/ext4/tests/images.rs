//! Images that e2fsprogs makes, read and compared with what they were made from.

mod kit;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use ext4::{Device, FileSystem, Kind};
use kit::{SCRATCH, Tree, debugfs, make, read, run, tree};
use tempfile::tempdir;

/// A directory with something of everything that needs no root.
fn sample(at: &Path) {
    fs::create_dir_all(at.join("a/b/c")).unwrap();
    fs::write(at.join("empty"), "").unwrap();
    fs::write(at.join("small"), "small\n").unwrap();
    fs::write(at.join("a/large"), (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
    let sparse = fs::File::create(at.join("a/sparse")).unwrap();
    sparse.set_len(40_000_000).unwrap();
    for offset in [4096, 3_000_000, 30_000_001] {
        sparse.write_all_at(b"here", offset).unwrap();
    }
    symlink("short", at.join("link")).unwrap();
    symlink("x/".repeat(100), at.join("long link")).unwrap();
    symlink("y".repeat(59), at.join("59")).unwrap();
    symlink("z".repeat(60), at.join("60")).unwrap();
    fs::hard_link(at.join("small"), at.join("a/b/hard")).unwrap();
    fs::set_permissions(at.join("small"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::create_dir(at.join("many")).unwrap();
    for number in 0..1500 {
        let name = format!("{number:04} {}", "n".repeat(number % 200));
        fs::File::create(at.join("many").join(name)).unwrap().write_all(number.to_string().as_bytes()).unwrap();
    }
    let name = std::os::unix::ffi::OsStrExt::from_bytes(&[0xFF, b'\n', 0x01, b' '][..]);
    fs::write(at.join::<&std::ffi::OsStr>(name), "odd").unwrap();
}

/// What the host says of a directory.
fn check_against(found: &Tree, at: &Path) {
    let mut count = 0;
    let mut pending = vec![at.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let name = std::os::unix::ffi::OsStrExt::as_bytes(path.strip_prefix(at).unwrap().as_os_str());
            let node = found.get(&[b"/", name].concat()).unwrap_or_else(|| panic!("{path:?}"));
            assert_eq!(u32::from(node.mode), metadata.mode() & 0o7777, "{path:?}");
            assert_eq!(node.mtime, metadata.mtime(), "{path:?}");
            assert_eq!(node.owner, (metadata.uid(), metadata.gid()), "{path:?}");
            if metadata.is_dir() {
                assert_eq!(node.kind, "Directory");
                pending.push(path.clone());
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                assert_eq!(node.content, std::os::unix::ffi::OsStrExt::as_bytes(target.as_os_str()));
            } else {
                assert_eq!((&node.kind[..], node.size), ("File", metadata.len()));
                assert!(node.content == fs::read(&path).unwrap(), "{path:?}");
            }
            count += 1;
        }
    }
    let own = found.keys().filter(|path| **path != b"/lost+found").count();
    assert_eq!(own, count);
}

#[test]
fn all_kinds_of_file_systems() {
    let directory = tempdir().unwrap();
    let from = directory.path().join("from");
    fs::create_dir(&from).unwrap();
    sample(&from);
    let kinds: [&[&str]; 13] = [
        &SCRATCH,
        &["-t", "ext4"],
        &["-t", "ext4", "-b", "1024"],
        &["-t", "ext4", "-b", "2048", "-O", "64bit,metadata_csum,metadata_csum_seed"],
        &["-t", "ext4", "-b", "65536"],
        &["-t", "ext4", "-O", "^metadata_csum,uninit_bg"],
        &["-t", "ext4", "-O", "^metadata_csum,^uninit_bg,^64bit"],
        &["-t", "ext4", "-O", "meta_bg,^resize_inode", "-g", "1024"],
        &["-t", "ext4", "-O", "meta_bg,^resize_inode,^64bit,sparse_super2", "-b", "1024", "-g", "512"],
        &["-t", "ext4", "-O", "bigalloc", "-C", "16384"],
        &["-t", "ext4", "-I", "128"],
        &["-t", "ext3", "-b", "1024"],
        &["-t", "ext2", "-O", "^filetype,^dir_index,^sparse_super,^resize_inode"],
    ];
    for kind in kinds {
        let size = if kind.contains(&"65536") { 512 } else { 96 };
        let image = make(&directory.path().join("image"), size, kind, Some(&from));
        println!("{kind:?}");
        check_against(&read(&image), &from);
    }
}

#[test]
fn holes_are_ranges_that_are_not_there() {
    let directory = tempdir().unwrap();
    let from = directory.path().join("from");
    fs::create_dir(&from).unwrap();
    sample(&from);
    for kind in ["ext2", "ext4"] {
        let image = make(&directory.path().join("image"), 64, &["-t", kind, "-b", "4096"], Some(&from));
        let system = FileSystem::open(fs::File::open(&image).unwrap()).unwrap();
        let in_root = system.read_dir(&system.root().unwrap()).unwrap();
        let a = system.inode(in_root.iter().find(|entry| entry.name == b"a").unwrap().inode).unwrap();
        let sparse = system.read_dir(&a).unwrap().into_iter().find(|entry| entry.name == b"sparse").unwrap();
        let content = system.content(&system.inode(sparse.inode).unwrap()).unwrap();
        assert_eq!(content.size(), 40_000_000);
        let block = |byte: u64| byte / 4096 * 4096..byte / 4096 * 4096 + 4096;
        assert_eq!(content.data(), [block(4096), block(3_000_000), block(30_000_001)]);
        let mut bytes = [1; 12];
        content.read_at(&mut bytes, 30_000_000).unwrap();
        assert_eq!(&bytes, b"\0here\0\0\0\0\0\0\0");
        content.read_at(&mut bytes, 39_999_999).unwrap();
        content.read_at(&mut bytes, u64::MAX).unwrap();
        assert_eq!(bytes, [0; 12]);
    }
}

#[test]
fn what_debugfs_makes_is_there() {
    let directory = tempdir().unwrap();
    let image = make(&directory.path().join("image"), 16, &SCRATCH, None);
    let value = directory.path().join("value");
    fs::write(&value, "v".repeat(1500)).unwrap();
    let value = format!("ea_set -f {} /dir user.large", value.display());
    let said = debugfs(
        &image,
        &[
            "mkdir /dir",
            "cd /dir",
            "mknod null c 1 3",
            "mknod big c 3 5",
            "sif /dir/big block[0] 0",
            "sif /dir/big block[1] 0x11112c70",
            "mknod disk b 8 1",
            "mknod pipe p",
            "ea_set /dir user.one 1",
            "ea_set /dir trusted.overlay.opaque y",
            &value,
            "ea_set /dir/null security.label some:label",
            "symlink link target",
            "sif /dir/pipe uid 70000",
            "sif /dir/pipe gid 80000",
            "sif /dir/pipe mtime 20380119031408",
            "sif /dir/pipe mtime_extra 4",
        ],
    );
    let found = read(&image);
    let node = |path: &str| found.get(path.as_bytes()).unwrap_or_else(|| panic!("{path}: {said} {:?}", found.keys()));
    let device = |major, minor| Device { major, minor };
    assert_eq!(node("/dir/null").kind, format!("{:?}", Kind::CharDevice(device(1, 3))));
    assert_eq!(node("/dir/big").kind, format!("{:?}", Kind::CharDevice(device(300, 70_000))));
    assert_eq!(node("/dir/disk").kind, format!("{:?}", Kind::BlockDevice(device(8, 1))));
    assert_eq!((&node("/dir/pipe").kind[..], node("/dir/pipe").owner), ("Fifo", (70_000, 80_000)));
    assert_eq!(node("/dir/link").content, b"target");
    let xattrs = &node("/dir").xattrs;
    assert_eq!(xattrs.keys().collect::<Vec<_>>(), [&b"trusted.overlay.opaque"[..], b"user.large", b"user.one"]);
    assert_eq!(xattrs[&b"trusted.overlay.opaque"[..]], b"y");
    assert_eq!(xattrs[&b"user.large"[..]], "v".repeat(1500).into_bytes());
    assert_eq!(node("/dir/null").xattrs[&b"security.label"[..]], b"some:label");
}

/// Every path, mode, owner and size as `debugfs` lists them, too.
#[test]
fn debugfs_sees_the_same() {
    let directory = tempdir().unwrap();
    let from = directory.path().join("from");
    fs::create_dir(&from).unwrap();
    sample(&from);
    let image = make(&directory.path().join("image"), 64, &SCRATCH, Some(&from));
    let found = read(&image);
    for (path, node) in found.iter().filter(|(path, _)| !path.contains(&b' ') && path.is_ascii()) {
        let path = std::str::from_utf8(path).unwrap();
        if path.contains('\n') {
            continue;
        }
        let said = run("debugfs", &["-R", &format!("stat {path}"), image.to_str().unwrap()]);
        let mode = said.split_once("Mode:").unwrap().1.split_whitespace().next().unwrap();
        assert_eq!(u16::from_str_radix(mode, 8).unwrap(), node.mode, "{path}: {said}");
        let user = format!("User: {:>5}   Group: {:>5}", node.owner.0, node.owner.1);
        assert!(said.contains(&user), "{path}: {said}");
        if node.kind != "Directory" {
            assert!(said.contains(&format!("Size: {}\n", node.size)), "{path}: {said}");
        }
    }
}

#[test]
fn what_is_no_file_system_is_called_so() {
    for bytes in [vec![], vec![0; 1023], vec![0; 4096], vec![0xFF; 8192]] {
        assert!(matches!(FileSystem::open(bytes), Err(ext4::Ext4Error::NotExt4)));
    }
    let directory = tempdir().unwrap();
    for (feature, word) in [
        ("inline_data", "data in inodes"),
        ("encrypt", "encrypted"),
        ("ea_inode", "large extended"),
        ("casefold", "ignore case"),
    ] {
        let image = make(&directory.path().join("image"), 8, &["-t", "ext4", "-O", feature], None);
        let error = FileSystem::open(fs::read(image).unwrap()).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    let image = make(&directory.path().join("image"), 8, &["-O", "journal_dev"], None);
    assert!(FileSystem::open(fs::read(image).unwrap()).is_err());
    let tree = |bytes: Vec<u8>| FileSystem::open(bytes).and_then(|system| tree(&system));
    let image = fs::read(make(&directory.path().join("image"), 32, &SCRATCH, None)).unwrap();
    assert!(tree(image.clone()).is_ok());
    assert!(tree(image[..image.len() / 2].to_vec()).is_err());
}
