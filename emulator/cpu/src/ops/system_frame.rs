//! Far transfers, interrupts by the program and returns from them, fast system calls, ENTER and LEAVE.

use iced_x86::{Code, Instruction, Mnemonic};

use super::system_segment::load_far;
use crate::core::Core;
use crate::fault::vector;
use crate::flags::OF;
use crate::op::{Done, Handler, Op};
use crate::sys::RBP;

/// Handler of an instruction of this family. `aux` is the operand size.
pub(super) fn select(ins: &Instruction, op: &mut Op) -> Option<Handler> {
    Some(match ins.code() {
        Code::Jmp_ptr1616 | Code::Call_ptr1616 | Code::Jmp_ptr1632 | Code::Call_ptr1632 => {
            let wide = matches!(ins.code(), Code::Jmp_ptr1632 | Code::Call_ptr1632);
            op.aux = if wide { 4 } else { 2 };
            op.imm = if wide { u64::from(ins.far_branch32()) } else { u64::from(ins.far_branch16()) };
            op.disp = u64::from(ins.far_branch_selector());
            if ins.mnemonic() == Mnemonic::Jmp { jump_direct } else { call_direct }
        }
        Code::Jmp_m1616
        | Code::Jmp_m1632
        | Code::Jmp_m1664
        | Code::Call_m1616
        | Code::Call_m1632
        | Code::Call_m1664 => {
            op.aux = match ins.code() {
                Code::Jmp_m1616 | Code::Call_m1616 => 2,
                Code::Jmp_m1632 | Code::Call_m1632 => 4,
                _ => 8,
            };
            if ins.mnemonic() == Mnemonic::Jmp { jump_indirect } else { call_indirect }
        }
        Code::Retfw | Code::Retfw_imm16 | Code::Retfd | Code::Retfd_imm16 | Code::Retfq | Code::Retfq_imm16 => {
            op.aux = match ins.code() {
                Code::Retfw | Code::Retfw_imm16 => 2,
                Code::Retfd | Code::Retfd_imm16 => 4,
                _ => 8,
            };
            op.imm = if ins.op_count() > 0 { u64::from(ins.immediate16()) } else { 0 };
            return_far
        }
        Code::Iretw => iret::<2>,
        Code::Iretd => iret::<4>,
        Code::Iretq => iret::<8>,
        Code::Int_imm8 => {
            op.aux = ins.immediate8();
            int
        }
        Code::Int3 => {
            op.aux = vector::BP;
            int
        }
        Code::Into => into,
        Code::Int1 => int1,
        Code::Syscall => syscall,
        Code::Sysretd => sysret::<false>,
        Code::Sysretq => sysret::<true>,
        Code::Sysenter => sysenter,
        Code::Sysexitd => sysexit::<false>,
        Code::Sysexitq => sysexit::<true>,
        Code::Enterw_imm16_imm8 | Code::Enterd_imm16_imm8 | Code::Enterq_imm16_imm8 => {
            op.imm = u64::from(ins.immediate16());
            op.src = ins.immediate8_2nd() & 31;
            op.aux = match ins.code() {
                Code::Enterw_imm16_imm8 => 2,
                Code::Enterd_imm16_imm8 => 4,
                _ => 8,
            };
            enter
        }
        Code::Leavew => leave::<2>,
        Code::Leaved => leave::<4>,
        Code::Leaveq => leave::<8>,
        _ => return None,
    })
}

fn jump_direct(core: &mut Core, op: &Op) -> Done {
    core.far_jump(op.disp as u16, op.imm)
}

fn call_direct(core: &mut Core, op: &Op) -> Done {
    let next = core.next_rip(op);
    core.far_call(op.disp as u16, op.imm, u64::from(op.aux), next)
}

fn jump_indirect(core: &mut Core, op: &Op) -> Done {
    let (selector, offset) = load_far(core, op, u64::from(op.aux))?;
    core.far_jump(selector, offset)
}

fn call_indirect(core: &mut Core, op: &Op) -> Done {
    let (selector, offset) = load_far(core, op, u64::from(op.aux))?;
    let next = core.next_rip(op);
    core.far_call(selector, offset, u64::from(op.aux), next)
}

fn return_far(core: &mut Core, op: &Op) -> Done {
    core.far_return(u64::from(op.aux), op.imm)
}

fn iret<const SIZE: u64>(core: &mut Core, _op: &Op) -> Done {
    core.interrupt_return(SIZE)
}

fn int(core: &mut Core, op: &Op) -> Done {
    let next = core.next_rip(op);
    core.software_interrupt(op.aux, next)
}

fn into(core: &mut Core, op: &Op) -> Done {
    if core.flags.arithmetic() & OF == 0 {
        return Ok(());
    }
    let next = core.next_rip(op);
    core.software_interrupt(vector::OF, next)
}

fn int1(core: &mut Core, op: &Op) -> Done {
    let next = core.next_rip(op);
    core.debug_interrupt(next)
}

fn syscall(core: &mut Core, op: &Op) -> Done {
    let next = core.next_rip(op);
    core.syscall(next)
}

fn sysret<const LONG: bool>(core: &mut Core, _op: &Op) -> Done {
    core.sysret(LONG)
}

fn sysenter(core: &mut Core, _op: &Op) -> Done {
    core.sysenter()
}

fn sysexit<const LONG: bool>(core: &mut Core, _op: &Op) -> Done {
    core.sysexit(LONG)
}

/// Replaces as much of RBP as the operand size says: 16 bits keep the rest, 32 bits clear the upper half.
fn set_frame(core: &mut Core, value: u64, size: u64) {
    core.r[RBP] = match size {
        2 => core.r[RBP] & !0xffff | value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    };
}

fn write_sized(core: &mut Core, at: u64, value: u64, size: u64) -> Done {
    match size {
        2 => core.write_stack(at, value as u16),
        4 => core.write_stack(at, value as u32),
        _ => core.write_stack(at, value),
    }
}

fn enter(core: &mut Core, op: &Op) -> Done {
    let size = u64::from(op.aux);
    let mask = core.sp_mask();
    let level = u64::from(op.src);
    let mut at = core.sp().wrapping_sub(size) & mask;
    let frame = at;
    // The last byte that the new frame may touch is checked before anything is written.
    let last = frame.wrapping_sub(level * size).wrapping_sub(op.imm) & mask;
    core.probe_stack(last, size)?;
    write_sized(core, at, core.r[RBP], size)?;
    for outer in 1..level {
        let from = core.r[RBP].wrapping_sub(outer * size) & mask;
        let value = match size {
            2 => u64::from(core.read_stack::<u16>(from)?),
            4 => u64::from(core.read_stack::<u32>(from)?),
            _ => core.read_stack::<u64>(from)?,
        };
        at = at.wrapping_sub(size) & mask;
        write_sized(core, at, value, size)?;
    }
    if level > 0 {
        at = at.wrapping_sub(size) & mask;
        write_sized(core, at, frame, size)?;
    }
    set_frame(core, frame, size);
    core.set_sp(last);
    Ok(())
}

fn leave<const SIZE: u64>(core: &mut Core, _op: &Op) -> Done {
    let at = core.r[RBP] & core.sp_mask();
    let value = match SIZE {
        2 => u64::from(core.read_stack::<u16>(at)?),
        4 => u64::from(core.read_stack::<u32>(at)?),
        _ => core.read_stack::<u64>(at)?,
    };
    core.set_sp(at.wrapping_add(SIZE));
    set_frame(core, value, SIZE);
    Ok(())
}
