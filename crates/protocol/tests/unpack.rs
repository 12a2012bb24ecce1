//! Streams of entries: round trips in any chunks, golden bytes, and what is none.

use proptest::collection::vec;
use proptest::prelude::*;
use protocol::unpack::*;
use protocol::{FrameError, MAX_FRAME};

fn name() -> impl Strategy<Value = Vec<u8>> {
    "[a-z.]{0,3}[a-z]".prop_map(String::into_bytes)
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    vec(name(), 1..4).prop_map(|names| names.join(&b'/'))
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (0..500_u64).prop_map(|size| Kind::File { size }),
        Just(Kind::Directory),
        path().prop_map(|target| Kind::Symlink { target }),
        path().prop_map(|target| Kind::Hardlink { target }),
        (0..4096_u32, 0..1_u32 << 20).prop_map(|(major, minor)| Kind::Character { major, minor }),
        (0..4096_u32, 0..1_u32 << 20).prop_map(|(major, minor)| Kind::Block { major, minor }),
        Just(Kind::Fifo),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let numbers = (0..0o10000_u32, 0..u32::MAX, 0..u32::MAX, any::<i64>(), 0..1_000_000_000_u32);
    let xattrs = vec((name(), any::<Vec<u8>>()), 0..3);
    (path(), kind(), numbers, xattrs).prop_map(|(path, kind, (mode, uid, gid, seconds, nanoseconds), xattrs)| Entry {
        path,
        kind,
        mode,
        uid,
        gid,
        mtime: (seconds, nanoseconds),
        xattrs,
    })
}

fn stream(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend(encode_item(&Item::Entry(Box::new(entry.clone()))).unwrap());
        bytes.extend((0..entry.size()).map(|index| u8::try_from(index % 251).unwrap()));
    }
    bytes.extend(encode_item(&Item::End).unwrap());
    bytes
}

fn decode(bytes: &[u8], length: usize) -> Result<Vec<(Entry, Vec<u8>)>, UnpackError> {
    let mut decoder = Decoder::default();
    let mut files: Vec<(Entry, Vec<u8>)> = Vec::new();
    for mut chunk in bytes.chunks(length) {
        while let Some(piece) = decoder.take(&mut chunk)? {
            match piece {
                Piece::Entry(entry) => files.push((*entry, Vec::new())),
                Piece::Content(bytes) => files.last_mut().unwrap().1.extend_from_slice(bytes),
                Piece::End => {}
            }
        }
        assert!(chunk.is_empty());
    }
    decoder.finish()?;
    Ok(files)
}

proptest! {
    #[test]
    fn round_trips(entries in vec(entry(), 0..6), length in 1..200_usize) {
        let bytes = stream(&entries);
        let files = decode(&bytes, length).unwrap();
        prop_assert_eq!(files.len(), entries.len());
        for ((file, content), entry) in files.iter().zip(&entries) {
            prop_assert_eq!(file, entry);
            prop_assert_eq!(content.len() as u64, entry.size());
        }
    }

    #[test]
    fn a_cut_is_told(entries in vec(entry(), 0..4), cut in any::<prop::sample::Index>()) {
        let bytes = stream(&entries);
        let cut = cut.index(bytes.len());
        prop_assert_eq!(decode(&bytes[..cut], 64), Err(UnpackError::Cut));
    }

    #[test]
    fn any_bytes(bytes in any::<Vec<u8>>(), length in 1..64_usize) {
        let _ = decode(&bytes, length);
    }
}

#[test]
fn golden_bytes() {
    let entry = Entry {
        path: b"a/b".to_vec(),
        kind: Kind::File { size: 300 },
        mode: 0o644,
        uid: 1,
        gid: 2,
        mtime: (-1, 5),
        xattrs: vec![(b"n".to_vec(), b"v".to_vec())],
    };
    let expected = b"\x13\0\0\0\0\x03a/b\0\xac\x02\xa4\x03\x01\x02\x01\x05\x01\x01n\x01v";
    assert_eq!(encode_item(&Item::Entry(Box::new(entry))).unwrap(), expected);
    assert_eq!(encode_item(&Item::End).unwrap(), [1, 0, 0, 0, 1]);
}

#[test]
fn what_is_out_of_range() {
    let good = Entry { path: b"a".to_vec(), mode: 0o644, ..Entry::default() };
    good.check().unwrap();
    Entry { path: vec![], ..good.clone() }.check().unwrap();
    let with = |kind| Entry { kind, ..good.clone() };
    let bad = [
        Entry { path: vec![], kind: Kind::Fifo, ..good.clone() },
        Entry { path: vec![b'x'; MAX_NAME + 1], ..good.clone() },
        Entry { path: b"ab/".repeat(MAX_PATH), ..good.clone() },
        Entry { mode: 0o10000, ..good.clone() },
        Entry { uid: u32::MAX, ..good.clone() },
        Entry { gid: u32::MAX, ..good.clone() },
        Entry { mtime: (0, 1_000_000_000), ..good.clone() },
        Entry { xattrs: vec![(vec![], vec![])], ..good.clone() },
        Entry { xattrs: vec![(b"a\0".to_vec(), vec![])], ..good.clone() },
        with(Kind::File { size: u64::MAX }),
        with(Kind::Symlink { target: vec![] }),
        with(Kind::Symlink { target: vec![b'a'; MAX_PATH] }),
        with(Kind::Hardlink { target: b"../a".to_vec() }),
        with(Kind::Hardlink { target: vec![] }),
        with(Kind::Block { major: 4096, minor: 0 }),
        with(Kind::Character { major: 0, minor: 1 << 20 }),
    ];
    for entry in bad {
        assert!(entry.check().is_err(), "{entry:?}");
        let bytes = encode_item(&Item::Entry(Box::new(entry))).unwrap();
        assert!(matches!(decode(&bytes, 7), Err(UnpackError::Path { .. } | UnpackError::Value { .. })));
    }
}

/// A length is believed only as far as bytes come.
#[test]
fn long_frames() {
    let large = |length: usize| Entry { path: vec![b'x'; length], ..Entry::default() };
    assert!(matches!(encode_item(&Item::Entry(Box::new(large(MAX_ITEM)))), Err(FrameError::TooLarge { .. })));
    for length in [MAX_ITEM + 1, MAX_FRAME, usize::try_from(u32::MAX).unwrap()] {
        let header = u32::try_from(length).unwrap().to_le_bytes();
        let error = decode(&header, 4).unwrap_err();
        assert_eq!(error, UnpackError::Frame(FrameError::TooLarge { length, limit: MAX_ITEM }));
    }
    let header = u32::try_from(MAX_ITEM).unwrap().to_le_bytes();
    assert_eq!(decode(&header, 4), Err(UnpackError::Cut));
}
