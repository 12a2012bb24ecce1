//! How the machine ended: said once, by whoever saw it first.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use machine::EndReason;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// The first reason wins; its descriptor becomes readable with it.
#[derive(Debug)]
pub struct Verdict {
    reason: Mutex<Option<EndReason>>,
    event: EventFd,
}

impl Verdict {
    /// Nothing has ended yet.
    ///
    /// # Errors
    ///
    /// If there is no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { reason: Mutex::new(None), event: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)? })
    }

    /// Says that the machine ended. Only the first call counts.
    pub fn reach(&self, reason: EndReason) {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        // It cannot overflow: a few threads say so once each.
        let _ = self.event.write(1);
    }

    /// The reason, if there is one.
    pub fn get(&self) -> Option<EndReason> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

// UNSAFETY: `EventFd` of vmm-sys-util has a raw descriptor only.
#[allow(unsafe_code)]
fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `event`, whose lifetime the result has.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Readable once there is a reason.
impl AsFd for Verdict {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_wins() {
        let verdict = Verdict::new().unwrap();
        assert_eq!(verdict.get(), None);
        verdict.reach(EndReason::Reset);
        verdict.reach(EndReason::TripleFault);
        assert_eq!(verdict.get(), Some(EndReason::Reset));
    }
}
