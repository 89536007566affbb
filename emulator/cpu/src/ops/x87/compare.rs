//! Comparison and FXAM.

use std::cmp::Ordering;

use super::float::{C1, Class, DE, Env, IE, Operand};

/// Status word: condition code 0.
pub(super) const C0: u16 = 1 << 8;
/// Status word: condition code 2.
pub(super) const C2: u16 = 1 << 10;
/// Status word: condition code 3.
pub(super) const C3: u16 = 1 << 14;

/// Compares; `None` means unordered. A quiet NaN is invalid when `signaling` (FCOM), and not for FUCOM.
pub(super) fn compare(env: &mut Env, a: &Operand, b: &Operand, signaling: bool) -> Option<Ordering> {
    for operand in [a, b] {
        match operand.class {
            Class::Unsupported | Class::SignalingNan => env.raise(IE),
            Class::QuietNan if signaling => env.raise(IE),
            _ => {}
        }
    }
    let is_number = |operand: &Operand| matches!(operand.class, Class::Zero | Class::Finite | Class::Infinity);
    if !is_number(a) || !is_number(b) {
        return None;
    }
    if a.denormal || b.denormal {
        env.raise(DE);
    }
    if a.is_zero() && b.is_zero() {
        return Some(Ordering::Equal);
    }
    Some(match (a.negative, b.negative) {
        // A zero is on the side of its partner's sign.
        (true, true) => magnitude(b).cmp(&magnitude(a)),
        (false, false) => magnitude(a).cmp(&magnitude(b)),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    })
}

/// Orders numbers without their sign.
fn magnitude(a: &Operand) -> (i32, u64) {
    match a.class {
        Class::Zero => (i32::MIN, 0),
        Class::Infinity => (i32::MAX, 0),
        _ => (a.exponent, a.significand),
    }
}

/// Condition codes of a comparison (Intel SDM volume 1, table 8-6).
pub(super) fn condition(order: Option<Ordering>) -> u16 {
    match order {
        None => C3 | C2 | C0,
        Some(Ordering::Less) => C0,
        Some(Ordering::Equal) => C3,
        Some(Ordering::Greater) => 0,
    }
}

/// Condition codes of FXAM for a register that may be empty.
pub(super) fn examine(a: &Operand, empty: bool) -> u16 {
    let sign = if a.negative { C1 } else { 0 };
    if empty {
        return sign | C3 | C0;
    }
    sign | match a.class {
        Class::Unsupported => 0,
        Class::QuietNan | Class::SignalingNan => C0,
        Class::Infinity => C2 | C0,
        Class::Zero => C3,
        Class::Finite if a.denormal => C3 | C2,
        Class::Finite => C2,
    }
}
