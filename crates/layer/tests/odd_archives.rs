//! Odd and hostile archives give exactly the tree that they should, or exactly the error.

#![allow(missing_docs)]

mod cases;
mod corpus;
mod tar;

use cases::{check, t, tree_of};

#[test]
fn names_cannot_leave_the_tree() {
    check(&corpus::names_cannot_leave_the_tree());
}

#[test]
fn breakouts() {
    check(&corpus::breakouts());
}

#[test]
fn what_replaces_what() {
    check(&corpus::what_replaces_what());
}

#[test]
fn hard_links() {
    check(&corpus::hard_links());
    let chain_of_1000 = (1..1000).fold(t().file("0", "x"), |tar, at| tar.link(&at.to_string(), &(at - 1).to_string()));
    let [tree] = [tree_of(&[chain_of_1000.end()]).unwrap()];
    assert_eq!((tree.lines().count(), tree.lines().filter(|line| line.ends_with("f \"x\" = /0")).count()), (1000, 999));
}

#[test]
fn whiteouts() {
    check(&corpus::whiteouts());
}

#[test]
fn attributes() {
    check(&corpus::attributes());
}

#[test]
fn there_are_many() {
    assert!(corpus::all().len() >= 120, "{} cases", corpus::all().len());
}
