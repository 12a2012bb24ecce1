//! Manifests, and whether blobs are there.

use std::sync::Arc;

use reqwest::header::{ACCEPT, HeaderName, RANGE};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use store::Digest;
use tokio::time::sleep;

use crate::body;
use crate::client::{Manifest, ManifestHead};
use crate::error::{RegistryError, Unreached, Waiting};
use crate::exchange::{Ask, Reply};
use crate::failure::shown;
use crate::network::{Endpoint, Network};
use crate::range::{self, ContentRange};
use crate::retry::Retries;

/// Longer manifests are refused by registries, too (distribution-spec, "Pushing Manifests").
const LONGEST_MANIFEST: u64 = 4 << 20;

/// What a manifest may be.
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// What some registries say of everything.
const VAGUE_TYPES: [&str; 4] = ["", "application/json", "application/octet-stream", "text/plain"];

/// What of a repository is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// Its repository's path.
    pub(crate) repository: String,
    /// Its tag or digest.
    pub(crate) name: String,
    /// Its digest, where it is known.
    pub(crate) digest: Option<Digest>,
}

/// `repository:<path>:<actions>` (scope.md of the distribution project).
pub(crate) fn scope(repository: &str, actions: &str) -> String {
    format!("repository:{repository}:{actions}")
}

/// `…/v2/<repository>/<kind>/<name>`.
pub(crate) async fn url_of(
    network: &Network,
    endpoint: &Endpoint,
    repository: &str,
    rest: &str,
) -> Result<Url, RegistryError> {
    let root = network.root(endpoint).await?;
    let path = format!("v2/{repository}/{rest}");
    root.join(&path).map_err(|e| RegistryError::Protocol { url: shown(&root), problem: e.to_string() })
}

impl Retries {
    /// Waits before the next try, or gives the error back where there is to be none.
    pub(crate) async fn pause(&mut self, error: RegistryError, endpoint: &Endpoint) -> Result<(), RegistryError> {
        match self.after(&error, endpoint.reached()) {
            Some(pause) => sleep(pause).await,
            None => return Err(error),
        }
        Ok(())
    }
}

/// Whether a mirror is to be left alone for a while.
pub(crate) fn is_down(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::Unreachable { why: Unreached::Refused | Unreached::Network | Unreached::Name, .. }
            | RegistryError::Timeout { waiting: Waiting::Connection | Waiting::Answer, .. }
            | RegistryError::Tls { .. }
    )
}

impl Network {
    pub(crate) async fn read(
        &self,
        endpoint: &Endpoint,
        method: Method,
        object: &Object,
        kind: &str,
        headers: &[(HeaderName, String)],
    ) -> Result<Reply, RegistryError> {
        let repository = endpoint.repository(&object.repository);
        let url = url_of(self, endpoint, &repository, &format!("{kind}/{}", object.name)).await?;
        let mut ask = Ask::new(method, url, &object.repository, vec![scope(&repository, "pull")]);
        ask.headers.extend_from_slice(headers);
        self.ask(endpoint, ask).await
    }

    /// A manifest, of the first source that has it.
    pub(crate) async fn manifest(&self, sources: &[Arc<Endpoint>], object: &Object) -> Result<Manifest, RegistryError> {
        let mut failure = None;
        for source in sources {
            match self.manifest_of(source, object).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) => {
                    if is_down(&error) {
                        source.rest();
                    }
                    failure = Some(error);
                }
            }
        }
        Err(failure.unwrap_or_else(no_source))
    }

    async fn manifest_of(&self, source: &Endpoint, object: &Object) -> Result<Manifest, RegistryError> {
        let mut retries = self.retries(source);
        loop {
            match self.manifest_once(source, object).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) => retries.pause(error, source).await?,
            }
        }
    }

    async fn manifest_once(&self, source: &Endpoint, object: &Object) -> Result<Manifest, RegistryError> {
        let accept = [(ACCEPT, MANIFEST_TYPES.join(", "))];
        let reply = self.read(source, Method::GET, object, "manifests", &accept).await?;
        if reply.status() != StatusCode::OK {
            return Err(self.refusal(reply).await);
        }
        let said = digest_of(&reply)?;
        let content_type = content_type(&reply);
        let coded = reply.header("content-encoding").is_some_and(|c| !c.eq_ignore_ascii_case("identity"));
        let url = reply.url;
        let bytes = body::whole(reply.response, &url, LONGEST_MANIFEST, self.environment.deadlines).await?;
        let digest = Digest::of(&bytes);
        if let Some(expected) = object.digest.or(said).filter(|expected| *expected != digest) {
            return Err(RegistryError::DigestMismatch { url: shown(&url), expected, found: digest });
        }
        let wrong = |problem: String| RegistryError::Protocol { url: shown(&url), problem };
        if coded && object.digest.or(said).is_none() {
            return Err(wrong("it is encoded, which was not asked for".into()));
        }
        let media_type = media_type(&content_type, &bytes).map_err(wrong)?;
        Ok(Manifest { digest, media_type, bytes })
    }

    /// What the registry says of a manifest.
    pub(crate) async fn head(
        &self,
        sources: &[Arc<Endpoint>],
        object: &Object,
    ) -> Result<Option<ManifestHead>, RegistryError> {
        let mut failure = None;
        let mut absent = false;
        for source in sources {
            match self.head_of(source, object).await {
                Ok(Some(head)) => return Ok(Some(head)),
                Ok(None) => absent = true,
                Err(error) => {
                    absent = false;
                    if is_down(&error) {
                        source.rest();
                    }
                    failure = Some(error);
                }
            }
        }
        if absent { Ok(None) } else { Err(failure.unwrap_or_else(no_source)) }
    }

    async fn head_of(&self, source: &Endpoint, object: &Object) -> Result<Option<ManifestHead>, RegistryError> {
        let mut retries = self.retries(source);
        loop {
            match self.head_once(source, object).await {
                Ok(head) => return Ok(head),
                Err(error) => retries.pause(error, source).await?,
            }
        }
    }

    async fn head_once(&self, source: &Endpoint, object: &Object) -> Result<Option<ManifestHead>, RegistryError> {
        let accept = [(ACCEPT, MANIFEST_TYPES.join(", "))];
        let reply = self.read(source, Method::HEAD, object, "manifests", &accept).await?;
        match reply.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            _ => return Err(self.refusal(reply).await),
        }
        let said = digest_of(&reply)?;
        if let (Some(expected), Some(found)) = (object.digest, said)
            && expected != found
        {
            return Err(RegistryError::DigestMismatch { url: shown(&reply.url), expected, found });
        }
        let length = reply.header("content-length").and_then(|l| l.parse().ok());
        match (object.digest.or(said), length) {
            (Some(digest), Some(size)) => Ok(Some(ManifestHead { digest, media_type: content_type(&reply), size })),
            // Registries may leave the digest out; the bytes have one.
            _ => {
                let manifest = self.manifest_once(source, object).await?;
                let size = manifest.bytes.len() as u64;
                Ok(Some(ManifestHead { digest: manifest.digest, media_type: manifest.media_type, size }))
            }
        }
    }

    /// The size of a blob, `None` where the registry has none.
    pub(crate) async fn blob_size(&self, endpoint: &Endpoint, object: &Object) -> Result<Option<u64>, RegistryError> {
        let mut retries = self.retries(endpoint);
        loop {
            match self.blob_size_once(endpoint, object).await {
                Ok(size) => return Ok(size),
                Err(error) => retries.pause(error, endpoint).await?,
            }
        }
    }

    async fn blob_size_once(&self, endpoint: &Endpoint, object: &Object) -> Result<Option<u64>, RegistryError> {
        let reply = self.read(endpoint, Method::HEAD, object, "blobs", &[]).await?;
        let length = reply.header("content-length").and_then(|l| l.parse().ok());
        match (reply.status(), length) {
            (StatusCode::OK, Some(size)) => Ok(Some(size)),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (StatusCode::OK, None) => self.blob_size_by_reading(endpoint, object).await,
            // Storage that gives the blob to those who GET it, as it was asked to, and nothing to others.
            _ if !reply.at_home => self.blob_size_by_reading(endpoint, object).await,
            _ => Err(self.refusal(reply).await),
        }
    }

    /// The size as the answer to a request for the first byte tells it.
    async fn blob_size_by_reading(&self, endpoint: &Endpoint, object: &Object) -> Result<Option<u64>, RegistryError> {
        let headers = [(RANGE, "bytes=0-0".to_owned())];
        let reply = self.read(endpoint, Method::GET, object, "blobs", &headers).await?;
        let range = reply.header("content-range").and_then(range::parse);
        let size = match (reply.status(), range) {
            (StatusCode::OK, _) => reply.response.content_length(),
            (StatusCode::PARTIAL_CONTENT, Some(ContentRange::Part { total, .. })) => total,
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(ContentRange::Unsatisfied { total })) => Some(total),
            (StatusCode::NOT_FOUND, _) => return Ok(None),
            _ => return Err(self.refusal(reply).await),
        };
        size.map(Some).ok_or_else(|| reply.protocol("it does not say how long its blob is"))
    }
}

pub(crate) fn no_source() -> RegistryError {
    RegistryError::Protocol { url: String::new(), problem: "there is no registry to ask".into() }
}

/// `Docker-Content-Digest`, where it is a sha256 digest. One of another algorithm cannot be checked.
pub(crate) fn digest_of(reply: &Reply) -> Result<Option<Digest>, RegistryError> {
    let Some(text) = reply.header("docker-content-digest") else { return Ok(None) };
    match text.parse() {
        Ok(digest) => Ok(Some(digest)),
        Err(store::DigestError::Algorithm(_)) => Ok(None),
        Err(error) => Err(reply.protocol(format!("its Docker-Content-Digest: {error}"))),
    }
}

/// `Content-Type` without its parameters, in lower case.
fn content_type(reply: &Reply) -> String {
    let value = reply.header("content-type").unwrap_or_default();
    crate::answer::show(value.split(';').next().unwrap_or_default().trim(), 200).to_ascii_lowercase()
}

#[derive(Deserialize)]
struct Typed {
    #[serde(rename = "mediaType", default)]
    media_type: Option<String>,
}

/// What the manifest is. Its own word and the registry's must agree (image-spec, manifest.md; CVE-2021-41190);
/// where the registry says nothing, the manifest's own counts.
fn media_type(content_type: &str, bytes: &[u8]) -> Result<String, String> {
    let object = bytes.trim_ascii_start().starts_with(b"{");
    let typed: Option<Typed> = serde_json::from_slice(bytes).ok().filter(|_| object);
    let typed = typed.ok_or_else(|| {
        format!(
            "its manifest is no JSON object, but {:?}",
            if content_type.is_empty() { "nothing" } else { content_type }
        )
    })?;
    let vague = VAGUE_TYPES.contains(&content_type);
    match typed.media_type {
        None => Ok(content_type.to_owned()),
        Some(own) if vague => Ok(crate::answer::show(&own, 200)),
        Some(own) if own == content_type => Ok(own),
        Some(own) => Err(format!(
            "its manifest calls itself {:?}, the registry says {content_type:?}",
            crate::answer::show(&own, 200)
        )),
    }
}
