//! Packed shifts, by an immediate or by the low 64 bits of a second vector.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::moves::{is_mmx, registers};
use super::packed::{Packed, form};
use super::vector::{Vector, from_low, host, low};
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, Op};

fn xmm_imm<P: Packed>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let result = P::apply(core.xmm(op.dst), from_low(op.imm));
    core.set_xmm(op.dst, result);
    Ok(())
}

fn mmx_imm<P: Packed>(core: &mut Core, op: &Op) -> Done {
    core.check_mmx()?;
    let result = P::apply(from_low(core.mmx(op.dst)), from_low(op.imm));
    core.set_mmx(op.dst, low(result));
    Ok(())
}

fn shift<P: Packed>(ins: &Instruction, op: &mut Op) -> Handler {
    if ins.op_kind(1) != OpKind::Immediate8 {
        return form::<P>(ins, op);
    }
    registers(ins, op);
    op.imm = u64::from(ins.immediate8());
    if is_mmx(ins, 0) { mmx_imm::<P> } else { xmm_imm::<P> }
}

/// Byte indices for PSHUFB: 16 that give zero, the bytes in order, 16 that give zero. A window that starts `n` after
/// the middle shifts right by `n` bytes, one that starts before it shifts left.
static WINDOW: [u8; 48] = {
    let mut window = [0x80; 48];
    let mut index = 0;
    while index < 16 {
        window[16 + index] = index as u8;
        index += 1;
    }
    window
};

/// `value` shifted right by `bytes`, -16 to 16; left when negative.
#[inline(always)]
pub(super) fn shift_bytes(value: Vector, bytes: isize) -> Vector {
    let start = 16_isize.wrapping_add(bytes.clamp(-16, 16)).unsigned_abs();
    let window = &WINDOW[start..start + 16];
    host!(_mm_shuffle_epi8(value, _mm_loadu_si128(window.as_ptr().cast())))
}

fn psrldq(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let result = shift_bytes(core.xmm(op.dst), op.imm as isize);
    core.set_xmm(op.dst, result);
    Ok(())
}

fn pslldq(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let result = shift_bytes(core.xmm(op.dst), -(op.imm as isize));
    core.set_xmm(op.dst, result);
    Ok(())
}

macro_rules! shifts {
    ($($name:ident = $function:ident;)*) => {
        $(
            struct $name;
            impl Packed for $name {
                #[inline(always)]
                fn apply(a: Vector, b: Vector) -> Vector {
                    host!($function(a, b))
                }
            }
        )*

        /// Handler of an instruction of this family.
        pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
            Some(match ins.mnemonic() {
                $(Mnemonic::$name => shift::<$name>(ins, op),)*
                Mnemonic::Psrldq | Mnemonic::Pslldq => {
                    registers(ins, op);
                    op.imm = u64::from(ins.immediate8());
                    if ins.mnemonic() == Mnemonic::Psrldq { psrldq } else { pslldq }
                }
                _ => return None,
            })
        }
    };
}

shifts! {
    Psllw = _mm_sll_epi16;
    Pslld = _mm_sll_epi32;
    Psllq = _mm_sll_epi64;
    Psrlw = _mm_srl_epi16;
    Psrld = _mm_srl_epi32;
    Psrlq = _mm_srl_epi64;
    Psraw = _mm_sra_epi16;
    Psrad = _mm_sra_epi32;
}
