//! The instruction set, by family. Each family has `select`, which maps a decoded instruction to the handler that
//! executes it and fills in the operands, and the handlers themselves.

mod alu;
mod bits;
mod branch;
mod crypto;
mod exchange;
mod mmx;
mod mov;
mod muldiv;
mod shift;
mod sse;
mod stack;
mod string;
mod system;
mod system_control;
mod system_flags;
mod system_frame;
mod system_io;
mod system_misc;
mod system_segment;
mod system_tables;
pub(crate) mod x87;
mod xsave;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind, Register};

use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{
    Done, Handler, OP_A16, OP_A32, OP_LEGACY, OP_MEMORY, OP_REP, OP_REPNE, Op, SEG_FLAT, SEG_FLAT_STACK, SLOT_RIP,
    SLOT_ZERO, Stop,
};
use crate::state::{CS, DS, ES, FS, GS, SS};
use crate::width::Width;

/// Picks the handler of an instruction of one family and fills in the operands.
type Select = fn(&Instruction, &mut Op, CodeMode) -> Option<Handler>;

/// Most bytes of an undefined instruction that its statistics entry names.
const UNDEFINED_BYTES: usize = 5;
/// Most bytes of an instruction.
const LONGEST: usize = 15;

/// Makes the executable form of an instruction that starts `offset` bytes into its block.
pub(crate) fn translate(ins: &Instruction, bytes: &[u8], offset: usize, mode: CodeMode) -> Op {
    let mut op = Op {
        run: undefined,
        imm: 0,
        disp: 0,
        off: offset as u16,
        len: ins.len() as u8,
        flags: if mode == CodeMode::Bits64 { 0 } else { OP_LEGACY },
        base: SLOT_ZERO,
        index: SLOT_ZERO,
        scale: 0,
        seg: SEG_FLAT,
        dst: 0,
        src: 0,
        aux: 0,
    };
    if ins.has_rep_prefix() {
        op.flags |= OP_REP;
    }
    if ins.has_repne_prefix() {
        op.flags |= OP_REPNE;
    }
    if (0..ins.op_count()).any(|index| ins.op_kind(index) == OpKind::Memory) {
        memory_operand(ins, &mut op, mode);
    }
    let families: [Select; 14] = [
        alu::select,
        system::select,
        mov::select,
        branch::select,
        stack::select,
        shift::select,
        bits::select,
        muldiv::select,
        string::select,
        exchange::select,
        sse::select,
        mmx::select,
        crypto::select,
        xsave::select,
    ];
    let known = families.iter().find_map(|select| select(ins, &mut op, mode));
    match known.or_else(|| x87::select(ins, bytes, &mut op)) {
        Some(handler) => op.run = handler,
        None => {
            // The bytes are kept for the statistics: at most eight fit the immediate.
            let mut named = [0; 8];
            let length = bytes.len().min(UNDEFINED_BYTES);
            named[..length].copy_from_slice(&bytes[..length]);
            op.imm = u64::from_le_bytes(named);
            op.aux = length as u8;
            op.run = if is_too_long(ins, bytes, mode) { too_long } else { undefined };
        }
    }
    op
}

/// True when the decoder gave up after 15 bytes because of the length alone: some continuation would be an instruction.
fn is_too_long(ins: &Instruction, bytes: &[u8], mode: CodeMode) -> bool {
    ins.code() == Code::INVALID && bytes.len() == LONGEST && !is_undefined_however_it_goes_on(bytes, mode)
}

/// True when the first bytes of an instruction make it undefined, whatever follows: then it raises #UD, and no byte behind them is
/// needed. The decoder itself may want a ModRM byte before it gives up.
pub(crate) fn is_undefined_however_it_goes_on(bytes: &[u8], mode: CodeMode) -> bool {
    let is_rex = |byte: u8| mode == CodeMode::Bits64 && matches!(byte, 0x40..=0x4f);
    let is_prefix =
        |byte: u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3) || is_rex(byte);
    let prefixes = bytes.iter().take_while(|&&byte| is_prefix(byte)).count();
    let (prefixes, rest) = bytes.split_at(prefixes);
    // VEX says only in its later bytes what it is.
    if matches!(rest, [] | [0xc4 | 0xc5, ..]) || rest.len() > LONGEST - 5 {
        return false;
    }
    // The prefixes that select an opcode, once each, leave room for the rest of any instruction.
    let mut start: Vec<u8> = [0x66, 0xf2, 0xf3].into_iter().filter(|byte| prefixes.contains(byte)).collect();
    // REX counts only right before the opcode.
    start.extend(prefixes.last().filter(|&&byte| is_rex(byte)));
    start.extend_from_slice(rest);
    (0..=u8::MAX).all(|next| {
        let mut whole = start.clone();
        whole.push(next);
        whole.resize(2 * LONGEST, 0);
        let found = Decoder::new(mode.bits(), &whole, DecoderOptions::NO_INVALID_CHECK).decode();
        // One that is whole without the next byte was refused for another reason, such as LOCK.
        found.code() == Code::INVALID || found.len() <= start.len()
    })
}

/// #GP: the instruction has more than 15 bytes.
fn too_long(core: &mut Core, _op: &Op) -> Done {
    Err(core.gp(0))
}

/// #UD, counted by the first bytes of the instruction.
fn undefined(core: &mut Core, op: &Op) -> Done {
    let bytes = op.imm.to_le_bytes();
    let name: Vec<String> = bytes[..usize::from(op.aux)].iter().map(|byte| format!("{byte:02x}")).collect();
    *core.statistics.undefined.entry(name.join(" ")).or_default() += 1;
    Err(core.ud())
}

/// Slot of a segment register in a mode.
pub(crate) fn segment_slot(register: Register, mode: CodeMode) -> u8 {
    let index = match register {
        Register::ES => ES,
        Register::CS => CS,
        Register::SS => SS,
        Register::FS => FS,
        Register::GS => GS,
        _ => DS,
    };
    match (mode, index) {
        (CodeMode::Bits64, SS) => SEG_FLAT_STACK,
        (CodeMode::Bits64, ES | CS | DS) => SEG_FLAT,
        _ => index as u8,
    }
}

fn memory_operand(ins: &Instruction, op: &mut Op, mode: CodeMode) {
    op.flags |= OP_MEMORY;
    op.seg = segment_slot(effective_segment(ins, mode), mode);
    op.disp = ins.memory_displacement64();
    op.scale = match ins.memory_index_scale() {
        8 => 3,
        4 => 2,
        2 => 1,
        _ => 0,
    };
    let (base, index) = (ins.memory_base(), ins.memory_index());
    op.base = match base {
        Register::None => SLOT_ZERO,
        // The displacement that iced gives is already relative to the start of the block.
        Register::RIP | Register::EIP => SLOT_RIP,
        register => slot(register),
    };
    op.index = if index == Register::None { SLOT_ZERO } else { slot(index) };
    let size = match (base, index) {
        (Register::None, Register::None) => ins.memory_displ_size() as usize,
        (Register::None, register) | (register, _) => register.size(),
    };
    op.flags |= match size {
        8 => 0,
        4 => OP_A32,
        2 => OP_A16,
        // A one-byte displacement without registers does not exist; the mode decides then.
        _ if mode == CodeMode::Bits64 => 0,
        _ => OP_A32,
    };
}

/// Segment of the memory operand. In 64-bit mode overrides other than FS and GS are ignored, so that the base register
/// alone decides between #SS and #GP for an address that is not canonical.
fn effective_segment(ins: &Instruction, mode: CodeMode) -> Register {
    let segment = ins.memory_segment();
    if mode != CodeMode::Bits64 || matches!(segment, Register::FS | Register::GS) {
        return segment;
    }
    match ins.memory_base() {
        Register::RSP | Register::RBP | Register::ESP | Register::EBP => Register::SS,
        _ => Register::DS,
    }
}

/// Register slot of a general register of any size; bit 4 marks AH, CH, DH and BH.
pub(crate) fn slot(register: Register) -> u8 {
    match register {
        Register::AH | Register::CH | Register::DH | Register::BH => {
            (register as usize - Register::AH as usize) as u8 | 0x10
        }
        // Of the byte registers iced counts SPL after BH.
        _ => register.full_register().number() as u8,
    }
}

/// Slot of the register operand `index`.
pub(crate) fn operand(ins: &Instruction, index: u32) -> u8 {
    slot(ins.op_register(index))
}

/// True when operand `index` is in memory.
pub(crate) fn in_memory(ins: &Instruction, index: u32) -> bool {
    ins.op_kind(index) == OpKind::Memory
}

/// Size in bytes of operand `index`: of its register, or of the memory operand.
pub(crate) fn operand_size(ins: &Instruction, index: u32) -> usize {
    match ins.op_kind(index) {
        OpKind::Register => ins.op_register(index).size(),
        OpKind::Memory => ins.memory_size().size(),
        _ => 0,
    }
}

/// Value of an operand that is in register `src` or in memory.
#[inline(always)]
pub(crate) fn source<T: Width>(core: &mut Core, op: &Op) -> Result<T, Stop> {
    if op.has(OP_MEMORY) { core.load::<T>(op) } else { Ok(T::get(core, op.src)) }
}

/// Picks the instance of a generic handler for an operand size in bytes.
macro_rules! by_width {
    ($size:expr, $($path:ident)::+ $(<$($arg:ty),*>)?) => {
        match $size {
            1 => $($path)::+::<$($($arg,)*)? u8>,
            2 => $($path)::+::<$($($arg,)*)? u16>,
            4 => $($path)::+::<$($($arg,)*)? u32>,
            _ => $($path)::+::<$($($arg,)*)? u64>,
        }
    };
}
pub(crate) use by_width;
