//! Frames: a 4-byte little-endian body length, then the body in `postcard` encoding.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Most bytes in the body of any frame. Large enough for 2 MiB of arguments and environment.
pub const MAX_FRAME: usize = 4 << 20;

/// Most bytes in the body of a frame that the guest sends: its messages are short, so the host need not hold more.
pub const MAX_GUEST_FRAME: usize = 64 << 10;

const HEADER: usize = 4;

/// Bytes that are no frame, or a message that fits none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The length is over the limit.
    #[error("frame of {length} bytes is over the limit of {limit}")]
    TooLarge {
        /// What the frame says its body has, or would have.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The body is not the encoding of exactly one message.
    #[error("malformed frame body")]
    Malformed,
}

/// The frame of a message.
///
/// # Errors
///
/// [`FrameError::TooLarge`] if its body is over [`MAX_FRAME`].
pub fn encode_frame<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = postcard::to_extend(message, vec![0; HEADER]).map_err(|_| FrameError::Malformed)?;
    let body = frame.len() - HEADER;
    let too_large = FrameError::TooLarge { length: body, limit: MAX_FRAME };
    let length = u32::try_from(body).ok().filter(|_| body <= MAX_FRAME).ok_or(too_large)?;
    frame[..HEADER].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Collects received bytes and yields the frames in them.
///
/// Memory is bounded by the limit plus the largest slice given to [`FrameBuffer::extend`], as long as the frames
/// are taken out between two calls of it.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    consumed: usize,
    limit: usize,
}

impl Default for FrameBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameBuffer {
    /// An empty buffer for frames with bodies of at most [`MAX_FRAME`] bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limit(MAX_FRAME)
    }

    /// An empty buffer for frames with bodies of at most `limit` bytes.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self { bytes: Vec::new(), consumed: 0, limit }
    }

    /// Appends received bytes.
    pub fn extend(&mut self, received: &[u8]) {
        if self.consumed > 0 {
            self.bytes.drain(..self.consumed);
            self.consumed = 0;
        }
        self.bytes.extend_from_slice(received);
    }

    /// Takes the next whole message, or `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// [`FrameError`]; the buffer is then of no further use, for frame boundaries are lost.
    pub fn take_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let pending = &self.bytes[self.consumed..];
        let Some((header, rest)) = pending.split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*header)).map_err(|_| FrameError::Malformed)?;
        if length > self.limit {
            return Err(FrameError::TooLarge { length, limit: self.limit });
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let (message, left) = postcard::take_from_bytes(body).map_err(|_| FrameError::Malformed)?;
        if !left.is_empty() {
            return Err(FrameError::Malformed);
        }
        self.consumed += HEADER + length;
        Ok(Some(message))
    }

    /// Whether bytes of an unfinished frame are held: a connection that ends now was cut.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.consumed < self.bytes.len()
    }
}
