//! The socket device (virtio 1.2, 5.10): byte streams between guest and host.
//!
//! The host side is not a kernel's vsock: each connection is a Unix stream socket that changes hands over a
//! channel ([`machine::vsock`]). `packet` is the format, `connection` one stream with its flow control, `table`
//! all of them, [`Engine`] moves packets, and [`Vsock`] is the device around it.
//!
//! Nothing is buffered towards the guest: bytes go from the host's socket straight into receive buffers, as many
//! as the guest has credit for, several buffers per system call. Towards the host bytes go straight from guest
//! memory into the socket; what it does not take waits, at most `buf_alloc` bytes per connection.

mod channel;
mod connection;
mod engine;
mod packet;
mod receive;
mod table;

use std::io;
use std::os::fd::OwnedFd;

use virtio_queue::Queue;

pub use engine::Engine;
pub use table::CONNECTIONS_MAX;

use crate::device::{ActivateError, Activation, DeviceKind, VirtioDevice, feature};
use crate::worker::{Runner, Stop, check_queues};

/// Size of its queues: receive, transmit, event.
pub const QUEUE_SIZE: u16 = 256;

const QUEUE_SIZES: [u16; 3] = [QUEUE_SIZE; 3];

/// Queues without which it cannot run: events only matter after a migration.
const REQUIRED_QUEUES: usize = 2;

/// A virtio socket device.
#[derive(Debug)]
pub struct Vsock {
    runner: Runner<Engine>,
    guest_cid: u64,
}

impl Vsock {
    /// A device whose guest has the context identifier `guest_cid` and whose streams change hands over `channel`,
    /// a `SOCK_SEQPACKET` Unix socket.
    ///
    /// # Errors
    ///
    /// If the host refuses to watch the channel.
    pub fn new(guest_cid: u32, channel: OwnedFd) -> io::Result<Self> {
        let guest_cid = u64::from(guest_cid);
        Ok(Self { runner: Runner::new(Engine::new(guest_cid, channel)?), guest_cid })
    }
}

impl VirtioDevice for Vsock {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Vsock
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn required_queues(&self) -> usize {
        REQUIRED_QUEUES
    }

    fn features(&self) -> u64 {
        feature::RING
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        crate::device::read_config_bytes(&self.guest_cid.to_le_bytes(), offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        check_queues(&activation, REQUIRED_QUEUES)?;
        let stop = Stop::new()?;
        if let Some(engine) = self.runner.idle() {
            engine.accept(activation.features);
            let watched = engine.watch(&activation.queues, &stop);
            watched.map_err(|source| ActivateError::Host { what: "watching queues", source })?;
        }
        self.runner.start("vsock", stop, move |engine, stop| engine.run(activation, stop))
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
