//! Handlers of operations on the top of the stack: sign, square root, rounding, scaling, remainders, transcendentals.

use super::compare::C2;
use super::float::{Env, INDEFINITE, ONE, Operand};
use super::unit::{OVERFLOW, UNDERFLOW};
use super::{arithmetic, exponential, partial, trigonometry};
use crate::core::Core;
use crate::op::{Done, Op};
use crate::state::Float80;

/// A function of one operand.
pub(super) trait Unary {
    fn apply(env: &mut Env, a: &Operand) -> Float80;
}

/// A function of ST(1) and ST(0), in that order.
pub(super) trait Pair {
    fn apply(env: &mut Env, y: &Operand, x: &Operand) -> Float80;
}

macro_rules! unary {
    ($($name:ident = $function:path;)*) => {$(
        #[doc = concat!("The instruction of this name.")]
        pub(super) struct $name;
        impl Unary for $name {
            fn apply(env: &mut Env, a: &Operand) -> Float80 {
                $function(env, a)
            }
        }
    )*};
}

unary! {
    Fsqrt = square_root;
    Frndint = partial::round_to_integer;
    F2xm1 = exponential::f2xm1;
}

fn square_root(env: &mut Env, a: &Operand) -> Float80 {
    arithmetic::square_root(env, a)
}

macro_rules! pair {
    ($($name:ident = $function:path;)*) => {$(
        #[doc = concat!("The instruction of this name.")]
        pub(super) struct $name;
        impl Pair for $name {
            fn apply(env: &mut Env, y: &Operand, x: &Operand) -> Float80 {
                $function(env, y, x)
            }
        }
    )*};
}

pair! {
    Fpatan = trigonometry::fpatan;
    Fyl2x = exponential::fyl2x;
    Fyl2xp1 = exponential::fyl2xp1;
    Fscale = scale;
}

/// FSCALE takes its operands the other way round.
fn scale(env: &mut Env, y: &Operand, x: &Operand) -> Float80 {
    partial::scale(env, x, y)
}

/// ST(0) = f(ST(0)).
pub(super) fn unary<F: Unary>(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    if core.fpu.is_empty(0) {
        core.x87_underflow(op, 0);
        return Ok(());
    }
    // Only the square root heeds precision control; the others round to 64 bits or give exact results.
    let mut env = if op.aux != 0 { Env::new(core.fpu.control) } else { core.x87_env() };
    let result = F::apply(&mut env, &core.fpu.operand(0));
    if core.x87_settle(op, env.flags) {
        core.fpu.set(0, result);
    }
    Ok(())
}

/// ST(1) = f(ST(1), ST(0)) and a pop, or with `op.aux` clear ST(0) = f(ST(1), ST(0)).
pub(super) fn pair<F: Pair>(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let target = u8::from(op.aux != 0);
    let stored = if core.fpu.is_empty(0) || core.fpu.is_empty(1) {
        core.x87_underflow(op, target)
    } else {
        let mut env = core.x87_env();
        let result = F::apply(&mut env, &core.fpu.operand(1), &core.fpu.operand(0));
        let stores = core.x87_settle(op, env.flags);
        if stores {
            core.fpu.set(target, result);
        }
        stores
    };
    if stored && op.aux != 0 {
        core.fpu.pop();
    }
    Ok(())
}

/// FABS (`op.aux` clear) and FCHS: the sign bit of whatever is there.
pub(super) fn sign(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    if core.fpu.is_empty(0) {
        core.x87_underflow(op, 0);
        return Ok(());
    }
    core.x87_settle(op, 0);
    let mut value = core.fpu.get(0);
    value.sign_exponent = if op.aux != 0 { value.sign_exponent ^ 0x8000 } else { value.sign_exponent & 0x7fff };
    core.fpu.set(0, value);
    Ok(())
}

/// FPREM, and FPREM1 with `op.aux` set. C2 is cleared whatever happens, so that loops on it end.
pub(super) fn remainder(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    core.fpu.status &= !C2;
    if core.fpu.is_empty(0) || core.fpu.is_empty(1) {
        core.x87_underflow(op, 0);
        return Ok(());
    }
    let mut env = core.x87_env();
    let (result, codes) = partial::remainder(&mut env, &core.fpu.operand(0), &core.fpu.operand(1), op.aux != 0);
    if core.x87_settle(op, env.flags) {
        if let Some(codes) = codes {
            core.fpu.set_conditions(codes);
        }
        core.fpu.set(0, result);
    }
    Ok(())
}

/// True when a function that replaces ST(0) and pushes may go on; else gives the masked response.
fn room_for_two(core: &mut Core, op: &Op) -> bool {
    let flags = if core.fpu.is_empty(0) {
        UNDERFLOW
    } else if !core.fpu.is_empty(7) {
        OVERFLOW
    } else {
        return true;
    };
    if core.x87_settle(op, flags) {
        core.fpu.set(0, INDEFINITE);
        core.fpu.push(INDEFINITE);
    }
    false
}

/// Replaces ST(0) and pushes, unless an unmasked exception forbids it.
fn settle_two(core: &mut Core, op: &Op, flags: u16, (first, pushed): (Float80, Float80)) {
    if core.x87_settle(op, flags) {
        core.fpu.set(0, first);
        core.fpu.push(pushed);
    }
}

/// FXTRACT.
pub(super) fn extract(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    if room_for_two(core, op) {
        let mut env = core.x87_env();
        let results = partial::extract(&mut env, &core.fpu.operand(0));
        settle_two(core, op, env.flags, results);
    }
    Ok(())
}

/// Sets C2 and nothing else when the argument is out of range.
fn in_range(core: &mut Core, op: &Op) -> bool {
    let out = trigonometry::out_of_range(&core.fpu.operand(0));
    if out {
        core.x87_settle(op, 0);
        core.fpu.status |= C2;
    }
    !out
}

/// FSIN, and FCOS with `op.aux` set.
pub(super) fn sine_or_cosine(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    core.fpu.status &= !C2;
    if core.fpu.is_empty(0) {
        core.x87_underflow(op, 0);
        return Ok(());
    }
    if in_range(core, op) {
        let mut env = core.x87_env();
        let a = core.fpu.operand(0);
        let result = if op.aux != 0 { trigonometry::fcos(&mut env, &a) } else { trigonometry::fsin(&mut env, &a) };
        if core.x87_settle(op, env.flags) {
            core.fpu.set(0, result);
        }
    }
    Ok(())
}

/// FSINCOS: the sine replaces ST(0), the cosine is pushed. C1 tells how the cosine was rounded.
pub(super) fn sine_and_cosine(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    core.fpu.status &= !C2;
    if room_for_two(core, op) && in_range(core, op) {
        let a = core.fpu.operand(0);
        let mut first = core.x87_env();
        let sine = trigonometry::fsin(&mut first, &a);
        let mut second = core.x87_env();
        let cosine = trigonometry::fcos(&mut second, &a);
        let flags = first.flags & !super::float::C1 | second.flags;
        settle_two(core, op, flags, (sine, cosine));
    }
    Ok(())
}

/// FPTAN: the tangent replaces ST(0), and one is pushed.
pub(super) fn tangent(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    core.fpu.status &= !C2;
    if room_for_two(core, op) && in_range(core, op) {
        let mut env = core.x87_env();
        let a = core.fpu.operand(0);
        let result = trigonometry::fptan(&mut env, &a);
        let pushed = if trigonometry::gives_nan(&a) { result } else { ONE };
        settle_two(core, op, env.flags, (result, pushed));
    }
    Ok(())
}
