//! Handlers of arithmetic and comparison instructions, in all operand forms.

use super::arithmetic;
use super::compare::{self, C0, C2, C3};
use super::convert;
use super::float::{Env, Operand, zero};
use super::transfer::MemoryFloat;
use super::unit::{UNDERFLOW, Verdict};
use crate::core::Core;
use crate::flags::{CF, PF, ZF};
use crate::op::{Done, Op, Stop};
use crate::state::Float80;
use crate::width::Width;

/// An operation on a destination and a source.
pub(super) trait Binary {
    fn apply(env: &mut Env, a: &Operand, b: &Operand) -> Float80;
}

macro_rules! binary {
    ($name:ident, |$env:ident, $a:ident, $b:ident| $body:expr) => {
        #[doc = concat!("F", stringify!($name), " in all its forms.")]
        pub(super) struct $name;
        impl Binary for $name {
            fn apply($env: &mut Env, $a: &Operand, $b: &Operand) -> Float80 {
                $body
            }
        }
    };
}

binary!(Add, |env, a, b| arithmetic::add(env, a, b));
binary!(Sub, |env, a, b| subtract(env, a, b));
binary!(Subr, |env, a, b| subtract(env, b, a));
binary!(Mul, |env, a, b| arithmetic::multiply(env, a, b));
binary!(Div, |env, a, b| arithmetic::divide(env, a, b));
binary!(Divr, |env, a, b| arithmetic::divide(env, b, a));

/// `a - b`; the sign of a NaN stays.
fn subtract(env: &mut Env, a: &Operand, b: &Operand) -> Float80 {
    let b = if b.is_nan() { *b } else { b.negated() };
    arithmetic::add(env, a, &b)
}

/// Where the second operand of an instruction is.
pub(super) trait Source {
    fn fetch(core: &mut Core, op: &Op) -> Result<Operand, Stop>;
}

impl<F: MemoryFloat> Source for F {
    fn fetch(core: &mut Core, op: &Op) -> Result<Operand, Stop> {
        Ok(convert::from_format(core.load::<F::Bits>(op)?.zx(), F::FORMAT))
    }
}

/// A signed integer in memory.
pub(super) struct Integer<T>(std::marker::PhantomData<T>);

impl<T: Width> Source for Integer<T> {
    fn fetch(core: &mut Core, op: &Op) -> Result<Operand, Stop> {
        Ok(convert::from_integer(core.load::<T>(op)?.sx() as i64))
    }
}

/// ST(`dst`) = ST(`dst`) op ST(`src`); pops when `op.aux` is set.
pub(super) fn registers<B: Binary>(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let stored = if core.fpu.is_empty(op.dst) || core.fpu.is_empty(op.src) {
        core.x87_underflow(op, op.dst)
    } else {
        let (a, b) = (core.fpu.operand(op.dst), core.fpu.operand(op.src));
        store_result::<B>(core, op, &a, &b)
    };
    if stored && op.aux != 0 {
        core.fpu.pop();
    }
    Ok(())
}

/// ST(0) = ST(0) op memory.
pub(super) fn memory<B: Binary, S: Source>(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let b = S::fetch(core, op)?;
    if core.fpu.is_empty(0) {
        core.x87_underflow(op, 0);
    } else {
        let a = core.fpu.operand(0);
        store_result::<B>(core, op, &a, &b);
    }
    Ok(())
}

/// Writes the result to ST(`dst`) unless an unmasked exception forbids it.
fn store_result<B: Binary>(core: &mut Core, op: &Op, a: &Operand, b: &Operand) -> bool {
    let mut env = Env::new(core.fpu.control);
    let result = B::apply(&mut env, a, b);
    let stores = core.x87_settle(op, env.flags);
    if stores {
        core.fpu.set(op.dst, result);
    }
    stores
}

/// [`Op::aux`] of comparisons: how often to pop, and this bit when quiet NaNs are valid.
pub(super) const UNORDERED: u8 = 4;

/// FCOM, FCOMP, FCOMPP and the FUCOM forms with a register.
pub(super) fn compare_registers(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let operands = if core.fpu.is_empty(0) || core.fpu.is_empty(op.src) {
        None
    } else {
        Some((core.fpu.operand(0), core.fpu.operand(op.src)))
    };
    finish_compare(core, op, operands);
    Ok(())
}

/// FCOM, FCOMP, FICOM, FICOMP with memory.
pub(super) fn compare_memory<S: Source>(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let b = S::fetch(core, op)?;
    let operands = if core.fpu.is_empty(0) { None } else { Some((core.fpu.operand(0), b)) };
    finish_compare(core, op, operands);
    Ok(())
}

/// FTST.
pub(super) fn test(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let operands = if core.fpu.is_empty(0) { None } else { Some((core.fpu.operand(0), Operand::new(zero(false)))) };
    finish_compare(core, op, operands);
    Ok(())
}

/// Compares and says what becomes of it; `None` for a stack underflow.
///
/// The codes are set even when the exception is unmasked, and only the stack stays as it is: the manual says
/// otherwise, but the processors of both vendors do so.
fn order(core: &Core, op: &Op, operands: Option<(Operand, Operand)>) -> (u16, Verdict) {
    let mut env = core.x87_env();
    let order = match operands {
        Some((a, b)) => compare::compare(&mut env, &a, &b, op.aux & UNORDERED == 0),
        None => {
            env.raise(UNDERFLOW);
            None
        }
    };
    (compare::condition(order), Verdict::new(core.fpu.control, env.flags, false))
}

fn finish_compare(core: &mut Core, op: &Op, operands: Option<(Operand, Operand)>) {
    let (codes, verdict) = order(core, op, operands);
    core.x87_commit(op, verdict);
    core.fpu.set_conditions(codes);
    if verdict.stores {
        for _ in 0..op.aux & 3 {
            core.fpu.pop();
        }
    }
}

/// FCOMI, FCOMIP, FUCOMI, FUCOMIP: OF, SF and AF are cleared.
pub(super) fn compare_flags(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let operands = if core.fpu.is_empty(0) || core.fpu.is_empty(op.src) {
        None
    } else {
        Some((core.fpu.operand(0), core.fpu.operand(op.src)))
    };
    let (codes, verdict) = order(core, op, operands);
    core.x87_commit(op, verdict);
    let flag = |code, flag| if codes & code != 0 { flag } else { 0 };
    core.flags.set_arithmetic(flag(C0, CF) | flag(C2, PF) | flag(C3, ZF));
    if verdict.stores && op.aux & 3 != 0 {
        core.fpu.pop();
    }
    Ok(())
}

/// FXAM.
pub(super) fn examine(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    core.x87_settle(op, 0);
    let codes = compare::examine(&core.fpu.operand(0), core.fpu.is_empty(0));
    core.fpu.set_conditions(codes);
    Ok(())
}
