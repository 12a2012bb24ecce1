//! Arbitrary bytes as a layer archive, all the way: read, encode, decode, merge with itself, write the metadata
//! image, walk it with the reader.
//!
//! Checksums are made to fit first, so that the fuzzer need not find them.

#![no_main]

use std::io;

use erofs::erofs_format::FileType;
use erofs::reader::Image;
use erofs::{PackedContents, Source};
use layer::{Changeset, Limits, merge, read_changeset};
use libfuzzer_sys::fuzz_target;

/// Stands in for contents, which the fuzzer does not keep.
struct Zeros;

impl PackedContents for Zeros {
    fn read(&self, _layer: usize, _offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.fill(0);
        Ok(())
    }
}

/// Gives every block that looks like a header the checksum that it should have.
fn seal(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut tar = bytes.to_vec();
    seal(&mut tar);
    let limits = Limits {
        entries: 1_000,
        index_bytes: 1 << 20,
        content_bytes: 1 << 30,
        inodes: 5_000,
        lookups: 100_000,
        ..Limits::default()
    };
    let Ok(changeset) = read_changeset(&tar[..], &limits) else { return };
    let again = Changeset::decode(changeset.encode().to_vec(), &limits).expect("what is written can be read");
    assert_eq!(again, changeset);
    let layers = [changeset, again];
    let Ok(tree) = merge(&layers, &limits) else { return };
    let blocks = layers.each_ref().map(|layer| layer.data_bytes() / erofs::BLOCK);
    let mut bytes = Vec::new();
    let source = Source { tree: &tree, layer_data_blocks: &blocks, packed: &Zeros, name: b"fuzz" };
    erofs::write_metadata(&source, &mut bytes).expect("a merged tree can be written");
    let image = Image::open(bytes).expect("what is written can be opened");
    let mut seen = 0;
    let mut pending = vec![image.root().expect("root")];
    while let Some(directory) = pending.pop() {
        seen += 1;
        for entry in image.read_dir(&directory).expect("directory") {
            let inode = image.inode(entry.nid).expect("inode");
            image.xattrs(&inode).expect("attributes");
            // Packed contents are part of the image; large ones would be in the layers' data.
            if entry.file_type == FileType::Regular {
                drop(image.read_file(&inode, 1024));
            }
            if entry.file_type == FileType::Directory && ![&b"."[..], b".."].contains(&&entry.name[..]) {
                pending.push(inode);
            }
        }
    }
    assert!(seen <= tree.len());
});
