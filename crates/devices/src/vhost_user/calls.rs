//! How the peer is told of used buffers: descriptors that it changes while the device runs.

// UNSAFETY: an `EventFd` is made of a descriptor that arrived as a `File`.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::sync::{Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::device::Interrupt;

/// A file that arrived over the socket, as the event descriptor that it is said to be. If it is none, reads and
/// writes on it fail or go where the peer wants.
pub(super) fn event(file: File) -> EventFd {
    // SAFETY: the descriptor is open and, with `into_raw_fd`, nobody else's.
    unsafe { EventFd::from_raw_fd(file.into_raw_fd()) }
}

/// The call descriptor of each ring.
#[derive(Debug)]
pub(super) struct Calls(Vec<Mutex<Option<EventFd>>>);

impl Calls {
    pub(super) fn new(rings: usize) -> Self {
        Self((0..rings).map(|_| Mutex::new(None)).collect())
    }

    /// Changes a ring's descriptor. An interrupt may have gone to the old one unseen, so there is one on the new:
    /// one too many harms nobody.
    pub(super) fn set(&self, ring: usize, call: Option<EventFd>, running: bool) {
        let Some(slot) = self.0.get(ring) else { return };
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = call;
        if running {
            self.signal(ring);
        }
    }

    fn signal(&self, ring: usize) {
        let Some(slot) = self.0.get(ring) else { return };
        if let Some(call) = &*slot.lock().unwrap_or_else(PoisonError::into_inner) {
            // Refused only by a counter that is full, which is an interrupt not yet taken.
            let _ = call.write(1);
        }
    }
}

impl Interrupt for Calls {
    fn queue(&self, index: u16) {
        self.signal(usize::from(index));
    }

    fn config(&self) {}
}
