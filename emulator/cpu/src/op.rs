//! Decoded instructions in the form that the interpreter executes.

use crate::core::Core;

/// Body of an instruction. It commits guest state only after the last point at which it can fault.
pub(crate) type Handler = fn(&mut Core, &Op) -> Done;

/// `Ok`: retired, go on with the next instruction of the block.
pub(crate) type Done = Result<(), Stop>;

/// Why the next instruction in line is not the one that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Not retired: an exception is in [`Core::fault`]; nothing was committed.
    Fault,
    /// Retired; [`Core::rip`] holds the target.
    Jump,
    /// A repeated string instruction did some iterations and goes on: RIP stays. [`Core::extra_steps`] counts all
    /// iterations but one.
    Again,
}

/// Register slot that always reads zero; the base or index of an address that has none.
pub(crate) const SLOT_ZERO: u8 = 16;
/// Register slot that holds the instruction pointer at the start of the block.
pub(crate) const SLOT_RIP: u8 = 17;

/// Segment slot with base zero for ES, CS and DS in 64-bit mode.
pub(crate) const SEG_FLAT: u8 = 6;
/// Segment slot with base zero for SS in 64-bit mode: faults are #SS.
pub(crate) const SEG_FLAT_STACK: u8 = 7;

/// [`Op::flags`]: not in 64-bit mode: segment bases and limits apply (`legacy` path).
pub(crate) const OP_LEGACY: u8 = 1;
/// [`Op::flags`]: 32-bit addressing.
pub(crate) const OP_A32: u8 = 1 << 1;
/// [`Op::flags`]: 16-bit addressing.
pub(crate) const OP_A16: u8 = 1 << 2;
/// [`Op::flags`]: REP or REPE prefix on a string instruction.
pub(crate) const OP_REP: u8 = 1 << 3;
/// [`Op::flags`]: REPNE prefix on a string instruction.
pub(crate) const OP_REPNE: u8 = 1 << 4;
/// [`Op::flags`]: 16-bit operand size (of instructions whose handler serves several).
pub(crate) const OP_O16: u8 = 1 << 5;
/// [`Op::flags`]: 64-bit operand size (of instructions whose handler serves several).
pub(crate) const OP_O64: u8 = 1 << 6;
/// [`Op::flags`]: the r/m operand is in memory (of instructions whose handler serves both forms).
pub(crate) const OP_MEMORY: u8 = 1 << 7;

/// One decoded instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Op {
    /// What to execute.
    pub run: Handler,
    /// Immediate, sign-extended to 64 bits where the instruction does so; for near branches the displacement from
    /// the start of the block.
    pub imm: u64,
    /// Displacement of the memory operand; for RIP-relative ones counted from the start of the block.
    pub disp: u64,
    /// Byte offset of the instruction from the start of the block.
    pub off: u16,
    /// Length in bytes.
    pub len: u8,
    /// `OP_` bits.
    pub flags: u8,
    /// Register slot of the address base.
    pub base: u8,
    /// Register slot of the address index.
    pub index: u8,
    /// Shift of the index, 0 to 3.
    pub scale: u8,
    /// Segment slot of the memory operand.
    pub seg: u8,
    /// First register operand (destination). For 8-bit registers bit 4 selects AH, CH, DH, BH.
    pub dst: u8,
    /// Second register operand.
    pub src: u8,
    /// Third register operand, or what the handler needs (condition code, string direction).
    pub aux: u8,
}

impl Op {
    /// Offset of the next instruction from the start of the block.
    #[inline(always)]
    pub fn next_off(&self) -> u64 {
        u64::from(self.off) + u64::from(self.len)
    }

    /// True when all of the given `OP_` bits are set.
    #[inline(always)]
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }
}
