//! End-to-end tests: what a user does, told like a shell session.
//!
//! - [`coracle`] runs the real command line against a home of its own, under a deadline, and gives back what a
//!   shell would see. Which back end it uses comes from `CORACLE_TEST_ACCEL`; a test never asks.
//! - [`fixtures`] are the images, built here with Debian's own tools (`cargo run -p e2e --bin fixtures`) and kept
//!   under `target/fixtures`.
//! - [`terminal`] drives the command line through a pseudo-terminal.
//!
//! The tests themselves are in `tests/e2e/`, one module for each promise. `cargo xtask test` runs the one binary
//! twice: on emulation, and on KVM inside the lab.

pub mod coracle;
pub mod fixtures;
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
