//! LDMXCSR, STMXCSR, fences, prefetches, MOVNTI, MASKMOVQ, MASKMOVDQU.
//!
//! Memory is strongly ordered here, so fences and the hints of non-temporal moves have no effect; prefetches touch no
//! memory and never fault.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::super::{effective_segment, operand, operand_size, segment_slot};
use super::vector::split;
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, OP_A16, OP_A32, Op, SLOT_ZERO, Stop};

/// MXCSR bits that exist; setting another one raises #GP.
const MXCSR_MASK: u32 = 0xffff;
const RDI: u8 = 7;

fn ldmxcsr(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = core.load::<u32>(op)?;
    if value & !MXCSR_MASK != 0 {
        return Err(core.gp(0));
    }
    core.vector.mxcsr = value;
    Ok(())
}

fn stmxcsr(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = core.vector.mxcsr;
    core.store::<u32>(op, value)
}

fn nothing(_core: &mut Core, _op: &Op) -> Done {
    Ok(())
}

fn movnti_32(core: &mut Core, op: &Op) -> Done {
    let value = core.r[usize::from(op.src & 31)];
    core.store::<u32>(op, value as u32)
}

fn movnti_64(core: &mut Core, op: &Op) -> Done {
    let value = core.r[usize::from(op.src & 31)];
    core.store::<u64>(op, value)
}

/// Stores the bytes whose mask byte has its top bit set. All bytes must be writable, unless none is stored.
fn store_bytes(core: &mut Core, op: &Op, bytes: &[u8], mask: &[u8]) -> Result<(), Stop> {
    if mask.iter().all(|select| select & 0x80 == 0) {
        return Ok(());
    }
    let size = bytes.len() as u64;
    let linear = core.linear(op, size, true)?;
    core.probe_write(linear, size, op.seg)?;
    for (index, (&byte, &select)) in (0_u64..).zip(bytes.iter().zip(mask)) {
        if select & 0x80 != 0 {
            core.write::<u8>(linear.wrapping_add(index), op.seg, byte)?;
        }
    }
    Ok(())
}

fn maskmovdqu(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let (bytes, mask): ([u8; 16], [u8; 16]) = (split(core.xmm(op.dst)), split(core.xmm(op.src)));
    store_bytes(core, op, &bytes, &mask)
}

fn maskmovq(core: &mut Core, op: &Op) -> Done {
    core.check_mmx()?;
    let (bytes, mask) = (core.mmx(op.dst).to_le_bytes(), core.mmx(op.src).to_le_bytes());
    store_bytes(core, op, &bytes, &mask)?;
    core.enter_mmx();
    Ok(())
}

/// The implicit memory operand at DS:RDI, and the two registers.
fn masked_move(ins: &Instruction, op: &mut Op, mode: CodeMode) {
    op.seg = segment_slot(effective_segment(ins, mode), mode);
    op.base = RDI;
    op.index = SLOT_ZERO;
    op.disp = 0;
    op.flags |= match ins.op_kind(0) {
        OpKind::MemorySegDI => OP_A16,
        OpKind::MemorySegEDI => OP_A32,
        _ => 0,
    };
    op.dst = operand(ins, 1);
    op.src = operand(ins, 2);
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, mode: CodeMode) -> Option<Handler> {
    use Mnemonic as M;
    Some(match ins.mnemonic() {
        M::Ldmxcsr => ldmxcsr,
        M::Stmxcsr => stmxcsr,
        M::Lfence | M::Mfence | M::Sfence => nothing,
        M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetch
        | M::Prefetchw
        | M::Prefetchwt1 => nothing,
        M::Movnti => {
            op.src = operand(ins, 1);
            if operand_size(ins, 0) == 8 { movnti_64 } else { movnti_32 }
        }
        M::Maskmovdqu => {
            masked_move(ins, op, mode);
            maskmovdqu
        }
        M::Maskmovq => {
            masked_move(ins, op, mode);
            maskmovq
        }
        _ => return None,
    })
}
