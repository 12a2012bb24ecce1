//! Odd archives: what each entry means for the tree, by itself and among others. Tables of cases, for more than one test.

mod breakouts;

pub(crate) use breakouts::breakouts;

use crate::cases::{Case, case, t};
use crate::tar::Header;

/// `cap_net_bind_service=ep`, second version.
const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Every case.
pub(crate) fn all() -> Vec<Case> {
    let tables =
        [names_cannot_leave_the_tree(), breakouts(), what_replaces_what(), hard_links(), whiteouts(), attributes()];
    tables.into_iter().flatten().collect()
}

pub(crate) fn names_cannot_leave_the_tree() -> Vec<Case> {
    vec![
        case("empty layer", [t()], Ok("")),
        case("absolute", [t().file("/etc/x", "1")], Ok("/etc d\n/etc/x f \"1\"")),
        case("up and out", [t().file("../../etc/x", "1")], Ok("/etc d\n/etc/x f \"1\"")),
        case("up in the middle", [t().file("a/../b", "1")], Ok("/b f \"1\"")),
        case("dots and slashes", [t().file("./a//b/./c", "1")], Ok("/a d\n/a/b d\n/a/b/c f \"1\"")),
        case(
            "symlink out, then through it",
            [t().symlink("x", "../../outside").file("x/f", "1")],
            Ok("/outside d\n/outside/f f \"1\"\n/x l \"../../outside\""),
        ),
        case(
            "absolute symlink, then through it",
            [t().symlink("x", "/etc").file("x/f", "1")],
            Ok("/etc d\n/etc/f f \"1\"\n/x l \"/etc\""),
        ),
        case(
            "symlink to the root, then through it",
            [t().symlink("x", "/").file("x/f", "1")],
            Ok("/f f \"1\"\n/x l \"/\""),
        ),
        case(
            "chain of symlinks",
            [t().symlink("a", "b/c").symlink("b", "/d/../e").file("a/f", "1")],
            Ok("/a l \"b/c\"\n/b l \"/d/../e\"\n/e d\n/e/c d\n/e/c/f f \"1\""),
        ),
        case(
            "symlink loop as a parent",
            [t().symlink("a", "b").symlink("b", "a").file("a/f", "1")],
            Err("layer 0, entry \"a/f\": too many levels of symbolic links"),
        ),
        case(
            "symlink to itself as a parent",
            [t().symlink("a", "a").file("a/f", "1")],
            Err("layer 0, entry \"a/f\": too many levels of symbolic links"),
        ),
        case("symlink to dots", [t().symlink("a", "./..//./").file("a/f", "1")], Ok("/a l \"./..//./\"\n/f f \"1\"")),
        case(
            "hard link target up and out",
            [t().file("f", "1").link("g", "../../f")],
            Ok("/f f \"1\"\n/g f \"1\" = /f"),
        ),
        case(
            "hard link target through a symlink",
            [t().symlink("s", "/d").file("d/f", "1").link("g", "s/f")],
            Ok("/d d\n/d/f f \"1\"\n/g f \"1\" = /d/f\n/s l \"/d\""),
        ),
        case(
            "hard link to a symlink is to the link itself",
            [t().symlink("s", "/etc/shadow").link("g", "s")],
            Ok("/g l \"/etc/shadow\"\n/s l \"/etc/shadow\" = /g"),
        ),
        case(
            "writing to a symlink replaces it",
            [t().file("f", "1").symlink("s", "f").file("s", "2")],
            Ok("/f f \"1\"\n/s f \"2\""),
        ),
        case(
            "whiteout through a symlink",
            [t().file("d/f", "1").symlink("s", "d"), t().file("s/.wh.f", "")],
            Ok("/d d\n/s l \"d\""),
        ),
        case(
            "file over the root",
            [t().file(".", "1")],
            Err("entry \".\": only a directory can take the place of the root"),
        ),
        case("empty name", [t().file("", "1")], Err("entry \"\": only a directory can take the place of the root")),
        case(
            "symlink over the root",
            [t().symlink("a/..", "x")],
            Err("entry \"a/..\": only a directory can take the place of the root"),
        ),
        case(
            "hard link over the root",
            [t().file("f", "1").link("/", "f")],
            Err("entry \"/\": only a directory can take the place of the root"),
        ),
        case("directories for the root", [t().dir(".").dir("/").dir("./").dir("..").file("f", "1")], Ok("/f f \"1\"")),
        case("symlink to nowhere at all", [t().symlink("s", "")], Err("entry \"s\": a link to nowhere")),
        case("hard link to nowhere at all", [t().link("s", "")], Err("entry \"s\": a link to nowhere")),
        case(
            "newline and invalid UTF-8",
            [t().header(&Header::new(b'0', b"a\nb")).header(&Header::new(b'0', b"\xff"))],
            Ok("/a\\nb f \"\"\n/\u{fffd} f \"\""),
        ),
        case(
            "NUL in a PAX path",
            [t().pax(&[("path", b"a\0b")]).file("x", "")],
            Err("bad tar header at byte 0: malformed PAX record: a NUL byte in a name"),
        ),
    ]
}

pub(crate) fn what_replaces_what() -> Vec<Case> {
    vec![
        case("last duplicate wins", [t().file("f", "1").file("./f", "2")], Ok("/f f \"2\"")),
        case("file replaces directory", [t().file("d/f", "1"), t().file("d", "2")], Ok("/d f \"2\"")),
        case("directory replaces file", [t().file("d", "1"), t().dir("d").file("d/f", "2")], Ok("/d d\n/d/f f \"2\"")),
        case(
            "directory over directory keeps the children and takes the attributes",
            [t().dir("d").file("d/f", "1"), t().header(Header::new(b'5', b"d").mode(0o1777).owner(7, 8))],
            Ok("/d d 1777 7:8\n/d/f f \"1\""),
        ),
        case(
            "file replaces a lower symlink",
            [t().file("t", "1").symlink("s", "t"), t().file("s", "2")],
            Ok("/s f \"2\"\n/t f \"1\""),
        ),
        case(
            "directory replaces a lower symlink to a directory",
            [t().file("usr/lib/x", "1").symlink("lib", "usr/lib"), t().dir("lib").file("lib/y", "2")],
            Ok("/lib d\n/lib/y f \"2\"\n/usr d\n/usr/lib d\n/usr/lib/x f \"1\""),
        ),
        case(
            "names below a lower symlink to a directory follow it",
            [t().file("usr/lib/x", "1").symlink("lib", "usr/lib"), t().file("lib/y", "2").dir("lib/z")],
            Ok("/lib l \"usr/lib\"\n/usr d\n/usr/lib d\n/usr/lib/x f \"1\"\n/usr/lib/y f \"2\"\n/usr/lib/z d"),
        ),
        case(
            "replacing the symlink that names went through",
            [t().dir("a").symlink("s", "a").file("s/1", "1").symlink("s", "b").file("s/2", "2")],
            Ok("/a d\n/a/1 f \"1\"\n/b d\n/b/2 f \"2\"\n/s l \"b\""),
        ),
        case(
            "a file is no directory",
            [t().file("f", "1").file("f/g", "2")],
            Err("layer 0, entry \"f/g\": \"f\" is not a directory"),
        ),
        case(
            "a lower file is no directory",
            [t().file("a/f", "1"), t().file("a/f/g/h", "2")],
            Err("layer 1, entry \"a/f/g/h\": \"a/f\" is not a directory"),
        ),
        case(
            "trailing slash on a file",
            [t().file("f/", "1")],
            Err("entry \"f/\": readers of tar archives disagree about a file whose name ends with a slash"),
        ),
        case("V7 directory", [t().header(Header::new(0, b"d/").field(257, &[0; 8]).mode(0o755))], Ok("/d d")),
        case(
            "contiguous file and old file types",
            [t().header(&Header::new(b'7', b"a")).header(&Header::new(0, b"b"))],
            Ok("/a f \"\"\n/b f \"\""),
        )
        .unlike_umoci("it does not know type 7, which POSIX has readers take for a file"),
        case(
            "directory with a size has no content",
            [t().header(Header::new(b'5', b"d").mode(0o755).size(512)).file("f", "1")],
            Ok("/d d\n/f f \"1\""),
        ),
    ]
}

pub(crate) fn hard_links() -> Vec<Case> {
    vec![
        case("across layers", [t().file("f", "1"), t().link("g", "f")], Ok("/f f \"1\"\n/g f \"1\" = /f")),
        case(
            "the target is replaced afterwards",
            [t().file("f", "1"), t().link("g", "f").file("f", "2")],
            Ok("/f f \"2\"\n/g f \"1\""),
        ),
        case(
            "to a later entry",
            [t().link("g", "f").file("f", "1")],
            Err("layer 0, entry \"g\": hard link to \"f\", which does not exist"),
        ),
        case(
            "to a whiteout",
            [t().file("f", "1"), t().file(".wh.f", "").link("g", "f")],
            Err("layer 1, entry \"g\": hard link to \"f\", which does not exist"),
        ),
        case(
            "below a file",
            [t().file("f", "1").link("g", "f/h")],
            Err("layer 0, entry \"g\": hard link to \"f/h\", which does not exist"),
        ),
        case(
            "to a directory",
            [t().dir("d").link("g", "d")],
            Err("layer 0, entry \"g\": hard link to \"d\", which is a directory"),
        ),
        case(
            "to the root",
            [t().link("g", "/")],
            Err("layer 0, entry \"g\": hard link to \"/\", which is a directory"),
        ),
        case("to itself", [t().file("f", "1").link("f", "f")], Ok("/f f \"1\""))
            .unlike_umoci("it removes the name before it links"),
        case(
            "to itself, missing",
            [t().link("f", "f")],
            Err("layer 0, entry \"f\": hard link to \"f\", which does not exist"),
        ),
        case("over a directory that holds the target", [t().file("d/f", "1").link("d", "d/f")], Ok("/d f \"1\""))
            .unlike_umoci("it removes the name before it links"),
        case(
            "with a size, which means nothing",
            [t().file("f", "1").header(Header::new(b'1', b"g").link(b"f").size(99)).file("h", "2")],
            Ok("/f f \"1\"\n/g f \"1\" = /f\n/h f \"2\""),
        ),
    ]
}

pub(crate) fn whiteouts() -> Vec<Case> {
    let lower = || t().dir("d").file("d/a", "1").file("d/b", "2").file("d/e/f", "3").file("z", "4");
    vec![
        case(
            "of a file",
            [lower(), t().file("d/.wh.a", "")],
            Ok("/d d\n/d/b f \"2\"\n/d/e d\n/d/e/f f \"3\"\n/z f \"4\""),
        ),
        case("of a directory", [lower(), t().file(".wh.d", "")], Ok("/z f \"4\"")),
        case(
            "of nothing that exists",
            [lower(), t().file(".wh.q", "").file("q/r/.wh.s", "").file("z/.wh.y", "")],
            Ok("/d d\n/d/a f \"1\"\n/d/b f \"2\"\n/d/e d\n/d/e/f f \"3\"\n/z f \"4\""),
        ),
        case(
            "then added again",
            [lower(), t().file(".wh.d", "").file("d/n", "5")],
            Ok("/d d\n/d/n f \"5\"\n/z f \"4\""),
        ),
        case(
            "of what the layer already added",
            [lower(), t().file("d/n", "5").file(".wh.d", "").file(".wh.z", "").file("z", "6")],
            Ok("/d d\n/d/n f \"5\"\n/z f \"6\""),
        ),
        case("does not hide its own layer", [t().file("f", "1").file(".wh.f", "")], Ok("/f f \"1\"")),
        case(
            "opaque directory",
            [lower(), t().file("d/.wh..wh..opq", "").file("d/n", "5")],
            Ok("/d d\n/d/n f \"5\"\n/z f \"4\""),
        ),
        case(
            "opaque mark after the additions",
            [lower(), t().file("d/n", "5").file("d/e/g", "6").file("d/.wh..wh..opq", "")],
            Ok("/d d\n/d/e d\n/d/e/g f \"6\"\n/d/n f \"5\"\n/z f \"4\""),
        ),
        case("opaque root", [lower(), t().file(".wh..wh..opq", "").file("n", "5")], Ok("/n f \"5\"")),
        case(
            "opaque directory that does not exist",
            [lower(), t().file("q/.wh..wh..opq", "")],
            Ok("/d d\n/d/a f \"1\"\n/d/b f \"2\"\n/d/e d\n/d/e/f f \"3\"\n/z f \"4\""),
        ),
        case(
            "of the directory itself",
            [lower(), t().file("d/.wh..", "")],
            Err("entry \"d/.wh..\": a whiteout of nothing"),
        ),
        case("of the parent", [lower(), t().file("d/.wh...", "")], Err("entry \"d/.wh...\": a whiteout of nothing")),
        case("of the empty name", [lower(), t().file(".wh.", "")], Err("entry \".wh.\": a whiteout of nothing")),
        case(
            "of any type, content ignored",
            [t().file("f", "1").file("g", "1"), t().dir(".wh.f").file(".wh.g", "junk")],
            Ok(""),
        ),
        case(
            "of a symlink takes the link",
            [t().file("f", "1").symlink("s", "f"), t().file(".wh.s", "")],
            Ok("/f f \"1\""),
        ),
        case("of one of two hard links", [t().file("f", "1").link("g", "f"), t().file(".wh.f", "")], Ok("/g f \"1\"")),
        case(
            "what AUFS left behind",
            [t().dir(".wh..wh.plnk").file(".wh..wh.plnk/1.2", "x").file(".wh..wh.aufs", "").file("f", "1")],
            Ok("/f f \"1\""),
        )
        .unlike_umoci("it keeps it; Docker and containerd do not"),
        case(
            "0:0 is a device like any other, as for umoci",
            [t().header(Header::new(b'3', b"f").device(0, 0))],
            Ok("/f c 0:0"),
        ),
    ]
}

pub(crate) fn attributes() -> Vec<Case> {
    let big = |field: usize, bytes: &[u8]| t().header(Header::new(b'0', b"f").field(field, bytes));
    vec![
        case(
            "setuid, setgid, sticky, and no bits above",
            [t().header(Header::new(b'0', b"f").mode(0o107_777))],
            Ok("/f f \"\" 7777"),
        ),
        case(
            "devices and pipes",
            [t().header(Header::new(b'4', b"b").device(8, 0))
                .header(Header::new(b'3', b"c").device(4095, 1_048_575))
                .header(&Header::new(b'6', b"etc/passwd"))],
            Ok("/b b 8:0\n/c c 4095:1048575\n/etc d\n/etc/passwd p"),
        ),
        case(
            "device number out of range",
            [t().header(Header::new(b'4', b"b").device(4096, 0))],
            Err("entry \"b\": the device number is out of range"),
        ),
        case("owner in base 256", [big(108, b"\x80\0\0\0\xff\xff\xff\xfe")], Ok("/f f \"\" 4294967294:0")),
        case(
            "owner that means none",
            [big(108, b"\x80\0\0\0\xff\xff\xff\xff")],
            Err("entry \"f\": the uid is out of range"),
        ),
        case("owner of 2^63", [big(116, b"\x80\x80\0\0\0\0\0\0")], Err("entry \"f\": the gid is out of range")),
        case(
            "negative owner",
            [big(108, b"\xff\xff\xff\xff\xff\xff\xff\xff")],
            Err("entry \"f\": the uid is out of range"),
        ),
        case(
            "owner in PAX beyond 32 bits",
            [t().pax(&[("uid", b"4294967296")]).file("f", "")],
            Err("entry \"f\": the uid is out of range"),
        ),
        case("garbage for an owner", [big(108, b"1234x\0\0\0")], Err("entry \"f\": the uid field is not a number")),
        case("garbage for a mode", [big(100, b"rwxr-xr-")], Err("entry \"f\": the mode field is not a number")),
        case("time before 1970", [t().pax(&[("mtime", b"-1.5")]).file("f", "")], Ok("/f f \"\" @-2.500000000")),
        case(
            "negative time in base 256",
            [big(136, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")],
            Ok("/f f \"\" @-1.000000000"),
        ),
        case(
            "time after 9999 with nanoseconds",
            [t().pax(&[("mtime", b"253402300800.123456789")]).file("f", "")],
            Ok("/f f \"\" @253402300800.123456789"),
        )
        .unlike_umoci("the file system that it unpacks to ends in 2446"),
        case(
            "capabilities and others",
            [t().pax(&[("SCHILY.xattr.security.capability", CAPABILITY), ("SCHILY.xattr.user.a", b"1")]).file("f", "")],
            Ok(
                "/f f \"\" {\"security.capability\": \"\\\\x01\\\\x00\\\\x00\\\\x02\\\\x00\\\\x04\\\\x00\\\\x00\\\\x00\\\\x00\\\\x00\\\\x00\\\\x00\\\\x00\\\\x00\\\\x00\\\\x00\\\\x00\\\\x00\\\\x00\", \"user.a\": \"1\"}",
            ),
        ),
        case(
            "an empty attribute",
            [t().pax(&[("SCHILY.xattr.user.a", b"")]).file("f", "")],
            Ok("/f f \"\" {\"user.a\": \"\"}"),
        )
        .unlike_umoci("Go takes an empty record for none; GNU tar and libarchive set it"),
        case(
            "attributes that mean something to overlayfs",
            [t().pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y"), ("SCHILY.xattr.trusted.x", b"1")]).dir("d")],
            Ok("/d d {\"trusted.x\": \"1\"}"),
        ),
        case(
            "user attributes on a symlink",
            [t().pax(&[("SCHILY.xattr.user.a", b"1"), ("SCHILY.xattr.unknown", b"1")]).symlink("s", "t")],
            Ok("/s l \"t\""),
        )
        .unlike_umoci("Linux has no such attributes, and it fails for that; containerd goes on"),
        case(
            "attribute of 64 KiB",
            [t().pax(&[("SCHILY.xattr.user.a", &[b'x'; 65_536])]).file("f", "")],
            Err("entry \"f\": an extended attribute is longer than 65535 bytes"),
        ),
        case(
            "1,000 attributes of 200 bytes",
            [(0..1000).map(|at| (format!("SCHILY.xattr.user.{at}"), [b'x'; 200])).fold(
                Vec::new(),
                |mut body, (key, value)| {
                    body.extend(crate::tar::pax_record(&key, &value));
                    body
                },
            )]
            .map(|body| t().special(b'x', &body).file("f", "")),
            Err("entry \"f\": more than 128 KiB of extended attributes"),
        ),
        case(
            "attribute name of 256 bytes",
            [t().pax(&[(&format!("SCHILY.xattr.user.{}", "n".repeat(251)), b"")]).file("f", "")],
            Err("entry \"f\": an extended attribute has a name that is none"),
        ),
        case(
            "global header",
            [t().pax_of(b'g', &[("comment", b"x"), ("uid", b"5"), ("SCHILY.xattr.user.a", b"1")])
                .file("f", "")
                .pax(&[("uid", b"6")])
                .file("g", "")],
            Ok("/f f \"\" 5:0 {\"user.a\": \"1\"}\n/g f \"\" 6:0 {\"user.a\": \"1\"}"),
        )
        .unlike_umoci("it does not know them; Docker and containerd skip them"),
        case(
            "global path",
            [t().pax_of(b'g', &[("path", b"x")]).file("f", "")],
            Err("bad tar header at byte 0: a global PAX header sets path"),
        ),
    ]
}
