//! Paths in a container's tree: symbolic links are followed as the container would follow them, its root is the root.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::error::FilesError;
use super::path_of;
use super::view::{Kind, Node, View, join};

type Result<T> = std::result::Result<T, FilesError>;

/// Most symbolic links that are followed for one path, as in the kernel.
const SYMLINKS: u32 = 40;

/// What a path leads to.
pub(crate) struct Found {
    /// Where it is, without a leading slash and without symbolic links.
    pub(crate) path: Vec<u8>,
    /// What it is.
    pub(crate) node: Node,
}

/// What a path leads to, as far as it leads.
pub(crate) enum Target {
    /// There.
    Found(Found),
    /// The name is not in the directory, which is.
    Missing(Vec<u8>),
}

/// A path as somebody asked for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'p> {
    text: &'p [u8],
}

impl<'p> Asked<'p> {
    pub(crate) fn new(text: &'p str) -> Self {
        Self { text: text.as_bytes() }
    }

    /// It ends in a slash or a dot: a directory is meant, and what a symbolic link leads to.
    pub(crate) fn wants_directory(self) -> bool {
        matches!(self.text.rsplit(|byte| *byte == b'/').next(), Some(b"" | b"." | b".."))
    }

    /// The name that what is there has in an archive: the path's last, or `.` where that says that contents are meant.
    pub(crate) fn archive_name(self) -> Vec<u8> {
        let mut names = self.text.rsplit(|byte| *byte == b'/');
        match names.find(|name| !name.is_empty()) {
            None | Some(b"." | b"..") => b".".to_vec(),
            Some(name) => name.to_vec(),
        }
    }
}

/// Finds a path; with `follow`, a symbolic link at its end is followed.
///
/// # Errors
///
/// [`FilesError::NoSuchPath`], [`FilesError::NotADirectory`], [`FilesError::SymlinkLoop`].
pub(crate) fn find(view: &View<'_>, asked: Asked<'_>, follow: bool) -> Result<Found> {
    match resolve(view, asked, follow)? {
        Target::Found(found) => Ok(found),
        Target::Missing(_) => Err(no_such_path(view, asked)),
    }
}

/// Where a path leads.
///
/// # Errors
///
/// As for [`find`], but that only the last name may be missing.
pub(crate) fn resolve(view: &View<'_>, asked: Asked<'_>, follow: bool) -> Result<Target> {
    let follow = follow || asked.wants_directory();
    // What is still to be looked up, the next name at the end.
    let mut pending = names(asked.text);
    // The way from the root.
    let mut way = vec![Found { path: Vec::new(), node: view.root()? }];
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == b".." {
            if way.len() > 1 {
                way.pop();
            }
            continue;
        }
        let Some(directory) = way.last() else { break };
        let children = view.children(&directory.path, &directory.node)?;
        let path = join(&directory.path, &name);
        let Ok(at) = children.binary_search_by(|(found, _)| found.cmp(&name)) else {
            return if pending.is_empty() { Ok(Target::Missing(path)) } else { Err(no_such_path(view, asked)) };
        };
        let Some((_, node)) = children.into_iter().nth(at) else { break };
        let attributes = view.attributes(&node)?;
        match attributes.kind {
            Kind::Symlink(target) if follow || !pending.is_empty() => {
                links += 1;
                if links > SYMLINKS {
                    return Err(FilesError::SymlinkLoop {
                        container: view.container.to_owned(),
                        path: as_asked(asked),
                    });
                }
                if target.starts_with(b"/") {
                    way.truncate(1);
                }
                pending.extend(names(&target));
            }
            Kind::Directory => way.push(Found { path, node }),
            _ if pending.is_empty() && !asked.wants_directory() => way.push(Found { path, node }),
            _ => return Err(FilesError::NotADirectory { container: view.container.to_owned(), path: path_of(&path) }),
        }
    }
    match way.pop() {
        Some(found) => Ok(Target::Found(found)),
        None => Err(no_such_path(view, asked)),
    }
}

/// The names of a path, last first, without those that mean nothing.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    names.map(<[u8]>::to_vec).rev().collect()
}

fn as_asked(asked: Asked<'_>) -> PathBuf {
    OsString::from_vec(asked.text.to_vec()).into()
}

pub(crate) fn no_such_path(view: &View<'_>, asked: Asked<'_>) -> FilesError {
    FilesError::NoSuchPath { container: view.container.to_owned(), path: as_asked(asked) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_says() {
        for (text, directory, name) in [
            ("/a/b", false, "b"),
            ("a/b/", true, "b"),
            ("a/b/.", true, "."),
            ("/", true, "."),
            ("", true, "."),
            (".", true, "."),
            ("/a/..", true, "."),
            ("//a//", true, "a"),
        ] {
            let asked = Asked::new(text);
            assert_eq!((asked.wants_directory(), &asked.archive_name()[..]), (directory, name.as_bytes()), "{text}");
        }
        assert_eq!(names(b"/a/./b//c/.."), [&b".."[..], b"c", b"b", b"a"]);
    }
}
