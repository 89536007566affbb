//! SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHLD, SHRD and the flagless SHLX, SHRX, SARX, RORX.
//!
//! Where the SDM leaves a result open, it is (docs/cpu-model.md): AF is cleared by shifts; OF follows the rule for a
//! count of one whatever the count; CF of a shift by more than the operand size is zero; the 16-bit double shifts by
//! more than 16 continue with the destination's own bits.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::{by_width, in_memory, operand, operand_size, source};
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, OP_MEMORY, Op};
use crate::width::Width;

/// A shift or rotate by a count that is masked and not zero.
trait Shift {
    fn apply<T: Width>(core: &mut Core, a: T, count: u32) -> T;
}

/// The two top bits of a result differ.
#[inline(always)]
fn top_bits_differ<T: Width>(result: u64) -> bool {
    (result >> (T::BITS - 1) ^ result >> (T::BITS - 2)) & 1 != 0
}

#[inline(always)]
fn msb<T: Width>(value: u64) -> bool {
    value >> (T::BITS - 1) & 1 != 0
}

struct Shl;
impl Shift for Shl {
    #[inline(always)]
    fn apply<T: Width>(core: &mut Core, a: T, count: u32) -> T {
        let wide = u128::from(a.zx()) << count;
        let result = T::from_u64(wide as u64);
        core.flags.carry = wide >> T::BITS & 1 != 0;
        core.flags.overflow = msb::<T>(result.zx()) != core.flags.carry;
        core.flags.aux = 0;
        core.flags.set_result(result.sx());
        result
    }
}

struct Shr;
impl Shift for Shr {
    #[inline(always)]
    fn apply<T: Width>(core: &mut Core, a: T, count: u32) -> T {
        core.flags.carry = a.zx() >> (count - 1) & 1 != 0;
        let result = T::from_u64(a.zx().checked_shr(count).unwrap_or(0));
        core.flags.overflow = top_bits_differ::<T>(result.zx());
        core.flags.aux = 0;
        core.flags.set_result(result.sx());
        result
    }
}

struct Sar;
impl Shift for Sar {
    #[inline(always)]
    fn apply<T: Width>(core: &mut Core, a: T, count: u32) -> T {
        let value = a.sx() as i64;
        core.flags.carry = value >> (count - 1) & 1 != 0;
        let result = T::from_u64((value >> count.min(63)) as u64);
        core.flags.overflow = false;
        core.flags.aux = 0;
        core.flags.set_result(result.sx());
        result
    }
}

struct Rol;
impl Shift for Rol {
    #[inline(always)]
    fn apply<T: Width>(core: &mut Core, a: T, count: u32) -> T {
        let n = count % T::BITS;
        let value = a.zx();
        let result = if n == 0 { value } else { (value << n | value >> (T::BITS - n)) & T::MASK };
        core.flags.carry = result & 1 != 0;
        core.flags.overflow = msb::<T>(result) != core.flags.carry;
        T::from_u64(result)
    }
}

struct Ror;
impl Shift for Ror {
    #[inline(always)]
    fn apply<T: Width>(core: &mut Core, a: T, count: u32) -> T {
        let result = ror(a, count);
        core.flags.carry = msb::<T>(result.zx());
        core.flags.overflow = top_bits_differ::<T>(result.zx());
        result
    }
}

#[inline(always)]
fn ror<T: Width>(a: T, count: u32) -> T {
    let n = count % T::BITS;
    let value = a.zx();
    T::from_u64(if n == 0 { value } else { value >> n | value << (T::BITS - n) })
}

struct Rcl;
impl Shift for Rcl {
    #[inline(always)]
    fn apply<T: Width>(core: &mut Core, a: T, count: u32) -> T {
        let n = count % (T::BITS + 1);
        let wide = u128::from(core.flags.carry) << T::BITS | u128::from(a.zx());
        let rotated = if n == 0 { wide } else { wide << n | wide >> (T::BITS + 1 - n) };
        let result = T::from_u64(rotated as u64);
        core.flags.carry = rotated >> T::BITS & 1 != 0;
        core.flags.overflow = msb::<T>(result.zx()) != core.flags.carry;
        result
    }
}

struct Rcr;
impl Shift for Rcr {
    #[inline(always)]
    fn apply<T: Width>(core: &mut Core, a: T, count: u32) -> T {
        let n = count % (T::BITS + 1);
        let wide = u128::from(core.flags.carry) << T::BITS | u128::from(a.zx());
        let rotated = if n == 0 { wide } else { wide >> n | wide << (T::BITS + 1 - n) };
        let result = T::from_u64(rotated as u64);
        core.flags.carry = rotated >> T::BITS & 1 != 0;
        core.flags.overflow = top_bits_differ::<T>(result.zx());
        result
    }
}

#[inline(always)]
fn masked<T: Width>(count: u64) -> u32 {
    (count & if T::BITS == 64 { 63 } else { 31 }) as u32
}

fn reg_imm<S: Shift, T: Width>(core: &mut Core, op: &Op) -> Done {
    let count = masked::<T>(op.imm);
    if count != 0 {
        let a = T::get(core, op.dst);
        let result = S::apply(core, a, count);
        T::set(core, op.dst, result);
    } else {
        rewrite::<T>(core, op.dst);
    }
    Ok(())
}

fn reg_cl<S: Shift, T: Width>(core: &mut Core, op: &Op) -> Done {
    let count = masked::<T>(core.r[1]);
    if count != 0 {
        let a = T::get(core, op.dst);
        let result = S::apply(core, a, count);
        T::set(core, op.dst, result);
    } else {
        rewrite::<T>(core, op.dst);
    }
    Ok(())
}

/// A 32-bit destination is zero-extended even when nothing is shifted.
#[inline(always)]
fn rewrite<T: Width>(core: &mut Core, register: u8) {
    let value = T::get(core, register);
    T::set(core, register, value);
}

fn mem_imm<S: Shift, T: Width>(core: &mut Core, op: &Op) -> Done {
    shift_memory::<S, T>(core, op, masked::<T>(op.imm))
}

fn mem_cl<S: Shift, T: Width>(core: &mut Core, op: &Op) -> Done {
    let count = masked::<T>(core.r[1]);
    shift_memory::<S, T>(core, op, count)
}

fn shift_memory<S: Shift, T: Width>(core: &mut Core, op: &Op, count: u32) -> Done {
    core.modify::<T>(op, |core, a| if count == 0 { a } else { S::apply(core, a, count) })
}

fn shift<S: Shift>(ins: &Instruction, op: &mut Op) -> Handler {
    let size = operand_size(ins, 0);
    let by_cl = ins.op_kind(1) == OpKind::Register;
    if !by_cl {
        op.imm = ins.immediate(1);
    }
    if in_memory(ins, 0) {
        return if by_cl { by_width!(size, mem_cl<S>) } else { by_width!(size, mem_imm<S>) };
    }
    op.dst = operand(ins, 0);
    if by_cl { by_width!(size, reg_cl<S>) } else { by_width!(size, reg_imm<S>) }
}

/// SHLD (`LEFT`) or SHRD of `a` with bits from `b`.
#[inline(always)]
fn double<T: Width, const LEFT: bool>(core: &mut Core, a: T, b: T, count: u32) -> T {
    let (x, y) = (u128::from(a.zx()), u128::from(b.zx()));
    let bits = T::BITS;
    let result = if bits == 16 {
        // 48 bits: what is shifted in beyond the source is the destination again.
        if LEFT {
            let chain = x << 32 | y << 16 | x;
            core.flags.carry = chain >> (48 - count) & 1 != 0;
            chain << count >> 32
        } else {
            let chain = x << 32 | y << 16 | x;
            core.flags.carry = chain >> (count - 1) & 1 != 0;
            chain >> count
        }
    } else if LEFT {
        core.flags.carry = x >> (bits - count) & 1 != 0;
        (x << bits | y) << count >> bits
    } else {
        core.flags.carry = x >> (count - 1) & 1 != 0;
        (y << bits | x) >> count
    };
    let result = T::from_u64(result as u64);
    core.flags.overflow = msb::<T>(result.zx() ^ a.zx());
    core.flags.aux = 0;
    core.flags.set_result(result.sx());
    result
}

fn double_shift<T: Width, const LEFT: bool>(core: &mut Core, op: &Op, count: u32) -> Done {
    let b = T::get(core, op.src);
    if op.has(OP_MEMORY) {
        return core.modify::<T>(op, |core, a| if count == 0 { a } else { double::<T, LEFT>(core, a, b, count) });
    }
    let a = T::get(core, op.dst);
    let result = if count == 0 { a } else { double::<T, LEFT>(core, a, b, count) };
    T::set(core, op.dst, result);
    Ok(())
}

macro_rules! double_forms {
    ($imm:ident, $cl:ident, $left:expr) => {
        fn $imm<T: Width>(core: &mut Core, op: &Op) -> Done {
            double_shift::<T, $left>(core, op, masked::<T>(op.imm))
        }
        fn $cl<T: Width>(core: &mut Core, op: &Op) -> Done {
            let count = masked::<T>(core.r[1]);
            double_shift::<T, $left>(core, op, count)
        }
    };
}
double_forms!(shld_imm, shld_cl, true);
double_forms!(shrd_imm, shrd_cl, false);

fn doubles(ins: &Instruction, op: &mut Op, left: bool) -> Handler {
    if !in_memory(ins, 0) {
        op.dst = operand(ins, 0);
    }
    op.src = operand(ins, 1);
    let size = operand_size(ins, 0);
    let by_cl = ins.op_kind(2) == OpKind::Register;
    if !by_cl {
        op.imm = ins.immediate(2);
    }
    match (left, by_cl) {
        (true, true) => by_width!(size, shld_cl),
        (true, false) => by_width!(size, shld_imm),
        (false, true) => by_width!(size, shrd_cl),
        (false, false) => by_width!(size, shrd_imm),
    }
}

macro_rules! flagless {
    ($name:ident, |$value:ident: $type:ident, $count:ident| $body:expr) => {
        fn $name<$type: Width>(core: &mut Core, op: &Op) -> Done {
            let $value: $type = source(core, op)?;
            let $count = masked::<$type>(core.r[usize::from(op.aux & 15)]);
            $type::set(core, op.dst, $type::from_u64($body));
            Ok(())
        }
    };
}
flagless!(shlx, |value: T, count| value.zx() << count);
flagless!(shrx, |value: T, count| value.zx() >> count);
flagless!(sarx, |value: T, count| (value.sx() as i64 >> count) as u64);

fn rorx<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value: T = source(core, op)?;
    T::set(core, op.dst, ror(value, masked::<T>(op.imm)));
    Ok(())
}

/// Fills the operands of a three-operand shift.
fn three(ins: &Instruction, op: &mut Op) -> usize {
    op.dst = operand(ins, 0);
    if !in_memory(ins, 1) {
        op.src = operand(ins, 1);
    }
    if ins.op_kind(2) == OpKind::Register {
        op.aux = operand(ins, 2);
    } else {
        op.imm = ins.immediate(2);
    }
    operand_size(ins, 0)
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    Some(match ins.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal => shift::<Shl>(ins, op),
        Mnemonic::Shr => shift::<Shr>(ins, op),
        Mnemonic::Sar => shift::<Sar>(ins, op),
        Mnemonic::Rol => shift::<Rol>(ins, op),
        Mnemonic::Ror => shift::<Ror>(ins, op),
        Mnemonic::Rcl => shift::<Rcl>(ins, op),
        Mnemonic::Rcr => shift::<Rcr>(ins, op),
        Mnemonic::Shld => doubles(ins, op, true),
        Mnemonic::Shrd => doubles(ins, op, false),
        Mnemonic::Shlx => by_width!(three(ins, op), shlx),
        Mnemonic::Shrx => by_width!(three(ins, op), shrx),
        Mnemonic::Sarx => by_width!(three(ins, op), sarx),
        Mnemonic::Rorx => by_width!(three(ins, op), rorx),
        _ => return None,
    })
}
