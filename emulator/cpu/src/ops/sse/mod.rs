//! MMX, SSE, SSE2, SSE3, SSSE3, SSE4.1 and SSE4.2, without the cryptographic instructions (`crypto`).
//!
//! None of these instructions changes the upper half of a vector register. 16-byte memory operands must be aligned
//! (#GP) but for the unaligned moves and the string comparisons.
//!
//! Integer operations: [`packed`], [`shift`], [`shuffle`], [`extend`], [`strings`]. Floating point: [`float`] runs
//! the host's own instruction under the guest's MXCSR, [`scalar`] does without where it can; [`estimate`] has the
//! reciprocals, which differ between hosts, in integer arithmetic. [`moves`] and [`control`] have no arithmetic.

mod compare;
mod control;
mod convert;
mod dot;
mod estimate;
mod extend;
mod float;
mod moves;
mod packed;
mod scalar;
mod shift;
mod shuffle;
mod strings;
#[cfg(test)]
mod tests;
mod unmasked;
pub(super) mod vector;

use iced_x86::Instruction;
pub(super) use moves::registers;

use crate::mmu::CodeMode;
use crate::op::{Handler, Op};

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, mode: CodeMode) -> Option<Handler> {
    type Select = fn(&Instruction, &mut Op, CodeMode) -> Option<Handler>;
    let groups: [Select; 11] = [
        moves::select,
        packed::select,
        shift::select,
        shuffle::select,
        extend::select,
        float::select,
        compare::select,
        convert::select,
        estimate::select,
        strings::select,
        control::select,
    ];
    groups.iter().find_map(|select| select(ins, op, mode)).or_else(|| dot::select(ins, op, mode))
}
