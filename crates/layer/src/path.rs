//! Names as bytes: lexical cleaning, and a form fit for error messages.

use std::fmt;

use crate::limits::{NAME_MAX, PATH_MAX};

/// The name of an archive entry or a path of the tree, for error messages: quoted, escaped, cut when very long.
#[derive(Clone, PartialEq, Eq)]
pub struct EntryName(Box<[u8]>);

impl EntryName {
    /// The name as it was in the archive.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn join(directory: &[u8], name: &[u8]) -> Self {
        let mut path = directory.to_vec();
        if !directory.is_empty() && !name.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self(path.into())
    }
}

impl From<&[u8]> for EntryName {
    fn from(name: &[u8]) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 240;
        let shown = &self.0[..self.0.len().min(SHOWN)];
        let ellipsis = if shown.len() < self.0.len() { "…" } else { "" };
        write!(f, "\"{}{ellipsis}\"", String::from_utf8_lossy(shown).escape_debug())
    }
}

impl fmt::Debug for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a path cannot be part of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The whole path is longer than [`PATH_MAX`].
    #[error("the path is longer than {PATH_MAX} bytes")]
    PathTooLong,
    /// A component is longer than [`NAME_MAX`].
    #[error("a component of the path is longer than {NAME_MAX} bytes")]
    ComponentTooLong,
    /// A NUL byte, which no Linux path can hold.
    #[error("the path contains a NUL byte")]
    Nul,
    /// Not lexically clean: an empty, `.` or `..` component, or a leading slash.
    #[error("the path is not in canonical form")]
    NotCanonical,
}

/// Cleans a path as it stands in an archive: absolute and relative names mean the same, empty and `.` components
/// vanish, `..` takes back the component before it and stops at the root. The root itself is the empty path.
///
/// The rule is lexical, as in containerd, Docker and umoci: symbolic links are resolved later, in the merge.
pub(crate) fn clean(path: &[u8]) -> Result<Vec<u8>, PathError> {
    let mut cleaned: Vec<u8> = Vec::with_capacity(path.len());
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => cleaned.truncate(cleaned.iter().rposition(|&byte| byte == b'/').unwrap_or(0)),
            _ => {
                if !cleaned.is_empty() {
                    cleaned.push(b'/');
                }
                cleaned.extend_from_slice(component);
            }
        }
    }
    check_clean(&cleaned)?;
    Ok(cleaned)
}

/// Checks that a path has the form that [`clean`] gives.
pub(crate) fn check_clean(path: &[u8]) -> Result<(), PathError> {
    if path.len() > PATH_MAX {
        return Err(PathError::PathTooLong);
    }
    if path.is_empty() {
        return Ok(());
    }
    path.split(|&byte| byte == b'/').try_for_each(check_component)
}

/// Checks one component of a cleaned path.
pub(crate) fn check_component(name: &[u8]) -> Result<(), PathError> {
    match name {
        b"" | b"." | b".." => Err(PathError::NotCanonical),
        _ if name.len() > NAME_MAX => Err(PathError::ComponentTooLong),
        _ if name.contains(&b'/') => Err(PathError::NotCanonical),
        _ if name.contains(&0) => Err(PathError::Nul),
        _ => Ok(()),
    }
}

/// Splits a cleaned path into its directory and its last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_is_lexical_and_scoped_to_the_root() {
        for (raw, cleaned) in [
            ("", ""),
            (".", ""),
            ("/", ""),
            ("./", ""),
            ("..", ""),
            ("../../etc/passwd", "etc/passwd"),
            ("/etc/passwd", "etc/passwd"),
            ("./a//b/", "a/b"),
            ("a/../b", "b"),
            ("a/b/../../../c", "c"),
            ("a/./b/..", "a"),
            ("...", "..."),
        ] {
            assert_eq!(clean(raw.as_bytes()).unwrap(), cleaned.as_bytes(), "{raw:?}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(clean(&[b'a'; 255]).is_ok());
        assert_eq!(clean(&[b'a'; 256]), Err(PathError::ComponentTooLong));
        let long = [b"ab/".repeat(1365), b"a".to_vec()].concat();
        assert_eq!(clean(&long[..4095]).unwrap().len(), 4094);
        assert_eq!(clean(&[b"a".to_vec(), long].concat()), Err(PathError::PathTooLong));
        assert_eq!(clean(b"a\0b"), Err(PathError::Nul));
    }

    #[test]
    fn names_are_printable() {
        assert_eq!(EntryName::from(&b"a\n\xffb"[..]).to_string(), "\"a\\n\u{fffd}b\"");
        assert!(EntryName::from(&[b'x'; 1000][..]).to_string().ends_with("x…\""));
    }
}
