//! The block device (virtio 1.2, 5.2).
//!
//! [`Backing`] is where the bytes are, `request` the format, [`Engine`] serves requests one after the other, and
//! [`Block`] is the device around it. Requests are synchronous: the guest's queue holds what waits, data goes
//! between files and guest memory without a copy, and the host's page cache is the only cache.
//!
//! Writes are buffered until the driver flushes (`VIRTIO_BLK_F_FLUSH` → `fdatasync`); a driver that did not
//! accept that feature gets a flush after every write. Discard punches holes, so a scratch disk gives space back.
//!
//! A device may be limited in bytes and in requests per second, reads and writes apart: `rate` has the buckets. A
//! flush is a write of no bytes, a discard one of a sector, and zeroes count with their length.

mod backing;
mod config;
mod engine;
mod request;

use machine::DiskRates;
use virtio_queue::Queue;

pub use backing::{Backing, BackingError, EXTENT_ALIGNMENT, Extents, MAX_EXTENTS, ReadOnlyExtent, Writable};
pub use engine::Engine;

use crate::device::{ActivateError, Activation, DeviceKind, VirtioDevice, feature};
use crate::worker::{Runner, Stop, check_queues, serve_requests, watch};

/// Size of its queue.
pub const QUEUE_SIZE: u16 = 128;

/// Feature bits of block devices (virtio 1.2, 5.2.3).
pub mod features {
    /// The configuration says the largest segment.
    pub const SIZE_MAX: u64 = 1 << 1;
    /// The configuration says the most segments of a request.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The device cannot be written.
    pub const RO: u64 = 1 << 5;
    /// The configuration says the block size.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// Writes are durable after a flush request.
    pub const FLUSH: u64 = 1 << 9;
    /// The configuration says how blocks are aligned on what is below.
    pub const TOPOLOGY: u64 = 1 << 10;
    /// Ranges can be given back.
    pub const DISCARD: u64 = 1 << 13;
    /// Ranges can be zeroed.
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// A virtio block device.
#[derive(Debug)]
pub struct Block {
    runner: Runner<Engine>,
    config: [u8; config::SIZE],
    features: u64,
}

impl Block {
    /// A device over `backing` that calls itself `serial` (its first 20 bytes) and is used no faster than `rates`.
    #[must_use]
    pub fn new(backing: Backing, serial: &str, rates: DiskRates) -> Self {
        let mut engine = Engine::new(backing, serial);
        engine.limit(rates);
        Self::with_engine(engine)
    }

    fn with_engine(engine: Engine) -> Self {
        let backing = engine.backing();
        let features = features::SIZE_MAX | features::SEG_MAX | features::BLK_SIZE | features::TOPOLOGY;
        let kind = if backing.is_read_only() {
            features::RO
        } else {
            features::FLUSH | features::DISCARD | features::WRITE_ZEROES
        };
        Self {
            config: config::encode(backing.sectors(), backing.is_read_only()),
            features: feature::RING | features | kind,
            runner: Runner::new(engine),
        }
    }
}

impl VirtioDevice for Block {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Block
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        crate::device::read_config_bytes(&self.config, offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        check_queues(&activation, 1)?;
        activation.queues.truncate(1);
        let stop = Stop::new()?;
        let poller = watch(&activation.queues, &stop)?;
        if let Some(engine) = self.runner.idle() {
            engine.accept(activation.features);
        }
        self.runner.start("block", stop, move |engine, stop| serve_requests(engine, activation, &poller, stop))
    }

    fn quiesce(&mut self) -> Vec<Queue> {
        self.runner.stop()
    }

    fn reset(&mut self) {
        if let Some(engine) = self.runner.idle() {
            engine.reset();
        }
    }
}

#[cfg(test)]
mod tests;
