//! Ways out of a directory that unpackers have fallen for. Here there is no outside: each leads to a place in the tree.
//!
//! The names are those of the cases that containerd collected (`TestBreakouts`); CVE-2018-20990, CVE-2021-29136,
//! CVE-2021-32760, CVE-2021-38511, CVE-2025-47290 and CVE-2026-33056 are among them.

use crate::cases::{Case, case, t};
use crate::tar::Header;

pub(crate) fn breakouts() -> Vec<Case> {
    [symlinks(), hard_links(), directories(), whiteouts()].into_iter().flatten().collect()
}

fn symlinks() -> Vec<Case> {
    vec![
        case(
            "SymlinkAbsolute",
            [t().dir("etc").file("etc/passwd", "inside").symlink("local", "/etc").file("local/unbroken", "x")],
            Ok("/etc d\n/etc/passwd f \"inside\"\n/etc/unbroken f \"x\"\n/local l \"/etc\""),
        ),
        case(
            "SymlinkUpAndOut",
            [t().dir("etc").symlink("dir", "../../../../../../etc").file("dir/passwd", "x")],
            Ok("/dir l \"../../../../../../etc\"\n/etc d\n/etc/passwd f \"x\""),
        ),
        case(
            "SymlinkMultipleAbsolute",
            [t().dir("etc").symlink("one", "/two").symlink("two", "/etc").file("one/f", "x")],
            Ok("/etc d\n/etc/f f \"x\"\n/one l \"/two\"\n/two l \"/etc\""),
        ),
        case(
            "SymlinkMultipleRelative",
            [t().dir("a/etc").symlink("a/one", "../../../a/two").symlink("a/two", "./etc").file("a/one/f", "x")],
            Ok("/a d\n/a/etc d\n/a/etc/f f \"x\"\n/a/one l \"../../../a/two\"\n/a/two l \"./etc\""),
        ),
        case(
            "SymlinkEmptyFile",
            [t().dir("etc").file("etc/emptied", "notempty").symlink("link", "/etc/emptied"), t().file("link", "")],
            Ok("/etc d\n/etc/emptied f \"notempty\"\n/link f \"\""),
        ),
        case(
            "SymlinkParentDirectory",
            [t().dir("dir").symlink("dir/up", "..").file("dir/up/dir/up/f", "x")],
            Ok("/dir d\n/dir/up l \"..\"\n/f f \"x\""),
        ),
        case(
            "SymlinkParentRelative",
            [t().dir("dir/sub").symlink("dir/sub/up", "../..").file("dir/sub/up/f", "x")],
            Ok("/dir d\n/dir/sub d\n/dir/sub/up l \"../..\"\n/f f \"x\""),
        ),
        case(
            "SymlinkEmptyFilename",
            [t().dir("dir").symlink("", "dir").file("dir/f", "x")],
            Err("entry \"\": only a directory can take the place of the root"),
        ),
        case(
            "SymlinkSlashEnded",
            [t().dir("dir").symlink("dir/", "/etc").file("dir/f", "x")],
            Ok("/dir l \"/etc\"\n/etc d\n/etc/f f \"x\""),
        ),
        case(
            "SymlinkOverridePath",
            [t().dir("dir").file("dir/old", "1").symlink("dir", "other").file("dir/new", "2")],
            Ok("/dir l \"other\"\n/other d\n/other/new f \"2\""),
        ),
        case(
            "SymlinkOverrideDirectory",
            [t().file("usr/lib/a", "1").file("lib/b", "2"), t().symlink("lib", "/usr/lib").file("lib/c", "3")],
            Ok("/lib l \"/usr/lib\"\n/usr d\n/usr/lib d\n/usr/lib/a f \"1\"\n/usr/lib/c f \"3\""),
        ),
        case(
            "SymlinkOverrideDirectoryRelative",
            [t().file("usr/lib/a", "1").file("lib/b", "2"), t().symlink("lib", "./usr/lib").file("lib/c", "3")],
            Ok("/lib l \"./usr/lib\"\n/usr d\n/usr/lib d\n/usr/lib/a f \"1\"\n/usr/lib/c f \"3\""),
        ),
        case(
            "device through a symbolic link",
            [t().symlink("dev", "/proc/../../dev2").header(Header::new(b'4', b"dev/sda").device(8, 0))],
            Ok("/dev l \"/proc/../../dev2\"\n/dev2 d\n/dev2/sda b 8:0"),
        ),
        case(
            "/dev is a symbolic link into proc",
            [t().symlink("dev", "/proc/self/fd").file("dev/7", "x")],
            Ok("/dev l \"/proc/self/fd\"\n/proc d\n/proc/self d\n/proc/self/fd d\n/proc/self/fd/7 f \"x\""),
        ),
        case(
            "a mode for what a symbolic link points at",
            [t().header(Header::new(b'0', b"secret").mode(0o600))
                .symlink("s", "secret")
                .header(Header::new(b'5', b"s").mode(0o777))],
            Ok("/s d 0777\n/secret f \"\" 0600"),
        ),
    ]
}

fn hard_links() -> Vec<Case> {
    vec![
        case(
            "HardlinkRelative",
            [t().dir("b").symlink("b/localfile", "../etc/passwd").link("b/link", "b/localfile").file("b/link", "x")],
            Ok("/b d\n/b/link f \"x\"\n/b/localfile l \"../etc/passwd\""),
        ),
        case(
            "HardlinkDownAndOut",
            [t().file("dir/f", "1").link("dir/g", "dir/../../dir/f")],
            Ok("/dir d\n/dir/f f \"1\"\n/dir/g f \"1\" = /dir/f"),
        ),
        case(
            "HardlinkAbsolute",
            [t().file("f", "1").symlink("s", "/").link("g", "/s/f")],
            Ok("/f f \"1\"\n/g f \"1\" = /f\n/s l \"/\""),
        ),
        case(
            "HardlinkRelativeLong",
            [t().symlink("link", "../../../../../../../../../etc/passwd").link("hard", "link").file("hard", "x")],
            Ok("/hard f \"x\"\n/link l \"../../../../../../../../../etc/passwd\""),
        ),
        case(
            "HardlinkRelativeUpAndOut",
            [t().link("hard", "../../../../../../etc/passwd")],
            Err("layer 0, entry \"hard\": hard link to \"etc/passwd\", which does not exist"),
        ),
        case(
            "HardlinkDirectRelative",
            [t().link("hard", "../../../../../etc/passwd").file("hard", "x")],
            Err("layer 0, entry \"hard\": hard link to \"etc/passwd\", which does not exist"),
        ),
        case(
            "HardlinkDirectAbsolute",
            [t().link("hard", "/etc/passwd").file("hard", "x")],
            Err("layer 0, entry \"hard\": hard link to \"etc/passwd\", which does not exist"),
        ),
        case(
            "HardlinkSymlinkBeforeCreateTarget",
            [t().dir("etc").symlink("local", "/etc/passwd").link("local2", "local").file("etc/passwd", "x")],
            Ok("/etc d\n/etc/passwd f \"x\"\n/local l \"/etc/passwd\"\n/local2 l \"/etc/passwd\" = /local"),
        ),
        case(
            "HardlinkSymlinkRelative",
            [t().file("etc/passwd", "1").symlink("local", "./etc/passwd").link("local2", "local").file("local2", "x")],
            Ok("/etc d\n/etc/passwd f \"1\"\n/local l \"./etc/passwd\"\n/local2 f \"x\""),
        ),
        case(
            "HardlinkSymlinkAbsolute",
            [t().file("etc/passwd", "1").symlink("local", "/etc/passwd").link("local2", "local").file("local2", "x")],
            Ok("/etc d\n/etc/passwd f \"1\"\n/local l \"/etc/passwd\"\n/local2 f \"x\""),
        ),
        case(
            "HardlinkSymlinkChmod",
            [t().header(Header::new(b'0', b"passwd").mode(0o600))
                .symlink("local", "/passwd")
                .header(Header::new(b'1', b"local2").link(b"local").mode(0o4777).owner(7, 7))],
            Ok("/local l \"/passwd\"\n/local2 l \"/passwd\" = /local\n/passwd f \"\" 0600"),
        ),
        case(
            "writing to one hard link leaves the other",
            [t().file("a", "1").link("b", "a"), t().file("b", "2")],
            Ok("/a f \"1\"\n/b f \"2\""),
        ),
    ]
}

fn directories() -> Vec<Case> {
    vec![
        case(
            "DirectoryOverrideSymlink",
            [t().file("etc/passwd", "1").symlink("local", "/etc"), t().dir("local").file("local/passwd", "x")],
            Ok("/etc d\n/etc/passwd f \"1\"\n/local d\n/local/passwd f \"x\""),
        ),
        case(
            "DirectoryOverrideSymlinkAndHardlink",
            [
                t().file("etc/passwd", "1").symlink("local", "etc").link("hard", "local"),
                t().dir("local").dir("hard").file("local/a", "2").file("hard/b", "3"),
            ],
            Ok("/etc d\n/etc/passwd f \"1\"\n/hard d\n/hard/b f \"3\"\n/local d\n/local/a f \"2\""),
        ),
        case(
            "a file where a directory was, and a directory where a file was",
            [t().file("a/b", "1").file("c", "2"), t().file("a", "3").file("c/d", "4")],
            Err("layer 1, entry \"c/d\": \"c\" is not a directory"),
        ),
        case(
            "a directory that is said to be one first",
            [t().file("a/b", "1").file("c", "2"), t().file("a", "3").dir("c").file("c/d", "4")],
            Ok("/a f \"3\"\n/c d\n/c/d f \"4\""),
        ),
        case(
            "busybox's symbolic link replaced by a file of coreutils",
            [t().file("bin/busybox", "box").symlink("bin/ls", "busybox"), t().file("bin/ls", "ls")],
            Ok("/bin d\n/bin/busybox f \"box\"\n/bin/ls f \"ls\""),
        ),
        case(
            "files below /bin after /bin became a symbolic link",
            [t().file("usr/bin/a", "1").symlink("bin", "usr/bin"), t().file("bin/b", "2").file("usr/bin/c", "3")],
            Ok("/bin l \"usr/bin\"\n/usr d\n/usr/bin d\n/usr/bin/a f \"1\"\n/usr/bin/b f \"2\"\n/usr/bin/c f \"3\""),
        ),
    ]
}

fn whiteouts() -> Vec<Case> {
    let etc = || t().dir("etc").file("etc/passwd", "1");
    let kept = Ok("/etc d\n/etc/passwd f \"1\"");
    vec![
        case("WhiteoutRootParent", [etc(), t().file("../.wh.etc", "")], Ok("")),
        case("WhiteoutParent", [etc().dir("dir"), t().file("dir/../.wh.etc", "")], Ok("/dir d")),
        case("WhiteoutRoot", [etc(), t().file(".wh.", "")], Err("entry \".wh.\": a whiteout of nothing")),
        case(
            "WhiteoutCurrentDirectory",
            [etc(), t().file("etc/.wh..", "")],
            Err("entry \"etc/.wh..\": a whiteout of nothing"),
        ),
        case("whiteout of the parent", [etc(), t().file("etc/.wh...", "")], {
            Err("entry \"etc/.wh...\": a whiteout of nothing")
        }),
        case("WhiteoutSymlink", [etc().symlink("local", "/etc"), t().file(".wh.local", "")], kept),
        case("WhiteoutSymlinkPath", [etc().symlink("local", "/etc"), t().file("local/.wh.passwd", "")], {
            Ok("/etc d\n/local l \"/etc\"")
        }),
        case("WhiteoutDirectoryName", [etc().dir("dir"), t().file(".wh.dir/passwd", "")], {
            Ok("/.wh.dir d\n/.wh.dir/passwd f \"\"\n/dir d\n/etc d\n/etc/passwd f \"1\"")
        }),
        case("WhiteoutDeadSymlinkParent", [etc().symlink("dead", "/gone/away"), t().file("dead/.wh.etc", "")], {
            Ok("/dead l \"/gone/away\"\n/etc d\n/etc/passwd f \"1\"")
        }),
        case("WhiteoutRelativePath", [etc().dir("dir"), t().file("dir/../dir/../.wh.etc", "")], Ok("/dir d")),
        case("a whiteout through a loop of symbolic links", [etc().symlink("l", "l"), t().file("l/.wh.x", "")], {
            Err("layer 1, entry \"l/x\": too many levels of symbolic links")
        }),
    ]
}
