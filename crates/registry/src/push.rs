//! Blobs and manifests to a registry.
//!
//! A blob whose digest and size are known goes in one PUT; after a failure it is read again from its start. One that
//! is made while it is sent goes in pieces (PATCH), each kept in memory until the registry has it; after a failure the
//! registry is asked how much it has.

use std::io::{self, Read};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, LOCATION};
use reqwest::{Method, StatusCode, Url};
use store::{Digest, Hasher};
use tokio::sync::mpsc::Sender;

use crate::background::Background;
use crate::body::{Feed, PIECE};
use crate::error::RegistryError;
use crate::exchange::{Ask, Payload, Reply, target};
use crate::failure::shown;
use crate::network::{Endpoint, Network};
use crate::pull::{Object, digest_of, scope, url_of};
use crate::range;

/// Opens what is pushed, at its first byte.
type Open<'o> = &'o dyn Fn() -> io::Result<Box<dyn Read + Send + 'o>>;

/// A stream goes in pieces of so many bytes, unless the registry wants longer ones…
const CHUNK: u64 = 4 << 20;
/// …but never longer than this.
const LONGEST_CHUNK: u64 = 64 << 20;
const OCTETS: &str = "application/octet-stream";

/// A repository of one registry, to push to.
#[derive(Debug)]
pub(crate) struct Push<'a> {
    pub(crate) background: &'a Background,
    pub(crate) network: Arc<Network>,
    pub(crate) endpoint: Arc<Endpoint>,
    /// The repository's path.
    pub(crate) repository: String,
}

/// An upload that a registry opened.
#[derive(Debug, Clone)]
struct Session {
    url: Url,
    /// How long pieces are to be at least.
    shortest: u64,
}

impl Push<'_> {
    fn desk(&self) -> Desk {
        Desk { network: self.network.clone(), endpoint: self.endpoint.clone(), repository: self.repository.clone() }
    }

    /// A blob that can be read again.
    pub(crate) fn known(&self, digest: Digest, size: u64, open: Open<'_>) -> Result<(), RegistryError> {
        let mut retries = self.network.retries(&self.endpoint);
        let mut renewed = false;
        loop {
            let error = match self.known_once(digest, size, open) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            // The token ended between the first request and the bytes.
            if matches!(error, RegistryError::Unauthorized { .. }) && !renewed {
                renewed = true;
                continue;
            }
            let Some(pause) = retries.after(&error, self.endpoint.reached()) else { return Err(error) };
            thread::sleep(pause);
            if self.has(digest) {
                return Ok(());
            }
        }
    }

    /// Whether the blob is there, as far as the registry tells.
    fn has(&self, digest: Digest) -> bool {
        let desk = self.desk();
        self.background.run(async move { Ok(desk.has(digest).await) }).unwrap_or(false)
    }

    fn known_once(&self, digest: Digest, size: u64, open: Open<'_>) -> Result<(), RegistryError> {
        let desk = self.desk();
        let session = self.background.run(async move { desk.start_once(&[]).await })?;
        let unread = |source| RegistryError::Upload { url: shown(&session.url), source };
        let reader = open().map_err(unread)?;
        let (feed, pieces) = Feed::new(size);
        let (desk, url) = (self.desk(), session.url.clone());
        let outcome = self.background.start(async move {
            let payload = if size == 0 { Payload::None } else { Payload::Feed(Mutex::new(Some(feed))) };
            desk.finish_once(url, digest, payload).await
        })?;
        let read = pump(reader, &pieces, size);
        drop(pieces);
        let outcome = outcome.wait();
        read.map_err(unread)?;
        outcome
    }

    /// A blob that is made while it is sent. One that fits into a piece is sent like one that is known.
    pub(crate) fn stream(&self, mut reader: Box<dyn Read + Send + '_>) -> Result<(Digest, u64), RegistryError> {
        let place = || format!("{}/{}", self.endpoint.name, self.repository);
        let unread = |source| RegistryError::Upload { url: place(), source };
        let mut piece = Vec::new();
        read_up_to(&mut reader, &mut piece, CHUNK).map_err(unread)?;
        let size = piece.len() as u64;
        if size < CHUNK {
            let digest = Digest::of(&piece);
            self.known(digest, size, &|| Ok(Box::new(&piece[..])))?;
            return Ok((digest, size));
        }
        let desk = self.desk();
        let mut session = self.background.run(async move { desk.start(&[]).await })?;
        let mut hasher = Hasher::default();
        let mut sent = 0;
        loop {
            let length = session.shortest.clamp(CHUNK, LONGEST_CHUNK);
            read_up_to(&mut reader, &mut piece, length).map_err(unread)?;
            hasher.update(&piece);
            let bytes = Bytes::from(std::mem::take(&mut piece));
            let (desk, count) = (self.desk(), bytes.len() as u64);
            if count > 0 {
                session = self.background.run(async move { desk.append(session, bytes, sent).await })?;
                sent += count;
            }
            if count < length {
                let (desk, digest) = (self.desk(), hasher.finish());
                self.background.run(async move { desk.finish(session.url, digest).await })?;
                return Ok((digest, sent));
            }
        }
    }

    /// A blob of another repository of this registry.
    pub(crate) fn mount(&self, digest: Digest, from: &str) -> Result<bool, RegistryError> {
        let (desk, from) = (self.desk(), from.to_owned());
        self.background.run(async move { desk.mount(digest, &from).await })
    }

    /// A manifest under a tag or digest.
    pub(crate) fn manifest(&self, name: &str, media_type: &str, bytes: &[u8]) -> Result<Digest, RegistryError> {
        let (desk, name, media_type) = (self.desk(), name.to_owned(), media_type.to_owned());
        let bytes = Bytes::copy_from_slice(bytes);
        self.background.run(async move { desk.manifest(&name, &media_type, &bytes).await })
    }
}

/// Reads until `bytes` has `length` of them, or there are no more.
fn read_up_to(reader: &mut dyn Read, bytes: &mut Vec<u8>, length: u64) -> io::Result<()> {
    let missing = length.saturating_sub(bytes.len() as u64);
    reader.take(missing).read_to_end(bytes).map(drop)
}

/// Moves bytes from a reader to the network. Stops without an error when the network wants no more.
fn pump(reader: Box<dyn Read + Send + '_>, pieces: &Sender<Bytes>, size: u64) -> io::Result<()> {
    let mut left = size;
    // One byte more shows that there is more than was said.
    let mut reader = reader.take(size.saturating_add(1));
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        (&mut reader).take(PIECE as u64).read_to_end(&mut piece)?;
        if piece.is_empty() && left == 0 {
            return Ok(());
        }
        let short = piece.is_empty();
        let Some(rest) = left.checked_sub(piece.len() as u64).filter(|_| !short) else {
            let problem =
                if short { "it is shorter than it was said to be" } else { "it is longer than it was said to be" };
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        };
        left = rest;
        if pieces.blocking_send(Bytes::from(piece)).is_err() {
            return Ok(());
        }
    }
}

/// What the network's thread does of a push.
#[derive(Debug)]
struct Desk {
    network: Arc<Network>,
    endpoint: Arc<Endpoint>,
    repository: String,
}

impl Desk {
    fn ask(&self, method: Method, url: Url, scopes: &[String]) -> Ask {
        let mut all = vec![scope(&self.endpoint.repository(&self.repository), "pull,push")];
        all.extend_from_slice(scopes);
        Ask::new(method, url, &self.repository, all)
    }

    /// Whether the blob is there. Who may push may not always read.
    async fn has(&self, digest: Digest) -> bool {
        let object = Object { repository: self.repository.clone(), name: digest.to_string(), digest: Some(digest) };
        matches!(self.network.blob_size(&self.endpoint, &object).await, Ok(Some(_)))
    }

    async fn start(&self, query: &[(&str, &str)]) -> Result<Session, RegistryError> {
        let mut retries = self.network.retries(&self.endpoint);
        loop {
            match self.start_once(query).await {
                Ok(session) => return Ok(session),
                Err(error) => retries.pause(error, &self.endpoint).await?,
            }
        }
    }

    async fn start_once(&self, query: &[(&str, &str)]) -> Result<Session, RegistryError> {
        let reply = self.post(query, &[]).await?;
        match reply.status() {
            StatusCode::ACCEPTED => session_of(&reply),
            status if status.is_success() => Err(reply.protocol("it opened no upload")),
            _ => Err(self.network.refusal(reply).await),
        }
    }

    async fn post(&self, query: &[(&str, &str)], scopes: &[String]) -> Result<Reply, RegistryError> {
        let repository = self.endpoint.repository(&self.repository);
        let mut url = url_of(&self.network, &self.endpoint, &repository, "blobs/uploads/").await?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let ask = self.ask(Method::POST, url, scopes).payload(Payload::Bytes(Bytes::new(), OCTETS.into()));
        self.network.ask(&self.endpoint, ask).await
    }

    /// Ends an upload whose bytes are there.
    async fn finish(&self, url: Url, digest: Digest) -> Result<(), RegistryError> {
        let mut retries = self.network.retries(&self.endpoint);
        loop {
            let payload = Payload::None;
            let Err(error) = self.finish_once(url.clone(), digest, payload).await else { return Ok(()) };
            retries.pause(error, &self.endpoint).await?;
            // It may have taken it, and only the answer was lost.
            if self.has(digest).await {
                return Ok(());
            }
        }
    }

    async fn finish_once(&self, mut url: Url, digest: Digest, payload: Payload) -> Result<(), RegistryError> {
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let payload = match payload {
            Payload::None => Payload::Bytes(Bytes::new(), OCTETS.into()),
            other => other,
        };
        let reply = self.network.ask(&self.endpoint, self.ask(Method::PUT, url, &[]).payload(payload)).await?;
        if !reply.status().is_success() {
            return Err(self.network.refusal(reply).await);
        }
        check_digest(&reply, digest)
    }

    /// One piece of a stream, at `offset`. Where the next one goes.
    async fn append(&self, session: Session, piece: Bytes, offset: u64) -> Result<Session, RegistryError> {
        let mut retries = self.network.retries(&self.endpoint);
        let end = offset + piece.len() as u64;
        let (mut session, mut piece, mut offset) = (session, piece, offset);
        loop {
            let error = match self.append_once(&session, &piece, offset).await {
                Ok(next) => return Ok(next),
                Err(error) => error,
            };
            if !matches!(error, RegistryError::Refused { ref answer, .. } if answer.status == 416) {
                retries.pause(error, &self.endpoint).await?;
            } else if let Some(pause) = retries.after(&broken(&session.url), true) {
                tokio::time::sleep(pause).await;
            } else {
                return Err(error);
            }
            let (next, there) = self.standing(session).await?;
            session = next;
            if there == end {
                return Ok(session);
            }
            // None and one byte look alike.
            let there = if there == 1 && offset == 0 { 0 } else { there };
            let Some(skip) = there.checked_sub(offset).filter(|_| there < end) else {
                let problem = format!("it has {there} bytes of the upload, {offset} were sent");
                return Err(RegistryError::Protocol { url: shown(&session.url), problem });
            };
            piece = piece.slice(usize::try_from(skip).unwrap_or(piece.len())..);
            offset = there;
        }
    }

    async fn append_once(&self, session: &Session, piece: &Bytes, offset: u64) -> Result<Session, RegistryError> {
        let end = offset + piece.len() as u64;
        let ask = self
            .ask(Method::PATCH, session.url.clone(), &[])
            .header(CONTENT_RANGE, format!("{offset}-{}", end.saturating_sub(1)))
            .payload(Payload::Bytes(piece.clone(), OCTETS.into()));
        let reply = self.network.ask(&self.endpoint, ask).await?;
        if !reply.status().is_success() {
            return Err(self.network.refusal(reply).await);
        }
        if let Some(received) = reply.header("range").and_then(range::received).filter(|received| *received != end) {
            return Err(reply.protocol(format!("it has {received} bytes of the upload, {end} were sent")));
        }
        let next = session_of(&reply)?;
        Ok(Session { shortest: next.shortest.max(session.shortest), ..next })
    }

    /// How much of an upload the registry has, and where it goes on.
    async fn standing(&self, session: Session) -> Result<(Session, u64), RegistryError> {
        let mut retries = self.network.retries(&self.endpoint);
        let reply = loop {
            match self.network.ask(&self.endpoint, self.ask(Method::GET, session.url.clone(), &[])).await {
                Ok(reply) if reply.status().is_success() => break reply,
                Ok(reply) => {
                    let error = self.network.refusal(reply).await;
                    retries.pause(error, &self.endpoint).await?;
                }
                Err(error) => retries.pause(error, &self.endpoint).await?,
            }
        };
        let there = reply.header("range").and_then(range::received).unwrap_or(0);
        let next = session_of(&reply).map_or_else(|_| session.url.clone(), |next| next.url);
        Ok((Session { url: next, ..session }, there))
    }

    async fn mount(&self, digest: Digest, from: &str) -> Result<bool, RegistryError> {
        let mut retries = self.network.retries(&self.endpoint);
        loop {
            match self.mount_once(digest, from).await {
                Ok(mounted) => return Ok(mounted),
                Err(error) => retries.pause(error, &self.endpoint).await?,
            }
        }
    }

    async fn mount_once(&self, digest: Digest, from: &str) -> Result<bool, RegistryError> {
        let from = self.endpoint.repository(from);
        let text = digest.to_string();
        let query = [("mount", text.as_str()), ("from", from.as_str())];
        let reply = self.post(&query, &[scope(&from, "pull")]).await;
        let reply = match reply {
            Ok(reply) => reply,
            // What one may not read, one may not mount; whether one may push shows when one does.
            Err(RegistryError::Unauthorized { .. } | RegistryError::Denied { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        match reply.status() {
            StatusCode::CREATED => check_digest(&reply, digest).map(|()| true),
            StatusCode::ACCEPTED => {
                if let Ok(session) = session_of(&reply) {
                    // An upload that nobody ends, the registry forgets by itself.
                    let _ = self.network.ask(&self.endpoint, self.ask(Method::DELETE, session.url, &[])).await;
                }
                Ok(false)
            }
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(false),
            status if status.is_success() => Ok(false),
            _ => Err(self.network.refusal(reply).await),
        }
    }

    async fn manifest(&self, name: &str, media_type: &str, bytes: &Bytes) -> Result<Digest, RegistryError> {
        let mut retries = self.network.retries(&self.endpoint);
        loop {
            match self.manifest_once(name, media_type, bytes).await {
                Ok(digest) => return Ok(digest),
                Err(error) => retries.pause(error, &self.endpoint).await?,
            }
        }
    }

    async fn manifest_once(&self, name: &str, media_type: &str, bytes: &Bytes) -> Result<Digest, RegistryError> {
        let repository = self.endpoint.repository(&self.repository);
        let url = url_of(&self.network, &self.endpoint, &repository, &format!("manifests/{name}")).await?;
        let payload = Payload::Bytes(bytes.clone(), media_type.to_owned());
        let reply = self.network.ask(&self.endpoint, self.ask(Method::PUT, url, &[]).payload(payload)).await?;
        if !reply.status().is_success() {
            return Err(self.network.refusal(reply).await);
        }
        let digest = Digest::of(bytes);
        check_digest(&reply, digest).map(|()| digest)
    }
}

fn broken(url: &Url) -> RegistryError {
    RegistryError::Broken { url: shown(url), detail: "the upload is out of step".into() }
}

/// Where an upload goes on: `Location`, relative or not, checked as a redirect is.
fn session_of(reply: &Reply) -> Result<Session, RegistryError> {
    let Some(location) = reply.response.headers().get(LOCATION) else {
        return Err(reply.protocol("it does not say where the upload goes"));
    };
    let shortest = reply.header("oci-chunk-min-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    Ok(Session { url: target(&reply.url, location)?, shortest })
}

fn check_digest(reply: &Reply, expected: Digest) -> Result<(), RegistryError> {
    match digest_of(reply)? {
        Some(found) if found != expected => {
            Err(RegistryError::DigestMismatch { url: shown(&reply.url), expected, found })
        }
        _ => Ok(()),
    }
}
