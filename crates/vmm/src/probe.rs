//! Can this host's KVM run a guest? Found out by running one.
//!
//! `/dev/kvm` can exist, virtual machines can be made, even simple code can run, and yet a stock kernel cannot: some
//! hosts interpret guests and know only part of the instruction set. So the probe makes a machine as a real one is
//! made (memory slot, interrupt chips, CPUID, 64-bit mode with paging) and has it do what any kernel and its user
//! space do within their first milliseconds: SSE2 arithmetic, `popcnt`, a 16-byte compare-and-exchange, and AVX where
//! the processor has it. The guest then writes to a port; only the right results count.
//!
//! The guest is 30 instructions without a loop. A host that hangs on it is for the caller's deadline.

// UNSAFETY: the guest's code lies in this binary, between two symbols; its memory is handed to KVM.
#![allow(unsafe_code)]

use std::arch::global_asm;
use std::io;

use kvm_bindings::{CpuId, KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd};
use machine::{ProbeReason, ProbeReport};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{cpuid, memory, vcpu};

const SIZE: usize = 0x10000;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const CODE: u64 = 0x8000;
const DATA: u64 = 0x9000;
/// The port that ends the guest.
const PORT: u16 = 0xf4;

// rsi: the data page. edi: 1 if there is AVX. See `check` for the results.
global_asm!(
    ".pushsection .rodata.coracle_probe, \"a\"",
    ".global coracle_probe_start",
    ".global coracle_probe_end",
    "coracle_probe_start:",
    "movdqa xmm0, [rsi]",
    "paddq xmm0, [rsi + 16]",
    "movdqa [rsi + 32], xmm0",
    "mov eax, 0x00ff0f01",
    "popcnt rax, rax",
    "mov [rsi + 48], rax",
    "mov rax, [rsi]",
    "mov rdx, [rsi + 8]",
    "mov ebx, 0x1111",
    "mov ecx, 0x2222",
    "lock cmpxchg16b [rsi]",
    "setz [rsi + 56]",
    "test edi, edi",
    "jz 2f",
    "xor ecx, ecx",
    "xor edx, edx",
    "mov eax, 7",
    "xsetbv",
    "vmovups ymm1, [rsi + 64]",
    "vaddps ymm1, ymm1, ymm1",
    "vmovups [rsi + 96], ymm1",
    "vzeroupper",
    "2:",
    "mov al, 0x5a",
    "out 0xf4, al",
    "hlt",
    "coracle_probe_end:",
    ".popsection",
);

unsafe extern "C" {
    static coracle_probe_start: u8;
    static coracle_probe_end: u8;
}

fn code() -> &'static [u8] {
    let start = &raw const coracle_probe_start;
    let length = (&raw const coracle_probe_end).addr() - start.addr();
    // SAFETY: both symbols are in one section of this binary, the bytes between them are initialized and constant.
    unsafe { std::slice::from_raw_parts(start, length) }
}

/// Finds out.
#[must_use]
pub fn run() -> ProbeReport {
    match try_run() {
        Ok(avx) => {
            let avx = if avx { " and AVX" } else { ", no AVX on this processor" };
            ProbeReport::new(ProbeReason::Usable, format!("64-bit code with SSE2, popcnt, cmpxchg16b{avx} ran right"))
        }
        Err((reason, detail)) => ProbeReport::new(reason, detail),
    }
}

type Failure = (ProbeReason, String);

fn try_run() -> Result<bool, Failure> {
    let kvm = Kvm::new().map_err(|error| failure("cannot open /dev/kvm", error))?;
    let version = kvm.get_api_version();
    if u32::try_from(version) != Ok(KVM_API_VERSION) {
        return Err((ProbeReason::Failed, format!("KVM API version {version}, {KVM_API_VERSION} is needed")));
    }
    for (capability, name) in
        [(Cap::ImmediateExit, "IMMEDIATE_EXIT"), (Cap::Irqfd, "IRQFD"), (Cap::Ioeventfd, "IOEVENTFD")]
    {
        if !kvm.check_extension(capability) {
            return Err((ProbeReason::Failed, format!("KVM lacks the capability {name}")));
        }
    }
    let vm = kvm.create_vm().map_err(|error| failure("KVM cannot create a virtual machine", error))?;
    let guest = guest_memory().map_err(|error| (ProbeReason::Failed, format!("no memory for a guest: {error}")))?;
    let machine = memory::register(vm, guest).map_err(|error| (ProbeReason::Failed, crate::chain(&error)))?;
    machine.vm.create_irq_chip().map_err(|error| failure("KVM cannot create interrupt chips", error))?;
    let mut vcpu = machine.vm.create_vcpu(0).map_err(|error| failure("KVM cannot create a vCPU", error))?;
    let avx = set_up(&kvm, &vcpu).map_err(|error| failure("KVM does not take the state of a 64-bit guest", error))?;
    run_guest(&mut vcpu)?;
    check(&machine.memory, avx)?;
    Ok(avx)
}

/// Page tables that map the first 2 MiB to themselves, the code and its operands.
fn guest_memory() -> Result<GuestMemoryMmap, Box<dyn std::error::Error>> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), SIZE)])?;
    memory.write_obj(PDPT | PRESENT_WRITABLE, GuestAddress(PML4))?;
    memory.write_obj(DIRECTORY | PRESENT_WRITABLE, GuestAddress(PDPT))?;
    memory.write_obj(PRESENT_WRITABLE | LARGE, GuestAddress(DIRECTORY))?;
    memory.write_slice(code(), GuestAddress(CODE))?;
    for (index, operand) in [1u64, 2, u64::MAX, 40].into_iter().enumerate() {
        memory.write_obj(operand, GuestAddress(DATA + 8 * index as u64))?;
    }
    for index in 0..8u8 {
        memory.write_obj(f32::from(index).to_bits(), GuestAddress(DATA + 64 + 4 * u64::from(index)))?;
    }
    Ok(memory)
}

/// CPUID, control registers and entry; says whether the guest is to use AVX.
fn set_up(kvm: &Kvm, vcpu: &VcpuFd) -> Result<bool, kvm_ioctls::Error> {
    const LEAF1_ECX_XSAVE_AVX: u32 = 1 << 26 | 1 << 28;
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    let entries = cpuid::for_vcpu(supported.as_slice(), 0, 1, kvm.check_extension(Cap::TscDeadlineTimer));
    let leaf1 = entries.iter().find(|entry| entry.function == 1).map_or(0, |entry| entry.ecx);
    let avx = leaf1 & LEAF1_ECX_XSAVE_AVX == LEAF1_ECX_XSAVE_AVX;
    let entries = CpuId::from_entries(&entries).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
    vcpu.set_cpuid2(&entries)?;
    let mut special = vcpu.get_sregs()?;
    long_mode(&mut special, avx);
    vcpu.set_sregs(&special)?;
    let general = kvm_regs { rip: CODE, rsi: DATA, rdi: avx.into(), rflags: 2, ..Default::default() };
    vcpu.set_regs(&general)?;
    Ok(avx)
}

fn long_mode(special: &mut kvm_sregs, avx: bool) {
    const CR0: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 31; // PE, MP, ET, NE, PG
    const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10; // PAE, OSFXSR, OSXMMEXCPT
    const CR4_OSXSAVE: u64 = 1 << 18;
    const EFER: u64 = 1 << 8 | 1 << 10; // LME, LMA
    let segment = kvm_segment { limit: 0xffff_ffff, present: 1, s: 1, g: 1, ..Default::default() };
    let data = kvm_segment { selector: 0x10, type_: 0x3, db: 1, ..segment };
    special.cs = kvm_segment { selector: 0x8, type_: 0xb, l: 1, ..segment };
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    special.tr = kvm_segment { limit: 0x67, selector: 0x18, type_: 0xb, present: 1, ..Default::default() };
    (special.cr0, special.cr3, special.efer) = (CR0, PML4, EFER);
    special.cr4 = if avx { CR4 | CR4_OSXSAVE } else { CR4 };
}

fn run_guest(vcpu: &mut VcpuFd) -> Result<(), Failure> {
    let cannot = |what: String| (ProbeReason::CannotRunGuest, what);
    loop {
        let exit = match vcpu.run() {
            Ok(exit) => exit,
            Err(error) if error.errno() == libc::EINTR => continue,
            Err(error) => return Err(cannot(format!("KVM cannot run a guest: {}", io::Error::from(error)))),
        };
        return match exit {
            VcpuExit::IoOut(PORT, [0x5a]) => Ok(()),
            VcpuExit::InternalError => Err(cannot(vcpu::internal_error(vcpu))),
            VcpuExit::FailEntry(reason, _) => {
                Err(cannot(format!("the processor refused the guest: reason {reason:#x}")))
            }
            VcpuExit::Shutdown => Err(cannot("plain 64-bit code ended in a triple fault".into())),
            other => Err(cannot(format!("plain 64-bit code ended in the exit {other:?}"))),
        };
    }
}

fn check(memory: &GuestMemoryMmap, avx: bool) -> Result<(), Failure> {
    let word = |offset| memory.read_obj::<u64>(GuestAddress(DATA + offset)).unwrap_or(u64::MAX);
    let float = |offset| f32::from_bits(memory.read_obj::<u32>(GuestAddress(DATA + offset)).unwrap_or(u32::MAX));
    let sums = [
        ("paddq", (word(32), word(40)) == (0, 42)),
        ("popcnt", word(48) == 13),
        ("cmpxchg16b", (word(0), word(8), word(56) & 0xff) == (0x1111, 0x2222, 1)),
        ("vaddps", !avx || (0..8u8).all(|i| float(96 + 4 * u64::from(i)).to_bits() == (2.0 * f32::from(i)).to_bits())),
    ];
    match sums.iter().find(|(_, right)| !right) {
        None => Ok(()),
        Some((name, _)) => Err((ProbeReason::CannotRunGuest, format!("the guest computed a wrong result ({name})"))),
    }
}

/// Sorts what the host answers into what a user can do about it.
fn failure(what: &str, error: kvm_ioctls::Error) -> Failure {
    let reason = match error.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => ProbeReason::NoDevice,
        libc::EACCES | libc::EPERM => ProbeReason::NoPermission,
        libc::EBUSY => ProbeReason::Busy,
        _ => ProbeReason::Failed,
    };
    (reason, format!("{what}: {}", io::Error::from(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_sorted_by_what_helps() {
        let reason = |errno| failure("x", kvm_ioctls::Error::new(errno)).0;
        assert_eq!(reason(libc::ENOENT), ProbeReason::NoDevice);
        assert_eq!(reason(libc::EACCES), ProbeReason::NoPermission);
        assert_eq!(reason(libc::EBUSY), ProbeReason::Busy);
        assert_eq!(reason(libc::ENOMEM), ProbeReason::Failed);
    }

    #[test]
    fn the_guest_fits_its_page_and_wrong_results_are_seen() {
        assert!(code().len() > 60 && code().len() < 0x1000);
        let memory = guest_memory().unwrap();
        let right = [(32, 0), (40, 42), (48, 13), (0, 0x1111), (8, 0x2222), (56, 1)];
        for (offset, value) in right {
            memory.write_obj::<u64>(value, GuestAddress(DATA + offset)).unwrap();
        }
        check(&memory, false).unwrap();
        assert!(check(&memory, true).is_err(), "no AVX result was written");
        for (offset, value) in right {
            memory.write_obj::<u64>(value ^ 1 << 5, GuestAddress(DATA + offset)).unwrap();
            assert_eq!(check(&memory, false).unwrap_err().0, ProbeReason::CannotRunGuest, "{offset}");
            memory.write_obj::<u64>(value, GuestAddress(DATA + offset)).unwrap();
        }
    }
}
