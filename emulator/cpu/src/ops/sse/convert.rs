//! Conversions between formats (CVT...), and ROUNDxx.
//!
//! Conversions that touch an MMX register also enter MMX state and raise pending x87 exceptions; CVTPI2PS and
//! CVTPI2PD from memory do neither, as on processors (the manual says otherwise of the former). MMX state is entered
//! before #XM is raised.

use iced_x86::{Instruction, Mnemonic};

use super::super::{in_memory, operand_size};
use super::float::{self, Float, Kind, execute, float, load_operand, under_mxcsr};
use super::moves::registers;
use super::scalar::{ordinary_32, scalar};
use super::vector::{Vector, from_low, low};
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, OP_MEMORY, Op, Stop};

float!(Cvtps2pd, "cvtps2pd {a}, {b}", Safe, false, 8, 2);
float!(Cvtpd2ps, "cvtpd2ps {a}, {b}", Narrow, true, 16, 2);
scalar!(Cvtss2sd, "cvtss2sd {a}, {b}", Safe, false, 4, |_a, b, _result| ordinary_32(b));
scalar!(Cvtsd2ss, "cvtsd2ss {a}, {b}", Narrow, true, 8, |_a, _b, result| ordinary_32(result));
float!(Cvtdq2ps, "cvtdq2ps {a}, {b}", Safe, false, 16, 4);
float!(Cvtdq2pd, "cvtdq2pd {a}, {b}", Safe, false, 8, 2);
float!(Cvtps2dq, "cvtps2dq {a}, {b}", Safe, false, 16, 4);
float!(Cvttps2dq, "cvttps2dq {a}, {b}", Safe, false, 16, 4);
float!(Cvtpd2dq, "cvtpd2dq {a}, {b}", Safe, true, 16, 2);
float!(Cvttpd2dq, "cvttpd2dq {a}, {b}", Safe, true, 16, 2);

/// From an integer in the low part of `b`. It can only be inexact.
macro_rules! from_integer {
    ($name:ident, $asm:literal, $size:literal, $bytes:literal) => {
        scalar!(
            $name,
            concat!("movq {t}, {b}\n", $asm, " {a}, {t", $size, "}"),
            Safe,
            false,
            $bytes,
            |_a, _b, _result| true,
            t = out(reg) _
        );
    };
}

from_integer!(Cvtsi2ss32, "cvtsi2ss", ":e", 4);
from_integer!(Cvtsi2ss64, "cvtsi2ss", ":r", 8);
from_integer!(Cvtsi2sd32, "cvtsi2sd", ":e", 4);
from_integer!(Cvtsi2sd64, "cvtsi2sd", ":r", 8);

/// To an integer in the low part of the result, zero-extended. Invalid operands give the lowest one.
macro_rules! to_integer {
    ($name:ident, $asm:literal, $size:literal, $double:literal, $bytes:literal) => {
        scalar!(
            $name,
            concat!($asm, " {t", $size, "}, {b}\nmovq {a}, {t}"),
            Safe,
            $double,
            $bytes,
            |_a, _b, result| low(result) != if $size == ":e" { 1 << 31 } else { 1 << 63 },
            t = out(reg) _
        );
    };
}

to_integer!(Cvtss2si32, "cvtss2si", ":e", false, 4);
to_integer!(Cvtss2si64, "cvtss2si", ":r", false, 4);
to_integer!(Cvtsd2si32, "cvtsd2si", ":e", true, 8);
to_integer!(Cvtsd2si64, "cvtsd2si", ":r", true, 8);
to_integer!(Cvttss2si32, "cvttss2si", ":e", false, 4);
to_integer!(Cvttss2si64, "cvttss2si", ":r", false, 4);
to_integer!(Cvttsd2si32, "cvttsd2si", ":e", true, 8);
to_integer!(Cvttsd2si64, "cvttsd2si", ":r", true, 8);

/// ROUNDxx with one immediate.
macro_rules! round {
    ($name:ident, $asm:literal, $double:literal, $bytes:literal, $lanes:literal) => {
        struct $name<const CONTROL: u8>;
        impl<const CONTROL: u8> Float for $name<CONTROL> {
            const KIND: Kind = Kind::Safe;
            const DOUBLE: bool = $double;
            const BYTES: usize = $bytes;
            const LANES: usize = $lanes;
            #[inline(always)]
            fn run(a: Vector, b: Vector, mxcsr: &mut u32) -> Vector {
                under_mxcsr!($asm, a, b, mxcsr, control = const CONTROL)
            }
        }
    };
}

round!(Roundps, "roundps {a}, {b}, {control}", false, 16, 4);
round!(Roundss, "roundss {a}, {b}, {control}", false, 4, 1);
round!(Roundpd, "roundpd {a}, {b}, {control}", true, 16, 2);
round!(Roundsd, "roundsd {a}, {b}, {control}", true, 8, 1);

/// Bits 7:4 do not count, and with bit 2 (rounding as MXCSR says) neither do bits 1:0.
macro_rules! by_control {
    ($name:ident, $ins:expr, $op:expr) => {
        match $ins.immediate8() & if $ins.immediate8() & 4 != 0 { 12 } else { 15 } {
            0 => float::form::<$name<0>>($ins, $op),
            1 => float::form::<$name<1>>($ins, $op),
            2 => float::form::<$name<2>>($ins, $op),
            3 => float::form::<$name<3>>($ins, $op),
            4 => float::form::<$name<4>>($ins, $op),
            8 => float::form::<$name<8>>($ins, $op),
            9 => float::form::<$name<9>>($ins, $op),
            10 => float::form::<$name<10>>($ins, $op),
            11 => float::form::<$name<11>>($ins, $op),
            _ => float::form::<$name<12>>($ins, $op),
        }
    };
}

fn from_general<F: Float>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let b = if op.has(OP_MEMORY) { load_operand::<F>(core, op)? } else { from_low(core.r[usize::from(op.src & 31)]) };
    let result = execute::<F>(core, core.xmm(op.dst), b)?;
    core.set_xmm(op.dst, result);
    Ok(())
}

fn to_general<F: Float>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let b = if op.has(OP_MEMORY) { load_operand::<F>(core, op)? } else { core.xmm(op.src) };
    let result = execute::<F>(core, b, b)?;
    core.r[usize::from(op.dst & 31)] = low(result);
    Ok(())
}

/// Computes from two integers in an MMX register or in memory.
fn from_mmx<F: Float>(core: &mut Core, op: &Op) -> Result<Vector, Stop> {
    core.check_sse()?;
    if op.has(OP_MEMORY) {
        let b = core.load::<u64>(op)?;
        return execute::<F>(core, from_low(0), from_low(b));
    }
    core.check_pending_x87()?;
    core.enter_mmx();
    execute::<F>(core, from_low(0), from_low(core.mmx(op.src)))
}

fn cvtpi2ps(core: &mut Core, op: &Op) -> Done {
    let result = from_mmx::<Cvtdq2ps>(core, op)?;
    core.set_xmm_half(op.dst, 0, low(result));
    Ok(())
}

fn cvtpi2pd(core: &mut Core, op: &Op) -> Done {
    let result = from_mmx::<Cvtdq2pd>(core, op)?;
    core.set_xmm(op.dst, result);
    Ok(())
}

/// CVTPS2PI and CVTTPS2PI: two floats; CVTPD2PI and CVTTPD2PI: two doubles.
fn to_mmx<F: Float>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    core.check_pending_x87()?;
    let b = match (op.has(OP_MEMORY), F::DOUBLE) {
        (true, true) => core.load_aligned(op)?,
        (true, false) => from_low(core.load::<u64>(op)?),
        (false, true) => core.xmm(op.src),
        // Zeros in the other two lanes raise nothing.
        (false, false) => from_low(core.xmm_half(op.src, 0)),
    };
    core.enter_mmx();
    let result = execute::<F>(core, b, b)?;
    core.set_mmx(op.dst, low(result));
    Ok(())
}

fn by_size(wide: bool, narrow_form: Handler, wide_form: Handler) -> Handler {
    if wide { wide_form } else { narrow_form }
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    use Mnemonic as M;
    let wide = |index| operand_size(ins, index) == 8;
    let handler: Handler = match ins.mnemonic() {
        M::Cvtps2pd => float::form::<Cvtps2pd>(ins, op),
        M::Cvtpd2ps => float::form::<Cvtpd2ps>(ins, op),
        M::Cvtss2sd => float::form::<Cvtss2sd>(ins, op),
        M::Cvtsd2ss => float::form::<Cvtsd2ss>(ins, op),
        M::Cvtdq2ps => float::form::<Cvtdq2ps>(ins, op),
        M::Cvtdq2pd => float::form::<Cvtdq2pd>(ins, op),
        M::Cvtps2dq => float::form::<Cvtps2dq>(ins, op),
        M::Cvttps2dq => float::form::<Cvttps2dq>(ins, op),
        M::Cvtpd2dq => float::form::<Cvtpd2dq>(ins, op),
        M::Cvttpd2dq => float::form::<Cvttpd2dq>(ins, op),
        M::Cvtsi2ss => by_size(wide(1), from_general::<Cvtsi2ss32>, from_general::<Cvtsi2ss64>),
        M::Cvtsi2sd => by_size(wide(1), from_general::<Cvtsi2sd32>, from_general::<Cvtsi2sd64>),
        M::Cvtss2si => by_size(wide(0), to_general::<Cvtss2si32>, to_general::<Cvtss2si64>),
        M::Cvtsd2si => by_size(wide(0), to_general::<Cvtsd2si32>, to_general::<Cvtsd2si64>),
        M::Cvttss2si => by_size(wide(0), to_general::<Cvttss2si32>, to_general::<Cvttss2si64>),
        M::Cvttsd2si => by_size(wide(0), to_general::<Cvttsd2si32>, to_general::<Cvttsd2si64>),
        M::Cvtpi2ps => cvtpi2ps,
        M::Cvtpi2pd => cvtpi2pd,
        M::Cvtps2pi => to_mmx::<Cvtps2dq>,
        M::Cvttps2pi => to_mmx::<Cvttps2dq>,
        M::Cvtpd2pi => to_mmx::<Cvtpd2dq>,
        M::Cvttpd2pi => to_mmx::<Cvttpd2dq>,
        M::Roundps => by_control!(Roundps, ins, op),
        M::Roundss => by_control!(Roundss, ins, op),
        M::Roundpd => by_control!(Roundpd, ins, op),
        M::Roundsd => by_control!(Roundsd, ins, op),
        _ => return None,
    };
    registers(ins, op);
    debug_assert!(in_memory(ins, 1) == op.has(OP_MEMORY));
    Some(handler)
}
