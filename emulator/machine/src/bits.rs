//! Narrowing of register values.
//!
//! Registers are taken apart into bytes and words all over the devices; these functions say that dropping
//! the upper bits is meant, and keep the lint for unintended truncation useful everywhere else.

/// Bits 7:0.
#[allow(clippy::cast_possible_truncation, reason = "dropping the upper bits is the purpose")]
#[must_use]
pub const fn low8(value: u64) -> u8 {
    value as u8
}

/// Bits 15:0.
#[allow(clippy::cast_possible_truncation, reason = "dropping the upper bits is the purpose")]
#[must_use]
pub const fn low16(value: u64) -> u16 {
    value as u16
}

/// Bits 31:0.
#[allow(clippy::cast_possible_truncation, reason = "dropping the upper bits is the purpose")]
#[must_use]
pub const fn low32(value: u64) -> u32 {
    value as u32
}

/// Byte `index` of a little-endian value; zero beyond it.
#[must_use]
pub const fn byte(value: u64, index: u32) -> u8 {
    if index < 8 { low8(value >> (index * 8)) } else { 0 }
}

/// Ones in the lowest `bytes` bytes.
#[must_use]
pub const fn ones(bytes: usize) -> u64 {
    if bytes >= 8 { u64::MAX } else { (1 << (bytes * 8)) - 1 }
}

/// A length or index as `usize`.
#[allow(clippy::cast_possible_truncation, reason = "usize has 64 bits on every supported host")]
#[must_use]
pub const fn to_usize(value: u64) -> usize {
    value as usize
}
