//! Arbitrary bytes as a skeleton's stream, and as a compressed skeleton, over small contents: an error or an archive,
//! no content given out twice.

#![no_main]

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use layer::Rebuild;
use libfuzzer_sys::fuzz_target;
use rustix::fs::MemfdFlags;

/// Contents of 100 bytes each.
const CONTENT: u64 = 100;
/// Most bytes that are read; compressed literals can be endless.
const MOST: u64 = 1 << 20;

fn file() -> File {
    let file = File::from(rustix::fs::memfd_create("content", MemfdFlags::empty()).expect("memory"));
    file.write_all_at(&[7; CONTENT as usize], 0).expect("memory");
    file
}

fn rebuild(skeleton: &[u8]) -> Option<u64> {
    let mut archive = Vec::new();
    Rebuild::new(skeleton, file(), file()).expect("a decoder").take(MOST).read_to_end(&mut archive).ok()?;
    Some(archive.len() as u64)
}

fuzz_target!(|bytes: &[u8]| {
    let _ = rebuild(bytes);
    let stream = [b"CRCLSKEL\x01\0\0\0", bytes].concat();
    let compressed = zstd::encode_all(&stream[..], 1).expect("memory");
    if let Some(length) = rebuild(&compressed) {
        assert!(length <= bytes.len() as u64 + 2 * CONTENT, "each content comes at most once");
    }
});
