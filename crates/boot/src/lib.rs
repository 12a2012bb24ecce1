//! A kernel, an initrd and a command line become guest memory that a vCPU can start on.
//!
//! ```text
//!  Layout::new(bytes, reserved)        where RAM is, and what of it the kernel may use
//!        │
//!  load(memory, layout, images, …)     kernel::load ─▶ initrd::load ─▶ pvh::write ─▶ mp_table::write
//!        │
//!      Entry                           the two register values that the first vCPU starts with
//! ```
//!
//! The crate knows guest physical memory and nothing else: no KVM, no descriptors beyond the readers that it
//! is handed, no processes. What to do with an [`Entry`] is the caller's business.
//!
//! # PVH, not the Linux 64-bit entry
//!
//! Guests are entered by the PVH boot protocol: 32-bit protected mode, no paging, `ebx` pointing at a
//! `hvm_start_info`. The 64-bit entry would save the kernel a few dozen instructions, and would cost us page
//! tables, a GDT and a 4 KiB `boot_params` of which most fields are dead. What decides is that QEMU enters
//! ELF kernels by PVH too: the machine that boots under emulation and the one that boots on KVM go through
//! the same door of the kernel, so one cannot rot while the other is tested.
//!
//! # Guest physical memory
//!
//! ```text
//!  0x0000_6000  start_info, module list        pvh
//!  0x0000_7000  memory map                     pvh
//!  0x0002_0000  command line                   pvh
//!  0x000a_0000  (hole of the PC: not usable)
//!  0x000f_0000  MP table                       mp_table; where kernels look for it
//!  0x0010_0000  usable memory …                … without the reserved range (the kernel's log)
//!  p_paddr      kernel, as its ELF says        kernel
//!  top of low   initrd                         initrd
//!  0xc000_0000  end of low memory, devices up to 4 GiB
//!  0x1_0000_0000 the rest of memory
//! ```
//!
//! # Invariants
//!
//! - Nothing is written outside the RAM of the [`Layout`], and no image is written over the reserved range
//!   or below 1 MiB.
//! - No image is copied through a buffer: bytes go from the file into guest memory.
//! - Work and memory are bounded by the size of guest memory, whatever the images claim.
//!
//! # Threats
//!
//! The kernel and the initrd come from the installation, so they are trusted to run; they are not trusted to
//! be whole. Guest memory is not read here, so a guest has no say.
//!
//! | input | danger | answer |
//! |---|---|---|
//! | ELF header | wrong file, other class or machine, thousands of segments | checked before loading: [`KernelError`] |
//! | segment | outside memory, over the reserved range, longer in the file than in memory, overflow | checked against the [`Layout`] before a byte is copied |
//! | notes | endless or huge | at most [`kernel::MAX_NOTES`] bytes are looked at |
//! | entry | outside what was loaded | refused |
//! | truncated file | half a kernel runs | the read fails, the machine is not made |
//! | initrd | larger than memory, over the kernel, not a file | placed by arithmetic on its length, refused by name |
//! | command line | control bytes, silent truncation by the kernel | refused |

pub mod command_line;
pub mod initrd;
pub mod kernel;
pub mod layout;
pub mod mp_table;
pub mod pvh;

use std::io::{Read, Seek};

use thiserror::Error;
use vm_memory::{GuestMemoryBackend, ReadVolatile};

pub use command_line::{CommandLine, CommandLineError};
pub use initrd::InitrdError;
pub use kernel::KernelError;
pub use layout::{Layout, LayoutError};
pub use mp_table::MpTableError;

/// What an image is read from: a file, or bytes in a cursor.
pub trait Image: Read + ReadVolatile + Seek {}

impl<T: Read + ReadVolatile + Seek> Image for T {}

/// Where the first vCPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// `eip`: guest physical address of the kernel's PVH entry.
    pub instruction: u32,
    /// `ebx`: guest physical address of the `hvm_start_info`.
    pub start_info: u32,
}

/// Loads everything that a kernel needs to start into `memory`, which is laid out by `layout` and zero.
///
/// # Errors
///
/// [`BootError`] naming the object that does not fit or is not what it should be.
pub fn load(
    memory: &impl GuestMemoryBackend,
    layout: &Layout,
    kernel: &mut impl Image,
    initrd: &mut impl Image,
    command_line: &CommandLine,
    vcpus: u8,
) -> Result<Entry, BootError> {
    let kernel = kernel::load(memory, layout, kernel)?;
    let initrd = initrd::load(memory, layout, &kernel, initrd)?;
    let start_info = pvh::write(memory, layout, &initrd, command_line)?;
    mp_table::write(memory, vcpus)?;
    Ok(Entry { instruction: kernel.entry, start_info })
}

/// Why a guest could not be loaded.
#[derive(Debug, Error)]
pub enum BootError {
    /// The kernel.
    #[error("cannot load the kernel")]
    Kernel(#[from] KernelError),
    /// The initrd.
    #[error("cannot load the initrd")]
    Initrd(#[from] InitrdError),
    /// The tables for the processors.
    #[error("cannot write the processor table")]
    MpTable(#[from] MpTableError),
    /// Boot parameters did not fit, although [`Layout`] promises low memory.
    #[error("cannot write the boot parameters")]
    Parameters(#[from] vm_memory::GuestMemoryError),
}
