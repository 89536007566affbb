//! MOV, MOVZX, MOVSX, MOVSXD, LEA, XCHG, BSWAP, MOVBE, CMOVcc, SETcc, sign extensions, XLAT and the NOPs.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::{by_width, in_memory, operand, operand_size};
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, Op, Stop};
use crate::width::Width;

fn mov_rr<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = T::get(core, op.src);
    T::set(core, op.dst, value);
    Ok(())
}

fn mov_ri<T: Width>(core: &mut Core, op: &Op) -> Done {
    T::set(core, op.dst, T::from_u64(op.imm));
    Ok(())
}

fn mov_rm<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = core.load::<T>(op)?;
    T::set(core, op.dst, value);
    Ok(())
}

fn mov_mr<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = T::get(core, op.src);
    core.store::<T>(op, value)
}

fn mov_mi<T: Width>(core: &mut Core, op: &Op) -> Done {
    core.store::<T>(op, T::from_u64(op.imm))
}

fn mov(ins: &Instruction, op: &mut Op) -> Option<Handler> {
    let is_general = |index: u32| match ins.op_kind(index) {
        OpKind::Register => ins.op_register(index).is_gpr(),
        _ => true,
    };
    if !is_general(0) || !is_general(1) {
        return None;
    }
    let size = operand_size(ins, 0);
    let immediate = !matches!(ins.op_kind(1), OpKind::Register | OpKind::Memory);
    if immediate {
        op.imm = ins.immediate(1);
    }
    Some(match (in_memory(ins, 0), in_memory(ins, 1)) {
        (true, _) if immediate => by_width!(size, mov_mi),
        (true, _) => {
            op.src = operand(ins, 1);
            by_width!(size, mov_mr)
        }
        (false, from_memory) => {
            op.dst = operand(ins, 0);
            if immediate {
                by_width!(size, mov_ri)
            } else if from_memory {
                by_width!(size, mov_rm)
            } else {
                op.src = operand(ins, 1);
                by_width!(size, mov_rr)
            }
        }
    })
}

/// How a narrower value becomes a wider one.
trait Extension {
    fn extend<S: Width>(value: S) -> u64;
}

struct Zero;
impl Extension for Zero {
    #[inline(always)]
    fn extend<S: Width>(value: S) -> u64 {
        value.zx()
    }
}

struct Sign;
impl Extension for Sign {
    #[inline(always)]
    fn extend<S: Width>(value: S) -> u64 {
        value.sx()
    }
}

fn extend_rr<S: Width, E: Extension, T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = S::get(core, op.src);
    T::set(core, op.dst, T::from_u64(E::extend(value)));
    Ok(())
}

fn extend_rm<S: Width, E: Extension, T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = core.load::<S>(op)?;
    T::set(core, op.dst, T::from_u64(E::extend(value)));
    Ok(())
}

fn extend<E: Extension>(ins: &Instruction, op: &mut Op) -> Handler {
    op.dst = operand(ins, 0);
    let (to, from) = (operand_size(ins, 0), operand_size(ins, 1));
    if in_memory(ins, 1) {
        return match from {
            1 => by_width!(to, extend_rm<u8, E>),
            2 => by_width!(to, extend_rm<u16, E>),
            _ => by_width!(to, extend_rm<u32, E>),
        };
    }
    op.src = operand(ins, 1);
    match from {
        1 => by_width!(to, extend_rr<u8, E>),
        2 => by_width!(to, extend_rr<u16, E>),
        _ => by_width!(to, extend_rr<u32, E>),
    }
}

fn lea<T: Width>(core: &mut Core, op: &Op) -> Done {
    let address = core.effective(op);
    T::set(core, op.dst, T::from_u64(address));
    Ok(())
}

fn xchg_rr<T: Width>(core: &mut Core, op: &Op) -> Done {
    let (a, b) = (T::get(core, op.dst), T::get(core, op.src));
    T::set(core, op.dst, b);
    T::set(core, op.src, a);
    Ok(())
}

fn xchg_mr<T: Width>(core: &mut Core, op: &Op) -> Done {
    let new = T::get(core, op.src);
    let mut old = new;
    core.modify::<T>(op, |_, value| {
        old = value;
        new
    })?;
    T::set(core, op.src, old);
    Ok(())
}

fn xchg(ins: &Instruction, op: &mut Op) -> Handler {
    let size = operand_size(ins, 0);
    // Either operand may be the one in memory.
    let (memory, register) = if in_memory(ins, 1) { (1, 0) } else { (0, 1) };
    op.src = operand(ins, register);
    if in_memory(ins, memory) {
        by_width!(size, xchg_mr)
    } else {
        op.dst = operand(ins, memory);
        by_width!(size, xchg_rr)
    }
}

/// BSWAP of 16 bits is undefined; here it gives zero, as Intel processors do.
fn bswap<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = T::get(core, op.dst);
    let swapped = if T::BITS == 16 { 0 } else { value.zx().swap_bytes() >> (64 - T::BITS) };
    T::set(core, op.dst, T::from_u64(swapped));
    Ok(())
}

fn swapped<T: Width>(value: T) -> T {
    T::from_u64(value.zx().swap_bytes() >> (64 - T::BITS))
}

fn movbe_rm<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = core.load::<T>(op)?;
    T::set(core, op.dst, swapped(value));
    Ok(())
}

fn movbe_mr<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = T::get(core, op.src);
    core.store::<T>(op, swapped(value))
}

fn movbe(ins: &Instruction, op: &mut Op) -> Handler {
    let size = operand_size(ins, 0);
    if in_memory(ins, 0) {
        op.src = operand(ins, 1);
        by_width!(size, movbe_mr)
    } else {
        op.dst = operand(ins, 0);
        by_width!(size, movbe_rm)
    }
}

fn cmov_rr<T: Width>(core: &mut Core, op: &Op) -> Done {
    // A 32-bit destination is zero-extended even when the condition is false.
    let from = if core.flags.condition(op.aux) { op.src } else { op.dst };
    let value = T::get(core, from);
    T::set(core, op.dst, value);
    Ok(())
}

fn cmov_rm<T: Width>(core: &mut Core, op: &Op) -> Done {
    // The source is read whatever the condition.
    let source = core.load::<T>(op)?;
    let value = if core.flags.condition(op.aux) { source } else { T::get(core, op.dst) };
    T::set(core, op.dst, value);
    Ok(())
}

fn cmov(ins: &Instruction, op: &mut Op) -> Handler {
    op.dst = operand(ins, 0);
    op.aux = condition(ins);
    let size = operand_size(ins, 0);
    if in_memory(ins, 1) {
        by_width!(size, cmov_rm)
    } else {
        op.src = operand(ins, 1);
        by_width!(size, cmov_rr)
    }
}

fn setcc(core: &mut Core, op: &Op) -> Done {
    let value = u8::from(core.flags.condition(op.aux));
    if op.has(crate::op::OP_MEMORY) {
        return core.store::<u8>(op, value);
    }
    u8::set(core, op.dst, value);
    Ok(())
}

/// Condition code of a Jcc, SETcc or CMOVcc, as its opcode encodes it.
pub(super) fn condition(ins: &Instruction) -> u8 {
    use iced_x86::ConditionCode as Cc;
    match ins.condition_code() {
        Cc::o => 0,
        Cc::no => 1,
        Cc::b => 2,
        Cc::ae => 3,
        Cc::e => 4,
        Cc::ne => 5,
        Cc::be => 6,
        Cc::a => 7,
        Cc::s => 8,
        Cc::ns => 9,
        Cc::p => 10,
        Cc::np => 11,
        Cc::l => 12,
        Cc::ge => 13,
        Cc::le => 14,
        _ => 15,
    }
}

/// CBW, CWDE, CDQE: the accumulator's lower half is sign-extended.
fn extend_accumulator<S: Width, T: Width>(core: &mut Core, _op: &Op) -> Done {
    let value = S::get(core, 0).sx();
    T::set(core, 0, T::from_u64(value));
    Ok(())
}

/// CWD, CDQ, CQO: the sign of the accumulator fills DX.
fn sign_to_dx<T: Width>(core: &mut Core, _op: &Op) -> Done {
    let sign = (T::get(core, 0).sx() as i64 >> 63) as u64;
    T::set(core, 2, T::from_u64(sign));
    Ok(())
}

fn xlat(core: &mut Core, op: &Op) -> Done {
    // Base is BX and index AL, which is not a full register: the sum is made here.
    let base = core.r[3];
    let offset = base.wrapping_add(core.r[0] & 0xff);
    let masked = if op.has(crate::op::OP_A16) {
        offset & 0xffff
    } else if op.has(crate::op::OP_A32) {
        offset & 0xffff_ffff
    } else {
        offset
    };
    let linear = core.linear_at(op, masked, 1, false)?;
    let value = core.read::<u8>(linear, op.seg)?;
    u8::set(core, 0, value);
    Ok(())
}

fn nop(_core: &mut Core, _op: &Op) -> Done {
    Ok::<(), Stop>(())
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    let size = || operand_size(ins, 0);
    Some(match ins.mnemonic() {
        Mnemonic::Mov => return mov(ins, op),
        Mnemonic::Movzx => extend::<Zero>(ins, op),
        Mnemonic::Movsx | Mnemonic::Movsxd => extend::<Sign>(ins, op),
        Mnemonic::Lea => {
            op.dst = operand(ins, 0);
            by_width!(size(), lea)
        }
        // XCHG with itself is NOP only in the form 90; every other form of the same registers still zero-extends.
        Mnemonic::Xchg => xchg(ins, op),
        Mnemonic::Bswap => {
            op.dst = operand(ins, 0);
            by_width!(size(), bswap)
        }
        Mnemonic::Movbe => movbe(ins, op),
        Mnemonic::Nop | Mnemonic::Endbr64 | Mnemonic::Endbr32 | Mnemonic::Reservednop => nop,
        // Processors that lack these pass over them: they were put where hints are.
        Mnemonic::Rdsspd | Mnemonic::Rdsspq | Mnemonic::Cldemote | Mnemonic::Prefetchit0 | Mnemonic::Prefetchit1 => nop,
        Mnemonic::Cbw => extend_accumulator::<u8, u16>,
        Mnemonic::Cwde => extend_accumulator::<u16, u32>,
        Mnemonic::Cdqe => extend_accumulator::<u32, u64>,
        Mnemonic::Cwd => sign_to_dx::<u16>,
        Mnemonic::Cdq => sign_to_dx::<u32>,
        Mnemonic::Cqo => sign_to_dx::<u64>,
        Mnemonic::Xlatb => {
            if ins.memory_base() == Register::BX {
                op.flags |= crate::op::OP_A16;
            }
            xlat
        }
        _ if ins.is_setcc() => {
            op.dst = if in_memory(ins, 0) { 0 } else { operand(ins, 0) };
            op.aux = condition(ins);
            setcc
        }
        _ if ins.is_cmovcc() => cmov(ins, op),
        _ => return None,
    })
}

trait Conditional {
    fn is_setcc(&self) -> bool;
    fn is_cmovcc(&self) -> bool;
}

impl Conditional for Instruction {
    fn is_setcc(&self) -> bool {
        use Mnemonic as M;
        matches!(
            self.mnemonic(),
            M::Seto
                | M::Setno
                | M::Setb
                | M::Setae
                | M::Sete
                | M::Setne
                | M::Setbe
                | M::Seta
                | M::Sets
                | M::Setns
                | M::Setp
                | M::Setnp
                | M::Setl
                | M::Setge
                | M::Setle
                | M::Setg
        )
    }

    fn is_cmovcc(&self) -> bool {
        use Mnemonic as M;
        matches!(
            self.mnemonic(),
            M::Cmovo
                | M::Cmovno
                | M::Cmovb
                | M::Cmovae
                | M::Cmove
                | M::Cmovne
                | M::Cmovbe
                | M::Cmova
                | M::Cmovs
                | M::Cmovns
                | M::Cmovp
                | M::Cmovnp
                | M::Cmovl
                | M::Cmovge
                | M::Cmovle
                | M::Cmovg
        )
    }
}
