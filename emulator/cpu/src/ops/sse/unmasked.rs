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
            let subtract = F::KIND == Kind::Sub || F::KIND == Kind::AddSub && lane % 2 == 0;
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
