//! Values at which implementations go wrong: integer limits, and floating-point numbers of every class.

use crate::rng::Rng;

/// Kinds of operand data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any bits.
    Integer,
    /// 32-bit floating point.
    F32,
    /// 64-bit floating point.
    F64,
    /// 80-bit floating point.
    F80,
    /// Packed decimal of FBLD.
    Bcd,
    /// Characters, few different ones and zeros.
    Text,
}

/// An integer: an edge value, a small one, or random bits of random width.
pub fn integer(rng: &mut Rng) -> u64 {
    const EDGES: [u64; 24] = [
        0,
        1,
        2,
        0x7f,
        0x80,
        0xff,
        0x100,
        0x7fff,
        0x8000,
        0xffff,
        0x1_0000,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x1_0000_0000,
        0x7fff_ffff_ffff,
        0x7fff_ffff_ffff_ffff,
        0x8000_0000_0000_0000,
        0xffff_ffff_8000_0000,
        0xffff_ffff_ffff_8000,
        0xffff_ffff_ffff_ff80,
        0xffff_ffff_ffff_fffe,
        0xffff_ffff_ffff_ffff,
        0x5555_5555_5555_5555,
    ];
    match rng.below(10) {
        0..=2 => rng.pick(&EDGES),
        3 => rng.below(64),
        4..=5 => rng.next() >> rng.below(64),
        6 => u64::MAX << rng.below(64),
        _ => rng.next(),
    }
}

/// Bits of a 32-bit float.
pub fn f32_bits(rng: &mut Rng) -> u32 {
    const EDGES: [u32; 20] = [
        0,
        0x3f80_0000,
        0x3f00_0000,
        0x4000_0000,
        1,
        0x007f_ffff,
        0x0080_0000,
        0x0080_0001,
        0x7f7f_ffff,
        0x7f80_0000,
        0x7f80_0001,
        0x7fbf_ffff,
        0x7fc0_0000,
        0x7fff_ffff,
        0x4eff_ffff,
        0x4f00_0000,
        0x5f00_0000,
        0x4b00_0001,
        0x3f7f_ffff,
        0x3eaa_aaab,
    ];
    let sign = u32::from(rng.chance(40)) << 31;
    let fraction = low32(rng) & 0x007f_ffff;
    sign | match rng.below(10) {
        0..=3 => rng.pick(&EDGES),
        4..=6 => (110 + low32(rng) % 34) << 23 | fraction,
        7 => fraction >> (low32(rng) % 23),
        8 => (low32(rng) % 255) << 23 | fraction & 0x0070_0000,
        _ => low32(rng) & 0x7fff_ffff,
    }
}

/// Bits of a 64-bit float.
pub fn f64_bits(rng: &mut Rng) -> u64 {
    const EDGES: [u64; 22] = [
        0,
        0x3ff0_0000_0000_0000,
        0x3fe0_0000_0000_0000,
        0x4000_0000_0000_0000,
        1,
        0x000f_ffff_ffff_ffff,
        0x0010_0000_0000_0000,
        0x0010_0000_0000_0001,
        0x7fef_ffff_ffff_ffff,
        0x7ff0_0000_0000_0000,
        0x7ff0_0000_0000_0001,
        0x7ff7_ffff_ffff_ffff,
        0x7ff8_0000_0000_0000,
        0x7fff_ffff_ffff_ffff,
        0x41df_ffff_ffc0_0000,
        0x41e0_0000_0000_0000,
        0x43e0_0000_0000_0000,
        0x47ef_ffff_f000_0000,
        0x380f_ffff_ffff_ffff,
        0x36a0_0000_0000_0000,
        0x3fef_ffff_ffff_ffff,
        0x3fd5_5555_5555_5555,
    ];
    let sign = u64::from(rng.chance(40)) << 63;
    let fraction = rng.next() >> 12;
    sign | match rng.below(10) {
        0..=3 => rng.pick(&EDGES),
        4..=6 => (990 + rng.below(66)) << 52 | fraction,
        7 => fraction >> rng.below(52),
        8 => rng.below(2047) << 52 | fraction & 0x000e_0000_0000_0000,
        _ => rng.next() >> 1,
    }
}

/// An 80-bit float: significand, sign and exponent. Unnormals and pseudo-denormals included.
pub fn f80(rng: &mut Rng) -> (u64, u16) {
    const INTEGER_BIT: u64 = 1 << 63;
    let sign = u16::from(rng.chance(40)) << 15;
    let significand = INTEGER_BIT | rng.next();
    let (mantissa, exponent) = match rng.below(20) {
        0 | 1 => (0, 0),
        2 | 3 => (INTEGER_BIT, 0x3fff),
        4 => (INTEGER_BIT, 0x7fff),
        5 => (0xc000_0000_0000_0000, 0x7fff),
        6 => (INTEGER_BIT | 1 | rng.next() >> 2, 0x7fff),
        7 => (rng.next() >> (1 + rng.below(63)), 0),
        8 => (significand, if rng.chance(50) { 1 } else { 0x7ffe }),
        9 => (u64::MAX, rng.pick(&[0x3ffe, 0x3fff, 0x403d, 0x403e, 0x7ffe])),
        10 => (significand & !0xff_ffff_ffff, small(rng, 0x3fff, 64)),
        11 => (significand & !0x7ff, small(rng, 0x3fff, 1100)),
        12 if rng.chance(30) => (rng.next() >> 1, small(rng, 0x3fff, 100)),
        12 if rng.chance(30) => (rng.next(), 0),
        13 => (significand, small(rng, 0x3fff, 16000)),
        14 => (rng.next() | INTEGER_BIT, small(rng, 0x3fff, 2)),
        _ => (significand, small(rng, 0x3fff, 70)),
    };
    (mantissa, exponent | sign)
}

/// A number within `spread` of `middle`.
fn small(rng: &mut Rng, middle: u16, spread: u64) -> u16 {
    let offset = u16::try_from(rng.below(2 * spread)).unwrap_or(0);
    middle.wrapping_add(offset).wrapping_sub(u16::try_from(spread).unwrap_or(0)) & 0x7fff
}

/// 16 bytes of a kind.
pub fn block(rng: &mut Rng, kind: Kind) -> [u8; 16] {
    let mut bytes = [0; 16];
    match kind {
        Kind::Integer => fill(&mut bytes, 8, || integer(rng)),
        Kind::F32 => fill(&mut bytes, 4, || u64::from(f32_bits(rng))),
        Kind::F64 => fill(&mut bytes, 8, || f64_bits(rng)),
        Kind::F80 => {
            let (mantissa, exponent) = f80(rng);
            bytes[..8].copy_from_slice(&mantissa.to_le_bytes());
            bytes[8..10].copy_from_slice(&exponent.to_le_bytes());
        }
        Kind::Bcd => {
            let valid = rng.chance(80);
            fill(&mut bytes, 1, || if valid { rng.below(10) << 4 | rng.below(10) } else { rng.next() });
            bytes[9] = rng.pick(&[0, 0x80, 0x7f]);
        }
        Kind::Text => {
            let letters = [rng.byte(), rng.byte(), b'a', b'z', 0, b'0'];
            fill(&mut bytes, 1, || u64::from(rng.pick(&letters)));
        }
    }
    bytes
}

/// Fills with little-endian values of `size` bytes.
fn fill(bytes: &mut [u8], size: usize, mut value: impl FnMut() -> u64) {
    for chunk in bytes.chunks_exact_mut(size) {
        chunk.copy_from_slice(&value().to_le_bytes()[..size]);
    }
}

/// Low half of a random number.
fn low32(rng: &mut Rng) -> u32 {
    u32::try_from(rng.next() >> 32).unwrap_or(0)
}
