//! CPUID of the CPU model `virtft-v2`, version 1.
//!
//! The model carries the name of Intel's Goldmont server core (Denverton): it has the level of instructions that we
//! have, and guests apply nearly no quirks to it. The features differ from the real part where `docs/cpu-model.md`
//! says so. Sources: Intel SDM volume 2, CPUID; volume 4 for IA32_ARCH_CAPABILITIES.
//!
//! A leaf is a function of the number of vCPUs, the vCPU's index, CR4.OSXSAVE and the code size; nothing of the host shows.

use crate::core::Core;
use crate::mmu::{CodeMode, cr4};

/// Name and version of the CPU model: everything that `docs/cpu-model.md` specifies. A change that a guest could notice
/// makes another version.
pub const CPU_MODEL: &str = "virtft-v2.1";
/// CPUID leaf 1 EAX: family 6, model 5Fh, stepping 1.
pub const SIGNATURE: u32 = 0x0005_06f1;
/// Frequency of the time-stamp counter.
pub const TSC_HZ: u64 = 1_000_000_000;
/// Frequency of the core crystal clock, which the local APIC timer counts too.
pub const CRYSTAL_HZ: u32 = 1_000_000_000;

/// IA32_ARCH_CAPABILITIES: RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO,
/// FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO.
pub const ARCH_CAPABILITIES: u64 = bits64(&[0, 1, 3, 4, 5, 6, 8, 13, 14, 15, 20, 24, 26, 27, 62]);

/// Bits that XCR0 can have: x87 and SSE.
pub(crate) const XCR0_BITS: u64 = 3;
/// Size in bytes of the XSAVE area, legacy region and header: x87 and SSE need no more.
const XSAVE_SIZE: u32 = 576;

const LAST_BASIC: u32 = 0x16;
const LAST_EXTENDED: u32 = 0x8000_0008;
const HYPERVISOR: u32 = 0x4000_0000;
const HYPERVISOR_NEXT: u32 = HYPERVISOR + 1;
const HYPERVISOR_LAST: u32 = 0x4fff_ffff;

/// Brand string, 48 bytes with the closing zeros.
const BRAND: &[u8; 48] = b"virtft-v2 Processor (Goldmont) @ 1.00GHz\0\0\0\0\0\0\0\0";

/// FPU, DE, PSE, TSC, MSR, PAE, CX8, APIC, SEP, MTRR, PGE, CMOV, PAT, PSE-36, CLFSH, MMX, FXSR, SSE, SSE2, SS.
const LEAF1_EDX: u32 = bits(&[0, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 15, 16, 17, 19, 23, 24, 25, 26, 27]);
/// HTT: the package has more than one logical processor.
const HTT: u32 = 1 << 28;
/// SSE3, PCLMULQDQ, SSSE3, CX16, PCID, SSE4.1, SSE4.2, x2APIC, MOVBE, POPCNT, TSC deadline, AES, XSAVE, RDRAND,
/// hypervisor.
const LEAF1_ECX: u32 = bits(&[0, 1, 9, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 30, 31]);
const OSXSAVE: u32 = 1 << 27;
/// FSGSBASE, TSC_ADJUST, BMI1, FDP with exceptions only, SMEP, BMI2, ERMS, INVPCID, no FCS and FDS, RDSEED, ADX,
/// SMAP, CLFLUSHOPT, SHA.
const LEAF7_EBX: u32 = bits(&[0, 1, 3, 6, 7, 8, 9, 10, 13, 18, 19, 20, 23, 29]);
/// UMIP.
const LEAF7_ECX: u32 = bits(&[2]);
/// FSRM, IBRS and IBPB, STIBP, IA32_ARCH_CAPABILITIES, SSBD.
const LEAF7_EDX: u32 = bits(&[4, 26, 27, 29, 31]);
/// BHI_CTRL: SPEC_CTRL has a bit against branch history injection. Linux clears the history by a loop at each system
/// call without it, BHI_NO or not.
const LEAF7_2_EDX: u32 = bits(&[4]);
/// ARAT: the APIC timer never stops.
const LEAF6_EAX: u32 = bits(&[2]);
/// XSAVEOPT, XSAVEC, XGETBV with ECX 1.
const LEAF0D_1_EAX: u32 = bits(&[0, 1, 2]);
/// NX, 1 GiB pages, RDTSCP, long mode.
const EXTENDED_EDX: u32 = bits(&[20, 26, 27, 29]);
/// SYSCALL and SYSRET, told in 64-bit mode only.
const SYSCALL: u32 = 1 << 11;
/// LAHF and SAHF in 64-bit mode, LZCNT.
const EXTENDED_ECX: u32 = bits(&[0, 5]);
/// Invariant TSC.
const LEAF_POWER_EDX: u32 = bits(&[8]);
/// 46 physical and 48 linear address bits.
const ADDRESS_SIZES: u32 = crate::mmu::PHYSICAL_BITS | 48 << 8;

const fn bits64(set: &[u32]) -> u64 {
    let mut value = 0;
    let mut index = 0;
    while index < set.len() {
        value |= 1 << set[index];
        index += 1;
    }
    value
}

const fn bits(set: &[u32]) -> u32 {
    bits64(set) as u32
}

/// Four characters as a register value.
const fn word(text: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]])
}

/// What CPUID depends on beside leaf and subleaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Number of vCPUs, 1 to 8.
    pub vcpus: u32,
    /// Index of the vCPU, which is its APIC ID.
    pub index: u32,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// True in 64-bit mode.
    pub long: bool,
}

impl Caller {
    /// APIC ID bits that number the cores of the package.
    fn core_bits(self) -> u32 {
        self.vcpus.next_power_of_two().trailing_zeros()
    }
}

/// EAX, EBX, ECX and EDX of a leaf. A leaf beyond the last one reads as the last basic one, as on Intel's processors.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32, caller: Caller) -> [u32; 4] {
    match leaf {
        0 => [LAST_BASIC, word(b"Genu", 0), word(b"ntel", 0), word(b"ineI", 0)],
        1 => leaf_features(caller),
        // One descriptor: the caches are in leaf 4.
        2 => [0x0000_ff01, 0, 0, 0],
        4 => leaf_caches(subleaf, caller),
        6 => [LEAF6_EAX, 0, 0, 0],
        7 if subleaf == 0 => [2, LEAF7_EBX, LEAF7_ECX, LEAF7_EDX],
        7 if subleaf == 2 => [0, 0, 0, LEAF7_2_EDX],
        0xb => leaf_topology(subleaf, caller),
        0xd if subleaf == 0 => [XCR0_BITS as u32, XSAVE_SIZE, XSAVE_SIZE, 0],
        0xd if subleaf == 1 => [LEAF0D_1_EAX, XSAVE_SIZE, 0, 0],
        0x15 => [1, (TSC_HZ / CRYSTAL_HZ as u64) as u32, CRYSTAL_HZ, 0],
        // Base, maximum and bus frequency in MHz.
        0x16 => [1000, 1000, 100, 0],
        3 | 5 | 7..=10 | 0xc..=0x14 => [0; 4],
        HYPERVISOR => [HYPERVISOR, word(b"virt", 0), word(b"ftvi", 0), word(b"rtft", 0)],
        HYPERVISOR_NEXT..=HYPERVISOR_LAST => [0; 4],
        0x8000_0000 => [LAST_EXTENDED, 0, 0, 0],
        0x8000_0001 => [0, 0, EXTENDED_ECX, EXTENDED_EDX | if caller.long { SYSCALL } else { 0 }],
        0x8000_0002..=0x8000_0004 => {
            let at = (leaf - 0x8000_0002) as usize * 16;
            [word(BRAND, at), word(BRAND, at + 4), word(BRAND, at + 8), word(BRAND, at + 12)]
        }
        0x8000_0005 => [0; 4],
        // L2: 1 MiB, 16 ways (code 8), lines of 64 bytes.
        0x8000_0006 => [0, 0, 1024 << 16 | 8 << 12 | 64, 0],
        0x8000_0007 => [0, 0, 0, LEAF_POWER_EDX],
        LAST_EXTENDED => [ADDRESS_SIZES, 0, 0, 0],
        _ => cpuid(LAST_BASIC, subleaf, caller),
    }
}

fn leaf_features(caller: Caller) -> [u32; 4] {
    // CLFLUSH lines of 64 bytes; room for all APIC IDs of the package; the own APIC ID.
    let ebx = 8 << 8 | (1 << caller.core_bits()) << 16 | caller.index << 24;
    let ecx = LEAF1_ECX | if caller.osxsave { OSXSAVE } else { 0 };
    let edx = LEAF1_EDX | if caller.vcpus > 1 { HTT } else { 0 };
    [SIGNATURE, ebx, ecx, edx]
}

/// L1 data, L1 code, L2, each of one core. Their sizes have no effect.
fn leaf_caches(subleaf: u32, caller: Caller) -> [u32; 4] {
    let (kind, level, ways, sets) = match subleaf {
        0 => (1, 1, 8, 64),
        1 => (2, 1, 8, 64),
        2 => (3, 2, 16, 1024),
        _ => return [0; 4],
    };
    let cores = (1 << caller.core_bits()) - 1;
    const SELF_INITIALISING: u32 = 1 << 8;
    let eax = kind | level << 5 | SELF_INITIALISING | cores << 26;
    let ebx = (ways - 1) << 22 | 63;
    [eax, ebx, sets - 1, 0]
}

/// One package of single-threaded cores.
fn leaf_topology(subleaf: u32, caller: Caller) -> [u32; 4] {
    const THREADS: u32 = 1 << 8;
    const CORES: u32 = 2 << 8;
    match subleaf {
        0 => [0, 1, THREADS, caller.index],
        1 => [caller.core_bits(), caller.vcpus, CORES | 1, caller.index],
        _ => [0, 0, subleaf & 0xff, caller.index],
    }
}

impl Core {
    /// CPUID as the current vCPU sees it.
    pub(crate) fn own_cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let caller = Caller {
            vcpus: self.vcpus() as u32,
            index: self.current_cpu() as u32,
            osxsave: self.sys.cr4 & cr4::OSXSAVE != 0,
            long: self.code_mode() == CodeMode::Bits64,
        };
        cpuid(leaf, subleaf, caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Caller = Caller { vcpus: 1, index: 0, osxsave: false, long: true };

    #[test]
    fn vendor_brand_and_signature() {
        let [last, b, c, d] = cpuid(0, 0, ONE);
        assert_eq!(last, LAST_BASIC);
        assert_eq!([b, d, c].map(u32::to_le_bytes).concat(), b"GenuineIntel");
        let brand: Vec<u8> = (2..=4).flat_map(|n| cpuid(0x8000_0000 + n, 0, ONE)).flat_map(u32::to_le_bytes).collect();
        assert!(brand.starts_with(b"virtft-v2 ") && brand[47] == 0);
        assert_eq!(cpuid(1, 0, ONE)[0], SIGNATURE);
    }

    #[test]
    fn the_counter_frequency_follows_from_leaf_15() {
        let [denominator, numerator, crystal, _] = cpuid(0x15, 0, ONE);
        assert_eq!(u64::from(crystal) * u64::from(numerator) / u64::from(denominator), TSC_HZ);
    }

    #[test]
    fn topology_numbers_cores_by_apic_id() {
        for vcpus in 1..=8 {
            for index in 0..vcpus {
                let caller = Caller { vcpus, index, osxsave: false, long: true };
                let [shift, count, _, id] = cpuid(0xb, 1, caller);
                assert_eq!((count, id), (vcpus, index));
                assert_eq!(id >> shift, 0, "all cores are in package 0");
                assert_eq!(cpuid(1, 0, caller)[1] >> 24, index);
                assert_eq!(cpuid(1, 0, caller)[3] & HTT != 0, vcpus > 1);
            }
        }
    }

    #[test]
    fn leaves_beyond_the_last_read_as_the_last_basic_one() {
        assert_eq!(cpuid(0x17, 0, ONE), cpuid(0x16, 0, ONE));
        assert_eq!(cpuid(0x8000_0009, 0, ONE), cpuid(0x16, 0, ONE));
        assert_eq!(cpuid(HYPERVISOR + 1, 0, ONE), [0; 4]);
    }

    #[test]
    fn dynamic_bits_follow_the_state() {
        let with = Caller { osxsave: true, ..ONE };
        assert_eq!(cpuid(1, 0, with)[2] ^ cpuid(1, 0, ONE)[2], OSXSAVE);
        let legacy = Caller { long: false, ..ONE };
        assert_eq!(cpuid(0x8000_0001, 0, legacy)[3] ^ cpuid(0x8000_0001, 0, ONE)[3], SYSCALL);
    }
}
