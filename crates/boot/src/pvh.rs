//! Boot parameters of the PVH protocol (Xen `public/arch-x86/hvm/start_info.h`): the start info, its list of
//! modules with the initrd as the only one, the memory map and the command line.

use std::ops::Range;

use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::command_line::CommandLine;
use crate::layout::{Layout, Use};

/// Where the start info lies.
pub const START_INFO: u32 = 0x6000;
/// Where the list of modules lies.
pub const MODULES: u64 = 0x6800;
/// Where the memory map lies.
pub const MEMORY_MAP: u64 = 0x7000;
/// Where the command line lies.
pub const COMMAND_LINE: u64 = 0x2_0000;

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336e_c578;
/// The first version that has a memory map.
const VERSION: u32 = 1;
/// `XEN_HVM_MEMMAP_TYPE_RAM`, `XEN_HVM_MEMMAP_TYPE_RESERVED`; the numbers of E820.
const TYPE_RAM: u32 = 1;
const TYPE_RESERVED: u32 = 2;

/// Writes the boot parameters and returns the address of the start info.
///
/// # Errors
///
/// [`GuestMemoryError`] if there is no memory below 1 MiB.
pub fn write(
    memory: &impl GuestMemoryBackend,
    layout: &Layout,
    initrd: &Range<u64>,
    command_line: &CommandLine,
) -> Result<u32, GuestMemoryError> {
    memory.write_slice(command_line.as_str().as_bytes(), GuestAddress(COMMAND_LINE))?;
    memory.write_obj(0u8, GuestAddress(COMMAND_LINE + command_line.as_str().len() as u64))?;
    let module = hvm_modlist_entry { paddr: initrd.start, size: initrd.end - initrd.start, ..Default::default() };
    memory.write_obj(module, GuestAddress(MODULES))?;
    let mut entries = 0;
    for (range, kind) in layout.map() {
        let at = MEMORY_MAP + u64::from(entries) * size_of::<hvm_memmap_table_entry>() as u64;
        memory.write_obj(memory_map_entry(range, *kind), GuestAddress(at))?;
        entries += 1;
    }
    let start_info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        nr_modules: 1,
        modlist_paddr: MODULES,
        cmdline_paddr: COMMAND_LINE,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: entries,
        ..Default::default()
    };
    memory.write_obj(start_info, GuestAddress(START_INFO.into()))?;
    Ok(START_INFO)
}

fn memory_map_entry(range: &Range<u64>, kind: Use) -> hvm_memmap_table_entry {
    let type_ = match kind {
        Use::Usable => TYPE_RAM,
        Use::Reserved => TYPE_RESERVED,
    };
    hvm_memmap_table_entry { addr: range.start, size: range.end - range.start, type_, reserved: 0 }
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestMemoryMmap;

    use super::*;

    #[test]
    fn the_kernel_finds_map_initrd_and_command_line() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap();
        let layout = Layout::new(64 << 20, 8 << 20..9 << 20).unwrap();
        let mut line = CommandLine::default();
        line.push("quiet reboot=k").unwrap();
        let at = write(&memory, &layout, &(60 << 20..61 << 20), &line).unwrap();

        let info: hvm_start_info = memory.read_obj(GuestAddress(at.into())).unwrap();
        assert_eq!((info.magic, info.version, info.nr_modules, info.rsdp_paddr), (MAGIC, 1, 1, 0));
        let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
        assert_eq!((module.paddr, module.size), (60 << 20, 1 << 20));
        let mut text = [0xff; 15];
        memory.read_slice(&mut text, GuestAddress(info.cmdline_paddr)).unwrap();
        assert_eq!(&text, b"quiet reboot=k\0");
        let map: Vec<_> = (0..u64::from(info.memmap_entries))
            .map(|i| memory.read_obj::<hvm_memmap_table_entry>(GuestAddress(info.memmap_paddr + i * 24)).unwrap())
            .map(|entry| (entry.addr, entry.size, entry.type_))
            .collect();
        assert_eq!(
            map,
            [
                (0, 0xa_0000, 1),
                (0xa_0000, 0x6_0000, 2),
                (1 << 20, 7 << 20, 1),
                (8 << 20, 1 << 20, 2),
                (9 << 20, 55 << 20, 1)
            ]
        );
    }

    #[test]
    fn parameters_do_not_overlap() {
        let line_end = COMMAND_LINE + crate::command_line::MAX_LENGTH as u64 + 1;
        assert!(u64::from(START_INFO) + size_of::<hvm_start_info>() as u64 <= MODULES);
        assert!(MODULES + size_of::<hvm_modlist_entry>() as u64 <= MEMORY_MAP);
        assert!(MEMORY_MAP + 8 * size_of::<hvm_memmap_table_entry>() as u64 <= COMMAND_LINE);
        assert!(line_end <= crate::layout::ISA_HOLE_START);
    }
}
