//! Numbers with a 128-bit significand, for the transcendental functions.
//!
//! Operations truncate: each is off by less than 2^-126 of its result, so that a result built from some dozens of them has
//! well over 110 good bits when it is rounded to 64.

use super::float::{BIAS, Env, Operand, shift_right_sticky};
use crate::state::Float80;

/// `significand / 2^127 * 2^exponent`, negated if so marked. Bit 127 of the significand is set, except in zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wide {
    pub negative: bool,
    pub exponent: i32,
    pub significand: u128,
}

/// Number of fraction bits of series sums (1.127 fixed point).
pub(super) const FIXED_ONE: u128 = 1 << 127;

/// The upper half of the product of two 128-bit numbers.
pub(super) fn multiply_high(a: u128, b: u128) -> u128 {
    const LOW: u128 = u64::MAX as u128;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let low = a0 * b0;
    let middle = a1 * b0 + (low >> 64);
    let other = a0 * b1 + (middle & LOW);
    a1 * b1 + (middle >> 64) + (other >> 64)
}

impl Wide {
    pub const ZERO: Self = Self { negative: false, exponent: 0, significand: 0 };

    /// `significand / 2^127 * 2^exponent` for any significand.
    pub fn new(negative: bool, exponent: i32, significand: u128) -> Self {
        if significand == 0 {
            return Self::ZERO;
        }
        let shift = significand.leading_zeros();
        Self { negative, exponent: exponent - shift as i32, significand: significand << shift }
    }

    /// A finite operand or zero.
    pub fn from_operand(a: &Operand) -> Self {
        if a.is_zero() {
            return Self::ZERO;
        }
        Self { negative: a.negative, exponent: a.exponent - BIAS, significand: u128::from(a.significand) << 64 }
    }

    pub fn from_integer(value: i32) -> Self {
        Self::new(value < 0, 127, u128::from(value.unsigned_abs()))
    }

    pub fn negated(self) -> Self {
        Self { negative: !self.negative, ..self }
    }

    /// `a * 2^power`.
    pub fn scaled(self, power: i32) -> Self {
        Self { exponent: self.exponent + power, ..self }
    }

    pub fn multiply(self, other: Self) -> Self {
        let product = multiply_high(self.significand, other.significand);
        Self::new(self.negative != other.negative, self.exponent + other.exponent + 1, product)
    }

    pub fn add(self, other: Self) -> Self {
        if self.significand == 0 {
            return other;
        }
        if other.significand == 0 {
            return self;
        }
        let self_is_larger = (self.exponent, self.significand) >= (other.exponent, other.significand);
        let (large, small) = if self_is_larger { (self, other) } else { (other, self) };
        let shifted = shift_right_sticky(small.significand, (large.exponent - small.exponent) as u32);
        if large.negative != small.negative {
            return Self::new(large.negative, large.exponent, large.significand - shifted);
        }
        let (sum, carry) = large.significand.overflowing_add(shifted);
        if carry {
            return Self::new(large.negative, large.exponent + 1, 1 << 127 | sum >> 1 | sum & 1);
        }
        Self::new(large.negative, large.exponent, sum)
    }

    /// `self / other`; the last bit is sticky. `other` is not zero.
    pub fn divide(self, other: Self) -> Self {
        if self.significand == 0 {
            return self;
        }
        let mut rest = self.significand;
        let mut quotient = 0;
        let mut bits = 128;
        let mut exponent = self.exponent - other.exponent;
        if rest >= other.significand {
            rest -= other.significand;
            quotient = 1;
            bits = 127;
        } else {
            exponent -= 1;
        }
        for _ in 0..bits {
            let carry = rest >> 127 != 0;
            rest <<= 1;
            quotient <<= 1;
            if carry || rest >= other.significand {
                rest = rest.wrapping_sub(other.significand);
                quotient |= 1;
            }
        }
        Self { negative: self.negative != other.negative, exponent, significand: quotient | u128::from(rest != 0) }
    }

    /// The square of a number below one, as 0.128 fixed point.
    pub fn square_fraction(self) -> u128 {
        debug_assert!(self.exponent < 0);
        let high = multiply_high(self.significand, self.significand);
        // The product has its point after the second bit.
        high.checked_shr((-2 * self.exponent - 2) as u32).unwrap_or(0)
    }

    /// The magnitude of a number below one, as 0.128 fixed point.
    pub fn fraction(self) -> u128 {
        debug_assert!(self.exponent < 0);
        self.significand.checked_shr((-self.exponent - 1) as u32).unwrap_or(0)
    }

    /// Rounds a value that is exact.
    pub fn finish_exact(self, env: &mut Env) -> Float80 {
        env.finish(self.negative, self.exponent + BIAS, self.significand)
    }

    /// Rounds a value known to be irrational, so that it is always inexact.
    pub fn finish(self, env: &mut Env) -> Float80 {
        env.finish(self.negative, self.exponent + BIAS, self.significand | 1)
    }
}
