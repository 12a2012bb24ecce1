//! The files of a container: what it changed, all of it, parts of it, and images made of it.
//!
//! | | |
//! |---|---|
//! | [`Engine::diff`](crate::Engine::diff) | what the container changed in its image |
//! | [`Engine::export`](crate::Engine::export) | its whole tree as a tar archive |
//! | [`Engine::commit`](crate::Engine::commit) | what it changed as a layer, and an image with it |
//! | [`Engine::stat_path`](crate::Engine::stat_path), [`Engine::copy_out`](crate::Engine::copy_out) | one path of it |
//! | [`Engine::copy_in`](crate::Engine::copy_in) | an archive unpacked below one path of it |

mod archive;
mod changes;
mod commit;
mod copy_in;
mod copy_out;
mod diff;
mod disk;
mod error;
mod export;
mod lookup;
mod members;
mod mount_points;
mod mounted;
mod view;

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

pub use error::FilesError;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// It was in the image, and is another one now. Docker's number for it is 0.
    Modified,
    /// It was not in the image. Docker's number is 1.
    Added,
    /// It was in the image and is gone. Docker's number is 2.
    Deleted,
}

impl ChangeKind {
    /// As `docker diff` writes it.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Modified => 'C',
            Self::Added => 'A',
            Self::Deleted => 'D',
        }
    }
}

/// One change of a container's tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Absolute path. Any bytes but NUL, as the container made it.
    pub path: PathBuf,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// What an image that is made of a container is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitRequest {
    /// The name that it gets, if any; completed as Docker does.
    pub reference: Option<String>,
    /// What its history says; may be empty.
    pub message: String,
    /// Who made it; may be empty.
    pub author: String,
    /// Instructions of a Dockerfile that change its configuration, as for `import`.
    pub changes: Vec<String>,
    /// Whether a running container rests meanwhile. Its files do in any case, so that this changes nothing.
    pub pause: bool,
}

impl Default for CommitRequest {
    fn default() -> Self {
        Self { reference: None, message: String::new(), author: String::new(), changes: Vec::new(), pause: true }
    }
}

/// What a path of a container is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// Its last component; `/` for the root.
    pub name: PathBuf,
    /// Bytes; of a symbolic link, those of its target.
    pub size: u64,
    /// `st_mode`: type and permissions.
    pub mode: u32,
    /// Last modification: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Of a symbolic link, the absolute path in the container that it leads to, as far as it leads anywhere.
    pub link_target: Option<PathBuf>,
}

impl PathStat {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.mode & 0o170_000 == 0o040_000
    }
}

/// How an archive is unpacked in a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyInOptions {
    /// Refuse to replace a directory with something else, and something else with a directory.
    pub no_overwrite_dir_non_dir: bool,
}

/// The absolute path in a container that a path without a leading slash means.
fn path_of(path: &[u8]) -> PathBuf {
    OsString::from_vec([b"/", path].concat()).into()
}
