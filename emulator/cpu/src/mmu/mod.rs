//! Address translation that the guest cannot tell from a machine without a TLB.
//!
//! Translations are cached per [context](Contexts): the page-table root and every mode bit that a walk depends on. So
//! a change of CR3, of a mode bit or of the privilege level selects other entries and drops none, and INVLPG has
//! nothing to do. What must drop entries is a store into a page-table entry that a cached walk read. [`PageTables`]
//! notes those entries, one bit each; such pages never enter the write TLB, so every store into them comes to the slow
//! path, which looks at the bits. A store to a noted entry drops all translations by moving on to new contexts.
//!
//! Accessed and dirty bits are set by the walk before its result is cached; a write translation is cached only when the
//! dirty bit is set. A guest that clears a bit stores into a noted entry, and so the next access walks again.

mod tables;
mod tlb;
mod walk;

pub(crate) use tables::PageTables;
pub(crate) use tlb::{Contexts, NO_CONTEXT, Tlb};
pub(crate) use walk::{Access, PHYSICAL_BITS, Rights};

use crate::core::Core;
use crate::flags;
use crate::state::{CS, SEG_DB, SEG_L};

/// CR0 bits.
pub(crate) mod cr0 {
    pub const PE: u64 = 1;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
}

/// CR4 bits.
pub(crate) mod cr4 {
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const PGE: u64 = 1 << 7;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
}

/// IA32_EFER bits.
pub(crate) mod efer {
    pub const SCE: u64 = 1;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
}

/// Code sizes, as part of a block's key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CodeMode {
    #[default]
    Bits16,
    Bits32,
    Bits64,
}

impl CodeMode {
    /// Default operand and address size class in bits, as decoders name it.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Bits16 => 16,
            Self::Bits32 => 32,
            Self::Bits64 => 64,
        }
    }
}

/// What the run loop needs to know of CS, derived by [`Core::update_mode`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CodeView {
    /// Translation context and code mode, as the low bits of the key of an edge.
    pub key: u64,
    /// Added to an instruction pointer to get the linear address.
    pub base: u64,
    /// Bits of an instruction pointer that count.
    pub rip_mask: u64,
    /// Bits of a linear address that count.
    pub linear_mask: u64,
    /// 64-bit mode.
    pub long: bool,
    /// Size of the code.
    pub mode: CodeMode,
}

impl Core {
    /// Size of the code that CS selects.
    #[inline]
    pub(crate) fn code_mode(&self) -> CodeMode {
        let flags = self.sys.segs[CS].flags;
        if self.sys.efer & efer::LMA != 0 && flags & SEG_L != 0 {
            CodeMode::Bits64
        } else if flags & SEG_DB != 0 {
            CodeMode::Bits32
        } else {
            CodeMode::Bits16
        }
    }

    /// Re-derives what depends on control registers, segments, privilege and EFLAGS.AC. Called after every change
    /// of one of them.
    pub(crate) fn update_mode(&mut self) {
        let mode = self.code_mode();
        let long = mode == CodeMode::Bits64;
        for slot in 0..6 {
            let flat = long && slot < 4;
            self.seg_base[slot] = if flat { 0 } else { self.sys.segs[slot].base };
        }
        self.seg_base[6] = 0;
        self.seg_base[7] = 0;
        self.code_view = CodeView {
            key: 0,
            base: if long { 0 } else { self.sys.segs[CS].base },
            rip_mask: match mode {
                CodeMode::Bits64 => u64::MAX,
                CodeMode::Bits32 => 0xffff_ffff,
                CodeMode::Bits16 => 0xffff,
            },
            linear_mask: if long { u64::MAX } else { 0xffff_ffff },
            long,
            mode,
        };
        self.supervisor_context = self.context_id(false, false);
        self.user_context = NO_CONTEXT;
        self.access_context = NO_CONTEXT;
        self.update_privilege();
    }

    /// The part of [`Core::update_mode`] that follows from CPL and EFLAGS.AC alone: enough when only these changed and
    /// code is 64-bit before and after.
    #[inline]
    pub(crate) fn update_privilege(&mut self) {
        let user = self.sys.cpl == 3;
        let ac = self.flags.has(flags::AC);
        let data = if user {
            if self.user_context == NO_CONTEXT {
                self.user_context = self.context_id(true, false);
            }
            self.user_context
        } else if ac && self.sys.cr4 & cr4::SMAP != 0 {
            if self.access_context == NO_CONTEXT {
                self.access_context = self.context_id(false, true);
            }
            self.access_context
        } else {
            self.supervisor_context
        };
        let aligned = user && ac && self.sys.cr0 & cr0::AM != 0;
        let watched = self.sys.dr7 & 0xff != 0 && self.has_data_breakpoints();
        self.slow_data = aligned || watched;
        self.data_context = if self.slow_data { NO_CONTEXT } else { data };
        // SMAP has no part in fetches.
        let code = if user { self.user_context } else { self.supervisor_context };
        self.code_view.key = code << 2 | self.code_view.mode as u64;
    }

    /// True when DR7 enables a breakpoint on data or I/O.
    fn has_data_breakpoints(&self) -> bool {
        (0..4).any(|n| self.sys.dr7 >> (2 * n) & 3 != 0 && self.sys.dr7 >> (16 + 4 * n) & 3 != 0)
    }

    /// The context for the current address space at a privilege; `access` means that SMAP is suspended.
    fn context_id(&mut self, user: bool, access: bool) -> u64 {
        let paging = self.sys.cr0 & cr0::PG != 0;
        let root = if paging { self.sys.cr3 & !0xfff } else { 0 };
        let mut key = root;
        if paging {
            key |= 1
                | u64::from(user) << 1
                | u64::from(access) << 2
                | (self.sys.cr0 & cr0::WP) >> 16 << 3
                | u64::from(self.sys.cr4 & cr4::SMEP != 0) << 4
                | u64::from(self.sys.cr4 & cr4::SMAP != 0) << 5
                | u64::from(self.sys.cr4 & cr4::PAE != 0) << 6
                | u64::from(self.sys.cr4 & cr4::PSE != 0) << 7
                | u64::from(self.sys.efer & efer::LMA != 0) << 8
                | u64::from(self.sys.efer & efer::NXE != 0) << 9;
        }
        let pae_legacy = paging && self.sys.cr4 & cr4::PAE != 0 && self.sys.efer & efer::LMA == 0;
        let pdptrs = if pae_legacy { self.sys.pdptrs } else { [0; 4] };
        let (id, wrapped) = self.contexts.get(key, pdptrs);
        if wrapped {
            self.tlb.clear();
            self.code.forget_links();
            // The numbers start again: those that are kept must be asked for again.
            self.user_context = NO_CONTEXT;
            self.access_context = NO_CONTEXT;
            self.supervisor_context = self.context_id(false, false);
        }
        id
    }

    /// Drops every cached translation, of data and of code. The block that is running ends.
    pub(crate) fn drop_translations(&mut self) {
        self.statistics.translation_flushes += 1;
        self.page_tables.new_generation();
        self.contexts.renew();
        self.code.forget_links();
        self.leave_block();
        self.update_mode();
    }
}
