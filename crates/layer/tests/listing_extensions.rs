//! PAX records and sparse files through GNU tar, Python's `tarfile` and this crate, as in `listing.rs`.

#![allow(missing_docs)]

mod cases;
mod readers;
mod tar;

use cases::t;
use readers::Reader::Python;
use readers::{but, compare, contents_line, refused, same};
use tar::Header;

fn file(name: &str) -> Header {
    Header::new(b'0', name.as_bytes())
}

/// A PAX header with this body, and a file.
fn records(body: &[u8]) -> Vec<u8> {
    t().special(b'x', body).file("f", "1").end()
}

#[test]
fn pax_records() {
    let abc = "abc - 1\n \"1\"";
    let bad = |what: &str| format!("bad tar header at byte 0: malformed PAX record: {what}");
    let number = bad("no length");
    let wrong = bad("wrong length");
    compare(&[
        same("as they should be", records(b"12 path=abc\n"), abc),
        same("a length with a zero before", records(b"013 path=abc\n"), abc),
        same("no records", records(b""), "f - 1\n \"1\""),
        same("a record within a record", t().pax(&[("comment", b"x\n12 path=evil\n")]).file("f", "1").end(), {
            "f - 1\n \"1\""
        }),
        same("an unknown key", t().pax(&[("VENDOR.any", b"\xff\0")]).file("f", "1").end(), "f - 1\n \"1\""),
        same("a key in capitals", t().pax(&[("PATH", b"abc")]).file("f", "1").end(), "f - 1\n \"1\""),
        refused("too short a length", records(b"5 path=abc\n"), &wrong, "Python: no name; GNU tar refuses"),
        refused("too long a length", records(b"99 path=abc\n"), &bad("longer than its header"), "Python: f"),
        refused("a length of zero", records(b"0 path=abc\n"), &wrong, "both refuse"),
        refused("no newline", records(b"11 path=abc"), &wrong, "Python: ab; GNU tar refuses"),
        refused("zeros before a wrong length", records(b"0012 path=abc\n"), &wrong, "Python: a; GNU tar refuses"),
        refused("a space before the length", records(b" 13 path=abc\n"), &number, "Python: f; GNU tar: abc"),
        refused("two spaces after the length", records(b"13  path=abc\n"), &bad("no key"), "Python: f; GNU tar: abc"),
        refused("a plus sign", records(b"+13 path=abc\n"), &number, "Python: f; GNU tar refuses"),
        refused("no equals sign", records(b"6 abc\n"), &bad("no value"), "Python: f; GNU tar refuses"),
        refused("no key", records(b"6 =bc\n"), &bad("no key"), "both: f; Go refuses"),
        refused("NULs after the records", records(b"12 path=abc\n\0\0\0"), &number, "both: abc; Go refuses"),
        refused("junk after the records", records(b"12 path=abc\njunk"), &number, "Python: abc; GNU tar refuses"),
        refused(
            "an owner that is none",
            t().pax(&[("uid", b"12x")]).file("f", "1").end(),
            &bad("not a number"),
            "Python: 0; GNU tar refuses",
        ),
        refused(
            "a time that is none",
            t().pax(&[("mtime", b"1e3")]).file("f", "1").end(),
            &bad("not a time"),
            "Python: 1000; GNU tar warns",
        ),
        same("an owner", t().pax(&[("uid", b"3000000"), ("gid", b"7")]).file("f", "1").end(), {
            "f - 1 3000000:7\n \"1\""
        }),
        same("a global owner", t().pax_of(b'g', &[("uid", b"7")]).file("f", "1").dir("d").end(), {
            "f - 1 7:0\n d d 7:0\n \"1\""
        }),
        same(
            "a global owner and one's own",
            t().pax_of(b'g', &[("uid", b"7")]).pax(&[("uid", b"8")]).file("f", "1").end(),
            "f - 1 8:0\n \"1\"",
        ),
        same(
            "a global header after one's own",
            t().pax(&[("path", b"a")]).pax_of(b'g', &[("uid", b"7")]).file("f", "1").end(),
            "a - 1 7:0\n \"1\"",
        ),
        same("a global comment", t().pax_of(b'g', &[("comment", b"commit")]).file("f", "1").end(), "f - 1\n \"1\""),
        but(
            "a global header at the end",
            t().file("f", "1").pax_of(b'g', &[("uid", b"7")]).end(),
            "f - 1\n \"1\"",
            Python,
            "refuses",
        ),
    ]);
}

#[test]
fn sparse_files() {
    let stored = ["x".repeat(512), "abc".into()].concat();
    let holes = {
        let whole = ["\0\0", &"x".repeat(512), &"\0".repeat(86), "abc"].concat();
        format!("s - 603\ng - 1\n{}", contents_line((whole + "d").as_bytes()))
    };
    let described = |records: &[(&str, &[u8])], content: &[u8]| {
        let header = file("s").size(content.len() as u64).clone();
        t().pax(records).header(&header).body(content).file("g", "d").end()
    };
    let v01 = |more: &[(&str, &[u8])]| {
        let map: &[(&str, &[u8])] =
            &[("GNU.sparse.size", b"603"), ("GNU.sparse.numblocks", b"2"), ("GNU.sparse.map", b"2,512,600,3")];
        described(&[map, more].concat(), stored.as_bytes())
    };
    let v10 = |more: &[(&str, &[u8])]| {
        let records: &[(&str, &[u8])] =
            &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"603")];
        described(&[records, more].concat(), &[&b"2\n2\n512\n600\n3\n"[..], &[0; 498], stored.as_bytes()].concat())
    };
    let old = |magic: &[u8], records: &[(&str, &[u8])]| {
        let mut header = Header::new(b'S', b"s");
        header.size(515).field(257, magic).field(483, b"00000001133\0");
        header.field(386, b"00000000002\x0000000001000\x0000000001130\x0000000000003\0");
        let tar = if records.is_empty() { t() } else { t().pax(records) };
        tar.header(&header).body(stored.as_bytes()).file("g", "d").end()
    };
    let no_map = "entry \"s\": damaged sparse map: no map";
    compare(&[
        same(
            "0.0",
            described(
                &[
                    ("GNU.sparse.size", b"603"),
                    ("GNU.sparse.numblocks", b"2"),
                    ("GNU.sparse.offset", b"2"),
                    ("GNU.sparse.numbytes", b"512"),
                    ("GNU.sparse.offset", b"600"),
                    ("GNU.sparse.numbytes", b"3"),
                ],
                stored.as_bytes(),
            ),
            &holes,
        ),
        same("0.1", v01(&[]), &holes),
        same("1.0", v10(&[]), &holes),
        same("old GNU", old(b"ustar  \0", &[]), &holes),
        same("name", v10(&[("GNU.sparse.name", b"s")]), &holes),
        but("1.0 with a size in PAX", v10(&[("size", b"1027")]), &holes, Python, {
            "loses its way; writers give the size there when the stored content has more than 8 GiB"
        }),
        refused(
            "two names",
            v01(&[("GNU.sparse.name", b"s"), ("path", b"other")]),
            "entry \"s\": ambiguous name: two headers contradict each other",
            "Python: other; GNU tar: s",
        ),
        refused(
            "old GNU in a POSIX header",
            old(b"ustar\x0000", &[]),
            "entry \"s\": readers of tar archives disagree about its type",
            "Python: 603 bytes; GNU tar: 515 bytes",
        ),
        refused(
            "old GNU with a size in PAX",
            old(b"ustar  \0", &[("size", b"515")]),
            "entry \"s\": readers of tar archives disagree about the size of a sparse file",
            "Python: 515 bytes; GNU tar: 603 bytes",
        ),
        refused(
            "old GNU with a map in PAX",
            old(b"ustar  \0", &[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0,515")]),
            "entry \"s\": damaged sparse map: two maps",
            "Python: one of them; GNU tar refuses",
        ),
        refused(
            "extents of odd lengths",
            described(&[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"2,1,5,2")], b"abc"),
            "entry \"s\": readers of tar archives disagree about where an extent that is no multiple of 512 bytes ends",
            "GNU tar pads each of them",
        ),
        refused("a size without a map", described(&[("GNU.sparse.size", b"5")], b""), no_map, "Python: 5 bytes"),
        refused("a real size without a map", described(&[("GNU.sparse.realsize", b"3")], b"abc"), no_map, {
            "both: 3 bytes; Go does not look at it"
        }),
        refused("a map of nothing", described(&[("GNU.sparse.numblocks", b"0")], b""), no_map, "GNU tar refuses"),
        refused(
            "half a version",
            described(&[("GNU.sparse.major", b"1")], b"abc"),
            "entry \"s\": damaged sparse map: unknown version",
            "Python: 3 bytes; GNU tar refuses",
        ),
    ]);
}
