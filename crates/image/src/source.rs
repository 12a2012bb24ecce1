//! Where documents and blobs come from: an archive or a directory that is loaded, or a registry that is pulled from.

use std::fs::File;
use std::io::Read;

use store::{Digest, FileIngest, Lease, Object, Partial, Store};

use crate::Result;
use crate::archive::Section;
use crate::manifest::Descriptor;
use crate::remote::RemoteBlob;

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
    /// In a registry.
    Remote(RemoteBlob),
}

impl Source {
    /// Bytes of the blob.
    pub(crate) fn length(&self) -> u64 {
        match self {
            Self::Section(section) => section.length(),
            Self::Remote(blob) => blob.size,
        }
    }

    /// Opens the blob. With `keep`, what is read can become a blob of the store.
    pub(crate) fn open(&self, store: &Store, keep: bool) -> Result<Opened> {
        match self {
            Self::Section(section) => {
                let kept = keep.then(|| store.ingest_file()).transpose()?.map(Kept::Ingest);
                Ok(Opened { reader: Box::new(section.clone()), kept, resumed: false })
            }
            Self::Remote(blob) => blob.open(store, keep),
        }
    }
}

/// A blob that is being read, and what is to become of what passes by.
pub(crate) struct Opened {
    /// The blob from its first byte.
    pub(crate) reader: Box<dyn Read + Send>,
    /// Where it is to be written too.
    pub(crate) kept: Option<Kept>,
    /// Whether it begins with what an earlier download had left.
    pub(crate) resumed: bool,
}

/// The copy of a blob that is being read.
pub(crate) enum Kept {
    /// A blob of the store, to be.
    Ingest(FileIngest),
    /// A download, which can be taken up again where it is interrupted.
    Partial(Partial),
}

impl Kept {
    /// To be written from where it is.
    pub(crate) fn file(&self) -> &File {
        match self {
            Self::Ingest(ingest) => ingest.file(),
            Self::Partial(partial) => partial.file(),
        }
    }

    /// Makes it a blob of the store. The caller has verified what was written.
    pub(crate) fn publish(self, store: &Store, lease: &Lease, digest: &Digest) -> Result<()> {
        match self {
            Self::Ingest(ingest) => Ok(ingest.publish(lease, &Object::blob(*digest))?),
            Self::Partial(partial) => Ok(store.keep_blob(lease, partial, digest)?),
        }
    }

    /// Nobody needs it.
    pub(crate) fn discard(self) -> Result<()> {
        match self {
            Self::Ingest(_) => Ok(()),
            Self::Partial(partial) => Ok(partial.discard()?),
        }
    }
}
