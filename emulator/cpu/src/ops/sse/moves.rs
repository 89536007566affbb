//! Moves between vector registers, MMX registers, general registers and memory; masks of sign bits.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::super::{in_memory, operand, operand_size};
use super::vector::{from_low, host, join, low, split};
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, Op};

fn copy(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = core.xmm(op.src);
    core.set_xmm(op.dst, value);
    Ok(())
}

fn load<const ALIGNED: bool>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let Some(value) = core.quick_load::<ALIGNED>(op) else { return load_slow::<ALIGNED>(core, op) };
    core.set_xmm(op.dst, value);
    Ok(())
}

#[cold]
#[inline(never)]
fn load_slow<const ALIGNED: bool>(core: &mut Core, op: &Op) -> Done {
    let value = if ALIGNED { core.load_aligned(op)? } else { core.load_unaligned(op)? };
    core.set_xmm(op.dst, value);
    Ok(())
}

fn store<const ALIGNED: bool>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    match core.quick_store::<ALIGNED>(op, core.xmm(op.src)) {
        Some(()) => Ok(()),
        None => store_slow::<ALIGNED>(core, op),
    }
}

#[cold]
#[inline(never)]
fn store_slow<const ALIGNED: bool>(core: &mut Core, op: &Op) -> Done {
    let value = core.xmm(op.src);
    if ALIGNED { core.store_aligned(op, value) } else { core.store_unaligned(op, value) }
}

/// MOVQ, MOVSD and MOVLPD-like stores of one half; `HALF` 1 is the upper one.
fn store_half<const HALF: usize>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = core.xmm_half(op.src, HALF);
    core.store::<u64>(op, value)
}

/// MOVLPS, MOVHPS and the like: one half from memory, the other stays.
fn load_half<const HALF: usize>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = core.load::<u64>(op)?;
    core.set_xmm_half(op.dst, HALF, value);
    Ok(())
}

/// MOVHLPS (`TO` 0, `FROM` 1), MOVLHPS (1, 0) and MOVSD between registers (0, 0).
fn copy_half<const TO: usize, const FROM: usize>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = core.xmm_half(op.src, FROM);
    core.set_xmm_half(op.dst, TO, value);
    Ok(())
}

/// MOVQ and MOVSD from memory: the upper half becomes zero.
fn load_64(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = core.load::<u64>(op)?;
    core.set_xmm(op.dst, from_low(value));
    Ok(())
}

/// MOVQ between registers: the upper half becomes zero.
fn copy_64(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = core.xmm_half(op.src, 0);
    core.set_xmm(op.dst, from_low(value));
    Ok(())
}

/// MOVSS and MOVD from memory: the rest becomes zero.
fn load_32(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = core.load::<u32>(op)?;
    core.set_xmm(op.dst, from_low(u64::from(value)));
    Ok(())
}

fn store_32(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = core.xmm_half(op.src, 0);
    core.store::<u32>(op, value as u32)
}

/// MOVSS between registers: the rest stays.
fn copy_32(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = core.xmm_half(op.dst, 0) & !0xffff_ffff | core.xmm_half(op.src, 0) & 0xffff_ffff;
    core.set_xmm_half(op.dst, 0, value);
    Ok(())
}

/// MOVD (`MASK` of 32 bits) and MOVQ from a general register.
fn from_general<const MASK: u64>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = core.r[usize::from(op.src & 31)] & MASK;
    core.set_xmm(op.dst, from_low(value));
    Ok(())
}

/// MOVD (`MASK` of 32 bits) and MOVQ to a general register.
fn to_general<const MASK: u64>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    core.r[usize::from(op.dst & 31)] = core.xmm_half(op.src, 0) & MASK;
    Ok(())
}

fn mmx_copy(core: &mut Core, op: &Op) -> Done {
    core.check_mmx()?;
    let value = core.mmx(op.src);
    core.set_mmx(op.dst, value);
    Ok(())
}

fn mmx_load_32(core: &mut Core, op: &Op) -> Done {
    core.check_mmx()?;
    let value = core.load::<u32>(op)?;
    core.set_mmx(op.dst, u64::from(value));
    Ok(())
}

fn mmx_load_64(core: &mut Core, op: &Op) -> Done {
    core.check_mmx()?;
    let value = core.load::<u64>(op)?;
    core.set_mmx(op.dst, value);
    Ok(())
}

fn mmx_store_32(core: &mut Core, op: &Op) -> Done {
    core.check_mmx()?;
    let value = core.mmx(op.src);
    core.store::<u32>(op, value as u32)?;
    core.enter_mmx();
    Ok(())
}

fn mmx_store_64(core: &mut Core, op: &Op) -> Done {
    core.check_mmx()?;
    let value = core.mmx(op.src);
    core.store::<u64>(op, value)?;
    core.enter_mmx();
    Ok(())
}

fn mmx_from_general<const MASK: u64>(core: &mut Core, op: &Op) -> Done {
    core.check_mmx()?;
    let value = core.r[usize::from(op.src & 31)] & MASK;
    core.set_mmx(op.dst, value);
    Ok(())
}

fn mmx_to_general<const MASK: u64>(core: &mut Core, op: &Op) -> Done {
    core.check_mmx()?;
    core.r[usize::from(op.dst & 31)] = core.mmx(op.src) & MASK;
    core.enter_mmx();
    Ok(())
}

fn movq2dq(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    core.check_pending_x87()?;
    let value = core.mmx(op.src);
    core.set_xmm(op.dst, from_low(value));
    core.enter_mmx();
    Ok(())
}

fn movdq2q(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    core.check_pending_x87()?;
    let value = core.xmm_half(op.src, 0);
    core.set_mmx(op.dst, value);
    Ok(())
}

fn movmskps(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = core.xmm(op.src);
    core.r[usize::from(op.dst & 31)] = host!(_mm_movemask_ps(_mm_castsi128_ps(value))) as u64;
    Ok(())
}

fn movmskpd(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = core.xmm(op.src);
    core.r[usize::from(op.dst & 31)] = host!(_mm_movemask_pd(_mm_castsi128_pd(value))) as u64;
    Ok(())
}

fn pmovmskb(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = core.xmm(op.src);
    core.r[usize::from(op.dst & 31)] = host!(_mm_movemask_epi8(value)) as u64;
    Ok(())
}

fn mmx_pmovmskb(core: &mut Core, op: &Op) -> Done {
    core.check_mmx()?;
    let value = from_low(core.mmx(op.src));
    core.r[usize::from(op.dst & 31)] = host!(_mm_movemask_epi8(value)) as u64;
    core.enter_mmx();
    Ok(())
}

/// MOVSLDUP (`FIRST` 0) and MOVSHDUP (1): even or odd floats twice.
fn duplicate<const FIRST: usize>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = if op.has(crate::op::OP_MEMORY) { core.load_aligned(op)? } else { core.xmm(op.src) };
    let lanes: [u32; 4] = split(value);
    let (a, b) = (lanes[FIRST], lanes[FIRST + 2]);
    core.set_xmm(op.dst, join([a, a, b, b]));
    Ok(())
}

fn movddup(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let value = if op.has(crate::op::OP_MEMORY) { core.load::<u64>(op)? } else { low(core.xmm(op.src)) };
    core.set_xmm(op.dst, join([value, value]));
    Ok(())
}

const LOW: u64 = 0xffff_ffff;
const ALL: u64 = u64::MAX;

/// MOVD and MOVQ in all their forms.
fn movd_movq(ins: &Instruction) -> Handler {
    let mmx = is_mmx(ins, 0) || is_mmx(ins, 1);
    let vector = |index| is_mmx(ins, index) || is_xmm(ins, index);
    if vector(0) && vector(1) {
        return if mmx { mmx_copy } else { copy_64 };
    }
    // The operand that is not a vector register says how wide the move is.
    let (into_vector, wide) =
        if vector(0) { (true, operand_size(ins, 1) == 8) } else { (false, operand_size(ins, 0) == 8) };
    let memory = in_memory(ins, 0) || in_memory(ins, 1);
    match (mmx, into_vector, memory, wide) {
        (true, true, true, false) => mmx_load_32,
        (true, true, true, true) => mmx_load_64,
        (true, true, false, false) => mmx_from_general::<LOW>,
        (true, true, false, true) => mmx_from_general::<ALL>,
        (true, false, true, false) => mmx_store_32,
        (true, false, true, true) => mmx_store_64,
        (true, false, false, false) => mmx_to_general::<LOW>,
        (true, false, false, true) => mmx_to_general::<ALL>,
        (false, true, true, false) => load_32,
        (false, true, true, true) => load_64,
        (false, true, false, false) => from_general::<LOW>,
        (false, true, false, true) => from_general::<ALL>,
        (false, false, true, false) => store_32,
        (false, false, true, true) => store_half::<0>,
        (false, false, false, false) => to_general::<LOW>,
        (false, false, false, true) => to_general::<ALL>,
    }
}

/// True when operand `index` is an MMX register.
pub(super) fn is_mmx(ins: &Instruction, index: u32) -> bool {
    ins.op_kind(index) == OpKind::Register && ins.op_register(index).is_mm()
}

/// True when operand `index` is an XMM register.
pub(super) fn is_xmm(ins: &Instruction, index: u32) -> bool {
    ins.op_kind(index) == OpKind::Register && ins.op_register(index).is_xmm()
}

/// Fills in the first two operands where they are registers.
pub(in super::super) fn registers(ins: &Instruction, op: &mut Op) {
    for index in 0..ins.op_count().min(2) {
        if ins.op_kind(index) == OpKind::Register {
            let slot = operand(ins, index);
            if index == 0 { op.dst = slot } else { op.src = slot }
        }
    }
}

/// Handler of an instruction of this family.
#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    use Mnemonic as M;
    let (to_memory, from_memory) = (in_memory(ins, 0), in_memory(ins, 1));
    let handler: Handler = match ins.mnemonic() {
        M::Movaps | M::Movapd | M::Movdqa | M::Movntps | M::Movntpd | M::Movntdq | M::Movntdqa => {
            if to_memory {
                store::<true>
            } else if from_memory {
                load::<true>
            } else {
                copy
            }
        }
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => {
            if to_memory {
                store::<false>
            } else if from_memory {
                load::<false>
            } else {
                copy
            }
        }
        M::Movss => {
            if to_memory {
                store_32
            } else if from_memory {
                load_32
            } else {
                copy_32
            }
        }
        // The string instruction of the same name has no vector register.
        M::Movsd if is_xmm(ins, 0) || is_xmm(ins, 1) => {
            if to_memory {
                store_half::<0>
            } else if from_memory {
                load_64
            } else {
                copy_half::<0, 0>
            }
        }
        M::Movlps | M::Movlpd => {
            if to_memory {
                store_half::<0>
            } else {
                load_half::<0>
            }
        }
        M::Movhps | M::Movhpd => {
            if to_memory {
                store_half::<1>
            } else {
                load_half::<1>
            }
        }
        M::Movhlps => copy_half::<0, 1>,
        M::Movlhps => copy_half::<1, 0>,
        M::Movd | M::Movq => movd_movq(ins),
        M::Movntq => mmx_store_64,
        M::Movq2dq => movq2dq,
        M::Movdq2q => movdq2q,
        M::Movmskps => movmskps,
        M::Movmskpd => movmskpd,
        M::Pmovmskb => {
            if is_mmx(ins, 1) {
                mmx_pmovmskb
            } else {
                pmovmskb
            }
        }
        M::Movsldup => duplicate::<0>,
        M::Movshdup => duplicate::<1>,
        M::Movddup => movddup,
        _ => return None,
    };
    registers(ins, op);
    Some(handler)
}
