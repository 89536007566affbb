//! ADD, ADC, SUB, SBB, CMP, AND, OR, XOR, TEST, INC, DEC, NEG, NOT.
//!
//! AND, OR, XOR and TEST leave AF undefined; here it is cleared.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::{by_width, in_memory, operand, operand_size};
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, Op};
use crate::width::Width;

/// A two-operand operation that sets all flags.
trait Alu {
    /// False for CMP and TEST.
    const WRITES: bool = true;
    fn apply<T: Width>(core: &mut Core, a: T, b: T) -> T;
}

/// Flags of `a + b + carry`, and the result.
#[inline(always)]
pub(super) fn add<T: Width>(core: &mut Core, a: T, b: T, carry: bool) -> T {
    let (x, y) = (a.zx(), b.zx());
    let sum = x.wrapping_add(y).wrapping_add(u64::from(carry));
    let result = T::from_u64(sum);
    core.flags.carry = if carry { result.zx() <= x } else { result.zx() < x };
    finish(core, x, y, result, (x ^ sum) & (y ^ sum))
}

/// Flags of `a - b - borrow`, and the result.
#[inline(always)]
pub(super) fn sub<T: Width>(core: &mut Core, a: T, b: T, borrow: bool) -> T {
    let (x, y) = (a.zx(), b.zx());
    let difference = x.wrapping_sub(y).wrapping_sub(u64::from(borrow));
    core.flags.carry = if borrow { x <= y } else { x < y };
    finish(core, x, y, T::from_u64(difference), (x ^ y) & (x ^ difference))
}

#[inline(always)]
fn finish<T: Width>(core: &mut Core, x: u64, y: u64, result: T, overflow: u64) -> T {
    core.flags.overflow = overflow >> (T::BITS - 1) & 1 != 0;
    core.flags.aux = (x ^ y ^ result.zx()) as u8;
    core.flags.set_result(result.sx());
    result
}

#[inline(always)]
fn logic<T: Width>(core: &mut Core, result: u64) -> T {
    let result = T::from_u64(result);
    core.flags.carry = false;
    core.flags.overflow = false;
    core.flags.aux = 0;
    core.flags.set_result(result.sx());
    result
}

macro_rules! alu {
    ($name:ident, $writes:expr, |$core:ident, $a:ident, $b:ident| $body:expr) => {
        struct $name;
        impl Alu for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn apply<T: Width>($core: &mut Core, $a: T, $b: T) -> T {
                $body
            }
        }
    };
}

alu!(Add, true, |core, a, b| add(core, a, b, false));
alu!(Adc, true, |core, a, b| {
    let carry = core.flags.carry;
    add(core, a, b, carry)
});
alu!(Sub, true, |core, a, b| sub(core, a, b, false));
alu!(Sbb, true, |core, a, b| {
    let borrow = core.flags.carry;
    sub(core, a, b, borrow)
});
alu!(Cmp, false, |core, a, b| sub(core, a, b, false));
alu!(And, true, |core, a, b| logic(core, a.zx() & b.zx()));
alu!(Or, true, |core, a, b| logic(core, a.zx() | b.zx()));
alu!(Xor, true, |core, a, b| logic(core, a.zx() ^ b.zx()));
alu!(Test, false, |core, a, b| logic(core, a.zx() & b.zx()));

fn reg_reg<A: Alu, T: Width>(core: &mut Core, op: &Op) -> Done {
    let (a, b) = (T::get(core, op.dst), T::get(core, op.src));
    let result = A::apply(core, a, b);
    if A::WRITES {
        T::set(core, op.dst, result);
    }
    Ok(())
}

fn reg_imm<A: Alu, T: Width>(core: &mut Core, op: &Op) -> Done {
    let a = T::get(core, op.dst);
    let result = A::apply(core, a, T::from_u64(op.imm));
    if A::WRITES {
        T::set(core, op.dst, result);
    }
    Ok(())
}

fn reg_mem<A: Alu, T: Width>(core: &mut Core, op: &Op) -> Done {
    let b = core.load::<T>(op)?;
    let a = T::get(core, op.dst);
    let result = A::apply(core, a, b);
    if A::WRITES {
        T::set(core, op.dst, result);
    }
    Ok(())
}

fn mem_reg<A: Alu, T: Width>(core: &mut Core, op: &Op) -> Done {
    let b = T::get(core, op.src);
    mem_value::<A, T>(core, op, b)
}

fn mem_imm<A: Alu, T: Width>(core: &mut Core, op: &Op) -> Done {
    mem_value::<A, T>(core, op, T::from_u64(op.imm))
}

#[inline(always)]
fn mem_value<A: Alu, T: Width>(core: &mut Core, op: &Op, b: T) -> Done {
    if A::WRITES {
        core.modify::<T>(op, |core, a| A::apply(core, a, b))
    } else {
        let a = core.load::<T>(op)?;
        A::apply(core, a, b);
        Ok(())
    }
}

/// A one-operand operation.
trait Unary {
    fn apply<T: Width>(core: &mut Core, a: T) -> T;
}

macro_rules! unary {
    ($name:ident, |$core:ident, $a:ident| $body:expr) => {
        struct $name;
        impl Unary for $name {
            #[inline(always)]
            fn apply<T: Width>($core: &mut Core, $a: T) -> T {
                $body
            }
        }
    };
}

unary!(Inc, |core, a| {
    let carry = core.flags.carry;
    let result = add(core, a, T::from_u64(1), false);
    core.flags.carry = carry;
    result
});
unary!(Dec, |core, a| {
    let carry = core.flags.carry;
    let result = sub(core, a, T::from_u64(1), false);
    core.flags.carry = carry;
    result
});
unary!(Neg, |core, a| sub(core, T::from_u64(0), a, false));
unary!(Not, |_core, a| T::from_u64(!a.zx()));

fn unary_reg<A: Unary, T: Width>(core: &mut Core, op: &Op) -> Done {
    let a = T::get(core, op.dst);
    let result = A::apply(core, a);
    T::set(core, op.dst, result);
    Ok(())
}

fn unary_mem<A: Unary, T: Width>(core: &mut Core, op: &Op) -> Done {
    core.modify::<T>(op, |core, a| A::apply(core, a))
}

fn binary<A: Alu>(ins: &Instruction, op: &mut Op) -> Handler {
    let size = operand_size(ins, 0);
    let immediate = !matches!(ins.op_kind(1), OpKind::Register | OpKind::Memory);
    if immediate {
        op.imm = ins.immediate(1);
    }
    match (in_memory(ins, 0), in_memory(ins, 1)) {
        (true, _) if immediate => by_width!(size, mem_imm<A>),
        (true, _) => {
            op.src = operand(ins, 1);
            by_width!(size, mem_reg<A>)
        }
        (false, true) => {
            op.dst = operand(ins, 0);
            by_width!(size, reg_mem<A>)
        }
        (false, false) if immediate => {
            op.dst = operand(ins, 0);
            by_width!(size, reg_imm<A>)
        }
        (false, false) => {
            op.dst = operand(ins, 0);
            op.src = operand(ins, 1);
            by_width!(size, reg_reg<A>)
        }
    }
}

fn unary<A: Unary>(ins: &Instruction, op: &mut Op) -> Handler {
    let size = operand_size(ins, 0);
    if in_memory(ins, 0) {
        by_width!(size, unary_mem<A>)
    } else {
        op.dst = operand(ins, 0);
        by_width!(size, unary_reg<A>)
    }
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    Some(match ins.mnemonic() {
        Mnemonic::Add => binary::<Add>(ins, op),
        Mnemonic::Adc => binary::<Adc>(ins, op),
        Mnemonic::Sub => binary::<Sub>(ins, op),
        Mnemonic::Sbb => binary::<Sbb>(ins, op),
        Mnemonic::Cmp => binary::<Cmp>(ins, op),
        Mnemonic::And => binary::<And>(ins, op),
        Mnemonic::Or => binary::<Or>(ins, op),
        Mnemonic::Xor => binary::<Xor>(ins, op),
        Mnemonic::Test => binary::<Test>(ins, op),
        Mnemonic::Inc => unary::<Inc>(ins, op),
        Mnemonic::Dec => unary::<Dec>(ins, op),
        Mnemonic::Neg => unary::<Neg>(ins, op),
        Mnemonic::Not => unary::<Not>(ins, op),
        _ => return None,
    })
}
