//! What can go wrong with disks.

use std::io;
use std::path::{Path, PathBuf};

use crate::{MAX_SIZE, MIN_SIZE};

/// An error of disks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// A disk with less than a file system needs.
    #[error("a disk of {size} bytes is too small: it needs at least {} MiB", MIN_SIZE >> 20)]
    TooSmall {
        /// What was asked for.
        size: u64,
    },
    /// A disk larger than files can be.
    #[error("a disk of {size} bytes is too large: it can have at most {} TiB", MAX_SIZE >> 40)]
    TooLarge {
        /// What was asked for.
        size: u64,
    },
    /// The container has a scratch disk already.
    #[error("there is a scratch disk already: {}", path.display())]
    Exists {
        /// The disk.
        path: PathBuf,
    },
    /// `mkfs.ext4` is not installed.
    #[error("mkfs.ext4 is neither in PATH nor in /sbin or /usr/sbin")]
    NoMkfs,
    /// `mkfs.ext4` failed.
    #[error("{} could not make {}: {output}", mkfs.display(), path.display())]
    Mkfs {
        /// The program.
        mkfs: PathBuf,
        /// The template it was to make.
        path: PathBuf,
        /// What it said, or how it ended.
        output: String,
    },
    /// The disk is full, or the user's quota is.
    #[error("no space left to write {}", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no disk (any more).
    #[error("{} is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
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
}

impl VolumeError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { path, source },
            _ => Self::Io { action, path, source },
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoMkfs => "install Debian's package e2fsprogs",
            Self::NoSpace { .. } => {
                "free some space, remove images with `coracle rmi`, or set CORACLE_HOME to a directory on another disk"
            }
            Self::TooSmall { .. } | Self::TooLarge { .. } => {
                "choose another size: `--storage-opt size=` for scratch disks, `--opt size=` for volumes"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
