//! Archives that contradict themselves, end early, lie about sizes or ask for too much.

#![allow(missing_docs)]

mod cases;
mod tar;

use std::fs::OpenOptions;
use std::io::{self, Read};

use cases::{case, chain, check, raw, t, tree_of, tree_within};
use layer::{LayerWriter, Limits, read_changeset, read_layer};
use tar::Header;

#[test]
fn long_names_and_contradictions() {
    let component = "n".repeat(255);
    let long = format!("{}x", "ab/".repeat(1364));
    let name = |name: &str| tree_of(&[t().pax(&[("path", name.as_bytes())]).file("short", "").end()]);
    assert_eq!(name(&component).unwrap(), format!("/{component} f \"\"\n"));
    assert!(name(&format!("{component}n")).unwrap_err().ends_with("a component of the path is longer than 255 bytes"));
    assert_eq!(long.len(), 4093);
    assert_eq!(name(&format!("{long}yz")).unwrap().lines().count(), 1365);
    assert!(name(&format!("{long}yz!")).unwrap_err().ends_with("the path is longer than 4095 bytes"));
    assert!(name(&"d/d".repeat(10_000)).unwrap_err().ends_with("the path is longer than 4095 bytes"));
    check(&[
        case(
            "GNU long name and link",
            [t().special(b'L', b"long/name\0").special(b'K', b"target\0").symlink("short", "s")],
            Ok("/long d\n/long/name l \"target\""),
        ),
        case(
            "PAX and GNU agree",
            [t().pax(&[("path", b"x")]).special(b'L', b"x\0").file("short", "")],
            Ok("/x f \"\""),
        ),
        case(
            "PAX and GNU disagree",
            [t().pax(&[("path", b"x")]).special(b'L', b"y\0").file("short", "")],
            Err("entry \"x\": ambiguous name: two headers contradict each other"),
        ),
        case(
            "two PAX headers",
            [t().pax(&[("path", b"x")]).pax(&[("path", b"y")]).file("short", "")],
            Err("bad tar header at byte 1024: two PAX headers for one member"),
        ),
        case(
            "two long names",
            [t().special(b'L', b"x\0").special(b'L', b"y\0").file("short", "")],
            Err("bad tar header at byte 1024: two GNU long name headers for one member"),
        ),
        case(
            "PAX header for nothing",
            [t().pax(&[("path", b"x")])],
            Err("bad tar header at byte 1024: the archive ends after a header that describes the next member"),
        ),
        case(
            "PAX length lies",
            [t().special(b'x', b"99 path=x\n").file("short", "")],
            Err("bad tar header at byte 0: malformed PAX record: longer than its header"),
        ),
        case(
            "PAX size counts, the header's does not",
            [t().pax(&[("size", b"3")]).header(Header::new(b'0', b"f").size(0)).body(b"abc").file("g", "1")],
            Ok("/f f \"abc\"\n/g f \"1\""),
        ),
        case(
            "PAX size of zero counts",
            [t().pax(&[("size", b"0")]).header(Header::new(b'0', b"f").size(512)).file("g", "1")],
            Ok("/f f \"\"\n/g f \"1\""),
        ),
        case(
            "size in base 256",
            [t().header(Header::new(b'0', b"f").field(124, b"\x80\0\0\0\0\0\0\0\0\0\0\x03")).body(b"abc")],
            Ok("/f f \"abc\""),
        ),
        case(
            "negative size",
            [t().header(Header::new(b'0', b"f").field(124, &[0xff; 12]))],
            Err("entry \"f\": the size is out of range"),
        ),
        case(
            "POSIX prefix",
            [t().header(Header::new(b'0', b"f").field(345, b"a/b"))],
            Ok("/a d\n/a/b d\n/a/b/f f \"\""),
        ),
        case(
            "unknown type",
            [t().header(&Header::new(b'V', b"volume"))],
            Err("entry \"volume\": unsupported type 'V'"),
        ),
        case(
            "enormous PAX header",
            [t().header(Header::new(b'x', b"p").size(1 << 33))],
            Err("bad tar header at byte 0: a PAX header of more than 1048576 bytes"),
        ),
    ]);
}

#[test]
fn damaged_archives() {
    let whole = t().file("a", "1").file("b", "2");
    let ended = whole.clone().end();
    for length in 1..512 {
        let cut = t().file("a", "1").raw(&ended[..length]).0;
        assert_eq!(
            tree_of(&[cut]).unwrap_err(),
            "the archive is truncated: it ends within the header at byte 1024, after \"a\""
        );
    }
    for length in 512..1024 {
        assert_eq!(tree_of(&[ended[..length].to_vec()]).unwrap_err(), "the archive is truncated: it ends within \"a\"");
    }
    let mut bad_checksum = ended.clone();
    bad_checksum[3] ^= 1;
    let mut garbage = ended.clone();
    garbage.extend_from_slice(&[0x55; 777]);
    let mut concatenated = ended.clone();
    concatenated.extend(t().file("c", "3").end());
    let both = Ok("/a f \"1\"\n/b f \"2\"");
    check(&[
        raw("no bytes at all", vec![], Ok("")),
        raw("no end marker", whole.clone().0, both),
        raw("half an end marker", whole.clone().raw(&[0; 512]).0, both),
        raw(
            "a lone zero block",
            whole.clone().raw(&[0; 512]).file("c", "3").end(),
            Err("bad tar header at byte 2048, after \"b\": a lone block of zeros in the middle of the archive"),
        ),
        raw("garbage after the end", garbage, both),
        raw("another archive after the end", concatenated, both),
        raw("wrong checksum", bad_checksum, Err("bad tar header at byte 0: wrong checksum")),
        raw(
            "no archive",
            b"#!/bin/sh\necho hello, this is no archive\n".repeat(20),
            Err("bad tar header at byte 0: wrong checksum"),
        ),
        raw(
            "size beyond the end",
            t().header(Header::new(b'0', b"f").size(1 << 32)).body(b"abc").0,
            Err("the archive is truncated: it ends within \"f\""),
        ),
    ]);
}

#[test]
fn sparse_files() {
    let v01 = |size: &[u8], map: &[u8]| {
        t().pax(&[("GNU.sparse.size", size), ("GNU.sparse.map", map), ("GNU.sparse.name", b"s")])
            .header(Header::new(b'0', b"GNUSparseFile.0/s").size(3))
            .body(b"abc")
    };
    let v10 = |size: &[u8], lines: &str, stored: u64| {
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"s"),
            ("GNU.sparse.realsize", size),
        ];
        t().pax(records).header(Header::new(b'0', b"x").size(stored)).body(lines.as_bytes()).body(b"abc")
    };
    check(&[
        case(
            "0.0",
            [t().pax(&[
                ("GNU.sparse.size", b"9"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.offset", b"2"),
                ("GNU.sparse.numbytes", b"3"),
                ("GNU.sparse.offset", b"9"),
                ("GNU.sparse.numbytes", b"0"),
            ])
            .header(Header::new(b'0', b"s").size(3))
            .body(b"abc")],
            Ok("/s f \"\\0\\0abc\\0\\0\\0\\0\""),
        ),
        case("0.1", [v01(b"9", b"2,3")], Ok("/s f \"\\0\\0abc\\0\\0\\0\\0\"")),
        case("1.0", [v10(b"9", "1\n2\n3\n", 515)], Ok("/s f \"\\0\\0abc\\0\\0\\0\\0\"")),
        case(
            "old GNU",
            [t().header(
                Header::new(b'S', b"s")
                    .size(3)
                    .field(257, b"ustar  \0")
                    .field(386, b"00000000002\x0000000000003\0")
                    .field(483, b"00000000011\0"),
            )
            .body(b"abc")],
            Ok("/s f \"\\0\\0abc\\0\\0\\0\\0\""),
        ),
        case(
            "map beyond the size",
            [v01(b"4", b"2,3")],
            Err("entry \"s\": damaged sparse map: an extent lies beyond the end of the file"),
        ),
        case(
            "extents overlap",
            [v01(b"9", b"2,0,1,3")],
            Err("entry \"s\": damaged sparse map: extents overlap or are out of order"),
        ),
        case(
            "extents and content differ",
            [v01(b"9", b"2,1")],
            Err("entry \"s\": damaged sparse map: the extents do not add up to the stored content"),
        ),
        case(
            "odd extents in the middle",
            [v01(b"9", b"2,1,5,2")],
            Err(
                "entry \"s\": readers of tar archives disagree about where an extent that is no multiple of 512 bytes ends",
            ),
        ),
        case("odd map", [v01(b"9", b"2,1,5")], Err("entry \"s\": damaged sparse map: an extent without a length")),
        case(
            "1.0, map longer than the content",
            [v10(b"9", &format!("900\n{}", "1\n".repeat(254)), 512)],
            Err("entry \"s\": damaged sparse map: the map is longer than the content"),
        ),
        case(
            "1.0, a map of billions",
            [v10(b"9", "9999999999\n", 512)],
            Err("entry \"s\": sparse file of more than 262144 extents"),
        ),
        case("1.0, no numbers", [v10(b"9", "x\n", 512)], Err("entry \"s\": damaged sparse map: not a number")),
        case(
            "unknown version",
            [t().pax(&[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0")]).file("s", "")],
            Err("entry \"s\": damaged sparse map: unknown version"),
        ),
        case(
            "100 GiB of hole",
            [t().pax(&[("GNU.sparse.size", b"107374182400"), ("GNU.sparse.map", b"107374182397,3")])
                .header(Header::new(b'0', b"s").size(3))
                .body(b"abc")],
            Ok("/s f 107374182400 bytes"),
        ),
        case(
            "8 EiB of hole",
            [t().pax(&[("GNU.sparse.size", b"9223372036854775807"), ("GNU.sparse.map", b"0,3")])
                .header(Header::new(b'0', b"s").size(3))
                .body(b"abc")],
            Err("entry \"s\": the layer's content is larger than 8796093022208 bytes"),
        ),
    ]);
}

#[test]
fn limits_hold() {
    let limits = Limits { entries: 10, index_bytes: 4096, depth: 5, inodes: 8, lookups: 100, ..Limits::default() };
    let files = |count: usize| (0..count).fold(t(), |tar, at| tar.file(&at.to_string(), "")).end();
    assert_eq!(tree_within(&[files(11)], &limits).unwrap_err(), "layer has more than 10 entries");
    assert_eq!(
        tree_within(&[files(9)], &limits).unwrap_err(),
        "layer 0, entry \"7\": the image has more than 8 inodes"
    );
    let long =
        |at: u8| t().pax(&[("path", [&[b'a' + at][..], &b"/n".repeat(300)].concat().as_slice())]).file("x", "").0;
    let names = (0..9).flat_map(long).collect();
    assert_eq!(tree_within(&[names], &limits).unwrap_err(), "layer index is larger than 4096 bytes");
    let deep = t().file("a/b/c/d/e/f/g", "").end();
    assert_eq!(
        tree_within(&[deep], &limits).unwrap_err(),
        "layer 0, entry \"a/b/c/d/e/f/g\": more than 5 directories deep"
    );
    let links = t().symlink("a", &"x/../".repeat(19)).symlink("b", "a/a").file("b/f", "").end();
    assert_eq!(
        tree_within(&[links], &limits).unwrap_err(),
        "layer 0, entry \"b/f\": resolving the image's paths takes more than 100 look-ups"
    );
}

/// What means nothing is kept, to give the archive back, but not without end. Zeros cost nothing.
#[test]
fn what_means_nothing_is_bounded() {
    let limits = Limits { ignored_bytes: 1000, ..Limits::default() };
    let tree = |archive: &[u8]| tree_within(&[archive.to_vec()], &limits);
    let whole = t().file("a", "1").end();
    assert_eq!(tree(&[&whole[..], &[1; 1000]].concat()).unwrap(), "/a f \"1\"\n");
    assert_eq!(tree(&[&whole[..], &[0; 1 << 20]].concat()).unwrap(), "/a f \"1\"\n");
    assert_eq!(
        tree(&[&whole[..], &[1; 1001]].concat()).unwrap_err(),
        "more than 1000 bytes follow the end of the archive"
    );
    let junk = "x".repeat(600);
    assert_eq!(tree(&t().file(".wh.a", &junk).end()).unwrap(), "");
    assert_eq!(
        tree(&t().file(".wh.a", &junk).file(".wh.b", &junk).end()).unwrap_err(),
        "entry \".wh.b\": more than 1000 bytes of content that belong to no file"
    );
}

/// A full disk is not the archive's fault, and the error says so.
#[test]
fn files_that_cannot_be_written() {
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let file = || tempfile::tempfile().unwrap();
    let files = || LayerWriter { data: file(), packed: file(), tree: file(), skeleton: file() };
    let large = "x".repeat(3 << 20);
    let archive = t().file("small", "1").file("large", &large).file("next", &large).end();
    for (writer, expected) in [
        (LayerWriter { data: full(), ..files() }, "cannot store the content of \"large\": No space left on device"),
        (LayerWriter { packed: full(), ..files() }, "cannot store the layer: No space left on device"),
        (LayerWriter { tree: full(), ..files() }, "cannot store the layer: No space left on device"),
        (LayerWriter { skeleton: full(), ..files() }, "cannot store the layer: No space left on device"),
    ] {
        let error = read_layer(&archive[..], writer, &Limits::default()).unwrap_err();
        assert!(chain(&error).starts_with(expected), "{}", chain(&error));
    }
}

/// What the source of the archive has to say is the cause, wherever it fails.
#[test]
fn sources_that_fail() {
    struct Failing<'a>(&'a [u8]);
    impl Read for Failing<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::Error::other("the stream broke")),
                read => Ok(read),
            }
        }
    }
    let archive = t().pax(&[("path", b"f")]).file("x", &"y".repeat(5000)).file(".wh.g", "junk").end();
    for length in [0, 100, 600, 1500, 3000, 6600, 7200, 8000, archive.len()] {
        let error = read_changeset(Failing(&archive[..length]), &Limits::default()).unwrap_err();
        assert_eq!(chain(&error), format!("cannot read the archive after byte {length}: the stream broke"));
    }
}

/// A bomb of a million empty files is read within the memory of its index.
#[test]
fn an_endless_archive_ends_at_a_limit() {
    struct Endless(Vec<u8>, usize);
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let length = (self.0.len() - self.1).min(buffer.len());
            buffer[..length].copy_from_slice(&self.0[self.1..self.1 + length]);
            self.1 = (self.1 + length) % self.0.len();
            Ok(length)
        }
    }
    let limits = Limits { entries: 100_000, ..Limits::default() };
    let endless = Endless(t().file("a", "x").0, 0);
    let error = read_changeset(endless, &limits).unwrap_err();
    assert_eq!(chain(&error), "layer has more than 100000 entries");
}
