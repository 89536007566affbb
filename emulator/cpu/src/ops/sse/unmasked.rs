//! Floating-point operations while the guest has an exception unmasked.
//!
//! The host executes with all exceptions masked; what the guest must see is derived from flags and operands (Intel SDM
//! volume 1, 11.5.2 and 4.9):
//! - an unmasked invalid, denormal or divide-by-zero exception in any lane hides the flags that follow from results;
//! - unmasked underflow is raised for every tiny result, exact ones too, and switches flush-to-zero off;
//! - where overflow or underflow is unmasked, precision is judged as if exponents had no bounds.

use super::float::{DAZ, FLAGS, FLUSH, Float, Kind, MASKS};
use super::vector::{Vector, join, split};
use crate::core::Core;
use crate::fault::vector;
use crate::mmu::cr4;
use crate::op::Stop;

/// Invalid, denormal and divide by zero: found before a result is computed.
const BEFORE: u32 = 7;
const OVERFLOW: u32 = 1 << 3;
const UNDERFLOW: u32 = 1 << 4;
const PRECISION: u32 = 1 << 5;

/// One, as single and as double: as both operands it raises nothing, whatever the operation.
const ONE_SINGLE: u32 = 0x3f80_0000;
const ONE_DOUBLE: u64 = 0x3ff0_0000_0000_0000;

/// [`super::float::execute`] for an MXCSR with unmasked exceptions.
#[cold]
#[inline(never)]
pub(super) fn execute_unmasked<F: Float>(core: &mut Core, a: Vector, b: Vector) -> Result<Vector, Stop> {
    let guest = core.vector.mxcsr;
    let mut state = guest & !FLAGS | MASKS;
    if guest >> 7 & UNDERFLOW == 0 {
        state &= !FLUSH;
    }
    let control = state;
    let result = F::run(a, b, &mut state);
    let mut flags = state & FLAGS;
    let bounded = guest >> 7 & (OVERFLOW | UNDERFLOW) != OVERFLOW | UNDERFLOW;
    if bounded && F::KIND != Kind::Safe {
        flags = (0..F::LANES).fold(0, |flags, lane| flags | lane_flags::<F>(a, b, lane, control, guest));
    }
    raise(core, flags)?;
    Ok(result)
}

/// Keeps `flags` in the guest's MXCSR and raises the exception if one of them is unmasked.
#[inline]
pub(super) fn raise(core: &mut Core, flags: u32) -> Result<(), Stop> {
    let unmasked = flags & !(core.vector.mxcsr >> 7) & FLAGS;
    let seen = if unmasked & BEFORE != 0 { flags & BEFORE } else { flags };
    core.vector.mxcsr |= seen;
    if unmasked == 0 {
        return Ok(());
    }
    if core.sys.cr4 & cr4::OSXMMEXCPT == 0 {
        return Err(core.ud());
    }
    Err(core.raise(vector::XM))
}

/// The flags of one lane, with underflow and overflow as the guest's masks define them.
fn lane_flags<F: Float>(a: Vector, b: Vector, lane: usize, control: u32, guest: u32) -> u32 {
    let mut state = control;
    let result = F::run(isolate::<F>(a, lane), isolate::<F>(b, lane), &mut state);
    let mut flags = state & FLAGS;
    let unmasked = !(guest >> 7);
    if unmasked & UNDERFLOW != 0 && is_denormal::<F>(result, lane) {
        flags |= UNDERFLOW;
    }
    if flags & BEFORE & !2 == 0 && flags & unmasked & (OVERFLOW | UNDERFLOW) != 0 {
        flags &= !PRECISION;
        if rounds::<F>(a, b, lane, guest & DAZ != 0) {
            flags |= PRECISION;
        }
    }
    flags
}

/// The operand with every other lane replaced by one.
fn isolate<F: Float>(value: Vector, lane: usize) -> Vector {
    if F::DOUBLE {
        let lanes: [u64; 2] = split(value);
        let mut alone = [ONE_DOUBLE; 2];
        alone[lane] = lanes[lane];
        join(alone)
    } else {
        let lanes: [u32; 4] = split(value);
        let mut alone = [ONE_SINGLE; 4];
        alone[lane] = lanes[lane];
        join(alone)
    }
}

/// True when the result in `lane` is denormal.
fn is_denormal<F: Float>(result: Vector, lane: usize) -> bool {
    if F::DOUBLE && F::KIND != Kind::Narrow {
        let bits = split::<[u64; 2]>(result)[lane] & !(1 << 63);
        bits != 0 && bits >> 52 == 0
    } else {
        let bits = split::<[u32; 4]>(result)[lane] & !(1 << 31);
        bits != 0 && bits >> 23 == 0
    }
}

/// A finite value that is not zero: `significand * 2^exponent`, the significand odd.
#[derive(Debug, Clone, Copy)]
struct Parts {
    negative: bool,
    significand: u64,
    exponent: i32,
}

/// The operand in `lane`; `None` for zero.
fn parts<F: Float>(value: Vector, lane: usize, daz: bool) -> Option<Parts> {
    let (bits, fraction_bits, exponent_bits) = if F::DOUBLE {
        (split::<[u64; 2]>(value)[lane], 52, 11)
    } else {
        (u64::from(split::<[u32; 4]>(value)[lane]), 23, 8)
    };
    let fraction = bits & ((1 << fraction_bits) - 1);
    let biased = (bits >> fraction_bits & ((1 << exponent_bits) - 1)) as i32;
    let significand = match biased {
        0 if daz => 0,
        0 => fraction,
        _ => fraction | 1 << fraction_bits,
    };
    if significand == 0 {
        return None;
    }
    let bias = (1 << (exponent_bits - 1)) - 1;
    let shift = significand.trailing_zeros();
    Some(Parts {
        negative: bits >> (fraction_bits + exponent_bits) & 1 != 0,
        significand: significand >> shift,
        exponent: biased.max(1) - bias - fraction_bits + shift as i32,
    })
}

/// True when the exact result in `lane` has more bits than the destination's significand.
fn rounds<F: Float>(a: Vector, b: Vector, lane: usize, daz: bool) -> bool {
    let precision = if F::DOUBLE && F::KIND != Kind::Narrow { 53 } else { 24 };
    let fits = |significand: u128| significand == 0 || bits(significand >> significand.trailing_zeros()) <= precision;
    let Some(b) = parts::<F>(b, lane, daz) else { return false };
    if F::KIND == Kind::Narrow {
        return !fits(u128::from(b.significand));
    }
    let Some(a) = parts::<F>(a, lane, daz) else { return false };
    match F::KIND {
        Kind::Mul => !fits(u128::from(a.significand) * u128::from(b.significand)),
        // Both are odd: the quotient ends only if the divisor divides the dividend.
        Kind::Div => a.significand % b.significand != 0,
        Kind::Add | Kind::Sub | Kind::AddSub => {
            let subtract = F::KIND == Kind::Sub || F::KIND == Kind::AddSub && lane.is_multiple_of(2);
            let same_sign = (a.negative == b.negative) != subtract;
            let (high, low) = if a.exponent >= b.exponent { (a, b) } else { (b, a) };
            let distance = high.exponent.abs_diff(low.exponent);
            if distance > 64 {
                // The odd lowest bit is further away from the highest than any significand is long.
                return true;
            }
            let (high, low) = (u128::from(high.significand) << distance, u128::from(low.significand));
            !fits(if same_sign { high + low } else { high.abs_diff(low) })
        }
        Kind::Narrow | Kind::Safe => false,
    }
}

/// Bits from the highest one that is set.
fn bits(value: u128) -> u32 {
    128 - value.leading_zeros()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{core, step};
    use super::super::vector::join;
    use crate::mmu::cr4;
    use crate::op::Stop;
    use crate::vector;

    const ADDSS: [u8; 4] = [0xf3, 0x0f, 0x58, 0xc1];
    const SUBSS: [u8; 4] = [0xf3, 0x0f, 0x5c, 0xc1];
    const MULSS: [u8; 4] = [0xf3, 0x0f, 0x59, 0xc1];
    const DIVSS: [u8; 4] = [0xf3, 0x0f, 0x5e, 0xc1];
    const CVTSD2SS: [u8; 4] = [0xf2, 0x0f, 0x5a, 0xc1];
    const ADDPS: [u8; 3] = [0x0f, 0x58, 0xc1];
    const MULPS: [u8; 3] = [0x0f, 0x59, 0xc1];
    const DIVPS: [u8; 3] = [0x0f, 0x5e, 0xc1];
    const HADDPS: [u8; 4] = [0xf2, 0x0f, 0x7c, 0xc1];
    const DPPS: [u8; 6] = [0x66, 0x0f, 0x3a, 0x40, 0xc1, 0xff];
    const ONE: u32 = 0x3f80_0000;

    /// Executes and returns MXCSR, and whether #XM was raised.
    fn run(bytes: &[u8], a: [u32; 4], b: [u32; 4], mxcsr: u32) -> (u32, bool) {
        let mut core = core();
        core.set_xmm(0, join(a));
        core.set_xmm(1, join(b));
        core.vector.mxcsr = mxcsr;
        let done = step(&mut core, bytes);
        if done.is_err() {
            assert_eq!(core.fault.vector, vector::XM);
            assert_eq!(super::split::<[u32; 4]>(core.xmm(0)), a, "the destination changed");
        }
        (core.vector.mxcsr, done.is_err())
    }

    fn scalar(bytes: &[u8], a: u32, b: u32, mxcsr: u32) -> (u32, bool) {
        run(bytes, [a, ONE, ONE, ONE], [b, ONE, ONE, ONE], mxcsr)
    }

    /// Seen on processors: MXCSR in the handler of the exception.
    #[test]
    fn scalar_exceptions() {
        // Overflow: exact and rounded, with exponents unbounded.
        assert_eq!(scalar(&ADDSS, 0x7f7f_ffff, 0x7f7f_ffff, 0x1b80), (0x1b88, true));
        assert_eq!(scalar(&ADDSS, 0x7f7f_ffff, 0x7f7f_ffff, 0x1f80), (0x1fa8, false));
        assert_eq!(scalar(&MULSS, 0x7f7f_ffff, 0x3f80_0001, 0x1b80), (0x1ba8, true));
        // Underflow: exact results too, whatever flush-to-zero says.
        assert_eq!(scalar(&MULSS, 0x0080_0000, 0x3f00_0000, 0x1780), (0x1790, true));
        assert_eq!(scalar(&MULSS, 0x0080_0000, 0x3f00_0000, 0x1f80), (0x1f80, false));
        assert_eq!(scalar(&MULSS, 0x0080_0000, 0x3f00_0000, 0x9780), (0x9790, true));
        assert_eq!(scalar(&MULSS, 0x0080_0001, 0x3f00_0000, 0x1780), (0x1790, true));
        assert_eq!(scalar(&MULSS, 0x0080_0001, 0x3f00_0001, 0x1780), (0x17b0, true));
        assert_eq!(scalar(&MULSS, 0x0080_0001, 0x3f00_0001, 0x0780), (0x07b0, true));
        assert_eq!(scalar(&MULSS, 0x0080_0001, 0x3f00_0000, 0x0f80), (0x0fb0, true));
        assert_eq!(scalar(&MULSS, 0x0080_0000, 0x3f00_0000, 0x8f80), (0x8fb0, true));
        assert_eq!(scalar(&SUBSS, 3, 1, 0x1780), (0x1792, true));
        assert_eq!(scalar(&SUBSS, 3, 1, 0x17c0), (0x17c0, false));
        assert_eq!(scalar(&SUBSS, 0x0080_0003, 0x0080_0001, 0x1780), (0x1790, true));
        assert_eq!(run(&CVTSD2SS, [0; 4], [0, 0x37e0_0000, 0, 0], 0x1780), (0x1790, true));
        // Denormal operands and division by zero come before the result.
        assert_eq!(scalar(&ADDSS, 3, 0x3f80_0001, 0x1e80), (0x1e82, true));
        assert_eq!(scalar(&DIVSS, ONE, 0, 0x1d80), (0x1d84, true));
        assert_eq!(scalar(&DIVSS, 1, 0, 0x1e80), (0x1e84, false));
        // A flag that is set already raises nothing by itself.
        assert_eq!(scalar(&ADDSS, ONE, ONE, 0x1b88), (0x1b88, false));
    }

    #[test]
    fn packed_exceptions() {
        let (max, tiny) = (0x7f7f_ffff, 0x0080_0000);
        assert_eq!(run(&DIVPS, [ONE, max, ONE, ONE], [0, tiny, ONE, ONE], 0x1b80), (0x1b8c, true));
        assert_eq!(run(&DIVPS, [ONE, max, ONE, ONE], [0, tiny, ONE, ONE], 0x1d80), (0x1d84, true));
        assert_eq!(run(&ADDPS, [0x7f80_0001, 1, ONE, ONE], [0, ONE, ONE, ONE], 0x1f00), (0x1f03, true));
        assert_eq!(run(&ADDPS, [0x7f80_0001, 1, ONE, ONE], [0, ONE, ONE, ONE], 0x1e80), (0x1e83, true));
        let (a, b) = ([0x7f80_0001, ONE, ONE, ONE], [ONE, 0x4040_0000, 0, ONE]);
        assert_eq!(run(&DIVPS, a, b, 0x0f80), (0x0fa5, true));
        assert_eq!(
            run(&MULPS, [tiny, 0x3f80_0001, ONE, ONE], [0x3f00_0000, 0x3f80_0001, 0, ONE], 0x0f80),
            (0x0fa0, true)
        );
        let (a, b) = ([max, 0x0080_0001, ONE, ONE], [0x4000_0000, 0x3f00_0001, ONE, ONE]);
        assert_eq!(run(&MULPS, a, b, 0x1b80), (0x1bb8, true));
        let (a, b) = ([max, ONE, ONE, ONE], [0x4000_0000, 0x3f00_0001, ONE, ONE]);
        assert_eq!(run(&MULPS, a, b, 0x1b80), (0x1b88, true));
        let (a, b) = ([0x7f80_0001, 0x3f80_0001, 1, ONE], [max, max, ONE, ONE]);
        assert_eq!(run(&HADDPS, a, b, 0x1f00), (0x1f03, true));
    }

    #[test]
    fn dot_product_stops_at_the_first_exception() {
        let max = 0x7f7f_ffff;
        let (a, b) = ([max, 0x3f80_0001, 1, ONE], [max, max, ONE, ONE]);
        assert_eq!(run(&DPPS, a, b, 0x1b80), (0x1baa, true));
        assert_eq!(run(&DPPS, a, b, 0x1e80), (0x1e82, true));
        assert_eq!(run(&DPPS, a, b, 0x1f80), (0x1faa, false));
        let (a, b) = ([0x7f80_0000, 0x3f80_0001, 0xff80_0000, ONE], [ONE, max, ONE, ONE]);
        assert_eq!(run(&DPPS, a, b, 0x1f00), (0x1f29, true));
    }

    #[test]
    fn invalid_opcode_without_osxmmexcpt() {
        let mut core = core();
        core.sys.cr4 &= !cr4::OSXMMEXCPT;
        core.set_xmm(0, join([ONE, 0, 0, 0]));
        core.vector.mxcsr = 0x1d80;
        assert_eq!(step(&mut core, &DIVSS), Err(Stop::Fault));
        assert_eq!(core.fault.vector, vector::UD);
    }
}
