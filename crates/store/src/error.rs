//! What can go wrong in the store.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Digest, Object};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The home directory cannot be used.
    #[error("cannot use {} as data directory", path.display())]
    Home {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk is full, or the user's quota is.
    #[error("no space left to write {}", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused something.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What should be taken in could not be read.
    #[error("cannot read the content of blob {digest}")]
    Source {
        /// The digest that the content should have, or that of no bytes.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// Content has not the digest that it should have.
    #[error("content has digest {found} and should have {expected}")]
    WrongDigest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Content has not the size that it should have.
    #[error("blob {digest} should be {expected} bytes long and is {}{found}", if *.more { "more than " } else { "" })]
    WrongSize {
        /// The blob.
        digest: Digest,
        /// What was asked for.
        expected: u64,
        /// What came.
        found: u64,
        /// Whether `found` is only where reading stopped.
        more: bool,
    },
    /// Something in the store is not what was published.
    #[error("{object} is damaged: {}: {problem}", path.display())]
    Damaged {
        /// The object.
        object: Object,
        /// The file of it that is wrong.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl StoreError {
    /// An error of the system about `path`; one of no space is told apart.
    #[must_use]
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path, source },
            _ => Self::Io { action, path, source },
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Home { .. } => Some("set CORACLE_HOME to a directory that you can write to".into()),
            Self::NoSpace { .. } => Some(
                "free some space, remove images with `coracle rmi`, or set CORACLE_HOME to a directory on another disk"
                    .into(),
            ),
            Self::Io { source, .. } if is_forbidden(source) => {
                Some("set CORACLE_HOME to a directory that you can write to".into())
            }
            Self::Damaged { .. } => Some("pull or load the image again: what is damaged is made anew".into()),
            _ => None,
        }
    }
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}
