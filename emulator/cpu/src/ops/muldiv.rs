//! MUL, IMUL, DIV, IDIV, MULX and the decimal adjustments of legacy modes.
//!
//! MUL and IMUL leave SF, ZF, AF and PF undefined; here SF, ZF and PF follow the low half of the product and AF is
//! cleared. DIV and IDIV leave all arithmetic flags undefined; here they stay as they were.

use iced_x86::{Instruction, Mnemonic};

use super::{by_width, in_memory, operand, operand_size, source};
use crate::core::Core;
use crate::fault::vector;
use crate::flags::{AF, CF};
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, Op};
use crate::width::Width;

#[inline(always)]
fn product_flags<T: Width>(core: &mut Core, low: T, overflow: bool) {
    core.flags.carry = overflow;
    core.flags.overflow = overflow;
    core.flags.aux = 0;
    core.flags.set_result(low.sx());
}

/// Writes a double-width value to AX, or to DX and AX.
#[inline(always)]
fn set_pair<T: Width>(core: &mut Core, value: u128) {
    if T::BITS == 8 {
        u16::set(core, 0, value as u16);
    } else {
        T::set(core, 0, T::from_u64(value as u64));
        T::set(core, 2, T::from_u64((value >> T::BITS) as u64));
    }
}

/// AX, or DX and AX, as a double-width value.
#[inline(always)]
fn pair<T: Width>(core: &Core) -> u128 {
    if T::BITS == 8 {
        u128::from(u16::get(core, 0))
    } else {
        u128::from(T::get(core, 2).zx()) << T::BITS | u128::from(T::get(core, 0).zx())
    }
}

fn mul<T: Width>(core: &mut Core, op: &Op) -> Done {
    let b: T = source(core, op)?;
    let product = u128::from(T::get(core, 0).zx()) * u128::from(b.zx());
    set_pair::<T>(core, product);
    product_flags(core, T::from_u64(product as u64), product >> T::BITS != 0);
    Ok(())
}

fn signed<T: Width>(value: T) -> i128 {
    i128::from(value.sx() as i64)
}

fn imul_one<T: Width>(core: &mut Core, op: &Op) -> Done {
    let b: T = source(core, op)?;
    let product = signed(T::get(core, 0)) * signed(b);
    let low = T::from_u64(product as u64);
    set_pair::<T>(core, product as u128 & (u128::MAX >> (128 - 2 * T::BITS)));
    product_flags(core, low, signed(low) != product);
    Ok(())
}

fn imul_two<T: Width>(core: &mut Core, op: &Op) -> Done {
    let b: T = source(core, op)?;
    let a = T::get(core, op.dst);
    imul_into(core, op, a, b)
}

fn imul_three<T: Width>(core: &mut Core, op: &Op) -> Done {
    let a: T = source(core, op)?;
    imul_into(core, op, a, T::from_u64(op.imm))
}

#[inline(always)]
fn imul_into<T: Width>(core: &mut Core, op: &Op, a: T, b: T) -> Done {
    let (low, overflow) = if T::BITS == 64 {
        let (low, overflow) = (a.zx() as i64).overflowing_mul(b.zx() as i64);
        (T::from_u64(low as u64), overflow)
    } else {
        let product = (a.sx() as i64).wrapping_mul(b.sx() as i64);
        let low = T::from_u64(product as u64);
        (low, low.sx() as i64 != product)
    };
    T::set(core, op.dst, low);
    product_flags(core, low, overflow);
    Ok(())
}

fn mulx<T: Width>(core: &mut Core, op: &Op) -> Done {
    let b: T = source(core, op)?;
    let product = u128::from(T::get(core, 2).zx()) * u128::from(b.zx());
    // The high half is written last: it wins when both destinations are the same.
    T::set(core, op.aux, T::from_u64(product as u64));
    T::set(core, op.dst, T::from_u64((product >> T::BITS) as u64));
    Ok(())
}

fn div<T: Width>(core: &mut Core, op: &Op) -> Done {
    let divisor = u128::from(source::<T>(core, op)?.zx());
    let dividend = pair::<T>(core);
    if divisor == 0 {
        return Err(core.raise(vector::DE));
    }
    let (quotient, rest) = if let Ok(small) = u64::try_from(dividend) {
        let divisor = divisor as u64;
        (u128::from(small / divisor), u128::from(small % divisor))
    } else {
        (dividend / divisor, dividend % divisor)
    };
    if quotient > u128::from(T::MASK) {
        return Err(core.raise(vector::DE));
    }
    set_division::<T>(core, quotient as u64, rest as u64);
    Ok(())
}

fn idiv<T: Width>(core: &mut Core, op: &Op) -> Done {
    let divisor = signed(source::<T>(core, op)?);
    let shift = 128 - 2 * T::BITS;
    let dividend = (pair::<T>(core) << shift) as i128 >> shift;
    let Some(quotient) = dividend.checked_div(divisor) else {
        return Err(core.raise(vector::DE));
    };
    let low = T::from_u64(quotient as u64);
    if signed(low) != quotient {
        return Err(core.raise(vector::DE));
    }
    set_division::<T>(core, quotient as u64, (dividend % divisor) as u64);
    Ok(())
}

/// Quotient to AL and remainder to AH, or to AX and DX.
#[inline(always)]
fn set_division<T: Width>(core: &mut Core, quotient: u64, rest: u64) {
    if T::BITS == 8 {
        u16::set(core, 0, (rest << 8 | quotient & 0xff) as u16);
    } else {
        T::set(core, 0, T::from_u64(quotient));
        T::set(core, 2, T::from_u64(rest));
    }
}

fn one_operand(ins: &Instruction, op: &mut Op) -> usize {
    if !in_memory(ins, 0) {
        op.src = operand(ins, 0);
    }
    operand_size(ins, 0)
}

fn imul(ins: &Instruction, op: &mut Op) -> Handler {
    if ins.op_count() == 1 {
        return by_width!(one_operand(ins, op), imul_one);
    }
    op.dst = operand(ins, 0);
    if !in_memory(ins, 1) {
        op.src = operand(ins, 1);
    }
    let size = operand_size(ins, 0);
    if ins.op_count() == 3 {
        op.imm = ins.immediate(2);
        by_width!(size, imul_three)
    } else {
        by_width!(size, imul_two)
    }
}

/// DAA and DAS. OF is undefined; here it is cleared.
fn decimal_adjust<const SUBTRACT: bool>(core: &mut Core, _op: &Op) -> Done {
    let old = u8::get(core, 0);
    let flags = core.flags.arithmetic();
    let (carry, aux) = (flags & CF != 0, flags & AF != 0);
    let low = aux || old & 0xf > 9;
    let high = carry || old > 0x99;
    let step = u8::from(low) * 6 + u8::from(high) * 0x60;
    let value = if SUBTRACT { old.wrapping_sub(step) } else { old.wrapping_add(step) };
    // DAS carries also when taking 6 off borrows.
    let borrowed = SUBTRACT && low && old < 6;
    u8::set(core, 0, value);
    core.flags.set_result(value.sx());
    core.flags.carry = high || borrowed;
    core.flags.overflow = false;
    core.flags.aux = if low { AF as u8 } else { 0 };
    Ok(())
}

/// AAA and AAS. SF, ZF, PF follow AL; OF is cleared.
fn ascii_adjust<const SUBTRACT: bool>(core: &mut Core, _op: &Op) -> Done {
    let ax = u16::get(core, 0);
    let adjust = ax & 0xf > 9 || core.flags.arithmetic() & AF != 0;
    let changed = match (adjust, SUBTRACT) {
        (false, _) => ax,
        (true, false) => ax.wrapping_add(0x106),
        (true, true) => ax.wrapping_sub(0x106),
    };
    let ax = changed & 0xff0f;
    u16::set(core, 0, ax);
    core.flags.set_result((ax as u8).sx());
    core.flags.carry = adjust;
    core.flags.overflow = false;
    core.flags.aux = if adjust { AF as u8 } else { 0 };
    Ok(())
}

fn aam(core: &mut Core, op: &Op) -> Done {
    let base = op.imm as u8;
    let Some(tens) = u8::get(core, 0).checked_div(base) else {
        return Err(core.raise(vector::DE));
    };
    let ones = u8::get(core, 0) % base;
    u16::set(core, 0, u16::from(tens) << 8 | u16::from(ones));
    ascii_flags(core, ones);
    Ok(())
}

fn aad(core: &mut Core, op: &Op) -> Done {
    let ax = u16::get(core, 0);
    let value = (ax as u8).wrapping_add(((ax >> 8) as u8).wrapping_mul(op.imm as u8));
    u16::set(core, 0, u16::from(value));
    ascii_flags(core, value);
    Ok(())
}

/// CF, OF and AF are undefined; here they are cleared.
fn ascii_flags(core: &mut Core, value: u8) {
    core.flags.set_result(value.sx());
    core.flags.carry = false;
    core.flags.overflow = false;
    core.flags.aux = 0;
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    Some(match ins.mnemonic() {
        Mnemonic::Mul => by_width!(one_operand(ins, op), mul),
        Mnemonic::Imul => imul(ins, op),
        Mnemonic::Div => by_width!(one_operand(ins, op), div),
        Mnemonic::Idiv => by_width!(one_operand(ins, op), idiv),
        Mnemonic::Mulx => {
            op.dst = operand(ins, 0);
            op.aux = operand(ins, 1);
            if !in_memory(ins, 2) {
                op.src = operand(ins, 2);
            }
            by_width!(operand_size(ins, 0), mulx)
        }
        Mnemonic::Daa => decimal_adjust::<false>,
        Mnemonic::Das => decimal_adjust::<true>,
        Mnemonic::Aaa => ascii_adjust::<false>,
        Mnemonic::Aas => ascii_adjust::<true>,
        Mnemonic::Aam => {
            op.imm = ins.immediate(0);
            aam
        }
        Mnemonic::Aad => {
            op.imm = ins.immediate(0);
            aad
        }
        _ => return None,
    })
}
