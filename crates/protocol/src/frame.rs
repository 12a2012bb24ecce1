//! Frames: a 4-byte little-endian body length, then the body in `postcard` encoding.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Most bytes in a frame's body. Large enough for 2 MiB of arguments and environment.
pub const MAX_FRAME: usize = 4 << 20;

const HEADER: usize = 4;

/// Bytes that are no frame, or a message that fits none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The length is over [`MAX_FRAME`].
    #[error("frame of {0} bytes is over the limit of {MAX_FRAME}")]
    TooLarge(usize),
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
    let length = u32::try_from(body).ok().filter(|_| body <= MAX_FRAME).ok_or(FrameError::TooLarge(body))?;
    frame[..HEADER].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Collects received bytes and yields the frames in them.
///
/// Memory is bounded by [`MAX_FRAME`] plus the largest slice given to [`FrameBuffer::extend`].
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    consumed: usize,
}

impl FrameBuffer {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
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
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let pending = &self.bytes[self.consumed..];
        let Some((header, rest)) = pending.split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*header)).map_err(|_| FrameError::Malformed)?;
        if length > MAX_FRAME {
            return Err(FrameError::TooLarge(length));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let (message, left) = postcard::take_from_bytes(body).map_err(|_| FrameError::Malformed)?;
        if !left.is_empty() {
            return Err(FrameError::Malformed);
        }
        self.consumed += HEADER + length;
        Ok(Some(message))
    }

    /// Takes what was received after the last whole frame: the first raw bytes of a stdio connection.
    #[must_use]
    pub fn into_rest(mut self) -> Vec<u8> {
        self.bytes.drain(..self.consumed);
        self.bytes
    }
}
