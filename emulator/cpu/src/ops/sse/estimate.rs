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
    let (significand, exponent) =
        if significand == 1 << 12 { (1 << 11, exponent + 1) } else { (significand, exponent) };
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
    let (significand, exponent) =
        if significand == 1 << 12 { (1 << 11, exponent + 1) } else { (significand, exponent) };
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

#[cfg(test)]
mod tests {
    use super::{reciprocal, reciprocal_root};

    #[test]
    fn special_operands() {
        let cases = [
            (0x0000_0000, 0x7f80_0000, 0x7f80_0000),
            (0x8000_0000, 0xff80_0000, 0xff80_0000),
            (0x007f_ffff, 0x7f80_0000, 0x7f80_0000),
            (0x807f_ffff, 0xff80_0000, 0xff80_0000),
            (0x7f80_0000, 0x0000_0000, 0x0000_0000),
            (0xff80_0000, 0x8000_0000, 0xffc0_0000),
            (0x7f80_0001, 0x7fc0_0001, 0x7fc0_0001),
            (0xffc1_2345, 0xffc1_2345, 0xffc1_2345),
            (0x3f80_0000, 0x3f80_0000, 0x3f80_0000),
            (0xbf80_0000, 0xbf80_0000, 0xffc0_0000),
            (0x4000_0000, 0x3f00_0000, 0x3f35_0000),
            (0x4080_0000, 0x3e80_0000, 0x3f00_0000),
            (0x0080_0000, 0x7e80_0000, 0x5f00_0000),
            // 2^126 has a normal reciprocal, what is more than half a last bit larger has not.
            (0x7e80_0000, 0x0080_0000, 0x2000_0000),
            (0x7e80_1000, 0x0000_0000, 0x1fff_f000),
            (0xff7f_ffff, 0x8000_0000, 0xffc0_0000),
        ];
        for (operand, inverse, root) in cases {
            assert_eq!(reciprocal(operand), inverse, "1 / {operand:08x}");
            assert_eq!(reciprocal_root(operand), root, "1 / sqrt({operand:08x})");
        }
    }

    /// |estimate * x - 1| and |estimate^2 * x - 1| in exact arithmetic.
    #[test]
    fn error_is_within_the_manuals_bound() {
        for step in 0..60_000_u32 {
            let operand = 0x3f80_0000 + step * 279;
            let significand = |bits: u32| u128::from(bits & 0x7f_ffff | 0x80_0000);
            let exponent = |bits: u32| (bits >> 23) as i32 - 127 - 23;
            let inverse = reciprocal(operand);
            // Both sides as multiples of 2^-60.
            let product = significand(inverse) * significand(operand);
            let shift = 60 + exponent(inverse) + exponent(operand);
            let error = (product << shift).abs_diff(1 << 60);
            assert!(error <= 3 << 47, "1 / {operand:08x}: error {error}");
            let root = reciprocal_root(operand);
            let product = significand(root) * significand(root) * significand(operand);
            let shift = 80 + 2 * exponent(root) + exponent(operand);
            // Twice the relative error of the root itself, to first order.
            let error = (product << shift).abs_diff(1 << 80);
            assert!(error <= 3 << 68, "1 / sqrt({operand:08x}): error {error}");
        }
    }
}
