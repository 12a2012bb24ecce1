//! How far loading has got.

/// Something that happened while loading.
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
    },
    /// A layer is next. Its [`Event::LayerDone`] follows.
    LayerStarted {
        /// Which, from 0, bottom first.
        index: usize,
        /// Its diff id.
        diff_id: &'a str,
        /// Bytes of its blob.
        total: u64,
    },
    /// More of a layer is converted.
    LayerBytes {
        /// Which.
        index: usize,
        /// Bytes of its blob so far.
        done: u64,
        /// Bytes of its blob.
        total: u64,
    },
    /// A layer is in the store.
    LayerDone {
        /// Which.
        index: usize,
        /// Whether it was there already.
        shared: bool,
    },
    /// The layers' trees are being merged.
    Assembling,
    /// The image can be used.
    Done,
}

/// Takes what happens while loading. Called from the thread that loads.
pub trait Progress {
    /// Takes one event; it should return soon.
    fn event(&mut self, event: Event<'_>);
}

/// Says nothing.
impl Progress for () {
    fn event(&mut self, _: Event<'_>) {}
}
