//! PMOVSX and PMOVZX, PTEST, and MPSADBW.

use iced_x86::{Instruction, Mnemonic};

use super::super::{in_memory, operand_size};
use super::moves::registers;
use super::vector::{Vector, from_low, host, join, split};
use crate::core::Core;
use crate::flags::{CF, ZF};
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, OP_MEMORY, Op};
use crate::width::Width;

/// Widens the low lanes of a vector.
trait Extend {
    fn apply(value: Vector) -> Vector;
}

fn reg<E: Extend>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let result = E::apply(core.xmm(op.src));
    core.set_xmm(op.dst, result);
    Ok(())
}

fn mem<E: Extend, T: Width>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = core.load::<T>(op)?;
    core.set_xmm(op.dst, E::apply(from_low(value.zx())));
    Ok(())
}

fn form<E: Extend>(ins: &Instruction, op: &mut Op) -> Handler {
    registers(ins, op);
    if !in_memory(ins, 1) {
        return reg::<E>;
    }
    match operand_size(ins, 1) {
        2 => mem::<E, u16>,
        4 => mem::<E, u32>,
        _ => mem::<E, u64>,
    }
}

fn ptest(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let b = if op.has(OP_MEMORY) { core.load_aligned(op)? } else { core.xmm(op.src) };
    let a = core.xmm(op.dst);
    let zero = host!(_mm_testz_si128(a, b)) != 0;
    let carry = host!(_mm_testc_si128(a, b)) != 0;
    core.flags.set_arithmetic(if zero { ZF } else { 0 } | if carry { CF } else { 0 });
    Ok(())
}

/// MPSADBW: sums of absolute differences of four bytes of the second operand with eight windows of the first.
fn mpsadbw(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let b = if op.has(OP_MEMORY) { core.load_aligned(op)? } else { core.xmm(op.src) };
    let a: [u8; 16] = split(core.xmm(op.dst));
    let b: [u8; 16] = split(b);
    let first = (op.imm >> 2 & 1) as usize * 4;
    let block = &b[(op.imm & 3) as usize * 4..][..4];
    let sums: [u16; 8] = std::array::from_fn(|lane| {
        let window = &a[first + lane..][..4];
        window.iter().zip(block).map(|(&x, &y)| u16::from(x.abs_diff(y))).sum()
    });
    core.set_xmm(op.dst, join(sums));
    Ok(())
}

macro_rules! extends {
    ($($name:ident = $function:ident;)*) => {
        $(
            struct $name;
            impl Extend for $name {
                #[inline(always)]
                fn apply(value: Vector) -> Vector {
                    host!($function(value))
                }
            }
        )*

        /// Handler of an instruction of this family.
        pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
            Some(match ins.mnemonic() {
                $(Mnemonic::$name => form::<$name>(ins, op),)*
                Mnemonic::Ptest => {
                    registers(ins, op);
                    ptest
                }
                Mnemonic::Mpsadbw => {
                    registers(ins, op);
                    op.imm = u64::from(ins.immediate8());
                    mpsadbw
                }
                _ => return None,
            })
        }
    };
}

extends! {
    Pmovsxbw = _mm_cvtepi8_epi16;
    Pmovsxbd = _mm_cvtepi8_epi32;
    Pmovsxbq = _mm_cvtepi8_epi64;
    Pmovsxwd = _mm_cvtepi16_epi32;
    Pmovsxwq = _mm_cvtepi16_epi64;
    Pmovsxdq = _mm_cvtepi32_epi64;
    Pmovzxbw = _mm_cvtepu8_epi16;
    Pmovzxbd = _mm_cvtepu8_epi32;
    Pmovzxbq = _mm_cvtepu8_epi64;
    Pmovzxwd = _mm_cvtepu16_epi32;
    Pmovzxwq = _mm_cvtepu16_epi64;
    Pmovzxdq = _mm_cvtepu32_epi64;
}
