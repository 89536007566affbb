//! F2XM1, FYL2X, FYL2XP1 and the constants.

use super::float::{BIAS, Env, INTEGER, Operand, ZE, float, infinity, zero};
use super::trigonometry::odd_reciprocals;
use super::wide::{FIXED_ONE, Wide, multiply_high};
use crate::state::Float80;

/// Natural logarithm of two, as a [`Wide`] significand with exponent -1.
const LN_2: u128 = 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af;
/// Logarithm of e to base two, with exponent 0.
const LOG2_E: u128 = 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e88;
/// The square root of one half, 0.64 fixed point.
const ROOT_HALF: u64 = 0xb504_f333_f9de_6484;

/// Terms of the exponential series for arguments up to ln 2.
const EXP_TERMS: usize = 34;
/// 1/(k+1)!, 1.127 fixed point.
const EXP: [u128; EXP_TERMS] = {
    let mut table = [FIXED_ONE; EXP_TERMS];
    let mut k = 1;
    while k < EXP_TERMS {
        table[k] = table[k - 1] / (k as u128 + 1);
        k += 1;
    }
    table
};

/// F2XM1: two to the power of `a`, less one. Outside -1 to 1, where the manual leaves the result open, it is `a`.
pub(super) fn f2xm1(env: &mut Env, a: &Operand) -> Float80 {
    if let Some(nan) = env.one_nan(a) {
        return nan;
    }
    env.note_denormal(&[a]);
    if a.is_infinity() {
        return if a.negative { float(true, BIAS, INTEGER) } else { a.raw };
    }
    if a.is_zero() {
        return a.raw;
    }
    if a.exponent >= BIAS {
        let minus_one = a.negative && a.exponent == BIAS && a.significand == INTEGER;
        return if minus_one { float(true, BIAS - 1, INTEGER) } else { a.raw };
    }
    let x = Wide::from_operand(a).multiply(Wide { negative: false, exponent: -1, significand: LN_2 });
    // (e^x - 1) / x, where each term takes the sign of x.
    let fraction = x.fraction();
    let sum = EXP.iter().rev().fold(0, |sum, &coefficient| {
        let term = multiply_high(fraction, sum);
        if x.negative { coefficient - term } else { coefficient + term }
    });
    x.multiply(Wide::new(false, 0, sum)).finish(env)
}

/// Terms of the series of the inverse hyperbolic tangent for arguments up to 0.172.
const ATANH_TERMS: usize = 26;
const ATANH: [u128; ATANH_TERMS] = odd_reciprocals();

/// Logarithm to base two of `(1 + s) / (1 - s)`, for `s` up to 0.172 in magnitude, not zero.
fn log2_ratio(s: Wide) -> Wide {
    let t = s.square_fraction();
    let sum = ATANH.iter().rev().fold(0, |sum, &coefficient| coefficient + multiply_high(t, sum));
    // 2 / ln 2 * s * sum
    s.multiply(Wide::new(false, 0, sum)).multiply(Wide { negative: false, exponent: 1, significand: LOG2_E })
}

/// Logarithm to base two of a number above zero, and whether it is exact (a power of two).
fn log2(x: Wide) -> (Wide, bool) {
    // Between the square roots of one half and of two, so that the logarithm of what is near one keeps its precision.
    let high = (x.significand >> 64) as u64;
    let power = if high > ROOT_HALF { x.exponent + 1 } else { x.exponent };
    let mantissa = x.scaled(-power);
    let one = Wide::from_integer(1);
    let difference = mantissa.add(one.negated());
    if difference.significand == 0 {
        return (Wide::from_integer(power), true);
    }
    let fraction = log2_ratio(difference.divide(mantissa.add(one)));
    (Wide::from_integer(power).add(fraction), false)
}

/// A product `y * log` where `log` is a logarithm of a number that is not one.
fn finish_product(env: &mut Env, y: &Operand, log: Wide, exact: bool) -> Float80 {
    let product = Wide::from_operand(y).multiply(log);
    if exact { product.finish_exact(env) } else { product.finish(env) }
}

/// FYL2X: `y` times the logarithm of `x` to base two; `x` in ST(0) and `y` in ST(1).
pub(super) fn fyl2x(env: &mut Env, y: &Operand, x: &Operand) -> Float80 {
    if let Some(nan) = env.two_nans(y, x) {
        return nan;
    }
    if x.is_zero() {
        if y.is_zero() {
            return env.invalid();
        }
        if y.is_finite() {
            env.raise(ZE);
        }
        return infinity(!y.negative);
    }
    if x.negative {
        return env.invalid();
    }
    let is_one = x.is_finite() && x.exponent == BIAS && x.significand == INTEGER;
    if x.is_infinity() && y.is_zero() || is_one && y.is_infinity() {
        return env.invalid();
    }
    env.note_denormal(&[y, x]);
    let negative = y.negative != (x.is_finite() && x.exponent < BIAS);
    if x.is_infinity() || y.is_infinity() {
        return infinity(negative);
    }
    if is_one || y.is_zero() {
        return zero(negative);
    }
    let (log, exact) = log2(Wide::from_operand(x));
    finish_product(env, y, log, exact)
}

/// FYL2XP1: `y` times the logarithm of `1 + x` to base two.
///
/// The manual defines it for `x` between -(1 - sqrt(1/2)) and sqrt(2) - 1. Beyond, it is computed all the same;
/// at -1 it is an infinity with #Z, and below that invalid.
pub(super) fn fyl2xp1(env: &mut Env, y: &Operand, x: &Operand) -> Float80 {
    if let Some(nan) = env.two_nans(y, x) {
        return nan;
    }
    let negative = y.negative != x.negative;
    if x.is_infinity() && (x.negative || y.is_zero()) || x.is_zero() && y.is_infinity() {
        return env.invalid();
    }
    if x.is_finite() && x.negative && x.exponent >= BIAS {
        if x.exponent > BIAS || x.significand != INTEGER || y.is_zero() {
            return env.invalid();
        }
        if y.is_finite() {
            env.raise(ZE);
        }
        return infinity(!y.negative);
    }
    env.note_denormal(&[y, x]);
    if x.is_infinity() || y.is_infinity() {
        return infinity(negative);
    }
    if x.is_zero() || y.is_zero() {
        return zero(negative);
    }
    let wide = Wide::from_operand(x);
    if wide.exponent < -2 {
        // log(1 + x) = 2 atanh(x / (2 + x)).
        let ratio = wide.divide(Wide::from_integer(2).add(wide));
        return finish_product(env, y, log2_ratio(ratio), false);
    }
    // 1 + x is exact in 128 bits up to 2^63; beyond, the one is under the precision.
    let (log, exact) = log2(Wide::from_integer(1).add(wide));
    finish_product(env, y, log, exact && x.exponent < BIAS + 120)
}

/// The constants of FLDL2T, FLDL2E, FLDPI, FLDLG2 and FLDLN2: biased exponent and 128 bits of significand.
pub(super) mod constant {
    pub const LOG2_10: (i32, u128) = (0x4000, 0xd49a_784b_cd1b_8afe_492b_f6ff_4daf_db4c);
    pub const LOG2_E: (i32, u128) = (0x3fff, super::LOG2_E);
    pub const PI: (i32, u128) = (0x4000, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);
    pub const LOG10_2: (i32, u128) = (0x3ffd, 0x9a20_9a84_fbcf_f798_8f89_59ac_0b7c_9178);
    pub const LN_2: (i32, u128) = (0x3ffe, super::LN_2);
}

/// A constant, rounded as rounding control says. It raises nothing.
pub(super) fn load_constant(env: &mut Env, (exponent, significand): (i32, u128)) -> Float80 {
    let value = env.finish(false, exponent, significand);
    env.flags = 0;
    value
}
