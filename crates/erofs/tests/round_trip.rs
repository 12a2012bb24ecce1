//! Random trees through the writer and back through the reader; bent images never make the reader panic.

#![allow(missing_docs)]

use std::collections::BTreeMap;

use erofs::reader::{Image, ReadError};
use erofs::{BLOCK, ErofsError, MetadataImage, PackedFiles, ReadAt, Source, write_metadata};
use layer::{
    Builder, Change, Changeset, Content, Device, Entry, Inode, InodeId, Kind, Limits, MergedTree, PACKED_MAX, Place,
    Timestamp, XattrBuf, merge,
};
use proptest::prelude::*;

/// An inode that owns what belongs to it.
#[derive(Debug, Clone)]
struct Made {
    path: Vec<String>,
    kind: u8,
    number: u32,
    mode: u16,
    owner: (u32, u32),
    mtime: (i64, u32),
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    target: String,
}

fn made() -> impl Strategy<Value = Made> {
    let name = prop_oneof![4 => "[a-c]", 1 => "[!-.0-~]{1,30}", 1 => "x{200,255}"];
    let path = prop::collection::vec(name.prop_filter("dots", |name| name != "." && name != ".."), 1..4);
    let prefix = prop_oneof![Just("user."), Just("trusted."), Just("security.")];
    let key = (prefix, "[a-z]{1,20}").prop_map(|(prefix, name)| format!("{prefix}{name}").into_bytes());
    let key = prop_oneof![Just(b"user.often".to_vec()), Just(b"security.often".to_vec()), key];
    let value = prop_oneof![Just(vec![7; 40]), prop::collection::vec(any::<u8>(), 0..300)];
    let xattrs = prop::collection::btree_map(key, value, 0..4);
    // Such that some inodes can be compact, and some attributes be shared.
    let id = || prop_oneof![2 => 0..3_u32, 1 => 65_534..65_538_u32, 1 => any::<u32>()];
    let owner = (id(), id());
    let mtime = prop_oneof![2 => Just((1_700_000_000, 5)), 1 => (any::<i64>(), 0..1_000_000_000_u32)];
    let target = prop_oneof!["[a-z/.]{1,60}", "[a-z/]{3000,4095}"];
    (path, 0..12_u8, any::<u32>(), 0..0o10000_u16, owner, mtime, xattrs, target).prop_map(
        |(path, kind, number, mode, owner, mtime, xattrs, target)| Made {
            path,
            kind,
            number,
            mode,
            owner,
            mtime,
            xattrs,
            target,
        },
    )
}

const DATA_BLOCKS: u32 = 8;
const PACKED_BYTES: u64 = 50_000;

/// Any byte of the packed contents.
fn packed_byte(at: u64) -> u8 {
    u8::try_from(at % 253).unwrap()
}

impl Made {
    fn kind(&self) -> Kind<'_> {
        let device = Device { major: self.number & 0xfff, minor: self.number >> 12 };
        match self.kind {
            0 | 1 => Kind::Directory,
            2 => Kind::Symlink(self.target.as_bytes()),
            3 => Kind::CharDevice(device),
            4 => Kind::BlockDevice(device),
            5 => Kind::Fifo,
            6 => Kind::File(Content::EMPTY),
            7 | 8 => {
                let size = 1 + u64::from(self.number) % PACKED_MAX;
                let offset = u64::from(self.number / 1024) % (PACKED_BYTES - size);
                Kind::File(Content { place: Place::Packed { offset }, size })
            }
            _ => {
                let block = self.number % DATA_BLOCKS;
                let size = 1 + u64::from(self.number) % (u64::from(DATA_BLOCKS - block) * BLOCK);
                Kind::File(Content { place: Place::Data { offset: u64::from(block) * BLOCK }, size })
            }
        }
    }
}

fn changeset(entries: &[Made]) -> Changeset {
    let limits = Limits::default();
    let mut builder = Builder::new(&limits);
    for made in entries {
        let (name, directory) = made.path.split_last().expect("a path has a name");
        let xattrs = XattrBuf::from(&made.xattrs);
        let (seconds, nanoseconds) = made.mtime;
        let inode = Inode {
            mode: made.mode,
            uid: made.owner.0,
            gid: made.owner.1,
            mtime: Timestamp { seconds, nanoseconds },
            xattrs: xattrs.as_xattrs(),
            kind: made.kind(),
        };
        let directory = directory.join("/");
        let entry = Entry { directory: directory.as_bytes(), name: name.as_bytes(), change: Change::Inode(inode) };
        builder.push(&entry).expect("a sound entry");
    }
    builder.finish(u64::from(DATA_BLOCKS) * BLOCK, PACKED_BYTES).expect("contents lie inside")
}

/// Writes the metadata of a tree that has one layer.
fn write(tree: &MergedTree<'_>, blocks: &[u64]) -> Result<(Vec<u8>, MetadataImage), ErofsError> {
    let bytes: Vec<u8> = (0..PACKED_BYTES).map(packed_byte).collect();
    let packed = PackedFiles::new(vec![(bytes, PACKED_BYTES)]);
    let mut image = Vec::new();
    let source = Source { tree, layer_data_blocks: blocks, packed: &packed, name: b"round trip" };
    let written = write_metadata(&source, &mut image)?;
    Ok((image, written))
}

fn image_of(tree: &MergedTree<'_>) -> Vec<u8> {
    let blocks = [DATA_BLOCKS.into()];
    let (mut image, written) = write(tree, &blocks).expect("writes");
    assert_eq!(image.len() as u64, written.blocks * BLOCK);
    let again = write(tree, &blocks).expect("writes");
    assert_eq!(again, (image.clone(), written), "the image is a function of the tree");
    image.extend((0..DATA_BLOCKS).flat_map(|block| [u8::try_from(block).unwrap(); 4096]));
    image
}

fn compare(tree: &MergedTree<'_>, id: InodeId, image: &Image<Vec<u8>>, found: &erofs::reader::Inode) {
    let merged = tree.inode(id);
    let inode = &merged.inode;
    let own = (inode.mode, inode.uid, inode.gid, inode.mtime, merged.links);
    assert_eq!((found.mode, found.uid, found.gid, found.mtime, found.links), own);
    let xattrs = image.xattrs(found).expect("attributes");
    assert!(xattrs.iter().map(|(name, value)| (&name[..], &value[..])).eq(inode.xattrs.iter()));
    match inode.kind {
        Kind::Directory => compare_directory(tree, id, image, found),
        Kind::Symlink(target) => assert_eq!(image.read_link(found).expect("link"), target),
        Kind::CharDevice(device) | Kind::BlockDevice(device) => assert_eq!(found.device, device),
        Kind::Fifo => assert_eq!(found.size, 0),
        Kind::File(Content { place: Place::Packed { offset }, size }) => {
            let content = image.read_file(found, u64::MAX).expect("content");
            assert!(content.iter().copied().eq((offset..offset + size).map(packed_byte)));
        }
        Kind::File(Content { place: Place::Data { offset }, size }) => {
            let content = image.read_file(found, u64::MAX).expect("content");
            assert_eq!(content.len() as u64, size);
            let block_of = |at: usize| u8::try_from((offset + at as u64) / BLOCK).unwrap();
            assert!(content.iter().enumerate().all(|(at, &byte)| byte == block_of(at)));
        }
    }
}

fn compare_directory(tree: &MergedTree<'_>, id: InodeId, image: &Image<Vec<u8>>, found: &erofs::reader::Inode) {
    let entries = image.read_dir(found).expect("directory");
    assert!(entries.is_sorted_by(|one, two| one.name < two.name));
    let (dots, others): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| entry.name == b"." || entry.name == b"..");
    assert_eq!(dots.len(), 2);
    assert_eq!(dots[0].nid, found.nid);
    assert!(others.iter().map(|entry| &entry.name[..]).eq(tree.entries(id).map(|(name, _)| name)));
    for (entry, (name, child)) in others.iter().zip(tree.entries(id)) {
        let inode = image.lookup_in(found, name).expect("look-up").expect("exists");
        assert_eq!((inode.nid, inode.file_type), (entry.nid, entry.file_type));
        compare(tree, child, image, &inode);
    }
}

/// Reads everything that can be reached, within bounds; errors are fine.
fn walk<D: ReadAt>(image: &Image<D>) -> Result<(), ReadError> {
    let mut pending = vec![image.root()?];
    for _ in 0..200 {
        let Some(inode) = pending.pop() else { break };
        drop(image.xattrs(&inode));
        drop(image.read_link(&inode));
        drop(image.read(&inode, 4090, &mut [0; 100]));
        for entry in image.read_dir(&inode).unwrap_or_default() {
            pending.extend(image.inode(entry.nid));
        }
    }
    image.resolve(b"/a/b/c").map(drop)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(entries in prop::collection::vec(made(), 0..60)) {
        let changesets = [changeset(&entries)];
        if let Ok(tree) = merge(&changesets, &Limits::default()) {
            let image = Image::open(image_of(&tree)).expect("opens");
            prop_assert_eq!(image.inode_count(), tree.len() as u64);
            compare(&tree, InodeId::ROOT, &image, &image.root().expect("root"));
        }
    }

    #[test]
    fn bent_images_are_errors_not_panics(
        entries in prop::collection::vec(made(), 0..20),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let changesets = [changeset(&entries)];
        if let Ok(tree) = merge(&changesets, &Limits::default()) {
            let mut bytes = image_of(&tree);
            // Everything behind the first block's superblock, so that the checksum does not end it all at once.
            let metadata = bytes.len() - DATA_BLOCKS as usize * 4096;
            bytes[1024 + 8] &= !1;
            for (at, value) in flips {
                let at = 1024 + 16 + at.index(metadata - 1040);
                bytes[at] = value;
            }
            if let Ok(image) = Image::open(bytes) {
                drop(walk(&image));
            }
        }
    }
}

#[test]
fn contents_outside_the_data_are_refused() {
    let entry = Made {
        path: vec![String::from("f")],
        kind: 9,
        number: 3,
        mode: 0o644,
        owner: (0, 0),
        mtime: (0, 0),
        xattrs: BTreeMap::new(),
        target: String::new(),
    };
    let changesets = [changeset(&[entry])];
    let tree = merge(&changesets, &Limits::default()).unwrap();
    for blocks in [&[][..], &[3]] {
        let error = write(&tree, blocks).unwrap_err();
        assert_eq!(error.to_string(), "the content of inode 1 lies outside the data of layer 0");
    }
    let error = write(&tree, &[1 << 32]).unwrap_err();
    assert_eq!(error.to_string(), "the image's device would have more than 2³² blocks");
}

/// Symbolic links are followed as a process with this root would follow them.
#[test]
fn look_ups_resolve_links_within_the_image() {
    let link = |path: &str, target: &str| Made {
        path: path.split('/').map(String::from).collect(),
        kind: 2,
        number: 0,
        mode: 0o777,
        owner: (0, 0),
        mtime: (0, 0),
        xattrs: BTreeMap::new(),
        target: String::from(target),
    };
    let file = Made { kind: 6, ..link("usr/etc/passwd", "-") };
    let links = [link("etc", "/../usr/etc"), link("usr/up", "../../../etc"), link("loop", "loop"), file];
    let changesets = [changeset(&links)];
    let tree = merge(&changesets, &Limits::default()).unwrap();
    let image = Image::open(image_of(&tree)).unwrap();
    let passwd = image.lookup(b"/usr/etc/passwd").unwrap().unwrap();
    assert_eq!(image.resolve(b"/etc/passwd").unwrap(), Some(passwd.clone()));
    assert_eq!(image.resolve(b"usr/up/passwd").unwrap(), Some(passwd));
    assert_eq!(image.resolve(b"/etc/shadow").unwrap(), None);
    assert!(matches!(image.lookup(b"/etc/passwd"), Err(ReadError::NotADirectory(_))));
    assert!(matches!(image.resolve(b"/loop/x"), Err(ReadError::SymlinkLoop(_))));
}

/// Bytes of metadata for a thousand entries.
fn metadata_of_a_thousand(made: impl Fn(u32) -> Made) -> u64 {
    let entries: Vec<Made> = (0..1000).map(made).collect();
    let changesets = [changeset(&entries)];
    let tree = merge(&changesets, &Limits::default()).unwrap();
    let (image, _) = write(&tree, &[DATA_BLOCKS.into()]).unwrap();
    image.len() as u64
}

/// An empty file, of its own time.
fn empty_file(number: u32) -> Made {
    Made {
        path: vec![format!("{number:04}")],
        kind: 6,
        number,
        mode: 0o644,
        owner: (0, 0),
        mtime: (number.into(), 0),
        xattrs: BTreeMap::new(),
        target: String::new(),
    }
}

/// The directory of a thousand names of four bytes takes four blocks and a tail.
#[test]
fn what_inodes_have_in_common_is_stated_once() {
    let extended = metadata_of_a_thousand(empty_file);
    assert_eq!(extended.div_ceil(BLOCK), (1152 + 64_000_u64).div_ceil(BLOCK) + 4);
    let of_one_time = |number| Made { mtime: (7, 7), ..empty_file(number) };
    assert_eq!(metadata_of_a_thousand(of_one_time).div_ceil(BLOCK), (1152 + 32_000_u64).div_ceil(BLOCK) + 4);

    let attributes = |number: u32, value: Vec<u8>| {
        let own = (b"user.own".to_vec(), number.to_string().into_bytes());
        Made { xattrs: BTreeMap::from([own, (b"user.common".to_vec(), value)]), ..empty_file(number) }
    };
    let shared = metadata_of_a_thousand(|number| attributes(number, vec![9; 2000]));
    let own = metadata_of_a_thousand(|number| attributes(number, number.to_le_bytes().repeat(500)));
    assert!(shared < extended + 40_000, "one copy of 2000 bytes, and some 32 bytes an inode: {shared}");
    assert!(own > extended + 2_000_000, "a thousand copies: {own}");
}

/// Three inodes with a kilobyte each leave a fifth of a block, which inodes without contents fill.
#[test]
fn holes_beside_small_files_are_filled() {
    let packed = |number: u32| Made { kind: 7, number: number / 4 * 1024 + 1023, ..empty_file(number) };
    let mixed = |number: u32| if number.is_multiple_of(4) { packed(number) } else { empty_file(number) };
    assert_eq!(metadata_of_a_thousand(mixed) / BLOCK - 4, 250_u64.div_ceil(3), "the other 750 take no block");
}
