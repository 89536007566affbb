//! Packed integer operations with two operands, for XMM and MMX registers, and the bitwise ones on floats.
//!
//! An MMX form is the low half of the XMM form on zero-extended operands, but for the operations that move data between
//! lanes: [`Packed::narrow`] says how.

use iced_x86::{Instruction, Mnemonic};

use super::super::{in_memory, operand_size};
use super::moves::{is_mmx, registers};
use super::vector::{Vector, from_low, host, low};
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, Op};

/// An operation on two vectors.
pub(super) trait Packed {
    /// The XMM form.
    fn apply(a: Vector, b: Vector) -> Vector;
    /// The MMX form, in the low half.
    #[inline(always)]
    fn narrow(a: Vector, b: Vector) -> Vector {
        Self::apply(a, b)
    }
}

fn xmm_reg<P: Packed>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let result = P::apply(core.xmm(op.dst), core.xmm(op.src));
    core.set_xmm(op.dst, result);
    Ok(())
}

fn xmm_mem<P: Packed>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let Some(b) = core.quick_load::<true>(op) else { return xmm_mem_slow::<P>(core, op) };
    let result = P::apply(core.xmm(op.dst), b);
    core.set_xmm(op.dst, result);
    Ok(())
}

#[cold]
#[inline(never)]
fn xmm_mem_slow<P: Packed>(core: &mut Core, op: &Op) -> Done {
    let b = core.load_aligned(op)?;
    let result = P::apply(core.xmm(op.dst), b);
    core.set_xmm(op.dst, result);
    Ok(())
}

fn mmx_reg<P: Packed>(core: &mut Core, op: &Op) -> Done {
    core.check_mmx()?;
    let result = P::narrow(from_low(core.mmx(op.dst)), from_low(core.mmx(op.src)));
    core.set_mmx(op.dst, low(result));
    Ok(())
}

fn mmx_mem<P: Packed>(core: &mut Core, op: &Op) -> Done {
    core.check_mmx()?;
    let b = core.load::<u64>(op)?;
    let result = P::narrow(from_low(core.mmx(op.dst)), from_low(b));
    core.set_mmx(op.dst, low(result));
    Ok(())
}

/// PUNPCKLBW and the like on MMX registers read only 32 bits of memory.
fn mmx_mem_32<P: Packed>(core: &mut Core, op: &Op) -> Done {
    core.check_mmx()?;
    let b = core.load::<u32>(op)?;
    let result = P::narrow(from_low(core.mmx(op.dst)), from_low(u64::from(b)));
    core.set_mmx(op.dst, low(result));
    Ok(())
}

/// The handler of an operation for the operands that the instruction has.
pub(super) fn form<P: Packed>(ins: &Instruction, op: &mut Op) -> Handler {
    registers(ins, op);
    match (is_mmx(ins, 0), in_memory(ins, 1)) {
        (false, false) => xmm_reg::<P>,
        (false, true) => xmm_mem::<P>,
        (true, false) => mmx_reg::<P>,
        (true, true) if operand_size(ins, 1) == 4 => mmx_mem_32::<P>,
        (true, true) => mmx_mem::<P>,
    }
}

/// Operations by mnemonic: what the host does, then how the MMX form follows from it.
macro_rules! packed {
    ($($name:ident = |$a:ident, $b:ident| $body:expr, $narrow:ident;)*) => {
        $(
            struct $name;
            impl Packed for $name {
                #[inline(always)]
                fn apply($a: Vector, $b: Vector) -> Vector {
                    host!($body)
                }
                narrow!($narrow);
            }
        )*

        /// Handler of an instruction of this family.
        pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
            Some(match ins.mnemonic() {
                $(Mnemonic::$name => form::<$name>(ins, op),)*
                _ => return None,
            })
        }
    };
}

macro_rules! narrow {
    // Lane by lane: the low half of the XMM form.
    (lanes) => {};
    // The lanes of the first operand, then those of the second: the XMM form of both halves joined.
    (joined) => {
        #[inline(always)]
        fn narrow(a: Vector, b: Vector) -> Vector {
            let both = host!(_mm_unpacklo_epi64(a, b));
            Self::apply(both, both)
        }
    };
    // Interleaves upper halves: move them to where the XMM form takes them from.
    (upper) => {
        #[inline(always)]
        fn narrow(a: Vector, b: Vector) -> Vector {
            let (a, b) = host!((_mm_slli_si128(a, 4), _mm_slli_si128(b, 4)));
            Self::apply(a, b)
        }
    };
    // Byte indices of three bits instead of four.
    (index) => {
        #[inline(always)]
        fn narrow(a: Vector, b: Vector) -> Vector {
            Self::apply(a, host!(_mm_and_si128(b, _mm_set1_epi8(0x87_u8 as i8))))
        }
    };
}

packed! {
    Paddb = |a, b| _mm_add_epi8(a, b), lanes;
    Paddw = |a, b| _mm_add_epi16(a, b), lanes;
    Paddd = |a, b| _mm_add_epi32(a, b), lanes;
    Paddq = |a, b| _mm_add_epi64(a, b), lanes;
    Paddsb = |a, b| _mm_adds_epi8(a, b), lanes;
    Paddsw = |a, b| _mm_adds_epi16(a, b), lanes;
    Paddusb = |a, b| _mm_adds_epu8(a, b), lanes;
    Paddusw = |a, b| _mm_adds_epu16(a, b), lanes;
    Psubb = |a, b| _mm_sub_epi8(a, b), lanes;
    Psubw = |a, b| _mm_sub_epi16(a, b), lanes;
    Psubd = |a, b| _mm_sub_epi32(a, b), lanes;
    Psubq = |a, b| _mm_sub_epi64(a, b), lanes;
    Psubsb = |a, b| _mm_subs_epi8(a, b), lanes;
    Psubsw = |a, b| _mm_subs_epi16(a, b), lanes;
    Psubusb = |a, b| _mm_subs_epu8(a, b), lanes;
    Psubusw = |a, b| _mm_subs_epu16(a, b), lanes;
    Pmullw = |a, b| _mm_mullo_epi16(a, b), lanes;
    Pmulhw = |a, b| _mm_mulhi_epi16(a, b), lanes;
    Pmulhuw = |a, b| _mm_mulhi_epu16(a, b), lanes;
    Pmulhrsw = |a, b| _mm_mulhrs_epi16(a, b), lanes;
    Pmulld = |a, b| _mm_mullo_epi32(a, b), lanes;
    Pmuludq = |a, b| _mm_mul_epu32(a, b), lanes;
    Pmuldq = |a, b| _mm_mul_epi32(a, b), lanes;
    Pmaddwd = |a, b| _mm_madd_epi16(a, b), lanes;
    Pmaddubsw = |a, b| _mm_maddubs_epi16(a, b), lanes;
    Psadbw = |a, b| _mm_sad_epu8(a, b), lanes;
    Pavgb = |a, b| _mm_avg_epu8(a, b), lanes;
    Pavgw = |a, b| _mm_avg_epu16(a, b), lanes;
    Pminub = |a, b| _mm_min_epu8(a, b), lanes;
    Pminuw = |a, b| _mm_min_epu16(a, b), lanes;
    Pminud = |a, b| _mm_min_epu32(a, b), lanes;
    Pminsb = |a, b| _mm_min_epi8(a, b), lanes;
    Pminsw = |a, b| _mm_min_epi16(a, b), lanes;
    Pminsd = |a, b| _mm_min_epi32(a, b), lanes;
    Pmaxub = |a, b| _mm_max_epu8(a, b), lanes;
    Pmaxuw = |a, b| _mm_max_epu16(a, b), lanes;
    Pmaxud = |a, b| _mm_max_epu32(a, b), lanes;
    Pmaxsb = |a, b| _mm_max_epi8(a, b), lanes;
    Pmaxsw = |a, b| _mm_max_epi16(a, b), lanes;
    Pmaxsd = |a, b| _mm_max_epi32(a, b), lanes;
    Pcmpeqb = |a, b| _mm_cmpeq_epi8(a, b), lanes;
    Pcmpeqw = |a, b| _mm_cmpeq_epi16(a, b), lanes;
    Pcmpeqd = |a, b| _mm_cmpeq_epi32(a, b), lanes;
    Pcmpeqq = |a, b| _mm_cmpeq_epi64(a, b), lanes;
    Pcmpgtb = |a, b| _mm_cmpgt_epi8(a, b), lanes;
    Pcmpgtw = |a, b| _mm_cmpgt_epi16(a, b), lanes;
    Pcmpgtd = |a, b| _mm_cmpgt_epi32(a, b), lanes;
    Pcmpgtq = |a, b| _mm_cmpgt_epi64(a, b), lanes;
    Psignb = |a, b| _mm_sign_epi8(a, b), lanes;
    Psignw = |a, b| _mm_sign_epi16(a, b), lanes;
    Psignd = |a, b| _mm_sign_epi32(a, b), lanes;
    Pabsb = |_a, b| _mm_abs_epi8(b), lanes;
    Pabsw = |_a, b| _mm_abs_epi16(b), lanes;
    Pabsd = |_a, b| _mm_abs_epi32(b), lanes;
    Pand = |a, b| _mm_and_si128(a, b), lanes;
    Pandn = |a, b| _mm_andnot_si128(a, b), lanes;
    Por = |a, b| _mm_or_si128(a, b), lanes;
    Pxor = |a, b| _mm_xor_si128(a, b), lanes;
    Andps = |a, b| _mm_and_si128(a, b), lanes;
    Andnps = |a, b| _mm_andnot_si128(a, b), lanes;
    Orps = |a, b| _mm_or_si128(a, b), lanes;
    Xorps = |a, b| _mm_xor_si128(a, b), lanes;
    Andpd = |a, b| _mm_and_si128(a, b), lanes;
    Andnpd = |a, b| _mm_andnot_si128(a, b), lanes;
    Orpd = |a, b| _mm_or_si128(a, b), lanes;
    Xorpd = |a, b| _mm_xor_si128(a, b), lanes;
    Packsswb = |a, b| _mm_packs_epi16(a, b), joined;
    Packssdw = |a, b| _mm_packs_epi32(a, b), joined;
    Packuswb = |a, b| _mm_packus_epi16(a, b), joined;
    Packusdw = |a, b| _mm_packus_epi32(a, b), joined;
    Phaddw = |a, b| _mm_hadd_epi16(a, b), joined;
    Phaddd = |a, b| _mm_hadd_epi32(a, b), joined;
    Phaddsw = |a, b| _mm_hadds_epi16(a, b), joined;
    Phsubw = |a, b| _mm_hsub_epi16(a, b), joined;
    Phsubd = |a, b| _mm_hsub_epi32(a, b), joined;
    Phsubsw = |a, b| _mm_hsubs_epi16(a, b), joined;
    Punpcklbw = |a, b| _mm_unpacklo_epi8(a, b), lanes;
    Punpcklwd = |a, b| _mm_unpacklo_epi16(a, b), lanes;
    Punpckldq = |a, b| _mm_unpacklo_epi32(a, b), lanes;
    Punpcklqdq = |a, b| _mm_unpacklo_epi64(a, b), lanes;
    Punpckhbw = |a, b| _mm_unpackhi_epi8(a, b), upper;
    Punpckhwd = |a, b| _mm_unpackhi_epi16(a, b), upper;
    Punpckhdq = |a, b| _mm_unpackhi_epi32(a, b), upper;
    Punpckhqdq = |a, b| _mm_unpackhi_epi64(a, b), lanes;
    Unpcklps = |a, b| _mm_unpacklo_epi32(a, b), lanes;
    Unpckhps = |a, b| _mm_unpackhi_epi32(a, b), lanes;
    Unpcklpd = |a, b| _mm_unpacklo_epi64(a, b), lanes;
    Unpckhpd = |a, b| _mm_unpackhi_epi64(a, b), lanes;
    Pshufb = |a, b| _mm_shuffle_epi8(a, b), index;
    Phminposuw = |_a, b| _mm_minpos_epu16(b), lanes;
}
