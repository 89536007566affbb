//! FLD, FST(P), FILD, FIST(P), FISTTP, FBLD, FBSTP, FXCH, FCMOVcc and the constants.

use super::convert::{self, DOUBLE, Format, SINGLE};
use super::exponential::load_constant;
use super::float::{DE, Env, INDEFINITE, ONE, Operand, Rounding, zero};
use super::unit::{UNDERFLOW, Verdict};
use crate::core::Core;
use crate::op::{Done, Op, Stop};
use crate::state::Float80;
use crate::width::Width;

/// A floating-point memory format.
pub(super) trait MemoryFloat {
    type Bits: Width;
    const FORMAT: Format;
}

/// 32 bits.
pub(super) struct Single;
impl MemoryFloat for Single {
    type Bits = u32;
    const FORMAT: Format = SINGLE;
}

/// 64 bits.
pub(super) struct Double;
impl MemoryFloat for Double {
    type Bits = u64;
    const FORMAT: Format = DOUBLE;
}

/// FLD from a 32-bit or 64-bit format.
pub(super) fn load<F: MemoryFloat>(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let operand = convert::from_format(core.load::<F::Bits>(op)?.zx(), F::FORMAT);
    let mut env = core.x87_env();
    let value = env.one_nan(&operand).unwrap_or(operand.raw);
    if operand.denormal && core.fpu.is_empty(7) {
        // Loaded even when #D is unmasked: only then is the exception reported.
        core.x87_settle(op, DE);
        core.fpu.push(value);
    } else {
        core.x87_push(op, value, env.flags);
    }
    Ok(())
}

/// FLD from the 80-bit format: any bits, nothing is raised.
pub(super) fn load_extended(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let packed = load_ten(core, op)?;
    core.x87_push(op, unpack(packed), 0);
    Ok(())
}

/// FBLD.
pub(super) fn load_decimal(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let packed = load_ten(core, op)?;
    core.x87_push(op, convert::from_decimal(packed), 0);
    Ok(())
}

/// FILD.
pub(super) fn load_integer<T: Width>(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let value = core.load::<T>(op)?.sx() as i64;
    core.x87_push(op, convert::from_integer(value).raw, 0);
    Ok(())
}

/// FLD ST(i).
pub(super) fn load_register(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    if core.fpu.is_empty(op.src) && core.fpu.is_empty(7) {
        if core.x87_settle(op, UNDERFLOW) {
            core.fpu.push(INDEFINITE);
        }
        return Ok(());
    }
    let value = core.fpu.get(op.src);
    core.x87_push(op, value, 0);
    Ok(())
}

/// FLD1.
pub(super) fn load_one(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    core.x87_push(op, ONE, 0);
    Ok(())
}

/// FLDZ.
pub(super) fn load_zero(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    core.x87_push(op, zero(false), 0);
    Ok(())
}

/// A constant that is rounded.
pub(super) trait Constant {
    const VALUE: (i32, u128);
}

/// FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2.
pub(super) fn load_rounded<C: Constant>(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let value = load_constant(&mut core.x87_env(), C::VALUE);
    core.x87_push(op, value, 0);
    Ok(())
}

/// Stores `bits` made by `convert` from ST(0), in `T`'s size; pops when `op.aux` is set.
fn store_converted<T: Width>(
    core: &mut Core,
    op: &Op,
    empty: u64,
    convert: impl FnOnce(&mut Env, &Operand) -> u64,
) -> Done {
    core.x87_ready()?;
    let (bits, flags) = if core.fpu.is_empty(0) {
        (empty, UNDERFLOW)
    } else {
        let mut env = core.x87_env();
        let bits = convert(&mut env, &core.fpu.operand(0));
        (bits, env.flags)
    };
    let verdict = Verdict::new(core.fpu.control, flags, true);
    if verdict.stores {
        core.store::<T>(op, T::from_u64(bits))?;
    }
    finish_store(core, op, verdict);
    Ok(())
}

fn finish_store(core: &mut Core, op: &Op, verdict: Verdict) {
    core.x87_commit(op, verdict);
    if verdict.stores && op.aux != 0 {
        core.fpu.pop();
    }
}

/// FST and FSTP to a 32-bit or 64-bit format.
pub(super) fn store<F: MemoryFloat>(core: &mut Core, op: &Op) -> Done {
    let mut scratch = core.x87_env();
    let indefinite = convert::to_format(&mut scratch, &Operand::new(INDEFINITE), F::FORMAT);
    store_converted::<F::Bits>(core, op, indefinite, |env, a| convert::to_format(env, a, F::FORMAT))
}

/// FIST and FISTP.
pub(super) fn store_integer<T: Width>(core: &mut Core, op: &Op) -> Done {
    store_converted::<T>(core, op, 1 << (T::BITS - 1), |env, a| convert::to_integer(env, a, T::BITS))
}

/// FISTTP.
pub(super) fn store_truncated<T: Width>(core: &mut Core, op: &Op) -> Done {
    store_converted::<T>(core, op, 1 << (T::BITS - 1), |env, a| {
        env.rounding = Rounding::Zero;
        convert::to_integer(env, a, T::BITS)
    })
}

/// FSTP to the 80-bit format.
pub(super) fn store_extended(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let empty = core.fpu.is_empty(0);
    let (value, flags) = if empty { (INDEFINITE, UNDERFLOW) } else { (core.fpu.get(0), 0) };
    let verdict = Verdict::new(core.fpu.control, flags, true);
    if verdict.stores {
        store_ten(core, op, pack(value))?;
    }
    finish_store(core, op, verdict);
    Ok(())
}

/// FBSTP.
pub(super) fn store_decimal(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let mut env = core.x87_env();
    let (packed, flags) = if core.fpu.is_empty(0) {
        (convert::DECIMAL_INDEFINITE, UNDERFLOW)
    } else {
        let packed = convert::to_decimal(&mut env, &core.fpu.operand(0));
        (packed, env.flags)
    };
    let verdict = Verdict::new(core.fpu.control, flags, true);
    if verdict.stores {
        store_ten(core, op, packed)?;
    }
    finish_store(core, op, verdict);
    Ok(())
}

/// [`Op::aux`] of D9 D8: pops like the other forms of FSTP ST(i), but an empty register raises nothing.
pub(super) const POP_ANYWAY: u8 = 2;

/// FST ST(i) and FSTP ST(i): a copy, bit for bit.
pub(super) fn store_register(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let stored = if core.fpu.is_empty(0) && op.aux == POP_ANYWAY {
        core.x87_settle(op, 0)
    } else if core.fpu.is_empty(0) {
        core.x87_underflow(op, op.dst)
    } else {
        core.x87_settle(op, 0);
        let value = core.fpu.get(0);
        core.fpu.set(op.dst, value);
        true
    };
    if stored && op.aux != 0 {
        core.fpu.pop();
    }
    Ok(())
}

/// FXCH. Masked underflow fills what is empty with the indefinite first.
pub(super) fn exchange(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let empty = core.fpu.is_empty(0) || core.fpu.is_empty(op.src);
    if !core.x87_settle(op, if empty { UNDERFLOW } else { 0 }) {
        return Ok(());
    }
    let fill = |core: &Core, i| if core.fpu.is_empty(i) { INDEFINITE } else { core.fpu.get(i) };
    let (a, b) = (fill(core, 0), fill(core, op.src));
    core.fpu.set(op.src, a);
    core.fpu.set(0, b);
    Ok(())
}

/// FCMOVcc; `op.aux` is the condition as Jcc encodes it.
pub(super) fn conditional_move(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    if core.fpu.is_empty(0) || core.fpu.is_empty(op.src) {
        core.x87_underflow(op, 0);
        return Ok(());
    }
    core.fpu.instruction = core.op_rip(op);
    if core.flags.condition(op.aux) {
        let value = core.fpu.get(op.src);
        core.fpu.set(0, value);
    }
    Ok(())
}

/// A register as ten bytes in memory.
pub(crate) fn pack(value: Float80) -> u128 {
    u128::from(value.mantissa) | u128::from(value.sign_exponent) << 64
}

/// Ten bytes in memory as a register.
pub(crate) fn unpack(packed: u128) -> Float80 {
    Float80 { mantissa: packed as u64, sign_exponent: (packed >> 64) as u16 }
}

fn load_ten(core: &mut Core, op: &Op) -> Result<u128, Stop> {
    let linear = core.linear(op, 10, false)?;
    if linear & 0xfff > 0x1000 - 10 {
        return core.read_slow(linear, 10, op.seg);
    }
    let low = core.read::<u64>(linear, op.seg)?;
    let high = core.read::<u16>(linear + 8, op.seg)?;
    Ok(u128::from(low) | u128::from(high) << 64)
}

fn store_ten(core: &mut Core, op: &Op, packed: u128) -> Done {
    let linear = core.linear(op, 10, true)?;
    if linear & 0xfff > 0x1000 - 10 {
        return core.write_slow(linear, packed, 10, op.seg);
    }
    // In one page, so the second part cannot fault.
    core.write::<u64>(linear, op.seg, packed as u64)?;
    core.write::<u16>(linear + 8, op.seg, (packed >> 64) as u16)
}
