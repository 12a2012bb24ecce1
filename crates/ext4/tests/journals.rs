//! Disks that were not unmounted: their journals hold what the disk does not. What is read must be what there is after
//! e2fsck has replayed them.

mod kit;

use std::fs;
use std::path::{Path, PathBuf};

use ext4::FileSystem;
use kit::{SCRATCH, debugfs, make, run, tree};
use tempfile::tempdir;

/// Kinds of journals, as `debugfs journal_open` makes them.
const KINDS: [&str; 4] = ["", "-c -v 2", "-c -v 3", "-c"];

/// Options of file systems.
const SYSTEMS: [&[&str]; 3] =
    [&SCRATCH, &["-t", "ext4", "-b", "1024", "-O", "^64bit,metadata_csum"], &["-t", "ext3", "-b", "1024"]];

/// An image with a directory of files; and the same one, changed by debugfs.
struct Pair {
    before: PathBuf,
    after: PathBuf,
}

impl Pair {
    fn new(at: &Path, options: &[&str]) -> Self {
        let from = at.join("from");
        fs::create_dir_all(from.join("dir")).unwrap();
        for number in 0..40 {
            fs::write(from.join(format!("dir/{number}")), number.to_string().repeat(500)).unwrap();
        }
        let before = make(&at.join("before"), 32, options, Some(&from));
        let after = at.join("after");
        fs::copy(&before, &after).unwrap();
        let new = at.join("new");
        fs::write(&new, "new content ".repeat(1000)).unwrap();
        let write = format!("write {} new", new.display());
        debugfs(
            &after,
            &["mkdir /more", "cd /more", &write, "rm /dir/7", "ea_set /dir user.mark 1", "sif /dir/8 mode 0100600"],
        );
        Self { before, after }
    }

    /// Blocks that are different, and their new content.
    fn changed(&self, size: usize) -> Vec<(usize, Vec<u8>)> {
        let (before, after) = (fs::read(&self.before).unwrap(), fs::read(&self.after).unwrap());
        let pairs = before.chunks(size).zip(after.chunks(size)).enumerate();
        pairs
            .filter(|(_, (before, after))| before != after)
            .map(|(block, (_, after))| (block, after.to_vec()))
            .collect()
    }
}

fn block_size(image: &Path) -> usize {
    usize::try_from(FileSystem::open(fs::File::open(image).unwrap()).unwrap().block_size()).unwrap()
}

/// Writes blocks into the journal of an image, in transactions of at most `each` blocks.
fn journal(image: &Path, kind: &str, blocks: &[(usize, Vec<u8>)], each: usize) {
    let data = image.with_extension("blocks");
    let mut commands = vec![format!("jo {kind}")];
    for (index, blocks) in blocks.chunks(each).enumerate() {
        let file = format!("{}{index}", data.display());
        fs::write(&file, blocks.iter().flat_map(|(_, content)| content.clone()).collect::<Vec<_>>()).unwrap();
        let numbers: Vec<_> = blocks.iter().map(|(number, _)| number.to_string()).collect();
        commands.push(format!("jw -b {} {file}", numbers.join(",")));
    }
    commands.push("jc".to_owned());
    let said = debugfs(image, &commands.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(!said.contains("while"), "{said}");
}

/// What e2fsck makes of a copy, read without any journal.
fn replayed(image: &Path) -> kit::Tree {
    let copy = image.with_extension("copy");
    fs::copy(image, &copy).unwrap();
    let output = std::process::Command::new("e2fsck")
        .args(["-fy", copy.to_str().unwrap()])
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stdout));
    let system = FileSystem::open(fs::File::open(copy).unwrap()).unwrap();
    assert_eq!(system.replayed_blocks(), 0);
    tree(&system).unwrap()
}

#[test]
fn what_was_committed_is_there() {
    for options in SYSTEMS {
        for kind in KINDS {
            for each in [1000, 3] {
                let directory = tempdir().unwrap();
                let pair = Pair::new(directory.path(), options);
                let changed = pair.changed(block_size(&pair.before));
                journal(&pair.before, kind, &changed, each);
                println!("{options:?} {kind:?} {each} {}", changed.len());
                let system = FileSystem::open(fs::File::open(&pair.before).unwrap()).unwrap();
                assert!(system.replayed_blocks() > 0);
                let found = tree(&system).unwrap();
                assert!(found.contains_key(&b"/more/new"[..]) && !found.contains_key(&b"/dir/7"[..]));
                assert!(found == replayed(&pair.before));
            }
        }
    }
}

/// A block that is revoked later stays as it is on the disk.
#[test]
fn what_was_revoked_is_not() {
    for kind in KINDS {
        let directory = tempdir().unwrap();
        let pair = Pair::new(directory.path(), &SCRATCH);
        let changed = pair.changed(4096);
        journal(&pair.before, kind, &changed, 1000);
        let numbers: Vec<_> = changed.iter().map(|(number, _)| number.to_string()).collect();
        let revoke = format!("jw -r {}", numbers.join(","));
        debugfs(&pair.before, &[&format!("jo {kind}"), &revoke, "jc"]);
        let system = FileSystem::open(fs::File::open(&pair.before).unwrap()).unwrap();
        assert_eq!(system.replayed_blocks(), 0, "{kind:?}");
        assert!(tree(&system).unwrap() == replayed(&pair.before), "{kind:?}");
    }
}

/// Without its last commit a transaction was never there.
#[test]
fn what_was_not_committed_is_not() {
    for kind in KINDS {
        let directory = tempdir().unwrap();
        let pair = Pair::new(directory.path(), &SCRATCH);
        let whole = fs::read(&pair.before).unwrap();
        let changed = pair.changed(4096);
        journal(&pair.before, kind, &changed, 1000);
        let mut bytes = fs::read(&pair.before).unwrap();
        // The commit block: the magic, type 2.
        let commit = [0xC0, 0x3B, 0x39, 0x98, 0, 0, 0, 2];
        let at = bytes.chunks(4096).position(|block| block.starts_with(&commit)).unwrap();
        for (offset, byte) in [(0, 0), (11, 0xFF), (8, 1)] {
            let kept = std::mem::replace(&mut bytes[at * 4096 + offset], byte);
            let system = FileSystem::open(&bytes[..]).unwrap();
            assert_eq!(system.replayed_blocks(), 0, "{kind:?}");
            assert!(tree(&system).unwrap() == tree(&FileSystem::open(&whole[..]).unwrap()).unwrap());
            bytes[at * 4096 + offset] = kept;
        }
    }
}

/// A block of a transaction that is whole, and that is not what was written.
#[test]
fn what_is_damaged_is_told() {
    for kind in ["-c -v 2", "-c -v 3"] {
        let directory = tempdir().unwrap();
        let pair = Pair::new(directory.path(), &SCRATCH);
        let changed = pair.changed(4096);
        journal(&pair.before, kind, &changed, 1000);
        let mut bytes = fs::read(&pair.before).unwrap();
        let at = bytes.chunks(4096).position(|block| block.starts_with(&[0xC0, 0x3B, 0x39, 0x98, 0, 0, 0, 1])).unwrap();
        bytes[(at + 1) * 4096 + 100] ^= 1;
        let error = FileSystem::open(bytes).unwrap_err().to_string();
        assert!(error.contains("the checksum of a block in it is wrong"), "{error}");
    }
}

/// A block that begins as the journal's own do.
#[test]
fn what_looks_like_the_journal_is_escaped() {
    for kind in KINDS {
        let directory = tempdir().unwrap();
        let pair = Pair::new(directory.path(), &SCRATCH);
        let said = run("debugfs", &["-R", "blocks /dir/9", pair.before.to_str().unwrap()]);
        let block: usize = said.split_whitespace().next().unwrap().parse().unwrap();
        let mut content = vec![b'x'; 4096];
        content[..4].copy_from_slice(&[0xC0, 0x3B, 0x39, 0x98]);
        journal(&pair.before, kind, &[(block, content)], 1);
        let system = FileSystem::open(fs::File::open(&pair.before).unwrap()).unwrap();
        let found = tree(&system).unwrap();
        assert_eq!(found[&b"/dir/9"[..]].content[..5], [0xC0, 0x3B, 0x39, 0x98, b'x'], "{kind:?}");
        assert!(found == replayed(&pair.before));
    }
}

mod hostile {
    use proptest::prelude::*;

    use super::*;

    /// An image with a journal of two transactions and a revocation, and which of its blocks the journal has written.
    fn dirty() -> &'static (Vec<u8>, Vec<usize>) {
        static DIRTY: std::sync::OnceLock<(Vec<u8>, Vec<usize>)> = std::sync::OnceLock::new();
        DIRTY.get_or_init(|| {
            let directory = tempdir().unwrap();
            let pair = Pair::new(directory.path(), &["-t", "ext3", "-b", "1024"]);
            journal(&pair.before, "", &pair.changed(1024), 8);
            debugfs(&pair.before, &["jo", "jw -r 5000,5001", "jc"]);
            let bytes = fs::read(&pair.before).unwrap();
            let own = |block: &[u8]| block.starts_with(&[0xC0, 0x3B, 0x39, 0x98]);
            let blocks = bytes.chunks(1024).enumerate().filter(|(_, block)| own(block)).map(|(at, _)| at).collect();
            (bytes, blocks)
        })
    }

    fn word(bytes: &mut [u8], block: usize, at: usize, value: u32) {
        bytes[block * 1024 + at..block * 1024 + at + 4].copy_from_slice(&value.to_be_bytes());
    }

    #[test]
    fn superblocks_that_lie() {
        let (bytes, own) = dirty();
        let journal = own[0];
        assert_eq!(bytes[journal * 1024 + 7], 4);
        for (at, value, words) in [
            (0, 0, "its superblock is none"),
            (4, 9, "its superblock is none"),
            (0xC, 4096, "another size"),
            (0x10, u32::MAX, "not in its file"),
            (0x10, 0, "not in its file"),
            (0x14, 0, "not in its file"),
            (0x14, u32::MAX, "not in its file"),
            (0x1C, u32::MAX, "begins outside"),
            (0x28, 0x20, "fast commits"),
            (0x28, 0x8000_0000, "features 0x80000000"),
            (0x28, 0x18, "two kinds"),
            (0x28, 0x10, "other than CRC-32C"),
        ] {
            let mut bytes = bytes.clone();
            word(&mut bytes, journal, at, value);
            let error = FileSystem::open(bytes).unwrap_err().to_string();
            assert!(error.contains(words), "{error:?} instead of {words:?}");
        }
        let mut bytes = bytes.clone();
        word(&mut bytes, journal, 0x1C, 0);
        assert_eq!(FileSystem::open(bytes).unwrap().replayed_blocks(), 0);
    }

    /// A ring of descriptors that never ends in a commit.
    #[test]
    fn rings_end() {
        let (bytes, own) = dirty();
        let mut bytes = bytes.clone();
        let (journal, first) = (own[0], own[1]);
        let descriptor = bytes[first * 1024..first * 1024 + 1024].to_vec();
        let sequence = descriptor[8..12].to_vec();
        let blocks = u32::from_be_bytes(bytes[journal * 1024 + 0x10..][..4].try_into().unwrap()) as usize;
        for at in 1..blocks.min(3000) {
            // One tag, the last one, so that every other block is a descriptor.
            let block = (journal + at) * 1024;
            bytes[block..block + 4].copy_from_slice(&[0xC0, 0x3B, 0x39, 0x98]);
            bytes[block + 4..block + 8].copy_from_slice(&[0, 0, 0, 1]);
            bytes[block + 8..block + 12].copy_from_slice(&sequence);
            bytes[block + 12..block + 20].copy_from_slice(&[0, 0, 0, 9, 0, 0, 0, 0x8]);
        }
        let opened = FileSystem::open(bytes);
        assert!(opened.map_or(true, |system| system.replayed_blocks() == 0));
    }

    #[test]
    fn blocks_off_the_disk() {
        let (bytes, own) = dirty();
        let mut bytes = bytes.clone();
        word(&mut bytes, own[1], 12, u32::MAX - 1);
        let error = FileSystem::open(bytes).unwrap_err().to_string();
        assert!(error.contains("a block that is not on the disk"), "{error}");
    }

    #[test]
    fn lists_of_revoked_blocks_that_lie() {
        let (bytes, own) = dirty();
        let revoke = own.iter().find(|at| bytes[**at * 1024 + 7] == 5).unwrap();
        for length in [0, 15, 1025, u32::MAX] {
            let mut bytes = bytes.clone();
            word(&mut bytes, *revoke, 12, length);
            let error = FileSystem::open(bytes).unwrap_err().to_string();
            assert!(error.contains("no length"), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn anything_in_the_log(changes in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..64, any::<u8>()), 1..12)) {
            let (bytes, own) = dirty();
            let mut bytes = bytes.clone();
            for (block, offset, byte) in changes {
                bytes[own[block.index(own.len())] * 1024 + offset] = byte;
            }
            if let Ok(system) = FileSystem::open(bytes) {
                let _ = tree(&system);
            }
        }
    }
}
