//! What a power cut leaves of a [`History`]: which of the changes that nobody synced are there afterwards.
//!
//! POSIX promises of a change that was not synced: nothing. File systems differ in what they leave, so there are
//! several [`Loss`]es, from one that leaves only what was synced to ones that leave a name without its content.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::History;
use super::tree::{Change, Content, Kind, Node, ROOT, Tree};

/// What is lost of what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Loss {
    /// Everything: contents since the file's last sync, names since the directory's. The least that POSIX allows.
    Everything,
    /// Contents alone; all names are there. A file that was never synced is empty.
    Contents,
    /// Contents alone, but files have their new lengths: what was not synced reads as zeros.
    ContentsNotLengths,
    /// Names alone; every file that has a name has all its content.
    Names,
    /// Some blocks of the contents, differently at each cut; of names, all up to some moment since the last sync.
    Some,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Everything, Self::Contents, Self::ContentsNotLengths, Self::Names, Self::Some];
}

/// The unit in which a disk writes or does not write.
const BLOCK: usize = 4096;

/// Follows a history change by change and tells what a cut after any of them leaves.
#[derive(Debug)]
pub struct Cutter<'a> {
    history: &'a History,
    position: usize,
    /// What processes saw.
    live: Tree,
    /// Contents of files and names of directories at their last sync.
    synced: HashMap<u64, Kind>,
    /// All names at the time of the last sync of anything.
    last_sync: usize,
    /// Changes to contents since the file's last sync.
    pending: HashMap<u64, Vec<usize>>,
}

impl<'a> Cutter<'a> {
    /// Begins before the first change: all that is there then is durable.
    #[must_use]
    pub fn new(history: &'a History) -> Self {
        let live = history.before.clone();
        let synced = live.nodes().map(|(inode, node)| (inode, node.kind.clone())).collect();
        Self { history, position: 0, live, synced, last_sync: 0, pending: HashMap::new() }
    }

    /// How many changes have been made.
    #[must_use]
    pub fn position(&self) -> usize {
        self.position
    }

    /// Makes one more change; `false` if there is none.
    pub fn advance(&mut self) -> bool {
        let Some(change) = self.history.changes.get(self.position) else { return false };
        match change {
            Change::Write { inode, .. } | Change::Resize { inode, .. } => {
                self.pending.entry(*inode).or_default().push(self.position);
            }
            Change::Sync { inode } => {
                if let Some(node) = self.live.node(*inode) {
                    self.synced.insert(*inode, node.kind.clone());
                    self.pending.remove(inode);
                    self.last_sync = self.position;
                }
            }
            _ => {}
        }
        self.live.apply(change);
        self.position += 1;
        true
    }

    /// What is on the disk after a cut now.
    #[must_use]
    pub fn cut(&self, loss: Loss) -> Tree {
        let mut tree = match loss {
            Loss::Some => self.names_at(self.some_moment()),
            _ => self.live.clone(),
        };
        let numbers: Vec<u64> = tree.nodes().map(|(inode, _)| inode).collect();
        for inode in numbers {
            if let Some(kind) = self.after_cut(inode, loss)
                && let Some(node) = tree.node_mut(inode)
            {
                node.kind = kind;
            }
        }
        tree
    }

    /// What an inode holds after a cut, where that is not what it holds now.
    fn after_cut(&self, inode: u64, loss: Loss) -> Option<Kind> {
        let synced = self.synced.get(&inode);
        match &self.live.node(inode)?.kind {
            Kind::File(live) => {
                let synced = match synced {
                    Some(Kind::File(content)) => Arc::clone(content),
                    _ => Content::default(),
                };
                match loss {
                    Loss::Everything | Loss::Contents => Some(Kind::File(synced)),
                    Loss::ContentsNotLengths => Some(Kind::File(with_length(synced, live.len()))),
                    Loss::Names => None,
                    Loss::Some => Some(Kind::File(self.some_blocks(inode, synced))),
                }
            }
            Kind::Directory(_) => match loss {
                Loss::Everything | Loss::Names => {
                    Some(synced.cloned().unwrap_or_else(|| Kind::Directory(BTreeMap::new())))
                }
                Loss::Contents | Loss::ContentsNotLengths | Loss::Some => None,
            },
            Kind::Symlink(_) | Kind::Special(_) => None,
        }
    }

    /// A moment between the last sync of anything, which journals write everything before, and now.
    fn some_moment(&self) -> usize {
        let span = self.position - self.last_sync;
        self.last_sync + usize::try_from(noise(self.position as u64, 0)).unwrap_or(0) % (span + 1)
    }

    /// The tree as it was at an earlier moment, with the inodes of now.
    fn names_at(&self, moment: usize) -> Tree {
        let mut tree = self.history.before.clone();
        self.history.changes[..moment].iter().for_each(|change| match change {
            Change::Write { .. } | Change::Resize { .. } => {}
            other => tree.apply(other),
        });
        tree
    }

    /// A file with some of the blocks that were written since its last sync.
    fn some_blocks(&self, inode: u64, synced: Content) -> Content {
        let Some(pending) = self.pending.get(&inode) else { return synced };
        let mut content = synced.as_ref().clone();
        for index in pending {
            match &self.history.changes[*index] {
                Change::Write { offset, bytes, .. } => {
                    let start = usize::try_from(*offset).expect("a file that fits in memory");
                    write_some(&mut content, start, bytes, self.position as u64 ^ (*index as u64) << 32);
                }
                Change::Resize { length, .. } => {
                    content.resize(usize::try_from(*length).expect("a file that fits in memory"), 0);
                }
                _ => {}
            }
        }
        Arc::new(content)
    }
}

fn with_length(content: Content, length: usize) -> Content {
    if content.len() == length {
        return content;
    }
    let mut bytes = content.as_ref().clone();
    bytes.resize(length, 0);
    Arc::new(bytes)
}

/// Writes every other block of `bytes`, as the seed says. The length becomes what it was to become.
fn write_some(content: &mut Vec<u8>, start: usize, bytes: &[u8], seed: u64) {
    let end = start + bytes.len();
    content.resize(content.len().max(end), 0);
    let mut at = start;
    while at < end {
        let stop = ((at / BLOCK + 1) * BLOCK).min(end);
        if noise(seed, (at / BLOCK) as u64).is_multiple_of(2) {
            content[at..stop].copy_from_slice(&bytes[at - start..stop - start]);
        }
        at = stop;
    }
}

/// A number that is always the same for the same two.
fn noise(first: u64, second: u64) -> u64 {
    let mut state = first.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ second.wrapping_mul(0xd1b5_4a32_d192_ed03) ^ 0x5bd1;
    for shift in [30, 27, 31] {
        state = (state ^ (state >> shift)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    state
}

/// A number that is the same for trees that look the same, and for hardly any others.
#[must_use]
pub fn fingerprint(tree: &Tree) -> u64 {
    let mut hasher = DefaultHasher::new();
    hash_below(tree, ROOT, &mut hasher);
    hasher.finish()
}

fn hash_below(tree: &Tree, inode: u64, hasher: &mut DefaultHasher) {
    let Some(Node { kind, mode, .. }) = tree.node(inode) else { return };
    mode.hash(hasher);
    match kind {
        Kind::File(content) => content.hash(hasher),
        Kind::Symlink(target) => target.hash(hasher),
        Kind::Special(bits) => bits.hash(hasher),
        Kind::Directory(entries) => {
            entries.len().hash(hasher);
            for (name, inode) in entries {
                OsString::hash(name, hasher);
                hash_below(tree, *inode, hasher);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(inode: u64, parent: u64, name: &str, kind: Kind) -> Change {
        Change::Make { parent, name: name.into(), inode, node: Node::new(kind, 0o600) }
    }

    /// Which names the root has after a cut at the end, with their contents.
    fn left(changes: &[Change], loss: Loss) -> Vec<(String, Vec<u8>)> {
        let history = History { before: Tree::default(), changes: changes.to_vec(), marks: Vec::new() };
        let mut cutter = Cutter::new(&history);
        while cutter.advance() {}
        let tree = cutter.cut(loss);
        let entries = tree.node(ROOT).and_then(Node::entries).expect("the root");
        let content = |inode: &u64| match &tree.node(*inode).expect("an inode").kind {
            Kind::File(content) => content.as_ref().clone(),
            _ => Vec::new(),
        };
        entries.iter().map(|(name, inode)| (name.to_string_lossy().into_owned(), content(inode))).collect()
    }

    #[test]
    fn what_is_not_synced_is_lost_as_the_loss_says() {
        let write = |text: &str| Change::Write { inode: 2, offset: 0, bytes: text.into() };
        let file = || Kind::File(Content::default());
        let written = [make(2, ROOT, "a", file()), write("old"), Change::Sync { inode: 2 }, write("newer")];
        let named = |content: &[u8]| vec![("a".to_owned(), content.to_vec())];
        assert_eq!(left(&written, Loss::Everything), []);
        assert_eq!(left(&written, Loss::Contents), named(b"old"));
        assert_eq!(left(&written, Loss::ContentsNotLengths), named(b"old\0\0"));
        assert_eq!(left(&written, Loss::Names), []);

        let synced = [&written[..], &[Change::Sync { inode: ROOT }]].concat();
        assert_eq!(left(&synced, Loss::Everything), named(b"old"));
        assert_eq!(left(&synced, Loss::Names), named(b"newer"));
    }

    #[test]
    fn a_rename_that_nobody_synced_may_be_there_without_the_content() {
        let changes = [
            make(2, ROOT, "a.part", Kind::File(Content::default())),
            Change::Write { inode: 2, offset: 0, bytes: b"text".to_vec() },
            Change::Rename { from: (ROOT, "a.part".into()), to: (ROOT, "a".into()) },
        ];
        assert_eq!(left(&changes, Loss::Contents), [("a".to_owned(), Vec::new())]);
        assert_eq!(left(&changes, Loss::Everything), []);
    }
}
