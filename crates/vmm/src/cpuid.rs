//! The processor that a vCPU says it is: the host's, as far as KVM supports it, with a topology of its own.
//!
//! Leaves are those of the Intel SDM (volume 2A, CPUID) and the AMD APM (volume 3, appendix E). The topology
//! is flat: one package of `vcpus` cores of one thread; the last-level cache is shared by all.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const LEAF1_ECX_VMX: u32 = 1 << 5;
const LEAF1_ECX_PDCM: u32 = 1 << 15;
const LEAF1_ECX_X2APIC: u32 = 1 << 21;
const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
const LEAF1_EDX_HTT: u32 = 1 << 28;
const AMD_ECX_SVM: u32 = 1 << 2;
const AMD_ECX_PERFCTR: u32 = 1 << 23;
const AMD_CMP_LEGACY: u32 = 1 << 1;

const TOPOLOGY: u32 = 0xb;
/// Variants of [`TOPOLOGY`] that a kernel would prefer; without them it falls back.
const TOPOLOGY_VARIANTS: [u32; 2] = [0x1f, 0x8000_0026];

/// The entries for vCPU `id` of `vcpus`, from what KVM supports on this host.
#[must_use]
pub fn for_vcpu(supported: &[kvm_cpuid_entry2], id: u8, vcpus: u8, tsc_deadline: bool) -> Vec<kvm_cpuid_entry2> {
    let topology = Topology { id: id.into(), vcpus: vcpus.into(), shift: shift(vcpus) };
    let dropped = |function| function == TOPOLOGY || TOPOLOGY_VARIANTS.contains(&function);
    let mut entries: Vec<_> = supported.iter().copied().filter(|entry| !dropped(entry.function)).collect();
    for entry in &mut entries {
        adjust(entry, &topology, tsc_deadline);
    }
    if entries.iter().any(|entry| entry.function == 0 && entry.eax >= TOPOLOGY) {
        entries.extend(topology.leaf());
    }
    entries
}

/// Bits that number `vcpus` cores.
fn shift(vcpus: u8) -> u32 {
    u32::from(vcpus).next_power_of_two().trailing_zeros()
}

struct Topology {
    id: u32,
    vcpus: u32,
    shift: u32,
}

impl Topology {
    /// Leaf 0xb: a level of threads (one per core), a level of cores, and the end.
    fn leaf(&self) -> [kvm_cpuid_entry2; 3] {
        const THREADS: u32 = 1 << 8;
        const CORES: u32 = 2 << 8;
        let level = |index, eax, ebx, kind: u32| kvm_cpuid_entry2 {
            function: TOPOLOGY,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax,
            ebx,
            ecx: kind | index,
            edx: self.id,
            ..Default::default()
        };
        [level(0, 0, 1, THREADS), level(1, self.shift, self.vcpus, CORES), level(2, 0, 0, 0)]
    }

    /// Cores that a cache of this level is shared by, less one, as the cache leaves have it.
    fn sharers(&self, level: u32) -> u32 {
        if level >= 3 { (1 << self.shift) - 1 } else { 0 }
    }
}

fn adjust(entry: &mut kvm_cpuid_entry2, topology: &Topology, tsc_deadline: bool) {
    match entry.function {
        1 => {
            let logical = 1 << topology.shift;
            entry.ebx = (entry.ebx & 0xffff) | (logical & 0xff) << 16 | topology.id << 24;
            entry.ecx &= !(LEAF1_ECX_VMX | LEAF1_ECX_PDCM | LEAF1_ECX_TSC_DEADLINE);
            entry.ecx |= LEAF1_ECX_HYPERVISOR | LEAF1_ECX_X2APIC;
            set(&mut entry.ecx, LEAF1_ECX_TSC_DEADLINE, tsc_deadline);
            set(&mut entry.edx, LEAF1_EDX_HTT, topology.vcpus > 1);
        }
        // Deterministic caches: cores per package in 31:26, sharers in 25:14.
        4 if entry.eax & 0x1f != 0 => {
            let sharers = topology.sharers(entry.eax >> 5 & 7);
            entry.eax = (entry.eax & 0x3fff) | sharers.min(0xfff) << 14 | (topology.vcpus - 1).min(0x3f) << 26;
        }
        // Performance counters, architectural and AMD's second version.
        0xa | 0x8000_0022 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        0x8000_0001 => {
            entry.ecx &= !(AMD_ECX_SVM | AMD_ECX_PERFCTR);
            set(&mut entry.ecx, AMD_CMP_LEGACY, false);
        }
        0x8000_0008 => entry.ecx = (topology.vcpus - 1) | topology.shift << 12,
        0x8000_000a => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let sharers = topology.sharers(entry.eax >> 5 & 7);
            entry.eax = (entry.eax & 0x3fff) | sharers.min(0xfff) << 14;
        }
        // Core id in EBX with one thread per core, one node in ECX.
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (topology.id, topology.id, 0, 0),
        _ => {}
    }
}

fn set(register: &mut u32, bit: u32, value: bool) {
    if value {
        *register |= bit;
    } else {
        *register &= !bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn host() -> Vec<kvm_cpuid_entry2> {
        vec![
            entry(0, 0, [0x1f, 0, 0, 0]),
            entry(1, 0, [0xa20f10, 0x0704_0800, LEAF1_ECX_VMX | 1, 0x1f8b_fbff]),
            entry(4, 0, [0x1c00_4121, 0x01c0_003f, 63, 0]),
            entry(4, 3, [0x1c03_c163, 0x03c0_003f, 0x2fff, 6]),
            entry(4, 4, [0, 0, 0, 0]),
            entry(7, 0, [0, 0x1234, 0, 0]),
            entry(0xa, 0, [0x0730_0404, 0, 0, 0x603]),
            entry(0xb, 0, [1, 2, 0x100, 17]),
            entry(0x1f, 0, [1, 2, 0x100, 17]),
            entry(0x4000_0000, 0, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
            entry(0x8000_0001, 0, [0, 0, AMD_ECX_SVM | 1, 0]),
            entry(0x8000_0008, 0, [0x3030, 0, 0x700f, 0]),
            entry(0x8000_000a, 0, [1, 8, 0, 0xffff]),
            entry(0x8000_001e, 0, [17, 0x108, 0x300, 0]),
            entry(0x8000_0026, 0, [1, 2, 0x100, 17]),
        ]
    }

    fn find(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        let mut found = entries.iter().filter(|entry| (entry.function, entry.index) == (function, index));
        let entry = *found.next().unwrap();
        assert!(found.next().is_none(), "leaf {function:#x} {index} twice");
        entry
    }

    #[test]
    fn each_vcpu_knows_itself_and_its_package() {
        for (vcpus, shift) in [(1u8, 0), (2, 1), (3, 2), (4, 2), (254, 8)] {
            for id in [0, vcpus - 1] {
                let entries = for_vcpu(&host(), id, vcpus, true);
                let leaf1 = find(&entries, 1, 0);
                assert_eq!(leaf1.ebx >> 24, u32::from(id));
                assert_eq!(leaf1.ebx & 0xffff, 0x0800, "cache line and brand are the host's");
                assert_eq!(leaf1.edx & LEAF1_EDX_HTT != 0, vcpus > 1);
                assert_eq!((find(&entries, 0xb, 0).ebx, find(&entries, 0xb, 0).edx), (1, id.into()));
                let cores = find(&entries, 0xb, 1);
                assert_eq!((cores.eax, cores.ebx, cores.ecx, cores.edx), (shift, vcpus.into(), 0x201, id.into()));
                assert_eq!(find(&entries, 0xb, 2).ecx, 2);
                assert_eq!(find(&entries, 0x8000_0008, 0).ecx, (u32::from(vcpus) - 1) | (shift << 12));
                assert_eq!(find(&entries, 0x8000_001e, 0).eax, u32::from(id));
                assert!(!entries.iter().any(|entry| TOPOLOGY_VARIANTS.contains(&entry.function)));
            }
        }
    }

    #[test]
    fn guests_see_no_virtualization_and_no_counters() {
        let entries = for_vcpu(&host(), 0, 1, true);
        let leaf1 = find(&entries, 1, 0);
        assert_eq!(leaf1.ecx, LEAF1_ECX_HYPERVISOR | LEAF1_ECX_X2APIC | LEAF1_ECX_TSC_DEADLINE | 1);
        assert_eq!(find(&entries, 0x8000_0001, 0).ecx, 1);
        assert_eq!(find(&entries, 0x8000_000a, 0).edx, 0);
        assert_eq!(find(&entries, 0xa, 0).eax, 0);
        assert_eq!(find(&entries, 7, 0).ebx, 0x1234, "the rest is the host's");
        assert_eq!(find(&entries, 0x4000_0000, 0).eax, 0x4000_0001);
    }

    #[test]
    fn the_deadline_timer_is_claimed_only_where_kvm_has_it() {
        assert_eq!(find(&for_vcpu(&host(), 0, 1, false), 1, 0).ecx & LEAF1_ECX_TSC_DEADLINE, 0);
    }

    #[test]
    fn only_the_last_cache_is_shared() {
        let entries = for_vcpu(&host(), 1, 4, true);
        assert_eq!(find(&entries, 4, 0).eax, 0x121 | 3 << 26);
        assert_eq!(find(&entries, 4, 3).eax, 0x163 | 3 << 14 | 3 << 26);
        assert_eq!(find(&entries, 4, 4).eax, 0);
    }

    #[test]
    fn old_processors_get_no_leaf_beyond_their_last() {
        let old = vec![entry(0, 0, [5, 0, 0, 0]), entry(1, 0, [0; 4])];
        assert_eq!(for_vcpu(&old, 0, 2, true).len(), 2);
    }
}
