//! FSIN, FCOS, FSINCOS, FPTAN and FPATAN.
//!
//! Arguments of the first four are reduced by the 66-bit value of pi that Intel's processors use (SDM volume 1,
//! 8.3.8), exactly: the results are those of the mathematical functions with `pi` replaced by that value, rounded once.
//! FPATAN uses pi itself.

use super::float::{BIAS, Class, Env, ONE, Operand, zero};
use super::wide::{FIXED_ONE, Wide, multiply_high};
use crate::state::Float80;

/// Half of the 66-bit pi, in units of 2^-65.
const HALF_PI: u128 = 0x3_243f_6a88_85a3_08d3;
/// Pi in 2.126 fixed point: as a [`Wide`] significand with exponent 1.
const PI: u128 = 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1;
/// Three quarters of pi, likewise.
const THREE_QUARTERS_PI: u128 = 0x96cb_e3f9_990e_91a7_9394_c9e8_a0a5_159c;
/// Below this exponent the second term of a series is under 2^-100 of the first.
const TINY: i32 = -50;

/// Terms of the sine and cosine series for arguments up to pi/4: the rest is below 2^-126.
const TERMS: usize = 16;
/// 1/(2k+1)!, 1.127 fixed point.
const SINE: [u128; TERMS] = reciprocal_factorials(1);
/// 1/(2k)!, 1.127 fixed point.
const COSINE: [u128; TERMS] = reciprocal_factorials(0);

const fn reciprocal_factorials(first: u128) -> [u128; TERMS] {
    let mut table = [FIXED_ONE; TERMS];
    let mut k = 1;
    while k < TERMS {
        let n = 2 * k as u128 + first;
        table[k] = table[k - 1] / (n * (n - 1));
        k += 1;
    }
    table
}

/// Terms of the arc tangent series for arguments up to 1/16.
const ATAN_TERMS: usize = 16;
/// atan(k/8), 0.128 fixed point; made with 400-bit arithmetic.
const ATAN_EIGHTHS: [u128; 9] = [
    0,
    0x1fd5_ba9a_ac2f_6dc6_5912_f313_e7d1_11de,
    0x3eb6_ebf2_5901_bac5_5b71_e7bd_7de8_85f9,
    0x5bd8_6507_937b_c239_c551_9091_6e7f_2241,
    0x76b1_9c15_86ed_3da2_b7f2_22f6_5e1d_4681,
    0x8f00_5d5e_f7f5_9f9b_5c83_5e16_65c4_3747,
    0xa4bc_7d19_34f7_0924_19a8_7f2a_457d_ac9e,
    0xb805_3e2b_c231_9e73_cb2d_a552_10a4_443d,
    0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1,
];

/// `c0 - t (c1 - t (c2 - ...))` with `t` in 0.128 fixed point, just below `c0` at most.
fn alternating(coefficients: &[u128], t: u128) -> u128 {
    let sum = coefficients.iter().rev().fold(0, |sum, &coefficient| coefficient - multiply_high(t, sum));
    // The sum is less than its first term, even where that does not show in 127 bits.
    sum.min(coefficients[0] - 1)
}

/// A finite argument, not zero, as `quadrant * pi/2 + rest` with `rest` between -pi/4 and pi/4; the quadrant modulo 4.
fn reduce(a: &Operand) -> (u8, Wide) {
    let exponent = a.exponent - BIAS;
    if exponent < -1 {
        return (0, Wide::from_operand(a));
    }
    // In units of 2^-65; the caller made sure that the exponent is at most 62.
    let value = u128::from(a.significand) << (exponent + 2);
    let mut quadrant = (value / HALF_PI) as u8 & 3;
    let mut rest = value % HALF_PI;
    let mut negative = a.negative;
    if rest > HALF_PI / 2 {
        rest = HALF_PI - rest;
        quadrant = (quadrant + 1) & 3;
        negative = !negative;
    }
    if a.negative {
        quadrant = (4 - quadrant) & 3;
    }
    (quadrant, Wide::new(negative, 127 - 65, rest))
}

/// Sine of an argument up to pi/4.
fn sine(x: Wide) -> Wide {
    if x.exponent < TINY {
        // x - x^3/6 is just below x.
        return Wide::new(x.negative, x.exponent, x.significand - 1);
    }
    x.multiply(Wide::new(false, 0, alternating(&SINE, x.square_fraction())))
}

/// Cosine of an argument up to pi/4.
fn cosine(x: Wide) -> Wide {
    Wide::new(false, 0, alternating(&COSINE, x.square_fraction()))
}

/// Sine and cosine of a reduced argument.
fn sine_cosine(quadrant: u8, rest: Wide) -> (Wide, Wide) {
    let (sin, cos) = (sine(rest), cosine(rest));
    match quadrant {
        0 => (sin, cos),
        1 => (cos, sin.negated()),
        2 => (sin.negated(), cos.negated()),
        _ => (cos.negated(), sin),
    }
}

/// True when the argument is out of range: the functions then only set C2.
pub(super) fn out_of_range(a: &Operand) -> bool {
    a.is_finite() && a.exponent >= BIAS + 63
}

/// What NaNs and infinities give; raises #D for others.
fn special(env: &mut Env, a: &Operand) -> Option<Float80> {
    if let Some(nan) = env.one_nan(a) {
        return Some(nan);
    }
    if a.is_infinity() {
        return Some(env.invalid());
    }
    env.note_denormal(&[a]);
    None
}

/// FSIN of an argument in range.
pub(super) fn fsin(env: &mut Env, a: &Operand) -> Float80 {
    if let Some(result) = special(env, a) {
        return result;
    }
    if a.is_zero() {
        return a.raw;
    }
    let (quadrant, rest) = reduce(a);
    sine_cosine(quadrant, rest).0.finish(env)
}

/// FCOS of an argument in range.
pub(super) fn fcos(env: &mut Env, a: &Operand) -> Float80 {
    if let Some(result) = special(env, a) {
        return result;
    }
    if a.is_zero() {
        return ONE;
    }
    let (quadrant, rest) = reduce(a);
    sine_cosine(quadrant, rest).1.finish(env)
}

/// FPTAN of an argument in range.
pub(super) fn fptan(env: &mut Env, a: &Operand) -> Float80 {
    if let Some(result) = special(env, a) {
        return result;
    }
    if a.is_zero() {
        return a.raw;
    }
    let (quadrant, rest) = reduce(a);
    if rest.exponent < TINY {
        if quadrant & 1 == 0 {
            // x + x^3/3 is just above x, which the sticky bit says.
            return rest.finish(env);
        }
        // 1/x - x/3 is just below 1/x.
        let inverse = Wide::from_integer(1).divide(rest);
        return Wide::new(!inverse.negative, inverse.exponent, inverse.significand - 1).finish(env);
    }
    let (sin, cos) = sine_cosine(quadrant, rest);
    sin.divide(cos).finish(env)
}

/// FPATAN: the angle of the point (`x`, `y`), `x` in ST(0) and `y` in ST(1).
pub(super) fn fpatan(env: &mut Env, y: &Operand, x: &Operand) -> Float80 {
    if let Some(nan) = env.two_nans(y, x) {
        return nan;
    }
    env.note_denormal(&[y, x]);
    let angle = |exponent, significand| Wide { negative: y.negative, exponent, significand };
    if y.is_infinity() {
        return match (x.is_infinity(), x.negative) {
            (true, true) => angle(1, THREE_QUARTERS_PI),
            (true, false) => angle(-1, PI),
            _ => angle(0, PI),
        }
        .finish(env);
    }
    if y.is_zero() || x.is_infinity() {
        return if x.negative { angle(1, PI).finish(env) } else { zero(y.negative) };
    }
    if x.is_zero() {
        return angle(0, PI).finish(env);
    }
    let (ordinate, abscissa) = (absolute(y), absolute(x));
    let steep = (ordinate.exponent, ordinate.significand) > (abscissa.exponent, abscissa.significand);
    let (small, large) = if steep { (abscissa, ordinate) } else { (ordinate, abscissa) };
    let mut result = arc_tangent(small.divide(large));
    if steep {
        result = Wide { negative: false, exponent: 0, significand: PI }.add(result.negated());
    }
    if x.negative {
        result = Wide { negative: false, exponent: 1, significand: PI }.add(result.negated());
    }
    Wide { negative: y.negative, ..result }.finish(env)
}

fn absolute(a: &Operand) -> Wide {
    Wide { negative: false, ..Wide::from_operand(a) }
}

/// Arc tangent of an argument above zero, up to one.
fn arc_tangent(z: Wide) -> Wide {
    if z.exponent < TINY {
        // z - z^3/3 is just below z.
        return Wide::new(false, z.exponent, z.significand - 1);
    }
    let eighths = if z.exponent >= 0 {
        8
    } else {
        // Rounded to nearest; the sum cannot overflow 2^128 but for what would be eight.
        z.fraction().checked_add(1 << 124).map_or(8, |sum| (sum >> 125) as usize)
    };
    if eighths == 0 {
        return small_arc_tangent(z);
    }
    // atan(z) = atan(c) + atan((z - c) / (1 + z c)).
    let c = Wide::from_integer(eighths as i32).scaled(-3);
    let one = Wide::from_integer(1);
    let rest = z.add(c.negated()).divide(one.add(z.multiply(c)));
    let base = Wide::new(false, -1, ATAN_EIGHTHS[eighths]);
    if rest.significand == 0 {
        return base;
    }
    let magnitude = small_arc_tangent(Wide { negative: false, ..rest });
    base.add(Wide { negative: rest.negative, ..magnitude })
}

/// Arc tangent of an argument above zero, up to 1/16.
fn small_arc_tangent(z: Wide) -> Wide {
    const COEFFICIENTS: [u128; ATAN_TERMS] = odd_reciprocals();
    z.multiply(Wide::new(false, 0, alternating(&COEFFICIENTS, z.square_fraction())))
}

/// 1/(2k+1), 1.127 fixed point.
pub(super) const fn odd_reciprocals<const N: usize>() -> [u128; N] {
    let mut table = [FIXED_ONE; N];
    let mut k = 1;
    while k < N {
        table[k] = FIXED_ONE / (2 * k as u128 + 1);
        k += 1;
    }
    table
}

/// True when FPTAN and FSINCOS give the same NaN in both registers.
pub(super) fn gives_nan(a: &Operand) -> bool {
    a.is_infinity() || a.is_nan() || a.class == Class::Unsupported
}
