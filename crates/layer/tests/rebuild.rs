//! A layer's archive comes back byte for byte; a bent skeleton is an error, never a panic or an endless stream.

#![allow(missing_docs)]

mod tar;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;

use layer::skeleton::SKELETON_VERSION;
use layer::{LayerWriter, Limits, Rebuild, SkeletonError, read_layer};
use proptest::prelude::*;
use tar::{Header, Tar};

fn file_of(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

/// Rebuilds from a stream of segments, over eight bytes of data and four packed ones.
fn rebuild(stream: &[u8]) -> io::Result<Vec<u8>> {
    rebuild_compressed(&zstd::encode_all(stream, 1).unwrap())
}

fn rebuild_compressed(skeleton: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Rebuild::new(skeleton, file_of(b"datadata"), file_of(b"pack"))?.take(1 << 20).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn stream(segments: &[u8]) -> Vec<u8> {
    [b"CRCLSKEL", &SKELETON_VERSION.to_le_bytes()[..], segments].concat()
}

fn fault(result: io::Result<Vec<u8>>) -> SkeletonError {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    *error.into_inner().unwrap().downcast().unwrap()
}

#[test]
fn segments() {
    for (segments, archive) in [
        (&b"\x00\x00"[..], &b""[..]),
        (b"\x01\x03abc\x00\x03", b"abc"),
        (b"\x02\x00\x04\x00\x04", b"data"),
        (b"\x02\x04\x04\x00\x04", b"data"),
        (b"\x02\x01\x02\x02\x01\x04\x00\x06", b"atdata"),
        (b"\x03\x01\x01\x01-\x03\x03\x00\x05", b"p-ack"),
        (b"\x03\x04\x01\x01+\x02\x00\x08\x00\x0d", b"pack+datadata"),
    ] {
        assert_eq!(rebuild(&stream(segments)).unwrap(), archive, "{}", segments.escape_ascii());
    }
}

#[test]
fn bent_segments() {
    let outside = SkeletonError::Outside;
    for (segments, expected) in [
        (&b""[..], SkeletonError::Truncated),
        (b"\x01\x03ab", SkeletonError::Truncated),
        (b"\x01\x03abc", SkeletonError::Truncated),
        (b"\x02\x00", SkeletonError::Truncated),
        (b"\x02\x00\x09\x00\x09", outside("data")),
        (b"\x02\x08\x01\x00\x01", outside("data")),
        (b"\x02\x00\x08\x02\x00\x01\x00\x09", outside("data")),
        (b"\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x02\x00", outside("data")),
        (b"\x02\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00", outside("data")),
        (b"\x03\x05\x00\x05", outside("packed")),
        (b"\x03\x04\x03\x01\x00\x05", outside("packed")),
        (b"\x01\x00\x00\x00", SkeletonError::Damaged("an empty segment")),
        (b"\x02\x00\x00\x00\x00", SkeletonError::Damaged("an empty segment")),
        (b"\x03\x00\x00\x00", SkeletonError::Damaged("an empty segment")),
        (b"\x04\x01", SkeletonError::Damaged("unknown segment")),
        (b"\x01\x01a\x00\x02", SkeletonError::Damaged("wrong length")),
        (b"\x01\x01a\x00\x01\x00", SkeletonError::Damaged("it goes on after its end")),
        (b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02a", SkeletonError::Damaged("integer too long")),
    ] {
        assert_eq!(fault(rebuild(&stream(segments))), expected, "{}", segments.escape_ascii());
    }
    assert_eq!(fault(rebuild(b"CRCLDIFF\x01\0\0\0\0\0")), SkeletonError::Magic);
    assert_eq!(fault(rebuild(b"CRCLSKEL\x09\0\0\0\0\0")), SkeletonError::Version(9));
    assert_eq!(fault(rebuild(b"CRCL")), SkeletonError::Truncated);
}

#[test]
fn bent_compression() {
    let whole = zstd::encode_all(&stream(b"\x01\x03abc\x00\x03")[..], 1).unwrap();
    for length in 0..whole.len() {
        assert!(rebuild_compressed(&whole[..length]).is_err(), "cut after {length} bytes");
    }
    assert!(rebuild_compressed(&[&whole[..], b"more"].concat()).is_err());
    let mut wide = zstd::Encoder::new(Vec::new(), 1).unwrap();
    wide.long_distance_matching(true).and_then(|()| wide.window_log(27)).unwrap();
    wide.write_all(&stream(b"\x01\x03abc\x00\x03")).unwrap();
    let wide = wide.finish().unwrap();
    assert!(rebuild_compressed(&wide).is_err(), "a window of 128 MiB is not allocated");
}

/// Files of lengths around what decides their place, anything between headers, anything after the end.
fn archive() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![0_usize..3, 500_usize..530, 1020_usize..1030, 4090_usize..4100, 0_usize..300_000];
    let file = (length, any::<u8>());
    (prop::collection::vec(file, 0..20), prop::collection::vec(any::<u8>(), 0..2000)).prop_map(|(files, rest)| {
        let tar = files.into_iter().enumerate().fold(Tar::new(), |tar, (at, (length, byte))| {
            let name = at.to_string();
            tar.header(Header::new(b'0', name.as_bytes()).size(length as u64)).body(&vec![byte; length])
        });
        [tar.end(), rest].concat()
    })
}

fn written(archive: &[u8]) -> (Vec<u8>, File, File) {
    let [data, packed, tree, skeleton] = [(); 4].map(|()| tempfile::tempfile().unwrap());
    let clone = |file: &File| file.try_clone().unwrap();
    let writer = LayerWriter { data: clone(&data), packed: clone(&packed), tree, skeleton: clone(&skeleton) };
    let output = read_layer(archive, writer, &Limits::default()).unwrap();
    let mut bytes = vec![0; usize::try_from(output.skeleton_length).unwrap()];
    skeleton.read_exact_at(&mut bytes, 0).unwrap();
    (bytes, data, packed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn archives_come_back(archive in archive()) {
        let (skeleton, data, packed) = written(&archive);
        let mut rebuilt = Vec::new();
        Rebuild::new(&skeleton[..], data, packed).unwrap().read_to_end(&mut rebuilt).unwrap();
        prop_assert!(rebuilt == archive);
    }

    #[test]
    fn bent_skeletons(archive in archive(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let (skeleton, data, packed) = written(&archive);
        let mut stream = zstd::decode_all(&skeleton[..]).unwrap();
        for (at, value) in flips {
            let at = at.index(stream.len());
            stream[at] = value;
        }
        let bent = zstd::encode_all(&stream[..], 1).unwrap();
        let mut rebuilt = Vec::new();
        let most = stream.len() as u64 + data.metadata().unwrap().len() + packed.metadata().unwrap().len();
        let read = Rebuild::new(&bent[..], data, packed).unwrap().read_to_end(&mut rebuilt);
        prop_assert!(rebuilt.len() as u64 <= most, "each content comes at most once");
        prop_assert!(read.is_err() || rebuilt.len() == archive.len() || rebuilt != archive);
    }

    #[test]
    fn any_segments(segments in prop::collection::vec(prop_oneof![0_u8..12, any::<u8>()], 0..200)) {
        let _ = rebuild(&stream(&segments));
    }
}
