//! Disks that lie. Every case changes one thing of an image that is right, gives what it changed the checksum that it
//! must have, so that the lie itself is met, and says what must come of it.

mod kit;

use std::fs;
use std::sync::OnceLock;

use ext4::{Ext4Error, FileSystem};
use kit::{debugfs, make, tree};
use tempfile::tempdir;

/// Blocks of 1 KiB, checksums everywhere; few blocks, so that every lie is soon found.
const OPTIONS: [&str; 8] = [
    "-t",
    "ext4",
    "-b1024",
    "-I256",
    "-N64",
    "-O",
    "^has_journal,^resize_inode,metadata_csum,64bit,^orphan_file",
    "-q",
];

const BLOCK: usize = 1024;

/// The image, and where things are in it.
struct Base {
    bytes: Vec<u8>,
}

/// What the image holds: `/dir/{a,b}`, `/file` of three pieces, `/old` with a classic map, `/slow` and `/fast` links,
/// `/attributes`.
fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| {
        let directory = tempdir().unwrap();
        let from = directory.path().join("from");
        fs::create_dir_all(from.join("dir")).unwrap();
        fs::write(from.join("dir/a"), "a").unwrap();
        fs::write(from.join("dir/b"), "b").unwrap();
        fs::write(from.join("file"), vec![7; 100 * BLOCK]).unwrap();
        fs::write(from.join("attributes"), "x").unwrap();
        std::os::unix::fs::symlink("target", from.join("fast")).unwrap();
        std::os::unix::fs::symlink("t/".repeat(100), from.join("slow")).unwrap();
        let image = make(&directory.path().join("image"), 4, &OPTIONS, Some(&from));
        let value = directory.path().join("value");
        fs::write(&value, "v".repeat(600)).unwrap();
        let large = format!("ea_set -f {} /attributes user.large", value.display());
        debugfs(&image, &["ea_set /attributes user.small 1", &large]);
        Base { bytes: fs::read(image).unwrap() }
    })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn crc32c(state: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(state, |state, byte| {
        (0..8).fold(
            state ^ u32::from(*byte),
            |state, _| if state & 1 == 1 { state >> 1 ^ 0x82F6_3B78 } else { state >> 1 },
        )
    })
}

/// An image that is being bent.
struct Disk {
    bytes: Vec<u8>,
}

impl Disk {
    fn new() -> Self {
        Self { bytes: base().bytes.clone() }
    }

    fn put(&mut self, at: usize, value: &[u8]) -> &mut Self {
        self.bytes[at..at + value.len()].copy_from_slice(value);
        self
    }

    fn put16(&mut self, at: usize, value: u16) -> &mut Self {
        self.put(at, &value.to_le_bytes())
    }

    fn put32(&mut self, at: usize, value: u32) -> &mut Self {
        self.put(at, &value.to_le_bytes())
    }

    /// Changes the superblock, and makes its checksum right.
    fn superblock(mut self, with: impl FnOnce(&mut Self, usize)) -> Self {
        with(&mut self, 1024);
        let sum = crc32c(!0, &self.bytes[1024..1024 + 0x3FC]);
        self.put32(1024 + 0x3FC, sum);
        self
    }

    fn seed(&self) -> u32 {
        crc32c(!0, &self.bytes[1024 + 0x68..1024 + 0x78])
    }

    fn descriptor(mut self, with: impl FnOnce(&mut Self, usize)) -> Self {
        let at = 2 * BLOCK;
        with(&mut self, at);
        let mut covered = self.bytes[at..at + 64].to_vec();
        covered[0x1E..0x20].fill(0);
        let sum = crc32c(crc32c(self.seed(), &0_u32.to_le_bytes()), &covered);
        self.put16(at + 0x1E, u16::from_le_bytes([sum.to_le_bytes()[0], sum.to_le_bytes()[1]]));
        self
    }

    fn inode_at(&self, number: u32) -> usize {
        u32_at(&self.bytes, 2 * BLOCK + 8) as usize * BLOCK + (number as usize - 1) * 256
    }

    /// The state that checksums of what belongs to an inode begin with.
    fn inode_seed(&self, number: u32) -> u32 {
        let generation = &self.bytes[self.inode_at(number) + 0x64..][..4];
        crc32c(crc32c(self.seed(), &number.to_le_bytes()), generation)
    }

    fn inode(mut self, number: u32, with: impl FnOnce(&mut Self, usize)) -> Self {
        let at = self.inode_at(number);
        with(&mut self, at);
        let mut covered = self.bytes[at..at + 256].to_vec();
        covered[0x7C..0x7E].fill(0);
        covered[0x82..0x84].fill(0);
        let sum = crc32c(self.inode_seed(number), &covered).to_le_bytes();
        self.put(at + 0x7C, &sum[..2]).put(at + 0x82, &sum[2..]);
        self
    }

    /// The first block of an inode whose map is an extent in it.
    fn first_block(&self, number: u32) -> usize {
        u32_at(&self.bytes, self.inode_at(number) + 0x28 + 12 + 8) as usize
    }

    fn directory(mut self, number: u32, with: impl FnOnce(&mut Self, usize)) -> Self {
        let at = self.first_block(number) * BLOCK;
        with(&mut self, at);
        let sum = crc32c(self.inode_seed(number), &self.bytes[at..at + BLOCK - 12]);
        self.put32(at + BLOCK - 4, sum);
        self
    }

    /// Where the entry of a name begins.
    fn entry(&self, directory: u32, name: &str) -> usize {
        let start = self.first_block(directory) * BLOCK;
        let mut at = start;
        while at < start + BLOCK - 12 {
            if &self.bytes[at + 8..at + 8 + usize::from(self.bytes[at + 6])] == name.as_bytes() {
                return at;
            }
            at += usize::from(u16_at(&self.bytes, at + 4));
        }
        panic!("no entry {name}");
    }

    fn number(&self, directory: u32, name: &str) -> u32 {
        u32_at(&self.bytes, self.entry(directory, name))
    }

    fn attributes(mut self, with: impl FnOnce(&mut Self, usize)) -> Self {
        let inode = self.inode_at(self.number(2, "attributes"));
        let block = u32_at(&self.bytes, inode + 0x68) as usize;
        let at = block * BLOCK;
        with(&mut self, at);
        let mut covered = self.bytes[at..at + BLOCK].to_vec();
        covered[0x10..0x14].fill(0);
        let sum = crc32c(crc32c(self.seed(), &(block as u64).to_le_bytes()), &covered);
        self.put32(at + 0x10, sum);
        self
    }

    /// What reading all of it says.
    fn read(&self) -> Result<kit::Tree, Ext4Error> {
        FileSystem::open(&self.bytes[..]).and_then(|system| tree(&system))
    }

    #[track_caller]
    fn says(&self, words: &str) {
        let error = self.read().expect_err(words);
        let text = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        assert!(text.contains(words), "{text:?} instead of {words:?}");
    }
}

#[test]
fn the_image_itself_is_right() {
    let tree = Disk::new().read().unwrap();
    assert_eq!(tree.len(), 8);
    assert_eq!(tree[&b"/attributes"[..]].xattrs.len(), 2);
    // What the other cases use to make checksums right changes nothing.
    let same = Disk::new().superblock(|_, _| ()).descriptor(|_, _| ()).inode(2, |_, _| ());
    let same = same.directory(2, |_, _| ()).attributes(|_, _| ());
    assert!(same.bytes == base().bytes);
}

#[test]
fn superblocks() {
    let bent = |with: &dyn Fn(&mut Disk, usize)| Disk::new().superblock(with);
    bent(&|disk, at| {
        disk.put16(at + 0x38, 0xEF54);
    })
    .says("no ext4");
    bent(&|disk, at| {
        disk.put32(at + 0x18, 7);
    })
    .says("block size is too large");
    bent(&|disk, at| {
        disk.put32(at + 0x18, u32::MAX);
    })
    .says("block size is too large");
    bent(&|disk, at| {
        disk.put32(at + 0x4, u32::MAX);
    })
    .says("do not fit on the disk");
    bent(&|disk, at| {
        disk.put32(at + 0x150, u32::MAX);
    })
    .says("do not fit on the disk");
    bent(&|disk, at| {
        disk.put32(at + 0x4, 0);
    })
    .says("it has no blocks");
    bent(&|disk, at| {
        disk.put32(at + 0x14, 2);
    })
    .says("first block");
    bent(&|disk, at| {
        disk.put32(at + 0x14, u32::MAX);
    })
    .says("first block");
    bent(&|disk, at| {
        disk.put32(at + 0x20, 0);
    })
    .says("groups have no blocks");
    bent(&|disk, at| {
        disk.put32(at + 0x20, 1);
    })
    .says("number of inodes");
    bent(&|disk, at| {
        disk.put32(at + 0x28, 0);
    })
    .says("no or too many inodes");
    bent(&|disk, at| {
        disk.put32(at + 0x28, u32::MAX);
    })
    .says("no or too many inodes");
    bent(&|disk, at| {
        disk.put32(at, u32::MAX);
    })
    .says("number of inodes");
    bent(&|disk, at| {
        disk.put16(at + 0x58, 0);
    })
    .says("inode size");
    bent(&|disk, at| {
        disk.put16(at + 0x58, 200);
    })
    .says("inode size");
    bent(&|disk, at| {
        disk.put16(at + 0x58, 32_768);
    })
    .says("inode size");
    bent(&|disk, at| {
        disk.put32(at + 0x54, 2);
    })
    .says("first inode");
    bent(&|disk, at| {
        disk.put32(at + 0x54, u32::MAX);
    })
    .says("first inode");
    bent(&|disk, at| {
        disk.put16(at + 0xFE, 0);
    })
    .says("descriptors");
    bent(&|disk, at| {
        disk.put16(at + 0xFE, 100);
    })
    .says("descriptors");
    bent(&|disk, at| {
        disk.put(at + 0x175, &[9]);
    })
    .says("checksums other than");
    bent(&|disk, at| {
        disk.put32(at + 0x64, 0x410);
    })
    .says("two kinds of checksums");
    bent(&|disk, at| {
        disk.put32(at + 0x60, 0x8000_0000);
    })
    .says("features 0x80000000");
    bent(&|disk, at| {
        disk.put32(at + 0x5C, 0x4).put32(at + 0x60, 0x2C6).put32(at + 0xE0, 0);
    })
    .says("no inode");
    bent(&|disk, at| {
        disk.put32(at + 0x5C, 0x4).put32(at + 0x60, 0x2C6).put32(at + 0xE0, 2);
    })
    .says("journal");
    let mut disk = Disk::new();
    disk.put32(1024 + 0x54, 12).says("checksum is wrong");
}

#[test]
fn groups_and_inodes() {
    let group = |with: &dyn Fn(&mut Disk, usize)| Disk::new().descriptor(with);
    group(&|disk, at| {
        disk.put32(at + 8, 0);
    })
    .says("inodes are not on the disk");
    group(&|disk, at| {
        disk.put32(at + 8, 4090);
    })
    .says("inodes are not on the disk");
    group(&|disk, at| {
        disk.put32(at + 0x28, u32::MAX);
    })
    .says("inodes are not on the disk");
    group(&|disk, at| {
        disk.put16(at + 0x12, 1);
    })
    .says("none of its group is in use");
    let mut disk = Disk::new();
    disk.put32(2 * BLOCK + 8, 1).says("block group 0 is damaged: its checksum");

    let file = Disk::new().number(2, "file");
    let inode = |with: &dyn Fn(&mut Disk, usize)| Disk::new().inode(file, with);
    inode(&|disk, at| {
        disk.put16(at + 0x80, 4096);
    })
    .says("its size is too large");
    inode(&|disk, at| {
        disk.put16(at + 0x80, 3);
    })
    .says("its size is too large");
    inode(&|disk, at| {
        disk.put16(at + 0x1A, 0);
    })
    .says("it is deleted");
    inode(&|disk, at| {
        disk.put16(at, 0o644);
    })
    .says("no type");
    inode(&|disk, at| {
        disk.put16(at, 0o170_644);
    })
    .says("no type");
    inode(&|disk, at| {
        disk.put32(at + 0x20, 0x1008_0000);
    })
    .says("features");
    inode(&|disk, at| {
        disk.put32(at + 0x6C, u32::MAX);
    })
    .says("larger than a file can be");
    Disk::new()
        .inode(2, |disk, at| {
            disk.put16(at, 0o100_644);
        })
        .says("no directory");
    let mut disk = Disk::new();
    let at = disk.inode_at(file);
    disk.put16(at + 0x2, 1).says(&format!("inode {file} is damaged: its checksum"));
}

#[test]
fn extents() {
    let file = Disk::new().number(2, "file");
    let inode = |with: &dyn Fn(&mut Disk, usize)| Disk::new().inode(file, with);
    let map = 0x28;
    inode(&|disk, at| {
        disk.put16(at + map, 0xF30B);
    })
    .says("a node is none");
    inode(&|disk, at| {
        disk.put16(at + map + 2, 5);
    })
    .says("more entries than it can");
    inode(&|disk, at| {
        disk.put16(at + map + 4, 400);
    })
    .says("more entries than it can");
    inode(&|disk, at| {
        disk.put16(at + map + 6, 6);
    })
    .says("another depth");
    inode(&|disk, at| {
        disk.put16(at + map + 16, 0);
    })
    .says("empty or too long");
    inode(&|disk, at| {
        disk.put32(at + map + 12, u32::MAX);
    })
    .says("empty or too long");
    inode(&|disk, at| {
        disk.put32(at + map + 20, 4090);
    })
    .says("not on the disk");
    inode(&|disk, at| {
        disk.put16(at + map + 18, 1);
    })
    .says("not on the disk");
    inode(&|disk, at| {
        disk.put32(at + map + 20, 0);
    })
    .says("not on the disk");
    // The same extent twice: not in order.
    inode(&|disk, at| {
        let first = disk.bytes[at + map + 12..at + map + 24].to_vec();
        disk.put16(at + map + 2, 2).put(at + map + 24, &first);
    })
    .says("not in order");
    // Two extents over the same blocks, of all the disk and more.
    inode(&|disk, at| {
        disk.put16(at + map + 2, 2).put32(at + 4, 4000 * 1024);
        disk.put32(at + map + 12, 0).put16(at + map + 16, 3000).put32(at + map + 20, 1000);
        disk.put32(at + map + 24, 3000).put16(at + map + 28, 3000).put16(at + map + 30, 0).put32(at + map + 32, 1000);
        disk.put32(at + 4, 6000 * 1024);
    })
    .says("more blocks than there are");
    // A node that is its own child, and a child that is none.
    let bend_index = |disk: &mut Disk, at: usize, block: u32| {
        disk.put16(at + map + 2, 1).put16(at + map + 6, 1);
        disk.put32(at + map + 12, 0).put32(at + map + 16, block).put16(at + map + 20, 0);
    };
    inode(&|disk, at| bend_index(disk, at, 0)).says("not on the disk");
    inode(&|disk, at| bend_index(disk, at, u32::MAX)).says("not on the disk");
    let data = u32::try_from(Disk::new().first_block(file)).unwrap();
    inode(&|disk, at| bend_index(disk, at, data)).says("a node is none");
    let node = |depth: u16, entries: u16, child: u32| {
        let mut disk = Disk::new();
        let at = data as usize * BLOCK;
        let header = [0xF30A, entries, 84, depth, 0, 0].map(u16::to_le_bytes).concat();
        disk.put(at, &header).put32(at + 12, 0).put32(at + 16, child).put32(at + 20, 0);
        let sum = crc32c(disk.inode_seed(file), &disk.bytes[at..at + 1020]);
        disk.put32(at + 1020, sum);
        disk.inode(file, |disk, at| {
            bend_index(disk, at, data);
            disk.put16(at + map + 6, 2);
        })
    };
    node(1, 1, data).says("used twice");
    node(2, 1, data).says("another depth");
    node(1, 0, data).says("what leads to it says");
    let mut wrong = node(1, 1, data);
    wrong.put32(data as usize * BLOCK + 1020, 0).says("checksum of a node");
}

#[test]
fn classic_maps() {
    let file = Disk::new().number(2, "file");
    let data = u32::try_from(Disk::new().first_block(file)).unwrap();
    let inode = |size: u32, pointers: &[(usize, u32)]| {
        Disk::new().inode(file, |disk, at| {
            disk.put32(at + 0x20, 0).put32(at + 4, size).put(at + 0x28, &[0; 60]);
            for (index, pointer) in pointers {
                disk.put32(at + 0x28 + 4 * index, *pointer);
            }
        })
    };
    let sound = inode(14 * 1024, &[(0, data), (12, data + 1)]);
    // Its pointers are the file's content, 0x07070707.
    sound.says("not on the disk");
    inode(1024, &[(0, u32::MAX)]).says("not on the disk");
    let zeros = |mut disk: Disk| {
        disk.bytes[(data as usize) * BLOCK..(data as usize + 8) * BLOCK].fill(0);
        disk
    };
    let hole = zeros(inode(1 << 30, &[(0, data), (14, data + 1)])).read().unwrap();
    assert_eq!(hole[&b"/file"[..]].size, 1 << 30);
    // A block of pointers that is among its own.
    let mut looped = zeros(inode(1 << 30, &[(14, data + 1)]));
    looped.put32((data as usize + 1) * BLOCK, data + 1).says("used twice");
    let mut looped = zeros(inode(1 << 30, &[(13, data + 1), (14, data + 1)]));
    looped.put32((data as usize + 1) * BLOCK, 0).says("used twice");
    inode(u32::MAX, &[]).read().unwrap();
    Disk::new()
        .inode(file, |disk, at| {
            disk.put32(at + 0x20, 0).put(at + 0x28, &[0; 60]).put32(at + 0x6C, 100);
        })
        .says("larger than its map can be");
}

#[test]
fn directories() {
    let dir = Disk::new().number(2, "dir");
    let a = Disk::new().entry(dir, "a");
    let bent = |with: &dyn Fn(&mut Disk)| Disk::new().directory(dir, |disk, _| with(disk));
    for length in [0, 4, 8, 13, 2000, 0xFFFF] {
        bent(&|disk| {
            disk.put16(a + 4, length);
        })
        .says("no length that it can have");
    }
    bent(&|disk| {
        disk.put(a + 6, &[255]);
    })
    .says("no length that it can have");
    for name in ["/", "\0"] {
        bent(&|disk| {
            disk.put(a + 8, name.as_bytes());
        })
        .says("a name that is none");
    }
    bent(&|disk| {
        disk.put(a + 6, &[0]);
    })
    .says("a name that is none");
    bent(&|disk| {
        disk.put(a + 8, b"b");
    })
    .says("a name twice");
    bent(&|disk| {
        disk.put(a + 8, b".");
    })
    .says("its `.` is another");
    for inode in [1, 2, 7, 10, 65, u32::MAX] {
        bent(&|disk| {
            disk.put32(a, inode);
        })
        .says("no file can have");
    }
    bent(&|disk| {
        disk.put32(a, 60);
    })
    .says("damaged");
    bent(&|disk| {
        disk.put32(a, dir);
    })
    .says("two names");
    let mut disk = Disk::new();
    disk.put(a + 8, b"c").says("the checksum of a block is wrong");
    let size = |size: u32| {
        Disk::new().inode(dir, |disk, at| {
            disk.put32(at + 4, size);
        })
    };
    for bad in [0, 1000, 1 << 31] {
        size(bad).says("its size is none");
    }
    size(2048).says("it has a hole");
    // The same block twice.
    let twice = Disk::new().inode(dir, |disk, at| {
        let block = u32_at(&disk.bytes, at + 0x28 + 20);
        disk.put32(at + 4, 2048).put16(at + 0x28 + 2, 2);
        disk.put32(at + 0x28 + 24, 1).put16(at + 0x28 + 28, 1).put16(at + 0x28 + 30, 0).put32(at + 0x28 + 32, block);
    });
    twice.says("a name twice");
}

#[test]
fn links_and_attributes() {
    let (slow, fast) = (Disk::new().number(2, "slow"), Disk::new().number(2, "fast"));
    for size in [0, 5000, u32::MAX] {
        Disk::new()
            .inode(slow, |disk, at| {
                disk.put32(at + 4, size);
            })
            .says("its length is none");
    }
    Disk::new()
        .inode(slow, |disk, at| {
            disk.put32(at + 4, 300);
        })
        .says("NUL byte");
    Disk::new()
        .inode(fast, |disk, at| {
            disk.put32(at + 4, 7);
        })
        .says("NUL byte");
    let bent = |with: &dyn Fn(&mut Disk, usize)| Disk::new().attributes(with);
    bent(&|disk, at| {
        disk.put32(at, 0);
    })
    .says("their block is none");
    bent(&|disk, at| {
        disk.put32(at + 8, 2);
    })
    .says("their block is none");
    bent(&|disk, at| {
        disk.put(at + 32, &[255]);
    })
    .says("a name is none");
    bent(&|disk, at| {
        disk.put(at + 33, &[5]);
    })
    .says("a name is none");
    bent(&|disk, at| {
        disk.put(at + 33, &[2]);
    })
    .says("a name is none");
    bent(&|disk, at| {
        disk.put16(at + 34, 1000);
    })
    .says("a value is not where they are");
    bent(&|disk, at| {
        disk.put32(at + 36, 12);
    })
    .says("inode of its own");
    bent(&|disk, at| {
        disk.put32(at + 40, u32::MAX);
    })
    .says("a value is not where they are");
    bent(&|disk, at| {
        // The same entry again, behind itself.
        let entry = disk.bytes[at + 32..at + 56].to_vec();
        disk.put(at + 56, &entry);
    })
    .says("a name is there twice");
    bent(&|disk, at| {
        // Entries to the end of the block, and on.
        for index in 0..31 {
            let name = format!("{index:016}");
            disk.put(at + 32 + index * 32, &[16, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            disk.put(at + 48 + index * 32, name.as_bytes());
        }
    })
    .says("they have no end");
    let attributes = Disk::new().number(2, "attributes");
    for block in [4_u32, 4096, u32::MAX] {
        let disk = Disk::new().inode(attributes, |disk, at| {
            disk.put32(at + 0x68, block);
        });
        assert!(disk.read().is_err(), "{block}");
    }
    let mut disk = Disk::new();
    let block = u32_at(&disk.bytes, disk.inode_at(attributes) + 0x68) as usize;
    disk.put(block * BLOCK + BLOCK - 1, b"!").says("their checksum is wrong");
}

/// Files that all are the same blocks: none is wrong alone, but there is no end to what they would be together.
#[test]
fn many_files_over_the_same_blocks() {
    let mut disk = Disk::new();
    let file = disk.number(2, "file");
    let map = disk.bytes[disk.inode_at(file) + 0x28..][..60].to_vec();
    for number in 12..64 {
        if disk.bytes[disk.inode_at(number) + 1] & 0xF0 != 0x80 {
            continue;
        }
        disk = disk.inode(number, |disk, at| {
            disk.put(at + 0x28, &map).put32(at + 4, 100 * 1024);
        });
    }
    let system = FileSystem::open(&disk.bytes[..]).unwrap();
    let inode = system.inode(file).unwrap();
    let opened = (0..10_000).find(|_| system.content(&inode).is_err());
    assert!(opened.is_some_and(|count| count > 100), "{opened:?}");
    assert!(matches!(system.content(&inode), Err(Ext4Error::Amplified)));
}

#[test]
fn checksums_are_no_condition() {
    let directory = tempdir().unwrap();
    let options = ["-t", "ext4", "-O", "^metadata_csum,^has_journal"];
    let image = make(&directory.path().join("image"), 4, &options, None);
    let bytes = fs::read(image).unwrap();
    assert!(FileSystem::open(&bytes[..]).and_then(|system| tree(&system)).is_ok());
}

mod mutations {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// Whatever bytes change: an answer or an error, soon, and without more memory than the disk explains.
        #[test]
        fn anywhere(changes in prop::collection::vec((0_usize..64 << 10, any::<u8>()), 1..20), sums in any::<bool>()) {
            let mut disk = Disk::new();
            for (at, byte) in changes {
                disk.bytes[at] = byte;
            }
            if !sums {
                // Without checksums, what was changed is met.
                disk.bytes[1024 + 0x65] &= !4;
            }
            let _ = disk.read();
        }

        /// One inode is anything.
        #[test]
        fn an_inode(number in 2_u32..20, changes in prop::collection::vec((0_usize..160, any::<u8>()), 1..8)) {
            let disk = Disk::new().inode(number, |disk, at| {
                for (offset, byte) in &changes {
                    disk.bytes[at + offset] = *byte;
                }
            });
            let _ = disk.read();
        }

        /// A directory's block is anything.
        #[test]
        fn a_directory(changes in prop::collection::vec((0_usize..1000, any::<u8>()), 1..8)) {
            let dir = Disk::new().number(2, "dir");
            let disk = Disk::new().directory(dir, |disk, at| {
                for (offset, byte) in &changes {
                    disk.bytes[at + offset] = *byte;
                }
            });
            let _ = disk.read();
        }
    }
}
