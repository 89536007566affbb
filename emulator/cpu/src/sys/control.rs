//! Control and debug registers (Intel SDM volume 3, 2.5, 4.4.1, 10.8.5 and 17.2).

use super::descriptor::kind;
use crate::core::Core;
use crate::fault::{Fault, vector};
use crate::mmu::{cr0, cr4, efer};
use crate::op::Stop;

/// Bits of CR0 that exist; others read as zero and ignore writes.
const CR0_BITS: u64 =
    cr0::PE | cr0::MP | cr0::EM | cr0::TS | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::NW | cr0::CD | cr0::PG;
/// CR4.PCE: RDPMC at CPL 3. Kept, without effect: there are no counters.
const CR4_PCE: u64 = 1 << 8;
/// CR4.MCE: kept, without effect.
const CR4_MCE: u64 = 1 << 6;
/// Bits of CR4 that exist; setting another is #GP.
const CR4_BITS: u64 = cr4::TSD
    | cr4::DE
    | cr4::PSE
    | cr4::PAE
    | CR4_MCE
    | cr4::PGE
    | CR4_PCE
    | cr4::OSFXSR
    | cr4::OSXMMEXCPT
    | cr4::UMIP
    | cr4::FSGSBASE
    | cr4::PCIDE
    | cr4::OSXSAVE
    | cr4::SMEP
    | cr4::SMAP;
/// Bits of CR4 and CR0 whose change reloads the PAE directory pointers.
const CR4_RELOADS: u64 = cr4::PAE | cr4::PGE | cr4::PSE | cr4::SMEP;
const CR0_RELOADS: u64 = cr0::CD | cr0::NW | cr0::PG;
/// CR3 bits above the physical width.
const CR3_RESERVED: u64 = !((1 << crate::mmu::PHYSICAL_BITS) - 1);
/// CR3 bit 63 with PCIDs: keep the translations of the PCID. Not stored.
const CR3_KEEP: u64 = 1 << 63;
/// Reserved bits of a present PAE directory pointer.
const PDPTE_RESERVED: u64 = CR3_RESERVED | 0x1e6;

/// DR6 bits that can be written; the others are fixed.
const DR6_BITS: u64 = 0xe00f;
const DR6_FIXED: u64 = 0xffff_0ff0;
/// DR6: a debug register was accessed with general detect on.
const DR6_ACCESS: u64 = 1 << 13;
/// DR7 bits that can be written; bit 10 is always set.
const DR7_BITS: u64 = 0xffff_23ff;
const DR7_FIXED: u64 = 0x400;
const DR7_GENERAL_DETECT: u64 = 1 << 13;

/// CR0 bits that LMSW writes.
const LMSW_BITS: u64 = cr0::PE | cr0::MP | cr0::EM | cr0::TS;

impl Core {
    /// #GP(0) unless at CPL 0.
    pub(crate) fn require_ring0(&mut self) -> Result<(), Stop> {
        if self.sys.cpl == 0 { Ok(()) } else { Err(self.gp(0)) }
    }

    /// MOV from a control register; `None` for one that does not exist.
    pub(crate) fn read_control(&mut self, number: u8) -> Option<u64> {
        Some(match number {
            0 => self.sys.cr0,
            2 => self.sys.cr2,
            3 => self.sys.cr3,
            4 => self.sys.cr4,
            8 => {
                let position = self.position();
                self.bus.cr8_read(position)
            }
            _ => return None,
        })
    }

    /// MOV to a control register that exists.
    pub(crate) fn write_control(&mut self, number: u8, value: u64) -> Result<(), Stop> {
        match number {
            0 => self.write_cr0(value)?,
            2 => self.sys.cr2 = value,
            3 => self.write_cr3(value)?,
            4 => self.write_cr4(value)?,
            _ => {
                if value > 0xf {
                    return Err(self.gp(0));
                }
                let position = self.position();
                self.bus.cr8_write(position, value);
                self.drop_stale();
            }
        }
        self.leave_block();
        Ok(())
    }

    /// MOV to CR0, and CLTS and LMSW with the rest unchanged.
    pub(crate) fn write_cr0(&mut self, value: u64) -> Result<(), Stop> {
        let old = self.sys.cr0;
        let new = value & CR0_BITS | cr0::ET;
        let set = |bit: u64| new & bit != 0;
        let refused = value >> 32 != 0
            || set(cr0::PG) && !set(cr0::PE)
            || set(cr0::NW) && !set(cr0::CD)
            || !set(cr0::PG) && (self.sys.cr4 & cr4::PCIDE != 0 || self.code_view.long);
        if refused {
            return Err(self.gp(0));
        }
        let mut efer = self.sys.efer;
        if set(cr0::PG) && old & cr0::PG == 0 && efer & efer::LME != 0 {
            let task16 = matches!((self.sys.tr.flags & 0xf) as u8, kind::TSS16 | kind::TSS16_BUSY);
            let long_code = self.sys.segs[crate::state::CS].flags & crate::state::SEG_L != 0;
            if self.sys.cr4 & cr4::PAE == 0 || long_code || task16 {
                return Err(self.gp(0));
            }
            efer |= efer::LMA;
        }
        if !set(cr0::PG) {
            efer &= !efer::LMA;
        }
        let pae = set(cr0::PG) && self.sys.cr4 & cr4::PAE != 0 && efer & efer::LMA == 0;
        if pae && (old ^ new) & CR0_RELOADS != 0 {
            self.load_pdptrs(self.sys.cr3)?;
        }
        self.sys.cr0 = new;
        self.sys.efer = efer;
        if new & cr0::PE == 0 {
            self.sys.cpl = 0;
        }
        // EM, TS and MP are looked at by each instruction; only other bits change the mode.
        if (old ^ new) & !(cr0::TS | cr0::MP | cr0::EM) != 0 {
            self.update_mode();
        }
        Ok(())
    }

    /// LMSW: PE can be set and not cleared.
    pub(crate) fn write_machine_status(&mut self, value: u16) -> Result<(), Stop> {
        let keep_protected = self.sys.cr0 & cr0::PE;
        let new = self.sys.cr0 & !LMSW_BITS | u64::from(value) & LMSW_BITS | keep_protected;
        self.write_cr0(new)?;
        self.leave_block();
        Ok(())
    }

    fn write_cr3(&mut self, value: u64) -> Result<(), Stop> {
        let mut value = value;
        if self.sys.cr4 & cr4::PCIDE != 0 {
            value &= !CR3_KEEP;
        }
        if self.code_view.long && value & CR3_RESERVED != 0 {
            return Err(self.gp(0));
        }
        let pae = self.sys.cr0 & cr0::PG != 0 && self.sys.cr4 & cr4::PAE != 0 && !self.long_active();
        if pae {
            self.load_pdptrs(value)?;
        }
        self.sys.cr3 = value;
        self.update_mode();
        Ok(())
    }

    fn write_cr4(&mut self, value: u64) -> Result<(), Stop> {
        let old = self.sys.cr4;
        let turned_on = value & !old;
        let refused = value & !CR4_BITS != 0
            || self.long_active() && value & cr4::PAE == 0
            || turned_on & cr4::PCIDE != 0 && (!self.long_active() || self.sys.cr3 & 0xfff != 0);
        if refused {
            return Err(self.gp(0));
        }
        let pae = self.sys.cr0 & cr0::PG != 0 && value & cr4::PAE != 0 && !self.long_active();
        if pae && (old ^ value) & CR4_RELOADS != 0 {
            self.load_pdptrs(self.sys.cr3)?;
        }
        self.sys.cr4 = value;
        self.update_mode();
        Ok(())
    }

    /// Loads the four PAE directory pointers; #GP when a present one has reserved bits.
    fn load_pdptrs(&mut self, cr3: u64) -> Result<(), Stop> {
        let table = cr3 & 0xffff_ffe0;
        let mut pointers = [0; 4];
        for (index, pointer) in pointers.iter_mut().enumerate() {
            *pointer = self.ram.read_u64(table + 8 * index as u64);
        }
        if pointers.iter().any(|pointer| pointer & 1 != 0 && pointer & PDPTE_RESERVED != 0) {
            return Err(self.gp(0));
        }
        self.sys.pdptrs = pointers;
        Ok(())
    }

    /// Number of the debug register that is meant, after the checks that MOV makes before any access.
    pub(crate) fn debug_register(&mut self, number: u8) -> Result<usize, Stop> {
        let number = match number {
            4 | 5 if self.sys.cr4 & cr4::DE != 0 => return Err(self.ud()),
            4 | 5 => number + 2,
            8.. => return Err(self.ud()),
            _ => number,
        };
        self.require_ring0()?;
        if self.sys.dr7 & DR7_GENERAL_DETECT != 0 {
            self.fault = Fault { vector: vector::DB, code: None, address: 0, dr6: DR6_ACCESS };
            return Err(Stop::Fault);
        }
        Ok(usize::from(number))
    }

    /// MOV from a debug register.
    pub(crate) fn read_debug(&mut self, number: u8) -> Result<u64, Stop> {
        Ok(match self.debug_register(number)? {
            6 => self.sys.dr6,
            7 => self.sys.dr7,
            index => self.sys.debug_address[index],
        })
    }

    /// MOV to a debug register.
    pub(crate) fn write_debug(&mut self, number: u8, value: u64) -> Result<(), Stop> {
        let index = self.debug_register(number)?;
        if index >= 6 && value >> 32 != 0 {
            return Err(self.gp(0));
        }
        match index {
            6 => self.sys.dr6 = value & DR6_BITS | DR6_FIXED,
            7 => self.sys.dr7 = value & DR7_BITS | DR7_FIXED,
            _ => self.sys.debug_address[index] = value,
        }
        self.update_mode();
        self.leave_block();
        Ok(())
    }

    /// An access of a port becomes a trap when a breakpoint watches it.
    pub(crate) fn note_port_breakpoint(&mut self, port: u16, size: u64) {
        if self.sys.cr4 & cr4::DE == 0 || self.sys.dr7 & 0xff == 0 {
            return;
        }
        let (port, dr7) = (u64::from(port), self.sys.dr7);
        for n in 0..4 {
            let enabled = dr7 >> (2 * n) & 3 != 0 && dr7 >> (16 + 4 * n) & 3 == 2;
            let length = [1, 2, 8, 4][(dr7 >> (18 + 4 * n) & 3) as usize];
            let start = self.sys.debug_address[n] & !(length - 1);
            if enabled && port < start.wrapping_add(length) && start < port + size {
                self.sys.pending_trap |= 1 << n;
                self.leave_block();
            }
        }
    }
}
