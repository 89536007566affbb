//! Keeps cases away from this process: its memory, its code, and loops that do not end.

use iced_x86::{Code, FlowControl, Instruction, InstructionInfoFactory, OpKind, Register};

use crate::aim;
use crate::case::Case;
use crate::encode;
use crate::forms;
use crate::layout::harmless;

/// Farthest that a repeated instruction, a bit offset or nested frames go from the address of an operand.
const REACH: u64 = 1 << 20;

/// True when the host's processor may execute the case in this process.
#[must_use]
pub fn is_harmless(case: &Case, instruction: &Instruction) -> bool {
    if encode::is_invalid(instruction) {
        return true;
    }
    if instruction.code() == Code::Int_imm8 && instruction.immediate8() == 0x80 {
        return false;
    }
    if forms::is_xsave(instruction) && (case.gpr[0] | case.gpr[2]) & 0xffff_fffc != 0 {
        // State that the host has and the model does not.
        return false;
    }
    memory_is_harmless(case, instruction) && flow_is_harmless(case, instruction)
}

fn memory_is_harmless(case: &Case, instruction: &Instruction) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    info.used_memory().iter().all(|memory| {
        let value = |register: Register, _: usize, _: usize| {
            Some(match register {
                Register::FS | Register::GS => aim::segment_base(case, register),
                Register::ES | Register::CS | Register::SS | Register::DS => 0,
                register if register.size() == 1 => case.gpr[register.full_register().number() & 15] & 0xff,
                register => aim::register(case, register),
            })
        };
        let Some(address) = memory.virtual_address(0, value) else { return false };
        let size = memory.memory_size().size() as u64 + 16;
        harmless(address, size) && harmless(address.wrapping_sub(REACH), REACH) && harmless(address, REACH)
            || is_exact(instruction) && harmless(address, size)
    })
}

/// True when the instruction touches nothing but what its operands name.
fn is_exact(instruction: &Instruction) -> bool {
    !instruction.is_string_instruction() && !is_bit_offset(instruction) && instruction.code() != Code::Enterq_imm16_imm8
}

fn is_bit_offset(instruction: &Instruction) -> bool {
    use iced_x86::Mnemonic::{Bt, Btc, Btr, Bts};
    matches!(instruction.mnemonic(), Bt | Btc | Btr | Bts) && instruction.op1_kind() == OpKind::Register
}

fn flow_is_harmless(case: &Case, instruction: &Instruction) -> bool {
    let target = match instruction.flow_control() {
        FlowControl::Next | FlowControl::Interrupt | FlowControl::Exception => return true,
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch | FlowControl::Call => {
            if instruction.is_jmp_far_indirect() || instruction.is_call_far_indirect() {
                return far_is_harmless(case, aim::effective(case, instruction), instruction.memory_size().size() - 2);
            }
            Some(instruction.near_branch_target())
        }
        FlowControl::IndirectBranch | FlowControl::IndirectCall => {
            if instruction.is_jmp_far_indirect() || instruction.is_call_far_indirect() {
                return far_is_harmless(case, aim::effective(case, instruction), instruction.memory_size().size() - 2);
            }
            if instruction.op0_kind() == OpKind::Register {
                Some(case.gpr[instruction.op0_register().full_register().number() & 15])
            } else {
                word(case, aim::effective(case, instruction), 8)
            }
        }
        FlowControl::Return => match instruction.code() {
            Code::Retnq | Code::Retnq_imm16 => word(case, case.gpr[4], 8),
            Code::Retfw | Code::Retfw_imm16 | Code::Iretw => return far_is_harmless(case, case.gpr[4], 2),
            Code::Retfd | Code::Retfd_imm16 | Code::Iretd => return far_is_harmless(case, case.gpr[4], 4),
            Code::Retfq | Code::Retfq_imm16 | Code::Iretq => return far_is_harmless(case, case.gpr[4], 8),
            // Privileged.
            _ => return true,
        },
        _ => return false,
    };
    let own = case.rip..case.rip + case.bytes.len() as u64;
    // Unreadable: the instruction faults.
    target.is_none_or(|target| harmless(target, 16) && !own.contains(&target))
}

/// A far target is harmless when it is one of our own code segment, or its selector faults.
fn far_is_harmless(case: &Case, address: u64, size: usize) -> bool {
    let Some(target) = word(case, address, size) else { return true };
    let Some(selector) = word(case, address.wrapping_add(size as u64), 2) else { return true };
    let own = case.rip..case.rip + case.bytes.len() as u64;
    let known = matches!(selector, 0 | 0x10 | 0x2b | 0x33);
    known && harmless(target, 16) && !own.contains(&target)
}

/// Memory as the case's start has it; `None` where it cannot be read. The read-only page counts as unknown: such cases
/// are not made.
fn word(case: &Case, address: u64, size: usize) -> Option<u64> {
    case.peek(address, size).map(|value| crate::fp::halves(value).0)
}
