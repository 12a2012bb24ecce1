//! The entropy device (virtio 1.2, 5.4): the host's `getrandom`, straight into guest memory.

use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestMemoryMmap, Permissions};

use crate::buffers::Buffers;
use crate::chain::{self, Chain, Popped, QueueError};
use crate::device::{ActivateError, Activation, DeviceKind, VirtioDevice, feature};
use crate::worker::{RequestEngine, Runner, Stop, check_queues, serve_requests, watch};

/// Size of its queue.
pub const QUEUE_SIZE: u16 = 64;

/// Most bytes that one request gets; the driver is told how many it got.
pub const REQUEST_MAX: usize = 64 << 10;

/// Most requests between two looks at whether the driver wants to be told.
const BATCH: usize = 16;

/// A virtio entropy device.
#[derive(Debug)]
pub struct Rng(Runner<Engine>);

impl Rng {
    /// A new device.
    #[must_use]
    pub fn new() -> Self {
        Self(Runner::new(Engine::default()))
    }
}

impl Default for Rng {
    fn default() -> Self {
        Self::new()
    }
}

impl VirtioDevice for Rng {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Rng
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        feature::RING
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        check_queues(&activation, 1)?;
        activation.queues.truncate(1);
        let stop = Stop::new()?;
        let poller = watch(&activation.queues, &stop)?;
        if let Some(engine) = self.0.idle() {
            engine.accept(activation.features);
        }
        self.0.start("rng", stop, move |engine, stop| serve_requests(engine, activation, &poller, stop))
    }

    fn quiesce(&mut self) -> Vec<Queue> {
        self.0.stop()
    }
}

/// An entropy device without its thread.
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

    fn serve(&self, memory: &GuestMemoryMmap) -> u32 {
        let Some(mut target) = Buffers::new(memory, self.chain.writable(), Permissions::Write) else { return 0 };
        let target = target.split_front(REQUEST_MAX);
        match target.randomize() {
            Ok(()) => u32::try_from(target.len()).unwrap_or(0),
            Err(_) => 0,
        }
    }
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
            let (head, used) = match chain::pop(queue, memory, indirect, &mut self.chain)? {
                Popped::Empty => return Ok(done > 0),
                Popped::Malformed { head, .. } => (head, 0),
                Popped::Chain => (self.chain.head(), self.serve(memory)),
            };
            queue.add_used(memory, head, used)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
