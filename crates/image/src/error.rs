//! What can go wrong with images.

use std::io;
use std::path::Path;

use registry::RegistryError;
use store::Digest;

/// An error about images.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The archive or directory cannot be read.
    #[error("cannot read {origin}")]
    Read {
        /// What was being read.
        origin: String,
        /// Why.
        source: io::Error,
    },
    /// A registry does not give it, or not take it.
    #[error("cannot transfer {what}")]
    Transfer {
        /// What was asked for.
        what: String,
        /// Why.
        source: Box<RegistryError>,
    },
    /// The file is no archive.
    #[error("{origin} is not an image archive: {problem}")]
    NotAnArchive {
        /// The file.
        origin: String,
        /// What was found.
        problem: String,
    },
    /// The archive ends too early.
    #[error("{origin} is truncated: it ends within {within}")]
    Truncated {
        /// The archive.
        origin: String,
        /// What it ends in.
        within: String,
    },
    /// An archive or a directory of something else.
    #[error("{origin} holds no image: it has neither an OCI index.json nor docker's manifest.json")]
    NoImage {
        /// The archive or directory.
        origin: String,
    },
    /// A document is not what it should be.
    #[error("{what} is malformed: {problem}")]
    Malformed {
        /// The document.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A document cannot be parsed.
    #[error("{what} is malformed")]
    Json {
        /// The document.
        what: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Something exceeds a bound of [`crate::limits`].
    #[error("{what} is too large: more than {limit} {unit}")]
    TooLarge {
        /// What.
        what: String,
        /// The bound.
        limit: u64,
        /// What it counts.
        unit: &'static str,
    },
    /// Something is named and not there.
    #[error("{what} is missing from {origin}")]
    Missing {
        /// What.
        what: String,
        /// The archive or directory.
        origin: String,
    },
    /// Content has another size than its descriptor says.
    #[error("{what} should be {expected} bytes long and is {found}")]
    WrongSize {
        /// What.
        what: String,
        /// The size in the descriptor.
        expected: u64,
        /// Its own.
        found: u64,
    },
    /// Content has another digest than its name says.
    #[error("{what} is damaged: its content has digest {found}")]
    WrongDigest {
        /// What, with the digest it should have.
        what: String,
        /// The digest it has.
        found: Digest,
    },
    /// A layer inflates to something else than the configuration says.
    #[error(
        "{what} is not what the image's configuration says: it should inflate to {expected}, and inflates to {found}"
    )]
    WrongDiffId {
        /// The layer.
        what: String,
        /// The diff id in the configuration.
        expected: Digest,
        /// Its own.
        found: Digest,
    },
    /// A layer is compressed in a way that Coracle does not know.
    #[error("{what} is compressed with {compression}, which is not supported")]
    Compression {
        /// The layer.
        what: String,
        /// The compression.
        compression: String,
    },
    /// Something has a media type that Coracle does not know.
    #[error("{what} has the media type {media_type:?}, which is not supported")]
    MediaType {
        /// What.
        what: String,
        /// Its media type.
        media_type: String,
    },
    /// The image is there, but not for this platform.
    #[error("{image} is not for {wanted}: it is for {}", available.join(", "))]
    Platform {
        /// The image.
        image: String,
        /// The platform that was wanted.
        wanted: String,
        /// The platforms that there are.
        available: Vec<String>,
    },
    /// A compressed layer cannot be inflated.
    #[error("{what} cannot be decompressed")]
    Inflate {
        /// The layer.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A layer's archive is refused.
    #[error("{what} cannot be converted")]
    Layer {
        /// The layer.
        what: String,
        /// Why.
        source: layer::LayerError,
    },
    /// The tree of a layer in the store cannot be read.
    #[error("the tree of layer {diff_id} cannot be read")]
    Tree {
        /// The layer.
        diff_id: Digest,
        /// Why.
        source: layer::ChangesetError,
    },
    /// The layers do not make a file tree together.
    #[error("the layers of {image} cannot be merged")]
    Merge {
        /// The image.
        image: String,
        /// Why.
        source: layer::MergeError,
    },
    /// The metadata image cannot be written.
    #[error("cannot write the metadata image of {image}")]
    Metadata {
        /// The image.
        image: String,
        /// Why.
        source: erofs::ErofsError,
    },
    /// A name is no name.
    #[error(transparent)]
    Reference(#[from] crate::ReferenceError),
    /// Whoever takes an archive that is saved takes no more of it.
    #[error("cannot write the archive")]
    Archive {
        /// Why.
        source: io::Error,
    },
    /// A change to a configuration is no instruction that changes one.
    #[error("cannot apply {line:?}: {problem}")]
    Change {
        /// The instruction.
        line: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A pattern for names is no pattern.
    #[error("{text:?} is not a pattern for names")]
    Pattern {
        /// What was given.
        text: String,
    },
    /// No image has that name or id.
    #[error("no such image: {name}")]
    NoSuchImage {
        /// What was asked for.
        name: String,
    },
    /// Several images have ids that begin so.
    #[error("{count} images have an id that begins with {prefix:?}")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// How many there are.
        count: usize,
    },
    /// An image that has names in several repositories is not removed by its id.
    #[error("image {id} has several names: {}", names.join(", "))]
    SeveralNames {
        /// The image.
        id: String,
        /// Its names.
        names: Vec<String>,
    },
    /// Something of an image is not what it was when it was loaded.
    #[error("image {image} is damaged: {problem}")]
    Damaged {
        /// The image.
        image: String,
        /// What is wrong.
        problem: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// The records failed.
    #[error(transparent)]
    State(#[from] state::StateError),
}

impl ImageError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotAnArchive { .. } | Self::NoImage { .. } => {
                "load takes an OCI layout directory, an OCI archive, or an archive made by `docker save`; \
                 gzip or zstd around it is fine"
            }
            Self::Truncated { .. } | Self::WrongSize { .. } | Self::WrongDigest { .. } | Self::Missing { .. } => {
                "the archive was damaged on its way or not written to its end: make or copy it again"
            }
            Self::Compression { .. } => {
                "layers may be plain, gzip or zstd; `skopeo copy --dest-compress` converts them"
            }
            Self::Platform { .. } => "build the image for this platform, or name one of its platforms with --platform",
            Self::SeveralNames { .. } => "remove its names one by one, or all with --force",
            Self::NoSuchImage { .. } => {
                "`coracle images` lists what there is; `coracle pull` and `coracle load` add to it"
            }
            Self::Damaged { .. } | Self::Tree { .. } => "pull or load the image again: what is damaged is made anew",
            Self::Pattern { .. } => {
                "`*` and `?` stand for characters, `[a-z]` for one of several, `\\` before one for itself"
            }
            Self::Transfer { source, .. } => return source.hint(),
            Self::Store(error) => return error.hint(),
            Self::State(error) => return error.hint(),
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// What reading `origin` said; a registry's own words, where it was one that was read from.
    pub(crate) fn read(origin: &str, source: io::Error) -> Self {
        match source.downcast::<RegistryError>() {
            Ok(source) => Self::transfer(origin, source),
            Err(source) => Self::Read { origin: origin.to_owned(), source },
        }
    }

    pub(crate) fn transfer(what: &str, source: RegistryError) -> Self {
        Self::Transfer { what: what.to_owned(), source: Box::new(source) }
    }

    pub(crate) fn no_such_file(path: &Path, source: io::Error) -> Self {
        Self::Read { origin: path.display().to_string(), source }
    }

    pub(crate) fn malformed(what: &str, problem: impl Into<String>) -> Self {
        Self::Malformed { what: what.to_owned(), problem: problem.into() }
    }
}
