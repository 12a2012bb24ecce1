//! A writer of `newc` cpio archives, the format of initial RAM disks.
//!
//! An archive is a row of members. Each is a header of 110 bytes, the path with a final NUL, and the contents; the
//! contents and the next header start at multiples of four. The header is the magic `070701` and thirteen fields of
//! eight hexadecimal digits: inode, mode, uid, gid, links, mtime, size of the contents, device major and minor of the
//! file system, device major and minor of a device node, length of the path with its NUL, and a checksum that is 0.
//! A member called `TRAILER!!!` ends the archive. (`Documentation/driver-api/early-userspace/buffer-format.rst` in
//! the kernel's sources.)
//!
//! What goes in decides what comes out: times are 0, owners are root, inodes count up.

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive that grows.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    members: usize,
}

impl Archive {
    /// An archive with nothing in it.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a directory with mode 0755. Parents come first.
    pub(crate) fn directory(&mut self, path: &str) -> &mut Self {
        self.member(path, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// Adds an executable file.
    pub(crate) fn executable(&mut self, path: &str, contents: &[u8]) -> &mut Self {
        self.member(path, FILE | 0o755, (0, 0), contents)
    }

    /// Adds a character device with mode 0600.
    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) -> &mut Self {
        self.member(path, CHARACTER_DEVICE | 0o600, (major, minor), &[])
    }

    /// The archive with its end.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.member("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn member(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), contents: &[u8]) -> &mut Self {
        let inode = self.members;
        let (size, name_size) = (contents.len(), path.len() + 1);
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let header = format!(
            "070701{inode:08x}{mode:08x}{owner:08x}{owner:08x}{links:08x}{mtime:08x}{size:08x}\
             {on:08x}{on:08x}{major:08x}{minor:08x}{name_size:08x}{checksum:08x}",
            owner = 0,
            mtime = 0,
            on = 0,
            checksum = 0,
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(contents);
        self.align();
        self.members += 1;
        self
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new();
        archive.directory("dev").character_device("dev/console", 5, 1).executable("init", b"#!/bin/sh\n");
        archive.finish()
    }

    #[test]
    fn a_member_is_header_name_and_contents_each_aligned() {
        let mut archive = Archive::new();
        archive.executable("init", b"hello");
        let bytes = archive.finish();
        assert!(bytes.starts_with(b"070701"));
        assert_eq!(&bytes[14..22], b"000081ed");
        assert_eq!(&bytes[54..62], b"00000005");
        assert_eq!(&bytes[94..102], b"00000005");
        assert_eq!(&bytes[110..115], b"init\0");
        assert_eq!(&bytes[116..124], b"hello\0\0\0");
        assert_eq!(&bytes[124..130], b"070701");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn the_same_members_give_the_same_bytes() {
        assert_eq!(sample(), sample());
    }

    #[test]
    fn cpio_itself_reads_what_was_written() {
        let Ok(mut child) =
            Command::new("cpio").args(["-itv", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
        else {
            return;
        };
        child.stdin.take().expect("piped").write_all(&sample()).expect("written");
        let listed = String::from_utf8(child.wait_with_output().expect("ended").stdout).expect("text");
        let mut lines = listed.lines();
        assert!(lines.next().is_some_and(|line| line.starts_with("drwxr-xr-x") && line.ends_with("dev")));
        assert!(lines.next().is_some_and(|line| line.starts_with("crw-------") && line.contains("5,   1")));
        assert!(lines.next().is_some_and(|line| line.starts_with("-rwxr-xr-x") && line.ends_with("init")));
    }
}
