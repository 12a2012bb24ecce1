//! Archives as tools make them, in every format that they know: all are taken, and listed as GNU tar and Python list
//! them. Refusing too much is a fault too.

#![allow(missing_docs)]

mod cases;
mod readers;
mod tar;

use std::fs;
use std::path::Path;
use std::process::Command;

/// Fills a directory with what every format can hold.
const TREE: &str = r#"
    mkdir -p usr/bin usr/lib/empty var/tmp "with space" etc
    echo box > usr/bin/busybox
    ln usr/bin/busybox usr/bin/sh
    ln -s busybox usr/bin/ls
    ln -s usr/bin bin
    chmod 4755 usr/bin/busybox
    chmod 1777 var/tmp
    : > etc/empty
    head -c 5000 /dev/urandom > usr/lib/data
    mkfifo var/pipe
    chown 1000:100 etc/empty
    touch -d 1970-01-02 etc/empty
    head -c 1024 /dev/urandom > usr/lib/kilobyte
"#;

/// Adds what only newer formats can hold.
const MORE: &str = r#"
    deep=$(printf 'directory-%02d/' $(seq 20))
    mkdir -p "long/$deep"
    echo far > "long/$deep/file"
    ln -s "long/$deep/file" far
    ln "long/$deep/file" near
    truncate -s 3M sparse
    echo middle | dd of=sparse bs=1 seek=1M conv=notrunc status=none
    echo end >> sparse
    chown 3000000:4000000 sparse
    setfattr -n user.note -v text sparse
    mknod var/null c 1 3
    mknod var/disk b 8 0
    touch -d '2040-01-01 00:00:00.5' near
"#;

const PYTHON: &str = "
import sys, tarfile
with tarfile.open(sys.argv[1], 'w', format=getattr(tarfile, sys.argv[2])) as archive:
    archive.add('.')
";

fn shell(directory: &Path, script: &str) {
    let output = Command::new("sh").arg("-euc").arg(script).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

fn all_are_taken(tree: &str, makers: &[&str]) {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().join("root");
    fs::create_dir(&root).unwrap();
    shell(&root, tree);
    let archives: Vec<_> = makers
        .iter()
        .map(|maker| {
            shell(&root, maker);
            fs::read(scratch.path().join("archive")).unwrap()
        })
        .collect();
    assert_eq!(readers::agree_or_refuse(&archives), makers.len(), "all are taken");
}

#[test]
fn of_a_plain_tree() {
    let python = format!("python3 -c \"{PYTHON}\" ../archive");
    all_are_taken(
        TREE,
        &[
            "tar --format=v7 --exclude=pipe -cf ../archive .",
            "tar --format=oldgnu -cf ../archive .",
            "tar --format=ustar -cf ../archive .",
            "tar --format=gnu -cf ../archive .",
            "tar --format=posix -cf ../archive .",
            "tar --format=posix --pax-option=globexthdr.name=g,comment=x -cf ../archive .",
            "tar --blocking-factor=1 -cf ../archive .",
            "busybox tar -cf ../archive .",
            "find . | cpio --quiet -o -H ustar > ../archive",
            "find . | cpio --quiet -o -H tar > ../archive",
            &format!("{python} USTAR_FORMAT"),
            &format!("{python} GNU_FORMAT"),
            &format!("{python} PAX_FORMAT"),
        ],
    );
}

#[test]
fn of_long_names_sparse_files_and_attributes() {
    let python = format!("python3 -c \"{PYTHON}\" ../archive");
    all_are_taken(
        &[TREE, MORE].concat(),
        &[
            "tar --format=gnu --sparse -cf ../archive .",
            "tar --format=oldgnu --sparse -cf ../archive .",
            "tar --format=posix --sparse --sparse-version=1.0 -cf ../archive .",
            "tar --format=posix --sparse --sparse-version=0.1 -cf ../archive .",
            "tar --format=posix --sparse --sparse-version=0.0 -cf ../archive .",
            "tar --format=posix --xattrs --numeric-owner -cf ../archive .",
            "busybox tar -cf ../archive .",
            &format!("{python} GNU_FORMAT"),
            &format!("{python} PAX_FORMAT"),
        ],
    );
}
