//! How far loading, pulling and pushing have got, on standard error: for a person at a terminal ([`bars`]), for a log
//! ([`lines`]), for a program ([`json`]).
//!
//! # JSON
//!
//! `--progress json` writes one object a line. Fields that are there stay, with their meaning; new ones and new
//! events may come. Lines that do not begin with `{` are messages for people.
//!
//! | `event` | other fields | |
//! |---|---|---|
//! | `reading` | `done`, `total` (null if not known) | bytes of an archive that has to be read to its end first |
//! | `image` | `name`, `layers`, `bytes` | an image begins; bytes of its layers as they travel |
//! | `layer` | `index` from 0, `digest` (null if not known), `state`, `done`, `total` | bytes of a layer |
//! | `assembling` | | the layers are there, and are being put together |
//! | `done` | | the image is complete |
//!
//! `state` is `waiting` (another command works on that layer), `working` (again and again, at most ten times a second),
//! `shared` (it was there already) or `done`.

mod bars;
mod json;
mod lines;

use std::{
    io::{self, IsTerminal as _},
    sync::{Mutex, MutexGuard, PoisonError},
};

use clap::{Args, ValueEnum};
use engine::image::{Event, Progress};

/// What `--help` says of the objects.
pub(crate) const HELP: &str = "\
--progress json writes an object a line, such as {\"event\": \"layer\", \"index\": 0, \"digest\": \"sha256:…\", \
\"state\": \"working\", \"done\": 1, \"total\": 2}. The states are waiting, working, shared and done; the other \
events are reading, image, assembling and done.";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    #[default]
    Auto,
    Plain,
    Json,
    None,
}

#[derive(Debug, Args)]
pub(crate) struct ProgressFlags {
    /// Show progress on standard error: auto shows bars on a terminal and nothing elsewhere
    #[arg(long, value_name = "HOW", default_value = "auto", hide_default_value = true)]
    pub(crate) progress: ProgressMode,
}

/// What is being done, and so which words tell of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    Load,
    Pull,
    Push,
    Verify,
}

/// Shows progress until it is dropped, and leaves a terminal as if it had not been.
#[derive(Debug)]
pub(crate) enum Shown {
    Bars(bars::Bars),
    Lines(lines::Lines),
    Json(json::Objects),
    Nothing,
}

impl Shown {
    pub(crate) fn new(mode: ProgressMode, quiet: bool, task: Task) -> Self {
        match mode {
            _ if quiet => Self::Nothing,
            ProgressMode::Auto if io::stderr().is_terminal() => Self::Bars(bars::Bars::new()),
            ProgressMode::Auto | ProgressMode::None => Self::Nothing,
            ProgressMode::Plain => Self::Lines(lines::Lines::new(task)),
            ProgressMode::Json => Self::Json(json::Objects::default()),
        }
    }
}

impl Progress for Shown {
    fn event(&self, event: Event<'_>) {
        match self {
            Self::Bars(bars) => bars.event(event),
            Self::Lines(lines) => lines.event(event),
            Self::Json(objects) => objects.event(event),
            Self::Nothing => {}
        }
    }
}

/// What several threads tell goes on when one of them panicked.
fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A digest as people are shown it.
fn short(digest: &str) -> String {
    engine::names::short_id(digest).to_owned()
}
