//! The file system device (virtio 1.2, 5.11) of a machine that sees files of the host. A daemon outside of this process
//! serves its queues over vhost-user: here are the registers and the introduction of one to the other.
//!
//! ```text
//!   driver ── registers ──▶ Fs ── memory, rings, eventfds ──▶ daemon
//!     │  ╰── kick (ioeventfd) ──────────────────────────────▶ │
//!     ◀── interrupt ── worker ◀──────────── call (eventfd) ── ╯
//! ```
//!
//! The daemon reads and writes the guest's memory, which therefore is a file that can be shared, and checks rings and
//! requests itself: nothing of what the guest puts there is looked at here. It is not spoken to before the driver is
//! ready: by then it had the whole boot of the guest's kernel to come up.

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::device::{
    ActivateError, Activation, ActiveQueue, DeviceKind, Interrupt, VirtioDevice, feature, read_config_bytes,
};
use crate::worker::{Poller, Runner, STOP, Stop, check_queues, event_fd};

/// Sizes of its queues: urgent requests (those to forget), and all others.
pub const QUEUE_SIZES: [u16; 2] = [128, 1024];

/// Bytes of the name by which the guest mounts the file system (virtio 1.2, 5.11.4).
pub const TAG_BYTES: usize = 36;

/// How long the daemon may take for an answer: it may still be starting on a busy host.
const PATIENCE: Duration = Duration::from_secs(20);

/// A file system device.
pub struct Fs {
    /// The tag, padded with zeros, and the number of request queues.
    config: [u8; TAG_BYTES + 4],
    daemon: Frontend,
    introduced: bool,
    /// Those that the daemon has.
    queues: Vec<Queue>,
    calls: Runner<()>,
}

impl fmt::Debug for Fs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { introduced, queues, calls, .. } = self;
        f.debug_struct("Fs").field("introduced", introduced).field("queues", queues).field("calls", calls).finish()
    }
}

impl Fs {
    /// A device that the guest mounts by `tag`, 1 to [`TAG_BYTES`] bytes. `channel` is connected to the daemon.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a tag of another length, and what the socket answers.
    pub fn new(tag: &str, channel: UnixStream) -> io::Result<Self> {
        if tag.is_empty() || tag.len() > TAG_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a tag has 1 to 36 bytes"));
        }
        channel.set_read_timeout(Some(PATIENCE))?;
        channel.set_write_timeout(Some(PATIENCE))?;
        let mut config = [0; TAG_BYTES + 4];
        config[..tag.len()].copy_from_slice(tag.as_bytes());
        config[TAG_BYTES..].copy_from_slice(&1_u32.to_le_bytes());
        let daemon = Frontend::from_stream(channel, QUEUE_SIZES.len() as u64);
        Ok(Self { config, daemon, introduced: false, queues: Vec::new(), calls: Runner::new(()) })
    }

    /// What is said once in the life of a connection.
    fn introduce(&mut self) -> vhost::Result<()> {
        if self.introduced {
            return Ok(());
        }
        self.daemon.set_owner()?;
        let wanted = feature::RING | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        if self.daemon.get_features()? & wanted != wanted {
            return Err(vhost::Error::VhostUserProtocol(vhost::vhost_user::Error::FeatureMismatch));
        }
        let wanted = VhostUserProtocolFeatures::REPLY_ACK;
        let offered = self.daemon.get_protocol_features()?;
        self.daemon.set_protocol_features(offered & wanted)?;
        if offered.contains(wanted) {
            // Every refusal is then heard.
            self.daemon.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        self.introduced = true;
        Ok(())
    }

    /// Hands the daemon the guest's memory and the queues; what it signals when it used buffers, by queue.
    fn hand_over(&mut self, activation: &Activation) -> vhost::Result<Vec<EventFd>> {
        self.introduce()?;
        self.daemon.set_features(activation.features | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())?;
        let memory = &activation.memory;
        let regions =
            memory.iter().map(VhostUserMemoryRegionInfo::from_guest_region).collect::<vhost::Result<Vec<_>>>()?;
        self.daemon.set_mem_table(&regions)?;
        let mut calls = Vec::with_capacity(activation.queues.len());
        for (index, ActiveQueue { queue, kick }) in activation.queues.iter().enumerate() {
            let call = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(vhost::Error::IOError)?;
            self.daemon.set_vring_num(index, queue.size())?;
            self.daemon.set_vring_base(index, queue.next_avail())?;
            self.daemon.set_vring_addr(index, &addresses(memory, queue)?)?;
            self.daemon.set_vring_call(index, &call)?;
            self.daemon.set_vring_kick(index, kick)?;
            calls.push(call);
        }
        for index in 0..calls.len() {
            self.daemon.set_vring_enable(index, true)?;
        }
        Ok(calls)
    }
}

/// Where a queue's rings are in this process, which is how a frontend of vhost-user names places.
fn addresses(memory: &GuestMemoryMmap, queue: &Queue) -> vhost::Result<VringConfigData> {
    let place = |address: u64| {
        let pointer = memory.get_host_address(GuestAddress(address));
        pointer.map(|pointer| pointer.addr() as u64).map_err(|_| vhost::Error::InvalidGuestMemory)
    };
    Ok(VringConfigData {
        queue_max_size: queue.max_size(),
        queue_size: queue.size(),
        flags: 0,
        desc_table_addr: place(queue.desc_table())?,
        used_ring_addr: place(queue.used_ring())?,
        avail_ring_addr: place(queue.avail_ring())?,
        log_addr: None,
    })
}

impl VirtioDevice for Fs {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Fs
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        feature::RING
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_bytes(&self.config, offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        check_queues(&activation, QUEUE_SIZES.len())?;
        activation.queues.truncate(QUEUE_SIZES.len());
        let stop = Stop::new()?;
        let calls = self.hand_over(&activation).map_err(|error| ActivateError::Host {
            what: "introducing the guest to the daemon that has the files",
            source: io::Error::other(error),
        })?;
        let poller =
            watch(&calls, &stop).map_err(|source| ActivateError::Host { what: "watching the file daemon", source })?;
        let Activation { queues, interrupt, .. } = activation;
        self.queues = queues.into_iter().map(|active| active.queue).collect();
        self.calls.start("fs", stop, move |(), stop| {
            forward(&poller, &calls, &*interrupt, stop);
            Vec::new()
        })
    }

    fn quiesce(&mut self) -> Vec<Queue> {
        self.calls.stop();
        let mut queues = std::mem::take(&mut self.queues);
        for (index, queue) in queues.iter_mut().enumerate() {
            // A daemon that is gone has finished with its queues, wherever it was in them.
            if let Ok(base) = self.daemon.get_vring_base(index) {
                let base = u16::try_from(base).unwrap_or_default();
                queue.set_next_avail(base);
                queue.set_next_used(base);
            }
        }
        queues
    }
}

fn watch(calls: &[EventFd], stop: &Stop) -> io::Result<Poller> {
    let poller = Poller::new()?;
    poller.add(event_fd(stop.event()), STOP, EventFlags::IN)?;
    for (index, call) in calls.iter().enumerate() {
        poller.add(event_fd(call), index as u64, EventFlags::IN)?;
    }
    Ok(poller)
}

/// Interrupts the driver whenever the daemon says so. `calls` are watched by edges and never read.
fn forward(poller: &Poller, calls: &[EventFd], interrupt: &dyn Interrupt, stop: &Stop) {
    while !stop.requested() {
        for ready in poller.wait(None) {
            if let Ok(index) = u16::try_from(ready.token)
                && usize::from(index) < calls.len()
            {
                interrupt.queue(index);
            }
        }
    }
}

#[cfg(test)]
mod tests;
