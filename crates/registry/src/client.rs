//! The blocking face.

use std::io::{self, Read};
use std::sync::Arc;

use store::Digest;

use crate::auth_file::Credentials;
use crate::error::RegistryError;
use crate::reference::Reference;
use crate::settings::Settings;

type Result<T> = std::result::Result<T, RegistryError>;

/// A client of all registries. Clones share connections, tokens and the one thread that does the network.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<(Settings, Credentials)>,
}

/// A manifest or an index, as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// What the registry says it is.
    pub media_type: String,
    /// Its bytes, at most 4 MiB.
    pub bytes: Vec<u8>,
}

/// What a registry says of a manifest without sending it. Not checked: it sent no bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestHead {
    /// Its digest.
    pub digest: Digest,
    /// What the registry says it is.
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
}

/// The bytes of a blob from an offset to its end, as they come. See [`Client::blob`].
#[derive(Debug)]
pub struct Download {
    _client: Client,
}

/// A blob to push.
pub enum Upload<'a> {
    /// Its digest and size are known, and it can be read again from the start after a failure.
    Known {
        /// Its digest.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
        /// Opens it at its first byte.
        open: &'a (dyn Fn() -> io::Result<Box<dyn Read + Send + 'a>> + 'a),
    },
    /// It is made while it is sent.
    Stream(Box<dyn Read + Send + 'a>),
}

impl std::fmt::Debug for Upload<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known { digest, size, .. } => write!(f, "Known({digest}, {size} bytes)"),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl Read for Download {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}

fn not_built<T>(client: &Client) -> Result<T> {
    let _ = &client.inner;
    Err(RegistryError::Protocol { url: String::new(), problem: "not built".into() })
}

impl Client {
    /// A client. Touches no network and starts no thread before it is used.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Settings`] for settings that cannot be used.
    pub fn new(settings: Settings, credentials: Credentials) -> Result<Self> {
        Ok(Self { inner: Arc::new((settings, credentials)) })
    }

    /// The manifest or index of a reference: of its digest if it has one, else of its tag.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; [`RegistryError::DigestMismatch`] for bytes that are not those asked for.
    pub fn manifest(&self, reference: &Reference) -> Result<Manifest> {
        let _ = reference;
        not_built(self)
    }

    /// What the registry says of the manifest of a reference, `None` where it has none.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    pub fn manifest_digest(&self, reference: &Reference) -> Result<Option<ManifestHead>> {
        let _ = reference;
        not_built(self)
    }

    /// The bytes `offset..size` of a blob. Goes on by itself after a connection that broke or stalled. The reader
    /// ends after exactly `size - offset` bytes or fails with an [`io::Error`] around a [`RegistryError`]; it does
    /// not check the digest.
    ///
    /// # Errors
    ///
    /// [`RegistryError`], if the first answer is no success.
    pub fn blob(&self, repository: &Reference, digest: &Digest, size: u64, offset: u64) -> Result<Download> {
        let _ = (repository, digest, size, offset);
        not_built(self)
    }

    /// The size of a blob that the repository has, `None` where it has not.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    pub fn has_blob(&self, repository: &Reference, digest: &Digest) -> Result<Option<u64>> {
        let _ = (repository, digest);
        not_built(self)
    }

    /// Makes a blob of another repository of the same registry one of this one. False where the registry would not.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    pub fn mount_blob(&self, repository: &Reference, digest: &Digest, from: &Reference) -> Result<bool> {
        let _ = (repository, digest, from);
        not_built(self)
    }

    /// Pushes a blob. Its digest and size.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; [`RegistryError::Upload`] where it cannot be read.
    pub fn push_blob(&self, repository: &Reference, upload: Upload<'_>) -> Result<(Digest, u64)> {
        let _ = (repository, &upload);
        drop(upload);
        not_built(self)
    }

    /// Pushes a manifest or index under the reference's tag, or under its digest where it has no tag.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    pub fn push_manifest(&self, reference: &Reference, media_type: &str, bytes: &[u8]) -> Result<Digest> {
        let _ = (reference, media_type, bytes);
        not_built(self)
    }

    /// Whether the registry (`docker.io`, `host`, `host:port`) accepts these credentials.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Unauthorized`] if not.
    pub fn login(&self, registry: &str, user: &str, secret: &str) -> Result<()> {
        let _ = (registry, user, secret);
        not_built(self)
    }
}
