//! FADD, FSUB, FMUL, FDIV and FSQRT on operands: exact results, rounded once (Intel SDM volume 1, 8.3.5).

use super::float::{BIAS, Rounding};
use super::float::{Class, Env, INTEGER, Operand, ZE, infinity, shift_right_sticky, zero};
use crate::state::Float80;

/// `a + b`.
pub(super) fn add(env: &mut Env, a: &Operand, b: &Operand) -> Float80 {
    if let Some(nan) = env.two_nans(a, b) {
        return nan;
    }
    if a.is_infinity() && b.is_infinity() && a.negative != b.negative {
        return env.invalid();
    }
    env.note_denormal(&[a, b]);
    if a.is_infinity() || b.is_infinity() {
        return infinity(if a.is_infinity() { a.negative } else { b.negative });
    }
    match (a.is_zero(), b.is_zero()) {
        (true, true) if a.negative == b.negative => zero(a.negative),
        (true, true) => zero(env.rounding == Rounding::Down),
        (true, false) => whole(env, b),
        (false, true) => whole(env, a),
        (false, false) => add_finite(env, a, b),
    }
}

/// A finite value rounded to the precision in force.
fn whole(env: &mut Env, a: &Operand) -> Float80 {
    env.finish(a.negative, a.exponent, u128::from(a.significand) << 64)
}

fn add_finite(env: &mut Env, a: &Operand, b: &Operand) -> Float80 {
    let a_is_larger = (a.exponent, a.significand) >= (b.exponent, b.significand);
    let (large, small) = if a_is_larger { (a, b) } else { (b, a) };
    let distance = (large.exponent - small.exponent) as u32;
    let x = u128::from(large.significand) << 64;
    let y = shift_right_sticky(u128::from(small.significand) << 64, distance);
    if large.negative == small.negative {
        let (sum, carry) = x.overflowing_add(y);
        return if carry {
            env.finish(large.negative, large.exponent + 1, 1 << 127 | sum >> 1 | sum & 1)
        } else {
            env.finish(large.negative, large.exponent, sum)
        };
    }
    let difference = x - y;
    if difference == 0 {
        return zero(env.rounding == Rounding::Down);
    }
    let shift = difference.leading_zeros();
    env.finish(large.negative, large.exponent - shift as i32, difference << shift)
}

/// `a * b`.
pub(super) fn multiply(env: &mut Env, a: &Operand, b: &Operand) -> Float80 {
    if let Some(nan) = env.two_nans(a, b) {
        return nan;
    }
    if a.is_infinity() && b.is_zero() || a.is_zero() && b.is_infinity() {
        return env.invalid();
    }
    env.note_denormal(&[a, b]);
    let negative = a.negative != b.negative;
    if a.is_infinity() || b.is_infinity() {
        return infinity(negative);
    }
    if a.is_zero() || b.is_zero() {
        return zero(negative);
    }
    let product = u128::from(a.significand) * u128::from(b.significand);
    let shift = product.leading_zeros();
    env.finish(negative, a.exponent + b.exponent - BIAS + 1 - shift as i32, product << shift)
}

/// `a / b`.
pub(super) fn divide(env: &mut Env, a: &Operand, b: &Operand) -> Float80 {
    if let Some(nan) = env.two_nans(a, b) {
        return nan;
    }
    if a.is_infinity() && b.is_infinity() || a.is_zero() && b.is_zero() {
        return env.invalid();
    }
    let negative = a.negative != b.negative;
    if b.is_zero() && a.is_finite() {
        env.raise(ZE);
        return infinity(negative);
    }
    env.note_denormal(&[a, b]);
    if a.is_infinity() || b.is_zero() {
        return infinity(negative);
    }
    if a.is_zero() || b.is_infinity() {
        return zero(negative);
    }
    let smaller = a.significand < b.significand;
    let dividend = u128::from(a.significand) << if smaller { 64 } else { 63 };
    let divisor = u128::from(b.significand);
    let (quotient, rest) = (dividend / divisor, dividend % divisor);
    let exponent = a.exponent - b.exponent + BIAS - i32::from(smaller);
    env.finish(negative, exponent, quotient << 64 | tail(2 * rest, divisor))
}

/// The 64 bits below the last bit of a result, as far as rounding sees them: `twice` (the remainder doubled) against the
/// divisor tells whether one half or more is left.
fn tail(twice: u128, divisor: u128) -> u128 {
    u128::from(twice >= divisor) << 63 | u128::from(twice != 0 && twice != divisor)
}

/// Square root.
pub(super) fn square_root(env: &mut Env, a: &Operand) -> Float80 {
    if let Some(nan) = env.one_nan(a) {
        return nan;
    }
    if a.is_zero() {
        return a.raw;
    }
    if a.negative {
        return env.invalid();
    }
    env.note_denormal(&[a]);
    if a.class == Class::Infinity {
        return a.raw;
    }
    let unbiased = a.exponent - BIAS;
    // An even exponent, so that half of it is whole: the radicand is 1.x or 1x.x.
    let radicand = u128::from(a.significand) << (63 + (unbiased & 1));
    let root = radicand.isqrt();
    debug_assert!(root as u64 & INTEGER != 0);
    let rest = radicand - root * root;
    // The root is never exactly half way: (root + 1/2)^2 is not whole.
    let tail = u128::from(rest > root) << 63 | u128::from(rest != 0);
    env.finish(false, (unbiased >> 1) + BIAS, root << 64 | tail)
}
