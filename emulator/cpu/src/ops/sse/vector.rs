//! 128-bit values: registers, memory operands, lanes, and the checks in front of every instruction that uses them.
//!
//! Integer lane operations run as the host's own SSE to SSE4.2 instructions ([`host`]): x86-64-v2 is the baseline of
//! the build, and each of these instructions is defined to the last bit, so every host gives the same result.

pub(crate) use core::arch::x86_64::__m128i as Vector;
use core::arch::x86_64::{_mm_cvtsi64_si128, _mm_loadu_si128, _mm_storeu_si128};

use crate::core::Core;
use crate::fault::vector;
use crate::mmu::{cr0, cr4};
use crate::op::{OP_A16, OP_A32, OP_LEGACY, Op, Stop};
use crate::width::Width;

/// Calls intrinsics of the host baseline.
macro_rules! host {
    ($body:expr) => {{
        #[allow(unused_imports, reason = "the body names the intrinsics that it needs")]
        use core::arch::x86_64::*;
        // SAFETY: the build requires x86-64-v2 (SSE4.2) of every host, and the operands are values.
        unsafe { $body }
    }};
}
pub(crate) use host;

/// Types as which the 16 bytes of a vector can be looked at; every bit pattern is a value.
pub(crate) trait Lanes: Copy {}
impl Lanes for u128 {}
impl Lanes for [u8; 16] {}
impl Lanes for [i8; 16] {}
impl Lanes for [u16; 8] {}
impl Lanes for [i16; 8] {}
impl Lanes for [u32; 4] {}
impl Lanes for [u64; 2] {}

/// The lanes of a vector, least significant first.
#[inline(always)]
pub(crate) fn split<T: Lanes>(value: Vector) -> T {
    const { assert!(size_of::<T>() == size_of::<Vector>()) };
    // SAFETY: equal sizes, and `Lanes` types have no invalid bit patterns.
    unsafe { std::mem::transmute_copy(&value) }
}

/// A vector of lanes, least significant first.
#[inline(always)]
pub(crate) fn join<T: Lanes>(lanes: T) -> Vector {
    const { assert!(size_of::<T>() == size_of::<Vector>()) };
    // SAFETY: as in `split`.
    unsafe { std::mem::transmute_copy(&lanes) }
}

/// A vector whose low half is `low`; the rest is zero.
#[inline(always)]
pub(crate) fn from_low(low: u64) -> Vector {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_cvtsi64_si128(low as i64) }
}

/// The low half of a vector.
#[inline(always)]
pub(crate) fn low(value: Vector) -> u64 {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { core::arch::x86_64::_mm_cvtsi128_si64(value) as u64 }
}

impl Core {
    /// XMM register `register`.
    #[inline(always)]
    pub(crate) fn xmm(&self, register: u8) -> Vector {
        let words = &self.vector.regs[usize::from(register & 15)];
        // SAFETY: a register has 32 bytes; the load needs no alignment.
        unsafe { _mm_loadu_si128(words.as_ptr().cast()) }
    }

    /// Replaces an XMM register; the words above it keep their value, as with every instruction without VEX.
    #[inline(always)]
    pub(crate) fn set_xmm(&mut self, register: u8, value: Vector) {
        let words = &mut self.vector.regs[usize::from(register & 15)];
        // SAFETY: a register has 32 bytes; the store needs no alignment.
        unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), value) };
    }

    /// One half of an XMM register: 0 is the low one.
    #[inline(always)]
    pub(crate) fn xmm_half(&self, register: u8, half: usize) -> u64 {
        self.vector.regs[usize::from(register & 15)][half & 1]
    }

    /// Replaces one half of an XMM register.
    #[inline(always)]
    pub(crate) fn set_xmm_half(&mut self, register: u8, half: usize, value: u64) {
        self.vector.regs[usize::from(register & 15)][half & 1] = value;
    }

    /// Raises what an SSE instruction raises before anything else: #UD, then #NM.
    #[inline(always)]
    pub(crate) fn check_sse(&mut self) -> Result<(), Stop> {
        if self.sys.cr0 & (cr0::EM | cr0::TS) == 0 && self.sys.cr4 & cr4::OSFXSR != 0 {
            return Ok(());
        }
        Err(self.sse_denied())
    }

    #[cold]
    #[inline(never)]
    fn sse_denied(&mut self) -> Stop {
        if self.sys.cr0 & cr0::EM != 0 || self.sys.cr4 & cr4::OSFXSR == 0 {
            return self.ud();
        }
        self.raise(vector::NM)
    }

    /// Linear address of the operand when nothing is to be checked but translation: 64-bit addressing, and `size`
    /// bytes in one page. Handlers try this first, so that their fast path needs no stack frame; when it fails they
    /// call their slow form.
    #[inline(always)]
    fn quick_linear(&self, op: &Op, size: u64) -> Option<u64> {
        if op.flags & (OP_LEGACY | OP_A32 | OP_A16) != 0 {
            return None;
        }
        let linear = self.effective(op).wrapping_add(self.seg_base[usize::from(op.seg & 7)]);
        (linear & 0xfff <= 0x1000 - size).then_some(linear)
    }

    /// The 16 bytes of the operand, if they can be had at once.
    #[inline(always)]
    pub(crate) fn quick_load<const ALIGNED: bool>(&self, op: &Op) -> Option<Vector> {
        let linear = self.quick_linear(op, 16)?;
        if ALIGNED && linear & 15 != 0 {
            return None;
        }
        let host = self.tlb.read(linear, self.data_context)?;
        // SAFETY: a cached translation points into live guest RAM, and the access stays in its page.
        Some(unsafe { _mm_loadu_si128(host.cast()) })
    }

    /// A part of a vector that is smaller than 16 bytes, if it can be had at once.
    #[inline(always)]
    pub(crate) fn quick_load_part<T: Width>(&self, op: &Op) -> Option<T> {
        let linear = self.quick_linear(op, T::BYTES)?;
        let host = self.tlb.read(linear, self.data_context)?;
        // SAFETY: as in `quick_load`.
        Some(unsafe { host.cast::<T>().read_unaligned() })
    }

    /// Stores 16 bytes to the operand, if that can be done at once.
    #[inline(always)]
    pub(crate) fn quick_store<const ALIGNED: bool>(&self, op: &Op, value: Vector) -> Option<()> {
        let linear = self.quick_linear(op, 16)?;
        if ALIGNED && linear & 15 != 0 {
            return None;
        }
        let host = self.tlb.write(linear, self.data_context)?;
        // SAFETY: as in `quick_load`; pages that hold code or page tables are never cached for writing.
        unsafe { _mm_storeu_si128(host.cast(), value) };
        Some(())
    }

    /// Loads 16 bytes that must be aligned.
    #[inline(always)]
    pub(crate) fn load_aligned(&mut self, op: &Op) -> Result<Vector, Stop> {
        let linear = self.linear(op, 16, false)?;
        if linear & 15 != 0 {
            return Err(self.gp(0));
        }
        self.read128(linear, op.seg).map(join)
    }

    /// Loads 16 bytes at any address.
    #[inline(always)]
    pub(crate) fn load_unaligned(&mut self, op: &Op) -> Result<Vector, Stop> {
        let linear = self.linear(op, 16, false)?;
        self.read128(linear, op.seg).map(join)
    }

    /// Stores 16 bytes that must be aligned.
    #[inline(always)]
    pub(crate) fn store_aligned(&mut self, op: &Op, value: Vector) -> Result<(), Stop> {
        let linear = self.linear(op, 16, true)?;
        if linear & 15 != 0 {
            return Err(self.gp(0));
        }
        self.write128(linear, op.seg, split(value))
    }

    /// Stores 16 bytes at any address.
    #[inline(always)]
    pub(crate) fn store_unaligned(&mut self, op: &Op, value: Vector) -> Result<(), Stop> {
        let linear = self.linear(op, 16, true)?;
        self.write128(linear, op.seg, split(value))
    }
}
