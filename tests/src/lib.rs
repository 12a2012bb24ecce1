//! End-to-end tests: what a user does, told like a shell session.
//!
//! - [`coracle`] runs the real command line against a home of its own, under a deadline, and gives back what a
//!   shell would see. Which back end it uses comes from `CORACLE_TEST_ACCEL`; a test never asks.
//! - [`fixtures`] are the images, built here with Debian's own tools (`cargo run -p e2e --bin fixtures`) and kept
//!   under `target/fixtures`.
//! - [`terminal`] drives the command line through a pseudo-terminal.
//! - [`archives`] makes images byte by byte, [`disk`] is a file system that fails when it is told to, and
//!   [`aftermath`] is what must be true after it did; [`registry`] is Debian's registry with all kinds of access control,
//!   [`memory`] gives commands no more than so much, [`processes`] finds all that they started.
//!
//! The tests themselves are in `tests/e2e/` and `tests/images/`, one module for each promise. `cargo xtask test` runs
//! the first twice, on emulation and on KVM inside the lab; the second needs no machine.

pub mod aftermath;
pub mod archives;
pub mod coracle;
pub mod disk;
pub mod fixtures;
pub mod memory;
pub mod processes;
pub mod registry;
pub mod terminal;

use std::path::{Path, PathBuf};

/// The workspace's root.
///
/// # Panics
///
/// Never: this package lies one level below it.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}
