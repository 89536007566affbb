//! DPPS and DPPD: dot products, made of the multiplications and additions that the manual names, in its order.
//!
//! An unmasked exception in one of these steps ends the instruction with the flags of the steps so far.

use iced_x86::{Instruction, Mnemonic};

use super::float::{Addpd, Addps, Mulpd, Mulps, execute};
use super::moves::registers;
use super::vector::{Vector, host, join, split};
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, OP_MEMORY, Op, Stop};

/// Lanes chosen by the low four bits of `bits`.
fn lanes_32(bits: u64) -> Vector {
    join::<[u32; 4]>(std::array::from_fn(|lane| if bits >> lane & 1 != 0 { u32::MAX } else { 0 }))
}

/// Lanes chosen by the low two bits of `bits`.
fn lanes_64(bits: u64) -> Vector {
    join::<[u64; 2]>(std::array::from_fn(|lane| if bits >> lane & 1 != 0 { u64::MAX } else { 0 }))
}

fn and(a: Vector, b: Vector) -> Vector {
    host!(_mm_and_si128(a, b))
}

fn second(core: &mut Core, op: &Op) -> Result<Vector, Stop> {
    if op.has(OP_MEMORY) { core.load_aligned(op) } else { Ok(core.xmm(op.src)) }
}

fn dpps(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let b = second(core, op)?;
    let a = core.xmm(op.dst);
    let chosen = lanes_32(op.imm >> 4);
    // A lane that is not chosen is the product of two zeros, which raises nothing.
    let products = execute::<Mulps>(core, and(a, chosen), and(b, chosen))?;
    let [p0, p1, p2, p3]: [u32; 4] = split(products);
    let sums = execute::<Addps>(core, join([p0, p2, 0, 0]), join([p1, p3, 0, 0]))?;
    let [low, high, ..]: [u32; 4] = split(sums);
    let total = execute::<Addps>(core, join([low, 0, 0, 0]), join([high, 0, 0, 0]))?;
    let [total, ..]: [u32; 4] = split(total);
    core.set_xmm(op.dst, and(join([total; 4]), lanes_32(op.imm)));
    Ok(())
}

fn dppd(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let b = second(core, op)?;
    let a = core.xmm(op.dst);
    let chosen = lanes_64(op.imm >> 4);
    let products = execute::<Mulpd>(core, and(a, chosen), and(b, chosen))?;
    let [p0, p1]: [u64; 2] = split(products);
    let total = execute::<Addpd>(core, join([p0, 0]), join([p1, 0]))?;
    let [total, _]: [u64; 2] = split(total);
    core.set_xmm(op.dst, and(join([total; 2]), lanes_64(op.imm)));
    Ok(())
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    let handler: Handler = match ins.mnemonic() {
        Mnemonic::Dpps => dpps,
        Mnemonic::Dppd => dppd,
        _ => return None,
    };
    registers(ins, op);
    op.imm = u64::from(ins.immediate8());
    Some(handler)
}
