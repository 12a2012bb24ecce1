//! What the user says about registries.
//!
//! In the engine's settings, under `registries`, a map from `host` or `host:port`, as it stands in names of images,
//! to:
//!
//! ```json
//! {
//!   "registries": {
//!     "docker.io": { "mirrors": ["https://mirror.example/hub", "cache.example:5000"] },
//!     "registry.example:5000": {
//!       "ca": ["/etc/ssl/example.pem"],
//!       "client_cert": "/etc/ssl/me.cert",
//!       "client_key": "/etc/ssl/me.key"
//!     },
//!     "lab.example": { "insecure": true }
//!   }
//! }
//! ```
//!
//! Every key is optional; an unknown key is an error.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What the user says about registries, by `host` or `host:port`.
///
/// A host that has an entry here, even an empty one, is one that the user named: a registry may redirect to it
/// though it lies in a private network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Settings {
    /// The entries.
    pub registries: BTreeMap<String, HostSettings>,
}

/// What the user says about one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostSettings {
    /// Asked in this order before the registry itself, for pulls only: `host`, `host:port`, or a URL with a path
    /// before `/v2/` (`https://host/path` is asked at `https://host/v2/path/<repository>/…`, as registries that proxy
    /// others want it). A mirror is given its own credentials, never the registry's. What it has not, or cannot
    /// answer, the next one is asked for.
    pub mirrors: Vec<String>,
    /// Any certificate is taken, by any host, and where no TLS is spoken, plain HTTP: everyone on the way can read
    /// the credentials and change what tags mean. Digests are checked all the same.
    pub insecure: bool,
    /// PEM files of certificate authorities that are trusted for this registry, beside the system's.
    pub ca: Vec<PathBuf>,
    /// PEM file of the certificate chain to show to this registry. With `client_key`.
    pub client_cert: Option<PathBuf>,
    /// PEM file of its private key. With `client_cert`.
    pub client_key: Option<PathBuf>,
}
