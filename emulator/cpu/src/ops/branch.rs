//! Near jumps, calls and returns, conditional jumps and loops.
//!
//! A target that is not canonical, or outside the code segment's limit, faults at the branch itself.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::mov::condition;
use super::{in_memory, operand};
use crate::access::is_canonical;
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, OP_A16, OP_A32, OP_LEGACY, OP_MEMORY, OP_O16, Op, SLOT_RIP, Stop};
use crate::state::CS;
use crate::width::Width;

/// Commits a jump to `target`.
#[inline(always)]
fn jump(core: &mut Core, op: &Op, target: u64) -> Done {
    check(core, op, target)?;
    core.rip = target;
    Err(Stop::Jump)
}

/// Faults when execution cannot go on at `target`.
#[inline(always)]
fn check(core: &mut Core, op: &Op, target: u64) -> Done {
    let fine =
        if op.flags & OP_LEGACY == 0 { is_canonical(target) } else { target <= u64::from(core.sys.segs[CS].limit) };
    if fine { Ok(()) } else { Err(core.gp(0)) }
}

/// Target of a relative branch.
#[inline(always)]
fn relative(core: &Core, op: &Op) -> u64 {
    let target = core.r[usize::from(SLOT_RIP)].wrapping_add(op.imm);
    if op.flags & OP_LEGACY == 0 {
        target
    } else if op.flags & OP_O16 != 0 {
        target & 0xffff
    } else {
        target & 0xffff_ffff
    }
}

fn jmp_relative(core: &mut Core, op: &Op) -> Done {
    let target = relative(core, op);
    jump(core, op, target)
}

fn jcc<const CC: u8>(core: &mut Core, op: &Op) -> Done {
    if core.flags.condition(CC) {
        let target = relative(core, op);
        return jump(core, op, target);
    }
    Ok(())
}

fn call_relative<T: Width>(core: &mut Core, op: &Op) -> Done {
    let target = relative(core, op);
    call_to::<T>(core, op, target)
}

#[inline(always)]
fn call_to<T: Width>(core: &mut Core, op: &Op, target: u64) -> Done {
    check(core, op, target)?;
    let back = core.next_rip(op);
    core.push_value(op, T::from_u64(back))?;
    core.rip = target;
    Err(Stop::Jump)
}

/// The operand of an indirect branch.
#[inline(always)]
fn indirect<T: Width>(core: &mut Core, op: &Op) -> Result<u64, Stop> {
    Ok(if op.has(OP_MEMORY) { core.load::<T>(op)?.zx() } else { T::get(core, op.src).zx() })
}

fn jmp_indirect<T: Width>(core: &mut Core, op: &Op) -> Done {
    let target = indirect::<T>(core, op)?;
    jump(core, op, target)
}

fn call_indirect<T: Width>(core: &mut Core, op: &Op) -> Done {
    let target = indirect::<T>(core, op)?;
    call_to::<T>(core, op, target)
}

fn ret<T: Width>(core: &mut Core, op: &Op) -> Done {
    let target = core.peek::<T>(op, 0)?.zx();
    check(core, op, target)?;
    core.drop_stack(op, T::BYTES + op.imm);
    core.rip = target;
    Err(Stop::Jump)
}

/// The count register at the address size.
#[inline(always)]
fn counter(core: &Core, op: &Op) -> u64 {
    core.r[1] & counter_mask(op)
}

#[inline(always)]
fn counter_mask(op: &Op) -> u64 {
    if op.flags & OP_A16 != 0 {
        0xffff
    } else if op.flags & OP_A32 != 0 {
        0xffff_ffff
    } else {
        u64::MAX
    }
}

fn jcxz(core: &mut Core, op: &Op) -> Done {
    if counter(core, op) == 0 {
        let target = relative(core, op);
        return jump(core, op, target);
    }
    Ok(())
}

/// LOOP (0), LOOPE (1), LOOPNE (2).
fn looping<const KIND: u8>(core: &mut Core, op: &Op) -> Done {
    let count = counter(core, op).wrapping_sub(1) & counter_mask(op);
    let taken = count != 0
        && match KIND {
            0 => true,
            1 => core.flags.zf(),
            _ => !core.flags.zf(),
        };
    let target = relative(core, op);
    if taken {
        check(core, op, target)?;
    }
    if op.flags & OP_A16 != 0 {
        u16::set(core, 1, count as u16);
    } else {
        core.r[1] = count;
    }
    if taken {
        core.rip = target;
        return Err(Stop::Jump);
    }
    Ok(())
}

fn conditional(ins: &Instruction) -> Handler {
    const HANDLERS: [Handler; 16] = [
        jcc::<0>, jcc::<1>, jcc::<2>, jcc::<3>, jcc::<4>, jcc::<5>, jcc::<6>, jcc::<7>, jcc::<8>, jcc::<9>, jcc::<10>,
        jcc::<11>, jcc::<12>, jcc::<13>, jcc::<14>, jcc::<15>,
    ];
    HANDLERS[usize::from(condition(ins))]
}

/// Address size of the counting branches.
fn counter_size(op: &mut Op, register: Register) {
    match register {
        Register::CX => op.flags |= OP_A16,
        Register::ECX => op.flags |= OP_A32,
        _ => {}
    }
}

fn is_near(kind: OpKind) -> bool {
    matches!(kind, OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64)
}

/// Handler for the operand size of a branch that reads or writes memory.
macro_rules! by_branch_size {
    ($size:expr, $body:ident) => {
        match $size {
            2 => $body::<u16>,
            4 => $body::<u32>,
            _ => $body::<u64>,
        }
    };
}

/// Operand size in bytes of a near call or return, from how far it moves the stack pointer.
fn stack_size(ins: &Instruction) -> i32 {
    let moved = ins.stack_pointer_increment();
    if ins.mnemonic() == Mnemonic::Ret && ins.op_count() > 0 {
        moved - i32::from(ins.immediate16())
    } else {
        moved.abs()
    }
}

fn indirect_operand(ins: &Instruction, op: &mut Op) -> Option<usize> {
    if in_memory(ins, 0) {
        // A far pointer is 4, 6 or 10 bytes: those forms belong to the system family.
        let far = matches!(
            ins.memory_size(),
            iced_x86::MemorySize::SegPtr16 | iced_x86::MemorySize::SegPtr32 | iced_x86::MemorySize::SegPtr64
        );
        return (!far).then(|| ins.memory_size().size());
    }
    if ins.op_kind(0) != OpKind::Register {
        return None;
    }
    op.src = operand(ins, 0);
    Some(ins.op0_register().size())
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    if is_near(ins.op_kind(0)) && ins.op_count() > 0 {
        op.imm = ins.near_branch_target();
        if ins.op_kind(0) == OpKind::NearBranch16 {
            op.flags |= OP_O16;
        }
    }
    Some(match ins.mnemonic() {
        Mnemonic::Jmp if is_near(ins.op_kind(0)) => jmp_relative,
        Mnemonic::Jmp => by_branch_size!(indirect_operand(ins, op)?, jmp_indirect),
        Mnemonic::Call if is_near(ins.op_kind(0)) => by_branch_size!(stack_size(ins), call_relative),
        Mnemonic::Call => by_branch_size!(indirect_operand(ins, op)?, call_indirect),
        Mnemonic::Ret => {
            if ins.op_count() > 0 {
                op.imm = u64::from(ins.immediate16());
            }
            by_branch_size!(stack_size(ins), ret)
        }
        Mnemonic::Jcxz => {
            counter_size(op, Register::CX);
            jcxz
        }
        Mnemonic::Jecxz => {
            counter_size(op, Register::ECX);
            jcxz
        }
        Mnemonic::Jrcxz => jcxz,
        Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne => {
            counter_size(op, loop_register(ins));
            match ins.mnemonic() {
                Mnemonic::Loop => looping::<0>,
                Mnemonic::Loope => looping::<1>,
                _ => looping::<2>,
            }
        }
        _ if ins.is_jcc_short_or_near() => conditional(ins),
        _ => return None,
    })
}

/// CX, ECX or RCX, which the code of a LOOP names.
fn loop_register(ins: &Instruction) -> Register {
    use iced_x86::Code as C;
    match ins.code() {
        C::Loop_rel8_16_CX
        | C::Loop_rel8_32_CX
        | C::Loope_rel8_16_CX
        | C::Loope_rel8_32_CX
        | C::Loopne_rel8_16_CX
        | C::Loopne_rel8_32_CX => Register::CX,
        C::Loop_rel8_16_ECX
        | C::Loop_rel8_32_ECX
        | C::Loop_rel8_64_ECX
        | C::Loope_rel8_16_ECX
        | C::Loope_rel8_32_ECX
        | C::Loope_rel8_64_ECX
        | C::Loopne_rel8_16_ECX
        | C::Loopne_rel8_32_ECX
        | C::Loopne_rel8_64_ECX => Register::ECX,
        _ => Register::RCX,
    }
}
