//! Images: from archives and registries to verified content to a root device, and back; names, listing, removal.
//!
//! # The way of an image
//!
//! ```text
//! path | stream                                     reference
//!    │ origin: what is it? an outer gzip or zstd       │ remote: documents and blobs of a registry
//!    │ is taken off; a stream is spooled               │
//!    ▼                                                 ▼
//! documents: index -> manifest -> configuration, or manifest.json; platform chosen    plan, manifest, docker
//!    ▼
//! ImagePlan {names, manifest, configuration, layers}          all documents read, checked, nothing written yet
//!    │ convert: every layer that the store does not have, several at once             convert, workers
//!    │   blob ─ sha256 ─ inflate ─ sha256 of the diff ─ tar ─ the layer's four files   pipeline, crate `layer`
//!    ▼
//! layers in the store
//!    │ root: changesets merged -> EROFS metadata image                                root, crate `erofs`
//!    ▼
//! record in the state                                         one transaction: the image exists, whole
//!    │
//!    ├─▶ root device of a machine                                                     root
//!    ├─▶ push, save: layers as they came where that was kept, or their archives, byte for byte
//!    └─▶ list, inspect, history, usage, verify, remove, prune
//! ```
//!
//! Loading and pulling hold a lease on everything they publish, and a lock per layer, so that however many commands
//! are at it a layer is converted once and nobody collects what is not recorded yet. When one fails, what it published
//! alone is collected again. Whatever reads an image's content leases it first; what was gone before then was removed
//! by somebody, and is not called damaged.
//!
//! An image's own layers are enough to give its archives back: the digests in its configuration are those of the
//! uncompressed archives, and a layer keeps every byte of its own. So nothing needs to be kept twice, and `verify` has
//! something to measure everything by that cannot be changed unnoticed.
//!
//! # What this crate is not for
//!
//! It does not speak to registries (`registry`), and does not interpret what is in a layer (`layer`) or how it looks to
//! a kernel (`erofs`).
//!
//! # Threats
//!
//! Everything in an archive or from a registry is untrusted; so is what a disk gives back.
//!
//! | threat | answer |
//! |---|---|
//! | content that is not what it is called | sizes and digests of all blobs checked, and of what layers inflate to |
//! | documents that mean two things (CVE-2021-41190) | one with both `layers` and `manifests`, or unlike its descriptor, is refused |
//! | documents without end, index loops | lengths, depth and counts bounded: see [`limits`] |
//! | names that are paths | members of an archive are looked up in its index; in a directory only digests become paths |
//! | configurations as control input (CVE-2022-23648, CVE-2024-40635) | texts are kept as texts; nothing in one is a path, a number or a command here |
//! | messages for other people's terminals | what errors quote is short, and without control characters |
//! | FIFOs and devices in a directory | only regular files are read, opened without waiting |
//! | bombs | memory is bounded by buffers; zeros become holes; a full disk is an error that leaves nothing |
//! | files that changed on the disk | lengths checked at every use, digests of documents and trees too; the rest by `verify`; what is saved or pushed is hashed on its way |

mod archive;
mod catalogue;
mod changes;
mod check;
mod clock;
mod commit;
mod compression;
mod convert;
mod docker;
mod error;
mod events;
mod filter;
mod history;
mod import;
mod inspect;
pub mod limits;
mod load;
mod manifest;
mod new_manifest;
mod options;
mod origin;
mod pattern;
mod pipeline;
mod plan;
mod platform;
mod progress;
mod prune;

mod pull;
mod push;
mod rebuild;
mod remote;
mod root;
mod save;
mod source;
mod tree;
mod usage;
mod verify;
mod workers;

use std::path::Path;
use std::sync::Arc;

use state::State;
use store::Store;

pub use catalogue::Removed;
pub use commit::{CommitRequest, WriteLayer};
pub use error::ImageError;
pub use filter::ListFilter;
pub use history::HistoryEntry;
pub use import::ImportRequest;
pub use inspect::Inspect;
pub use load::{LoadSource, Loaded};
pub use options::Options;
pub use platform::{Platform, PlatformError};
pub use progress::{Event, Progress};
pub use prune::{PruneRequest, Pruned};
pub use pull::Pulled;
pub use push::Pushed;
pub use registry::{Reference, ReferenceError, familiar};
pub use root::{RootDevice, RootExtent};
pub use tree::ImageTree;
pub use usage::{Amount, ImageUsage, Usage};
pub use verify::{Check, Outcome, Report, VerifyRequest};

type Result<T, E = ImageError> = std::result::Result<T, E>;

/// The images of one home.
#[derive(Debug, Clone)]
pub struct Images {
    store: Store,
    state: Arc<State>,
    options: Options,
}

impl Images {
    /// Opens the images of the home directory `home`, making it where it is missing.
    ///
    /// # Errors
    ///
    /// Where the store or the records cannot be opened.
    pub fn open(home: &Path) -> Result<Self> {
        let store = Store::open(home)?;
        let state = State::open(&store.home().join("state.db"))?;
        Ok(Self::new(store, Arc::new(state)))
    }

    /// The images of a store and records that are open already.
    #[must_use]
    pub fn new(store: Store, state: Arc<State>) -> Self {
        Self { store, state, options: Options::default() }
    }

    /// The same images, handled as `options` say.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The records.
    #[must_use]
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }
}
