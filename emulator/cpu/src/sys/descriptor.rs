//! Segment descriptors: reading them from the GDT and LDT, and the fields (Intel SDM volume 3, 3.4.5 and 3.5).

use crate::core::Core;
use crate::fault::vector;
use crate::mmu::efer;
use crate::op::Stop;
use crate::state::{SEG_ACCESSED, SEG_CODE, SEG_DB, SEG_DC, SEG_G, SEG_L, SEG_P, SEG_RW, SEG_S, Segment};

/// System descriptor types ([`Descriptor::kind`]).
pub(crate) mod kind {
    pub const TSS16: u8 = 1;
    pub const LDT: u8 = 2;
    pub const TSS16_BUSY: u8 = 3;
    pub const CALL_GATE16: u8 = 4;
    pub const TASK_GATE: u8 = 5;
    pub const INTERRUPT_GATE16: u8 = 6;
    pub const TRAP_GATE16: u8 = 7;
    pub const TSS: u8 = 9;
    pub const TSS_BUSY: u8 = 11;
    pub const CALL_GATE: u8 = 12;
    pub const INTERRUPT_GATE: u8 = 14;
    pub const TRAP_GATE: u8 = 15;
}

/// True for the null selectors 0 to 3.
pub(crate) const fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// Selector as an error code.
pub(crate) const fn selector_code(selector: u16) -> u32 {
    selector as u32 & !3
}

/// A descriptor as it lies in its table; of 16-byte ones the lower half.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptor {
    pub raw: u64,
    /// Linear address of the entry.
    pub address: u64,
    /// The selector that named it.
    pub selector: u16,
}

impl Descriptor {
    /// Attributes as [`Segment::flags`] has them.
    pub fn flags(&self) -> u16 {
        (self.raw >> 40) as u16 & 0xf0ff
    }

    pub fn has(&self, flags: u16) -> bool {
        self.flags() & flags == flags
    }

    /// Type of a system descriptor, or `None` for code and data.
    pub fn kind(&self) -> Option<u8> {
        (!self.has(SEG_S)).then_some((self.raw >> 40 & 0xf) as u8)
    }

    pub fn present(&self) -> bool {
        self.has(SEG_P)
    }

    pub fn dpl(&self) -> u8 {
        (self.raw >> 45 & 3) as u8
    }

    /// Privilege that the selector asks for.
    pub fn rpl(&self) -> u8 {
        (self.selector & 3) as u8
    }

    pub fn code(&self) -> bool {
        self.has(SEG_S | SEG_CODE)
    }

    pub fn conforming(&self) -> bool {
        self.has(SEG_S | SEG_CODE | SEG_DC)
    }

    pub fn writable_data(&self) -> bool {
        self.has(SEG_S | SEG_RW) && !self.has(SEG_CODE)
    }

    /// Data, or code that may be read.
    pub fn readable(&self) -> bool {
        self.has(SEG_S) && (!self.has(SEG_CODE) || self.has(SEG_RW))
    }

    /// 64-bit code, given that long mode is active.
    pub fn long(&self) -> bool {
        self.has(SEG_L)
    }

    /// Error code that names this descriptor.
    pub fn code_of(&self, ext: u32) -> u32 {
        selector_code(self.selector) | ext
    }

    pub fn base(&self) -> u64 {
        self.raw >> 16 & 0xff_ffff | (self.raw >> 56) << 24
    }

    pub fn limit(&self) -> u32 {
        let limit = (self.raw & 0xffff | self.raw >> 32 & 0xf_0000) as u32;
        if self.has(SEG_G) { limit << 12 | 0xfff } else { limit }
    }

    /// Segment register contents, with the selector's RPL replaced.
    pub fn segment(&self, rpl: u8) -> Segment {
        Segment {
            selector: self.selector & !3 | u16::from(rpl),
            base: self.base(),
            limit: self.limit(),
            flags: self.flags() | SEG_ACCESSED,
        }
    }

    /// Target of a gate: selector.
    pub fn gate_selector(&self) -> u16 {
        (self.raw >> 16) as u16
    }

    /// Target of a gate: offset, as far as the lower half has it.
    pub fn gate_offset(&self) -> u64 {
        self.raw & 0xffff | self.raw >> 32 & 0xffff_0000
    }
}

/// A flat segment as SYSCALL and SYSENTER load it. `flags` beyond present, accessed, writable or readable, 4 GiB.
pub(crate) fn flat_segment(selector: u16, dpl: u8, flags: u16) -> Segment {
    let common = SEG_P | SEG_S | SEG_RW | SEG_ACCESSED | SEG_G;
    Segment { selector, base: 0, limit: 0xffff_ffff, flags: common | flags | u16::from(dpl) << 5 }
}

/// Flags of a flat 64-bit code segment beside those that all flat segments have.
pub(crate) const CODE64: u16 = SEG_CODE | SEG_L;
/// Flags of a flat 32-bit code segment beside those that all flat segments have.
pub(crate) const CODE32: u16 = SEG_CODE | SEG_DB;
/// Flags of a flat stack segment beside those that all flat segments have.
pub(crate) const STACK32: u16 = SEG_DB;

impl Core {
    /// True in protected mode (long mode included).
    #[inline]
    pub(crate) fn protected(&self) -> bool {
        self.sys.cr0 & crate::mmu::cr0::PE != 0
    }

    /// True when long mode is active: 64-bit and compatibility mode.
    #[inline]
    pub(crate) fn long_active(&self) -> bool {
        self.sys.efer & efer::LMA != 0
    }

    /// Linear address of `size` bytes of the entry that a selector names; `None` when outside its table.
    pub(crate) fn entry_address(&self, selector: u16, size: u64) -> Option<u64> {
        let offset = u64::from(selector & !7);
        let (base, limit) = if selector & 4 == 0 {
            (self.sys.gdtr.base, u64::from(self.sys.gdtr.limit))
        } else {
            if self.sys.ldtr.flags & SEG_P == 0 {
                return None;
            }
            (self.sys.ldtr.base, u64::from(self.sys.ldtr.limit))
        };
        (offset + size - 1 <= limit).then(|| base.wrapping_add(offset))
    }

    /// Reads the descriptor that a selector names. Outside its table: `fault` with the selector, and `ext` added.
    pub(crate) fn fetch_descriptor(&mut self, selector: u16, fault: u8, ext: u32) -> Result<Descriptor, Stop> {
        let Some(address) = self.entry_address(selector, 8) else {
            return Err(self.raise_code(fault, selector_code(selector) | ext));
        };
        let raw = self.read_system(address, 8)?;
        Ok(Descriptor { raw, address, selector })
    }

    /// The upper half of a 16-byte descriptor; #GP with the selector when it is outside the table or its type
    /// field is not zero.
    pub(crate) fn fetch_upper(&mut self, lower: &Descriptor) -> Result<u64, Stop> {
        if self.entry_address(lower.selector, 16).is_none() {
            return Err(self.gp(lower.code_of(0)));
        }
        let upper = self.read_system(lower.address.wrapping_add(8), 8)?;
        if upper >> 40 & 0x1f != 0 {
            return Err(self.gp(lower.code_of(0)));
        }
        Ok(upper)
    }

    /// Sets the accessed bit in memory. Comes after all checks of the descriptor.
    pub(crate) fn mark_accessed(&mut self, descriptor: &Descriptor) -> Result<(), Stop> {
        if descriptor.has(SEG_ACCESSED) {
            return Ok(());
        }
        let byte = (descriptor.raw >> 40) as u8 | SEG_ACCESSED as u8;
        self.write_system(descriptor.address.wrapping_add(5), &[byte])
    }

    /// Checks the code segment that a gate leads to. `ext` is added to error codes. A 64-bit gate needs 64-bit code.
    pub(crate) fn gate_code(&mut self, selector: u16, ext: u32) -> Result<Descriptor, Stop> {
        if is_null(selector) {
            return Err(self.gp(ext));
        }
        let code = self.fetch_descriptor(selector, vector::GP, ext)?;
        let size_fits = !self.long_active() || code.long() && !code.has(SEG_DB);
        if !code.code() || code.dpl() > self.sys.cpl || !size_fits {
            return Err(self.gp(code.code_of(ext)));
        }
        if !code.present() {
            return Err(self.raise_code(vector::NP, code.code_of(ext)));
        }
        Ok(code)
    }

    /// Checks an offset against the code segment that it goes to: #GP with `ext` when it is not canonical or beyond
    /// the limit.
    pub(crate) fn check_target(&mut self, code: &Descriptor, offset: u64, ext: u32) -> Result<(), Stop> {
        let good = if self.long_active() && code.long() {
            crate::access::is_canonical(offset)
        } else {
            offset <= u64::from(code.limit())
        };
        if good { Ok(()) } else { Err(self.gp(ext)) }
    }
}
