//! The register stack, exceptions and availability of the unit.

use super::compare::{C0, C2, C3};
use super::float::{C1, DE, Env, IE, INDEFINITE, OE, Operand, PE, SF, UE, ZE};
use crate::core::Core;
use crate::fault::vector;
use crate::mmu::cr0;
use crate::op::{OP_MEMORY, Op, Stop};
use crate::state::{Float80, FpuState};

/// Status word: an unmasked exception is pending.
pub(crate) const ES: u16 = 1 << 7;
/// Status word: busy; equal to ES since the 387.
pub(crate) const BUSY: u16 = 1 << 15;
/// Status word: the six exceptions. Control word: their masks.
pub(crate) const EXCEPTIONS: u16 = 0x3f;
/// Status word: all condition codes.
const CONDITIONS: u16 = C0 | C1 | C2 | C3;
/// Control word bits that exist; bit 6 always reads as one.
const CONTROL_BITS: u16 = 0x1f3f;
const CONTROL_ONE: u16 = 0x40;

/// Stack underflow.
pub(super) const UNDERFLOW: u16 = IE | SF;
/// Stack overflow.
pub(super) const OVERFLOW: u16 = IE | SF | C1;

impl FpuState {
    /// Number of the physical register that is ST(0).
    pub(crate) fn top(&self) -> u8 {
        (self.status >> 11 & 7) as u8
    }

    pub(crate) fn set_top(&mut self, top: u8) {
        self.status = self.status & !(7 << 11) | u16::from(top & 7) << 11;
    }

    fn physical(&self, i: u8) -> usize {
        usize::from(self.top().wrapping_add(i) & 7)
    }

    pub(super) fn is_empty(&self, i: u8) -> bool {
        self.tags >> self.physical(i) & 1 == 0
    }

    pub(super) fn get(&self, i: u8) -> Float80 {
        self.regs[self.physical(i)]
    }

    /// ST(i), taken apart.
    pub(super) fn operand(&self, i: u8) -> Operand {
        Operand::new(self.get(i))
    }

    pub(super) fn set(&mut self, i: u8, value: Float80) {
        let physical = self.physical(i);
        self.regs[physical] = value;
        self.tags |= 1 << physical;
    }

    pub(super) fn free(&mut self, i: u8) {
        self.tags &= !(1 << self.physical(i));
    }

    pub(super) fn push(&mut self, value: Float80) {
        self.set_top(self.top().wrapping_sub(1));
        self.set(0, value);
    }

    pub(super) fn pop(&mut self) {
        self.free(0);
        self.set_top(self.top().wrapping_add(1));
    }

    /// Sets condition codes 0, 2 and 3, and 1 where the caller has it in `codes`.
    pub(super) fn set_conditions(&mut self, codes: u16) {
        self.status = self.status & !(CONDITIONS & !C1) | codes;
    }

    /// Loads a control word; bits that do not exist read as they do on Intel's processors.
    pub(crate) fn set_control(&mut self, control: u16) {
        self.control = control & CONTROL_BITS | CONTROL_ONE;
        self.update_summary();
    }

    /// Makes ES and B follow from exceptions and masks.
    pub(crate) fn update_summary(&mut self) {
        self.status &= !(ES | BUSY);
        if self.status & !self.control & EXCEPTIONS != 0 {
            self.status |= ES | BUSY;
        }
    }

    /// FNINIT: registers keep their contents, but are all empty.
    pub(crate) fn initialise(&mut self) {
        *self = FpuState { regs: self.regs, ..FpuState::default() };
    }

    /// The full tag word: valid 0, zero 1, special 2, empty 3.
    pub(crate) fn tag_word(&self) -> u16 {
        (0..8).fold(0, |word, physical| {
            let Float80 { mantissa, sign_exponent } = self.regs[physical];
            let tag = match sign_exponent & 0x7fff {
                _ if self.tags >> physical & 1 == 0 => 3,
                0 if mantissa == 0 => 1,
                0 | 0x7fff => 2,
                _ if mantissa >> 63 == 0 => 2,
                _ => 0,
            };
            word | tag << (2 * physical)
        })
    }

    /// Which registers a full tag word says are not empty; what else it says follows from their contents.
    pub(crate) fn set_tag_word(&mut self, word: u16) {
        self.tags = (0..8).filter(|n| word >> (2 * n) & 3 != 3).fold(0, |tags, n| tags | 1 << n);
    }
}

/// What becomes of an operation that raised some exceptions (Intel SDM volume 1, 8.4 to 8.7).
#[derive(Debug, Clone, Copy)]
pub(super) struct Verdict {
    /// Status word bits to set.
    set: u16,
    /// The result is stored, and the stack pushed or popped.
    pub stores: bool,
    unmasked: bool,
}

impl Verdict {
    /// `flags` are exceptions, SF and C1; `to_memory` is for results that go to memory.
    pub fn new(control: u16, flags: u16, to_memory: bool) -> Self {
        let unmasked = flags & !control & EXCEPTIONS;
        let (set, stores) = if flags & (IE | ZE) != 0 {
            (flags & (IE | ZE | SF | C1), unmasked & (IE | ZE) == 0)
        } else if unmasked & DE != 0 {
            (DE, false)
        } else if to_memory && unmasked & (OE | UE) != 0 {
            (flags & !(PE | C1), false)
        } else {
            (flags, true)
        };
        Self { set, stores, unmasked: set & unmasked != 0 }
    }
}

impl Core {
    /// #NM when the unit may not be used.
    pub(crate) fn x87_available(&mut self) -> Result<(), Stop> {
        if self.sys.cr0 & (cr0::EM | cr0::TS) != 0 {
            return Err(self.raise(vector::NM));
        }
        Ok(())
    }

    /// #MF when an unmasked exception is pending. With CR0.NE clear it is left pending, as with IGNNE# asserted: the
    /// machine has no FERR# line.
    pub(crate) fn x87_check_pending(&mut self) -> Result<(), Stop> {
        if self.fpu.status & ES != 0 && self.sys.cr0 & cr0::NE != 0 {
            return Err(self.raise(vector::MF));
        }
        Ok(())
    }

    /// What every waiting instruction checks first.
    #[inline]
    pub(crate) fn x87_ready(&mut self) -> Result<(), Stop> {
        if self.sys.cr0 & (cr0::EM | cr0::TS) == 0 && self.fpu.status & ES == 0 {
            return Ok(());
        }
        self.x87_available()?;
        self.x87_check_pending()
    }

    /// What every MMX instruction checks first: #UD with CR0.EM, #NM with CR0.TS, #MF when an exception is pending.
    #[inline]
    pub(crate) fn mmx_ready(&mut self) -> Result<(), Stop> {
        if self.sys.cr0 & cr0::EM != 0 {
            return Err(self.ud());
        }
        self.x87_ready()
    }

    /// Notes the instruction pointer and sets the status that follows from `verdict`. Nothing can fault any more.
    pub(super) fn x87_commit(&mut self, op: &Op, verdict: Verdict) {
        self.fpu.instruction = self.op_rip(op);
        self.fpu.status = self.fpu.status & !C1 | verdict.set;
        if verdict.unmasked {
            self.fpu.status |= ES | BUSY;
            self.fpu.opcode = op.imm as u16;
            if op.has(OP_MEMORY) {
                self.fpu.operand = self.effective(op);
            }
        }
    }

    /// Commits an operation whose result goes to registers. True when the result is to be stored.
    pub(super) fn x87_settle(&mut self, op: &Op, flags: u16) -> bool {
        let verdict = Verdict::new(self.fpu.control, flags, false);
        self.x87_commit(op, verdict);
        verdict.stores
    }

    /// Stack underflow of an operation that writes ST(i). True when the masked response was given.
    pub(super) fn x87_underflow(&mut self, op: &Op, i: u8) -> bool {
        let masked = self.x87_settle(op, UNDERFLOW);
        if masked {
            self.fpu.set(i, INDEFINITE);
        }
        masked
    }

    /// Pushes the result of a load, unless the stack is full or an unmasked exception forbids it.
    pub(super) fn x87_push(&mut self, op: &Op, value: Float80, flags: u16) {
        let full = !self.fpu.is_empty(7);
        let (value, flags) = if full { (INDEFINITE, OVERFLOW) } else { (value, flags) };
        if self.x87_settle(op, flags) {
            self.fpu.push(value);
        }
    }

    /// Settings of an operation that precision control does not govern.
    pub(super) fn x87_env(&self) -> Env {
        Env::extended(self.fpu.control)
    }
}
