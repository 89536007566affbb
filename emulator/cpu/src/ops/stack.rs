//! PUSH, POP, PUSHA, POPA and the stack accesses of other families.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::{by_width, in_memory, operand};
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, OP_LEGACY, OP_MEMORY, Op, SEG_FLAT_STACK, SLOT_ZERO, Stop};
use crate::state::{SEG_DB, SS};
use crate::width::Width;

/// RSP.
const RSP: usize = 4;

impl Core {
    /// Bits of RSP that stack accesses use: all in 64-bit mode, else by SS.B.
    #[inline(always)]
    pub(crate) fn stack_mask(&self, op: &Op) -> u64 {
        if op.flags & OP_LEGACY == 0 {
            u64::MAX
        } else if self.sys.segs[SS].flags & SEG_DB != 0 {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// Replaces the bits of RSP that the mask names.
    #[inline(always)]
    pub(crate) fn set_stack_pointer(&mut self, value: u64, mask: u64) {
        self.r[RSP] = match mask {
            0xffff => self.r[RSP] & !0xffff | value & 0xffff,
            _ => value & mask,
        };
    }

    /// Linear address of `size` bytes at a stack offset.
    #[inline(always)]
    pub(crate) fn stack_linear(&mut self, op: &Op, offset: u64, size: u64, write: bool) -> Result<u64, Stop> {
        if op.flags & OP_LEGACY == 0 { Ok(offset) } else { self.linear_legacy(SS as u8, offset, size, write) }
    }

    /// Writes below the top of the stack and returns the new stack pointer, which the caller commits.
    #[inline(always)]
    pub(crate) fn push_value<T: Width>(&mut self, op: &Op, value: T) -> Done {
        let mask = self.stack_mask(op);
        let pointer = self.r[RSP].wrapping_sub(T::BYTES) & mask;
        let linear = self.stack_linear(op, pointer, T::BYTES, true)?;
        self.write::<T>(linear, SEG_FLAT_STACK, value)?;
        self.set_stack_pointer(pointer, mask);
        Ok(())
    }

    /// Reads the value `depth` bytes above the top of the stack; RSP stays.
    #[inline(always)]
    pub(crate) fn peek<T: Width>(&mut self, op: &Op, depth: u64) -> Result<T, Stop> {
        let pointer = self.r[RSP].wrapping_add(depth) & self.stack_mask(op);
        let linear = self.stack_linear(op, pointer, T::BYTES, false)?;
        self.read::<T>(linear, SEG_FLAT_STACK)
    }

    /// Takes bytes off the stack.
    #[inline(always)]
    pub(crate) fn drop_stack(&mut self, op: &Op, bytes: u64) {
        let mask = self.stack_mask(op);
        let pointer = self.r[RSP].wrapping_add(bytes) & mask;
        self.set_stack_pointer(pointer, mask);
    }
}

fn push_reg<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = T::get(core, op.src);
    core.push_value(op, value)
}

fn push_imm<T: Width>(core: &mut Core, op: &Op) -> Done {
    core.push_value(op, T::from_u64(op.imm))
}

fn push_mem<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = core.load::<T>(op)?;
    core.push_value(op, value)
}

fn pop_reg<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = core.peek::<T>(op, 0)?;
    core.drop_stack(op, T::BYTES);
    T::set(core, op.dst, value);
    Ok(())
}

fn pop_mem<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = core.peek::<T>(op, 0)?;
    // An address that uses RSP sees it after the pop; on a fault it is put back.
    let before = core.r[RSP];
    core.drop_stack(op, T::BYTES);
    let stored = core.store::<T>(op, value);
    if stored.is_err() {
        core.r[RSP] = before;
    }
    stored
}

fn pusha<T: Width>(core: &mut Core, op: &Op) -> Done {
    let mask = core.stack_mask(op);
    let old = core.r[RSP];
    // Everything is checked before anything is written.
    let lowest = old.wrapping_sub(8 * T::BYTES) & mask;
    let first = core.stack_linear(op, lowest, 8 * T::BYTES, true)?;
    core.probe_write(first, 8 * T::BYTES, SEG_FLAT_STACK)?;
    for register in 0..8 {
        let value = if usize::from(register) == RSP { T::from_u64(old) } else { T::get(core, register) };
        core.push_value(op, value)?;
    }
    Ok(())
}

fn popa<T: Width>(core: &mut Core, op: &Op) -> Done {
    let mut values = [T::from_u64(0); 8];
    for (depth, value) in (0..).zip(values.iter_mut()) {
        *value = core.peek::<T>(op, depth * T::BYTES)?;
    }
    core.drop_stack(op, 8 * T::BYTES);
    // The frame holds EDI first; the slot of ESP is skipped.
    for (register, value) in (0..8u8).rev().zip(values) {
        if usize::from(register) != RSP {
            T::set(core, register, value);
        }
    }
    Ok(())
}

/// Operand size in bytes of a push or pop, which iced's memory and register sizes do not tell for immediates.
fn push_size(ins: &Instruction) -> usize {
    ins.stack_pointer_increment().unsigned_abs() as usize
}

fn push(ins: &Instruction, op: &mut Op) -> Option<Handler> {
    let size = push_size(ins);
    Some(match ins.op_kind(0) {
        OpKind::Register if !ins.op0_register().is_gpr() => return None,
        OpKind::Register => {
            op.src = operand(ins, 0);
            by_width!(size, push_reg)
        }
        OpKind::Memory => by_width!(size, push_mem),
        _ => {
            op.imm = ins.immediate(0);
            by_width!(size, push_imm)
        }
    })
}

fn pop(ins: &Instruction, op: &mut Op) -> Option<Handler> {
    let size = push_size(ins);
    if in_memory(ins, 0) {
        return Some(by_width!(size, pop_mem));
    }
    if !ins.op0_register().is_gpr() {
        return None;
    }
    op.dst = operand(ins, 0);
    Some(by_width!(size, pop_reg))
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    debug_assert!(op.flags & OP_MEMORY != 0 || op.base == SLOT_ZERO);
    Some(match ins.mnemonic() {
        Mnemonic::Push => return push(ins, op),
        Mnemonic::Pop => return pop(ins, op),
        Mnemonic::Pusha => pusha::<u16>,
        Mnemonic::Pushad => pusha::<u32>,
        Mnemonic::Popa => popa::<u16>,
        Mnemonic::Popad => popa::<u32>,
        _ => return None,
    })
}
