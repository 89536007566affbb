//! The x87 unit: selection of handlers.
//!
//! All arithmetic is integer arithmetic on the 80-bit format (`float.rs`, `arithmetic.rs`, `convert.rs`, `partial.rs`), so
//! nothing depends on the host's unit or on the build. Results agree bit for bit with what Intel's and AMD's
//! processors give where those agree. Where they do not, or where the manual leaves things open, this is what happens:
//!
//! - Transcendentals (`trigonometry.rs`, `exponential.rs`) are computed to over 110 bits and rounded once by rounding
//!   control; they always raise #P unless exact, and set C1 when rounded up.
//! - FPREM and FPREM1 reduce by 32 to 63 bits at a time as Intel's processors do, when C2 stays set.
//! - FIP follows every non-control instruction. FOP and FDP change only with an unmasked exception (CPUID.7.EBX bit 6,
//!   and "fopcode compatibility mode" off), and FCS and FDS are zero (CPUID.7.EBX bit 13).
//! - With CR0.NE clear, a pending exception is never reported: there is no FERR# line; it is as if IGNNE# were asserted.
//! - Comparisons set their condition codes or flags even when their exception is unmasked. FLD of a denormal loads it even
//!   when #D is unmasked. FLD ST(i) of an empty register onto a full stack is an overflow (Intel; AMD: underflow).
//! - FCOMI and its relatives clear C1 (AMD: unchanged); FCMOVcc leaves it. FYL2X of a power of two is exact.
//! - F2XM1 outside -1 to 1 gives its argument. FYL2XP1 beyond its range is computed; at -1 it divides by zero, below it is
//!   invalid. Digits above nine in FBLD count as their value.
//! - A store that an unmasked exception suppresses does not touch its operand, so it cannot fault.
//! - Other condition codes that the manual calls undefined keep their value, but for C1, which FFREE clears.
//!
//! Sources: Intel SDM volume 1, chapter 8, and volume 2.

mod arithmetic;
mod compare;
mod control;
mod convert;
mod environment;
mod exponential;
mod float;
mod functions;
mod operate;
mod partial;
#[cfg(test)]
mod tests;
mod transfer;
mod trigonometry;
mod unit;
mod wide;

use iced_x86::{Instruction, MemorySize, Mnemonic};

use crate::op::{Handler, OP_MEMORY, OP_O16, Op};
use exponential::constant;
use functions::{F2xm1, Fpatan, Frndint, Fscale, Fsqrt, Fyl2x, Fyl2xp1};
use operate::{Add, Binary, Div, Divr, Integer, Mul, Sub, Subr, UNORDERED};
use transfer::{Constant, Double, Single};
pub(crate) use transfer::{pack, unpack};

/// Opcodes of x87 instructions: 0xd8 to 0xdf.
const ESCAPE: u8 = 0xd8;

macro_rules! constants {
    ($($name:ident = $value:expr;)*) => {$(
        struct $name;
        impl Constant for $name {
            const VALUE: (i32, u128) = $value;
        }
    )*};
}

constants! {
    Log2Of10 = constant::LOG2_10;
    Log2OfE = constant::LOG2_E;
    Pi = constant::PI;
    Log10Of2 = constant::LOG10_2;
    LnOf2 = constant::LN_2;
}

/// Handler of an instruction of this family. `bytes` is the whole instruction: its opcode is kept for FOP.
pub(super) fn select(ins: &Instruction, bytes: &[u8], op: &mut Op) -> Option<Handler> {
    if ins.mnemonic() == Mnemonic::Wait {
        return Some(control::wait);
    }
    // No prefix has a value in the range of the escape opcodes.
    let at = bytes.iter().position(|byte| byte & 0xf8 == ESCAPE)?;
    let (escape, modrm) = (bytes[at], *bytes.get(at + 1)?);
    let register = modrm & 7;
    (op.dst, op.src, op.aux) = match escape {
        // These have ST(i) as destination.
        0xdc..=0xdf if op.flags & OP_MEMORY == 0 => (register, 0, 0),
        _ => (0, register, 0),
    };
    let handler = transfers(ins, op)
        .or_else(|| arithmetic(ins, op))
        .or_else(|| comparisons(ins, op, register))
        .or_else(|| tops(ins, op))
        .or_else(|| controls(ins, op, register))?;
    op.imm = u64::from(escape & 7) << 8 | u64::from(modrm);
    Some(handler)
}

fn transfers(ins: &Instruction, op: &mut Op) -> Option<Handler> {
    let memory = op.flags & OP_MEMORY != 0;
    let size = ins.memory_size();
    Some(match ins.mnemonic() {
        Mnemonic::Fld if !memory => transfer::load_register,
        Mnemonic::Fld => match size {
            MemorySize::Float32 => transfer::load::<Single>,
            MemorySize::Float64 => transfer::load::<Double>,
            _ => transfer::load_extended,
        },
        Mnemonic::Fst | Mnemonic::Fstp | Mnemonic::Fstpnce => {
            op.aux = match ins.mnemonic() {
                Mnemonic::Fst => 0,
                Mnemonic::Fstp => 1,
                _ => transfer::POP_ANYWAY,
            };
            if !memory {
                // The undocumented forms under other escapes work as DD does.
                op.dst |= op.src;
            }
            match size {
                _ if !memory => transfer::store_register,
                MemorySize::Float32 => transfer::store::<Single>,
                MemorySize::Float64 => transfer::store::<Double>,
                _ => transfer::store_extended,
            }
        }
        Mnemonic::Fild => match size {
            MemorySize::Int16 => transfer::load_integer::<u16>,
            MemorySize::Int32 => transfer::load_integer::<u32>,
            _ => transfer::load_integer::<u64>,
        },
        Mnemonic::Fist | Mnemonic::Fistp => {
            op.aux = u8::from(ins.mnemonic() == Mnemonic::Fistp);
            match size {
                MemorySize::Int16 => transfer::store_integer::<u16>,
                MemorySize::Int32 => transfer::store_integer::<u32>,
                _ => transfer::store_integer::<u64>,
            }
        }
        Mnemonic::Fisttp => {
            op.aux = 1;
            match size {
                MemorySize::Int16 => transfer::store_truncated::<u16>,
                MemorySize::Int32 => transfer::store_truncated::<u32>,
                _ => transfer::store_truncated::<u64>,
            }
        }
        Mnemonic::Fbld => transfer::load_decimal,
        Mnemonic::Fbstp => {
            op.aux = 1;
            transfer::store_decimal
        }
        Mnemonic::Fxch => {
            op.src |= op.dst;
            transfer::exchange
        }
        Mnemonic::Fld1 => transfer::load_one,
        Mnemonic::Fldz => transfer::load_zero,
        Mnemonic::Fldl2t => transfer::load_rounded::<Log2Of10>,
        Mnemonic::Fldl2e => transfer::load_rounded::<Log2OfE>,
        Mnemonic::Fldpi => transfer::load_rounded::<Pi>,
        Mnemonic::Fldlg2 => transfer::load_rounded::<Log10Of2>,
        Mnemonic::Fldln2 => transfer::load_rounded::<LnOf2>,
        _ => return conditional_moves(ins, op),
    })
}

fn conditional_moves(ins: &Instruction, op: &mut Op) -> Option<Handler> {
    let condition = match ins.mnemonic() {
        Mnemonic::Fcmovb => 2,
        Mnemonic::Fcmovnb => 3,
        Mnemonic::Fcmove => 4,
        Mnemonic::Fcmovne => 5,
        Mnemonic::Fcmovbe => 6,
        Mnemonic::Fcmovnbe => 7,
        Mnemonic::Fcmovu => 10,
        Mnemonic::Fcmovnu => 11,
        _ => return None,
    };
    op.aux = condition;
    op.src |= op.dst;
    op.dst = 0;
    Some(transfer::conditional_move)
}

fn arithmetic(ins: &Instruction, op: &mut Op) -> Option<Handler> {
    fn form<B: Binary>(ins: &Instruction, op: &mut Op, pops: bool) -> Handler {
        if op.flags & OP_MEMORY == 0 {
            op.aux = u8::from(pops);
            return operate::registers::<B>;
        }
        match ins.memory_size() {
            MemorySize::Float32 => operate::memory::<B, Single>,
            MemorySize::Float64 => operate::memory::<B, Double>,
            MemorySize::Int16 => operate::memory::<B, Integer<u16>>,
            _ => operate::memory::<B, Integer<u32>>,
        }
    }
    Some(match ins.mnemonic() {
        Mnemonic::Fadd | Mnemonic::Fiadd => form::<Add>(ins, op, false),
        Mnemonic::Fsub | Mnemonic::Fisub => form::<Sub>(ins, op, false),
        Mnemonic::Fsubr | Mnemonic::Fisubr => form::<Subr>(ins, op, false),
        Mnemonic::Fmul | Mnemonic::Fimul => form::<Mul>(ins, op, false),
        Mnemonic::Fdiv | Mnemonic::Fidiv => form::<Div>(ins, op, false),
        Mnemonic::Fdivr | Mnemonic::Fidivr => form::<Divr>(ins, op, false),
        Mnemonic::Faddp => form::<Add>(ins, op, true),
        Mnemonic::Fsubp => form::<Sub>(ins, op, true),
        Mnemonic::Fsubrp => form::<Subr>(ins, op, true),
        Mnemonic::Fmulp => form::<Mul>(ins, op, true),
        Mnemonic::Fdivp => form::<Div>(ins, op, true),
        Mnemonic::Fdivrp => form::<Divr>(ins, op, true),
        _ => return None,
    })
}

fn comparisons(ins: &Instruction, op: &mut Op, register: u8) -> Option<Handler> {
    let (aux, with_flags) = match ins.mnemonic() {
        Mnemonic::Fcom | Mnemonic::Ficom => (0, false),
        Mnemonic::Fcomp | Mnemonic::Ficomp => (1, false),
        Mnemonic::Fcompp => (2, false),
        Mnemonic::Fucom => (UNORDERED, false),
        Mnemonic::Fucomp => (UNORDERED | 1, false),
        Mnemonic::Fucompp => (UNORDERED | 2, false),
        Mnemonic::Fcomi => (0, true),
        Mnemonic::Fcomip => (1, true),
        Mnemonic::Fucomi => (UNORDERED, true),
        Mnemonic::Fucomip => (UNORDERED | 1, true),
        _ => return None,
    };
    (op.dst, op.src, op.aux) = (0, register, aux);
    Some(match ins.memory_size() {
        _ if with_flags => operate::compare_flags,
        _ if op.flags & OP_MEMORY == 0 => operate::compare_registers,
        MemorySize::Float32 => operate::compare_memory::<Single>,
        MemorySize::Float64 => operate::compare_memory::<Double>,
        MemorySize::Int16 => operate::compare_memory::<Integer<u16>>,
        _ => operate::compare_memory::<Integer<u32>>,
    })
}

/// Instructions without operands, on the top of the stack.
fn tops(ins: &Instruction, op: &mut Op) -> Option<Handler> {
    let (handler, aux): (Handler, u8) = match ins.mnemonic() {
        Mnemonic::Fabs => (functions::sign, 0),
        Mnemonic::Fchs => (functions::sign, 1),
        Mnemonic::Fsqrt => (functions::unary::<Fsqrt>, 1),
        Mnemonic::Frndint => (functions::unary::<Frndint>, 0),
        Mnemonic::F2xm1 => (functions::unary::<F2xm1>, 0),
        Mnemonic::Fscale => (functions::pair::<Fscale>, 0),
        Mnemonic::Fpatan => (functions::pair::<Fpatan>, 1),
        Mnemonic::Fyl2x => (functions::pair::<Fyl2x>, 1),
        Mnemonic::Fyl2xp1 => (functions::pair::<Fyl2xp1>, 1),
        Mnemonic::Fprem => (functions::remainder, 0),
        Mnemonic::Fprem1 => (functions::remainder, 1),
        Mnemonic::Fxtract => (functions::extract, 0),
        Mnemonic::Fsin => (functions::sine_or_cosine, 0),
        Mnemonic::Fcos => (functions::sine_or_cosine, 1),
        Mnemonic::Fsincos => (functions::sine_and_cosine, 0),
        Mnemonic::Fptan => (functions::tangent, 0),
        Mnemonic::Ftst => (operate::test, 0),
        Mnemonic::Fxam => (operate::examine, 0),
        _ => return None,
    };
    op.aux = aux;
    Some(handler)
}

fn controls(ins: &Instruction, op: &mut Op, register: u8) -> Option<Handler> {
    if matches!(ins.memory_size(), MemorySize::FpuEnv14 | MemorySize::FpuState94) {
        op.flags |= OP_O16;
    }
    Some(match ins.mnemonic() {
        Mnemonic::Fninit => control::initialise,
        Mnemonic::Fnclex => control::clear_exceptions,
        Mnemonic::Fldcw => control::load_control,
        Mnemonic::Fnstcw => control::store_control,
        Mnemonic::Fnstsw => control::store_status,
        Mnemonic::Fnstenv => environment::store_environment,
        Mnemonic::Fldenv => environment::load_environment,
        Mnemonic::Fnsave => environment::save,
        Mnemonic::Frstor => environment::restore,
        Mnemonic::Fnop => control::nothing,
        Mnemonic::Fneni | Mnemonic::Fndisi | Mnemonic::Fnsetpm => control::obsolete,
        Mnemonic::Fincstp => {
            op.aux = 1;
            control::move_top
        }
        Mnemonic::Fdecstp => {
            op.aux = 7;
            control::move_top
        }
        Mnemonic::Ffree | Mnemonic::Ffreep => {
            op.dst = register;
            op.aux = u8::from(ins.mnemonic() == Mnemonic::Ffreep);
            control::free
        }
        _ => return None,
    })
}
