//! The table that tells a kernel without ACPI its processors and interrupt lines: Intel MultiProcessor
//! Specification 1.4, chapter 4.
//!
//! ```text
//!  MP_TABLE  floating pointer "_MP_" (16 bytes)
//!    + 16    header "PCMP" (44)
//!            processor (20) for each vCPU, local APIC id = index
//!            bus "ISA" (8)
//!            I/O APIC (8)
//!            interrupt (8) for each of its 24 pins: edge triggered, line n on pin n
//!            local interrupt (8): ExtINT on LINT0 of the first processor, NMI on LINT1 of all
//! ```

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

/// Where the table lies: kernels search the BIOS area, 64 KiB from here, in steps of 16 bytes.
pub const MP_TABLE: u32 = 0xf_0000;
/// Interrupt lines of the I/O APIC.
pub const INTERRUPT_LINES: u8 = 24;
/// Most vCPUs that the table can name: APIC ids are 8 bits, 255 is broadcast, one is the I/O APIC's.
pub const MAX_VCPUS: u8 = 254;

const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
const SPECIFICATION_1_4: u8 = 4;
const LOCAL_APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;
const ALL_LOCAL_APICS: u8 = 0xff;
const POINTER_LENGTH: u32 = 16;
const HEADER_LENGTH: usize = 44;

/// `INT`, `NMI`, `ExtINT`: interrupt types of table 4-10.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

/// Writes the table for `vcpus` processors.
///
/// # Errors
///
/// [`MpTableError`] if the number is 0 or over [`MAX_VCPUS`], or there is no memory there.
pub fn write(memory: &impl GuestMemoryBackend, vcpus: u8) -> Result<(), MpTableError> {
    if !(1..=MAX_VCPUS).contains(&vcpus) {
        return Err(MpTableError::Vcpus(vcpus));
    }
    Ok(memory.write_slice(&encode(vcpus), GuestAddress(MP_TABLE.into()))?)
}

fn encode(vcpus: u8) -> Vec<u8> {
    let entries = entries(vcpus);
    let mut table = floating_pointer().to_vec();
    table.extend(header(vcpus, &entries));
    table.extend(entries);
    table
}

fn floating_pointer() -> [u8; POINTER_LENGTH as usize] {
    let mut pointer = [0; POINTER_LENGTH as usize];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&(MP_TABLE + POINTER_LENGTH).to_le_bytes());
    pointer[8] = 1; // its length in units of 16 bytes
    pointer[9] = SPECIFICATION_1_4;
    pointer[10] = checksum(&pointer);
    pointer
}

fn header(vcpus: u8, entries: &[u8]) -> [u8; HEADER_LENGTH] {
    // At most 254 * 20 + 28 * 8 bytes and 282 entries: both fit 16 bits.
    let length = u16::try_from(HEADER_LENGTH + entries.len()).unwrap_or(u16::MAX);
    let count = u16::from(vcpus) + 2 + u16::from(INTERRUPT_LINES) + 2;
    let mut header = [0; HEADER_LENGTH];
    header[..4].copy_from_slice(b"PCMP");
    header[4..6].copy_from_slice(&length.to_le_bytes());
    header[6] = SPECIFICATION_1_4;
    header[8..16].copy_from_slice(b"CORACLE ");
    header[16..28].copy_from_slice(b"MICROVM     ");
    header[34..36].copy_from_slice(&count.to_le_bytes());
    header[36..40].copy_from_slice(&LOCAL_APIC.to_le_bytes());
    header[7] = checksum(&header).wrapping_add(checksum(entries));
    header
}

fn entries(vcpus: u8) -> Vec<u8> {
    let io_apic_id = vcpus;
    let mut entries = Vec::new();
    for id in 0..vcpus {
        entries.extend(processor(id));
    }
    entries.extend(*b"\x01\x00ISA   ");
    entries.extend([2, io_apic_id, IO_APIC_VERSION, 1]);
    entries.extend(IO_APIC.to_le_bytes());
    for line in 0..INTERRUPT_LINES {
        entries.extend([3, INT, 0, 0, 0, line, io_apic_id, line]);
    }
    entries.extend([4, EXT_INT, 0, 0, 0, 0, 0, 0]);
    entries.extend([4, NMI, 0, 0, 0, 0, ALL_LOCAL_APICS, 1]);
    entries
}

fn processor(id: u8) -> [u8; 20] {
    const ENABLED: u8 = 1;
    const BOOT: u8 = 2;
    let mut processor = [0; 20];
    processor[1] = id;
    processor[2] = LOCAL_APIC_VERSION;
    processor[3] = if id == 0 { ENABLED | BOOT } else { ENABLED };
    processor
}

/// What makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// Why the table was not written.
#[derive(Debug, Error)]
pub enum MpTableError {
    /// Number of vCPUs out of range.
    #[error("{0} vCPUs are not between 1 and {MAX_VCPUS}")]
    Vcpus(u8),
    /// There is no memory for it.
    #[error("no memory at {MP_TABLE:#x}")]
    Memory(#[from] GuestMemoryError),
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestMemoryMmap;

    use super::*;

    /// Reads a table as the specification says, independently of the writer's constants.
    fn parse(table: &[u8]) -> Vec<&[u8]> {
        assert_eq!(&table[..4], b"_MP_");
        assert_eq!(table[..16].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        let config = &table[16..];
        assert_eq!(&config[..4], b"PCMP");
        let length = usize::from(u16::from_le_bytes([config[4], config[5]]));
        assert_eq!(config[..length].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        let mut rest = &config[44..length];
        let mut entries = Vec::new();
        while let Some(kind) = rest.first() {
            let (entry, tail) = rest.split_at(if *kind == 0 { 20 } else { 8 });
            entries.push(entry);
            rest = tail;
        }
        assert_eq!(entries.len(), usize::from(u16::from_le_bytes([config[34], config[35]])));
        entries
    }

    #[test]
    fn every_vcpu_and_line_is_named_once() {
        for vcpus in [1, 2, 32, MAX_VCPUS] {
            let table = encode(vcpus);
            assert!(table.len() <= 64 << 10);
            let entries = parse(&table);
            let processors: Vec<_> = entries.iter().filter(|entry| entry[0] == 0).map(|e| (e[1], e[3])).collect();
            let expected: Vec<_> = (0..vcpus).map(|id| (id, if id == 0 { 3 } else { 1 })).collect();
            assert_eq!(processors, expected);
            let io_apic = entries.iter().find(|entry| entry[0] == 2).unwrap()[1];
            assert!(io_apic >= vcpus && io_apic < 255);
            let lines: Vec<_> = entries.iter().filter(|entry| entry[0] == 3).map(|e| (e[5], e[6], e[7])).collect();
            assert_eq!(lines, (0..24).map(|line| (line, io_apic, line)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        assert!(matches!(write(&memory, 0), Err(MpTableError::Vcpus(0))));
        assert!(matches!(write(&memory, 255), Err(MpTableError::Vcpus(255))));
        write(&memory, MAX_VCPUS).unwrap();
        let mut written = vec![0; encode(MAX_VCPUS).len()];
        memory.read_slice(&mut written, GuestAddress(0xf_0000)).unwrap();
        assert_eq!(written, encode(MAX_VCPUS));
    }
}
