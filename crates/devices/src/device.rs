//! What a virtio device is, apart from its transport.
//!
//! A device is handed its queues; it does not own the transport. The same device runs under our virtio-mmio
//! transport and behind vhost-user. Life of a device:
//!
//! ```text
//!            activate(queues)                 quiesce() -> queues
//!   idle ───────────────────────▶ running ───────────────────────▶ idle ──┐
//!    ▲                                                              │     │ reset(): connections and
//!    └──────────────── activate(the same queues, or fresh) ─────────┘ ◀───┘ other driver state are gone
//! ```
//!
//! While it runs, a device works in a thread of its own that sleeps on the queues' kick descriptors: the
//! thread that has the vCPU only writes registers.

use std::sync::Arc;

use thiserror::Error;
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// Feature bits that belong to the rings and the transport (virtio 1.2, section 6).
pub mod feature {
    /// A descriptor may point to a table of descriptors (`VIRTIO_F_INDIRECT_DESC`).
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Either side says at which index it wants to hear next (`VIRTIO_F_EVENT_IDX`).
    pub const EVENT_IDX: u64 = 1 << 29;
    /// virtio 1.0 or newer (`VIRTIO_F_VERSION_1`).
    pub const VERSION_1: u64 = 1 << 32;
    /// What every device here offers.
    pub const RING: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;
}

/// virtio device identifiers (virtio 1.2, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DeviceKind {
    /// Block device.
    Block = 2,
    /// Entropy source.
    Rng = 4,
    /// Memory balloon.
    Balloon = 5,
    /// Socket device.
    Vsock = 19,
    /// File system device.
    Fs = 26,
}

/// A virtio device.
pub trait VirtioDevice: Send + std::fmt::Debug {
    /// Its device identifier.
    fn kind(&self) -> DeviceKind;

    /// The largest size of each of its queues, in descriptors; powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// How many of its queues, from the first, it cannot run without.
    fn required_queues(&self) -> usize {
        self.queue_sizes().len()
    }

    /// Feature bits offered to the driver, ring features and `VIRTIO_F_VERSION_1` included.
    fn features(&self) -> u64;

    /// Reads the configuration space. Bytes beyond its end read as zeros.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the configuration space. Writes to what is not writable are ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// Starts the device on its queues.
    ///
    /// # Errors
    ///
    /// [`ActivateError`]; the device then stays idle, and the transport reports `DEVICE_NEEDS_RESET`.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Stops the device, finishes requests in flight, and gives the queues back. Empty when idle.
    fn quiesce(&mut self) -> Vec<Queue>;

    /// Forgets what it knows of its driver; only while idle. A transport calls this when the driver resets the
    /// device, and does not when it merely pauses it.
    fn reset(&mut self) {}
}

/// What a device is handed to run.
#[derive(Debug)]
pub struct Activation {
    /// Guest memory.
    pub memory: GuestMemoryMmap,
    /// Feature bits that the driver accepted, a subset of the offered ones.
    pub features: u64,
    /// Its queues in order. A transport may hold trailing queues back (vhost-user does for vsock events).
    pub queues: Vec<ActiveQueue>,
    /// How it tells the driver.
    pub interrupt: Arc<dyn Interrupt>,
}

/// A queue that the driver set up.
#[derive(Debug)]
pub struct ActiveQueue {
    /// Its rings.
    pub queue: Queue,
    /// Readable when the driver kicked it.
    pub kick: EventFd,
}

/// How a device tells its driver something.
pub trait Interrupt: Send + Sync + std::fmt::Debug {
    /// Buffers were used in the queue with this index.
    fn queue(&self, index: u16);

    /// The configuration space changed.
    fn config(&self);

    /// The driver broke a ring: the device stopped serving it (`DEVICE_NEEDS_RESET`, virtio 1.2, 2.1.1).
    fn needs_reset(&self) {}
}

/// Why a device did not start.
#[derive(Debug, Error)]
pub enum ActivateError {
    /// A queue is missing or not valid.
    #[error("queue {0} is not usable")]
    Queue(usize),
    /// The host did not give what the device needs.
    #[error("{what} for the device worker")]
    Host {
        /// What was asked of the host.
        what: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
}

/// Reads `data.len()` bytes at `offset` of a configuration space; beyond its end there are zeros.
pub(crate) fn read_config_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or_default();
    let count = rest.len().min(data.len());
    data[..count].copy_from_slice(&rest[..count]);
    data[count..].fill(0);
}
