//! BT, BTS, BTR, BTC, BSF, BSR, POPCNT, LZCNT, TZCNT, BMI1, BMI2 bit moves, ADCX and ADOX.
//!
//! Flags that the SDM leaves open (docs/cpu-model.md): bit tests change CF only; the scans and counts clear what they
//! do not define, except that BSF and BSR of zero leave the destination as it was.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::{by_width, in_memory, operand, operand_size, source};
use crate::core::Core;
use crate::flags::{CF, SF, ZF};
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, Op, Stop};
use crate::width::Width;

/// What a bit test does to the bit.
const KEEP: u8 = 0;
const SET: u8 = 1;
const RESET: u8 = 2;

#[inline(always)]
fn change<T: Width, const KIND: u8>(core: &mut Core, value: T, bit: u32) -> T {
    core.flags.carry = value.zx() >> bit & 1 != 0;
    let mask = 1u64 << bit;
    T::from_u64(match KIND {
        KEEP => value.zx(),
        SET => value.zx() | mask,
        RESET => value.zx() & !mask,
        _ => value.zx() ^ mask,
    })
}

/// Bit offset operand: `aux` is 1 for a register (`src`), 0 for the immediate.
#[inline(always)]
fn bit_offset<T: Width>(core: &Core, op: &Op) -> u64 {
    if op.aux == 1 { T::get(core, op.src).sx() } else { op.imm & u64::from(T::BITS - 1) }
}

fn bit_reg<T: Width, const KIND: u8>(core: &mut Core, op: &Op) -> Done {
    let bit = (bit_offset::<T>(core, op) & u64::from(T::BITS - 1)) as u32;
    let value = T::get(core, op.dst);
    let result = change::<T, KIND>(core, value, bit);
    if KIND != KEEP {
        T::set(core, op.dst, result);
    }
    Ok(())
}

fn bit_mem<T: Width, const KIND: u8>(core: &mut Core, op: &Op) -> Done {
    // A register offset reaches beyond the operand: signed, counted in operands.
    let offset = bit_offset::<T>(core, op);
    let units = ((offset as i64) >> T::BITS.trailing_zeros()) as u64;
    let bit = (offset & u64::from(T::BITS - 1)) as u32;
    let moved = Op { disp: op.disp.wrapping_add(units.wrapping_mul(T::BYTES)), ..*op };
    if KIND == KEEP {
        let value = core.load::<T>(&moved)?;
        change::<T, KIND>(core, value, bit);
        return Ok(());
    }
    core.modify::<T>(&moved, |core, value| change::<T, KIND>(core, value, bit))
}

macro_rules! bit_test {
    ($select:ident, $reg:ident, $mem:ident, $kind:expr) => {
        fn $reg<T: Width>(core: &mut Core, op: &Op) -> Done {
            bit_reg::<T, $kind>(core, op)
        }
        fn $mem<T: Width>(core: &mut Core, op: &Op) -> Done {
            bit_mem::<T, $kind>(core, op)
        }
        fn $select(ins: &Instruction, op: &mut Op) -> Handler {
            if ins.op_kind(1) == OpKind::Register {
                op.src = operand(ins, 1);
                op.aux = 1;
            } else {
                op.imm = ins.immediate(1);
            }
            let size = operand_size(ins, 0);
            if in_memory(ins, 0) {
                by_width!(size, $mem)
            } else {
                op.dst = operand(ins, 0);
                by_width!(size, $reg)
            }
        }
    };
}
bit_test!(bt, bt_reg, bt_mem, KEEP);
bit_test!(bts, bts_reg, bts_mem, SET);
bit_test!(btr, btr_reg, btr_mem, RESET);
bit_test!(btc, btc_reg, btc_mem, 3);

fn scan<T: Width, const REVERSE: bool>(core: &mut Core, op: &Op) -> Done {
    let value = source::<T>(core, op)?.zx();
    core.flags.set_arithmetic(if value == 0 { ZF } else { 0 });
    if value != 0 {
        let bit = if REVERSE { 63 - value.leading_zeros() } else { value.trailing_zeros() };
        T::set(core, op.dst, T::from_u64(u64::from(bit)));
    }
    Ok(())
}

fn bsf<T: Width>(core: &mut Core, op: &Op) -> Done {
    scan::<T, false>(core, op)
}

fn bsr<T: Width>(core: &mut Core, op: &Op) -> Done {
    scan::<T, true>(core, op)
}

/// Result of a count with CF as given and ZF when it is zero; other flags cleared.
#[inline(always)]
fn counted<T: Width>(core: &mut Core, op: &Op, count: u32, carry: bool) -> Done {
    let zero = if count == 0 { ZF } else { 0 };
    core.flags.set_arithmetic(zero | if carry { CF } else { 0 });
    T::set(core, op.dst, T::from_u64(u64::from(count)));
    Ok(())
}

fn popcnt<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = source::<T>(core, op)?.zx();
    core.flags.set_arithmetic(if value == 0 { ZF } else { 0 });
    T::set(core, op.dst, T::from_u64(u64::from(value.count_ones())));
    Ok(())
}

fn lzcnt<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = source::<T>(core, op)?.zx();
    let count = value.leading_zeros() - (64 - T::BITS);
    counted::<T>(core, op, count, value == 0)
}

fn tzcnt<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = source::<T>(core, op)?.zx();
    let count = value.trailing_zeros().min(T::BITS);
    counted::<T>(core, op, count, value == 0)
}

/// Flags of the BMI1 operations: SF and ZF from the result, CF as given, the others cleared.
#[inline(always)]
fn bmi_result<T: Width>(core: &mut Core, register: u8, result: T, carry: bool) {
    let sign = if result.sx() >> 63 != 0 { SF } else { 0 };
    let zero = if result.zx() == 0 { ZF } else { 0 };
    core.flags.set_arithmetic(sign | zero | u64::from(carry));
    T::set(core, register, result);
}

/// The register named by VEX.vvvv.
#[inline(always)]
fn third<T: Width>(core: &Core, op: &Op) -> T {
    T::get(core, op.aux)
}

fn andn<T: Width>(core: &mut Core, op: &Op) -> Done {
    let b = source::<T>(core, op)?.zx();
    let a = third::<T>(core, op).zx();
    bmi_result(core, op.dst, T::from_u64(!a & b), false);
    Ok(())
}

fn bextr<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = source::<T>(core, op)?.zx();
    let control = third::<T>(core, op).zx();
    let (start, length) = ((control & 0xff) as u32, (control >> 8 & 0xff) as u32);
    let shifted = value.checked_shr(start).unwrap_or(0);
    let result = if length >= 64 { shifted } else { shifted & ((1 << length) - 1) };
    bmi_result(core, op.dst, T::from_u64(result), false);
    Ok(())
}

fn blsi<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = source::<T>(core, op)?.zx();
    bmi_result(core, op.dst, T::from_u64(value & value.wrapping_neg()), value != 0);
    Ok(())
}

fn blsmsk<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = source::<T>(core, op)?.zx();
    bmi_result(core, op.dst, T::from_u64(value ^ value.wrapping_sub(1)), value == 0);
    Ok(())
}

fn blsr<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = source::<T>(core, op)?.zx();
    bmi_result(core, op.dst, T::from_u64(value & value.wrapping_sub(1)), value == 0);
    Ok(())
}

fn bzhi<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = source::<T>(core, op)?.zx();
    let index = (third::<T>(core, op).zx() & 0xff) as u32;
    let result = if index >= T::BITS { value } else { value & ((1 << index) - 1) };
    bmi_result(core, op.dst, T::from_u64(result), index >= T::BITS);
    Ok(())
}

fn pdep<T: Width>(core: &mut Core, op: &Op) -> Done {
    let mask = source::<T>(core, op)?.zx();
    let value = third::<T>(core, op).zx();
    let (mut result, mut left, mut bit) = (0, mask, 0);
    while left != 0 {
        let lowest = left & left.wrapping_neg();
        if value >> bit & 1 != 0 {
            result |= lowest;
        }
        left ^= lowest;
        bit += 1;
    }
    T::set(core, op.dst, T::from_u64(result));
    Ok(())
}

fn pext<T: Width>(core: &mut Core, op: &Op) -> Done {
    let mask = source::<T>(core, op)?.zx();
    let value = third::<T>(core, op).zx();
    let (mut result, mut left, mut bit) = (0u64, mask, 0);
    while left != 0 {
        let lowest = left & left.wrapping_neg();
        result |= u64::from(value & lowest != 0) << bit;
        left ^= lowest;
        bit += 1;
    }
    T::set(core, op.dst, T::from_u64(result));
    Ok(())
}

/// Sum of destination, source and one flag; returns the carry out.
#[inline(always)]
fn add_with<T: Width>(core: &mut Core, op: &Op, carry: bool) -> Result<bool, Stop> {
    let b = source::<T>(core, op)?.zx();
    let sum = u128::from(T::get(core, op.dst).zx()) + u128::from(b) + u128::from(carry);
    T::set(core, op.dst, T::from_u64(sum as u64));
    Ok(sum >> T::BITS != 0)
}

fn adcx<T: Width>(core: &mut Core, op: &Op) -> Done {
    core.flags.carry = add_with::<T>(core, op, core.flags.carry)?;
    Ok(())
}

fn adox<T: Width>(core: &mut Core, op: &Op) -> Done {
    core.flags.overflow = add_with::<T>(core, op, core.flags.overflow)?;
    Ok(())
}

/// Destination in a register, source in a register or memory.
fn two(ins: &Instruction, op: &mut Op) -> usize {
    op.dst = operand(ins, 0);
    if !in_memory(ins, 1) {
        op.src = operand(ins, 1);
    }
    operand_size(ins, 0)
}

/// Three operands: `value` is the position of the one that may be in memory, `other` of the register.
fn three(ins: &Instruction, op: &mut Op, value: u32, other: u32) -> usize {
    op.dst = operand(ins, 0);
    op.aux = operand(ins, other);
    if !in_memory(ins, value) {
        op.src = operand(ins, value);
    }
    operand_size(ins, 0)
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    Some(match ins.mnemonic() {
        Mnemonic::Bt => bt(ins, op),
        Mnemonic::Bts => bts(ins, op),
        Mnemonic::Btr => btr(ins, op),
        Mnemonic::Btc => btc(ins, op),
        Mnemonic::Bsf => by_width!(two(ins, op), bsf),
        Mnemonic::Bsr => by_width!(two(ins, op), bsr),
        Mnemonic::Popcnt => by_width!(two(ins, op), popcnt),
        Mnemonic::Lzcnt => by_width!(two(ins, op), lzcnt),
        Mnemonic::Tzcnt => by_width!(two(ins, op), tzcnt),
        Mnemonic::Blsi => by_width!(two(ins, op), blsi),
        Mnemonic::Blsmsk => by_width!(two(ins, op), blsmsk),
        Mnemonic::Blsr => by_width!(two(ins, op), blsr),
        Mnemonic::Andn => by_width!(three(ins, op, 2, 1), andn),
        Mnemonic::Pdep => by_width!(three(ins, op, 2, 1), pdep),
        Mnemonic::Pext => by_width!(three(ins, op, 2, 1), pext),
        Mnemonic::Bextr => by_width!(three(ins, op, 1, 2), bextr),
        Mnemonic::Bzhi => by_width!(three(ins, op, 1, 2), bzhi),
        Mnemonic::Adcx => by_width!(two(ins, op), adcx),
        Mnemonic::Adox => by_width!(two(ins, op), adox),
        _ => return None,
    })
}
