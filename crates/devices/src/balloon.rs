//! The memory balloon (virtio 1.2, 5.5), for what is useful of it: free page reporting (5.5.6.7).
//!
//! The guest's kernel reports blocks of memory that nobody in it uses, and waits with giving them away until the
//! report is answered. The host takes the pages back (`MADV_DONTNEED`): they read as zeros and cost nothing until the
//! guest touches them again. So a machine costs what its guest uses now, not what it once used.
//!
//! There is no balloon to inflate: its wanted size is always 0, and pages that a driver puts into it all the same are
//! answered and left alone.
//!
//! What a guest reports is its own memory, and all that it can lose. A report is bounded like every chain, its
//! addresses are checked like every chain's, and only whole pages inside of it are taken.
//!
//! This works on memory that is this process's alone. Where an emulator has the memory it has the balloon too.

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, Permissions};

use crate::buffers::Buffers;
use crate::chain::{self, Chain, Popped, QueueError};
use crate::device::{ActivateError, Activation, DeviceKind, VirtioDevice, feature};
use crate::worker::{RequestEngine, Runner, Stop, check_queues, serve_requests, watch};

/// Sizes of its queues: inflate, deflate, reporting. Without the features for statistics and hints there are no queues
/// for them, and reporting is the third.
pub const QUEUE_SIZES: [u16; 3] = [64, 64, 64];

/// Feature bits of balloons (virtio 1.2, 5.5.3).
pub mod features {
    /// The guest reports free pages.
    pub const PAGE_REPORTING: u64 = 1 << 5;
}

/// Most requests between two looks at whether the driver wants to be told.
const BATCH: usize = 16;

/// A virtio balloon device.
#[derive(Debug)]
pub struct Balloon(Runner<Engine>);

impl Balloon {
    /// A new device.
    #[must_use]
    pub fn new() -> Self {
        Self(Runner::new(Engine::default()))
    }
}

impl Default for Balloon {
    fn default() -> Self {
        Self::new()
    }
}

impl VirtioDevice for Balloon {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Balloon
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// A driver that does not report sets up no queue for it.
    fn required_queues(&self) -> usize {
        2
    }

    fn features(&self) -> u64 {
        feature::RING | features::PAGE_REPORTING
    }

    /// `num_pages` and `actual` are 0.
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        check_queues(&activation, 2)?;
        let stop = Stop::new()?;
        let poller = watch(&activation.queues, &stop)?;
        if let Some(engine) = self.0.idle() {
            engine.accept(activation.features);
        }
        self.0.start("balloon", stop, move |engine, stop| serve_requests(engine, activation, &poller, stop))
    }

    fn quiesce(&mut self) -> Vec<Queue> {
        self.0.stop()
    }
}

/// A balloon without its thread.
#[derive(Debug, Default)]
pub struct Engine {
    features: u64,
    chain: Chain,
}

impl Engine {
    /// Sets the features that the driver accepted.
    pub fn accept(&mut self, features: u64) {
        self.features = features;
    }

    /// Serves some of the available requests of `queue`; whether any was used.
    ///
    /// # Errors
    ///
    /// [`QueueError`] if the driver broke the ring.
    pub fn process(&mut self, memory: &GuestMemoryMmap, queue: &mut Queue) -> Result<bool, QueueError> {
        RequestEngine::process(self, memory, queue, None)
    }

    /// Takes back what a chain reports: its writable buffers. Those of the other queues are lists of page numbers,
    /// which are only read. What the host does not take stays the guest's.
    fn release(&self, memory: &GuestMemoryMmap) {
        if self.features & features::PAGE_REPORTING == 0 {
            return;
        }
        if let Some(reported) = Buffers::new(memory, self.chain.writable(), Permissions::Write) {
            reported.release(is_shared(memory));
        }
    }
}

/// Whether the guest's memory is a file.
fn is_shared(memory: &GuestMemoryMmap) -> bool {
    memory.iter().any(|region| region.file_offset().is_some())
}

impl RequestEngine for Engine {
    fn process(
        &mut self,
        memory: &GuestMemoryMmap,
        queue: &mut Queue,
        stop: Option<&Stop>,
    ) -> Result<bool, QueueError> {
        let indirect = self.features & feature::INDIRECT_DESC != 0;
        for done in 0..BATCH {
            if stop.is_some_and(Stop::requested) {
                return Ok(done > 0);
            }
            let head = match chain::pop(queue, memory, indirect, &mut self.chain)? {
                Popped::Empty => return Ok(done > 0),
                Popped::Malformed { head, .. } => head,
                Popped::Chain => {
                    self.release(memory);
                    self.chain.head()
                }
            };
            queue.add_used(memory, head, 0)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
