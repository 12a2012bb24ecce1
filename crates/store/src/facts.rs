//! The file `facts` of a converted layer.
//!
//! Lines of text, in this order, each ended by a newline:
//!
//! ```text
//! coracle layer 1
//! tree format <decimal>             version of the tree's encoding, as `layer` counts
//! data <bytes>                      length of the file `data`
//! tree <bytes> sha256:<hex>         length and digest of the file `tree`
//! unpacked <bytes>                  length of the uncompressed tar archive that the layer was read from
//! ```

use std::fmt;
use std::str::FromStr;

use crate::Digest;

/// More than the longest facts.
pub const MAX_LENGTH: u64 = 1024;

const FIRST_LINE: &str = "coracle layer 1";

/// What is known of a layer's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Version of the tree's encoding.
    pub tree_format: u32,
    /// Length of the data file in bytes.
    pub data_length: u64,
    /// Length of the tree file in bytes.
    pub tree_length: u64,
    /// Digest of the tree file.
    pub tree_digest: Digest,
    /// Length in bytes of the uncompressed tar archive.
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
        let text = std::str::from_utf8(bytes).map_err(|_| FactsError::Line(1))?;
        let mut lines = text.lines().enumerate();
        let mut next = |key: &str| -> Result<(usize, String), FactsError> {
            let (index, line) = lines.next().ok_or(FactsError::Line(6))?;
            let value = line.strip_prefix(key).ok_or(FactsError::Line(index + 1))?;
            Ok((index + 1, value.trim_start().to_owned()))
        };
        fn number<T: FromStr>((line, value): (usize, String)) -> Result<T, FactsError> {
            value.parse().map_err(|_| FactsError::Line(line))
        }
        next(FIRST_LINE).map_err(|_| FactsError::Version)?;
        let tree_format = number(next("tree format ")?)?;
        let data_length = number(next("data ")?)?;
        let (line, tree) = next("tree ")?;
        let (length, digest) = tree.split_once(' ').ok_or(FactsError::Line(line))?;
        let tree_length = number((line, length.to_owned()))?;
        let tree_digest = number((line, digest.to_owned()))?;
        let unpacked_length = number(next("unpacked ")?)?;
        Ok(Self { tree_format, data_length, tree_length, tree_digest, unpacked_length })
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}")?;
        writeln!(f, "tree format {}", self.tree_format)?;
        writeln!(f, "data {}", self.data_length)?;
        writeln!(f, "tree {} {}", self.tree_length, self.tree_digest)?;
        writeln!(f, "unpacked {}", self.unpacked_length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn facts_round_trip(tree_format: u32, data_length: u64, tree_length: u64, unpacked_length: u64) {
            let tree_digest = Digest::of(&data_length.to_le_bytes());
            let facts = Facts { tree_format, data_length, tree_length, tree_digest, unpacked_length };
            prop_assert_eq!(Facts::parse(facts.to_string().as_bytes()), Ok(facts));
            prop_assert!(facts.to_string().len() as u64 <= MAX_LENGTH);
        }

        #[test]
        fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Facts::parse(&bytes);
        }
    }

    #[test]
    fn a_cut_or_foreign_file_is_named_as_such() {
        assert_eq!(Facts::parse(b""), Err(FactsError::Version));
        assert_eq!(Facts::parse(b"coracle layer 2\n"), Err(FactsError::Version));
        assert_eq!(Facts::parse(b"coracle layer 1\ntree format 1\ndata -4\n"), Err(FactsError::Line(3)));
    }
}
