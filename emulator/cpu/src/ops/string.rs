//! MOVS, STOS, LODS, SCAS and CMPS, with their repeat prefixes.
//!
//! Each iteration is a step. A repeated instruction does as many iterations as its budget allows; when iterations are
//! left it stops with [`Stop::Again`] and RIP stays at it, so an interrupt comes between two iterations as on hardware.
//! A fault in an iteration leaves the registers of the iterations before it.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::{by_width, segment_slot};
use crate::core::Core;
use crate::flags::DF;
use crate::memory::to_usize;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, OP_A16, OP_A32, OP_LEGACY, OP_REP, OP_REPNE, Op, SEG_FLAT, Stop};
use crate::state::ES;
use crate::width::Width;

const RCX: usize = 1;
const RSI: usize = 6;
const RDI: usize = 7;

/// Address-size mask of a string instruction.
#[inline(always)]
pub(super) fn mask(op: &Op) -> u64 {
    if op.flags & OP_A32 != 0 {
        0xffff_ffff
    } else if op.flags & OP_A16 != 0 {
        0xffff
    } else {
        u64::MAX
    }
}

/// Writes a count or index register at the address size: 16 bits keep the rest, 32 bits clear the upper half.
#[inline(always)]
fn set_indexed(core: &mut Core, register: usize, value: u64, mask: u64) {
    core.r[register] = if mask == 0xffff { core.r[register] & !0xffff | value & 0xffff } else { value & mask };
}

#[inline(always)]
pub(super) fn advance(core: &mut Core, register: usize, size: u64, mask: u64) {
    let step = if core.flags.has(DF) { size.wrapping_neg() } else { size };
    let value = core.r[register].wrapping_add(step);
    set_indexed(core, register, value, mask);
}

/// Segment slot of the destination, which is always ES.
#[inline(always)]
pub(super) fn destination(op: &Op) -> u8 {
    if op.flags & OP_LEGACY == 0 { SEG_FLAT } else { ES as u8 }
}

#[inline(always)]
pub(super) fn read_source<T: Width>(core: &mut Core, op: &Op) -> Result<T, Stop> {
    let offset = core.r[RSI] & mask(op);
    let linear = core.linear_at(op, offset, T::BYTES, false)?;
    core.read::<T>(linear, op.seg)
}

#[inline(always)]
pub(super) fn destination_linear<T: Width>(core: &mut Core, op: &Op, write: bool) -> Result<u64, Stop> {
    let offset = core.r[RDI] & mask(op);
    if op.flags & OP_LEGACY == 0 { Ok(offset) } else { core.linear_legacy(ES as u8, offset, T::BYTES, write) }
}

/// One iteration of a string instruction.
trait StringOp {
    /// True for SCAS and CMPS, whose repetition ends by ZF.
    const COMPARES: bool = false;
    fn once<T: Width>(core: &mut Core, op: &Op) -> Done;
    /// Does some iterations at once when that is the same as one by one; returns how many.
    fn bulk<T: Width>(_core: &mut Core, _op: &Op, _most: u64) -> u64 {
        0
    }
}

struct Movs;
impl StringOp for Movs {
    fn once<T: Width>(core: &mut Core, op: &Op) -> Done {
        let value = read_source::<T>(core, op)?;
        let to = destination_linear::<T>(core, op, true)?;
        core.write::<T>(to, destination(op), value)?;
        advance(core, RSI, T::BYTES, mask(op));
        advance(core, RDI, T::BYTES, mask(op));
        Ok(())
    }

    fn bulk<T: Width>(core: &mut Core, op: &Op, most: u64) -> u64 {
        if !bulk_possible(core, op) {
            return 0;
        }
        let from = core.r[RSI].wrapping_add(core.seg_base[usize::from(op.seg & 7)]);
        let to = core.r[RDI];
        let bytes = room(from).min(room(to)).min(most.saturating_mul(T::BYTES)) / T::BYTES * T::BYTES;
        let (Some(source), Some(target)) =
            (core.tlb.read(from, core.data_context), core.tlb.write(to, core.data_context))
        else {
            return 0;
        };
        // Copying forward over itself repeats a pattern; that is done one by one.
        let distance = (target as usize).wrapping_sub(source as usize);
        if distance < to_usize(bytes) && distance != 0 {
            return 0;
        }
        // SAFETY: both stay in one page of live guest RAM, as the translations say.
        unsafe { std::ptr::copy(source, target, to_usize(bytes)) };
        core.r[RSI] = core.r[RSI].wrapping_add(bytes);
        core.r[RDI] = to.wrapping_add(bytes);
        bytes / T::BYTES
    }
}

struct Stos;
impl StringOp for Stos {
    fn once<T: Width>(core: &mut Core, op: &Op) -> Done {
        let value = T::get(core, 0);
        let to = destination_linear::<T>(core, op, true)?;
        core.write::<T>(to, destination(op), value)?;
        advance(core, RDI, T::BYTES, mask(op));
        Ok(())
    }

    fn bulk<T: Width>(core: &mut Core, op: &Op, most: u64) -> u64 {
        if !bulk_possible(core, op) {
            return 0;
        }
        let to = core.r[RDI];
        let count = (room(to) / T::BYTES).min(most);
        let Some(target) = core.tlb.write(to, core.data_context) else { return 0 };
        let value = T::get(core, 0);
        for index in 0..to_usize(count) {
            // SAFETY: `count` operands fit the page that the translation names.
            unsafe { target.cast::<T>().add(index).write_unaligned(value) };
        }
        core.r[RDI] = to.wrapping_add(count * T::BYTES);
        count
    }
}

/// Forward, in 64-bit mode with 64-bit addresses: the case that is worth a fast path.
#[inline(always)]
fn bulk_possible(core: &Core, op: &Op) -> bool {
    op.flags & (OP_LEGACY | OP_A32 | OP_A16) == 0 && !core.flags.has(DF)
}

/// Bytes from an address to the end of its page.
#[inline(always)]
fn room(linear: u64) -> u64 {
    0x1000 - (linear & 0xfff)
}

struct Lods;
impl StringOp for Lods {
    fn once<T: Width>(core: &mut Core, op: &Op) -> Done {
        let value = read_source::<T>(core, op)?;
        T::set(core, 0, value);
        advance(core, RSI, T::BYTES, mask(op));
        Ok(())
    }
}

struct Scas;
impl StringOp for Scas {
    const COMPARES: bool = true;
    fn once<T: Width>(core: &mut Core, op: &Op) -> Done {
        let at = destination_linear::<T>(core, op, false)?;
        let value = core.read::<T>(at, destination(op))?;
        let accumulator = T::get(core, 0);
        super::alu::sub(core, accumulator, value, false);
        advance(core, RDI, T::BYTES, mask(op));
        Ok(())
    }
}

struct Cmps;
impl StringOp for Cmps {
    const COMPARES: bool = true;
    fn once<T: Width>(core: &mut Core, op: &Op) -> Done {
        let a = read_source::<T>(core, op)?;
        let at = destination_linear::<T>(core, op, false)?;
        let b = core.read::<T>(at, destination(op))?;
        super::alu::sub(core, a, b, false);
        advance(core, RSI, T::BYTES, mask(op));
        advance(core, RDI, T::BYTES, mask(op));
        Ok(())
    }
}

fn single<S: StringOp, T: Width>(core: &mut Core, op: &Op) -> Done {
    S::once::<T>(core, op)
}

impl Core {
    /// Runs the iterations of a repeated instruction: `body` does one, or says how many it did at once. `ends` tells
    /// after an iteration whether the repetition is over although the counter is not.
    pub(crate) fn repeat(
        &mut self,
        op: &Op,
        mut body: impl FnMut(&mut Core, u64) -> Result<u64, Stop>,
        ends: impl Fn(&Core) -> bool,
    ) -> Done {
        let mask = mask(op);
        let allowed = self.steps_allowed();
        let mut left = self.r[RCX] & mask;
        if left == 0 {
            return Ok(());
        }
        let mut done = 0;
        loop {
            // A bus access inside an iteration is at the position of that iteration.
            self.extra_steps = done;
            match body(self, left.min(allowed - done)) {
                Ok(count) => {
                    done += count;
                    left -= count;
                    set_indexed(self, RCX, left, mask);
                }
                Err(stop) if done == 0 => {
                    self.extra_steps = 0;
                    return Err(stop);
                }
                // The iterations so far stand; the fault comes again, and then first.
                Err(_) => {
                    self.extra_steps = done - 1;
                    return Err(Stop::Again);
                }
            }
            let over = left == 0 || ends(self);
            if over || done == allowed || self.block_end.is_null() {
                self.extra_steps = done - 1;
                return if over { Ok(()) } else { Err(Stop::Again) };
            }
        }
    }
}

fn repeated<S: StringOp, T: Width>(core: &mut Core, op: &Op) -> Done {
    let until_equal = op.flags & OP_REPNE != 0;
    core.repeat(
        op,
        |core, most| {
            let count = S::bulk::<T>(core, op, most);
            if count > 0 {
                return Ok(count);
            }
            S::once::<T>(core, op)?;
            Ok(1)
        },
        |core| S::COMPARES && core.flags.zf() == until_equal,
    )
}

fn string<S: StringOp>(ins: &Instruction, op: &mut Op, size: usize, mode: CodeMode) -> Handler {
    op.seg = segment_slot(ins.memory_segment(), mode);
    op.flags |= address_size(ins);
    if op.flags & (OP_REP | OP_REPNE) != 0 { by_width!(size, repeated<S>) } else { by_width!(size, single<S>) }
}

/// Address-size bits of a string instruction, from its implicit operands.
pub(super) fn address_size(ins: &Instruction) -> u8 {
    (0..ins.op_count())
        .map(|index| match ins.op_kind(index) {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => OP_A16,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => OP_A32,
            _ => 0,
        })
        .fold(0, |bits, bit| bits | bit)
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, mode: CodeMode) -> Option<Handler> {
    if !ins.is_string_instruction() {
        return None;
    }
    Some(match ins.mnemonic() {
        Mnemonic::Movsb => string::<Movs>(ins, op, 1, mode),
        Mnemonic::Movsw => string::<Movs>(ins, op, 2, mode),
        Mnemonic::Movsd => string::<Movs>(ins, op, 4, mode),
        Mnemonic::Movsq => string::<Movs>(ins, op, 8, mode),
        Mnemonic::Stosb => string::<Stos>(ins, op, 1, mode),
        Mnemonic::Stosw => string::<Stos>(ins, op, 2, mode),
        Mnemonic::Stosd => string::<Stos>(ins, op, 4, mode),
        Mnemonic::Stosq => string::<Stos>(ins, op, 8, mode),
        Mnemonic::Lodsb => string::<Lods>(ins, op, 1, mode),
        Mnemonic::Lodsw => string::<Lods>(ins, op, 2, mode),
        Mnemonic::Lodsd => string::<Lods>(ins, op, 4, mode),
        Mnemonic::Lodsq => string::<Lods>(ins, op, 8, mode),
        Mnemonic::Scasb => string::<Scas>(ins, op, 1, mode),
        Mnemonic::Scasw => string::<Scas>(ins, op, 2, mode),
        Mnemonic::Scasd => string::<Scas>(ins, op, 4, mode),
        Mnemonic::Scasq => string::<Scas>(ins, op, 8, mode),
        Mnemonic::Cmpsb => string::<Cmps>(ins, op, 1, mode),
        Mnemonic::Cmpsw => string::<Cmps>(ins, op, 2, mode),
        Mnemonic::Cmpsd => string::<Cmps>(ins, op, 4, mode),
        Mnemonic::Cmpsq => string::<Cmps>(ins, op, 8, mode),
        _ => return None,
    })
}
