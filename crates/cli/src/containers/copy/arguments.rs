//! The two places of `cp`, as Docker reads them.

use std::path::{Path, PathBuf};

use crate::output::report::Refusal;

/// One place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// `CONTAINER:PATH`.
    Container { name: String, path: String },
    /// A path here.
    Local(PathBuf),
    /// `-`: a tar archive as standard input or output.
    Stream,
}

impl Place {
    /// A text with a colon is a container and a path, unless it is an absolute path, or the dot before its colon says
    /// that it is a file here: `./a:b`.
    pub(crate) fn parse(text: &str) -> Self {
        if text == "-" {
            return Self::Stream;
        }
        match text.split_once(':') {
            Some((name, path)) if !text.starts_with(['/', '.', ':']) => {
                Self::Container { name: name.to_owned(), path: path.to_owned() }
            }
            _ => Self::Local(text.into()),
        }
    }
}

/// What is copied where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Out of a container; no target is standard output.
    Out { name: String, path: String, to: Option<PathBuf> },
    /// Into a container; no source is standard input.
    In { from: Option<PathBuf>, name: String, path: String },
}

impl Direction {
    /// What two places mean.
    ///
    /// # Errors
    ///
    /// Where not exactly one of them is in a container.
    pub(crate) fn of(from: &str, to: &str) -> Result<Self, Refusal> {
        let local = |place| match place {
            Place::Local(path) => Some(path),
            _ => None,
        };
        match (Place::parse(from), Place::parse(to)) {
            (Place::Container { .. }, Place::Container { .. }) => Err(Refusal::new(
                "copying between containers is not supported",
                "copy in two steps: `coracle cp A:/path - | coracle cp - B:/directory`",
            )),
            (Place::Container { name, path }, to) => Ok(Self::Out { path: within(&path)?, name, to: local(to) }),
            (from, Place::Container { name, path }) => Ok(Self::In { from: local(from), path: within(&path)?, name }),
            _ => Err(Refusal::new(
                "neither place is in a container",
                "write one of them as CONTAINER:PATH, as in `coracle cp web:/etc/hosts .`",
            )),
        }
    }
}

/// A path in a container: it begins at the root.
fn within(path: &str) -> Result<String, Refusal> {
    match path {
        "" => {
            Err(Refusal::new("the path in the container is missing", "write it behind the colon, as in web:/etc/hosts"))
        }
        path if path.starts_with('/') => Ok(path.to_owned()),
        path => Ok(format!("/{path}")),
    }
}

/// What is where something is to be copied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Missing,
    File,
    Directory,
}

/// Where an archive goes: into which directory, and what its first component is called there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Landing {
    pub(crate) directory: String,
    /// Missing: as it is called in the archive.
    pub(crate) name: Option<String>,
}

/// Docker's rules of where a thing lands.
///
/// # Errors
///
/// A directory onto a file; a file into a directory that is not there.
pub(crate) fn landing(source_is_directory: bool, path: &str, target: Target) -> Result<Landing, Refusal> {
    let wants_directory = path.ends_with('/') || path.ends_with("/.") || path == ".";
    match target {
        Target::Directory => return Ok(Landing { directory: path.to_owned(), name: None }),
        Target::File if source_is_directory => {
            let hint = "name a directory, or a path that is not there";
            return Err(Refusal::new(format!("a directory cannot be copied onto the file {path}"), hint));
        }
        Target::File if wants_directory => {
            return Err(Refusal::new(format!("{path} is not a directory"), "leave the slash at its end away"));
        }
        Target::Missing if wants_directory && !source_is_directory => {
            let hint = "make it first, or leave the slash at its end away";
            return Err(Refusal::new(format!("the directory {path} does not exist"), hint));
        }
        Target::File | Target::Missing => {}
    }
    let trimmed = path.trim_end_matches("/.").trim_end_matches('/');
    let whole = Path::new(trimmed);
    let directory = match whole.parent() {
        Some(parent) if parent.as_os_str().is_empty() => ".".to_owned(),
        Some(parent) => parent.to_string_lossy().into_owned(),
        None => "/".to_owned(),
    };
    let name = whole.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(Landing { directory, name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let inside = |name: &str, path: &str| Place::Container { name: name.into(), path: path.into() };
        for (text, expected) in [
            ("-", Place::Stream),
            ("web:/etc", inside("web", "/etc")),
            ("web:etc", inside("web", "etc")),
            ("web:/a:b", inside("web", "/a:b")),
            ("/a:b", Place::Local("/a:b".into())),
            ("./a:b", Place::Local("./a:b".into())),
            ("../a:b", Place::Local("../a:b".into())),
            ("a", Place::Local("a".into())),
            (":/a", Place::Local(":/a".into())),
        ] {
            assert_eq!(Place::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn directions() {
        let out = |to: Option<&str>| Direction::Out { name: "c".into(), path: "/p".into(), to: to.map(Into::into) };
        assert_eq!(Direction::of("c:/p", "x").unwrap(), out(Some("x")));
        assert_eq!(Direction::of("c:p", "-").unwrap(), out(None));
        let expected = Direction::In { from: None, name: "c".into(), path: "/p".into() };
        assert_eq!(Direction::of("-", "c:/p").unwrap(), expected);
        for (from, to) in [("c:/a", "d:/b"), ("a", "b"), ("-", "-"), ("c:", "x")] {
            assert!(Direction::of(from, to).is_err(), "{from} {to}");
        }
    }

    #[test]
    fn landings_as_docker_has_them() {
        let at = |directory: &str, name: Option<&str>| {
            Some(Landing { directory: directory.to_owned(), name: name.map(str::to_owned) })
        };
        for (is_directory, path, target, expected) in [
            (false, "/d", Target::Directory, at("/d", None)),
            (true, "/d/", Target::Directory, at("/d/", None)),
            (false, "/d/f", Target::File, at("/d", Some("f"))),
            (true, "/d/f", Target::File, None),
            (false, "/d/f/", Target::File, None),
            (false, "/d/f", Target::Missing, at("/d", Some("f"))),
            (false, "/d/f/", Target::Missing, None),
            (true, "/d/f/", Target::Missing, at("/d", Some("f"))),
            (true, "/d/f/.", Target::Missing, at("/d", Some("f"))),
            (false, "f", Target::Missing, at(".", Some("f"))),
            (true, "/f", Target::Missing, at("/", Some("f"))),
        ] {
            assert_eq!(landing(is_directory, path, target).ok(), expected, "{path} {target:?}");
        }
    }
}
