//! How images are handled, as far as that can be chosen.

use std::num::NonZeroUsize;

/// Choices that settings make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whether compressed layers are kept as they came, beside what they were converted to: then an image is pushed and
    /// saved with the very manifest that it came with. Without, its layers are compressed anew for a push, and saved
    /// uncompressed; its id stays the same, its manifest's digest does not.
    pub keep_blobs: bool,
    /// How many layers are worked on at once.
    pub parallel_layers: NonZeroUsize,
}

impl Default for Options {
    fn default() -> Self {
        Self { keep_blobs: false, parallel_layers: NonZeroUsize::new(3).unwrap_or(NonZeroUsize::MIN) }
    }
}
