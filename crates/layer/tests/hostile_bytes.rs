//! Arbitrary and bent bytes: never a panic, never a tree that breaks its own rules, always the same answer.

#![allow(missing_docs)]

mod tar;

use layer::{Changeset, Kind, Limits, merge, read_changeset};
use proptest::prelude::*;
use tar::{Header, Tar};

fn limits() -> Limits {
    Limits { entries: 10_000, index_bytes: 1 << 20, inodes: 10_000, lookups: 1_000_000, ..Limits::default() }
}

/// Reads, encodes, decodes and merges; whatever comes out must keep the rules of a tree.
fn exercise(tar: &[u8]) {
    let Ok(changeset) = read_changeset(tar, &limits()) else { return };
    let again = Changeset::decode(changeset.encode().to_vec(), &limits()).expect("what is written can be read");
    assert_eq!(again, changeset);
    check_merge(&[changeset, again]);
}

fn check_merge(changesets: &[Changeset]) {
    let Ok(tree) = merge(changesets, &limits()) else { return };
    let mut links = vec![0; tree.len()];
    links[0] = 1;
    for (id, merged) in tree.inodes() {
        let names: Vec<_> = tree.entries(id).collect();
        assert!(names.is_sorted_by(|(one, _), (two, _)| one < two), "names are sorted and unique");
        assert!(names.is_empty() || merged.inode.kind == Kind::Directory);
        for (name, child) in names {
            assert!(!name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/'));
            links[child.index()] += 1;
            if tree.inode(child).inode.kind == Kind::Directory {
                assert_eq!(tree.parent(child), id);
            }
        }
    }
    for (id, merged) in tree.inodes() {
        let directories =
            tree.entries(id).filter(|(_, child)| tree.inode(*child).inode.kind == Kind::Directory).count();
        let own = if merged.inode.kind == Kind::Directory { 1 + u32::try_from(directories).unwrap() } else { 0 };
        assert_eq!(merged.links, links[id.index()] + own, "links of inode {id:?}");
    }
}

/// Names of few letters, so that entries meet, with dots, whiteouts and slashes among them.
fn name() -> impl Strategy<Value = String> {
    let component = prop_oneof![
        6 => "[ab]",
        1 => Just(String::from("..")),
        1 => Just(String::from(".wh.a")),
        1 => Just(String::from(".wh..wh..opq")),
    ];
    prop::collection::vec(component, 1..4).prop_map(|components| components.join("/"))
}

fn entries() -> impl Strategy<Value = Tar> {
    let entry = (0..6, name(), name());
    prop::collection::vec(entry, 0..30).prop_map(|entries| {
        entries.into_iter().fold(Tar::new(), |tar, (kind, name, other)| match kind {
            0 | 1 => tar.file(&name, &other),
            2 | 3 => tar.dir(&name),
            4 => tar.symlink(&name, &other),
            _ => tar.link(&name, &other),
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_entries_make_a_sound_tree_or_an_error(layers in prop::collection::vec(entries(), 1..4)) {
        let read = |tar: &Tar| read_changeset(&tar.0[..], &limits());
        let changesets: Vec<_> = layers.iter().filter_map(|tar| read(tar).ok()).collect();
        check_merge(&changesets);
    }

    #[test]
    fn any_bytes_in_a_header(block in prop::collection::vec(any::<u8>(), 512), rest in prop::collection::vec(any::<u8>(), 0..2048)) {
        let header = Header { block: block.try_into().unwrap() };
        exercise(&Tar::new().header(&header).raw(&rest).0);
    }

    #[test]
    fn any_bytes_in_a_described_member(kind in "[xgLKS0]", body in prop::collection::vec(any::<u8>(), 0..2048)) {
        let tar = Tar::new().special(kind.as_bytes()[0], &body).file("f", "content");
        exercise(&tar.end());
    }

    #[test]
    fn bent_archives(tar in entries(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)) {
        let mut bytes = tar.end();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        exercise(&bytes);
    }

    #[test]
    fn bent_changesets(tar in entries(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), cut in any::<prop::sample::Index>()) {
        let Ok(changeset) = read_changeset(&tar.0[..], &limits()) else { return Ok(()) };
        let mut bytes = changeset.encode().to_vec();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let cut = bytes[..cut.index(bytes.len())].to_vec();
        for bytes in [cut, bytes] {
            if let Ok(changeset) = Changeset::decode(bytes, &limits()) {
                check_merge(&[changeset]);
            }
        }
    }
}
