//! What guest init makes in every container to mount things on. It is no change that anybody made.

use super::view::{Attributes, Kind};

/// Files that are mounted on.
const FILES: [&[u8]; 3] = [b"etc/hosts", b"etc/hostname", b"etc/resolv.conf"];
/// Directories that are mounted on, or hold such files.
const DIRECTORIES: [&[u8]; 4] = [b"dev", b"etc", b"proc", b"sys"];

/// Whether a path of the upper directory is a file that was made to be mounted on, be it in the place of something of
/// the image that is no file.
pub(crate) fn is_file(path: &[u8], upper: &Attributes, lower: Option<&Attributes>) -> bool {
    FILES.contains(&path)
        && lower.is_none_or(|lower| lower.kind != Kind::File)
        && upper.kind == Kind::File
        && upper.size == 0
        && is_as_made(upper, 0o644)
}

/// Whether a path of the upper directory, if nothing is in it, is a directory that was made to be mounted on.
pub(crate) fn may_be_directory(path: &[u8], upper: &Attributes, lower: Option<&Attributes>) -> bool {
    DIRECTORIES.contains(&path)
        && lower.is_none_or(|lower| lower.kind != Kind::Directory)
        && upper.kind == Kind::Directory
        && is_as_made(upper, 0o755)
}

fn is_as_made(upper: &Attributes, mode: u16) -> bool {
    (upper.mode, upper.uid, upper.gid) == (mode, 0, 0) && upper.xattrs.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(kind: Kind, mode: u16) -> Attributes {
        Attributes { kind, mode, uid: 0, gid: 0, size: 0, mtime: (1, 2), xattrs: std::collections::BTreeMap::new() }
    }

    #[test]
    fn only_what_guest_init_makes() {
        let file = attributes(Kind::File, 0o644);
        assert!(is_file(b"etc/hosts", &file, None));
        assert!(is_file(b"etc/resolv.conf", &file, Some(&attributes(Kind::Symlink(b"x".to_vec()), 0o777))));
        assert!(!is_file(b"etc/resolv.conf", &file, Some(&file)));
        assert!(!is_file(b"etc/passwd", &file, None));
        assert!(!is_file(b"etc/hosts", &Attributes { size: 1, ..file.clone() }, None));
        assert!(!is_file(b"etc/hosts", &attributes(Kind::File, 0o600), None));
        let directory = attributes(Kind::Directory, 0o755);
        assert!(may_be_directory(b"proc", &directory, None) && !may_be_directory(b"proc", &file, None));
        assert!(!may_be_directory(b"proc", &directory, Some(&directory)));
        assert!(!may_be_directory(b"srv", &directory, None));
    }
}
