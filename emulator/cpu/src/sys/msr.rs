//! Model-specific registers of the CPU model (Intel SDM volume 4). Any other index is #GP.
//!
//! Memory types (PAT, MTRRs) and speculation controls are kept and checked, and have no effect: the machine has no
//! caches and executes nothing ahead.

use crate::bus::Refused;
use crate::core::Core;
use crate::cpuid;
use crate::mmu::{cr0, efer};
use crate::op::Stop;
use crate::state::{FS, GS};

const TSC: u32 = 0x10;
const PLATFORM_ID: u32 = 0x17;
const APIC_BASE: u32 = 0x1b;
const FEATURE_CONTROL: u32 = 0x3a;
const TSC_ADJUST: u32 = 0x3b;
const SPEC_CTRL: u32 = 0x48;
const PRED_CMD: u32 = 0x49;
const BIOS_SIGN_ID: u32 = 0x8b;
const MTRR_CAP: u32 = 0xfe;
const ARCH_CAPABILITIES: u32 = 0x10a;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const MISC_ENABLE: u32 = 0x1a0;
const DEBUGCTL: u32 = 0x1d9;
const MTRR_VARIABLE: u32 = 0x200;
const MTRR_VARIABLE_LAST: u32 = 0x20f;
const MTRR_FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
const PAT: u32 = 0x277;
const MTRR_DEF_TYPE: u32 = 0x2ff;
const TSC_DEADLINE: u32 = 0x6e0;
const X2APIC: u32 = 0x800;
const X2APIC_LAST: u32 = 0x8ff;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const FMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;

/// 8 variable ranges, fixed ranges, write-combining.
const MTRR_CAP_VALUE: u64 = 8 | 1 << 8 | 1 << 10;
/// FEATURE_CONTROL: locked, VMX off.
const FEATURE_CONTROL_LOCKED: u64 = 1;
/// Update revision in the upper half.
const MICROCODE_REVISION: u64 = 0x3e << 32;
/// SPEC_CTRL: IBRS, STIBP, SSBD, BHI_DIS_S.
const SPEC_CTRL_BITS: u64 = 7 | 1 << 10;
/// PRED_CMD: IBPB.
const PRED_CMD_BITS: u64 = 1;
/// MISC_ENABLE bits that can be written: fast strings, thermal monitor, SpeedStep, CPUID limit, XD disable are taken
/// as the guest writes them and have no effect.
const MISC_ENABLE_BITS: u64 = 1 | 1 << 3 | 1 << 7 | 1 << 16 | 1 << 18 | 1 << 22 | 1 << 34;
/// MISC_ENABLE bits that always read as one: branch trace and event sampling are unavailable.
const MISC_ENABLE_FIXED: u64 = 1 << 11 | 1 << 12;
/// DEBUGCTL bits that may be written: LBR and BTF. They read as zero and have no effect.
const DEBUGCTL_BITS: u64 = 3;
const EFER_BITS: u64 = efer::SCE | efer::LME | efer::LMA | efer::NXE;
/// Bits above the physical width.
const PHYSICAL_RESERVED: u64 = !((1 << crate::mmu::PHYSICAL_BITS) - 1);

/// Memory types that MTRRs may have; PAT adds 7.
fn valid_type(kind: u64) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6)
}

fn all_types(value: u64, pat: bool) -> bool {
    value.to_le_bytes().iter().all(|&kind| valid_type(u64::from(kind)) || pat && kind == 7)
}

/// True for registers that live outside the core.
fn on_bus(index: u32) -> bool {
    matches!(index, APIC_BASE | TSC_DEADLINE | X2APIC..=X2APIC_LAST)
}

impl Core {
    /// The time-stamp counter at the present position.
    pub(crate) fn tsc(&self) -> u64 {
        self.bus.tsc(self.position().count).wrapping_add(self.sys.tsc_adjust)
    }

    /// RDMSR.
    pub(crate) fn read_msr(&mut self, index: u32) -> Result<u64, Stop> {
        if on_bus(index) {
            let position = self.position();
            let read = self.bus.msr_read(position, index);
            self.leave_block();
            return match read {
                Ok(0) => Ok(0),
                Ok(value) if index == TSC_DEADLINE => Ok(value.wrapping_add(self.sys.tsc_adjust)),
                Ok(value) => Ok(value),
                Err(Refused) => Err(self.gp(0)),
            };
        }
        let sys = &self.sys;
        Ok(match index {
            TSC => self.tsc(),
            PLATFORM_ID | DEBUGCTL => 0,
            FEATURE_CONTROL => FEATURE_CONTROL_LOCKED,
            TSC_ADJUST => sys.tsc_adjust,
            SPEC_CTRL => sys.spec_ctrl,
            BIOS_SIGN_ID => MICROCODE_REVISION,
            MTRR_CAP => MTRR_CAP_VALUE,
            ARCH_CAPABILITIES => cpuid::ARCH_CAPABILITIES,
            SYSENTER_CS => sys.sysenter_cs,
            SYSENTER_ESP => sys.sysenter_esp,
            SYSENTER_EIP => sys.sysenter_eip,
            MISC_ENABLE => sys.misc_enable | MISC_ENABLE_FIXED,
            MTRR_VARIABLE..=MTRR_VARIABLE_LAST => sys.mtrr_variable[(index - MTRR_VARIABLE) as usize],
            PAT => sys.pat,
            MTRR_DEF_TYPE => sys.mtrr_def_type,
            EFER => sys.efer,
            STAR => sys.star,
            LSTAR => sys.lstar,
            CSTAR => sys.cstar,
            FMASK => sys.fmask,
            FS_BASE => sys.segs[FS].base,
            GS_BASE => sys.segs[GS].base,
            KERNEL_GS_BASE => sys.kernel_gs_base,
            TSC_AUX => sys.tsc_aux,
            _ => match MTRR_FIXED.iter().position(|&fixed| fixed == index) {
                Some(slot) => sys.mtrr_fixed[slot],
                None => return Err(self.gp(0)),
            },
        })
    }

    /// WRMSR.
    pub(crate) fn write_msr(&mut self, index: u32, value: u64) -> Result<(), Stop> {
        if on_bus(index) {
            let value = if index == TSC_DEADLINE { self.bus_deadline(value) } else { value };
            return self.write_bus_msr(index, value);
        }
        if !self.msr_accepts(index, value) {
            return Err(self.gp(0));
        }
        match index {
            TSC => {
                let difference = value.wrapping_sub(self.tsc());
                self.set_tsc_adjust(self.sys.tsc_adjust.wrapping_add(difference))?;
            }
            TSC_ADJUST => self.set_tsc_adjust(value)?,
            SPEC_CTRL => self.sys.spec_ctrl = value,
            SYSENTER_CS => self.sys.sysenter_cs = value & 0xffff_ffff,
            SYSENTER_ESP => self.sys.sysenter_esp = value,
            SYSENTER_EIP => self.sys.sysenter_eip = value,
            MISC_ENABLE => self.sys.misc_enable = value & MISC_ENABLE_BITS,
            MTRR_VARIABLE..=MTRR_VARIABLE_LAST => {
                self.sys.mtrr_variable[(index - MTRR_VARIABLE) as usize] = value;
            }
            PAT => self.sys.pat = value,
            MTRR_DEF_TYPE => self.sys.mtrr_def_type = value,
            EFER => {
                self.sys.efer = value & !efer::LMA | self.sys.efer & efer::LMA;
                self.update_mode();
                self.leave_block();
            }
            STAR => self.sys.star = value,
            LSTAR => self.sys.lstar = value,
            CSTAR => self.sys.cstar = value,
            FMASK => self.sys.fmask = value & 0xffff_ffff,
            FS_BASE => self.set_segment_base(FS, value),
            GS_BASE => self.set_segment_base(GS, value),
            KERNEL_GS_BASE => self.sys.kernel_gs_base = value,
            TSC_AUX => self.sys.tsc_aux = value,
            _ => {
                if let Some(slot) = MTRR_FIXED.iter().position(|&fixed| fixed == index) {
                    self.sys.mtrr_fixed[slot] = value;
                }
            }
        }
        Ok(())
    }

    fn write_bus_msr(&mut self, index: u32, value: u64) -> Result<(), Stop> {
        let position = self.position();
        let written = self.bus.msr_write(position, index, value);
        self.drop_stale();
        self.leave_block();
        written.map_err(|Refused| self.gp(0))
    }

    /// A deadline of the guest's counter, which may be adjusted, in terms of the machine's. Zero stays zero: disarmed;
    /// a deadline before the machine's counter began is due.
    fn bus_deadline(&self, value: u64) -> u64 {
        if value == 0 {
            return 0;
        }
        let machine = i128::from(value) - i128::from(self.sys.tsc_adjust as i64);
        u64::try_from(machine.max(1)).unwrap_or(u64::MAX)
    }

    /// Moves the guest's counter. A deadline that is armed stays where it is on the guest's counter.
    fn set_tsc_adjust(&mut self, value: u64) -> Result<(), Stop> {
        let position = self.position();
        let armed = self.bus.msr_read(position, TSC_DEADLINE).unwrap_or(0);
        let guest = armed.wrapping_add(self.sys.tsc_adjust);
        self.sys.tsc_adjust = value;
        if armed != 0 {
            let moved = self.bus_deadline(guest);
            self.write_bus_msr(TSC_DEADLINE, moved)?;
        }
        Ok(())
    }

    /// True when the register exists, can be written, and `value` sets no reserved bit.
    fn msr_accepts(&self, index: u32, value: u64) -> bool {
        match index {
            TSC | TSC_ADJUST | SYSENTER_CS | STAR | FMASK => true,
            SPEC_CTRL => value & !SPEC_CTRL_BITS == 0,
            PRED_CMD => value & !PRED_CMD_BITS == 0,
            // Zero is written before CPUID to read the revision.
            BIOS_SIGN_ID => true,
            SYSENTER_ESP | SYSENTER_EIP | LSTAR | CSTAR | FS_BASE | GS_BASE | KERNEL_GS_BASE => {
                crate::access::is_canonical(value)
            }
            MISC_ENABLE => value & !(MISC_ENABLE_BITS | MISC_ENABLE_FIXED) == 0,
            DEBUGCTL => value & !DEBUGCTL_BITS == 0,
            MTRR_VARIABLE..=MTRR_VARIABLE_LAST if index & 1 == 0 => {
                value & (PHYSICAL_RESERVED | 0xf00) == 0 && valid_type(value & 0xff)
            }
            MTRR_VARIABLE..=MTRR_VARIABLE_LAST => value & (PHYSICAL_RESERVED | 0x7ff) == 0,
            PAT => all_types(value, true),
            MTRR_DEF_TYPE => value & !0xcff == 0 && valid_type(value & 0xff),
            EFER => {
                let switches_long = (value ^ self.sys.efer) & efer::LME != 0;
                value & !EFER_BITS == 0 && !(switches_long && self.sys.cr0 & cr0::PG != 0)
            }
            TSC_AUX => value >> 32 == 0,
            _ => MTRR_FIXED.contains(&index) && all_types(value, false),
        }
    }
}
