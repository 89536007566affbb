//! The 80-bit format: classes of values, rounding, and the exceptions that rounding raises.
//!
//! Everything is integer arithmetic, so that results are the same on every host and build. A result is first made with a
//! 128-bit significand whose lowest bit is sticky, and then rounded once, by [`Env::finish`].
//!
//! Source: Intel SDM volume 1, 4.8 (formats), 4.9 (exceptions) and 8.5 (x87 responses).

use crate::state::Float80;

/// Status word: invalid operation.
pub(crate) const IE: u16 = 1;
/// Status word: denormal operand.
pub(crate) const DE: u16 = 1 << 1;
/// Status word: division by zero.
pub(crate) const ZE: u16 = 1 << 2;
/// Status word: overflow.
pub(crate) const OE: u16 = 1 << 3;
/// Status word: underflow.
pub(crate) const UE: u16 = 1 << 4;
/// Status word: inexact result.
pub(crate) const PE: u16 = 1 << 5;
/// Status word: the invalid operation was a stack fault.
pub(crate) const SF: u16 = 1 << 6;
/// Status word: condition code 1; rounded up, or stack overflow.
pub(crate) const C1: u16 = 1 << 9;

/// Exponent bias of the 80-bit format.
pub(super) const BIAS: i32 = 0x3fff;
/// Biased exponent of infinities and NaNs.
pub(super) const MAX_EXPONENT: i32 = 0x7fff;
/// By how much the exponent of an unmasked overflow or underflow is adjusted.
const WRAP: i32 = 0x6000;
/// The explicit integer bit.
pub(super) const INTEGER: u64 = 1 << 63;
/// Set in quiet NaNs.
const QUIET: u64 = 1 << 62;

/// Real indefinite: the masked response to an invalid operation.
pub(crate) const INDEFINITE: Float80 = Float80 { mantissa: INTEGER | QUIET, sign_exponent: 0xffff };
/// One.
pub(super) const ONE: Float80 = Float80 { mantissa: INTEGER, sign_exponent: 0x3fff };

/// Makes a value from its sign and what lies below it.
pub(super) const fn float(negative: bool, exponent: i32, mantissa: u64) -> Float80 {
    Float80 { mantissa, sign_exponent: (negative as u16) << 15 | exponent as u16 }
}

/// A zero.
pub(super) const fn zero(negative: bool) -> Float80 {
    float(negative, 0, 0)
}

/// An infinity.
pub(super) const fn infinity(negative: bool) -> Float80 {
    float(negative, MAX_EXPONENT, INTEGER)
}

/// What kind of value an operand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Zero,
    /// Normal, denormal and pseudo-denormal.
    Finite,
    Infinity,
    QuietNan,
    SignalingNan,
    /// Unnormals, pseudo-infinities, pseudo-NaNs: invalid since the 387.
    Unsupported,
}

/// An operand taken apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand {
    pub class: Class,
    pub negative: bool,
    /// Denormal in the format it came from: using it raises #D.
    pub denormal: bool,
    /// Biased exponent of `significand`; may be zero or negative for what was a denormal. Finite values only.
    pub exponent: i32,
    /// Normalised: bit 63 set. Finite values only.
    pub significand: u64,
    /// The value as a register holds it, signalling NaNs not yet quieted.
    pub raw: Float80,
}

impl Operand {
    /// Takes a register apart.
    pub fn new(raw: Float80) -> Self {
        let negative = raw.sign_exponent >> 15 != 0;
        let exponent = i32::from(raw.sign_exponent & 0x7fff);
        let mut operand =
            Self { class: Class::Finite, negative, denormal: false, exponent, significand: raw.mantissa, raw };
        if exponent == 0 {
            if raw.mantissa == 0 {
                operand.class = Class::Zero;
            } else {
                operand.denormal = true;
                let shift = raw.mantissa.leading_zeros();
                operand.significand <<= shift;
                operand.exponent = 1 - shift as i32;
            }
        } else if raw.mantissa & INTEGER == 0 {
            operand.class = Class::Unsupported;
        } else if exponent == MAX_EXPONENT {
            operand.class = match raw.mantissa {
                INTEGER => Class::Infinity,
                mantissa if mantissa & QUIET != 0 => Class::QuietNan,
                _ => Class::SignalingNan,
            };
        }
        operand
    }

    /// The same with the other sign.
    pub fn negated(mut self) -> Self {
        self.negative = !self.negative;
        self.raw.sign_exponent ^= 0x8000;
        self
    }

    pub fn is_zero(&self) -> bool {
        self.class == Class::Zero
    }

    pub fn is_finite(&self) -> bool {
        self.class == Class::Finite
    }

    pub fn is_infinity(&self) -> bool {
        self.class == Class::Infinity
    }

    pub fn is_nan(&self) -> bool {
        matches!(self.class, Class::QuietNan | Class::SignalingNan)
    }
}

/// Rounding control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    Nearest,
    Down,
    Up,
    Zero,
}

/// Settings of the control word for one operation, and the exceptions that it raised.
#[derive(Debug, Clone, Copy)]
pub(super) struct Env {
    pub rounding: Rounding,
    /// Bits of the result's significand: 24, 53 or 64.
    pub precision: u32,
    /// Exceptions that are masked, as in the control word.
    masks: u16,
    /// Status word bits to set: exceptions, SF, C1.
    pub flags: u16,
}

/// A significand rounded to some precision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rounded {
    /// Bits below the precision are zero.
    pub significand: u128,
    /// Rounding carried out of bit 127; `significand` is then zero.
    pub carry: bool,
    pub inexact: bool,
    pub up: bool,
}

impl Env {
    /// Settings for add, subtract, multiply, divide and square root, which precision control governs.
    pub fn new(control: u16) -> Self {
        let rounding = match control >> 10 & 3 {
            0 => Rounding::Nearest,
            1 => Rounding::Down,
            2 => Rounding::Up,
            _ => Rounding::Zero,
        };
        let precision = match control >> 8 & 3 {
            0 => 24,
            2 => 53,
            // 1 is reserved and works as 3.
            _ => 64,
        };
        Self { rounding, precision, masks: control & 0x3f, flags: 0 }
    }

    /// Settings for everything else: always 64 bits.
    pub fn extended(control: u16) -> Self {
        Self { precision: 64, ..Self::new(control) }
    }

    pub fn raise(&mut self, flags: u16) {
        self.flags |= flags;
    }

    pub fn is_masked(&self, exception: u16) -> bool {
        self.masks & exception != 0
    }

    /// Raises an invalid operation; its masked result.
    pub fn invalid(&mut self) -> Float80 {
        self.raise(IE);
        INDEFINITE
    }

    /// #D when an operand is a denormal.
    pub fn note_denormal(&mut self, operands: &[&Operand]) {
        if operands.iter().any(|operand| operand.denormal) {
            self.raise(DE);
        }
    }

    /// The result of a one-operand operation on a NaN or unsupported value; `None` for numbers.
    pub fn one_nan(&mut self, a: &Operand) -> Option<Float80> {
        match a.class {
            Class::Unsupported => Some(self.invalid()),
            Class::SignalingNan => {
                self.raise(IE);
                Some(quiet(a.raw))
            }
            Class::QuietNan => Some(a.raw),
            _ => None,
        }
    }

    /// The result of a two-operand operation with a NaN or unsupported value (SDM volume 1, table 4-7); `None` when
    /// both are numbers.
    pub fn two_nans(&mut self, a: &Operand, b: &Operand) -> Option<Float80> {
        if a.class == Class::Unsupported || b.class == Class::Unsupported {
            return Some(self.invalid());
        }
        if !a.is_nan() && !b.is_nan() {
            return None;
        }
        let signaling = [a.class == Class::SignalingNan, b.class == Class::SignalingNan];
        if signaling.contains(&true) {
            self.raise(IE);
        }
        let (qa, qb) = (quiet(a.raw), quiet(b.raw));
        Some(if !b.is_nan() || a.is_nan() && !signaling[0] && signaling[1] {
            qa
        } else if !a.is_nan() || signaling[0] && !signaling[1] {
            qb
        } else if qa.mantissa != qb.mantissa {
            if qa.mantissa > qb.mantissa { qa } else { qb }
        } else if qa.sign_exponent < qb.sign_exponent {
            qa
        } else {
            qb
        })
    }

    /// Rounds `significand` to its highest `bits` bits.
    pub fn round(&self, negative: bool, significand: u128, bits: u32) -> Rounded {
        let unit = 1u128 << (128 - bits);
        let rest = significand & (unit - 1);
        let kept = significand - rest;
        let up = rest != 0
            && match self.rounding {
                Rounding::Nearest => rest > unit / 2 || rest == unit / 2 && kept & unit != 0,
                Rounding::Down => negative,
                Rounding::Up => !negative,
                Rounding::Zero => false,
            };
        let (significand, carry) = kept.overflowing_add(if up { unit } else { 0 });
        Rounded { significand, carry, inexact: rest != 0, up }
    }

    /// Rounds `significand / 2^127 * 2^(exponent - BIAS)` to a register value. `significand` has bit 127 set; its
    /// lowest bit is sticky.
    pub fn finish(&mut self, negative: bool, exponent: i32, significand: u128) -> Float80 {
        debug_assert!(significand >> 127 == 1);
        let rounded = self.round(negative, significand, self.precision);
        let (mantissa, after) =
            if rounded.carry { (INTEGER, exponent + 1) } else { ((rounded.significand >> 64) as u64, exponent) };
        if after <= 0 {
            if self.is_masked(UE) {
                return self.denormalise(negative, exponent, significand);
            }
            self.raise(UE);
            self.inexact(&rounded);
            // Only FSCALE goes so low that the adjusted exponent does not fit either.
            if after + WRAP <= 0 {
                self.raise(PE);
                return zero(negative);
            }
            return float(negative, after + WRAP, mantissa);
        }
        if after >= MAX_EXPONENT {
            if self.is_masked(OE) {
                return self.overflow(negative);
            }
            self.raise(OE);
            self.inexact(&rounded);
            let wrapped = after - WRAP;
            if wrapped >= MAX_EXPONENT {
                self.raise(PE | C1);
                return infinity(negative);
            }
            return float(negative, wrapped, mantissa);
        }
        self.inexact(&rounded);
        float(negative, after, mantissa)
    }

    pub fn inexact(&mut self, rounded: &Rounded) {
        if rounded.inexact {
            self.raise(if rounded.up { PE | C1 } else { PE });
        }
    }

    /// Masked response to underflow: gradual; reported only when inexact.
    fn denormalise(&mut self, negative: bool, exponent: i32, significand: u128) -> Float80 {
        let shifted = shift_right_sticky(significand, (1 - exponent) as u32);
        let rounded = self.round(negative, shifted, self.precision);
        if rounded.inexact {
            self.raise(UE);
        }
        self.inexact(&rounded);
        let mantissa = (rounded.significand >> 64) as u64;
        float(negative, i32::from(mantissa & INTEGER != 0), mantissa)
    }

    /// True when the masked response to an overflow is infinity.
    pub fn overflows_to_infinity(&self, negative: bool) -> bool {
        match self.rounding {
            Rounding::Nearest => true,
            Rounding::Down => negative,
            Rounding::Up => !negative,
            Rounding::Zero => false,
        }
    }

    /// Masked response to overflow.
    fn overflow(&mut self, negative: bool) -> Float80 {
        self.raise(OE | PE);
        if self.overflows_to_infinity(negative) {
            self.raise(C1);
            return infinity(negative);
        }
        float(negative, MAX_EXPONENT - 1, u64::MAX << (64 - self.precision))
    }
}

/// The quiet form of a NaN.
pub(super) fn quiet(nan: Float80) -> Float80 {
    Float80 { mantissa: nan.mantissa | QUIET, ..nan }
}

/// Shifts right; bits that fall out are kept in the lowest bit.
pub(super) fn shift_right_sticky(value: u128, shift: u32) -> u128 {
    if shift == 0 {
        value
    } else if shift < 128 {
        value >> shift | u128::from(value << (128 - shift) != 0)
    } else {
        u128::from(value != 0)
    }
}
