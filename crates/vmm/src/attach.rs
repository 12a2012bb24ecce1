//! Devices onto the bus, and their doorbells and interrupt lines into KVM.

use std::fs::File;
use std::io;
use std::sync::Arc;

use devices::device::VirtioDevice;
use devices::mmio::{MmioTransport, QUEUE_NOTIFY};
use devices::serial::Serial;
use kvm_ioctls::{IoEventAddress, VmFd};
use thiserror::Error;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::bus::Bus;
use crate::layout::{SERIAL_LINE, Slot};

/// Puts `devices` into `slots` and gives the machine a serial line if `console` takes its bytes.
///
/// # Errors
///
/// [`AttachError`] if the host has no descriptors left or KVM refuses a connection.
pub fn attach(
    vm: &VmFd,
    memory: &GuestMemoryMmap,
    slots: &[Slot],
    devices: Vec<Box<dyn VirtioDevice>>,
    console: Option<&Arc<File>>,
) -> Result<Bus, AttachError> {
    let transports = devices
        .into_iter()
        .map(|device| MmioTransport::new(memory.clone(), device).map_err(AttachError::Host))
        .collect::<Result<Vec<_>, _>>()?;
    if transports.len() != slots.len() {
        return Err(AttachError::Slots { devices: transports.len(), slots: slots.len() });
    }
    for (transport, slot) in transports.iter().zip(slots) {
        connect(vm, transport, *slot)?;
    }
    let serial = console.map(|file| serial(vm, file)).transpose()?;
    Ok(Bus::new(transports, serial))
}

/// A guest's notification of a queue signals the queue's kick, a device's interrupt raises its line, neither leaves
/// the kernel.
fn connect(vm: &VmFd, transport: &MmioTransport, slot: Slot) -> Result<(), AttachError> {
    let doorbell = IoEventAddress::Mmio(slot.address + QUEUE_NOTIFY);
    for (queue, kick) in (0u32..).zip(transport.kicks()) {
        vm.register_ioevent(kick, &doorbell, queue).map_err(AttachError::Doorbell)?;
    }
    vm.register_irqfd(transport.interrupt_line(), slot.line).map_err(AttachError::Line)
}

fn serial(vm: &VmFd, file: &File) -> Result<Serial, AttachError> {
    let interrupt = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(AttachError::Host)?;
    vm.register_irqfd(&interrupt, SERIAL_LINE).map_err(AttachError::Line)?;
    Ok(Serial::new(Some(file.try_clone().map_err(AttachError::Host)?), Some(interrupt)))
}

/// Why a device is not on the bus.
#[derive(Debug, Error)]
pub enum AttachError {
    /// Descriptors.
    #[error("cannot make the descriptors of a device")]
    Host(#[source] io::Error),
    /// An ioeventfd.
    #[error("KVM refuses a device's doorbell")]
    Doorbell(#[source] kvm_ioctls::Error),
    /// An irqfd.
    #[error("KVM refuses a device's interrupt line")]
    Line(#[source] kvm_ioctls::Error),
    /// Layout and devices disagree.
    #[error("{devices} devices for {slots} slots")]
    Slots {
        /// How many devices.
        devices: usize,
        /// How many places.
        slots: usize,
    },
}
