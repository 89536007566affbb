//! Scalar operations without MXCSR, where it cannot matter.
//!
//! Loading and storing MXCSR takes longer than the operation itself. While the guest's MXCSR is as compiled code has
//! it (nearest, no flushing, all masked) and the inexact flag is set already, which it is soon and for good, the host
//! executes an operation as it is, and operands and result tell whether another flag could have risen. If so, it is
//! executed again under the guest's MXCSR.

use super::float::{Float, Kind, under_mxcsr};
use super::vector::{Vector, low};
use crate::core::Core;

/// MXCSR as compiled code has it too, with the inexact flag set.
const QUIET: u32 = 0x1fa0;
/// What of MXCSR must be equal to [`QUIET`]: all but the other flags.
const QUIET_MASK: u32 = 0xffe0;

/// Computes with all exceptions masked.
#[inline(always)]
pub(super) fn execute_masked<F: Float>(core: &mut Core, a: Vector, b: Vector) -> Vector {
    let (a, b) = F::prepare(a, b);
    if core.vector.mxcsr & QUIET_MASK == QUIET
        && let Some(result) = F::run_quiet(a, b)
    {
        return result;
    }
    F::run(a, b, &mut core.vector.mxcsr)
}

/// Implements [`Float`] by one host instruction, and by the condition under which it raises no flag but inexact.
macro_rules! scalar {
    (
        $name:ident, $asm:expr, $kind:ident, $double:literal, $bytes:literal,
        |$a:ident, $b:ident, $result:ident| $quiet:expr $(, $($extra:tt)+)?
    ) => {
        pub(super) struct $name;
        impl Float for $name {
            const KIND: Kind = Kind::$kind;
            const DOUBLE: bool = $double;
            const BYTES: usize = $bytes;
            const LANES: usize = 1;
            #[inline(always)]
            fn run(a: Vector, b: Vector, mxcsr: &mut u32) -> Vector {
                under_mxcsr!($asm, a, b, mxcsr $(, $($extra)+)?)
            }
            #[inline(always)]
            fn run_quiet($a: Vector, $b: Vector) -> Option<Vector> {
                let mut result = $a;
                // SAFETY: changes only the operands and flags of MXCSR, whose exceptions are masked.
                unsafe {
                    core::arch::asm!(
                        $asm,
                        a = inout(xmm_reg) result,
                        b = in(xmm_reg) $b,
                        $($($extra)+,)?
                        options(nostack, nomem, pure)
                    );
                }
                let $result = result;
                $quiet.then_some(result)
            }
        }
    };
}
pub(super) use scalar;

/// True for all doubles but denormal ones.
#[inline(always)]
pub(super) fn not_denormal_64(value: Vector) -> bool {
    // Zero wraps around to the highest value.
    (low(value) << 1).wrapping_sub(1) >= (1 << 53) - 1
}

/// True for all singles but denormal ones.
#[inline(always)]
pub(super) fn not_denormal_32(value: Vector) -> bool {
    ((low(value) as u32) << 1).wrapping_sub(1) >= (1 << 24) - 1
}

/// True for a finite double above the lowest normal exponent. As the result of operands that are not denormal, no
/// exception but inexact can have led to it.
#[inline(always)]
pub(super) fn ordinary_64(value: Vector) -> bool {
    (low(value) << 1).wrapping_sub(2 << 53) < 0x7fd << 53
}

/// [`ordinary_64`] of a single.
#[inline(always)]
pub(super) fn ordinary_32(value: Vector) -> bool {
    ((low(value) as u32) << 1).wrapping_sub(2 << 24) < 0xfd << 24
}

macro_rules! arithmetic {
    ($($single:ident $double:ident $asm:literal $kind:ident;)*) => {
        $(
            scalar!($single, concat!($asm, "ss {a}, {b}"), $kind, false, 4, |a, b, result| {
                not_denormal_32(a) && not_denormal_32(b) && ordinary_32(result)
            });
            scalar!($double, concat!($asm, "sd {a}, {b}"), $kind, true, 8, |a, b, result| {
                not_denormal_64(a) && not_denormal_64(b) && ordinary_64(result)
            });
        )*
    };
}

arithmetic! {
    Addss Addsd "add" Add;
    Subss Subsd "sub" Sub;
    Mulss Mulsd "mul" Mul;
    Divss Divsd "div" Div;
}
