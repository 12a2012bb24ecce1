//! The initrd: as high in low memory as it goes, read straight into place.

use std::io::{self, SeekFrom};
use std::ops::Range;

use thiserror::Error;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::layout::{Layout, PAGE};
use crate::{Image, kernel::Kernel};

/// Memory between the end of the kernel's image and the initrd that the kernel is left to come up in.
pub const HEADROOM: u64 = 4 << 20;

/// Reads `image` to the end of low memory and says where it lies.
///
/// # Errors
///
/// [`InitrdError`] if it is empty, does not fit beside the kernel, or cannot be read.
pub fn load(
    memory: &impl GuestMemoryBackend,
    layout: &Layout,
    kernel: &Kernel,
    image: &mut impl Image,
) -> Result<Range<u64>, InitrdError> {
    let length = image.seek(SeekFrom::End(0)).map_err(InitrdError::Seek)?;
    let range = place(length, layout, kernel.end)?;
    image.rewind().map_err(InitrdError::Seek)?;
    // `place` bounds the length by the size of low memory, which was mapped: it fits a usize.
    let count = usize::try_from(length).unwrap_or(usize::MAX);
    vm_memory::Bytes::read_exact_volatile_from(memory, GuestAddress(range.start), image, count)
        .map_err(InitrdError::Read)?;
    Ok(range)
}

fn place(length: u64, layout: &Layout, kernel_end: u64) -> Result<Range<u64>, InitrdError> {
    if length == 0 {
        return Err(InitrdError::Empty);
    }
    let too_large = InitrdError::TooLarge { length, kernel_end, low_end: layout.low_end() };
    let Some(start) = layout.low_end().checked_sub(length) else { return Err(too_large) };
    let range = start / PAGE * PAGE..start / PAGE * PAGE + length;
    if range.start < kernel_end + HEADROOM || !layout.allows_image(&range) {
        return Err(too_large);
    }
    Ok(range)
}

/// Why an initrd was not loaded.
#[derive(Debug, Error)]
pub enum InitrdError {
    /// A kernel without an init would only panic.
    #[error("it is empty")]
    Empty,
    /// It does not fit between the kernel and the end of low memory.
    #[error(
        "its {length} bytes do not fit between the kernel, which ends at {} MiB, and the end of memory at {} MiB; \
         the machine needs at least {} MiB",
        .kernel_end >> 20, .low_end >> 20, (.kernel_end + HEADROOM + .length).div_ceil(1 << 20)
    )]
    TooLarge {
        /// Its length in bytes.
        length: u64,
        /// Where the kernel ends.
        kernel_end: u64,
        /// Where low memory ends.
        low_end: u64,
    },
    /// It cannot be positioned: not a regular file.
    #[error("cannot seek in it")]
    Seek(#[source] io::Error),
    /// It ended early or could not be read.
    #[error("cannot read it")]
    Read(#[source] vm_memory::GuestMemoryError),
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use vm_memory::{Bytes, GuestMemoryMmap};

    use super::*;

    fn layout() -> Layout {
        Layout::new(32 << 20, 8 << 20..9 << 20).unwrap()
    }

    #[test]
    fn it_lies_at_the_end_of_low_memory() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 32 << 20)]).unwrap();
        let kernel = Kernel { entry: 0, end: 20 << 20 };
        let range = load(&memory, &layout(), &kernel, &mut Cursor::new(vec![7; 5000])).unwrap();
        assert_eq!(range, (32 << 20) - 8192..(32 << 20) - 8192 + 5000);
        let mut last = [0; 2];
        memory.read_slice(&mut last, GuestAddress(range.end - 1)).unwrap();
        assert_eq!(last, [7, 0]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let end = 20 << 20;
        assert!(matches!(place(0, &layout(), end), Err(InitrdError::Empty)));
        for length in [(8 << 20) + 1, 12 << 20, 33 << 20, u64::MAX] {
            assert!(matches!(place(length, &layout(), end), Err(InitrdError::TooLarge { .. })), "{length}");
        }
        assert_eq!(place(8 << 20, &layout(), end).unwrap(), 24 << 20..32 << 20);
    }

    #[test]
    fn the_error_says_how_much_memory_it_takes() {
        let error = place(10 << 20, &layout(), 20 << 20).unwrap_err();
        assert!(error.to_string().ends_with("needs at least 34 MiB"), "{error}");
    }
}
