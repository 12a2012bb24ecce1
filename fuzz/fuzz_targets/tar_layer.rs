//! Arbitrary bytes as a layer archive, all the way: read, encode, decode, merge with itself, write the metadata
//! image, walk it with the reader.

#![no_main]

use erofs::reader::Image;
use layer::{Changeset, Limits, NullSink, merge, read_layer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|tar: &[u8]| {
    let limits = Limits {
        entries: 1_000,
        index_bytes: 1 << 20,
        content_bytes: 1 << 30,
        inodes: 5_000,
        lookups: 100_000,
        ..Limits::default()
    };
    let Ok(changeset) = read_layer(tar, &mut NullSink::default(), &limits) else { return };
    let again = Changeset::decode(changeset.encode().to_vec(), &limits).expect("what is written can be read");
    assert_eq!(again, changeset);
    let layers = [changeset, again];
    let Ok(tree) = merge(&layers, &limits) else { return };
    let blocks = layers.each_ref().map(|layer| layer.data_bytes() / erofs::BLOCK);
    let mut bytes = Vec::new();
    erofs::write_metadata(&tree, &blocks, &mut bytes).expect("a merged tree can be written");
    let image = Image::open(bytes).expect("what is written can be opened");
    let mut seen = 0;
    let mut pending = vec![image.root().expect("root")];
    while let Some(directory) = pending.pop() {
        seen += 1;
        for entry in image.read_dir(&directory).expect("directory") {
            let inode = image.inode(entry.nid).expect("inode");
            image.xattrs(&inode).expect("attributes");
            if entry.file_type == erofs::erofs_format::FileType::Directory
                && ![&b"."[..], b".."].contains(&&entry.name[..])
            {
                pending.push(inode);
            }
        }
    }
    assert!(seen <= tree.len());
});
