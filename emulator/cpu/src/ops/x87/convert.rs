//! Conversions between the 80-bit format and memory formats: 32-bit and 64-bit floating point, integers, packed decimal.

use super::float::{BIAS, C1, Class, Env, IE, INTEGER, OE, Operand, PE, UE, float, shift_right_sticky, zero};
use crate::state::Float80;

/// A binary interchange format of 32 or 64 bits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    /// Stored bits of the significand.
    fraction: u32,
    /// Bits of the exponent.
    exponent: u32,
}

/// Single precision.
pub(super) const SINGLE: Format = Format { fraction: 23, exponent: 8 };
/// Double precision.
pub(super) const DOUBLE: Format = Format { fraction: 52, exponent: 11 };

impl Format {
    const fn maximum(self) -> i32 {
        (1 << self.exponent) - 1
    }

    const fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    const fn encode(self, negative: bool, exponent: i32, fraction: u64) -> u64 {
        (negative as u64) << (self.fraction + self.exponent) | (exponent as u64) << self.fraction | fraction
    }
}

/// Takes a memory operand apart; nothing is raised yet.
pub(super) fn from_format(bits: u64, format: Format) -> Operand {
    let negative = bits >> (format.fraction + format.exponent) & 1 != 0;
    let exponent = (bits >> format.fraction) as i32 & format.maximum();
    // The fraction below the integer bit of the 80-bit format.
    let fraction = bits << (63 - format.fraction) & (INTEGER - 1);
    if exponent == format.maximum() {
        return Operand::new(float(negative, 0x7fff, INTEGER | fraction));
    }
    if exponent != 0 {
        return Operand::new(float(negative, exponent - format.bias() + BIAS, INTEGER | fraction));
    }
    if fraction == 0 {
        return Operand::new(zero(negative));
    }
    let shift = fraction.leading_zeros();
    let raw = float(negative, 1 - format.bias() + BIAS - shift as i32, fraction << shift);
    Operand { denormal: true, ..Operand::new(raw) }
}

/// Takes a signed integer apart.
pub(super) fn from_integer(value: i64) -> Operand {
    if value == 0 {
        return Operand::new(zero(false));
    }
    let magnitude = value.unsigned_abs();
    let shift = magnitude.leading_zeros();
    Operand::new(float(value < 0, BIAS + 63 - shift as i32, magnitude << shift))
}

/// FST to a 32-bit or 64-bit format.
pub(super) fn to_format(env: &mut Env, a: &Operand, format: Format) -> u64 {
    let quiet_bit = 1 << (format.fraction - 1);
    match a.class {
        Class::Zero => return format.encode(a.negative, 0, 0),
        Class::Infinity => return format.encode(a.negative, format.maximum(), 0),
        Class::Unsupported => {
            env.raise(IE);
            return format.encode(true, format.maximum(), quiet_bit);
        }
        Class::QuietNan | Class::SignalingNan => {
            if a.class == Class::SignalingNan {
                env.raise(IE);
            }
            let fraction = (a.raw.mantissa & (INTEGER - 1)) >> (63 - format.fraction);
            return format.encode(a.negative, format.maximum(), fraction | quiet_bit);
        }
        Class::Finite => {}
    }
    let bits = format.fraction + 1;
    let significand = u128::from(a.significand) << 64;
    let exponent = a.exponent - BIAS + format.bias();
    let rounded = env.round(a.negative, significand, bits);
    let after = exponent + i32::from(rounded.carry);
    if after >= format.maximum() {
        env.raise(OE | PE);
        if !env.overflows_to_infinity(a.negative) {
            return format.encode(a.negative, format.maximum() - 1, (1 << format.fraction) - 1);
        }
        env.raise(C1);
        return format.encode(a.negative, format.maximum(), 0);
    }
    if after > 0 {
        env.inexact(&rounded);
        let fraction = (rounded.significand << 1 >> (128 - format.fraction)) as u64;
        return format.encode(a.negative, after, fraction);
    }
    let shifted = shift_right_sticky(significand, (1 - exponent) as u32);
    let rounded = env.round(a.negative, shifted, bits);
    if rounded.inexact || !env.is_masked(UE) {
        env.raise(UE);
    }
    env.inexact(&rounded);
    // Rounding up to the smallest normal number sets the lowest bit of the exponent field.
    format.encode(a.negative, 0, (rounded.significand >> (127 - format.fraction)) as u64)
}

/// Rounds to a whole number as rounding control says (or towards zero); its magnitude. `None` when it has more than
/// 64 bits or `a` is not a number. Raises #P only.
pub(super) fn to_whole(env: &mut Env, a: &Operand) -> Option<u64> {
    if a.is_zero() {
        return Some(0);
    }
    let exponent = a.exponent - BIAS;
    if !a.is_finite() || exponent > 63 {
        return None;
    }
    // 64 bits above the point, 64 below.
    let fixed = shift_right_sticky(u128::from(a.significand) << 64, (63 - exponent) as u32);
    let rounded = env.round(a.negative, fixed, 64);
    if rounded.carry {
        return None;
    }
    env.inexact(&rounded);
    Some((rounded.significand >> 64) as u64)
}

/// FIST to `bits` (16, 32 or 64) bits. Out of range is invalid and gives the integer indefinite.
pub(super) fn to_integer(env: &mut Env, a: &Operand, bits: u32) -> u64 {
    let limit = 1u64 << (bits - 1);
    let before = env.flags;
    match to_whole(env, a) {
        Some(magnitude) if magnitude < limit || magnitude == limit && a.negative => {
            if a.negative {
                magnitude.wrapping_neg()
            } else {
                magnitude
            }
        }
        _ => {
            env.flags = before | IE;
            limit
        }
    }
}

/// The largest magnitude that packed decimal holds.
const DECIMAL_MAX: u64 = 999_999_999_999_999_999;
/// Packed decimal indefinite.
pub(super) const DECIMAL_INDEFINITE: u128 = 0xffff_c000_0000_0000_0000;

/// FBSTP: 18 digits, two in a byte, and the sign in bit 79.
pub(super) fn to_decimal(env: &mut Env, a: &Operand) -> u128 {
    let before = env.flags;
    match to_whole(env, a) {
        Some(mut magnitude) if magnitude <= DECIMAL_MAX => {
            let mut packed = u128::from(a.negative) << 79;
            for digit in 0..18 {
                packed |= u128::from(magnitude % 10) << (4 * digit);
                magnitude /= 10;
            }
            packed
        }
        _ => {
            env.flags = before | IE;
            DECIMAL_INDEFINITE
        }
    }
}

/// FBLD. Digits above nine, which the manual leaves open, count as their value.
pub(super) fn from_decimal(packed: u128) -> Float80 {
    let negative = packed >> 79 & 1 != 0;
    let magnitude = (0..18).rev().fold(0u64, |sum, digit| 10 * sum + (packed >> (4 * digit)) as u64 % 16);
    match i64::try_from(magnitude) {
        Ok(0) => zero(negative),
        Ok(value) => from_integer(if negative { -value } else { value }).raw,
        // Fifteen in every place stays below 2^61.
        Err(_) => unreachable!("18 digits fit 63 bits"),
    }
}
