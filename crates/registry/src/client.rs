//! The blocking face.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use reqwest::Method;
use store::Digest;
use tokio::sync::mpsc::channel;

use crate::auth_file::Credentials;
use crate::background::Background;
use crate::body::PIECES;
use crate::download::{Download, Fetch};
use crate::environment::Environment;
use crate::error::RegistryError;
use crate::exchange::Ask;
use crate::network::Network;
use crate::pull::{Object, url_of};
use crate::push::Push;
use crate::reference::Reference;
use crate::settings::Settings;

type Result<T> = std::result::Result<T, RegistryError>;

/// A client of all registries. Clones share connections, tokens and the one thread that does the network.
///
/// Its functions block, and may be called from many threads at once.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    background: Background,
    network: Arc<Network>,
}

/// A manifest or an index, as the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The SHA-256 of its bytes.
    pub digest: Digest,
    /// What it is: `Content-Type` of the answer, or where that says nothing, the document's own `mediaType`. Never
    /// one that contradicts the document.
    pub media_type: String,
    /// Its bytes: a JSON object, at most 4 MiB.
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

/// A blob to push.
pub enum Upload<'a> {
    /// Its digest and size are known, and it can be read again from the start after a failure.
    Known {
        /// Its digest.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
        /// Opens it at its first byte.
        open: &'a dyn Fn() -> io::Result<Box<dyn Read + Send + 'a>>,
    },
    /// It is made while it is sent.
    Stream(Box<dyn Read + Send + 'a>),
}

impl fmt::Debug for Upload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known { digest, size, .. } => write!(f, "Known({digest}, {size} bytes)"),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl Client {
    /// A client with the proxies and certificate directories of this process. Touches no network and starts no thread
    /// before it is used.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Settings`] for settings that cannot be used.
    pub fn new(settings: Settings, credentials: Credentials) -> Result<Self> {
        Self::with_environment(settings, credentials, Environment::of_process())
    }

    /// The same with another environment than this process has.
    ///
    /// # Errors
    ///
    /// As [`Client::new`].
    pub fn with_environment(settings: Settings, credentials: Credentials, environment: Environment) -> Result<Self> {
        let network = Arc::new(Network::new(settings, credentials, environment)?);
        Ok(Self { inner: Arc::new(Inner { background: Background::default(), network }) })
    }

    /// The manifest or index of a reference: of its digest if it has one, else of its tag. From a mirror, if one has
    /// it.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; [`RegistryError::DigestMismatch`] for bytes that are not those asked for.
    pub fn manifest(&self, reference: &Reference) -> Result<Manifest> {
        let network = self.inner.network.clone();
        let sources = network.sources(reference.domain())?;
        let object = manifest_object(reference);
        self.inner.background.run(async move { network.manifest(&sources, &object).await })
    }

    /// What the registry says of the manifest of a reference, `None` where it has none. From a mirror, if one has it.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    pub fn manifest_digest(&self, reference: &Reference) -> Result<Option<ManifestHead>> {
        let network = self.inner.network.clone();
        let sources = network.sources(reference.domain())?;
        let object = manifest_object(reference);
        self.inner.background.run(async move { network.head(&sources, &object).await })
    }

    /// The bytes `offset..size` of a blob. Goes on by itself after a connection that broke or stalled. The reader
    /// ends after exactly `size - offset` bytes or fails with an [`io::Error`] around a [`RegistryError`]; it does
    /// not check the digest. Where nothing is left to come, nothing is asked for.
    ///
    /// # Errors
    ///
    /// [`RegistryError`], if the blob cannot be opened; [`RegistryError::SizeMismatch`] if it has another size.
    pub fn blob(&self, repository: &Reference, digest: &Digest, size: u64, offset: u64) -> Result<Download> {
        let (pieces, received) = channel(PIECES);
        let download = Download::new(self.clone(), received, size.saturating_sub(offset));
        if offset >= size {
            return Ok(download);
        }
        let network = self.inner.network.clone();
        let sources = network.sources(repository.domain())?;
        let mut fetch = Fetch { network, sources, object: blob_object(repository, digest), size, position: offset };
        let (fetch, opened) = self.inner.background.run(async move {
            let mut retries = fetch.retries()?;
            let opened = fetch.open(&mut retries).await?;
            Ok((fetch, opened))
        })?;
        self.inner.background.spawn(fetch.feed(opened, pieces))?;
        Ok(download)
    }

    /// The size of a blob that the repository has, `None` where it has not. Mirrors are not asked.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    pub fn has_blob(&self, repository: &Reference, digest: &Digest) -> Result<Option<u64>> {
        let network = self.inner.network.clone();
        let endpoint = network.registry(repository.domain())?;
        let object = blob_object(repository, digest);
        self.inner.background.run(async move { network.blob_size(&endpoint, &object).await })
    }

    /// Makes a blob of another repository of the same registry one of this one. False where the registry would not,
    /// or `from` is at another registry.
    ///
    /// # Errors
    ///
    /// [`RegistryError`].
    pub fn mount_blob(&self, repository: &Reference, digest: &Digest, from: &Reference) -> Result<bool> {
        if repository.domain() != from.domain() {
            return Ok(false);
        }
        self.push_to(repository)?.mount(*digest, from.path())
    }

    /// Pushes a blob. Its digest and size.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; [`RegistryError::Upload`] where it cannot be read, or is not as long as was said.
    pub fn push_blob(&self, repository: &Reference, upload: Upload<'_>) -> Result<(Digest, u64)> {
        let push = self.push_to(repository)?;
        match upload {
            Upload::Known { digest, size, open } => push.known(digest, size, open).map(|()| (digest, size)),
            Upload::Stream(reader) => push.stream(reader),
        }
    }

    /// Pushes a manifest or index under the reference's tag, or under its digest where it has no tag.
    ///
    /// # Errors
    ///
    /// [`RegistryError`]; [`RegistryError::DigestMismatch`] where the reference has a digest that is not the bytes'.
    pub fn push_manifest(&self, reference: &Reference, media_type: &str, bytes: &[u8]) -> Result<Digest> {
        let found = Digest::of(bytes);
        if let Some(expected) = reference.digest().copied().filter(|expected| *expected != found) {
            return Err(RegistryError::DigestMismatch { url: reference.to_string(), expected, found });
        }
        let name = reference.tag().map_or_else(|| found.to_string(), str::to_owned);
        self.push_to(reference)?.manifest(&name, media_type, bytes)
    }

    /// Whether the registry (`docker.io`, `host`, `host:port`) accepts these credentials. Keeps nothing.
    ///
    /// # Errors
    ///
    /// [`RegistryError::Unauthorized`] if not.
    pub fn login(&self, registry: &str, user: &str, secret: &str) -> Result<()> {
        let network = self.inner.network.clone();
        let endpoint = network.registry_for_login(registry, user, secret)?;
        self.inner.background.run(async move {
            let mut retries = network.retries(&endpoint);
            loop {
                match network.greet(&endpoint).await {
                    Ok(()) => return Ok(()),
                    Err(error) => retries.pause(error, &endpoint).await?,
                }
            }
        })
    }

    fn push_to(&self, repository: &Reference) -> Result<Push<'_>> {
        let network = self.inner.network.clone();
        let endpoint = network.registry(repository.domain())?;
        let background = &self.inner.background;
        Ok(Push { background, network, endpoint, repository: repository.path().to_owned() })
    }
}

impl Network {
    /// `GET /v2/`, with whatever the registry wants to see.
    async fn greet(&self, endpoint: &crate::network::Endpoint) -> Result<()> {
        let root = url_of(self, endpoint, "", "").await?;
        let url = root
            .join("/v2/")
            .map_err(|e| RegistryError::Protocol { url: crate::failure::shown(&root), problem: e.to_string() })?;
        let reply = self.ask(endpoint, Ask::new(Method::GET, url, "", Vec::new())).await?;
        if reply.status().is_success() { Ok(()) } else { Err(self.refusal(reply).await) }
    }
}

fn manifest_object(reference: &Reference) -> Object {
    let digest = reference.digest().copied();
    let tag = || reference.tag().unwrap_or("latest").to_owned();
    let name = digest.map_or_else(tag, |digest| digest.to_string());
    Object { repository: reference.path().to_owned(), name, digest }
}

fn blob_object(repository: &Reference, digest: &Digest) -> Object {
    Object { repository: repository.path().to_owned(), name: digest.to_string(), digest: Some(*digest) }
}
