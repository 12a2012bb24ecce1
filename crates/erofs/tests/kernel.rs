//! One layer, seen through the kernel's EROFS, is what GNU tar extracts: type, mode, owner, time to the nanosecond,
//! extended attributes, content, links, device numbers.

#![allow(missing_docs)]

mod support;

use std::fs;
use std::path::Path;

use support::{Mounted, assert_same, convert, describe, fsck, run, shell};

/// A directory with one of everything.
const EVERYTHING: &str = r#"
    mkdir -p plain/deep/er many empty "odd names"
    printf hello > plain/file; : > plain/empty
    head -c 4096 /dev/urandom > plain/block; head -c 4097 /dev/urandom > plain/block-and-one
    head -c 3000000 /dev/urandom > plain/large; head -c 100000 /dev/zero > plain/zeros
    ln plain/file plain/deep/link; ln plain/file another-link
    ln -s file plain/symlink; ln -s / absolute; ln -s nowhere dangling; ln symlink-target -s plain/self
    ln -s "$(printf 'x%.0s' $(seq 300))" long-target
    ln -s "$(printf 'abcdefg/%.0s' $(seq 500))z" very-long-target
    mknod null c 1 3; mknod disk b 8 17; mknod large-numbers b 259 70000; mkfifo pipe
    chmod 4755 plain/file; chmod 2750 plain/deep; chmod 1777 empty; chmod 0 plain/empty
    chown 1000:1000 plain/block; chown 4000000000:3999999999 plain/large; chown -h 7:8 dangling
    for i in $(seq 700); do : > "many/$(printf 'entry-with-some-length-%05d' $i)"; done
    for name in '!first' '-' '.hidden' '..twodots' '~' "$(printf 'a\nb')" "$(printf '\377\376')"; do
        echo "$name" > "odd names/$name"; done
    echo long > "odd names/$(printf 'n%.0s' $(seq 255))"
    mkdir -p "$(printf 'directory-%.0s/' $(seq 30))"; echo deep > "$(printf 'directory-%.0s/' $(seq 30))file"
    setfattr -n user.small -v value plain/file; setfattr -n user.empty plain/block
    setfattr -n trusted.thing -v 0x00ff00 plain; setfattr -h -n security.thing -v x dangling
    setfattr -n user.large -v "$(printf 'v%.0s' $(seq 3000))" plain/large
    for i in $(seq 40); do setfattr -n user.attribute$i -v "$(printf 'w%.0s' $(seq 60))" plain/zeros; done
    setcap cap_net_raw+ep plain/block-and-one
    for i in $(seq 30); do
        head -c $((i * 40)) /dev/urandom > "many/shared-$i"
        setfattr -n user.shared -v "$(printf 's%.0s' $(seq 200))" "many/shared-$i"; setcap cap_chown+ep "many/shared-$i"
        setfattr -n user.own -v "$i" "many/shared-$i"; done
    touch -d '1960-02-03 04:05:06.789' plain/block; touch -d '2106-02-07 06:28:17.000000001' plain/large
    touch -h -d '2001-02-03 04:05:06.123456789' dangling; touch -d '2020-01-01 00:00:00.5' many plain .
"#;

/// Files with holes at their beginning, in the middle and at the end, and more extents than one header holds.
const SPARSE: &str = r#"
    truncate -s 5M sparse; printf middle | dd of=sparse bs=1 seek=2000000 conv=notrunc status=none
    truncate -s 1M hole-only; printf end | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
    for i in $(seq 60); do printf $i | dd of=many-extents bs=4096 seek=$((i * 3)) conv=notrunc status=none; done
"#;

fn archive_and_compare(script: &str, tar_options: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    for directory in ["source", "unpacked"] {
        fs::create_dir(path(directory)).unwrap();
    }
    shell(&path("source"), script);
    shell(scratch.path(), &format!("tar -C source {tar_options} -cf layer.tar ."));
    shell(scratch.path(), "tar -C unpacked --xattrs --xattrs-include='*'  --numeric-owner -xpf layer.tar");
    convert(&[path("layer.tar")], &path("image"));
    fsck(&path("image"));
    let mounted = Mounted::new(&path("image"), path("mnt"));
    assert_same(&describe(&mounted.root), &describe(&path("unpacked")));
}

#[test]
fn a_pax_archive_is_what_tar_unpacks() {
    archive_and_compare(EVERYTHING, "--format=posix --xattrs --xattrs-include='*' --numeric-owner");
}

/// One time and small owners for nearly all: inodes are compact. Packed contents of every length.
#[test]
fn a_reproducible_archive_is_what_tar_unpacks() {
    let script = "mkdir -p small/er; for i in $(seq 0 1030); do head -c $i /dev/urandom > small/$i; done
                  for i in $(seq 300); do echo $i > small/er/$i; done; ln small/7 linked; ln -s small/7 symlink
                  mknod null c 1 3; mkfifo pipe; chown 65535:65535 small/8; chown 65536:65535 small/9
                  setfattr -n user.name -v value small/10";
    archive_and_compare(script, "--format=posix --xattrs --xattrs-include='*' --numeric-owner --mtime=@1700000000");
}

#[test]
fn a_gnu_archive_is_what_tar_unpacks() {
    archive_and_compare(EVERYTHING, "--format=gnu --numeric-owner");
}

#[test]
fn sparse_archives_of_every_version_are_what_tar_unpacks() {
    archive_and_compare(SPARSE, "--format=gnu --sparse --numeric-owner");
    for version in ["0.0", "0.1", "1.0"] {
        archive_and_compare(SPARSE, &format!("--format=posix --sparse --sparse-version={version} --numeric-owner"));
    }
}

#[test]
fn a_python_archive_is_what_tar_unpacks() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    fs::create_dir(path("source")).unwrap();
    fs::create_dir(path("unpacked")).unwrap();
    shell(&path("source"), EVERYTHING);
    let script = "import tarfile; t = tarfile.open('layer.tar', 'w', format=tarfile.PAX_FORMAT, \
                  errors='surrogateescape'); t.add('source', '.'); t.close()";
    shell(scratch.path(), &format!("python3 -c \"{script}\""));
    shell(scratch.path(), "tar -C unpacked --numeric-owner -xpf layer.tar");
    convert(&[path("layer.tar")], &path("image"));
    fsck(&path("image"));
    let mounted = Mounted::new(&path("image"), path("mnt"));
    assert_same(&describe(&mounted.root), &describe(&path("unpacked")));
}

#[test]
fn a_system_directory_is_what_tar_unpacks() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    fs::create_dir(path("unpacked")).unwrap();
    shell(scratch.path(), "tar -C / --numeric-owner -cf layer.tar etc usr/sbin usr/share/doc/perl");
    shell(scratch.path(), "tar -C unpacked --numeric-owner -xpf layer.tar");
    convert(&[path("layer.tar")], &path("image"));
    fsck(&path("image"));
    let mounted = Mounted::new(&path("image"), path("mnt"));
    let mut ours = describe(&mounted.root);
    let mut theirs = describe(&path("unpacked"));
    // The archive has no entries for these; whoever unpacks makes them up.
    for implied in ["", "usr", "usr/share", "usr/share/doc"] {
        ours.remove(Path::new(implied));
        theirs.remove(Path::new(implied));
    }
    assert_same(&ours, &theirs);
}

/// A file of more than 4 GiB, nearly all hole.
#[test]
fn a_file_beyond_32_bits_keeps_its_size_and_its_end() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    fs::create_dir(path("source")).unwrap();
    shell(
        &path("source"),
        "truncate -s 5G large; printf end | dd of=large bs=1 seek=5368709100 conv=notrunc status=none",
    );
    shell(scratch.path(), "tar -C source --sparse --format=posix -cf layer.tar .");
    convert(&[path("layer.tar")], &path("image"));
    let mounted = Mounted::new(&path("image"), path("mnt"));
    let large = mounted.root.join("large");
    assert_eq!(fs::metadata(&large).unwrap().len(), 5 << 30);
    let end = run("tail", &["-c".as_ref(), "20".as_ref(), large.as_os_str()]);
    assert_eq!(end.trim_end_matches('\0'), "end");
}
