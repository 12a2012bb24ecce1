//! Odd and hostile archives, each with the exact tree or the exact error that it gives.
//!
//! A tree is written as one line for each name: type, mode, owner and time where they are not the default, path, and
//! what belongs to the type. Names of one inode say so.

#![allow(missing_docs)]

mod tar;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use layer::{Changeset, FileSink, InodeId, Kind, Limits, MergedTree, Timestamp, merge, read_layer};
use tar::{Header, Tar};

/// What the layers make together, or the first error with its causes.
fn tree_of(layers: &[Vec<u8>]) -> Result<String, String> {
    tree_within(layers, &Limits::default())
}

fn tree_within(layers: &[Vec<u8>], limits: &Limits) -> Result<String, String> {
    let mut changesets = Vec::new();
    let mut data = Vec::new();
    for layer in layers {
        let mut sink = FileSink::new(tempfile::tempfile().unwrap());
        let mut input = &layer[..];
        let changeset = read_layer(&mut input, &mut sink, limits).map_err(|error| chain(&error))?;
        assert!(input.is_empty(), "an archive is read to its end");
        assert_eq!(Changeset::decode(changeset.encode().to_vec(), limits).unwrap(), changeset);
        changesets.push(changeset);
        data.push(sink.into_file());
    }
    let tree = merge(&changesets, limits).map_err(|error| chain(&error))?;
    Ok(describe(&tree, &data))
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        write!(text, ": {error}").unwrap();
        source = error.source();
    }
    text
}

fn describe(tree: &MergedTree<'_>, data: &[File]) -> String {
    let mut lines = BTreeMap::new();
    let mut pending = vec![(InodeId::ROOT, Vec::new())];
    while let Some((directory, path)) = pending.pop() {
        for (name, id) in tree.entries(directory) {
            let path = [&path[..], b"/", name].concat();
            let merged = tree.inode(id);
            let inode = &merged.inode;
            let what = match inode.kind {
                Kind::Directory => {
                    pending.push((id, path.clone()));
                    String::from("d")
                }
                Kind::File(content) if content.size > 64 => format!("f {} bytes", content.size),
                Kind::File(content) => {
                    let mut bytes = vec![0; usize::try_from(content.size).unwrap()];
                    data[merged.layer].read_exact_at(&mut bytes, content.offset).unwrap();
                    format!("f {:?}", String::from_utf8_lossy(&bytes))
                }
                Kind::Symlink(target) => format!("l {:?}", String::from_utf8_lossy(target)),
                Kind::CharDevice(device) => format!("c {}:{}", device.major, device.minor),
                Kind::BlockDevice(device) => format!("b {}:{}", device.major, device.minor),
                Kind::Fifo => String::from("p"),
            };
            let mut line = what;
            let default_mode = match inode.kind {
                Kind::Directory => 0o755,
                Kind::Symlink(_) => 0o777,
                _ => 0o644,
            };
            if inode.mode != default_mode {
                write!(line, " {:04o}", inode.mode).unwrap();
            }
            if (inode.uid, inode.gid) != (0, 0) {
                write!(line, " {}:{}", inode.uid, inode.gid).unwrap();
            }
            if inode.mtime != Timestamp::default() {
                write!(line, " @{}.{:09}", inode.mtime.seconds, inode.mtime.nanoseconds).unwrap();
            }
            if !inode.xattrs.is_empty() {
                write!(line, " {:?}", inode.xattrs).unwrap();
            }
            lines.insert(path, (id, line));
        }
    }
    let mut text = String::new();
    let mut first_names = BTreeMap::new();
    for (path, (id, line)) in lines {
        let path = String::from_utf8_lossy(&path).escape_debug().to_string();
        let first = first_names.entry(id).or_insert_with(|| path.clone());
        let same = if *first == path { String::new() } else { format!(" = {first}") };
        writeln!(text, "{path} {line}{same}").unwrap();
    }
    text
}

/// Layers as archives, and what they make: lines of a tree, or an error.
struct Case {
    name: &'static str,
    layers: Vec<Vec<u8>>,
    expected: Result<&'static str, &'static str>,
}

fn case(
    name: &'static str,
    layers: impl IntoIterator<Item = Tar>,
    expected: Result<&'static str, &'static str>,
) -> Case {
    Case { name, layers: layers.into_iter().map(Tar::end).collect(), expected }
}

fn raw(name: &'static str, layer: Vec<u8>, expected: Result<&'static str, &'static str>) -> Case {
    Case { name, layers: vec![layer], expected }
}

fn check(cases: Vec<Case>) {
    let mut wrong = String::new();
    for Case { name, layers, expected } in cases {
        let found = tree_of(&layers);
        let same = match (&found, expected) {
            (Ok(found), Ok(expected)) => {
                found.lines().eq(expected.lines().map(str::trim).filter(|line| !line.is_empty()))
            }
            (Err(found), Err(expected)) => found == expected,
            _ => false,
        };
        if !same {
            write!(wrong, "\n{name}\n  expected {expected:?}\n  found    {found:?}\n").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn t() -> Tar {
    Tar::new()
}

#[test]
fn names_cannot_leave_the_tree() {
    check(vec![
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
            Err("no tar header at byte 0: malformed PAX record: a NUL byte in a name"),
        ),
    ]);
}

#[test]
fn what_replaces_what() {
    check(vec![
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
        case("trailing slash on a file", [t().file("f/", "1")], Ok("/f f \"1\"")),
        case("V7 directory", [t().header(Header::new(0, b"d/").field(257, &[0; 8]).mode(0o755))], Ok("/d d")),
        case(
            "contiguous file and old file types",
            [t().header(&Header::new(b'7', b"a")).header(&Header::new(0, b"b"))],
            Ok("/a f \"\"\n/b f \"\""),
        ),
        case(
            "directory with a size has no content",
            [t().header(Header::new(b'5', b"d").mode(0o755).size(512)).file("f", "1")],
            Ok("/d d\n/f f \"1\""),
        ),
    ]);
}

#[test]
fn hard_links() {
    let chain_of_1000 = (1..1000).fold(t().file("0", "x"), |tar, at| tar.link(&at.to_string(), &(at - 1).to_string()));
    let [tree] = [tree_of(&[chain_of_1000.end()]).unwrap()];
    assert_eq!((tree.lines().count(), tree.lines().filter(|line| line.ends_with("f \"x\" = /0")).count()), (1000, 999));
    check(vec![
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
        case("to itself", [t().file("f", "1").link("f", "f")], Ok("/f f \"1\"")),
        case(
            "to itself, missing",
            [t().link("f", "f")],
            Err("layer 0, entry \"f\": hard link to \"f\", which does not exist"),
        ),
        case("over a directory that holds the target", [t().file("d/f", "1").link("d", "d/f")], Ok("/d f \"1\"")),
        case(
            "with a size, which means nothing",
            [t().file("f", "1").header(Header::new(b'1', b"g").link(b"f").size(99)).file("h", "2")],
            Ok("/f f \"1\"\n/g f \"1\" = /f\n/h f \"2\""),
        ),
    ]);
}

#[test]
fn whiteouts() {
    let lower = || t().dir("d").file("d/a", "1").file("d/b", "2").file("d/e/f", "3").file("z", "4");
    check(vec![
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
        ),
        case(
            "0:0 is a device like any other, as for umoci",
            [t().header(Header::new(b'3', b"f").device(0, 0))],
            Ok("/f c 0:0"),
        ),
    ]);
}

#[test]
fn attributes() {
    let big = |field: usize, bytes: &[u8]| t().header(Header::new(b'0', b"f").field(field, bytes));
    check(vec![
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
        ),
        case(
            "capabilities and others",
            [t().pax(&[("SCHILY.xattr.security.capability", b"\x01\0\0\x02"), ("SCHILY.xattr.user.a", b"")])
                .file("f", "")],
            Ok("/f f \"\" {\"security.capability\": \"\\\\x01\\\\x00\\\\x00\\\\x02\", \"user.a\": \"\"}"),
        ),
        case(
            "attributes that mean something to overlayfs",
            [t().pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y"), ("SCHILY.xattr.trusted.x", b"1")]).dir("d")],
            Ok("/d d {\"trusted.x\": \"1\"}"),
        ),
        case(
            "user attributes on a symlink",
            [t().pax(&[("SCHILY.xattr.user.a", b"1"), ("SCHILY.xattr.unknown", b"1")]).symlink("s", "t")],
            Ok("/s l \"t\""),
        ),
        case(
            "attribute of 64 KiB",
            [t().pax(&[("SCHILY.xattr.user.a", &[b'x'; 65_536])]).file("f", "")],
            Err("entry \"f\": an extended attribute is longer than 65535 bytes"),
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
        ),
        case(
            "global path",
            [t().pax_of(b'g', &[("path", b"x")]).file("f", "")],
            Err("no tar header at byte 0: a global PAX header sets path"),
        ),
    ]);
}

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
    assert!(name(&"d/".repeat(10_000)).unwrap_err().ends_with("the path is longer than 4095 bytes"));
    check(vec![
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
            Err("no tar header at byte 1024: two PAX headers for one member"),
        ),
        case(
            "two long names",
            [t().special(b'L', b"x\0").special(b'L', b"y\0").file("short", "")],
            Err("no tar header at byte 1024: two GNU long name headers for one member"),
        ),
        case(
            "PAX header for nothing",
            [t().pax(&[("path", b"x")])],
            Err("no tar header at byte 1024: the archive ends after a header that describes the next member"),
        ),
        case(
            "PAX length lies",
            [t().special(b'x', b"99 path=x\n").file("short", "")],
            Err("no tar header at byte 0: malformed PAX record: longer than its header"),
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
            Err("no tar header at byte 0: a PAX header of more than 1048576 bytes"),
        ),
    ]);
}

#[test]
fn damaged_archives() {
    let whole = t().file("a", "1").file("b", "2");
    let ended = whole.clone().end();
    for length in 1..512 {
        let cut = t().file("a", "1").raw(&ended[..length]).0;
        assert_eq!(tree_of(&[cut]).unwrap_err(), "the archive is truncated: it ends within the header at byte 1024");
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
    check(vec![
        raw("no bytes at all", vec![], Ok("")),
        raw("no end marker", whole.clone().0, both),
        raw("half an end marker", whole.clone().raw(&[0; 512]).0, both),
        raw(
            "a lone zero block",
            whole.clone().raw(&[0; 512]).file("c", "3").end(),
            Err("no tar header at byte 2048: a lone block of zeros in the middle of the archive"),
        ),
        raw("garbage after the end", garbage, both),
        raw("another archive after the end", concatenated, both),
        raw("wrong checksum", bad_checksum, Err("no tar header at byte 0: wrong checksum")),
        raw(
            "no archive",
            b"#!/bin/sh\necho hello, this is no archive\n".repeat(20),
            Err("no tar header at byte 0: wrong checksum"),
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
    check(vec![
        case(
            "0.0",
            [t().pax(&[
                ("GNU.sparse.size", b"9"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.offset", b"2"),
                ("GNU.sparse.numbytes", b"1"),
                ("GNU.sparse.offset", b"5"),
                ("GNU.sparse.numbytes", b"2"),
            ])
            .header(Header::new(b'0', b"s").size(3))
            .body(b"abc")],
            Ok("/s f \"\\0\\0a\\0\\0bc\\0\\0\""),
        ),
        case("0.1", [v01(b"9", b"2,1,5,2")], Ok("/s f \"\\0\\0a\\0\\0bc\\0\\0\"")),
        case("1.0", [v10(b"9", "2\n2\n1\n5\n2\n", 515)], Ok("/s f \"\\0\\0a\\0\\0bc\\0\\0\"")),
        case(
            "old GNU",
            [t().header(
                Header::new(b'S', b"s")
                    .size(3)
                    .field(257, b"ustar  \0")
                    .field(386, b"00000000002\x0000000000001\x0000000000005\x0000000000002\0")
                    .field(483, b"00000000011\0"),
            )
            .body(b"abc")],
            Ok("/s f \"\\0\\0a\\0\\0bc\\0\\0\""),
        ),
        case(
            "map beyond the size",
            [v01(b"6", b"2,1,5,2")],
            Err("entry \"s\": damaged sparse map: an extent lies beyond the end of the file"),
        ),
        case(
            "extents overlap",
            [v01(b"9", b"2,2,3,1")],
            Err("entry \"s\": damaged sparse map: extents overlap or are out of order"),
        ),
        case(
            "extents and content differ",
            [v01(b"9", b"2,1")],
            Err("entry \"s\": damaged sparse map: the extents do not add up to the stored content"),
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
        |at: u8| t().pax(&[("path", [&[b'a' + at][..], b"/", &b"n/".repeat(300)].concat().as_slice())]).file("x", "").0;
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
    let error = read_layer(endless, &mut layer::NullSink::default(), &limits).unwrap_err();
    assert_eq!(chain(&error), "layer has more than 100000 entries");
}
