//! RCPPS, RCPSS, RSQRTPS, RSQRTSS.
//!
//! Processors differ in the bits of these estimates, so here is one result for every host: the exact reciprocal (of the
//! square root), rounded to 12 significant bits, to nearest, a tie away from zero. Its relative error is below
//! 2^-12; the manual allows 1.5 * 2^-12. The special cases are those of the manual:
//!
//! | operand | RCP | RSQRT |
//! |---|---|---|
//! | zero or denormal (taken as zero, whatever MXCSR says) | infinity with its sign | infinity with its sign |
//! | infinity | zero with its sign | +0; default NaN for minus infinity |
//! | negative | | default NaN |
//! | NaN | the NaN, made quiet | the NaN, made quiet |
//! | result below the normal range | zero with its sign | |
//!
//! No exception is ever raised and MXCSR is neither used nor changed.

use iced_x86::{Instruction, Mnemonic};

use super::moves::registers;
use super::vector::{join, split};
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, OP_MEMORY, Op};

const SIGN: u32 = 1 << 31;
const INFINITY: u32 = 0x7f80_0000;
const QUIET: u32 = 1 << 22;
/// The NaN that invalid operations give.
const DEFAULT_NAN: u32 = 0xffc0_0000;
const BIAS: i32 = 127;

/// The float `significand * 2^(exponent - 11)` for a significand of 12 bits, the highest one set.
fn pack(sign: u32, significand: u32, exponent: i32) -> u32 {
    // The highest bit, which the format does not store, adds the one that is missing in the exponent.
    sign | (((exponent + BIAS - 1) as u32) << 23).wrapping_add(significand << 12)
}

/// Estimate of 1/x.
pub(super) fn reciprocal(bits: u32) -> u32 {
    let sign = bits & SIGN;
    let magnitude = bits & !SIGN;
    if magnitude > INFINITY {
        return bits | QUIET;
    }
    if magnitude == INFINITY {
        return sign;
    }
    let biased = (magnitude >> 23) as i32;
    if biased == 0 {
        return sign | INFINITY;
    }
    // x = m * 2^(e - 23) with m in [2^23, 2^24), so 1/x = (2^35 / m) * 2^(-e - 12), with 2^35 / m in (2^11, 2^12].
    let m = u64::from(magnitude & 0x7f_ffff | 0x80_0000);
    let significand = ((1 << 36) / m + 1) >> 1;
    let exponent = -(biased - BIAS) - 1;
    let (significand, exponent) = if significand == 1 << 12 { (1 << 11, exponent + 1) } else { (significand, exponent) };
    if exponent < 1 - BIAS {
        return sign;
    }
    pack(sign, significand as u32, exponent)
}

/// Estimate of 1/sqrt(x).
pub(super) fn reciprocal_root(bits: u32) -> u32 {
    let sign = bits & SIGN;
    let magnitude = bits & !SIGN;
    if magnitude > INFINITY {
        return bits | QUIET;
    }
    let biased = (magnitude >> 23) as i32;
    if biased == 0 {
        return sign | INFINITY;
    }
    if sign != 0 {
        return DEFAULT_NAN;
    }
    if magnitude == INFINITY {
        return 0;
    }
    // x = m * 2^(2k - 23) with m in [2^23, 2^25), so 1/sqrt(x) = sqrt(2^23 / m) * 2^-k, the first factor in (1/2, 1].
    let e = biased - BIAS;
    let m = u64::from(magnitude & 0x7f_ffff | 0x80_0000) << (e & 1);
    let k = (e - (e & 1)) / 2;
    // The significand is that factor times 2^12: the floor of twice its value, rounded by the last bit.
    let twice = ((1_u64 << 49) / m).isqrt();
    let significand = (twice + 1) >> 1;
    let exponent = -k - 1;
    let (significand, exponent) = if significand == 1 << 12 { (1 << 11, exponent + 1) } else { (significand, exponent) };
    pack(0, significand as u32, exponent)
}

fn packed(core: &mut Core, op: &Op, estimate: fn(u32) -> u32) -> Done {
    core.check_sse()?;
    let value = if op.has(OP_MEMORY) { core.load_aligned(op)? } else { core.xmm(op.src) };
    let lanes: [u32; 4] = split(value);
    core.set_xmm(op.dst, join(lanes.map(estimate)));
    Ok(())
}

fn scalar(core: &mut Core, op: &Op, estimate: fn(u32) -> u32) -> Done {
    core.check_sse()?;
    let value = if op.has(OP_MEMORY) { core.load::<u32>(op)? } else { core.xmm_half(op.src, 0) as u32 };
    let rest = core.xmm_half(op.dst, 0) & !0xffff_ffff;
    core.set_xmm_half(op.dst, 0, rest | u64::from(estimate(value)));
    Ok(())
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    let handler: Handler = match ins.mnemonic() {
        Mnemonic::Rcpps => |core, op| packed(core, op, reciprocal),
        Mnemonic::Rcpss => |core, op| scalar(core, op, reciprocal),
        Mnemonic::Rsqrtps => |core, op| packed(core, op, reciprocal_root),
        Mnemonic::Rsqrtss => |core, op| scalar(core, op, reciprocal_root),
        _ => return None,
    };
    registers(ins, op);
    Some(handler)
}
