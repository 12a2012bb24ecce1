//! Where documents and blobs come from: an archive or a directory that is loaded, or a registry that is pulled from.

use crate::Result;
use crate::archive::Section;
use crate::manifest::Descriptor;

/// Finds what a descriptor names. Sizes and digests of documents are verified by whoever implements this.
pub(crate) trait Documents {
    /// Names the place in errors.
    fn label(&self) -> &str;

    /// An index or a manifest.
    fn manifest(&self, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>>;

    /// A configuration.
    fn config(&self, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>>;

    /// The blob of a layer. Its digest is verified when it is read.
    fn layer(&self, descriptor: &Descriptor, what: &str) -> Result<Source>;
}

/// The blob of a layer, not opened yet.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A part of a file.
    Section(Section),
}

impl Source {
    /// Bytes of the blob.
    pub(crate) fn length(&self) -> u64 {
        match self {
            Self::Section(section) => section.length(),
        }
    }
}
