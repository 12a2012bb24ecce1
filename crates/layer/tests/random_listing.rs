//! Random archives of fields and headers that readers have disagreed about: what this crate takes, GNU tar and Python
//! list the same or refuse.

#![allow(missing_docs)]

mod cases;
mod readers;
mod tar;

use cases::t;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tar::{Header, Tar};

/// Archives that are made; about one in seven is taken.
const ARCHIVES: usize = 2000;

fn name() -> impl Strategy<Value = &'static [u8]> {
    select(vec![&b"a"[..], b"b", b"a/b", b"d/", b"./a", b"/b", b"../c", b"a\0junk", b"\xffn", b"n\nm"])
}

/// Size field and blocks of content that go together, and any that need not.
fn size_and_blocks() -> impl Strategy<Value = (&'static [u8], usize)> {
    let fitting = vec![
        (&b"00000000003\0"[..], 2),
        (b"00000000000\0", 0),
        (b"          3 ", 2),
        (b"\x80\0\0\0\0\0\0\0\0\0\0\x03", 2),
        (b"00000001000\0", 3),
    ];
    prop_oneof![4 => select(fitting), 1 => (size(), 0_usize..6)]
}

/// Values for the size field.
fn size() -> impl Strategy<Value = &'static [u8]> {
    select(vec![
        &b"00000000003\0"[..],
        b"00000000003\0",
        b"00000000003\0",
        b"00000000000\0",
        b"00000001000\0",
        b"00000002000\0",
        b"           3",
        b"3 \0         ",
        b"\x80\0\0\0\0\0\0\0\0\0\0\x03",
        b"000000000003",
        b"\0\0\0\0\0\0\0\0\0\0\0\0",
        b"3\0\0\0\0\0\0\0\0\0\0\0",
        b"3\0junk\0\0\0\0\0\0",
        b"+0000000003\0",
        b" 0000000003 ",
    ])
}

fn magic() -> impl Strategy<Value = &'static [u8]> {
    select(vec![
        &b"ustar\x0000"[..],
        b"ustar\x0000",
        b"ustar  \0",
        b"\0\0\0\0\0\0\0\0",
        b"ustar\0\0\0",
        b"ustar 00",
        b"USTAR\x0000",
    ])
}

fn type_flag() -> impl Strategy<Value = u8> {
    select(b"00000000\x0001234567SxVX9".to_vec())
}

/// A record of a PAX header, as it should be or nearly so.
fn record() -> impl Strategy<Value = Vec<u8>> {
    let key = select(vec![
        "path",
        "path",
        "linkpath",
        "size",
        "size",
        "uid",
        "mtime",
        "comment",
        "GNU.sparse.name",
        "GNU.sparse.size",
    ]);
    let value = select(vec![&b"3"[..], b"0", b"512", b"", b"p", b"p/", b" 3", b"3.5", b"-1", b"q\0r", b"a=b", b"x\n"]);
    let bend = prop_oneof![
        12 => Just(0),
        1 => Just(1),
        1 => Just(2),
        1 => Just(3),
    ];
    (key, value, bend).prop_map(|(key, value, bend)| {
        let mut record = tar::pax_record(key, value);
        match bend {
            1 => record.insert(0, b' '),
            2 => drop(record.pop()),
            3 => record.insert(0, b'0'),
            _ => {}
        }
        record
    })
}

fn describe() -> impl Strategy<Value = Tar> {
    let pax = |flag: &'static [u8]| {
        (select(flag.to_vec()), prop::collection::vec(record(), 0..3))
            .prop_map(|(flag, records)| t().special(flag, &records.concat()))
    };
    let long = (select(b"LK".to_vec()), select(vec![&b"long\0"[..], b"long", b"lo\0ng\0", b"", b"l/\0"]));
    prop_oneof![
        3 => pax(b"x"),
        1 => pax(b"g"),
        2 => long.prop_map(|(flag, body)| t().special(flag, body)),
    ]
}

fn member() -> impl Strategy<Value = Tar> {
    let fields = (name(), type_flag(), size_and_blocks(), magic());
    let rest = (select(vec![&b""[..], b"", b"", b"t"]), any::<bool>());
    (prop::collection::vec(describe(), 0..2), fields, rest).prop_map(
        |(described, (name, flag, (size, blocks), magic), (prefix, small))| {
            // A prefix in a GNU header is for `listing.rs`.
            let prefix = if magic == b"ustar  \0" { b"" } else { prefix };
            let mut header = Header::new(flag, name);
            header.field(124, size).field(257, magic).link(b"a").field(345, prefix);
            let tar = described.into_iter().fold(t(), |tar, part| tar.raw(&part.0));
            let tar = tar.header(&header);
            match blocks {
                0 | 1 => tar,
                2 => tar.body(b"abc"),
                // Content that looks like a member.
                _ if small => tar.file("hidden", ""),
                _ => tar.file("hidden", "").body(b"abc"),
            }
        },
    )
}

fn archive() -> impl Strategy<Value = Vec<u8>> {
    let end = select(vec![2_usize, 2, 2, 1, 0]);
    (prop::collection::vec(member(), 1..4), end).prop_map(|(members, end)| {
        let tar = members.into_iter().fold(t().file("first", "1"), |tar, part| tar.raw(&part.0));
        tar.raw(&vec![0; 512 * end]).0
    })
}

#[test]
fn what_is_taken_is_listed_the_same() {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let archives: Vec<_> = (0..ARCHIVES).map(|_| archive().new_tree(&mut runner).unwrap().current()).collect();
    let taken = readers::agree_or_refuse(&archives);
    assert!(taken > ARCHIVES / 20, "only {taken} archives were taken");
}
