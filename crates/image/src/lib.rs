//! Images: from an archive to verified content to a root device; names, listing, removal.
//!
//! # The way of an image
//!
//! ```text
//! path | stream
//!    │ origin: what is it? an outer gzip or zstd is taken off; a stream is spooled to a file without a name
//!    ▼
//! OCI layout directory | tar archive, indexed once, read in place by offset          origin, archive
//!    │ plan: index -> manifest -> configuration, or manifest.json; platform chosen    plan, manifest, docker
//!    ▼
//! ImagePlan {names, manifest, configuration, layers}          all documents read, checked, nothing written yet
//!    │ convert: every layer that the store does not have                              convert
//!    ▼
//!    │  thread 1: blob ─ sha256 ─ inflate ─┐ bounded channel of large buffers
//!    │  thread 2:                          └─ sha256 of the diff ─ tar ─ data file + changeset
//!    ▼
//! layers in the store
//!    │ root: changesets merged -> EROFS metadata image                                root
//!    ▼
//! record in the state                                         one transaction: the image exists, whole
//! ```
//!
//! Loading holds a lease on everything it publishes, and a lock per layer, so that however many commands load at once
//! a layer is converted once and nobody collects what is not recorded yet. When it fails, what it published alone is
//! collected again.
//!
//! # What this crate is not for
//!
//! It does not fetch (that will be `registry`), and does not interpret what is in a layer (`layer`) or how it looks to
//! a kernel (`erofs`).
//!
//! # Threats
//!
//! Everything in an archive is untrusted.
//!
//! | threat | answer |
//! |---|---|
//! | content that is not what it is called | sizes and digests of all blobs checked, and of what layers inflate to |
//! | documents that mean two things (CVE-2021-41190) | one with both `layers` and `manifests`, or unlike its descriptor, is refused |
//! | documents without end, index loops | lengths, depth and counts bounded: see [`limits`] |
//! | names that are paths | members of an archive are looked up in its index; in a directory only digests become paths |
//! | FIFOs and devices in a directory | only regular files are read, opened without waiting |
//! | bombs | memory is bounded by buffers; zeros become holes; a full disk is an error that leaves nothing |

mod archive;
mod catalogue;
mod changes;
mod check;
mod clock;
mod compression;
mod convert;
mod docker;
mod error;
mod filter;
mod history;
mod import;
mod inspect;
pub mod limits;
mod load;
mod manifest;
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
mod usage;
mod verify;
mod workers;

use std::path::Path;
use std::sync::Arc;

use state::State;
use store::Store;

pub use catalogue::Removed;
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
