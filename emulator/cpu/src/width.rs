//! Operand widths, so that one generic body serves 8, 16, 32 and 64 bits.

use crate::core::Core;

/// An integer operand type: `u8`, `u16`, `u32` or `u64`.
pub(crate) trait Width: Copy + Eq + std::fmt::Debug + 'static {
    /// Bits.
    const BITS: u32;
    /// Bytes.
    const BYTES: u64;
    /// All ones.
    const MASK: u64;
    /// Truncates.
    fn from_u64(value: u64) -> Self;
    /// Zero-extends.
    fn zx(self) -> u64;
    /// Sign-extends.
    fn sx(self) -> u64;
    /// Reads a register operand; for `u8` the encoding selects AH, CH, DH, BH with bit 4.
    fn get(core: &Core, register: u8) -> Self;
    /// Writes a register operand: 8 and 16 bits keep the rest, 32 bits clear the upper half.
    fn set(core: &mut Core, register: u8, value: Self);
}

macro_rules! width {
    ($type:ty, $signed:ty, $get:expr, $set:expr) => {
        impl Width for $type {
            const BITS: u32 = <$type>::BITS;
            const BYTES: u64 = <$type>::BITS as u64 / 8;
            const MASK: u64 = <$type>::MAX as u64;
            #[inline(always)]
            fn from_u64(value: u64) -> Self {
                value as $type
            }
            #[inline(always)]
            fn zx(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn sx(self) -> u64 {
                self as $signed as i64 as u64
            }
            #[inline(always)]
            fn get(core: &Core, register: u8) -> Self {
                let get: fn(&Core, u8) -> $type = $get;
                get(core, register)
            }
            #[inline(always)]
            fn set(core: &mut Core, register: u8, value: Self) {
                let set: fn(&mut Core, u8, $type) = $set;
                set(core, register, value)
            }
        }
    };
}

width!(
    u8,
    i8,
    |core, register| (core.r[usize::from(register & 15)] >> ((register >> 4 & 1) * 8)) as u8,
    |core, register, value| {
        let shift = (register >> 4 & 1) * 8;
        let slot = &mut core.r[usize::from(register & 15)];
        *slot = *slot & !(0xff << shift) | u64::from(value) << shift;
    }
);
width!(u16, i16, |core, register| core.r[usize::from(register & 31)] as u16, |core, register, value| {
    let slot = &mut core.r[usize::from(register & 31)];
    *slot = *slot & !0xffff | u64::from(value);
});
width!(u32, i32, |core, register| core.r[usize::from(register & 31)] as u32, |core, register, value| {
    core.r[usize::from(register & 31)] = u64::from(value);
});
width!(u64, i64, |core, register| core.r[usize::from(register & 31)], |core, register, value| {
    core.r[usize::from(register & 31)] = value;
});
