//! XADD, CMPXCHG, CMPXCHG8B and CMPXCHG16B. The machine runs one vCPU at a time, so every instruction is atomic.

use iced_x86::{Instruction, Mnemonic};

use super::{alu, by_width, in_memory, operand, operand_size};
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, OP_MEMORY, Op};
use crate::width::Width;

fn xadd<T: Width>(core: &mut Core, op: &Op) -> Done {
    let b = T::get(core, op.src);
    if op.has(OP_MEMORY) {
        let mut old = b;
        core.modify::<T>(op, |core, a| {
            old = a;
            alu::add(core, a, b, false)
        })?;
        T::set(core, op.src, old);
    } else {
        let a = T::get(core, op.dst);
        let sum = alu::add(core, a, b, false);
        T::set(core, op.src, a);
        T::set(core, op.dst, sum);
    }
    Ok(())
}

fn cmpxchg<T: Width>(core: &mut Core, op: &Op) -> Done {
    let accumulator = T::get(core, 0);
    let new = T::get(core, op.src);
    if op.has(OP_MEMORY) {
        let mut old = new;
        // The write happens in either case: the old value is written back.
        core.modify::<T>(op, |core, value| {
            old = value;
            alu::sub(core, accumulator, value, false);
            if value == accumulator { new } else { value }
        })?;
        if old != accumulator {
            T::set(core, 0, old);
        }
        return Ok(());
    }
    let value = T::get(core, op.dst);
    alu::sub(core, accumulator, value, false);
    if value == accumulator {
        T::set(core, op.dst, new);
    } else {
        // Intel processors write the destination back too, which clears the upper half of a 32-bit register.
        T::set(core, op.dst, value);
        T::set(core, 0, value);
    }
    Ok(())
}

fn cmpxchg8b(core: &mut Core, op: &Op) -> Done {
    let expected = core.r[2] << 32 | core.r[0] & 0xffff_ffff;
    let new = core.r[1] << 32 | core.r[3] & 0xffff_ffff;
    let mut old = 0;
    core.modify::<u64>(op, |_, value| {
        old = value;
        if value == expected { new } else { value }
    })?;
    let equal = old == expected;
    core.flags.zero = u64::from(!equal);
    if !equal {
        u32::set(core, 0, old as u32);
        u32::set(core, 2, (old >> 32) as u32);
    }
    Ok(())
}

fn cmpxchg16b(core: &mut Core, op: &Op) -> Done {
    let linear = core.linear(op, 16, true)?;
    if linear & 15 != 0 {
        return Err(core.gp(0));
    }
    core.probe_write(linear, 16, op.seg)?;
    let old = core.read128(linear, op.seg)?;
    let expected = u128::from(core.r[2]) << 64 | u128::from(core.r[0]);
    let new = u128::from(core.r[1]) << 64 | u128::from(core.r[3]);
    let equal = old == expected;
    core.write128(linear, op.seg, if equal { new } else { old })?;
    core.flags.zero = u64::from(!equal);
    if !equal {
        core.r[0] = old as u64;
        core.r[2] = (old >> 64) as u64;
    }
    Ok(())
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    let mut operands = || {
        if !in_memory(ins, 0) {
            op.dst = operand(ins, 0);
        }
        op.src = operand(ins, 1);
        operand_size(ins, 0)
    };
    Some(match ins.mnemonic() {
        Mnemonic::Xadd => by_width!(operands(), xadd),
        Mnemonic::Cmpxchg => by_width!(operands(), cmpxchg),
        Mnemonic::Cmpxchg8b => cmpxchg8b,
        Mnemonic::Cmpxchg16b => cmpxchg16b,
        _ => return None,
    })
}
