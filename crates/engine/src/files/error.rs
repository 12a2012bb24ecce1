//! Why a container's files cannot be had.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// An error with a container's files.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FilesError {
    /// The container's disk cannot be opened.
    #[error("cannot open the disk of container {container}")]
    Open {
        /// The container's name.
        container: String,
        /// Why.
        source: io::Error,
    },
    /// The file system on the container's disk cannot be read.
    #[error("cannot read the disk of container {container}")]
    Disk {
        /// The container's name.
        container: String,
        /// Why.
        source: ext4::Ext4Error,
    },
    /// What is on the disk is not what a container leaves there.
    #[error("the disk of container {container} is damaged: {path}: {problem}", path = path.display())]
    Damaged {
        /// The container's name.
        container: String,
        /// Where.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// The contents of an image cannot be read.
    #[error("cannot read {} of the container's image", path.display())]
    Image {
        /// What was being read.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something that no layer and no archive can hold.
    #[error("{} of container {container} cannot be in an archive: {problem}", path.display())]
    NotForArchives {
        /// The container's name.
        container: String,
        /// What.
        path: PathBuf,
        /// Why.
        problem: &'static str,
    },
    /// It went on writing: its guest waits for two minutes at most.
    #[error("container {container} went on running before its files were read")]
    Changed {
        /// The container's name.
        container: String,
    },
    /// There is no such path.
    #[error("no such path in container {container}: {}", path.display())]
    NoSuchPath {
        /// The container's name.
        container: String,
        /// The path.
        path: PathBuf,
    },
    /// Something is mounted there, which is not on the container's disk.
    #[error("{} of container {container} is in {mount}, not on its disk", path.display())]
    Mounted {
        /// The container's name.
        container: String,
        /// The path.
        path: PathBuf,
        /// What is mounted.
        mount: String,
        /// Where the path is on the host, if it is there at all.
        host: Option<PathBuf>,
    },
    /// What is mounted from the host cannot be looked at there.
    #[error("cannot look at {}", path.display())]
    Host {
        /// The path on the host.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A path that must be a directory.
    #[error("{} of container {container} is not a directory", path.display())]
    NotADirectory {
        /// The container's name.
        container: String,
        /// The path.
        path: PathBuf,
    },
    /// Symbolic links without end.
    #[error("too many levels of symbolic links in container {container}: {}", path.display())]
    SymlinkLoop {
        /// The container's name.
        container: String,
        /// The path.
        path: PathBuf,
    },
    /// Whoever takes an archive takes no more of it.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    /// An archive that is to be unpacked is none.
    #[error("cannot read the archive")]
    Archive(#[source] io::Error),
    /// The container did not take all of an archive.
    #[error("container {container} cannot unpack the archive: {problem}")]
    Unpack {
        /// The container's name.
        container: String,
        /// What its guest said.
        problem: String,
    },
    /// A member of an archive that is to be unpacked cannot be.
    #[error("cannot unpack {}: {problem}", path.display())]
    Member {
        /// The member.
        path: PathBuf,
        /// Why.
        problem: String,
    },
}

impl FilesError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Mounted { host: Some(host), .. } => return Some(format!("on the host it is {}", host.display())),
            Self::Mounted { container, path, .. } => {
                let path = path.display();
                return Some(format!("where it runs, `coracle exec {container} tar -c {path}` reads it"));
            }
            Self::Changed { .. } => "stop the container meanwhile: its files can be read for any time then",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// For writers of layers.
impl From<FilesError> for io::Error {
    fn from(error: FilesError) -> Self {
        io::Error::other(error)
    }
}
