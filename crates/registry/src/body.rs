//! Bodies: fed by a blocking reader on the way out, bounded and watched on the way in.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use reqwest::{Response, Url};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::timeout;

use crate::environment::Deadlines;
use crate::error::{RegistryError, Waiting};
use crate::failure::{classify, shown};

/// So many pieces wait between a blocking thread and the network.
pub(crate) const PIECES: usize = 8;
/// A body that is sent goes in pieces of at most this many bytes.
pub(crate) const PIECE: usize = 64 << 10;

/// How a body that is sent gets on.
#[derive(Debug, Clone)]
pub(crate) struct Pulse(Arc<Mutex<Beat>>);

/// What the network last did with the body.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Beat {
    /// It took a piece.
    Took(Instant),
    /// It wants a piece that is not there yet: it waits for us.
    Starves,
    /// It took the last one.
    Ended(Instant),
}

impl Pulse {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Beat::Took(Instant::now()))))
    }

    fn beat(&self, beat: Beat) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = beat;
    }

    /// What it last did.
    pub(crate) fn last(&self) -> Beat {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that is sent while it is read, of a known length.
#[derive(Debug)]
pub(crate) struct Feed {
    pieces: Receiver<Bytes>,
    left: u64,
    pulse: Pulse,
}

impl Feed {
    /// The body, and where its pieces go in. If fewer bytes than `size` go in, the request fails.
    pub(crate) fn new(size: u64) -> (Self, Sender<Bytes>) {
        let (sender, pieces) = channel(PIECES);
        (Self { pieces, left: size, pulse: Pulse::new() }, sender)
    }

    pub(crate) fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }
}

impl Body for Feed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let feed = self.get_mut();
        if feed.left == 0 {
            return Poll::Ready(None);
        }
        feed.pulse.beat(Beat::Starves);
        let piece = ready!(feed.pieces.poll_recv(context));
        Poll::Ready(Some(match piece {
            Some(piece) if piece.len() as u64 <= feed.left => {
                feed.left -= piece.len() as u64;
                let now = Instant::now();
                feed.pulse.beat(if feed.left == 0 { Beat::Ended(now) } else { Beat::Took(now) });
                Ok(Frame::data(piece))
            }
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "what is to be pushed is not of its size")),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A body that is in memory.
#[derive(Debug)]
pub(crate) struct Whole {
    rest: Bytes,
    pulse: Pulse,
}

impl Whole {
    pub(crate) fn new(bytes: &Bytes) -> Self {
        Self { rest: bytes.clone(), pulse: Pulse::new() }
    }

    pub(crate) fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let whole = self.get_mut();
        if whole.rest.is_empty() {
            return Poll::Ready(None);
        }
        let piece = whole.rest.split_to(whole.rest.len().min(PIECE));
        let now = Instant::now();
        whole.pulse.beat(if whole.rest.is_empty() { Beat::Ended(now) } else { Beat::Took(now) });
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// Whether more than a trickle comes. Counts only time spent waiting for the network.
#[derive(Debug, Clone)]
pub(crate) struct Trickle {
    deadlines: Deadlines,
    waited: Duration,
    bytes: u64,
}

impl Trickle {
    pub(crate) fn new(deadlines: Deadlines) -> Self {
        Self { deadlines, waited: Duration::ZERO, bytes: 0 }
    }

    /// `bytes` came after a wait. An error if too few came in a whole window.
    pub(crate) fn came(&mut self, url: &Url, waited: Duration, bytes: usize) -> Result<(), RegistryError> {
        self.waited += waited;
        self.bytes += bytes as u64;
        if self.waited < self.deadlines.speed_window {
            return Ok(());
        }
        let enough = self.bytes as f64 >= self.deadlines.slowest as f64 * self.waited.as_secs_f64();
        let after = self.waited;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        if enough { Ok(()) } else { Err(RegistryError::Timeout { url: shown(url), waiting: Waiting::Speed, after }) }
    }
}

/// The next piece of an answer's body, `None` at its end.
pub(crate) async fn next(
    response: &mut Response,
    url: &Url,
    trickle: &mut Trickle,
) -> Result<Option<Bytes>, RegistryError> {
    let deadlines = trickle.deadlines;
    let start = Instant::now();
    let piece = match timeout(deadlines.stall, response.chunk()).await {
        Err(_) => {
            return Err(RegistryError::Timeout { url: shown(url), waiting: Waiting::Bytes, after: deadlines.stall });
        }
        Ok(Err(error)) => return Err(body_failure(url, &error, &deadlines)),
        Ok(Ok(piece)) => piece,
    };
    trickle.came(url, start.elapsed(), piece.as_ref().map_or(0, Bytes::len))?;
    Ok(piece)
}

/// Where a head came, TLS and HTTP were right so far: what fails now is the connection.
fn body_failure(url: &Url, error: &reqwest::Error, deadlines: &Deadlines) -> RegistryError {
    match classify(url, error, false, deadlines) {
        RegistryError::Tls { url, detail } | RegistryError::Protocol { url, problem: detail } => {
            RegistryError::Broken { url, detail }
        }
        other => other,
    }
}

/// The whole body, if it has at most `limit` bytes.
pub(crate) async fn whole(
    mut response: Response,
    url: &Url,
    limit: u64,
    deadlines: Deadlines,
) -> Result<Vec<u8>, RegistryError> {
    let too_large = || RegistryError::TooLarge { url: shown(url), limit };
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut trickle = Trickle::new(deadlines);
    let mut bytes = Vec::new();
    while let Some(piece) = next(&mut response, url, &mut trickle).await? {
        if (bytes.len() + piece.len()) as u64 > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// As much of the body as `limit` bytes and one deadline allow: for answers that only explain.
pub(crate) async fn some(mut response: Response, limit: usize, deadline: Duration) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = async {
        while let Ok(Some(piece)) = response.chunk().await {
            bytes.extend_from_slice(&piece);
            if bytes.len() >= limit {
                break;
            }
        }
    };
    // What came in time explains as much as it can.
    let _ = timeout(deadline, read).await;
    bytes.truncate(limit);
    bytes
}
