//! The virtio-mmio transport (virtio 1.2, 4.2, register layout version 2) as a register file.
//!
//! There is no KVM here: the VMM routes reads and writes of a page to [`MmioTransport`], registers
//! [`MmioTransport::kicks`] as ioeventfds at [`QUEUE_NOTIFY`] and [`MmioTransport::interrupt_line`] as an irqfd.
//!
//! A driver goes through the states of virtio 1.2, 3.1.1, and each register takes writes in one of them only:
//!
//! ```text
//!   RESET ──ACKNOWLEDGE, DRIVER──▶ NEGOTIATE ──FEATURES_OK──▶ QUEUES ──DRIVER_OK──▶ RUNNING
//!     ▲                            features                   queue registers       nothing but status,
//!     │                                                       of queues not ready   acknowledge and notify
//!     └───────────── status := 0 (device quiesced, all dropped) ◀── from every state, FAILED included
//! ```
//!
//! Whatever else is written is ignored, whatever else is read is zero. Status bits are only ever added, except
//! by reset. What the device works on was copied from the registers when the driver said `DRIVER_OK`: no later
//! register write can reach it.

mod interrupt;
mod queue;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::interrupt::Line;
use self::queue::QueueRegisters;
use crate::device::{Activation, ActiveQueue, VirtioDevice, feature};

/// Bytes of the register file, the configuration space included.
pub const REGION_SIZE: u64 = 0x1000;

/// Offset of the register that takes the index of a kicked queue.
pub const QUEUE_NOTIFY: u64 = 0x50;

/// Offset of the configuration space.
const CONFIG: u64 = 0x100;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"CRCL");

/// Device status bits (virtio 1.2, 2.1).
pub mod status {
    /// The driver noticed the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The driver can drive it.
    pub const DRIVER: u32 = 2;
    /// The driver is set up.
    pub const DRIVER_OK: u32 = 4;
    /// Features are agreed on.
    pub const FEATURES_OK: u32 = 8;
    /// The device is beyond repair short of a reset.
    pub const NEEDS_RESET: u32 = 64;
    /// The driver gave up.
    pub const FAILED: u32 = 128;

    /// What a driver may set.
    pub(super) const OF_DRIVER: u32 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
}

mod register {
    pub(super) const MAGIC_VALUE: u64 = 0x00;
    pub(super) const VERSION: u64 = 0x04;
    pub(super) const DEVICE_ID: u64 = 0x08;
    pub(super) const VENDOR_ID: u64 = 0x0c;
    pub(super) const DEVICE_FEATURES: u64 = 0x10;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub(super) const DRIVER_FEATURES: u64 = 0x20;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub(super) const QUEUE_SEL: u64 = 0x30;
    pub(super) const QUEUE_NUM_MAX: u64 = 0x34;
    pub(super) const QUEUE_NUM: u64 = 0x38;
    pub(super) const QUEUE_READY: u64 = 0x44;
    pub(super) const INTERRUPT_STATUS: u64 = 0x60;
    pub(super) const INTERRUPT_ACK: u64 = 0x64;
    pub(super) const STATUS: u64 = 0x70;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x80;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x84;
    pub(super) const QUEUE_DRIVER_LOW: u64 = 0x90;
    pub(super) const QUEUE_DRIVER_HIGH: u64 = 0x94;
    pub(super) const QUEUE_DEVICE_LOW: u64 = 0xa0;
    pub(super) const QUEUE_DEVICE_HIGH: u64 = 0xa4;
    pub(super) const SHM_LEN_LOW: u64 = 0xb0;
    pub(super) const SHM_BASE_HIGH: u64 = 0xbc;
    pub(super) const CONFIG_GENERATION: u64 = 0xfc;
}

/// A device behind virtio-mmio registers.
#[derive(Debug)]
pub struct MmioTransport {
    memory: GuestMemoryMmap,
    device: Box<dyn VirtioDevice>,
    kicks: Vec<EventFd>,
    line: Arc<Line>,
    queues: Vec<QueueRegisters>,
    device_features_page: u32,
    driver_features_page: u32,
    driver_features: u64,
    selected: u32,
}

impl MmioTransport {
    /// Puts `device` behind registers.
    ///
    /// # Errors
    ///
    /// If the host has no event descriptors left.
    pub fn new(memory: GuestMemoryMmap, device: Box<dyn VirtioDevice>) -> io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let kicks = device.queue_sizes().iter().map(|_| event()).collect::<io::Result<_>>()?;
        let queues = device.queue_sizes().iter().map(|size| QueueRegisters::new(*size)).collect();
        Ok(Self {
            memory,
            device,
            kicks,
            line: Arc::new(Line::new(event()?)),
            queues,
            device_features_page: 0,
            driver_features_page: 0,
            driver_features: 0,
            selected: 0,
        })
    }

    /// What the driver's kicks arrive on, by queue index.
    #[must_use]
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// Written to when the driver is to be interrupted (an edge).
    #[must_use]
    pub fn interrupt_line(&self) -> &EventFd {
        self.line.event()
    }

    /// Stops the device's worker; its queues and the registers stay. For the end of a machine.
    pub fn quiesce(&mut self) {
        self.device.quiesce();
    }

    /// The driver reads `data.len()` bytes at `offset`.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset >= CONFIG {
            self.device.read_config(offset - CONFIG, data);
        } else if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
            *word = self.read_register(offset).to_le_bytes();
        }
    }

    /// The driver writes `data` at `offset`. Waits for requests in flight if that resets the device.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if offset >= CONFIG {
            if self.status() & status::DRIVER != 0 {
                self.device.write_config(offset - CONFIG, data);
            }
        } else if let Ok(word) = data.try_into() {
            self.write_register(offset, u32::from_le_bytes(word));
        }
    }

    fn status(&self) -> u32 {
        self.line.status.load(Ordering::Acquire)
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            register::MAGIC_VALUE => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE_ID => self.device.kind() as u32,
            register::VENDOR_ID => VENDOR,
            register::DEVICE_FEATURES => page_of(self.device.features(), self.device_features_page),
            register::QUEUE_NUM_MAX => self.queue().map_or(0, QueueRegisters::max),
            register::QUEUE_READY => self.queue().map_or(0, |queue| u32::from(queue.is_ready())),
            register::INTERRUPT_STATUS => self.line.pending.load(Ordering::Acquire),
            register::STATUS => self.status(),
            // No device here has shared memory: its length and base are -1 (virtio 1.2, 4.2.2).
            register::SHM_LEN_LOW..=register::SHM_BASE_HIGH if offset.is_multiple_of(4) => u32::MAX,
            register::CONFIG_GENERATION => self.line.generation.load(Ordering::Acquire),
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32) {
        match offset {
            register::DEVICE_FEATURES_SEL => self.device_features_page = value,
            register::DRIVER_FEATURES_SEL => self.driver_features_page = value,
            register::DRIVER_FEATURES => self.accept_features(value),
            register::QUEUE_SEL => self.selected = value,
            QUEUE_NOTIFY => self.notify(value),
            register::INTERRUPT_ACK => {
                self.line.pending.fetch_and(!value, Ordering::AcqRel);
            }
            register::STATUS if value == 0 => self.reset(),
            register::STATUS => self.add_status(value),
            _ => self.write_queue_register(offset, value),
        }
    }

    fn queue(&self) -> Option<&QueueRegisters> {
        usize::try_from(self.selected).ok().and_then(|index| self.queues.get(index))
    }

    /// Whether the device is in the state in which `set` is set and none of the later ones.
    fn is_between(&self, set: u32, unset: u32) -> bool {
        let status = self.status();
        status & set == set && status & (unset | status::FAILED | status::NEEDS_RESET) == 0
    }

    fn accept_features(&mut self, value: u32) {
        if !self.is_between(status::DRIVER, status::FEATURES_OK) {
            return;
        }
        let value = u64::from(value);
        self.driver_features = match self.driver_features_page {
            0 => self.driver_features & !u64::from(u32::MAX) | value,
            1 => self.driver_features & u64::from(u32::MAX) | value << 32,
            // Pages that nothing is offered on: to accept something there is to accept what was not offered.
            _ if value == 0 => self.driver_features,
            _ => u64::MAX,
        };
    }

    fn write_queue_register(&mut self, offset: u64, value: u32) {
        if !self.is_between(status::FEATURES_OK, status::DRIVER_OK) {
            return;
        }
        let Some(queue) = usize::try_from(self.selected).ok().and_then(|index| self.queues.get_mut(index)) else {
            return;
        };
        match offset {
            register::QUEUE_READY => queue.set_ready(value == 1, &self.memory),
            _ if queue.is_ready() => {}
            register::QUEUE_NUM => queue.size = value,
            register::QUEUE_DESC_LOW => set_low(&mut queue.descriptors, value),
            register::QUEUE_DESC_HIGH => set_high(&mut queue.descriptors, value),
            register::QUEUE_DRIVER_LOW => set_low(&mut queue.driver, value),
            register::QUEUE_DRIVER_HIGH => set_high(&mut queue.driver, value),
            register::QUEUE_DEVICE_LOW => set_low(&mut queue.device, value),
            register::QUEUE_DEVICE_HIGH => set_high(&mut queue.device, value),
            _ => {}
        }
    }

    fn notify(&self, index: u32) {
        if !self.is_between(status::DRIVER_OK, 0) {
            return;
        }
        if let Some(kick) = usize::try_from(index).ok().and_then(|index| self.kicks.get(index)) {
            // Refused only by a counter that is full, which wakes the worker as well.
            let _ = kick.write(1);
        }
    }

    fn add_status(&mut self, value: u32) {
        let before = self.status();
        let given = before & status::OF_DRIVER;
        let mut added = value & status::OF_DRIVER & !given;
        if value & given != given || before & status::FAILED != 0 {
            return;
        }
        if added & status::FAILED != 0 {
            self.line.status.fetch_or(status::FAILED, Ordering::AcqRel);
            self.device.quiesce();
            return;
        }
        let will = |bit| (before | added) & bit == bit;
        if !will(status::ACKNOWLEDGE | status::DRIVER) || !self.features_agree() {
            added &= !status::FEATURES_OK;
        }
        if (before | added) & status::FEATURES_OK == 0 {
            added &= !status::DRIVER_OK;
        }
        self.line.status.fetch_or(added, Ordering::AcqRel);
        if added & status::DRIVER_OK != 0 && self.activate().is_none() {
            self.line.fail();
        }
    }

    fn features_agree(&self) -> bool {
        let offered = self.device.features();
        self.driver_features & !offered == 0 && self.driver_features & feature::VERSION_1 != 0
    }

    fn activate(&mut self) -> Option<()> {
        let event_idx = self.driver_features & feature::EVENT_IDX != 0;
        let mut queues = Vec::with_capacity(self.queues.len());
        for (registers, kick) in self.queues.iter().zip(&self.kicks).take_while(|(queue, _)| queue.is_ready()) {
            queues.push(ActiveQueue { queue: registers.to_queue(event_idx)?, kick: kick.try_clone().ok()? });
        }
        let activation = Activation {
            memory: self.memory.clone(),
            features: self.driver_features,
            queues,
            interrupt: Arc::clone(&self.line) as _,
        };
        self.device.activate(activation).ok()
    }

    fn reset(&mut self) {
        self.device.quiesce();
        self.device.reset();
        self.line.reset();
        self.queues.iter_mut().for_each(QueueRegisters::reset);
        self.driver_features = 0;
        self.driver_features_page = 0;
        self.device_features_page = 0;
        self.selected = 0;
        for kick in &self.kicks {
            // Kicks of the past are nothing to a driver to come; an empty counter refuses to be read.
            let _ = kick.read();
        }
    }
}

impl Drop for MmioTransport {
    fn drop(&mut self) {
        self.device.quiesce();
    }
}

fn page_of(features: u64, page: u32) -> u32 {
    let [b0, b1, b2, b3, b4, b5, b6, b7] = features.to_le_bytes();
    match page {
        0 => u32::from_le_bytes([b0, b1, b2, b3]),
        1 => u32::from_le_bytes([b4, b5, b6, b7]),
        _ => 0,
    }
}

fn set_low(address: &mut u64, value: u32) {
    *address = *address & !u64::from(u32::MAX) | u64::from(value);
}

fn set_high(address: &mut u64, value: u32) {
    *address = *address & u64::from(u32::MAX) | u64::from(value) << 32;
}

#[cfg(test)]
mod tests;
