//! The peer's requests.

use std::fs::File;
use std::io;
use std::sync::Arc;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight, VhostUserLog,
    VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Backend, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::calls::{Calls, event};
use super::memory::{MemoryCell, PeerMemory};
use crate::device::{Activation, ActiveQueue, VirtioDevice, feature};

/// Largest queue that a peer may set up, whatever the device would choose itself.
const QUEUE_SIZE_MAX: u16 = 1024;

const PROTOCOL_FEATURES: VhostUserProtocolFeatures =
    VhostUserProtocolFeatures::CONFIG.union(VhostUserProtocolFeatures::MQ).union(VhostUserProtocolFeatures::REPLY_ACK);

/// A ring as the peer describes it, in the peer's addresses.
#[derive(Debug, Default)]
struct Ring {
    size: u16,
    /// Where the device is to go on, or stopped, in the available ring.
    base: u16,
    /// Descriptor table, available ring, used ring.
    addresses: Option<[u64; 3]>,
    kick: Option<EventFd>,
    enabled: bool,
    started: bool,
}

impl Ring {
    fn is_ready(&self, needs_enable: bool) -> bool {
        self.started && self.addresses.is_some() && self.size > 0 && (self.enabled || !needs_enable)
    }

    fn to_queue(&self, memory: &PeerMemory, event_idx: bool) -> Option<Queue> {
        let mut queue = Queue::new(QUEUE_SIZE_MAX).ok()?;
        queue.try_set_size(self.size).ok()?;
        let [descriptors, available, used] = self.addresses?;
        let address = |peer| memory.guest_address(peer).filter(|address| *address != GuestAddress(0));
        queue.try_set_desc_table_address(address(descriptors)?).ok()?;
        queue.try_set_avail_ring_address(address(available)?).ok()?;
        queue.try_set_used_ring_address(address(used)?).ok()?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        queue.set_next_avail(self.base);
        if !queue.is_valid(&memory.guest) {
            return None;
        }
        // A peer says where the device is in the available ring only. Requests here are finished in order, so the
        // used ring is where its own index says.
        let used = queue.used_idx(&memory.guest, std::sync::atomic::Ordering::Acquire).ok()?;
        queue.set_next_used(used.0);
        Some(queue)
    }
}

/// A device and what its peer said so far.
#[derive(Debug)]
pub(super) struct Handler {
    device: Box<dyn VirtioDevice>,
    cell: MemoryCell,
    memory: Option<PeerMemory>,
    features: u64,
    rings: Vec<Ring>,
    calls: Arc<Calls>,
    running: bool,
}

impl Handler {
    pub(super) fn new(device: Box<dyn VirtioDevice>, cell: MemoryCell) -> Self {
        let count = device.queue_sizes().len();
        Self {
            device,
            cell,
            memory: None,
            features: 0,
            rings: (0..count).map(|_| Ring::default()).collect(),
            calls: Arc::new(Calls::new(count)),
            running: false,
        }
    }

    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        usize::try_from(index).ok().and_then(|index| self.rings.get_mut(index)).ok_or(Error::InvalidParam)
    }

    /// Stops the device, changes something with `change`, and starts it again if it then can.
    fn change<T>(&mut self, change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.stop();
        let result = change(self);
        self.start();
        result
    }

    fn stop(&mut self) {
        for (ring, queue) in self.rings.iter_mut().zip(self.device.quiesce()) {
            ring.base = queue.next_avail();
        }
        self.running = false;
    }

    fn start(&mut self) {
        let needs_enable = self.features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() != 0;
        let ready = self.rings.iter().take_while(|ring| ring.is_ready(needs_enable)).count();
        if ready < self.device.required_queues() {
            return;
        }
        let Some(queues) = self.queues(ready) else { return };
        let Some(memory) = &self.memory else { return };
        if self.rings[..ready].iter().all(|ring| ring.base == 0) {
            // Rings at their beginning are those of a driver that has just begun.
            self.device.reset();
        }
        let activation = Activation {
            memory: memory.guest.clone(),
            features: self.features,
            queues,
            interrupt: Arc::clone(&self.calls) as _,
        };
        self.running = self.device.activate(activation).is_ok();
    }

    fn queues(&self, count: usize) -> Option<Vec<ActiveQueue>> {
        let memory = self.memory.as_ref()?;
        let event_idx = self.features & feature::EVENT_IDX != 0;
        let queue = |ring: &Ring| {
            let kick = ring.kick.as_ref()?.try_clone().ok()?;
            Some(ActiveQueue { queue: ring.to_queue(memory, event_idx)?, kick })
        };
        self.rings[..count].iter().map(queue).collect()
    }
}

impl VhostUserBackendReqHandlerMut for Handler {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.reset_device()
    }

    fn reset_device(&mut self) -> Result<()> {
        self.stop();
        self.device.reset();
        self.rings.iter_mut().for_each(|ring| *ring = Ring::default());
        self.features = 0;
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.device.features() | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.get_features()? != 0 {
            return Err(Error::InvalidParam);
        }
        self.change(|this| {
            this.features = features;
            Ok(())
        })
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let memory = PeerMemory::map(regions, files).map_err(Error::ReqHandlerError)?;
        self.cell.set(memory.guest.clone());
        self.change(|this| {
            this.memory = Some(memory);
            Ok(None)
        })
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num).ok().filter(|size| size.is_power_of_two() && *size <= QUEUE_SIZE_MAX);
        let size = size.ok_or(Error::InvalidParam)?;
        self.change(|this| {
            this.ring(index)?.size = size;
            Ok(())
        })
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        self.change(|this| {
            this.ring(index)?.addresses = Some([descriptor, available, used]);
            Ok(())
        })
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        self.change(|this| {
            this.ring(index)?.base = base;
            Ok(())
        })
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.change(|this| {
            let ring = this.ring(index)?;
            ring.started = false;
            ring.kick = None;
            Ok(VhostUserVringState::new(index, u32::from(ring.base)))
        })
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let kick = fd.map(event);
        self.change(|this| {
            let ring = this.ring(u32::from(index))?;
            ring.started = kick.is_some();
            ring.kick = kick;
            Ok(())
        })
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(u32::from(index))?;
        self.calls.set(usize::from(index), fd.map(event), self.running);
        Ok(())
    }

    fn set_vring_err(&mut self, _index: u8, _fd: Option<File>) -> Result<()> {
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(PROTOCOL_FEATURES)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        if features & !PROTOCOL_FEATURES.bits() == 0 { Ok(()) } else { Err(Error::InvalidParam) }
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.change(|this| {
            this.ring(index)?.enabled = enable;
            Ok(())
        })
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        // The protocol layer bounds `size` by 4096.
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| Error::InvalidParam)?];
        self.device.read_config(u64::from(offset), &mut bytes);
        Ok(bytes)
    }

    fn set_config(&mut self, offset: u32, bytes: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        self.device.write_config(u64::from(offset), bytes);
        Ok(())
    }

    fn set_backend_req_fd(&mut self, _backend: Backend) {}

    fn set_gpu_socket(&mut self, _backend: GpuBackend) -> Result<()> {
        unsupported()
    }

    fn get_shared_object(&mut self, _object: VhostUserSharedMsg) -> Result<File> {
        unsupported()
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        unsupported()
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        unsupported()
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        unsupported()
    }

    fn add_mem_region(
        &mut self,
        _region: &VhostUserSingleMemoryRegion,
        _fd: File,
        _postcopy: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        unsupported()
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> Result<()> {
        unsupported()
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        unsupported()
    }

    fn check_device_state(&mut self) -> Result<()> {
        unsupported()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unsupported()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        unsupported()
    }
}

fn unsupported<T>() -> Result<T> {
    Err(Error::ReqHandlerError(io::ErrorKind::Unsupported.into()))
}
