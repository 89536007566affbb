//! FPREM, FPREM1, FSCALE, FXTRACT and FRNDINT: exact operations on exponent and significand.

use super::compare::{C0, C2, C3};
use super::convert;
use super::float::{BIAS, C1, Class, Env, INTEGER, Operand, ZE, float, infinity, zero};
use crate::state::Float80;

/// FPREM (`nearest` false: the quotient is truncated) and FPREM1 (rounded to nearest). Returns the (partial) remainder and
/// the condition codes, which other results leave alone.
///
/// When the exponents differ by 64 or more, one execution takes off as many bits as Intel's processors do, 32 to 63;
/// the manual leaves the number open in that range.
pub(super) fn remainder(env: &mut Env, a: &Operand, b: &Operand, nearest: bool) -> (Float80, Option<u16>) {
    if let Some(nan) = env.two_nans(a, b) {
        return (nan, None);
    }
    if a.is_infinity() || b.is_zero() {
        return (env.invalid(), None);
    }
    env.note_denormal(&[a, b]);
    if a.is_zero() {
        return (a.raw, Some(0));
    }
    if b.is_infinity() {
        return (exact(env, a.negative, a.exponent, u128::from(a.significand)), Some(0));
    }
    let distance = a.exponent - b.exponent;
    let divisor = u128::from(b.significand);
    if distance >= 64 {
        let bits = distance & 31 | 32;
        let rest = (u128::from(a.significand) << bits) % divisor;
        return (exact(env, a.negative, b.exponent + distance - bits, rest), Some(C2));
    }
    if distance < -1 || distance == -1 && !nearest {
        return (exact(env, a.negative, a.exponent, u128::from(a.significand)), Some(0));
    }
    // At distance -1 the quotient is below one; both are taken at the exponent of `a`.
    let (dividend, divisor, exponent) = if distance < 0 {
        (u128::from(a.significand), 2 * divisor, a.exponent)
    } else {
        (u128::from(a.significand) << distance, divisor, b.exponent)
    };
    let (mut quotient, mut rest) = (dividend / divisor, dividend % divisor);
    let mut negative = a.negative;
    if nearest && (2 * rest > divisor || 2 * rest == divisor && quotient & 1 != 0) {
        rest = divisor - rest;
        quotient += 1;
        negative = !negative;
    }
    let bit = |n: u32, code: u16| if quotient >> n & 1 != 0 { code } else { 0 };
    let result = if rest == 0 { zero(a.negative) } else { exact(env, negative, exponent, rest) };
    (result, Some(bit(0, C1) | bit(1, C3) | bit(2, C0)))
}

/// The value `significand / 2^63 * 2^(exponent - BIAS)`, where `significand` has at most 64 bits; zero keeps the sign.
fn exact(env: &mut Env, negative: bool, exponent: i32, significand: u128) -> Float80 {
    if significand == 0 {
        return zero(negative);
    }
    let shift = significand.leading_zeros();
    env.finish(negative, exponent + 64 - shift as i32, significand << shift)
}

/// FSCALE: `a` times two to the power of `b`, truncated.
pub(super) fn scale(env: &mut Env, a: &Operand, b: &Operand) -> Float80 {
    if let Some(nan) = env.two_nans(a, b) {
        return nan;
    }
    let invalid = b.is_infinity() && (a.is_zero() && !b.negative || a.is_infinity() && b.negative);
    if invalid {
        return env.invalid();
    }
    env.note_denormal(&[a, b]);
    if a.is_zero() || a.is_infinity() {
        return a.raw;
    }
    if b.is_infinity() {
        return if b.negative { zero(a.negative) } else { infinity(a.negative) };
    }
    let exponent = b.exponent - BIAS;
    let power = match exponent {
        _ if b.is_zero() || exponent < 0 => 0,
        // Far beyond the range of results, whatever `a` is.
        17.. => 0x2_0000,
        _ => (b.significand >> (63 - exponent)) as i32,
    };
    let power = if b.negative { -power } else { power };
    env.finish(a.negative, a.exponent + power, u128::from(a.significand) << 64)
}

/// FXTRACT: the exponent, which replaces ST(0), and the significand, which is pushed.
pub(super) fn extract(env: &mut Env, a: &Operand) -> (Float80, Float80) {
    if let Some(nan) = env.one_nan(a) {
        return (nan, nan);
    }
    match a.class {
        Class::Infinity => (infinity(false), a.raw),
        Class::Zero => {
            env.raise(ZE);
            (infinity(true), a.raw)
        }
        _ => {
            env.note_denormal(&[a]);
            let exponent = convert::from_integer(i64::from(a.exponent - BIAS));
            (exponent.raw, float(a.negative, BIAS, a.significand))
        }
    }
}

/// FRNDINT.
pub(super) fn round_to_integer(env: &mut Env, a: &Operand) -> Float80 {
    if let Some(nan) = env.one_nan(a) {
        return nan;
    }
    env.note_denormal(&[a]);
    if !a.is_finite() || a.exponent >= BIAS + 63 {
        return a.raw;
    }
    match convert::to_whole(env, a) {
        Some(0) => zero(a.negative),
        Some(whole) => {
            let shift = whole.leading_zeros();
            float(a.negative, BIAS + 63 - shift as i32, whole << shift)
        }
        // A carry out of 64 bits needs an exponent of 63.
        None => float(a.negative, BIAS + 64, INTEGER),
    }
}
