//! The kernel: an uncompressed ELF file with a PVH note.
//!
//! `linux-loader` copies the segments and finds the note; it trusts the file more than we do, so `check`
//! looks at the headers first. What passes has few segments, each inside usable memory.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use linux_loader::elf::{Elf64_Ehdr, Elf64_Phdr, PT_LOAD, PT_NOTE};
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{Elf, KernelLoader};
use thiserror::Error;
use vm_memory::{ByteValued, GuestMemoryBackend};

use crate::Image;
use crate::layout::Layout;

/// Most program headers that a kernel has. Linux has 5.
pub const MAX_SEGMENTS: u16 = 64;
/// Most bytes of notes that are searched for the entry. Linux has less than 1 KiB.
pub const MAX_NOTES: u64 = 64 << 10;

/// Largest file offset of a segment; keeps sums of offsets from overflow.
const MAX_OFFSET: u64 = 1 << 40;
const ELF_MAGIC: &[u8] = b"\x7fELF";
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const MACHINE_X86_64: u16 = 62;

/// A kernel in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Guest physical address of its PVH entry.
    pub entry: u32,
    /// End of its memory, zero-initialized data included.
    pub end: u64,
}

/// Copies the kernel in `image` to where it says.
///
/// # Errors
///
/// [`KernelError`] if it is not a kernel for this machine, does not fit its memory, or is cut off.
pub fn load(memory: &impl GuestMemoryBackend, layout: &Layout, image: &mut impl Image) -> Result<Kernel, KernelError> {
    let segments = check(image, layout)?;
    // The headers are sound and the segments fit: what can still fail is reading them.
    let loaded = Elf::load(memory, None, image, None).map_err(|_| KernelError::CutOff)?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else { return Err(KernelError::NoPvhEntry) };
    if !segments.iter().any(|segment| segment.contains(&entry.0)) {
        return Err(KernelError::EntryOutside { entry: entry.0 });
    }
    let end = segments.iter().map(|segment| segment.end).max().unwrap_or(0);
    // Inside a segment, hence below 3 GiB.
    Ok(Kernel { entry: u32::try_from(entry.0).map_err(|_| KernelError::EntryOutside { entry: entry.0 })?, end })
}

/// Checks the headers and returns the memory of the segments.
fn check(image: &mut (impl Read + Seek), layout: &Layout) -> Result<Vec<Range<u64>>, KernelError> {
    let mut header = Elf64_Ehdr::default();
    read_at(image, 0, header.as_mut_slice())?;
    if &header.e_ident[..4] != ELF_MAGIC {
        return Err(KernelError::NotElf { starts_with: [header.e_ident[0], header.e_ident[1]] });
    }
    if header.e_ident[4] != CLASS_64 || header.e_ident[5] != LITTLE_ENDIAN || header.e_machine != MACHINE_X86_64 {
        return Err(KernelError::OtherMachine { machine: header.e_machine });
    }
    if !(1..=MAX_SEGMENTS).contains(&header.e_phnum) || usize::from(header.e_phentsize) != size_of::<Elf64_Phdr>() {
        return Err(KernelError::Headers { count: header.e_phnum, size: header.e_phentsize });
    }
    let mut segments = Vec::new();
    for index in 0..header.e_phnum {
        let mut segment = Elf64_Phdr::default();
        let at = header.e_phoff.saturating_add(u64::from(index) * size_of::<Elf64_Phdr>() as u64);
        read_at(image, at, segment.as_mut_slice())?;
        if segment.p_offset > MAX_OFFSET {
            return Err(KernelError::Offset { index, offset: segment.p_offset });
        }
        match segment.p_type {
            PT_LOAD => segments.extend(check_segment(index, &segment, layout)?),
            PT_NOTE if segment.p_filesz > MAX_NOTES => return Err(KernelError::Notes { length: segment.p_filesz }),
            _ => {}
        }
    }
    if segments.is_empty() {
        return Err(KernelError::Headers { count: 0, size: header.e_phentsize });
    }
    Ok(segments)
}

fn check_segment(index: u16, segment: &Elf64_Phdr, layout: &Layout) -> Result<Option<Range<u64>>, KernelError> {
    if segment.p_memsz == 0 && segment.p_filesz == 0 {
        return Ok(None);
    }
    let start = segment.p_paddr;
    let end = start.checked_add(segment.p_memsz);
    match end {
        Some(end) if segment.p_filesz <= segment.p_memsz && layout.allows_image(&(start..end)) => Ok(Some(start..end)),
        _ => Err(KernelError::Segment {
            index,
            start,
            file: segment.p_filesz,
            memory: segment.p_memsz,
            low_end: layout.low_end(),
        }),
    }
}

fn read_at(image: &mut (impl Read + Seek), offset: u64, bytes: &mut [u8]) -> Result<(), KernelError> {
    image.seek(SeekFrom::Start(offset)).and_then(|_| image.read_exact(bytes)).map_err(KernelError::Read)
}

/// Why a kernel was not loaded.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The headers cannot be read.
    #[error("cannot read its headers")]
    Read(#[source] io::Error),
    /// Not an ELF file.
    #[error("not an uncompressed ELF file{}", if .starts_with == b"MZ" { " but a compressed bzImage" } else { "" })]
    NotElf {
        /// Its first bytes.
        starts_with: [u8; 2],
    },
    /// Another processor's.
    #[error("an ELF file, but not for 64-bit x86 (machine {machine})")]
    OtherMachine {
        /// `e_machine`.
        machine: u16,
    },
    /// Program headers that no kernel has.
    #[error("{count} program headers of {size} bytes with something to load are not a kernel's")]
    Headers {
        /// How many.
        count: u16,
        /// `e_phentsize`.
        size: u16,
    },
    /// A segment that cannot lie where it says.
    #[error(
        "segment {index} of {file} bytes in the file and {memory} at {start:#x} does not fit guest memory \
         (low memory ends at {} MiB)", .low_end >> 20
    )]
    Segment {
        /// Its position among the program headers.
        index: u16,
        /// Its guest physical address.
        start: u64,
        /// `p_filesz`.
        file: u64,
        /// `p_memsz`.
        memory: u64,
        /// End of low memory.
        low_end: u64,
    },
    /// A segment far beyond any file.
    #[error("segment {index} at byte {offset:#x} of the file is not a kernel's")]
    Offset {
        /// Its position among the program headers.
        index: u16,
        /// `p_offset`.
        offset: u64,
    },
    /// Notes that no kernel has.
    #[error("{length} bytes of notes are not a kernel's")]
    Notes {
        /// Their length.
        length: u64,
    },
    /// Built without `CONFIG_PVH`.
    #[error("no PVH entry (built without CONFIG_PVH)")]
    NoPvhEntry,
    /// The entry is in no segment.
    #[error("its entry {entry:#x} lies outside its segments")]
    EntryOutside {
        /// The entry.
        entry: u64,
    },
    /// Its segments or notes end before they should.
    #[error("it is cut off")]
    CutOff,
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    use super::*;

    const MEMORY: u64 = 32 << 20;
    const BASE: u64 = 16 << 20;

    /// A kernel of two segments, one PVH note and 8 bytes of code at its entry.
    fn sample() -> Vec<u8> {
        sample_with(u32::try_from(BASE).unwrap() + 8, |_, _| {})
    }

    fn sample_with(entry: u32, change: impl Fn(&mut Elf64_Ehdr, &mut [Elf64_Phdr; 3])) -> Vec<u8> {
        let mut header = Elf64_Ehdr { e_machine: 62, e_phoff: 64, e_phentsize: 56, e_phnum: 3, ..Default::default() };
        header.e_ident[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let load = |p_offset, p_paddr, p_filesz, p_memsz| Elf64_Phdr {
            p_type: PT_LOAD,
            p_offset,
            p_paddr,
            p_filesz,
            p_memsz,
            ..Default::default()
        };
        let note = Elf64_Phdr { p_type: PT_NOTE, p_offset: 0x800, p_filesz: 20, ..Default::default() };
        let mut segments = [load(0x1000, BASE, 16, 0x1000), load(0x2000, BASE + 0x1000, 4, 1 << 20), note];
        change(&mut header, &mut segments);
        let mut file = vec![0; 0x2004];
        file[..64].copy_from_slice(header.as_slice());
        for (index, segment) in segments.iter().enumerate() {
            file[64 + index * 56..120 + index * 56].copy_from_slice(segment.as_slice());
        }
        let mut note = [4u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), entry].map(u32::to_le_bytes).concat();
        note.truncate(20);
        file[0x800..0x814].copy_from_slice(&note);
        file[0x1000..0x1010].copy_from_slice(b"KERNEL--\xf4\xf4\xf4\xf4\xf4\xf4\xf4\xf4");
        file[0x2000..].copy_from_slice(b"data");
        file
    }

    fn load_bytes(bytes: &[u8]) -> (GuestMemoryMmap<()>, Result<Kernel, KernelError>) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), usize::try_from(MEMORY).unwrap())]).unwrap();
        let layout = Layout::new(MEMORY, 8 << 20..9 << 20).unwrap();
        let result = load(&memory, &layout, &mut Cursor::new(bytes));
        (memory, result)
    }

    #[test]
    fn segments_go_where_they_say() {
        let (memory, kernel) = load_bytes(&sample());
        assert_eq!(kernel.unwrap(), Kernel { entry: 0x100_0008, end: BASE + 0x1000 + (1 << 20) });
        let mut bytes = [0; 8];
        memory.read_slice(&mut bytes, GuestAddress(BASE)).unwrap();
        assert_eq!(&bytes, b"KERNEL--");
        memory.read_slice(&mut bytes, GuestAddress(BASE + 0x1000)).unwrap();
        assert_eq!(&bytes, b"data\0\0\0\0");
    }

    #[test]
    fn a_file_cut_off_anywhere_is_refused() {
        let whole = sample();
        for length in (0..whole.len()).step_by(13).chain([63, 64, 119, 0x1000, 0x100f, whole.len() - 1]) {
            assert!(load_bytes(&whole[..length]).1.is_err(), "{length} bytes");
        }
    }

    #[test]
    fn other_files_are_named() {
        assert!(matches!(load_bytes(&[b'#'; 200]).1, Err(KernelError::NotElf { .. })));
        let mut image = [0; 200];
        image[..2].copy_from_slice(b"MZ");
        let error = load_bytes(&image).1.unwrap_err();
        assert_eq!(error.to_string(), "not an uncompressed ELF file but a compressed bzImage");
        let entry = 0x100_0008;
        let other = sample_with(entry, |header, _| header.e_machine = 183);
        assert!(matches!(load_bytes(&other).1, Err(KernelError::OtherMachine { machine: 183 })));
        let class = sample_with(entry, |header, _| header.e_ident[4] = 1);
        assert!(matches!(load_bytes(&class).1, Err(KernelError::OtherMachine { .. })));
        let many = sample_with(entry, |header, _| header.e_phnum = 65535);
        assert!(matches!(load_bytes(&many).1, Err(KernelError::Headers { count: 65535, .. })));
    }

    #[test]
    fn segments_out_of_place_are_refused() {
        type Change = fn(&mut Elf64_Phdr);
        let changes: [Change; 7] = [
            |segment| segment.p_paddr = 0x1000,
            |segment| segment.p_paddr = 8 << 20,
            |segment| segment.p_paddr = MEMORY - 0xfff,
            |segment| segment.p_paddr = u64::MAX - 10,
            |segment| segment.p_memsz = u64::MAX,
            |segment| segment.p_filesz = 0x1001,
            |segment| segment.p_paddr = 3 << 30,
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let bytes = sample_with(0x100_0008, |_, segments| change(&mut segments[0]));
            let (memory, result) = load_bytes(&bytes);
            assert!(matches!(result, Err(KernelError::Segment { index: 0, .. })), "change {index}");
            let mut first = [0; 1];
            memory.read_slice(&mut first, GuestAddress(0x1000)).unwrap();
            assert_eq!(first, [0], "nothing is written before all is checked");
        }
    }

    #[test]
    fn entries_outside_the_image_are_refused() {
        for entry in [0, 0x0fff_ffff, u32::MAX] {
            let result = load_bytes(&sample_with(entry, |_, _| {})).1;
            assert!(matches!(result, Err(KernelError::EntryOutside { .. })), "{entry:#x}");
        }
        let without = sample_with(0x100_0008, |_, segments| segments[2].p_type = 0);
        assert!(matches!(load_bytes(&without).1, Err(KernelError::NoPvhEntry)));
        let far = sample_with(0x100_0008, |_, segments| segments[2].p_offset = u64::MAX);
        assert!(matches!(load_bytes(&far).1, Err(KernelError::Offset { index: 2, .. })));
        let huge = sample_with(0x100_0008, |_, segments| segments[2].p_filesz = MAX_NOTES + 1);
        assert!(matches!(load_bytes(&huge).1, Err(KernelError::Notes { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damaged_headers_never_panic(damage in prop::collection::vec((0usize..0x820, any::<u8>()), 1..24)) {
            let mut bytes = sample();
            for (at, value) in damage {
                bytes[at] = value;
            }
            let _ = load_bytes(&bytes).1;
        }
    }
}
