//! PCLMULQDQ: carry-less product of two 64-bit halves.

use iced_x86::{Instruction, Mnemonic};

use super::super::sse::vector::{join, split};
use super::second;
use crate::core::Core;
use crate::op::{Done, Handler, Op};

/// Product of two polynomials over GF(2), four bits of `b` at a time.
pub(super) fn product(a: u64, b: u64) -> u128 {
    let a = u128::from(a);
    let mut multiples = [0_u128; 16];
    multiples[1] = a;
    let mut index = 2;
    while index < 16 {
        multiples[index] = multiples[index / 2] << 1;
        multiples[index + 1] = multiples[index] ^ a;
        index += 2;
    }
    (0..16).rev().fold(0, |sum, digit| sum << 4 ^ multiples[(b >> (4 * digit) & 15) as usize])
}

fn pclmulqdq(core: &mut Core, op: &Op) -> Done {
    let b: [u64; 2] = split(second(core, op)?);
    let a: [u64; 2] = split(core.xmm(op.dst));
    let result = product(a[(op.imm & 1) as usize], b[(op.imm >> 4 & 1) as usize]);
    core.set_xmm(op.dst, join(result));
    Ok(())
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op) -> Option<Handler> {
    if ins.mnemonic() != Mnemonic::Pclmulqdq {
        return None;
    }
    super::registers(ins, op);
    op.imm = u64::from(ins.immediate8());
    Some(pclmulqdq)
}
