//! The numbers of a machine: where its memory, devices and interrupt lines are, and the command line that
//! says so to the kernel.

use boot::layout::GAP_START;
use boot::{CommandLine, CommandLineError, Layout, LayoutError};
use devices::mmio::REGION_SIZE;
use machine::{KernelLogRegion, MachineSpec};
use thiserror::Error;

/// First virtio-mmio register page, in the gap below 4 GiB and well below the I/O APIC.
pub const DEVICES: u64 = 0xd000_0000;
const _: () = assert!(DEVICES >= GAP_START);

/// Interrupt lines that devices get, in this order. The others have a PC's fixed meanings, which a kernel may
/// still believe in: timer 0, keyboard 1, cascade 2, serial ports 3 and 4, clock 8, mouse 12, coprocessor 13.
const LINES: [u32; 16] = [5, 6, 7, 9, 10, 11, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23];

/// Interrupt line of the serial console.
pub const SERIAL_LINE: u32 = 4;

/// What makes the KVM back end's kernels reset the way that this process notices: through the keyboard controller.
const RESET_METHOD: &str = "reboot=k";

/// What makes the kernel use the serial line, of which it has none otherwise.
const CONSOLE: &str = "8250.nr_uarts=1 console=ttyS0";

/// Devices that every machine has beside its disks and shared files: vsock, the entropy source and the balloon.
const FIXED_DEVICES: usize = 3;

/// Most disks that a machine can have; one less with shared files.
pub const MAX_DISKS: usize = LINES.len() - FIXED_DEVICES;

/// A machine in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineLayout {
    /// Guest physical memory.
    pub memory: Layout,
    /// A place for each device: disks in slot order, vsock, shared files, entropy source, balloon.
    pub slots: Vec<Slot>,
    /// The whole kernel command line.
    pub command_line: CommandLine,
}

/// Where a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Guest physical address of its registers.
    pub address: u64,
    /// Its interrupt line.
    pub line: u32,
}

/// Lays out the machine of `spec`.
///
/// # Errors
///
/// [`PlanError`] if something does not fit.
pub fn plan<F>(spec: &MachineSpec<F>) -> Result<MachineLayout, PlanError> {
    let memory = memory(spec.memory_mib, spec.kernel_log)?;
    let slots = slots(spec.disks.len() + usize::from(spec.shared_files.is_some()))?;
    let mut command_line = CommandLine::default();
    command_line.push(&spec.cmdline)?;
    command_line.push(RESET_METHOD)?;
    if spec.console.is_some() {
        command_line.push(CONSOLE)?;
    }
    for slot in &slots {
        command_line.push(&format!("virtio_mmio.device=4K@{:#x}:{}", slot.address, slot.line))?;
    }
    Ok(MachineLayout { memory, slots, command_line })
}

fn memory(mib: u32, log: KernelLogRegion) -> Result<Layout, PlanError> {
    let end = log.address.saturating_add(log.length.into());
    Ok(Layout::new(u64::from(mib) << 20, log.address..end)?)
}

/// Places for `chosen` devices, disks and shared files, and those that every machine has.
fn slots(chosen: usize) -> Result<Vec<Slot>, PlanError> {
    if chosen > MAX_DISKS {
        return Err(PlanError::TooManyDisks(chosen));
    }
    let slots = (0u64..).zip(LINES).map(|(index, line)| Slot { address: DEVICES + index * REGION_SIZE, line });
    Ok(slots.take(chosen + FIXED_DEVICES).collect())
}

/// Why a machine cannot be laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PlanError {
    /// Memory or the kernel log's region.
    #[error(transparent)]
    Memory(#[from] LayoutError),
    /// The command line.
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    /// There are no more interrupt lines.
    #[error("{0} disks, shared files counted as one, are over the limit of {MAX_DISKS}")]
    TooManyDisks(usize),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec_check::tests::spec;

    #[test]
    fn devices_have_pages_and_lines_of_their_own() {
        let slots = slots(MAX_DISKS).unwrap();
        assert_eq!(slots.len(), 16);
        assert_eq!(slots[0], Slot { address: 0xd000_0000, line: 5 });
        assert_eq!(slots[15], Slot { address: 0xd000_f000, line: 23 });
        let mut lines: Vec<_> = slots.iter().map(|slot| slot.line).collect();
        lines.dedup();
        assert_eq!(lines.len(), 16);
        assert!(lines.iter().all(|line| *line < 24 && ![0, 1, 2, 3, 4, 8, 12, 13].contains(line)));
        assert_eq!(super::slots(MAX_DISKS + 1), Err(PlanError::TooManyDisks(14)));
    }

    #[test]
    fn the_command_line_names_every_device() {
        let mut spec = spec();
        spec.cmdline = "quiet ".into();
        spec.disks.truncate(1);
        assert_eq!(
            plan(&spec).unwrap().command_line.as_str(),
            "quiet reboot=k virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6 \
             virtio_mmio.device=4K@0xd0002000:7 virtio_mmio.device=4K@0xd0003000:9"
        );
        spec.console = Some(0);
        assert!(
            plan(&spec).unwrap().command_line.as_str().starts_with("quiet reboot=k 8250.nr_uarts=1 console=ttyS0 v")
        );
        spec.cmdline = "x".repeat(2000);
        assert!(matches!(plan(&spec), Err(PlanError::CommandLine(CommandLineError::TooLong { .. }))));
    }

    #[test]
    fn memory_has_to_hold_the_log() {
        let mut spec = spec();
        spec.memory_mib = 4;
        assert!(matches!(plan(&spec), Err(PlanError::Memory(LayoutError::Memory { bytes: 4_194_304 }))));
        spec.memory_mib = 128;
        spec.kernel_log.address = u64::MAX;
        assert!(matches!(plan(&spec), Err(PlanError::Memory(LayoutError::Reserved { .. }))));
    }
}
