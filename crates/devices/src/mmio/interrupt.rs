//! The interrupt of a virtio-mmio device: status bits that both sides change, and an edge.

use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

use super::status;
use crate::device::Interrupt;

const USED_BUFFER: u32 = 1;
const CONFIG_CHANGE: u32 = 2;

/// What the device's worker and the registers share.
#[derive(Debug)]
pub(super) struct Line {
    /// Interrupt status register.
    pub(super) pending: AtomicU32,
    /// Device status register.
    pub(super) status: AtomicU32,
    /// Configuration generation register.
    pub(super) generation: AtomicU32,
    event: EventFd,
}

impl Line {
    pub(super) fn new(event: EventFd) -> Self {
        Self { pending: AtomicU32::new(0), status: AtomicU32::new(0), generation: AtomicU32::new(0), event }
    }

    pub(super) fn event(&self) -> &EventFd {
        &self.event
    }

    /// Back to what it was at power-on; the generation only ever grows.
    pub(super) fn reset(&self) {
        self.pending.store(0, Ordering::Release);
        self.status.store(0, Ordering::Release);
    }

    /// Tells the driver that only a reset helps.
    pub(super) fn fail(&self) {
        let before = self.status.fetch_or(status::NEEDS_RESET, Ordering::AcqRel);
        if before & status::DRIVER_OK != 0 {
            self.raise(CONFIG_CHANGE);
        }
    }

    fn raise(&self, bit: u32) {
        self.pending.fetch_or(bit, Ordering::AcqRel);
        // Refused only by a counter that is full, which is an interrupt not yet taken.
        let _ = self.event.write(1);
    }
}

impl Interrupt for Line {
    fn queue(&self, _index: u16) {
        self.raise(USED_BUFFER);
    }

    fn config(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(CONFIG_CHANGE);
    }

    fn needs_reset(&self) {
        self.fail();
    }
}
