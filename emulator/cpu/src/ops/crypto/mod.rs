//! AES-NI, PCLMULQDQ, SHA extensions and CRC32, in integer arithmetic: the host need not have any of them.

mod aes;
mod clmul;
mod crc32;
mod sha;
#[cfg(test)]
mod tests;

use iced_x86::Instruction;

use super::sse::registers;
use super::sse::vector::Vector;
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Handler, OP_MEMORY, Op, Stop};

/// The second operand: a register or 16 aligned bytes.
#[inline(always)]
fn second(core: &mut Core, op: &Op) -> Result<Vector, Stop> {
    core.check_sse()?;
    if op.has(OP_MEMORY) { core.load_aligned(op) } else { Ok(core.xmm(op.src)) }
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    aes::select(ins, op)
        .or_else(|| clmul::select(ins, op))
        .or_else(|| sha::select(ins, op))
        .or_else(|| crc32::select(ins, op))
}
