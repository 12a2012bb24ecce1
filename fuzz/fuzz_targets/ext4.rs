//! Arbitrary bytes as a disk, all of it read: an error or a tree, without end only in holes.
//!
//! Checksums of metadata are left out: a fuzzer need not find them. The seeds are images of 64 KiB with extents, with a
//! classic block map, and with a journal that is to be replayed.

#![no_main]

use std::collections::HashSet;

use ext4::{FileSystem, Inode, Kind, ReadAt};
use libfuzzer_sys::fuzz_target;

/// Most bytes of one content that are read.
const MOST: usize = 64 << 10;

/// No checksums, whatever the superblock says.
fn without_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut disk = bytes.to_vec();
    if let Some(features) = disk.get_mut(1024 + 0x64..1024 + 0x66) {
        features[0] &= !0x10;
        features[1] &= !0x04;
    }
    disk
}

fn look<S: ReadAt>(system: &FileSystem<S>, inode: &Inode) {
    let _ = system.xattrs(inode);
    match inode.kind {
        Kind::File => {
            let Ok(content) = system.content(inode) else { return };
            let data = content.data();
            assert!(data.windows(2).all(|pair| pair[0].end < pair[1].start), "ranges ascend and do not touch");
            assert!(data.last().is_none_or(|last| last.end <= content.size()), "ranges end where the file does");
            let mut buffer = vec![0; MOST];
            let _ = content.read_at(&mut buffer, data.first().map_or(0, |range| range.start));
        }
        Kind::Symlink => drop(system.read_link(inode)),
        _ => {}
    }
}

fuzz_target!(|bytes: &[u8]| {
    let disk = without_checksums(bytes);
    let Ok(system) = FileSystem::open(&disk[..]) else { return };
    let Ok(root) = system.root() else { return };
    let mut seen = HashSet::new();
    let mut pending = vec![root];
    while let Some(directory) = pending.pop() {
        if !seen.insert(directory.number) {
            continue;
        }
        let Ok(entries) = system.read_dir(&directory) else { continue };
        for entry in entries {
            assert!(!entry.name.is_empty() && !entry.name.contains(&b'/') && !entry.name.contains(&0));
            assert!(entry.name != b"." && entry.name != b"..");
            let Ok(inode) = system.inode(entry.inode) else { continue };
            look(&system, &inode);
            if inode.is_dir() {
                pending.push(inode);
            }
        }
    }
});
