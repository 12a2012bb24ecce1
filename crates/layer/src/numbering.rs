//! The last step of a merge: what is reachable gets its final number.

use std::collections::VecDeque;

use crate::merge::Directory;
use crate::merged::{MergedDirectory, MergedEntry, MergedTree};
use crate::names::{DirectoryId, Edge, EdgeId, NO_EDGE, Node};
use crate::sources::{Address, Sources};

/// A directory whose children are still to be numbered.
struct Pending {
    directory: DirectoryId,
    number: u32,
    parent: u32,
}

/// Numbers the root, then the children of one directory after the other, directories in breadth-first order.
/// `records` are those of the nodes that are no directories.
pub(crate) fn number<'a>(
    sources: Sources<'a>,
    edges: Vec<Edge>,
    records: &[Address],
    directories: &[Directory],
) -> MergedTree<'a> {
    const UNSEEN: u32 = u32::MAX;
    let mut numbers = vec![UNSEEN; records.len()];
    let mut tree = MergedTree {
        sources,
        records: Vec::with_capacity(records.len() + directories.len()),
        directories: Vec::with_capacity(directories.len()),
        entries: Vec::with_capacity(edges.len()),
        linked: Vec::new(),
    };
    let mut again = Vec::new();
    let mut pending = VecDeque::from([Pending { directory: 0, number: 0, parent: 0 }]);
    tree.records.push(directories[0].record);
    while let Some(Pending { directory, number, parent }) = pending.pop_front() {
        let mut merged = MergedDirectory { number, parent, first: count(&tree.entries), links: 2 };
        for id in sorted_children(&tree.sources, &edges, directories[directory as usize].first) {
            let edge = &edges[id as usize];
            // There are fewer nodes than 32 bits can number.
            let new = count(&tree.records);
            let child = match (edge.node.as_directory(), edge.node.as_other()) {
                (Some(child), _) => {
                    merged.links += 1;
                    pending.push_back(Pending { directory: child, number: new, parent: number });
                    tree.records.push(directories[child as usize].record);
                    new
                }
                (None, Some(node)) => match &mut numbers[node as usize] {
                    unseen if *unseen == UNSEEN => {
                        *unseen = new;
                        tree.records.push(records[node as usize]);
                        new
                    }
                    seen => {
                        again.push(*seen);
                        *seen
                    }
                },
                (None, None) => continue,
            };
            let (name, length) = edge.place();
            tree.entries.push(MergedEntry { name, child, length });
        }
        tree.directories.push(merged);
    }
    drop(edges);
    again.sort_unstable();
    tree.linked = again.chunk_by(|one, two| one == two).map(|names| (names[0], 1 + count(names))).collect();
    tree.records.shrink_to_fit();
    tree.entries.shrink_to_fit();
    tree
}

/// The edges of a directory that lead somewhere, sorted by name.
fn sorted_children(sources: &Sources<'_>, edges: &[Edge], first: EdgeId) -> Vec<EdgeId> {
    let mut children = Vec::new();
    let mut next = first;
    while next != NO_EDGE {
        let edge = &edges[next as usize];
        if edge.node != Node::NONE {
            children.push(next);
        }
        next = edge.next;
    }
    // The list has the latest first, and most archives are sorted.
    children.reverse();
    children.sort_by(|one, two| edges[*one as usize].name(sources).cmp(edges[*two as usize].name(sources)));
    children
}

fn count<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}
