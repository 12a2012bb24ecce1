//! A blob as it comes, through as many connections as it takes.
//!
//! ```text
//! open ─► drain ─► all bytes sent ─► end
//!  ▲        │ broke, stalled, ended early
//!  │        ▼
//!  └── pause, Range from the position ── no progress too often: the next source, or the error
//! ```
//!
//! A registry that answers a `Range` with everything is heard out, and what is there already is skipped; one that says
//! 416 is asked once more without. Progress forgets failures, but a trickle over all connections together is an error,
//! pauses included.

use std::future::{Future, poll_fn};
use std::io::{self, Read};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use reqwest::header::RANGE;
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::sleep;

use crate::body::{self, Trickle};
use crate::client::Client;
use crate::error::{RegistryError, Waiting};
use crate::exchange::Reply;
use crate::failure::shown;
use crate::network::{Endpoint, Network};
use crate::pull::{Object, is_down, no_source};
use crate::range::{self, ContentRange};
use crate::retry::Retries;

/// The bytes of a blob from an offset to its end, as they come. See [`Client::blob`].
#[derive(Debug)]
pub struct Download {
    pieces: Receiver<Result<Bytes, RegistryError>>,
    piece: Bytes,
    left: u64,
    /// The network's thread lives as long as somebody waits for it.
    _client: Client,
}

impl Download {
    pub(crate) fn new(client: Client, pieces: Receiver<Result<Bytes, RegistryError>>, left: u64) -> Self {
        Self { pieces, piece: Bytes::new(), left, _client: client }
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        while self.piece.is_empty() {
            self.piece = match self.pieces.blocking_recv() {
                Some(piece) => piece?,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download ended before its end")),
            };
        }
        let length = self.piece.len().min(buffer.len());
        let taken = self.piece.split_to(length);
        buffer.get_mut(..length).unwrap_or_default().copy_from_slice(&taken);
        self.left = self.left.saturating_sub(length as u64);
        Ok(length)
    }
}

/// A blob that is fetched, from where it stands.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) network: Arc<Network>,
    pub(crate) sources: Vec<Arc<Endpoint>>,
    pub(crate) object: Object,
    pub(crate) size: u64,
    /// So many bytes are there.
    pub(crate) position: u64,
}

/// An answer with bytes of the blob in it.
#[derive(Debug)]
pub(crate) struct Opened {
    response: Response,
    url: Url,
    /// So many bytes come before those that are wanted.
    skip: u64,
}

impl Fetch {
    fn source(&self) -> Result<Arc<Endpoint>, RegistryError> {
        self.sources.first().cloned().ok_or_else(no_source)
    }

    /// Retries for the source that is asked now.
    pub(crate) fn retries(&self) -> Result<Retries, RegistryError> {
        Ok(self.network.retries(&*self.source()?))
    }

    /// Gives a source up for the next one, if there is one.
    fn next_source(&mut self, error: RegistryError) -> Result<Retries, RegistryError> {
        if self.sources.len() < 2 {
            return Err(error);
        }
        let left = self.sources.remove(0);
        if is_down(&error) {
            left.rest();
        }
        self.retries()
    }

    /// Opens the blob at its position, at the first source that has it.
    pub(crate) async fn open(&mut self, retries: &mut Retries) -> Result<Opened, RegistryError> {
        loop {
            let source = self.source()?;
            match self.open_once(&source).await {
                Ok(opened) => return Ok(opened),
                Err(error) => {
                    if let Err(error) = retries.pause(error, &source).await {
                        *retries = self.next_source(error)?;
                    }
                }
            }
        }
    }

    async fn open_once(&self, source: &Endpoint) -> Result<Opened, RegistryError> {
        let whole = self.position == 0;
        let range = format!("bytes={}-{}", self.position, self.size.saturating_sub(1));
        let headers = if whole { vec![] } else { vec![(RANGE, range)] };
        let reply = self.network.read(source, Method::GET, &self.object, "blobs", &headers).await?;
        match reply.status() {
            StatusCode::OK => self.opened_whole(reply),
            StatusCode::PARTIAL_CONTENT if whole => Err(reply.protocol("a part, where all was asked for")),
            StatusCode::PARTIAL_CONTENT => self.opened_part(reply),
            StatusCode::RANGE_NOT_SATISFIABLE if !whole => self.without_range(source, reply).await,
            _ => Err(self.network.refusal(reply).await),
        }
    }

    fn opened_whole(&self, reply: Reply) -> Result<Opened, RegistryError> {
        self.check_size(&reply, reply.response.content_length())?;
        Ok(Opened { response: reply.response, url: reply.url, skip: self.position })
    }

    fn opened_part(&self, reply: Reply) -> Result<Opened, RegistryError> {
        let Some(text) = reply.header("content-range") else {
            return Err(reply.protocol("a part without Content-Range"));
        };
        let Some(ContentRange::Part { start, end, total }) = range::parse(text) else {
            return Err(reply.protocol(format!("its Content-Range is {:?}", crate::answer::show(text, 100))));
        };
        self.check_size(&reply, total)?;
        if start != self.position || end >= self.size {
            let problem = format!("bytes {start}-{end}, where {}-{} were asked for", self.position, self.size - 1);
            return Err(reply.protocol(problem));
        }
        Ok(Opened { response: reply.response, url: reply.url, skip: 0 })
    }

    /// The registry cannot give that part: because its blob ends before, or because it knows no parts.
    async fn without_range(&self, source: &Endpoint, refused: Reply) -> Result<Opened, RegistryError> {
        if let Some(ContentRange::Unsatisfied { total }) = refused.header("content-range").and_then(range::parse) {
            self.check_size(&refused, Some(total))?;
        }
        drop(refused);
        let reply = self.network.read(source, Method::GET, &self.object, "blobs", &[]).await?;
        match reply.status() {
            StatusCode::OK => self.opened_whole(reply),
            _ => Err(self.network.refusal(reply).await),
        }
    }

    fn check_size(&self, reply: &Reply, found: Option<u64>) -> Result<(), RegistryError> {
        match found {
            Some(found) if found != self.size => Err(self.wrong_size(&reply.url, found)),
            _ => Ok(()),
        }
    }

    fn wrong_size(&self, url: &Url, found: u64) -> RegistryError {
        RegistryError::SizeMismatch { url: shown(url), expected: self.size, found }
    }

    /// Sends all bytes from its position on. Ends at once when nobody takes them any more.
    pub(crate) async fn feed(self, opened: Opened, pieces: Sender<Result<Bytes, RegistryError>>) {
        let watched = pieces.clone();
        let mut nobody = pin!(watched.closed());
        let mut work = pin!(self.send_all(opened, pieces));
        poll_fn(|context| match nobody.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => work.as_mut().poll(context),
        })
        .await;
    }

    async fn send_all(mut self, opened: Opened, pieces: Sender<Result<Bytes, RegistryError>>) {
        if let Err(error) = self.send_through(opened, &pieces).await {
            // Whoever does not listen any more does not miss it.
            let _ = pieces.send(Err(error)).await;
        }
    }

    async fn send_through(
        &mut self,
        mut opened: Opened,
        pieces: &Sender<Result<Bytes, RegistryError>>,
    ) -> Result<(), RegistryError> {
        let mut retries = self.retries()?;
        let mut trickle = Trickle::new(self.network.environment.deadlines);
        loop {
            let before = self.position;
            let Err(error) = self.drain(&mut opened, &mut trickle, pieces).await else { return Ok(()) };
            if self.position > before {
                retries.progress();
            }
            let start = Instant::now();
            self.pause(error, &mut retries).await?;
            let url = opened.url.clone();
            drop(opened);
            opened = self.open(&mut retries).await?;
            trickle.came(&url, start.elapsed(), 0)?;
        }
    }

    /// Waits before the next connection; after too many failures there is another source, or the error.
    async fn pause(&mut self, error: RegistryError, retries: &mut Retries) -> Result<(), RegistryError> {
        let goes_on = match &error {
            // Cut by somebody in between, perhaps.
            RegistryError::SizeMismatch { expected, found, .. } => found < expected,
            RegistryError::Broken { .. } | RegistryError::Timeout { waiting: Waiting::Bytes, .. } => true,
            _ => return Err(error),
        };
        let broken = RegistryError::Broken { url: String::new(), detail: String::new() };
        match retries.after(&broken, true).filter(|_| goes_on) {
            Some(pause) => sleep(pause).await,
            None if goes_on => *retries = self.next_source(error)?,
            None => return Err(error),
        }
        Ok(())
    }

    /// Sends what one answer has. An error if that is less than all, or more.
    async fn drain(
        &mut self,
        opened: &mut Opened,
        trickle: &mut Trickle,
        pieces: &Sender<Result<Bytes, RegistryError>>,
    ) -> Result<(), RegistryError> {
        let unknown_length = opened.response.content_length().is_none();
        while self.position < self.size {
            let Some(mut piece) = body::next(&mut opened.response, &opened.url, trickle).await? else {
                return Err(self.wrong_size(&opened.url, self.position));
            };
            let skipped = opened.skip.min(piece.len() as u64);
            opened.skip -= skipped;
            let _ = piece.split_to(usize::try_from(skipped).unwrap_or(piece.len()));
            let end = self.position + piece.len() as u64;
            if end > self.size || (end == self.size && unknown_length && self.goes_beyond(opened, trickle).await) {
                return Err(self.wrong_size(&opened.url, end.max(self.size + 1)));
            }
            self.position = end;
            if !piece.is_empty() && pieces.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether there are bytes after the last one. Who does not end in time, or breaks, has at least sent all.
    async fn goes_beyond(&self, opened: &mut Opened, trickle: &mut Trickle) -> bool {
        matches!(body::next(&mut opened.response, &opened.url, trickle).await, Ok(Some(piece)) if !piece.is_empty())
    }
}
