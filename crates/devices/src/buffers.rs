//! Guest buffers as scatter lists: system calls read and write guest memory in place.
//!
//! [`Buffers`] is a list of volatile slices, each checked to lie in one mapped region. Bytes that the device
//! looks at are copied out of it; bytes that only pass through go between a descriptor and guest memory without
//! a copy.

// UNSAFETY: the kernel reads and writes guest memory on our behalf, by the addresses in an iovec. Safe wrappers
// of these calls take `&mut [u8]`, which must not be made of memory that a guest changes at will.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, c_void, iovec, off_t};
use vm_memory::{GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

use crate::chain::Segment;

/// Most slices that one system call takes (`IOV_MAX`).
const MAX_IOVECS: usize = 1024;

/// Bytes of a page.
const PAGE: usize = 4096;

/// Bytes copied at a time where a copy is needed.
const COPY_CHUNK: usize = 4096;

/// A scatter list over guest memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Buffers<'m> {
    slices: VecDeque<VolatileSlice<'m>>,
    length: usize,
}

impl<'m> Buffers<'m> {
    /// The segments one after the other; `None` if one is not in guest memory (a chain's always are).
    pub(crate) fn new(memory: &'m GuestMemoryMmap, segments: &[Segment], access: Permissions) -> Option<Self> {
        let mut buffers = Self { slices: VecDeque::with_capacity(segments.len()), length: 0 };
        for segment in segments {
            let length = usize::try_from(segment.length).ok()?;
            for slice in memory.get_slices(segment.address, length, access).ok()? {
                buffers.push(slice.ok()?);
            }
        }
        Some(buffers)
    }

    fn push(&mut self, slice: VolatileSlice<'m>) {
        self.length += slice.len();
        self.slices.push_back(slice);
    }

    /// Appends all of `other`.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.length += other.length;
        self.slices.append(&mut other.slices);
    }

    /// Bytes in the list.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Whether no byte is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Takes the first `count` bytes off (or all there are) and returns them.
    pub(crate) fn split_front(&mut self, count: usize) -> Self {
        let mut front = Self::default();
        let mut missing = count.min(self.length);
        while missing > 0 {
            let Some(slice) = self.slices.pop_front() else { break };
            self.length -= slice.len();
            if let Ok((first, second)) = slice.split_at(missing)
                && !second.is_empty()
            {
                missing = 0;
                front.push(first);
                self.length += second.len();
                self.slices.push_front(second);
            } else {
                missing -= slice.len();
                front.push(slice);
            }
        }
        front
    }

    /// Drops the first `count` bytes.
    pub(crate) fn advance(&mut self, count: usize) {
        drop(self.split_front(count));
    }

    /// Copies the first bytes into `target` and drops them from the list; the number copied.
    pub(crate) fn take_into(&mut self, target: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in &self.split_front(target.len()).slices {
            done += slice.copy_to(&mut target[done..]);
        }
        done
    }

    /// Copies `source` over the first bytes and drops them from the list; the number copied.
    pub(crate) fn put(&mut self, source: &[u8]) -> usize {
        let mut done = 0;
        for slice in &self.split_front(source.len()).slices {
            let end = done + slice.len();
            slice.copy_from(&source[done..end]);
            done = end;
        }
        done
    }

    /// Copies all bytes to the end of `target`.
    pub(crate) fn drain_into(mut self, target: &mut VecDeque<u8>) {
        let mut chunk = [0; COPY_CHUNK];
        target.reserve(self.length);
        while !self.is_empty() {
            let count = self.take_into(&mut chunk);
            target.extend(&chunk[..count]);
        }
    }

    /// Writes zeros over all bytes.
    pub(crate) fn zero(mut self) {
        while !self.is_empty() {
            self.put(&[0; COPY_CHUNK]);
        }
    }

    /// Reads from `file` at `offset`; bytes read, 0 at the end of the file.
    pub(crate) fn read_at(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let (offset, iovecs) = (file_offset(offset)?, self.iovecs());
        // SAFETY: every iovec is a range of mapped guest memory: a `VolatileSlice` borrows its mapping, and
        // `self` outlives the call. The kernel is not bothered by others writing there meanwhile.
        retry(|| unsafe { libc::preadv(file.as_raw_fd(), iovecs.as_ptr(), count(&iovecs), offset) })
    }

    /// Writes to `file` at `offset`; bytes written.
    pub(crate) fn write_at(&self, file: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let (offset, iovecs) = (file_offset(offset)?, self.iovecs());
        // SAFETY: as in `read_at`; the kernel only reads.
        retry(|| unsafe { libc::pwritev(file.as_raw_fd(), iovecs.as_ptr(), count(&iovecs), offset) })
    }

    /// Receives from a stream socket without waiting; 0 at the end of the stream.
    pub(crate) fn receive(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut iovecs = self.iovecs();
        let mut message = message(&mut iovecs);
        // SAFETY: as in `read_at`; `message` has no name and no control buffer, and outlives the call.
        retry(|| unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) })
    }

    /// Sends on a stream socket without waiting and without `SIGPIPE`; bytes sent.
    pub(crate) fn send(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut iovecs = self.iovecs();
        let message = message(&mut iovecs);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: as in `receive`; the kernel only reads.
        retry(|| unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) })
    }

    /// Fills all bytes with entropy.
    pub(crate) fn randomize(&self) -> io::Result<()> {
        for iovec in self.iovecs() {
            let mut done = 0;
            while done < iovec.iov_len {
                // SAFETY: the range is the rest of an iovec of mapped guest memory, as in `read_at`.
                done += retry(|| unsafe {
                    libc::getrandom(iovec.iov_base.cast::<u8>().add(done).cast::<c_void>(), iovec.iov_len - done, 0)
                })?;
            }
        }
        Ok(())
    }

    /// Gives the whole pages back to the host: they read as zeros then. What the host does not take stays as it is.
    ///
    /// Memory that is `shared` is a file, whose pages go for everyone who maps it.
    pub(crate) fn release(&self, shared: bool) {
        let advice = if shared { libc::MADV_REMOVE } else { libc::MADV_DONTNEED };
        for slice in &self.slices {
            let start = slice.ptr_guard_mut().as_ptr();
            let skipped = start.addr().next_multiple_of(PAGE) - start.addr();
            let length = slice.len().saturating_sub(skipped) / PAGE * PAGE;
            if length > 0 {
                // SAFETY: the range lies in a slice of mapped guest memory, as in `read_at`. Its bytes change under
                // whoever looks at them, which guest memory may do at any time; the mapping stays.
                unsafe { libc::madvise(start.add(skipped).cast(), length, advice) };
            }
        }
    }

    fn iovecs(&self) -> Vec<iovec> {
        self.slices
            .iter()
            .take(MAX_IOVECS)
            .map(|slice| iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() })
            .collect()
    }
}

fn count(iovecs: &[iovec]) -> c_int {
    c_int::try_from(iovecs.len()).unwrap_or(c_int::MAX)
}

fn message(iovecs: &mut [iovec]) -> libc::msghdr {
    // SAFETY: `msghdr` is plain data for which zeros mean "none of it".
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovecs.as_mut_ptr();
    message.msg_iovlen = iovecs.len() as _;
    message
}

fn file_offset(offset: u64) -> io::Result<off_t> {
    off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
