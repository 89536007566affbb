//! MMX registers, which are the mantissas of the x87 registers by physical number, and EMMS.
//!
//! Every MMX instruction but EMMS sets TOP to 0 and marks all registers as valid; a write also sets sign and exponent of
//! the register to ones (Intel SDM volume 3, 13.2). A pending x87 exception is raised first.

use iced_x86::{Instruction, Mnemonic};

use crate::core::Core;
use crate::mmu::{CodeMode, cr0};
use crate::op::{Done, Handler, Op, Stop};

/// Status word: an unmasked x87 exception is pending.
const ERROR_SUMMARY: u16 = 1 << 7;
/// Status word: top of stack.
const TOP: u16 = 7 << 11;

impl Core {
    /// Raises what an MMX instruction raises before anything else: #UD, #NM, then #MF.
    #[inline(always)]
    pub(crate) fn check_mmx(&mut self) -> Result<(), Stop> {
        if self.sys.cr0 & (cr0::EM | cr0::TS) == 0 && self.fpu.status & ERROR_SUMMARY == 0 {
            return Ok(());
        }
        self.mmx_ready()
    }

    /// Raises a pending x87 exception, for instructions of which only one operand is an MMX register.
    #[inline(always)]
    pub(crate) fn check_pending_x87(&mut self) -> Result<(), Stop> {
        if self.fpu.status & ERROR_SUMMARY == 0 { Ok(()) } else { self.x87_check_pending() }
    }

    /// MMX register `register`.
    #[inline(always)]
    pub(crate) fn mmx(&self, register: u8) -> u64 {
        self.fpu.regs[usize::from(register & 7)].mantissa
    }

    /// Replaces an MMX register.
    #[inline(always)]
    pub(crate) fn set_mmx(&mut self, register: u8, value: u64) {
        let slot = &mut self.fpu.regs[usize::from(register & 7)];
        slot.mantissa = value;
        slot.sign_exponent = 0xffff;
        self.enter_mmx();
    }

    /// What every MMX instruction does to the x87 state.
    #[inline(always)]
    pub(crate) fn enter_mmx(&mut self) {
        self.fpu.status &= !TOP;
        self.fpu.tags = 0xff;
    }
}

fn emms(core: &mut Core, _op: &Op) -> Done {
    core.check_mmx()?;
    core.fpu.status &= !TOP;
    core.fpu.tags = 0;
    Ok(())
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, _op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    (ins.mnemonic() == Mnemonic::Emms).then_some(emms as Handler)
}
