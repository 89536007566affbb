//! Floating-point arithmetic: the host executes the guest's instruction on the guest's operands.
//!
//! One inline-assembly block loads the guest's MXCSR, executes, stores MXCSR and loads the value that compiled code
//! expects. IEEE 754 defines the results of these instructions, Intel's manual the rest (choice of NaN, denormals,
//! flags), and all x86-64 processors agree on both, so the result is the same on every host. No compiled floating-point
//! code ever sees a guest value.
//!
//! With all exceptions masked, which is nearly always, the block works on the guest's MXCSR itself. Otherwise
//! `unmasked` executes with exceptions masked and raises afterwards what the guest must see.
//!
//! HADD and HSUB are shuffles before ADD and SUB, so that there is one kind of lane-wise operation only.

use iced_x86::{Instruction, Mnemonic};

use super::super::in_memory;
use super::moves::{is_xmm, registers};
use super::scalar::{Addsd, Addss, Divsd, Divss, Mulsd, Mulss, Subsd, Subss, execute_masked};
use super::unmasked::execute_unmasked;
use super::vector::{Vector, from_low, host};
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, OP_MEMORY, Op, Stop};

/// MXCSR: all six exception masks.
pub(super) const MASKS: u32 = 0x3f << 7;
/// MXCSR: all six exception flags.
pub(super) const FLAGS: u32 = 0x3f;
/// MXCSR: denormals are zeros.
pub(super) const DAZ: u32 = 1 << 6;
/// MXCSR: flush to zero.
pub(super) const FLUSH: u32 = 1 << 15;

/// MXCSR that compiled code runs with.
pub(super) static HOST_MXCSR: u32 = 0x1f80;

/// What an operation computes in one lane, as far as overflow and underflow ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Add,
    Sub,
    /// Sub in even lanes, Add in odd ones.
    AddSub,
    Mul,
    Div,
    /// From double to single.
    Narrow,
    /// Can neither overflow nor underflow.
    Safe,
}

/// An operation that the host executes.
pub(super) trait Float {
    const KIND: Kind;
    /// The source lanes are doubles.
    const DOUBLE: bool;
    /// Bytes of a memory operand; 16 must be aligned.
    const BYTES: usize;
    /// Source lanes that take part.
    const LANES: usize;
    /// Executes under `mxcsr`, whose exceptions must be masked, and adds the flags to it.
    fn run(a: Vector, b: Vector, mxcsr: &mut u32) -> Vector;
    /// Executes under the host's MXCSR, if it is certain from operands and result that no flag but inexact rises
    /// (`scalar`).
    #[inline(always)]
    fn run_quiet(_a: Vector, _b: Vector) -> Option<Vector> {
        None
    }
    /// What is done to the operands before; for the horizontal operations.
    #[inline(always)]
    fn prepare(a: Vector, b: Vector) -> (Vector, Vector) {
        (a, b)
    }
}

/// One host instruction on `{a}` (result) and `{b}` under a guest MXCSR.
macro_rules! under_mxcsr {
    ($asm:expr, $a:expr, $b:expr, $mxcsr:expr $(, $($extra:tt)+)?) => {{
        let mut a = $a;
        // SAFETY: only the operands change; MXCSR has its former value after the block, but for flags, which the
        // compiler lets a block change. All exceptions are masked.
        unsafe {
            core::arch::asm!(
                "ldmxcsr [{mxcsr}]",
                $asm,
                "stmxcsr [{mxcsr}]",
                "ldmxcsr [{host}]",
                a = inout(xmm_reg) a,
                b = in(xmm_reg) $b,
                mxcsr = in(reg) std::ptr::from_mut::<u32>($mxcsr),
                host = in(reg) std::ptr::from_ref::<u32>(&super::float::HOST_MXCSR),
                $($($extra)+,)?
                options(nostack)
            );
        }
        a
    }};
}
pub(super) use under_mxcsr;

/// Implements [`Float`] by one host instruction.
macro_rules! float {
    ($name:ident, $asm:expr, $kind:ident, $double:literal, $bytes:literal, $lanes:literal $(, $($extra:tt)+)?) => {
        pub(super) struct $name;
        impl Float for $name {
            const KIND: Kind = Kind::$kind;
            const DOUBLE: bool = $double;
            const BYTES: usize = $bytes;
            const LANES: usize = $lanes;
            #[inline(always)]
            fn run(a: Vector, b: Vector, mxcsr: &mut u32) -> Vector {
                under_mxcsr!($asm, a, b, mxcsr $(, $($extra)+)?)
            }
        }
    };
}
pub(super) use float;

/// Computes, and raises #XM (#UD without CR4.OSXMMEXCPT) for unmasked exceptions. Flags are kept in both cases.
#[inline(always)]
pub(super) fn execute<F: Float>(core: &mut Core, a: Vector, b: Vector) -> Result<Vector, Stop> {
    if core.vector.mxcsr & MASKS == MASKS {
        return Ok(execute_masked::<F>(core, a, b));
    }
    let (a, b) = F::prepare(a, b);
    execute_unmasked::<F>(core, a, b)
}

/// Loads the memory operand of an operation.
#[inline(always)]
pub(super) fn load_operand<F: Float>(core: &mut Core, op: &Op) -> Result<Vector, Stop> {
    match F::BYTES {
        4 => core.load::<u32>(op).map(|value| from_low(u64::from(value))),
        8 => core.load::<u64>(op).map(from_low),
        _ => core.load_aligned(op),
    }
}

/// The memory operand, if it can be had at once.
#[inline(always)]
fn quick_operand<F: Float>(core: &Core, op: &Op) -> Option<Vector> {
    match F::BYTES {
        4 => core.quick_load_part::<u32>(op).map(|value| from_low(u64::from(value))),
        8 => core.quick_load_part::<u64>(op).map(from_low),
        _ => core.quick_load::<true>(op),
    }
}

fn reg<F: Float>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    if core.vector.mxcsr & MASKS != MASKS {
        return slow::<F>(core, op);
    }
    let result = execute_masked::<F>(core, core.xmm(op.dst), core.xmm(op.src));
    core.set_xmm(op.dst, result);
    Ok(())
}

fn mem<F: Float>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    if core.vector.mxcsr & MASKS != MASKS {
        return slow::<F>(core, op);
    }
    let Some(b) = quick_operand::<F>(core, op) else { return slow::<F>(core, op) };
    let result = execute_masked::<F>(core, core.xmm(op.dst), b);
    core.set_xmm(op.dst, result);
    Ok(())
}

/// The operation with unmasked exceptions, or with a memory operand that is not at hand.
#[cold]
#[inline(never)]
fn slow<F: Float>(core: &mut Core, op: &Op) -> Done {
    let b = if op.has(OP_MEMORY) { load_operand::<F>(core, op)? } else { core.xmm(op.src) };
    let result = execute::<F>(core, core.xmm(op.dst), b)?;
    core.set_xmm(op.dst, result);
    Ok(())
}

/// The handler of an operation for the operands that the instruction has.
pub(super) fn form<F: Float>(ins: &Instruction, op: &mut Op) -> Handler {
    registers(ins, op);
    if in_memory(ins, 1) { mem::<F> } else { reg::<F> }
}

float!(Addps, "addps {a}, {b}", Add, false, 16, 4);
float!(Addpd, "addpd {a}, {b}", Add, true, 16, 2);
float!(Subps, "subps {a}, {b}", Sub, false, 16, 4);
float!(Subpd, "subpd {a}, {b}", Sub, true, 16, 2);
float!(Mulps, "mulps {a}, {b}", Mul, false, 16, 4);
float!(Mulpd, "mulpd {a}, {b}", Mul, true, 16, 2);
float!(Divps, "divps {a}, {b}", Div, false, 16, 4);
float!(Divpd, "divpd {a}, {b}", Div, true, 16, 2);
float!(Minps, "minps {a}, {b}", Safe, false, 16, 4);
float!(Minss, "minss {a}, {b}", Safe, false, 4, 1);
float!(Minpd, "minpd {a}, {b}", Safe, true, 16, 2);
float!(Minsd, "minsd {a}, {b}", Safe, true, 8, 1);
float!(Maxps, "maxps {a}, {b}", Safe, false, 16, 4);
float!(Maxss, "maxss {a}, {b}", Safe, false, 4, 1);
float!(Maxpd, "maxpd {a}, {b}", Safe, true, 16, 2);
float!(Maxsd, "maxsd {a}, {b}", Safe, true, 8, 1);
float!(Sqrtps, "sqrtps {a}, {b}", Safe, false, 16, 4);
float!(Sqrtss, "sqrtss {a}, {b}", Safe, false, 4, 1);
float!(Sqrtpd, "sqrtpd {a}, {b}", Safe, true, 16, 2);
float!(Sqrtsd, "sqrtsd {a}, {b}", Safe, true, 8, 1);
float!(Addsubps, "addsubps {a}, {b}", AddSub, false, 16, 4);
float!(Addsubpd, "addsubpd {a}, {b}", AddSub, true, 16, 2);

/// A horizontal operation: `$vertical` on the even and the odd lanes of both operands.
macro_rules! horizontal {
    ($name:ident, $vertical:ident, |$a:ident, $b:ident| $evens:expr, $odds:expr) => {
        struct $name;
        impl Float for $name {
            const KIND: Kind = $vertical::KIND;
            const DOUBLE: bool = $vertical::DOUBLE;
            const BYTES: usize = $vertical::BYTES;
            const LANES: usize = $vertical::LANES;
            #[inline(always)]
            fn run(a: Vector, b: Vector, mxcsr: &mut u32) -> Vector {
                $vertical::run(a, b, mxcsr)
            }
            #[inline(always)]
            fn prepare($a: Vector, $b: Vector) -> (Vector, Vector) {
                host!(($evens, $odds))
            }
        }
    };
}

horizontal!(Haddpd, Addpd, |a, b| _mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b));
horizontal!(Hsubpd, Subpd, |a, b| _mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b));
horizontal!(
    Haddps,
    Addps,
    |a, b| _mm_castps_si128(_mm_shuffle_ps::<0x88>(_mm_castsi128_ps(a), _mm_castsi128_ps(b))),
    _mm_castps_si128(_mm_shuffle_ps::<0xdd>(_mm_castsi128_ps(a), _mm_castsi128_ps(b)))
);
horizontal!(
    Hsubps,
    Subps,
    |a, b| _mm_castps_si128(_mm_shuffle_ps::<0x88>(_mm_castsi128_ps(a), _mm_castsi128_ps(b))),
    _mm_castps_si128(_mm_shuffle_ps::<0xdd>(_mm_castsi128_ps(a), _mm_castsi128_ps(b)))
);

/// CMPccPS and its relatives for one predicate.
macro_rules! compare {
    ($name:ident, $asm:literal, $double:literal, $bytes:literal, $lanes:literal) => {
        struct $name<const PREDICATE: u8>;
        impl<const PREDICATE: u8> Float for $name<PREDICATE> {
            const KIND: Kind = Kind::Safe;
            const DOUBLE: bool = $double;
            const BYTES: usize = $bytes;
            const LANES: usize = $lanes;
            #[inline(always)]
            fn run(a: Vector, b: Vector, mxcsr: &mut u32) -> Vector {
                under_mxcsr!($asm, a, b, mxcsr, predicate = const PREDICATE)
            }
        }
    };
}

compare!(Cmpps, "cmpps {a}, {b}, {predicate}", false, 16, 4);
compare!(Cmpss, "cmpss {a}, {b}, {predicate}", false, 4, 1);
compare!(Cmppd, "cmppd {a}, {b}, {predicate}", true, 16, 2);
compare!(Cmpsd, "cmpsd {a}, {b}, {predicate}", true, 8, 1);

/// Only three bits of the immediate count.
macro_rules! by_predicate {
    ($name:ident, $ins:expr, $op:expr) => {
        match $ins.immediate8() & 7 {
            0 => form::<$name<0>>($ins, $op),
            1 => form::<$name<1>>($ins, $op),
            2 => form::<$name<2>>($ins, $op),
            3 => form::<$name<3>>($ins, $op),
            4 => form::<$name<4>>($ins, $op),
            5 => form::<$name<5>>($ins, $op),
            6 => form::<$name<6>>($ins, $op),
            _ => form::<$name<7>>($ins, $op),
        }
    };
}

macro_rules! select {
    ($ins:ident, $op:ident, $($name:ident)*) => {
        match $ins.mnemonic() {
            $(Mnemonic::$name => form::<$name>($ins, $op),)*
            Mnemonic::Cmpps => by_predicate!(Cmpps, $ins, $op),
            Mnemonic::Cmpss => by_predicate!(Cmpss, $ins, $op),
            Mnemonic::Cmppd => by_predicate!(Cmppd, $ins, $op),
            // The string instruction of the same name has no vector register.
            Mnemonic::Cmpsd if is_xmm($ins, 0) => by_predicate!(Cmpsd, $ins, $op),
            _ => return None,
        }
    };
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    Some(select!(ins, op,
        Addps Addss Addpd Addsd Subps Subss Subpd Subsd Mulps Mulss Mulpd Mulsd Divps Divss Divpd Divsd
        Minps Minss Minpd Minsd Maxps Maxss Maxpd Maxsd Sqrtps Sqrtss Sqrtpd Sqrtsd
        Addsubps Addsubpd Haddps Haddpd Hsubps Hsubpd
    ))
}
