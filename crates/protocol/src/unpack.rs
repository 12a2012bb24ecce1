//! What the task [`Task::Unpack`](crate::Task::Unpack) reads from its standard input.
//!
//! ```text
//!  ┌── frame ──┐ ┌── `size` raw bytes ──┐ ┌── frame ──┐       ┌── frame ──┐
//!  │ Entry file │ │ its content          │ │ Entry dir  │  …   │ End        │
//!  └───────────┘ └──────────────────────┘ └───────────┘       └───────────┘
//! ```
//!
//! Frames are those of [`crate::frame`], with bodies of at most [`MAX_ITEM`] bytes: an [`Item`] each. Only a file has
//! raw bytes behind it. Input that ends before [`Item::End`] was cut, and is an error.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::frame::{FrameError, encode_frame};

/// Most bytes in the body of a frame.
pub const MAX_ITEM: usize = 1 << 20;

/// Most bytes of a path or a link's target.
pub const MAX_PATH: usize = 4096;

/// Most bytes of one name in a path.
pub const MAX_NAME: usize = 255;

/// What a frame holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// Something to write.
    Entry(Box<Entry>),
    /// That was all.
    End,
}

/// Something to write.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Below the task's directory: names with `/` between them, none of them empty, `.` or `..`; empty for the
    /// directory itself, which stays as it is. Directories of it that are missing are made (root, 0755).
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, 0 to 0o7777. Of no meaning for links.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970, nanoseconds.
    pub mtime: (i64, u32),
    /// Name and value. `trusted.` is refused; what the file system does not take is left out.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What an entry is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file; its bytes follow.
    File {
        /// How many.
        size: u64,
    },
    /// A directory. One that is there stays, and gets the entry's owner, mode and time.
    #[default]
    Directory,
    /// A symbolic link.
    Symlink {
        /// As it is stored.
        target: Vec<u8>,
    },
    /// Another name of an entry that was written before.
    Hardlink {
        /// Below the task's directory, as [`Entry::path`].
        target: Vec<u8>,
    },
    /// A character device.
    Character {
        /// Its number.
        major: u32,
        /// Its number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Its number.
        major: u32,
        /// Its number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// What is no stream of entries.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnpackError {
    /// No frame of an item.
    #[error("malformed stream of entries")]
    Frame(#[from] FrameError),
    /// A path that is none.
    #[error("entry has an unusable {what} {:?}", String::from_utf8_lossy(.path))]
    Path {
        /// Whose.
        what: &'static str,
        /// As it came, cut.
        path: Vec<u8>,
    },
    /// Numbers beyond their range.
    #[error("entry {:?} has an unusable {what}", String::from_utf8_lossy(.path))]
    Value {
        /// Which number.
        what: &'static str,
        /// Of which entry.
        path: Vec<u8>,
    },
    /// Bytes behind the end.
    #[error("stream of entries goes on behind its end")]
    Trailing,
    /// The stream was cut.
    #[error("stream of entries ends too early")]
    Cut,
}

/// The frame of an item.
///
/// # Errors
///
/// It is over [`MAX_ITEM`].
pub fn encode_item(item: &Item) -> Result<Vec<u8>, FrameError> {
    let frame = encode_frame(item)?;
    let length = frame.len() - 4;
    if length > MAX_ITEM { Err(FrameError::TooLarge { length, limit: MAX_ITEM }) } else { Ok(frame) }
}

impl Entry {
    /// Bytes that follow its frame.
    #[must_use]
    pub fn size(&self) -> u64 {
        if let Kind::File { size } = self.kind { size } else { 0 }
    }

    /// Whether its paths are paths and its numbers in range: what [`Decoder`] yields was checked.
    ///
    /// # Errors
    ///
    /// [`UnpackError::Path`], [`UnpackError::Value`].
    pub fn check(&self) -> Result<(), UnpackError> {
        let cut = |path: &[u8]| path.iter().copied().take(MAX_PATH).collect::<Vec<u8>>();
        let path_error = |what, path: &[u8]| Err(UnpackError::Path { what, path: cut(path) });
        let value_error = |what| Err(UnpackError::Value { what, path: cut(&self.path) });
        let is_root = self.path.is_empty();
        if !(is_path(&self.path) || is_root && self.kind == Kind::Directory) {
            return path_error("path", &self.path);
        }
        match &self.kind {
            Kind::Hardlink { target } if !is_path(target) => return path_error("link target", target),
            Kind::Symlink { target } if target.is_empty() || target.len() >= MAX_PATH || target.contains(&0) => {
                return path_error("link target", target);
            }
            Kind::Character { major, minor } | Kind::Block { major, minor }
                if *major >= 1 << 12 || *minor >= 1 << 20 =>
            {
                return value_error("device number");
            }
            Kind::File { size } if i64::try_from(*size).is_err() => return value_error("size"),
            _ => {}
        }
        if self.mode > 0o7777 {
            return value_error("mode");
        }
        if self.uid == u32::MAX || self.gid == u32::MAX {
            return value_error("owner");
        }
        if self.mtime.1 >= 1_000_000_000 {
            return value_error("time");
        }
        let is_bad = |name: &[u8]| name.is_empty() || name.len() > MAX_NAME || name.contains(&0);
        if self.xattrs.iter().any(|(name, value)| is_bad(name) || value.len() > 64 << 10) {
            return value_error("extended attribute");
        }
        Ok(())
    }
}

/// Whether it is a relative path of plain names.
fn is_path(path: &[u8]) -> bool {
    let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && name.len() <= MAX_NAME && !name.contains(&0);
    path.len() < MAX_PATH && path.split(|byte| *byte == b'/').all(is_name)
}

/// Something that was decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece<'a> {
    /// An entry begins. If it is a file, its bytes follow as [`Piece::Content`].
    Entry(Box<Entry>),
    /// Some bytes of the last file, never none.
    Content(&'a [u8]),
    /// [`Item::End`].
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Items,
    Content(u64),
    Ended,
}

/// Turns a stream into entries. Holds one frame at the most.
///
/// ```text
///  Items ──Entry file──▶ Content ──all of it──▶ Items ──End──▶ Ended
/// ```
#[derive(Debug)]
pub struct Decoder {
    frame: Vec<u8>,
    state: State,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { frame: Vec::new(), state: State::Items }
    }
}

impl Decoder {
    /// Takes bytes off `input`; `None` once it is empty and more is needed. A file of no bytes has no content.
    ///
    /// # Errors
    ///
    /// The stream is none; the decoder is then of no further use.
    pub fn take<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, UnpackError> {
        if input.is_empty() {
            return Ok(None);
        }
        match self.state {
            State::Ended => Err(UnpackError::Trailing),
            State::Items => self.take_item(input),
            State::Content(left) => {
                let length = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
                let (content, rest) = input.split_at(length);
                *input = rest;
                let left = left - content.len() as u64;
                self.state = if left == 0 { State::Items } else { State::Content(left) };
                Ok(Some(Piece::Content(content)))
            }
        }
    }

    /// Moves bytes into the frame until it has `wanted`; says whether it has.
    fn fill(&mut self, input: &mut &[u8], wanted: usize) -> bool {
        let length = wanted.saturating_sub(self.frame.len()).min(input.len());
        let (taken, rest) = input.split_at(length);
        self.frame.extend_from_slice(taken);
        *input = rest;
        self.frame.len() >= wanted
    }

    fn take_item(&mut self, input: &mut &[u8]) -> Result<Option<Piece<'static>>, UnpackError> {
        if !self.fill(input, 4) {
            return Ok(None);
        }
        let header = self.frame.first_chunk::<4>().copied().unwrap_or_default();
        let length = usize::try_from(u32::from_le_bytes(header)).map_err(|_| FrameError::Malformed)?;
        if length > MAX_ITEM {
            return Err(FrameError::TooLarge { length, limit: MAX_ITEM }.into());
        }
        if !self.fill(input, 4 + length) {
            return Ok(None);
        }
        let body = self.frame.get(4..).unwrap_or_default();
        let (item, rest) = postcard::take_from_bytes::<Item>(body).map_err(|_| FrameError::Malformed)?;
        if !rest.is_empty() {
            return Err(FrameError::Malformed.into());
        }
        self.frame.clear();
        match item {
            Item::End => {
                self.state = State::Ended;
                Ok(Some(Piece::End))
            }
            Item::Entry(entry) => {
                entry.check()?;
                self.state = if entry.size() > 0 { State::Content(entry.size()) } else { State::Items };
                Ok(Some(Piece::Entry(entry)))
            }
        }
    }

    /// The end of the input.
    ///
    /// # Errors
    ///
    /// [`UnpackError::Cut`] if [`Piece::End`] did not come.
    pub fn finish(&self) -> Result<(), UnpackError> {
        if self.state == State::Ended { Ok(()) } else { Err(UnpackError::Cut) }
    }
}
