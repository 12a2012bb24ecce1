//! What a program of the host sees that serves files to a machine: those files, and nothing else.
//!
//! [`enter`] changes the calling process, which has one thread and is about to execute that program:
//!
//! ```text
//!   user namespace   where the caller is not root: it becomes root there, of its own and its subordinate ids
//!   mount namespace  /sys            tmpfs, read-only, a name for each share
//!                    ├── 0           the first share with all that is mounted below it
//!                    └── 1           the second, a directory or a file
//! ```
//!
//! The program makes that directory its root. What is shared read-only is so for the host's kernel: no guest and no
//! daemon that a guest has taken over can write there. Device nodes cannot be opened through a share, and set-user-id
//! means nothing to the program.
//!
//! # What this crate is not for
//!
//! It starts nothing, and knows neither the program nor the machine. Threads, sockets and system calls of the program
//! are the program's own to give up.

pub mod identities;

mod subordinate;
mod sys;
mod tree;

use std::io;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use thiserror::Error;

pub use crate::identities::Identities;

/// Where the shares are once a process has entered.
pub const DIRECTORY: &str = "/sys";

/// A directory or a file of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Absolute path. Symbolic links are followed: whoever may name a path may name what it leads to.
    pub source: PathBuf,
    /// Nothing may be changed through it.
    pub read_only: bool,
}

/// A process that could not be shut in.
#[derive(Debug, Error)]
pub enum JailError {
    /// A source cannot be shared.
    #[error("sharing {}", path.display())]
    Source {
        /// Its path.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// The host refused a namespace: most often because users may not make any.
    #[error("making a {kind} namespace")]
    Namespace {
        /// `user` or `mount`.
        kind: &'static str,
        /// The host's answer.
        source: io::Error,
    },
    /// The ids of the user namespace could not be set.
    #[error("giving the user namespace its ids: {0}")]
    Ids(String),
    /// Anything else.
    #[error("{what}")]
    Host {
        /// What was asked of the host.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

impl JailError {
    pub(crate) fn host(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Host { what, source: errno.into() }
    }
}

/// Leaves the calling process with `shares` in [`DIRECTORY`], each by its place in the list, and says whose ids it has.
///
/// Its parent's death still ends it: the kernel forgets that wish when a process gets rights in a new user namespace.
///
/// # Errors
///
/// [`JailError`]. The process is of no other use then.
pub fn enter(shares: &[Share]) -> Result<Identities, JailError> {
    let identities = identities::enter()?;
    tree::compose(shares, Path::new(DIRECTORY))?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(JailError::host("asking to end with the parent"))?;
    Ok(identities)
}
