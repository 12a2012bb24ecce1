//! Random layers, whose entries meet: the merge gives what the model gives, number by number, or the same error.

#![allow(missing_docs)]

mod model;

use layer::{
    Builder, Change, Changeset, Content, Entry, Inode, InodeId, Kind, Limits, Place, Timestamp, XattrBuf, merge,
};
use proptest::prelude::*;

/// What an entry does, in its own words.
#[derive(Debug, Clone)]
enum Deed {
    Whiteout,
    Opaque,
    Link(String),
    Symlink(String),
    Directory,
    Fifo,
    File(u16),
    Packed(u16),
}

#[derive(Debug, Clone)]
struct Made {
    directory: String,
    name: String,
    deed: Deed,
    number: u16,
}

const PACKED: u64 = 100_000;
const DATA: u64 = 16 << 20;

/// Few names, so that entries meet; some that are as long as names can be.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![12 => "[abc]", 2 => "[a-z]{2,8}", 1 => Just("n".repeat(255))]
}

fn path(components: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    prop::collection::vec(name(), components).prop_map(|names| names.join("/"))
}

/// What a symbolic link says need not be clean, nor short.
fn target() -> impl Strategy<Value = String> {
    let component = prop_oneof![
        8 => name(),
        3 => Just(String::from("..")),
        1 => Just(String::from(".")),
        1 => Just(String::new()),
        1 => Just("long".repeat(70)),
    ];
    let components = prop::collection::vec(component, 1..5).prop_map(|components| components.join("/"));
    (any::<bool>(), components)
        .prop_map(|(absolute, path)| if absolute { format!("/{path}") } else { format!("{path}/") })
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        2 => Just(Deed::Whiteout),
        1 => Just(Deed::Opaque),
        2 => path(1..4).prop_map(Deed::Link),
        2 => target().prop_map(Deed::Symlink),
        4 => Just(Deed::Directory),
        1 => Just(Deed::Fifo),
        2 => any::<u16>().prop_map(Deed::File),
        2 => any::<u16>().prop_map(Deed::Packed),
    ]
}

fn made() -> impl Strategy<Value = Made> {
    (path(0..4), name(), deed(), any::<u16>()).prop_map(|(directory, name, deed, number)| Made {
        directory,
        name,
        deed,
        number,
    })
}

fn changeset(entries: &[Made]) -> Changeset {
    let mut builder = Builder::new(&Limits::default());
    for Made { directory, name, deed, number } in entries {
        let xattrs = [(b"user.number".to_vec(), number.to_string().into_bytes())];
        let xattrs = XattrBuf::from(&xattrs.into_iter().filter(|_| number % 3 == 0).collect());
        let inode = |kind| {
            let mtime = Timestamp { seconds: i64::from(*number) - 1000, nanoseconds: 0 };
            let (mode, uid) = (number & 0o7777, u32::from(*number));
            Change::Inode(Inode { mode, uid, gid: 0, mtime, xattrs: xattrs.as_xattrs(), kind })
        };
        let change = match deed {
            Deed::Whiteout => Change::Whiteout,
            Deed::Opaque => Change::Opaque,
            Deed::Link(target) => Change::Link(target.as_bytes()),
            Deed::Symlink(target) => inode(Kind::Symlink(target.as_bytes())),
            Deed::Directory => inode(Kind::Directory),
            Deed::Fifo => inode(Kind::Fifo),
            Deed::File(0) => inode(Kind::File(Content::EMPTY)),
            Deed::File(size) => {
                let place = Place::Data { offset: u64::from(size % 100) * 4096 };
                inode(Kind::File(Content { place, size: u64::from(*size) }))
            }
            Deed::Packed(offset) => {
                let content =
                    Content { place: Place::Packed { offset: (*offset).into() }, size: 1 + u64::from(offset % 1024) };
                inode(Kind::File(content))
            }
        };
        let name = if matches!(deed, Deed::Opaque) { "" } else { name };
        builder.push(&Entry { directory: directory.as_bytes(), name: name.as_bytes(), change }).expect("a sound entry");
    }
    builder.finish(DATA, PACKED).expect("contents lie inside")
}

fn compare(changesets: &[Changeset], limits: &Limits) -> Result<(), TestCaseError> {
    let (tree, model) = match (merge(changesets, limits), model::merge(changesets, limits)) {
        (Ok(tree), Ok(model)) => (tree, model),
        (Err(error), Err(expected)) => {
            prop_assert_eq!(error, expected);
            return Ok(());
        }
        (tree, model) => {
            return Err(TestCaseError::fail(format!("{:?}, not {:?}", tree.map(|_| ()), model.map(|_| ()))));
        }
    };
    prop_assert_eq!(tree.len(), model.len());
    for ((id, merged), expected) in tree.inodes().zip(&model) {
        let found = model::Merged {
            inode: merged.inode,
            layer: if matches!(merged.inode.kind, Kind::File(_)) { merged.layer } else { 0 },
            links: merged.links,
            parent: tree.parent(id).get(),
            entries: tree.entries(id).map(|(name, child)| (name, child.get())).collect(),
        };
        prop_assert_eq!(&found, expected, "inode {:?}", id);
        for (name, child) in tree.entries(id).filter(|_| id == InodeId::ROOT) {
            prop_assert_eq!(tree.lookup(name), Some(child));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn the_merge_is_the_models(layers in prop::collection::vec(prop::collection::vec(made(), 0..25), 0..6)) {
        let changesets: Vec<_> = layers.iter().map(|entries| changeset(entries)).collect();
        compare(&changesets, &Limits::default())?;
    }

    #[test]
    fn limits_are_the_models(
        layers in prop::collection::vec(prop::collection::vec(made(), 0..25), 1..4),
        (inodes, lookups, depth) in (2..30_u64, 5..200_u64, 1..5_u32),
    ) {
        let changesets: Vec<_> = layers.iter().map(|entries| changeset(entries)).collect();
        compare(&changesets, &Limits { inodes, lookups, depth, ..Limits::default() })?;
    }
}

/// Removal and return of the same names, layer after layer: lists and marks of directories are used again and again.
#[test]
fn names_come_and_go_through_many_layers() {
    let made = |directory: &str, name: &str, deed, number| Made {
        directory: directory.into(),
        name: name.into(),
        deed,
        number,
    };
    let mut layers = Vec::new();
    for layer in 0..60_u16 {
        let mut entries = Vec::new();
        for name in 0..20_u16 {
            let directory = ["a", "a/b", "a/b/c", "d"][usize::from((layer + name) % 4)];
            let deed = match (layer * 7 + name * 3) % 11 {
                0 | 1 => Deed::Whiteout,
                2 => Deed::Opaque,
                3 => Deed::Directory,
                4 => Deed::Symlink(String::from("../d")),
                _ => Deed::Packed(name),
            };
            entries.push(made(directory, &format!("n{}", name % 6), deed, layer * 100 + name));
        }
        layers.push(changeset(&entries));
    }
    for count in 0..layers.len() {
        compare(&layers[..count], &Limits::default()).unwrap();
    }
}

/// Each mark alone would look through everything that the layer put there.
#[test]
fn opaque_marks_that_come_again_cost_nothing() {
    let made = |name: String, deed| Made { directory: "d/e".into(), name, deed, number: 1 };
    let mut entries: Vec<_> = (0..100_000).map(|number| made(format!("n{number}"), Deed::Fifo)).collect();
    entries.extend((0..100_000).map(|_| made(String::new(), Deed::Opaque)));
    let whiteouts =
        (0..100_000).map(|_| Made { directory: "d".into(), name: "e".into(), deed: Deed::Whiteout, number: 1 });
    entries.extend(whiteouts);
    let changesets = [changeset(&entries), changeset(&entries)];
    assert_eq!(merge(&changesets, &Limits::default()).unwrap().len(), 100_003);
}
