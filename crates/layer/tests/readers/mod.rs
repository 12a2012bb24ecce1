//! How GNU tar, Python's `tarfile` and this crate list an archive, in one notation.
//!
//! One line for each member: name, cleaned as this crate cleans it, type as `ls` shows it (`h`: hard link) and the size
//! of files or the target of links, then mode and owner where they are not the default. Whiteouts are no more than
//! that. A last line has the contents of all files, one after the other.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use layer::{Change, Inode, Kind, Limits};
use sha2::{Digest, Sha256};

use crate::cases::Layer;
use Reader::{GnuTar, Python};

/// Lists each archive named as an argument.
const PYTHON: &str = r#"
import os, sys, tarfile
kinds = {b"0": "-", b"\0": "-", b"7": "-", b"S": "-", b"1": "h", b"2": "l", b"3": "c", b"4": "b", b"5": "d", b"6": "p"}
for path in sys.argv[1:]:
    contents = b""
    try:
        with tarfile.open(path, "r:", errors="surrogateescape", encoding="utf-8") as archive:
            for member in archive:
                name = os.fsencode(member.name).hex()
                link = os.fsencode(member.linkname).hex() if member.type in b"12" else ""
                kind = kinds.get(member.type, "?")
                print("member", kind, member.size, member.mode & 0o7777, member.uid, member.gid, name or "-", link or "-")
                if member.isreg():
                    contents += archive.extractfile(member).read()
        print("end", contents.hex())
    except Exception as error:
        print("error", type(error).__name__, error)
"#;

/// A reader that this crate is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    Python,
    GnuTar,
}

/// What a reader lists, or its complaint.
type Listing = Result<String, String>;

/// One archive and what is made of it.
pub(crate) struct Row {
    name: &'static str,
    archive: Vec<u8>,
    expected: Result<String, String>,
    /// Readers that need not list the same. The reason is for whoever reads the row.
    apart: Vec<Reader>,
}

/// All readers list this.
pub(crate) fn same(name: &'static str, archive: Vec<u8>, listing: impl Into<String>) -> Row {
    Row { name, archive, expected: Ok(listing.into()), apart: Vec::new() }
}

/// All readers list this, but for one, which is wrong or refuses, for this reason.
pub(crate) fn but(name: &'static str, archive: Vec<u8>, listing: &str, one: Reader, _why: &str) -> Row {
    Row { name, archive, expected: Ok(listing.into()), apart: vec![one] }
}

/// Refused, because the others make this of it.
pub(crate) fn refused(name: &'static str, archive: Vec<u8>, error: &str, _others: &str) -> Row {
    Row { name, archive, expected: Err(error.into()), apart: vec![Python, GnuTar] }
}

pub(crate) fn compare(rows: &[Row]) {
    let directory = tempfile::tempdir().unwrap();
    let archives: Vec<_> = rows.iter().map(|row| row.archive.clone()).collect();
    let paths = write_all(directory.path(), &archives);
    let mut wrong = String::new();
    for ((row, path), by_python) in rows.iter().zip(&paths).zip(python(&paths)) {
        let found = ours(&row.archive);
        let lines = |text: &str| text.split('\n').map(|line| line.trim().to_owned()).collect::<Vec<_>>();
        let as_expected = match (&found, &row.expected) {
            (Ok(found), Ok(expected)) => lines(found) == lines(expected),
            (Err(found), Err(expected)) => found == expected,
            _ => false,
        };
        if !as_expected {
            write!(wrong, "\n{}\n  expected {:?}\n  found    {found:?}\n", row.name, row.expected).unwrap();
        }
        for (reader, listing) in [(Python, by_python), (GnuTar, gnu_tar(path))] {
            if !row.apart.contains(&reader) && listing != found {
                write!(wrong, "\n{}\n  found     {found:?}\n  {reader:?} has {listing:?}\n", row.name).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Checks that the other readers list what this crate lists, or refuse, where this crate does not. How many archives
/// this crate took.
pub(crate) fn agree_or_refuse(archives: &[Vec<u8>]) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let (taken, listings): (Vec<_>, Vec<_>) =
        archives.iter().filter_map(|archive| Some((archive.clone(), ours(archive).ok()?))).unzip();
    let paths = write_all(directory.path(), &taken);
    for ((path, listing), by_python) in paths.iter().zip(&listings).zip(python(&paths)) {
        for other in [by_python, gnu_tar(path)] {
            if other.as_ref().is_ok_and(|other| other != listing) {
                let kept = std::env::temp_dir().join("disputed.tar");
                fs::copy(path, &kept).unwrap();
                panic!("{}:\n  ours   {listing:?}\n  theirs {other:?}", kept.display());
            }
        }
    }
    taken.len()
}

/// What is known of one member.
struct Member<'a> {
    kind: char,
    size: &'a str,
    mode: u16,
    owner: (u64, u64),
    name: &'a [u8],
    target: &'a [u8],
}

impl Member<'_> {
    fn line(&self) -> String {
        let name = clean(self.name);
        if name.rsplit('/').next().is_some_and(|name| name.starts_with(".wh.")) {
            return format!("{name} whiteout\n");
        }
        let mut line = match self.kind {
            '-' => format!("{name} - {}", self.size),
            'h' => return format!("{name} h {}\n", clean(self.target)),
            'l' => format!("{name} l {}", self.target.escape_ascii()),
            other => format!("{name} {other}"),
        };
        let default_mode = match self.kind {
            'd' => 0o755,
            'l' => self.mode,
            _ => 0o644,
        };
        if self.mode != default_mode {
            write!(line, " {:04o}", self.mode).unwrap();
        }
        if self.owner != (0, 0) {
            write!(line, " {}:{}", self.owner.0, self.owner.1).unwrap();
        }
        line + "\n"
    }
}

fn clean(path: &[u8]) -> String {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.join(&b'/').escape_ascii().to_string()
}

/// The last line: the contents, or the digest of long ones.
pub(crate) fn contents_line(contents: &[u8]) -> String {
    match contents.len() {
        ..100 => format!("{:?}", contents.escape_ascii().to_string()),
        length => format!("{length} bytes {:x?}", <[u8; 32]>::from(Sha256::digest(contents))),
    }
}

fn ours(archive: &[u8]) -> Listing {
    let layer = Layer::read(archive, &Limits::default())?;
    let mut list = String::new();
    let mut contents = Vec::new();
    for entry in layer.changeset.entries() {
        let hidden = match entry.change {
            Change::Whiteout => [entry.directory, b"/.wh.", entry.name].concat(),
            Change::Opaque => [entry.directory, b"/.wh..wh..opq"].concat(),
            _ => [entry.directory, b"/", entry.name].concat(),
        };
        let plain = Member { kind: '-', size: "0", mode: 0o644, owner: (0, 0), name: &hidden, target: b"" };
        list += &match entry.change {
            Change::Whiteout | Change::Opaque => plain.line(),
            Change::Link(target) => Member { kind: 'h', target, ..plain }.line(),
            Change::Inode(Inode { mode, uid, gid, kind, .. }) => {
                let plain = Member { mode, owner: (uid.into(), gid.into()), ..plain };
                match kind {
                    Kind::Directory => Member { kind: 'd', ..plain }.line(),
                    Kind::Symlink(target) => Member { kind: 'l', target, ..plain }.line(),
                    Kind::CharDevice(_) => Member { kind: 'c', ..plain }.line(),
                    Kind::BlockDevice(_) => Member { kind: 'b', ..plain }.line(),
                    Kind::Fifo => Member { kind: 'p', ..plain }.line(),
                    Kind::File(content) => {
                        contents.extend(layer.content(content));
                        Member { size: &content.size.to_string(), ..plain }.line()
                    }
                }
            }
        };
    }
    Ok(list + &contents_line(&contents))
}

/// Writes the archives to files, for the other readers.
fn write_all(directory: &Path, archives: &[Vec<u8>]) -> Vec<PathBuf> {
    let write = |(number, archive): (usize, &Vec<u8>)| {
        let path = directory.join(format!("{number}.tar"));
        fs::write(&path, archive).unwrap();
        path
    };
    archives.iter().enumerate().map(write).collect()
}

/// What Python makes of each archive.
fn python(archives: &[PathBuf]) -> Vec<Listing> {
    let output = Command::new("/usr/bin/python3").arg("-c").arg(PYTHON).args(archives).output();
    let output = output.expect("`cargo xtask setup` installs python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut listings = Vec::new();
    let mut list = String::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        match *line.split(' ').collect::<Vec<_>>() {
            ["member", kind, size, mode, uid, gid, name, target] => {
                let (name, target) = (from_hex(name), from_hex(target));
                let number = |text: &str| text.parse().unwrap_or(u64::MAX);
                let owner = (number(uid), number(gid));
                let mode = mode.parse().unwrap();
                let kind = kind.chars().next().unwrap();
                list += &Member { kind, size, mode, owner, name: &name, target: &target }.line();
            }
            ["end", contents] => {
                listings.push(Ok(std::mem::take(&mut list) + &contents_line(&from_hex(contents))));
            }
            ["error", ..] => {
                list.clear();
                listings.push(Err(line.into()));
            }
            _ => {} // The rest of an error's text.
        }
    }
    assert_eq!(listings.len(), archives.len());
    listings
}

fn from_hex(text: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    text.as_bytes().chunks(2).map_while(byte).collect()
}

/// What GNU tar makes of an archive.
fn gnu_tar(archive: &Path) -> Listing {
    let list = ["--list", "--verbose", "--numeric-owner", "--quoting-style=c", "--absolute-names", "--utc"];
    let text = String::from_utf8(run_tar(&list, archive)?).unwrap();
    let mut lines = String::new();
    for member in text.lines() {
        let kind = member.chars().next().unwrap();
        let (fields, quoted) = member.split_at(member.find('"').unwrap());
        let fields: Vec<_> = fields.split_whitespace().collect();
        let (uid, gid) = fields[1].split_once('/').unwrap();
        let (name, rest) = unquote(quoted.as_bytes());
        let target = rest.iter().position(|&byte| byte == b'"').map(|start| unquote(&rest[start..]).0);
        lines += &Member {
            kind: if kind == 'C' { '-' } else { kind },
            size: fields[2],
            mode: mode(&fields[0][1..10]),
            owner: (uid.parse().unwrap(), gid.parse().unwrap()),
            name: &name,
            target: &target.unwrap_or_default(),
        }
        .line();
    }
    let contents = run_tar(&["--extract", "--to-stdout", "--absolute-names"], archive)?;
    Ok(lines + &contents_line(&contents))
}

fn run_tar(arguments: &[&str], archive: &Path) -> Result<Vec<u8>, String> {
    let mut tar = Command::new("tar");
    let output = tar.args(arguments).arg("--file").arg(archive).env("LC_ALL", "C").output().expect("GNU tar");
    if output.status.success() { Ok(output.stdout) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Permissions as `ls` shows them.
fn mode(text: &str) -> u16 {
    text.bytes().enumerate().fold(0, |mode, (at, letter)| {
        let bit = 0o400 >> at;
        let special = 0o4000 >> (at / 3);
        mode | match letter {
            b'r' | b'w' | b'x' => bit,
            b's' | b't' => bit | special,
            b'S' | b'T' => special,
            _ => 0,
        }
    })
}

/// A string in C quotes at the start of `text`, and what follows it.
fn unquote(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut bytes = Vec::new();
    let mut at = 1;
    while text[at] != b'"' {
        if text[at] != b'\\' {
            bytes.push(text[at]);
            at += 1;
            continue;
        }
        let octal = text[at + 1..].iter().take(3).take_while(|byte| (b'0'..b'8').contains(*byte)).count();
        if octal > 0 {
            bytes.push(text[at + 1..][..octal].iter().fold(0, |value, digit| value * 8 + (digit - b'0')));
            at += 1 + octal;
            continue;
        }
        bytes.push(match text[at + 1] {
            b'a' => 7,
            b'b' => 8,
            b't' => 9,
            b'n' => 10,
            b'v' => 11,
            b'f' => 12,
            b'r' => 13,
            other => other,
        });
        at += 2;
    }
    (bytes, &text[at + 1..])
}
