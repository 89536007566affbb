//! System instructions: which handler executes which code. The handlers are in the sibling files `system_*.rs`, and
//! what they rest on is in [`crate::sys`].
//!
//! MONITOR, MWAIT, VMX, SVM, SMX, SMM, shadow stacks and RDPID are not in the CPU model: they raise #UD.

use iced_x86::{Code, Instruction, Mnemonic, Register};

use super::system_control as control;
use super::system_flags as flags;
use super::system_frame as frame;
use super::system_io as io;
use super::system_misc as misc;
use super::system_segment as segment;
use super::system_tables as tables;
use super::{in_memory, operand, operand_size};
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, Op};

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, mode: CodeMode) -> Option<Handler> {
    segment_moves(ins, op)
        .or_else(|| frame::select(ins, op))
        .or_else(|| flag_instructions(ins, op))
        .or_else(|| io::select(ins, op, mode))
        .or_else(|| table_instructions(ins, op))
        .or_else(|| control_instructions(ins, op))
        .or_else(|| other_instructions(ins, op))
}

/// Index of a segment register, as in the state.
pub(super) fn segment_index(register: Register) -> u8 {
    (register as usize - Register::ES as usize) as u8
}

fn segment_moves(ins: &Instruction, op: &mut Op) -> Option<Handler> {
    let register = |index: u32| ins.op_register(index);
    match ins.mnemonic() {
        Mnemonic::Mov if register(0).is_segment_register() && ins.op0_kind() == iced_x86::OpKind::Register => {
            op.dst = segment_index(register(0));
            if !in_memory(ins, 1) {
                op.src = operand(ins, 1);
            }
            Some(segment::mov_to_segment)
        }
        Mnemonic::Mov if register(1).is_segment_register() && ins.op1_kind() == iced_x86::OpKind::Register => {
            op.src = segment_index(register(1));
            op.aux = operand_size(ins, 0) as u8;
            if !in_memory(ins, 0) {
                op.dst = operand(ins, 0);
            }
            Some(segment::mov_from_segment)
        }
        Mnemonic::Push | Mnemonic::Pop if !in_memory(ins, 0) && register(0).is_segment_register() => {
            op.dst = segment_index(register(0));
            op.aux = ins.stack_pointer_increment().unsigned_abs() as u8;
            let push = ins.mnemonic() == Mnemonic::Push;
            Some(if push { segment::push_segment } else { segment::pop_segment })
        }
        Mnemonic::Les | Mnemonic::Lds | Mnemonic::Lss | Mnemonic::Lfs | Mnemonic::Lgs => {
            op.dst = operand(ins, 0);
            op.aux = operand_size(ins, 0) as u8;
            op.src = segment_index(match ins.mnemonic() {
                Mnemonic::Les => Register::ES,
                Mnemonic::Lds => Register::DS,
                Mnemonic::Lss => Register::SS,
                Mnemonic::Lfs => Register::FS,
                _ => Register::GS,
            });
            Some(segment::load_pointer)
        }
        _ => None,
    }
}

fn flag_instructions(ins: &Instruction, op: &mut Op) -> Option<Handler> {
    Some(match ins.code() {
        Code::Clc => flags::clc,
        Code::Stc => flags::stc,
        Code::Cmc => flags::cmc,
        Code::Cld => flags::cld,
        Code::Std => flags::std,
        Code::Cli => flags::cli,
        Code::Sti => flags::sti,
        Code::Clac => flags::clac,
        Code::Stac => flags::stac,
        Code::Lahf => flags::lahf,
        Code::Sahf => flags::sahf,
        Code::Pushfw | Code::Pushfd | Code::Pushfq => {
            op.aux = ins.stack_pointer_increment().unsigned_abs() as u8;
            flags::pushf
        }
        Code::Popfw | Code::Popfd | Code::Popfq => {
            op.aux = ins.stack_pointer_increment().unsigned_abs() as u8;
            flags::popf
        }
        _ => return None,
    })
}

/// Descriptor tables, selectors, and what asks about them. `aux` is the operand size.
fn table_instructions(ins: &Instruction, op: &mut Op) -> Option<Handler> {
    let handler: Handler = match ins.mnemonic() {
        Mnemonic::Sgdt => tables::sgdt,
        Mnemonic::Sidt => tables::sidt,
        Mnemonic::Lgdt => tables::lgdt,
        Mnemonic::Lidt => tables::lidt,
        Mnemonic::Sldt => tables::sldt,
        Mnemonic::Str => tables::str,
        Mnemonic::Smsw => tables::smsw,
        Mnemonic::Lldt => tables::lldt,
        Mnemonic::Ltr => tables::ltr,
        Mnemonic::Lmsw => tables::lmsw,
        Mnemonic::Verr => tables::verr,
        Mnemonic::Verw => tables::verw,
        Mnemonic::Lar => tables::lar,
        Mnemonic::Lsl => tables::lsl,
        Mnemonic::Arpl => tables::arpl,
        _ => return None,
    };
    op.aux = operand_size(ins, 0) as u8;
    match ins.mnemonic() {
        Mnemonic::Sgdt | Mnemonic::Sidt | Mnemonic::Lgdt | Mnemonic::Lidt => {
            op.aux = match ins.code() {
                Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => 2,
                Code::Lgdt_m1664 | Code::Lidt_m1664 | Code::Sgdt_m1664 | Code::Sidt_m1664 => 8,
                _ => 4,
            };
        }
        Mnemonic::Lar | Mnemonic::Lsl => {
            op.dst = operand(ins, 0);
            if !in_memory(ins, 1) {
                op.src = operand(ins, 1);
            }
        }
        Mnemonic::Arpl => {
            op.src = operand(ins, 1);
            if !in_memory(ins, 0) {
                op.dst = operand(ins, 0);
            }
        }
        _ if !in_memory(ins, 0) => {
            op.dst = operand(ins, 0);
            op.src = op.dst;
        }
        _ => {}
    }
    Some(handler)
}

/// Control, debug and model-specific registers, translation caches.
fn control_instructions(ins: &Instruction, op: &mut Op) -> Option<Handler> {
    Some(match ins.code() {
        Code::Mov_r32_cr | Code::Mov_r64_cr | Code::Mov_r32_dr | Code::Mov_r64_dr => {
            op.dst = operand(ins, 0);
            op.src = ins.op1_register().number() as u8;
            if matches!(ins.code(), Code::Mov_r32_cr | Code::Mov_r64_cr) {
                control::mov_from_control
            } else {
                control::mov_from_debug
            }
        }
        Code::Mov_cr_r32 | Code::Mov_cr_r64 | Code::Mov_dr_r32 | Code::Mov_dr_r64 => {
            op.dst = ins.op0_register().number() as u8;
            op.src = operand(ins, 1);
            op.aux = ins.op1_register().size() as u8;
            if matches!(ins.code(), Code::Mov_cr_r32 | Code::Mov_cr_r64) {
                control::mov_to_control
            } else {
                control::mov_to_debug
            }
        }
        Code::Clts => control::clts,
        Code::Rdmsr => control::rdmsr,
        Code::Wrmsr => control::wrmsr,
        Code::Xgetbv => control::xgetbv,
        Code::Xsetbv => control::xsetbv,
        // Without WBNOINVD its prefix is ignored.
        Code::Invd | Code::Wbinvd | Code::Wbnoinvd => control::privileged_nothing,
        Code::Invlpg_m => control::privileged_nothing,
        Code::Invpcid_r32_m128 | Code::Invpcid_r64_m128 => {
            op.dst = operand(ins, 0);
            op.aux = ins.op0_register().size() as u8;
            control::invpcid
        }
        Code::Clflush_m8 | Code::Clflushopt_m8 => control::clflush,
        _ => return None,
    })
}

fn other_instructions(ins: &Instruction, op: &mut Op) -> Option<Handler> {
    Some(match ins.mnemonic() {
        Mnemonic::Hlt => misc::hlt,
        Mnemonic::Pause => misc::pause,
        Mnemonic::Cpuid => misc::cpuid,
        Mnemonic::Rdtsc => misc::rdtsc,
        Mnemonic::Rdtscp => misc::rdtscp,
        Mnemonic::Rdpmc => misc::rdpmc,
        Mnemonic::Rdrand | Mnemonic::Rdseed => {
            op.dst = operand(ins, 0);
            op.aux = operand_size(ins, 0) as u8;
            misc::rdrand
        }
        Mnemonic::Swapgs => misc::swapgs,
        Mnemonic::Rdfsbase | Mnemonic::Rdgsbase | Mnemonic::Wrfsbase | Mnemonic::Wrgsbase => {
            op.dst = operand(ins, 0);
            op.aux = operand_size(ins, 0) as u8;
            op.src = match ins.mnemonic() {
                Mnemonic::Rdfsbase | Mnemonic::Wrfsbase => crate::state::FS as u8,
                _ => crate::state::GS as u8,
            };
            match ins.mnemonic() {
                Mnemonic::Rdfsbase | Mnemonic::Rdgsbase => misc::read_base,
                _ => misc::write_base,
            }
        }
        Mnemonic::Bound => {
            op.dst = operand(ins, 0);
            op.aux = operand_size(ins, 0) as u8;
            misc::bound
        }
        _ => return None,
    })
}

/// Writes a register operand of `size` bytes (2, 4 or 8).
pub(super) fn set_sized(core: &mut Core, register: u8, value: u64, size: u8) {
    use crate::width::Width;
    match size {
        2 => u16::set(core, register, value as u16),
        4 => u32::set(core, register, value as u32),
        _ => u64::set(core, register, value),
    }
}

/// Stores a 16-bit value, to memory or zero-extended to a register of `aux` bytes.
pub(super) fn store_selector(core: &mut Core, op: &Op, value: u16) -> Done {
    if op.has(crate::op::OP_MEMORY) {
        return core.store::<u16>(op, value);
    }
    set_sized(core, op.dst, u64::from(value), op.aux);
    Ok(())
}
