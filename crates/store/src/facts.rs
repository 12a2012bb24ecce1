//! The file `facts` of a converted layer.
//!
//! Lines of text, in this order, each ended by a newline:
//!
//! ```text
//! coracle layer 2
//! tree format <decimal>             version of the tree's encoding, as `layer` counts
//! data <bytes> sha256:<hex>         length of the file `data`, and its fs-verity digest
//! packed <bytes> sha256:<hex>       length and digest of the file `packed`
//! tree <bytes> sha256:<hex>         length and digest of the file `tree`
//! skeleton <bytes> sha256:<hex>     length and digest of the file `skeleton`
//! unpacked <bytes>                  length of the uncompressed tar archive that the layer was read from
//! ```
//!
//! The digest of `data` is the one that `fsverity digest` prints: of the fs-verity descriptor of version 1, with
//! SHA-256, blocks of 4096 bytes and no salt (Linux `Documentation/filesystems/fsverity.rst`). It is kept so that the
//! kernel can check the data while it is read; nothing has to be converted again for that.
//!
//! Version 1 had no `packed` and no `skeleton`. A layer of another version is not read: it is made again when its
//! image is pulled or loaded.

use std::fmt;
use std::str::FromStr;

use crate::Digest;

/// More than the longest facts.
pub const MAX_LENGTH: u64 = 1024;

const FIRST_LINE: &str = "coracle layer 2";

/// What is known of a layer's files. Lengths are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Version of the tree's encoding.
    pub tree_format: u32,
    /// Length of the data file.
    pub data_length: u64,
    /// The data file's fs-verity digest.
    pub data_verity: Digest,
    /// Length of the file of packed contents.
    pub packed_length: u64,
    /// Digest of the file of packed contents.
    pub packed_digest: Digest,
    /// Length of the tree file.
    pub tree_length: u64,
    /// Digest of the tree file.
    pub tree_digest: Digest,
    /// Length of the skeleton file.
    pub skeleton_length: u64,
    /// Digest of the skeleton file.
    pub skeleton_digest: Digest,
    /// Length of the uncompressed tar archive.
    pub unpacked_length: u64,
}

/// Facts that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// Written by a version that we do not know.
    #[error("it was written by another version of Coracle")]
    Version,
    /// Not facts.
    #[error("its line {0} cannot be read")]
    Line(usize),
}

impl Facts {
    /// Reads facts.
    ///
    /// # Errors
    ///
    /// [`FactsError`] for anything that [`Facts`] does not write.
    pub fn parse(bytes: &[u8]) -> Result<Self, FactsError> {
        let mut lines = Lines::new(bytes)?;
        let tree_format = lines.number("tree format ")?;
        let (data_length, data_verity) = lines.file("data ")?;
        let (packed_length, packed_digest) = lines.file("packed ")?;
        let (tree_length, tree_digest) = lines.file("tree ")?;
        let (skeleton_length, skeleton_digest) = lines.file("skeleton ")?;
        let unpacked_length = lines.number("unpacked ")?;
        lines.end()?;
        Ok(Self {
            tree_format,
            data_length,
            data_verity,
            packed_length,
            packed_digest,
            tree_length,
            tree_digest,
            skeleton_length,
            skeleton_digest,
            unpacked_length,
        })
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}")?;
        writeln!(f, "tree format {}", self.tree_format)?;
        writeln!(f, "data {} {}", self.data_length, self.data_verity)?;
        writeln!(f, "packed {} {}", self.packed_length, self.packed_digest)?;
        writeln!(f, "tree {} {}", self.tree_length, self.tree_digest)?;
        writeln!(f, "skeleton {} {}", self.skeleton_length, self.skeleton_digest)?;
        writeln!(f, "unpacked {}", self.unpacked_length)
    }
}

/// The lines that are left, and the number of the one read last.
struct Lines<'a> {
    rest: &'a str,
    number: usize,
}

impl<'a> Lines<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, FactsError> {
        let (first, rest) = bytes.split_at_checked(FIRST_LINE.len() + 1).ok_or(FactsError::Version)?;
        if first.strip_suffix(b"\n") != Some(FIRST_LINE.as_bytes()) {
            return Err(FactsError::Version);
        }
        let rest = std::str::from_utf8(rest).map_err(|_| FactsError::Line(2))?;
        Ok(Self { rest, number: 1 })
    }

    /// What follows `key` on the next line.
    fn value(&mut self, key: &str) -> Result<&'a str, FactsError> {
        self.number += 1;
        let (line, rest) = self.rest.split_once('\n').ok_or(FactsError::Line(self.number))?;
        self.rest = rest;
        line.strip_prefix(key).ok_or(FactsError::Line(self.number))
    }

    fn number<T: FromStr + fmt::Display>(&mut self, key: &str) -> Result<T, FactsError> {
        let value = self.value(key)?;
        self.exact(value)
    }

    fn file(&mut self, key: &str) -> Result<(u64, Digest), FactsError> {
        let value = self.value(key)?;
        let (length, digest) = value.split_once(' ').ok_or(FactsError::Line(self.number))?;
        Ok((self.exact(length)?, self.exact(digest)?))
    }

    /// A value that would be written as it is read: no signs, no leading zeros.
    fn exact<T: FromStr + fmt::Display>(&self, text: &str) -> Result<T, FactsError> {
        let value = text.parse::<T>().ok().filter(|value| value.to_string() == text);
        value.ok_or(FactsError::Line(self.number))
    }

    fn end(self) -> Result<(), FactsError> {
        if self.rest.is_empty() { Ok(()) } else { Err(FactsError::Line(self.number + 1)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts(lengths: [u64; 5], digests: [[u8; 32]; 4], tree_format: u32) -> Facts {
        let [data_verity, packed_digest, tree_digest, skeleton_digest] = digests.map(Digest::from_bytes);
        let [data_length, packed_length, tree_length, skeleton_length, unpacked_length] = lengths;
        Facts {
            tree_format,
            data_length,
            data_verity,
            packed_length,
            packed_digest,
            tree_length,
            tree_digest,
            skeleton_length,
            skeleton_digest,
            unpacked_length,
        }
    }

    proptest! {
        #[test]
        fn facts_round_trip(lengths: [u64; 5], digests: [[u8; 32]; 4], tree_format: u32) {
            let facts = facts(lengths, digests, tree_format);
            let text = facts.to_string();
            prop_assert_eq!(Facts::parse(text.as_bytes()), Ok(facts));
            prop_assert!(text.len() as u64 <= MAX_LENGTH);
        }

        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Facts::parse(&bytes);
        }

        #[test]
        fn what_parses_is_exactly_what_is_written(at in 0usize..560, byte: u8) {
            let mut bytes = facts([1, 22, 333, 4444, 55555], [[1; 32], [2; 32], [3; 32], [4; 32]], 6).to_string().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(facts) = Facts::parse(&bytes) {
                prop_assert_eq!(facts.to_string().into_bytes(), bytes);
            }
        }
    }

    #[test]
    fn facts_cut_anywhere_are_not_facts() {
        let text = facts([1, 22, 333, 4444, 55555], [[1; 32], [2; 32], [3; 32], [4; 32]], 6).to_string();
        for length in 0..text.len() {
            assert!(Facts::parse(&text.as_bytes()[..length]).is_err(), "{:?}", &text[..length]);
        }
        assert_eq!(Facts::parse(format!("{text}more\n").as_bytes()), Err(FactsError::Line(8)));
    }

    #[test]
    fn a_foreign_file_is_named_as_such() {
        assert_eq!(Facts::parse(b""), Err(FactsError::Version));
        let first = b"coracle layer 1\ntree format 1\ndata 4096\ntree 0 sha256:00\nunpacked 0\n";
        assert_eq!(Facts::parse(first), Err(FactsError::Version));
        assert_eq!(Facts::parse(b"coracle layer 20\n"), Err(FactsError::Version));
        assert_eq!(Facts::parse(b"coracle layer 2\ntree format 1\ndata -4\n"), Err(FactsError::Line(3)));
    }
}
