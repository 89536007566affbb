//! Known answers of the transcendental instructions, in every rounding mode, and their special values.

use super::super::compare::C2;
use super::super::float::{C1, DE, IE, INDEFINITE, INTEGER, ONE, PE, UE, ZE, float, infinity, zero};
use super::answers_table::{ARC_TANGENT, COSINE, EXPONENTIAL, LOGARITHM, LOGARITHM_PLUS_ONE, One, SINE, TANGENT, Two};
use super::{execute, guest};
use crate::state::Float80;

const FSIN: [u8; 2] = [0xd9, 0xfe];
const FCOS: [u8; 2] = [0xd9, 0xff];
const FSINCOS: [u8; 2] = [0xd9, 0xfb];
const FPTAN: [u8; 2] = [0xd9, 0xf2];
const FPATAN: [u8; 2] = [0xd9, 0xf3];
const F2XM1: [u8; 2] = [0xd9, 0xf0];
const FYL2X: [u8; 2] = [0xd9, 0xf1];
const FYL2XP1: [u8; 2] = [0xd9, 0xf9];

const NAN: Float80 = Float80 { sign_exponent: 0x7fff, mantissa: 0xc000_0000_0000_1234 };

/// ST(0) and ST(1) after an instruction on the given stack (deepest first), exceptions and C1 and C2.
fn apply(instruction: [u8; 2], control: u16, stack: &[Float80]) -> (Float80, Float80, u16) {
    let mut core = guest();
    core.fpu.set_control(control);
    for &value in stack {
        core.fpu.push(value);
    }
    execute(&mut core, &instruction).expect("no fault");
    (core.fpu.get(0), core.fpu.get(1), core.fpu.status & (0x7f | C1 | C2))
}

fn rounding(mode: u16) -> u16 {
    0x37f | mode << 10
}

/// What a result that lies between `truncated` and the next value is, in a rounding mode, and if that is up.
fn rounded(truncated: Float80, nearest_away: bool, mode: u16) -> (Float80, u16) {
    let negative = truncated.sign_exponent >> 15 != 0;
    let away = match mode {
        0 => nearest_away,
        1 => negative,
        2 => !negative,
        _ => false,
    };
    let mut value = truncated;
    if away {
        value.mantissa = value.mantissa.wrapping_add(1);
        if value.mantissa == 0 {
            value.mantissa = INTEGER;
            value.sign_exponent += 1;
        }
    }
    (value, if away { PE | C1 } else { PE })
}

fn check_one(instruction: [u8; 2], table: &[One], register: usize) {
    for &(se, m, result_se, result_m, nearest_away) in table {
        let argument = Float80 { mantissa: m, sign_exponent: se };
        let truncated = Float80 { mantissa: result_m, sign_exponent: result_se };
        for mode in 0..4 {
            let (st0, st1, status) = apply(instruction, rounding(mode), &[argument]);
            let expected = rounded(truncated, nearest_away, mode);
            let result = if register == 0 { st0 } else { st1 };
            assert_eq!((result, status & !C1), (expected.0, PE), "{instruction:02x?} of {argument:x?}, mode {mode}");
            if instruction != FSINCOS {
                assert_eq!(status, expected.1, "C1 of {instruction:02x?} of {argument:x?}, mode {mode}");
            }
        }
    }
}

fn check_two(instruction: [u8; 2], table: &[Two]) {
    for &((y_se, y_m), (x_se, x_m), (se, m, nearest_away)) in table {
        let y = Float80 { mantissa: y_m, sign_exponent: y_se };
        let x = Float80 { mantissa: x_m, sign_exponent: x_se };
        for mode in 0..4 {
            let (result, _, status) = apply(instruction, rounding(mode), &[y, x]);
            let expected = rounded(Float80 { mantissa: m, sign_exponent: se }, nearest_away, mode);
            assert_eq!((result, status), expected, "{instruction:02x?} of {y:x?} and {x:x?}, mode {mode}");
        }
    }
}

#[test]
fn trigonometric_answers() {
    check_one(FSIN, SINE, 0);
    check_one(FCOS, COSINE, 0);
    check_one(FSINCOS, SINE, 1);
    check_one(FSINCOS, COSINE, 0);
    check_one(FPTAN, TANGENT, 1);
    check_two(FPATAN, ARC_TANGENT);
}

#[test]
fn exponential_and_logarithmic_answers() {
    check_one(F2XM1, EXPONENTIAL, 0);
    check_two(FYL2X, LOGARITHM);
    check_two(FYL2XP1, LOGARITHM_PLUS_ONE);
}

/// A small whole number, or a power of two with a negative argument.
fn whole(value: i32) -> Float80 {
    super::super::convert::from_integer(i64::from(value)).raw
}

#[test]
fn special_trigonometric_arguments() {
    let none = Float80::default();
    for instruction in [FSIN, FCOS] {
        assert_eq!(apply(instruction, 0x37f, &[infinity(true)]), (INDEFINITE, none, IE));
        assert_eq!(apply(instruction, 0x37f, &[NAN]), (NAN, none, 0));
        let far = float(false, 0x3fff + 63, INTEGER);
        assert_eq!(apply(instruction, 0x37f, &[far]), (far, none, C2));
    }
    assert_eq!(apply(FSIN, 0x37f, &[zero(true)]), (zero(true), none, 0));
    assert_eq!(apply(FCOS, 0x37f, &[zero(true)]), (ONE, none, 0));
    assert_eq!(apply(FSINCOS, 0x37f, &[zero(true)]), (ONE, zero(true), 0));
    assert_eq!(apply(FPTAN, 0x37f, &[zero(true)]), (ONE, zero(true), 0));
    assert_eq!(apply(FPTAN, 0x37f, &[infinity(false)]), (INDEFINITE, INDEFINITE, IE));
    assert_eq!(apply(FSINCOS, 0x37f, &[NAN]), (NAN, NAN, 0));
    // A denormal's sine is just below it.
    let denormal = float(false, 0, 3);
    assert_eq!(apply(FSIN, 0x37f, &[denormal]), (denormal, none, DE | UE | PE | C1));
    assert_eq!(apply(FSIN, rounding(3), &[denormal]), (float(false, 0, 2), none, DE | UE | PE));
    // A tiny angle's cosine is just below one.
    let tiny = float(false, 1, INTEGER);
    assert_eq!(apply(FCOS, rounding(3), &[tiny]).0, float(false, 0x3ffe, u64::MAX));
}

#[test]
fn special_arc_tangents() {
    let pi = |exponent: i32, m| float(false, exponent, m);
    const PI: u64 = 0xc90f_daa2_2168_c235;
    let cases = [
        (zero(false), ONE, zero(false), 0),
        (zero(true), infinity(false), zero(true), 0),
        (zero(false), zero(true), pi(0x4000, PI), PE | C1),
        (zero(false), whole(-3), pi(0x4000, PI), PE | C1),
        (ONE, zero(true), pi(0x3fff, PI), PE | C1),
        (infinity(false), whole(-7), pi(0x3fff, PI), PE | C1),
        (infinity(false), infinity(false), pi(0x3ffe, PI), PE | C1),
        (infinity(false), infinity(true), pi(0x4000, 0x96cb_e3f9_990e_91a8), PE | C1),
        (whole(5), infinity(true), pi(0x4000, PI), PE | C1),
        (whole(-5), infinity(false), zero(true), 0),
        (NAN, ONE, NAN, 0),
    ];
    for (y, x, result, status) in cases {
        let (st0, _, flags) = apply(FPATAN, 0x37f, &[y, x]);
        assert_eq!((st0, flags), (result, status), "{y:x?}, {x:x?}");
    }
}

#[test]
fn special_exponentials_and_logarithms() {
    let half = float(true, 0x3ffe, INTEGER);
    for (x, result) in
        [(zero(true), zero(true)), (ONE, ONE), (whole(-1), half), (infinity(true), whole(-1)), (NAN, NAN)]
    {
        let (st0, _, status) = apply(F2XM1, 0x37f, &[x]);
        assert_eq!((st0, status), (result, 0), "{x:x?}");
    }
    let logarithms = [
        (whole(3), whole(8), whole(9), 0),
        (whole(-3), ONE, zero(true), 0),
        (whole(2), zero(true), infinity(true), ZE),
        (infinity(true), zero(false), infinity(false), 0),
        (zero(false), zero(false), INDEFINITE, IE),
        (ONE, whole(-1), INDEFINITE, IE),
        (ONE, infinity(true), INDEFINITE, IE),
        (zero(false), infinity(false), INDEFINITE, IE),
        (infinity(false), ONE, INDEFINITE, IE),
        (infinity(true), whole(2), infinity(true), 0),
        (whole(-2), infinity(false), infinity(true), 0),
        (zero(false), float(false, 0x3ffe, INTEGER), zero(true), 0),
    ];
    for (y, x, result, status) in logarithms {
        let (st0, _, flags) = apply(FYL2X, 0x37f, &[y, x]);
        assert_eq!((st0, flags), (result, status), "{y:x?} log {x:x?}");
    }
    let plus_one = [
        (whole(3), zero(true), zero(true), 0),
        (infinity(false), zero(false), INDEFINITE, IE),
        (infinity(false), whole(-1), infinity(true), 0),
        (whole(3), ONE, whole(3), 0),
        (whole(3), whole(-1), infinity(true), ZE),
        (whole(3), whole(-2), INDEFINITE, IE),
    ];
    for (y, x, result, status) in plus_one {
        let (st0, _, flags) = apply(FYL2XP1, 0x37f, &[y, x]);
        assert_eq!((st0, flags), (result, status), "{y:x?} log1p {x:x?}");
    }
}
