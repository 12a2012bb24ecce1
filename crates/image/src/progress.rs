//! How far loading, pulling and pushing have got.

/// Something that happened. Layers are counted from 0, bottom first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A stream or a compressed archive is being read.
    Reading {
        /// Bytes of it so far, as they came.
        bytes: u64,
        /// How many there are, where that is known.
        total: Option<u64>,
    },
    /// An image's documents are read and in order; its layers are next.
    Image {
        /// Its first name, or its id.
        name: &'a str,
        /// How many layers it has.
        layers: usize,
        /// Bytes of their blobs, as they travel.
        bytes: u64,
    },
    /// Another command is busy with this layer; it is waited for.
    LayerWaiting {
        /// Which.
        index: usize,
    },
    /// A layer is being worked on. Several may be at once. Its [`Event::LayerDone`] follows, unless all fails.
    LayerStarted {
        /// Which.
        index: usize,
        /// Digest of its blob, or where that has none its diff id.
        digest: &'a str,
        /// Bytes of its blob.
        total: u64,
    },
    /// More of a layer is done: of one that is loaded or pulled, received and converted (both happen at once); of one
    /// that is pushed, sent.
    LayerBytes {
        /// Which.
        index: usize,
        /// Bytes of its blob so far.
        done: u64,
        /// Bytes of its blob.
        total: u64,
    },
    /// A layer is where it belongs.
    LayerDone {
        /// Which.
        index: usize,
        /// Whether it was there already.
        shared: bool,
    },
    /// The layers' trees are being merged.
    Assembling,
    /// The image is complete.
    Done,
}

/// Takes what happens. Called from several threads at once.
pub trait Progress: Sync {
    /// Takes one event; it should return soon.
    fn event(&self, event: Event<'_>);
}

/// Says nothing.
impl Progress for () {
    fn event(&self, _: Event<'_>) {}
}
