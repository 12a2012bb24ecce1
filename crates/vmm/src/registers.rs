//! The registers that vCPUs start with.
//!
//! The first one starts as the PVH protocol says: 32-bit protected mode, flat segments, no paging, `ebx` at the
//! start info. The others wait for the kernel's start-up interrupt and get their registers by it. All have the
//! model-specific registers that firmware would have set.

use boot::Entry;
use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

const CR0_PROTECTED: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
/// Bit 1 of the flags is always set.
const RFLAGS: u64 = 1 << 1;

const IA32_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLE: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;

/// What firmware leaves: fast string instructions on, all memory cacheable.
pub const FIRMWARE_MSRS: [(u32, u64); 2] =
    [(IA32_MISC_ENABLE, FAST_STRINGS), (IA32_MTRR_DEF_TYPE, MTRR_ENABLE | MTRR_WRITE_BACK)];

/// Makes the vCPU start at `entry`.
///
/// # Errors
///
/// What KVM says.
pub fn set_entry(vcpu: &VcpuFd, entry: Entry) -> Result<(), kvm_ioctls::Error> {
    let mut special = vcpu.get_sregs()?;
    protected_mode(&mut special);
    vcpu.set_sregs(&special)?;
    let general =
        kvm_regs { rip: entry.instruction.into(), rbx: entry.start_info.into(), rflags: RFLAGS, ..Default::default() };
    vcpu.set_regs(&general)
}

/// Sets what firmware would have set.
///
/// # Errors
///
/// What KVM says, or the register that it does not take.
pub fn set_firmware_msrs(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let entries = FIRMWARE_MSRS.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    // Two entries are far below the limit of the list.
    let list = Msrs::from_entries(&entries).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
    if vcpu.set_msrs(&list)? < entries.len() {
        return Err(kvm_ioctls::Error::new(libc::EINVAL));
    }
    Ok(())
}

fn protected_mode(special: &mut kvm_sregs) {
    const CODE: u8 = 0xb; // executable, readable, accessed
    const DATA: u8 = 0x3; // writable, accessed
    let flat = |selector, type_| kvm_segment {
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..Default::default()
    };
    special.cs = flat(0x8, CODE);
    let data = flat(0x10, DATA);
    (special.ds, special.es, special.fs, special.gs, special.ss) = (data, data, data, data, data);
    const BUSY_TSS: u8 = 0xb;
    special.tr = kvm_segment { limit: 0x67, selector: 0x18, type_: BUSY_TSS, present: 1, ..Default::default() };
    special.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE;
    (special.cr4, special.efer) = (0, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_vcpu_starts_as_pvh_says() {
        let mut special =
            kvm_sregs { cr0: 0x6000_0010, cr4: 0x20, efer: 0x500, apic_base: 0xfee0_0900, ..Default::default() };
        protected_mode(&mut special);
        assert_eq!((special.cr0, special.cr4, special.efer), (0x11, 0, 0), "protected, no paging, not long");
        for segment in [special.cs, special.ds, special.es, special.ss] {
            assert_eq!((segment.base, segment.limit, segment.g, segment.db, segment.l), (0, 0xffff_ffff, 1, 1, 0));
        }
        assert_eq!((special.tr.base, special.tr.limit), (0, 0x67));
        assert_eq!(special.apic_base, 0xfee0_0900, "the rest is left alone");
    }
}
