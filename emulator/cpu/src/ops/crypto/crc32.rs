//! CRC32 with the polynomial 11EDC6F41h (Castagnoli), reflected. An SSE4.2 instruction on general registers: it needs
//! neither CR4.OSFXSR nor a clear CR0.TS.

use iced_x86::{Instruction, Mnemonic};

use super::super::{by_width, in_memory, operand, operand_size};
use crate::core::Core;
use crate::op::{Done, Handler, Op};
use crate::width::Width;

/// 11EDC6F41h without its highest bit, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Remainders of a byte that is followed by 0 to 7 zero bytes.
static TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut index = 0;
    while index < 256 {
        let mut remainder = index as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = remainder >> 1 ^ if remainder & 1 != 0 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        tables[0][index] = remainder;
        index += 1;
    }
    let mut zeros = 1;
    while zeros < 8 {
        let mut index = 0;
        while index < 256 {
            let before: u32 = tables[zeros - 1][index];
            tables[zeros][index] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            index += 1;
        }
        zeros += 1;
    }
    tables
};

/// `crc` after the low `bytes` bytes of `value`, lowest first.
#[inline(always)]
pub(super) fn update(crc: u32, value: u64, bytes: usize) -> u32 {
    let mixed = u64::from(crc) ^ value;
    let rest = if bytes < 4 { crc >> (8 * bytes) } else { 0 };
    (0..bytes).fold(rest, |sum, index| sum ^ TABLES[bytes - 1 - index][(mixed >> (8 * index) & 0xff) as usize])
}

fn reg<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = T::get(core, op.src);
    let crc = update(core.r[usize::from(op.dst & 31)] as u32, value.zx(), T::BYTES as usize);
    core.r[usize::from(op.dst & 31)] = u64::from(crc);
    Ok(())
}

fn mem<T: Width>(core: &mut Core, op: &Op) -> Done {
    let value = core.load::<T>(op)?;
    let crc = update(core.r[usize::from(op.dst & 31)] as u32, value.zx(), T::BYTES as usize);
    core.r[usize::from(op.dst & 31)] = u64::from(crc);
    Ok(())
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op) -> Option<Handler> {
    if ins.mnemonic() != Mnemonic::Crc32 {
        return None;
    }
    op.dst = operand(ins, 0);
    let size = operand_size(ins, 1);
    Some(if in_memory(ins, 1) {
        by_width!(size, mem)
    } else {
        op.src = operand(ins, 1);
        by_width!(size, reg)
    })
}
