//! The same bytes through GNU tar, Python's `tarfile` and this crate: all list the same, or this crate refuses.
//!
//! An archive that two readers understand differently can pass a scanner and then run as something else. What only one
//! of the others refuses is harmless, and the rows say so; the few rows where another reader is wrong about an archive
//! that is right, or that old Docker versions wrote, say which one and why it is taken nevertheless.

#![allow(missing_docs)]

mod cases;
mod readers;
mod tar;

use cases::t;
use readers::Reader::{GnuTar, Python};
use readers::{but, compare, contents_line, refused, same};
use tar::Header;

fn file(name: &str) -> Header {
    Header::new(b'0', name.as_bytes())
}

/// A file of three bytes whose size field is this, and a file after it.
fn sized(field: &[u8]) -> Vec<u8> {
    t().header(file("f").field(124, field)).body(b"abc").file("g", "d").end()
}

/// A described file of three bytes whose header says that it has none, and a file after it.
fn described(records: &[(&str, &[u8])]) -> Vec<u8> {
    t().pax(records).header(&file("f")).body(b"abc").file("g", "d").end()
}

#[test]
fn sizes() {
    let three = "f - 3\n g - 1\n \"abcd\"";
    let no_number = "entry \"f\": the size field is not a number";
    let negative = "entry \"f\": the size is out of range";
    let nested = t().file("inner", "x").end();
    let length = nested.len().to_string();
    let smuggled = t().pax(&[("size", length.as_bytes())]).header(&file("f")).body(&nested).file("g", "d").end();
    let smuggled_long = t()
        .pax(&[("size", length.as_bytes())])
        .special(b'L', b"long\0")
        .header(&file("f"))
        .body(&nested)
        .file("g", "d")
        .end();
    let as_content = |name: &str| {
        let contents = contents_line(&[&nested[..], b"d"].concat());
        format!("{name} - 2048\ng - 1\n{contents}")
    };
    compare(&[
        same("octal", sized(b"00000000003\0"), three),
        same("octal without an end", sized(b"000000000003"), three),
        same("octal after spaces", sized(b"          3 "), three),
        same("octal, then a space", sized(b"3           "), three),
        same("base 256", sized(b"\x80\0\0\0\0\0\0\0\0\0\0\x03"), three),
        same("nothing at all", t().header(file("f").field(124, &[0; 12])).end(), "f - 0\n \"\""),
        but(
            "spaces",
            t().header(file("f").field(124, &[b' '; 12])).end(),
            "f - 0\n \"\"",
            GnuTar,
            "refuses: blanks where a number is expected",
        ),
        refused("base 256 beyond 64 bits", sized(b"\x81\0\0\0\0\0\0\0\0\0\0\x03"), no_number, "both refuse"),
        refused("base 256, negative", sized(&[0xff; 12]), negative, "Python: -1"),
        refused("base 256, very negative", sized(b"\xc0\0\0\0\0\0\0\0\0\0\0\x03"), no_number, "both refuse"),
        refused("a NUL, then octal", sized(b"\x0000000000003"), no_number, "Python: 0; GNU tar: 3"),
        refused("a NUL, then spaces", sized(b"\x00          3"), no_number, "Python: 0; GNU tar: 3"),
        refused("octal, then junk", sized(b"3\x00777777777\x00"), no_number, "both: 3; others read on"),
        refused("octal, a space, octal", sized(b"3 7777777777"), no_number, "GNU tar: 3; Python refuses"),
        refused("a digit too high", sized(b"00000000008\0"), no_number, "both refuse"),
        refused("a sign", sized(b"-0000000003\0"), no_number, "Python: -3; GNU tar: base 64"),
        refused("a plus sign", sized(b"+0000000003\0"), no_number, "Python: 3; GNU tar: base 64"),
        refused("a tab", sized(b"\t0000000003\0"), no_number, "both: 3; Go refuses"),
        refused("base 64", sized(b"D\0\0\0\0\0\0\0\0\0\0\0"), no_number, "both refuse"),
        same("in PAX", described(&[("size", b"3")]), three),
        same("in PAX with zeros before", described(&[("size", b"03")]), three),
        same("twice in PAX, the last counts", described(&[("size", b"9"), ("size", b"3")]), three),
        same(
            "zero in PAX",
            t().pax(&[("size", b"0")]).header(file("f").size(512)).file("g", "d").end(),
            "f - 0\n g - 1\n \"d\"",
        ),
        same("an archive in a file whose header says it is empty", smuggled, as_content("f")),
        same("the same, a GNU long name between", smuggled_long, as_content("long")),
        refused(
            "nothing in PAX",
            described(&[("size", b"")]),
            "bad tar header at byte 0: malformed PAX record: not a number",
            "Python: 0; GNU tar refuses; to POSIX the header's size counts",
        ),
        refused(
            "negative in PAX",
            described(&[("size", b"-3")]),
            "bad tar header at byte 0: malformed PAX record: not a number",
            "Python: -3; GNU tar refuses",
        ),
        refused(
            "with a fraction in PAX",
            described(&[("size", b"3.0")]),
            "bad tar header at byte 0: malformed PAX record: not a number",
            "Python: 0; GNU tar refuses",
        ),
        refused(
            "with an underscore in PAX",
            described(&[("size", b"5_1_2")]),
            "bad tar header at byte 0: malformed PAX record: not a number",
            "Python: 512; GNU tar refuses",
        ),
        refused(
            "with a space in PAX",
            described(&[("size", b" 3")]),
            "bad tar header at byte 0: malformed PAX record: not a number",
            "Python: 3; GNU tar refuses",
        ),
        refused(
            "beyond 64 bits in PAX",
            described(&[("size", b"99999999999999999999")]),
            "bad tar header at byte 0: malformed PAX record: not a number",
            "both refuse",
        ),
        refused(
            "in a global header",
            t().pax_of(b'g', &[("size", b"3")]).header(&file("f")).body(b"abc").file("g", "d").end(),
            "bad tar header at byte 0: a global PAX header sets size",
            "Python: one file of three bytes; GNU tar: two",
        ),
    ]);
}

#[test]
fn types_and_their_sizes() {
    let after = |header: &mut Header| t().file("a", "1").header(header).file("f", "2").file("g", "3").end();
    let none = |name: &str| format!("entry {name:?}: readers of tar archives disagree about content of what has none");
    compare(&[
        same(
            "all types",
            t().file("a", "1")
                .dir("d")
                .symlink("s", "x y")
                .link("h", "a")
                .header(Header::new(b'3', b"c").device(1, 3))
                .header(Header::new(b'4', b"b").device(8, 0))
                .header(&Header::new(b'6', b"p"))
                .end(),
            "a - 1\n d d\n s l x y\n h h a\n c c\n b b\n p p\n \"1\"",
        ),
        same(
            "contiguous and oldest files",
            t().header(Header::new(b'7', b"f").size(1)).body(b"1").header(&Header::new(0, b"g")).end(),
            "f - 1\n g - 0\n \"1\"",
        ),
        same("a directory with a size", after(Header::new(b'5', b"d").mode(0o755).size(512)), {
            "a - 1\n d d\n f - 1\n g - 1\n \"123\""
        }),
        same(
            "a directory with a size in PAX",
            t().pax(&[("size", b"512")]).dir("d").file("f", "2").end(),
            "d d\n f - 1\n \"2\"",
        ),
        same("a hard link with a size", after(Header::new(b'1', b"h").link(b"a").size(512)), {
            "a - 1\n h h a\n f - 1\n g - 1\n \"123\""
        }),
        refused(
            "a hard link with a size in PAX",
            t().file("a", "1").pax(&[("size", b"512")]).link("h", "a").file("f", "2").end(),
            &none("h"),
            "GNU tar skips that much, Python does not",
        ),
        refused(
            "a symbolic link with a size",
            after(Header::new(b'2', b"s").link(b"a").size(512)),
            &none("s"),
            "GNU tar skips that much, Python does not",
        ),
        refused(
            "a symbolic link with a size in PAX",
            t().pax(&[("size", b"512")]).symlink("s", "a").file("f", "2").end(),
            &none("s"),
            "GNU tar skips that much, Python does not",
        ),
        refused("a device with a size", after(Header::new(b'3', b"c").size(512)), &none("c"), "as above"),
        refused("a pipe with a size", after(Header::new(b'6', b"p").size(512)), &none("p"), "as above"),
        same("an old directory", t().header(Header::new(0, b"d/").mode(0o755)).file("f", "1").end(), {
            "d d\n f - 1\n \"1\""
        }),
        refused(
            "an old directory with a size",
            t().header(Header::new(0, b"d/").size(3)).body(b"abc").file("f", "1").end(),
            &none("d/"),
            "GNU tar skips that much, Python does not",
        ),
        same("a directory without a slash", t().dir("d").file("d/f", "1").end(), "d d\n d/f - 1\n \"1\""),
        same("a symbolic link with a slash", t().symlink("s/", "a").end(), "s l a\n \"\""),
        refused(
            "a file with a slash",
            t().file("f/", "1").end(),
            "entry \"f/\": readers of tar archives disagree about a file whose name ends with a slash",
            "Python: a file; GNU tar: a directory",
        ),
        refused(
            "a file with a slash in PAX",
            t().pax(&[("path", b"f/")]).file("x", "1").end(),
            "entry \"f/\": readers of tar archives disagree about a file whose name ends with a slash",
            "Python: a file; GNU tar: a directory",
        ),
        refused(
            "an old file with a slash in its GNU long name",
            t().special(b'L', b"f/\0").header(&Header::new(0, b"x")).end(),
            "entry \"f/\": readers of tar archives disagree about its type",
            "Python: a file; GNU tar: a directory",
        ),
        refused(
            "an old directory without a slash in PAX",
            t().pax(&[("path", b"f")]).header(&Header::new(0, b"x/")).end(),
            "entry \"f\": readers of tar archives disagree about its type",
            "Python: a directory; GNU tar: a file",
        ),
        refused(
            "types of one's own",
            t().header(Header::new(b'A', b"f").size(1)).body(b"1").end(),
            "entry \"f\": unsupported type 'A'",
            "both read a file",
        ),
        refused(
            "a volume label",
            t().header(&Header::new(b'V', b"label")).end(),
            "entry \"label\": unsupported type 'V'",
            "Python: a file; GNU tar: a label",
        ),
        refused(
            "a directory as GNU tar dumps it",
            t().header(Header::new(b'D', b"d").size(3)).body(b"Ya\0").end(),
            "entry \"d\": unsupported type 'D'",
            "Python: a file; GNU tar: a directory",
        ),
        refused(
            "a PAX header as Solaris writes it",
            t().special(b'X', b"12 path=abc\n").file("f", "1").end(),
            "entry \"special\": unsupported type 'X'",
            "both take it for a PAX header, Go does not",
        ),
    ]);
}

#[test]
fn names() {
    let gnu = |prefix: &[u8]| t().header(file("f").field(257, b"ustar  \0").field(345, prefix)).end();
    let star = |prefix: &[u8]| {
        let times = b"00000000000 00000000000 ";
        t().header(file("f").field(345, prefix).field(476, times).field(508, b"tar\0")).end()
    };
    let prefix = "entry \"f\": readers of tar archives disagree about the prefix of the name";
    let ambiguous = |name: &str| format!("entry {name:?}: ambiguous name: two headers contradict each other");
    compare(&[
        same("up and out", t().file("../a", "1").file("b/../../c", "2").end(), "a - 1\n c - 1\n \"12\""),
        same("a full field", t().header(&Header::new(b'0', &[b'n'; 100])).end(), "n".repeat(100) + " - 0\n\"\""),
        same("a NUL, then junk", t().header(&file("a\0b")).end(), "a - 0\n \"\""),
        same("a newline and a quote", t().file("a\nb\"c\\", "").end(), "a\\nb\\\"c\\\\ - 0\n \"\""),
        same("no UTF-8", t().header(&Header::new(b'0', b"\xff\xfe")).end(), "\\xff\\xfe - 0\n \"\""),
        refused(
            "none",
            t().file("", "1").end(),
            "entry \"\": only a directory can take the place of the root",
            "both read a file without a name",
        ),
        same("prefix", t().header(file("f").field(345, b"a/b")).end(), "a/b/f - 0\n \"\""),
        same("prefix with a slash", t().header(file("f").field(345, b"a/")).end(), "a/f - 0\n \"\""),
        same(
            "prefix that fills its field",
            t().header(file("f").field(345, &[b'p'; 155])).end(),
            "p".repeat(155) + "/f - 0\n \"\"",
        ),
        same(
            "prefix, and no version",
            t().header(file("f").field(263, b"\0\0").field(345, b"a")).end(),
            "a/f - 0\n \"\"",
        ),
        refused(
            "prefix in a V7 header",
            t().header(file("f").field(257, &[0; 8]).field(345, b"a")).end(),
            prefix,
            "Python reads it, GNU tar does not",
        ),
        refused(
            "prefix with a wrong magic",
            t().header(file("f").field(257, b"garbage!").field(345, b"a")).end(),
            prefix,
            "Python reads it, GNU tar does not",
        ),
        refused(
            "prefix with half of GNU's magic",
            t().header(file("f").field(257, b"ustar 00").field(345, b"a")).end(),
            prefix,
            "Python reads it, GNU tar does not",
        ),
        but("prefix in a GNU header", gnu(b"a/b"), "a/b/f - 0\n \"\"", GnuTar, {
            "does not read it; Go wrote such headers before 1.8, so images of that time have them, and Docker reads them"
        }),
        but("times in a GNU header", gnu(b"14000000000\x0014000000000\0"), "f - 0\n \"\"", Python, {
            "takes them for a prefix; GNU tar writes them with --incremental"
        }),
        same("prefix in a star header", star(b"a/b"), "a/b/f - 0\n \"\""),
        refused("prefix that fills its field in a star header", star(&[b'a'; 131]), prefix, "both read on"),
        same("PAX path", t().pax(&[("path", b"a/b")]).file("x", "1").end(), "a/b - 1\n \"1\""),
        same("PAX path, the last counts", t().pax(&[("path", b"a"), ("path", b"b")]).file("x", "1").end(), {
            "b - 1\n \"1\""
        }),
        same("PAX path without UTF-8", t().pax(&[("path", b"\xff")]).file("x", "1").end(), "\\xff - 1\n \"1\""),
        same(
            "PAX path in binary",
            t().pax(&[("hdrcharset", b"BINARY"), ("path", b"\xff")]).file("x", "1").end(),
            "\\xff - 1\n \"1\"",
        ),
        refused(
            "empty PAX path",
            t().pax(&[("path", b"")]).file("x", "1").end(),
            "bad tar header at byte 0: malformed PAX record: an empty name",
            "both: no name; to POSIX the header's name counts",
        ),
        refused(
            "NUL in a PAX path",
            t().pax(&[("path", b"a\0b")]).file("x", "1").end(),
            "bad tar header at byte 0: malformed PAX record: a NUL byte in a name",
            "Python: all of it; GNU tar: up to the NUL",
        ),
        same("PAX link path", t().pax(&[("linkpath", b"b")]).symlink("a", "x").end(), "a l b\n \"\""),
        same("PAX link path on a file", t().pax(&[("linkpath", b"b")]).file("a", "1").end(), "a - 1\n \"1\""),
        same("GNU long name", t().special(b'L', b"long\0").file("x", "1").end(), "long - 1\n \"1\""),
        same("GNU long name without a NUL", t().special(b'L', b"long").file("x", "1").end(), "long - 1\n \"1\""),
        same("GNU long name, a NUL within", t().special(b'L', b"lo\0ng\0").file("x", "1").end(), "lo - 1\n \"1\""),
        same("GNU long link", t().special(b'K', b"long\0").symlink("a", "x").end(), "a l long\n \"\""),
        same(
            "PAX path and GNU long name agree",
            t().pax(&[("path", b"a")]).special(b'L', b"a\0").file("x", "1").end(),
            "a - 1\n \"1\"",
        ),
        refused(
            "PAX path before a GNU long name",
            t().pax(&[("path", b"a")]).special(b'L', b"b\0").file("x", "1").end(),
            &ambiguous("a"),
            "both: a",
        ),
        refused(
            "PAX path after a GNU long name",
            t().special(b'L', b"b\0").pax(&[("path", b"a")]).file("x", "1").end(),
            &ambiguous("a"),
            "Python: b; GNU tar: a",
        ),
        refused(
            "PAX link path after a GNU long link",
            t().special(b'K', b"b\0").pax(&[("linkpath", b"a")]).symlink("s", "x").end(),
            "entry \"s\": ambiguous link name: two headers contradict each other",
            "Python: b; GNU tar: a",
        ),
        refused(
            "two GNU long names",
            t().special(b'L', b"a\0").special(b'L', b"b\0").file("x", "1").end(),
            "bad tar header at byte 1024: two GNU long name headers for one member",
            "Python: a; GNU tar: b",
        ),
        refused(
            "two PAX headers",
            t().pax(&[("path", b"a")]).pax(&[("size", b"1")]).file("x", "1").end(),
            "bad tar header at byte 1024: two PAX headers for one member",
            "Python: a; GNU tar: x",
        ),
        refused(
            "global path",
            t().pax_of(b'g', &[("path", b"a")]).file("x", "1").file("y", "2").end(),
            "bad tar header at byte 0: a global PAX header sets path",
            "both: two files of that name; Go: x and y",
        ),
        refused(
            "global link path",
            t().pax_of(b'g', &[("linkpath", b"a")]).symlink("s", "x").end(),
            "bad tar header at byte 0: a global PAX header sets linkpath",
            "both: a; Go: x",
        ),
    ]);
}

#[test]
fn other_fields() {
    let field = |at: usize, bytes: &[u8]| t().header(file("f").field(at, bytes)).end();
    let checksum = |write: fn(u32) -> Vec<u8>| {
        let mut block = file("f").block;
        block[148..156].fill(b' ');
        let sum = block.iter().map(|&byte| u32::from(byte)).sum();
        let field = write(sum);
        block[148..][..field.len()].copy_from_slice(&field);
        t().raw(&block).end()
    };
    let signed = {
        let mut block = Header::new(b'0', b"\xff\xfe").block;
        block[148..156].fill(b' ');
        let sum: i32 = block.iter().map(|&byte| i32::from(byte.cast_signed())).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        t().raw(&block).end()
    };
    let junk = |what: &str| format!("entry \"f\": the {what} field is not a number");
    let empty = "f - 0\n \"\"";
    compare(&[
        same("all permission bits", field(100, b"0007777\0"), "f - 0 7777\n \"\""),
        same("bits above permissions", field(100, b"0107755\0"), "f - 0 7755\n \"\""),
        same("owner in base 256", field(108, b"\x80\0\0\0\xff\xff\xff\xfe"), "f - 0 4294967294:0\n \"\""),
        but("owner of spaces", field(108, &[b' '; 8]), empty, GnuTar, "refuses: blanks where a number is expected"),
        refused("mode that is no number", field(100, b"rwxr-xr-"), &junk("mode"), "both refuse"),
        refused("owner that is no number", field(108, b"12x\0\0\0\0\0"), &junk("uid"), "both refuse"),
        refused("time that is no number", field(136, b"junkjunkjunk"), &junk("mtime"), "both refuse"),
        but("device number that is none, of a file", field(329, b"junkjunk"), empty, Python, "refuses"),
        refused(
            "device number that is none",
            t().header(Header::new(b'3', b"f").field(329, b"junkjunk")).end(),
            &junk("device"),
            "both refuse",
        ),
        same("checksum over signed bytes", signed, "\\xff\\xfe - 0\n \"\""),
        same("checksum, a space, a NUL", checksum(|sum| format!("{sum:06o} \0").into()), empty),
        same("checksum of seven digits", checksum(|sum| format!("{sum:07o}\0").into()), empty),
        same("checksum after spaces", checksum(|sum| format!("{sum:>6o}\0 ").into()), empty),
        but(
            "checksum in base 256",
            checksum(|sum| [&[0x80, 0, 0, 0][..], &sum.to_be_bytes()].concat()),
            empty,
            GnuTar,
            "refuses",
        ),
        refused(
            "checksum, then junk",
            checksum(|sum| format!("{sum:06o}\0x").into()),
            "bad tar header at byte 0: wrong checksum",
            "both: f; others read on",
        ),
        refused(
            "checksum that is wrong",
            checksum(|sum| format!("{:06o}\0 ", sum + 1).into()),
            "bad tar header at byte 0: wrong checksum",
            "both refuse",
        ),
    ]);
}

#[test]
fn ends() {
    let one = "a - 1\n \"1\"";
    let lone = |position: &str| {
        format!("bad tar header at byte {position}: a lone block of zeros in the middle of the archive")
    };
    let dangling = "bad tar header at byte 1024: the archive ends after a header that describes the next member";
    compare(&[
        same("none", t().file("a", "1").0, one),
        same("one block of zeros", t().file("a", "1").raw(&[0; 512]).0, one),
        same("two blocks of zeros", t().file("a", "1").end(), one),
        same("twenty blocks of zeros", t().file("a", "1").raw(&[0; 10_240]).0, one),
        same("another archive after it", [t().file("a", "1").end(), t().file("b", "2").end()].concat(), one),
        same("anything after it", [t().file("a", "1").end(), vec![0x55; 777]].concat(), one),
        refused(
            "a lone block of zeros",
            t().file("a", "1").raw(&[0; 512]).file("b", "2").end(),
            &lone("1024, after \"a\""),
            "both: a alone; Go refuses",
        ),
        refused("a lone block of zeros at first", t().raw(&[0; 512]).file("b", "2").end(), &lone("0"), "both: nothing"),
        refused(
            "a block and a half",
            t().file("a", "1").raw(&[0; 700]).0,
            "the archive is truncated: it ends within the header at byte 1536, after \"a\"",
            "both: a",
        ),
        refused(
            "no padding",
            [&file("a").size(3).sealed()[..], b"abc"].concat(),
            "the archive is truncated: it ends within \"a\"",
            "both refuse",
        ),
        refused(
            "a PAX header for nothing",
            t().file("a", "1").pax(&[("path", b"b")]).end(),
            "bad tar header at byte 2048, after \"a\": the archive ends after a header that describes the next member",
            "Python refuses; GNU tar: a",
        ),
        refused("a GNU long name for nothing", t().special(b'L', b"b\0").end(), dangling, "Python refuses"),
    ]);
}
