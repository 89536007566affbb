//! Set-up that single instructions need to do more than fault.

use iced_x86::{Code, FlowControl, Instruction, MemorySize, Mnemonic, OpKind, Register};

use crate::aim;
use crate::case::Case;
use crate::forms;
use crate::fp::{Fp, halves};
use crate::layout::{DATA, DATA_SIZE, selector};
use crate::rng::Rng;
use crate::values::{self, Kind};

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;

/// Trap flag.
const TF: u64 = 1 << 8;
/// Bits of MXCSR that Intel's processors have. AMD's have bit 17 too.
const MXCSR_VALID: u32 = 0xffff;

/// Prepares registers and memory for the instruction; its explicit memory operand is aimed already.
pub fn set_up(case: &mut Case, instruction: &Instruction, rng: &mut Rng) {
    if instruction.is_string_instruction() {
        string(case, instruction, rng);
    }
    let flows = instruction.flow_control() != FlowControl::Next;
    let in_address = [instruction.memory_base(), instruction.memory_index()].contains(&Register::RSP);
    if (instruction.is_stack_instruction() || flows) && !(in_address && rng.chance(50)) {
        case.gpr[RSP] = if rng.chance(15) { aim::target(rng, 16, false) } else { middle(rng) };
    }
    match instruction.mnemonic() {
        Mnemonic::Leave => case.gpr[RBP] = aim::target(rng, 8, false),
        Mnemonic::Enter => case.gpr[RBP] = middle(rng),
        Mnemonic::Xlatb => case.gpr[RBX] = aim::target(rng, 1, false).wrapping_sub(case.gpr[RAX] & 0xff),
        Mnemonic::Maskmovq | Mnemonic::Maskmovdqu => {
            let base = aim::segment_base(case, instruction.memory_segment());
            case.gpr[RDI] = aim::target(rng, 16, false).wrapping_sub(base);
        }
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => bit_offset(case, instruction, rng),
        Mnemonic::Div | Mnemonic::Idiv => divide(case, instruction, rng),
        Mnemonic::Cmpxchg | Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b => exchange(case, instruction, rng),
        Mnemonic::Lss | Mnemonic::Lfs | Mnemonic::Lgs => far_pointer(case, instruction, rng),
        Mnemonic::Mov if instruction.op0_register().is_segment_register() => segment(case, instruction, rng),
        Mnemonic::Pop if instruction.op0_register().is_segment_register() => {
            case.poke(case.gpr[RSP], &data_selector(rng).to_le_bytes());
        }
        Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => fxrstor(case, instruction, rng),
        _ if forms::is_xsave(instruction) => xsave(case, instruction, rng),
        Mnemonic::Ldmxcsr => ldmxcsr(case, instruction, rng),
        Mnemonic::Fldenv | Mnemonic::Frstor => environment(case, instruction, rng),
        Mnemonic::Wrfsbase | Mnemonic::Wrgsbase => {
            let slot = instruction.op0_register().full_register().number() & 15;
            // Bases that reach this process would only be loaded, not used.
            case.gpr[slot] = values::integer(rng);
        }
        Mnemonic::Pcmpestri | Mnemonic::Pcmpestrm | Mnemonic::Pcmpestri64 | Mnemonic::Pcmpestrm64 => {
            for slot in [RAX, RDX] {
                if rng.chance(80) {
                    case.gpr[slot] = rng.below(40).wrapping_sub(20);
                }
            }
        }
        _ => {}
    }
    if flows {
        flow(case, instruction, rng);
    }
}

/// An address in the middle of the data pages, mostly 8-byte aligned.
fn middle(rng: &mut Rng) -> u64 {
    let address = DATA + 1024 + rng.below(DATA_SIZE - 2048);
    if rng.chance(85) { address & !7 } else { address }
}

/// Address of the explicit memory operand.
fn explicit(case: &Case, instruction: &Instruction) -> Option<u64> {
    let memory = (0..instruction.op_count()).any(|index| instruction.op_kind(index) == OpKind::Memory);
    memory.then(|| aim::effective(case, instruction))
}

fn string(case: &mut Case, instruction: &Instruction, rng: &mut Rng) {
    let kinds = (0..instruction.op_count()).map(|index| instruction.op_kind(index));
    let short = kinds.clone().any(|kind| matches!(kind, OpKind::MemorySegESI | OpKind::MemoryESEDI));
    let upper = |rng: &mut Rng| if short && rng.chance(50) { rng.next() << 32 } else { 0 };
    let source = aim::segment_base(case, instruction.memory_segment());
    let limit = if short { 0xffff_ffff } else { u64::MAX };
    case.gpr[RSI] = aim::target(rng, 8, false).wrapping_sub(source) & limit | upper(rng);
    case.gpr[RDI] = aim::target(rng, 8, false) & limit | upper(rng);
    if rng.chance(10) {
        // Overlapping.
        case.gpr[RSI] = case.gpr[RDI].wrapping_add(rng.below(32)).wrapping_sub(16);
    }
    let count = match rng.below(20) {
        0 | 1 => 0,
        2 => 1,
        3 => 100 + rng.below(900),
        _ => rng.below(40),
    };
    case.gpr[RCX] = count | upper(rng);
    if rng.chance(70) {
        equal_runs(case, rng);
    }
}

/// Makes memory at RDI equal to that at RSI, or to RAX, for a while: so that comparisons go on.
fn equal_runs(case: &mut Case, rng: &mut Rng) {
    let (from, to) = (case.gpr[RSI], case.gpr[RDI]);
    let fill = rng.chance(50);
    let byte = rng.byte();
    if fill {
        case.gpr[RAX] = u64::from_le_bytes([byte; 8]);
    }
    let length = 8 * rng.below(24);
    for offset in (0..length).step_by(8) {
        for signed in [offset, 0_u64.wrapping_sub(offset)] {
            let value = if fill {
                Some([byte; 8])
            } else {
                case.peek(from.wrapping_add(signed), 8).map(|v| halves(v).0.to_le_bytes())
            };
            if let Some(bytes) = value {
                case.poke(to.wrapping_add(signed), &bytes);
            }
        }
    }
}

/// Selectors of the tables that Linux and the test's guest both have, some of which may not be loaded.
fn data_selector(rng: &mut Rng) -> u16 {
    const SELECTORS: [u16; 18] =
        [0, 1, 2, 3, 0x2b, 0x2b, 0x2b, 0x28, 0x29, 0x33, 0x30, 0x23, 0x10, 0x18, 0x2c, 0x2f, 0x80, 0xfffb];
    rng.pick(&SELECTORS)
}

fn segment(case: &mut Case, instruction: &Instruction, rng: &mut Rng) {
    if instruction.op0_register() == Register::SS {
        // A single step is reported one instruction later.
        case.rflags &= !TF;
    }
    let value = data_selector(rng).to_le_bytes();
    match explicit(case, instruction) {
        Some(address) => case.poke(address, &value),
        None => {
            let slot = instruction.op1_register().full_register().number() & 15;
            case.gpr[slot] = case.gpr[slot] & !0xffff | u64::from(u16::from_le_bytes(value));
        }
    }
}

fn far_pointer(case: &mut Case, instruction: &Instruction, rng: &mut Rng) {
    if let Some(address) = explicit(case, instruction) {
        let offset = instruction.memory_size().size() as u64 - 2;
        case.poke(address.wrapping_add(offset), &data_selector(rng).to_le_bytes());
    }
}

/// Keeps the bit that a register names near the operand.
fn bit_offset(case: &mut Case, instruction: &Instruction, rng: &mut Rng) {
    if instruction.op0_kind() == OpKind::Memory && instruction.op1_kind() == OpKind::Register {
        let slot = instruction.op1_register().full_register().number() & 15;
        let offset = rng.below(4096).wrapping_sub(2048);
        let in_address = [instruction.memory_base(), instruction.memory_index()]
            .iter()
            .any(|register| register.full_register() == instruction.op1_register().full_register());
        if !in_address {
            case.gpr[slot] = offset;
        }
    }
}

/// Makes quotients that fit.
fn divide(case: &mut Case, instruction: &Instruction, rng: &mut Rng) {
    if rng.chance(75) {
        let value = case.gpr[RAX];
        case.gpr[RDX] = if instruction.mnemonic() == Mnemonic::Idiv && rng.chance(50) {
            if rng.chance(50) { u64::MAX } else { 0 }
        } else {
            rng.below(16)
        };
        case.gpr[RAX] = if rng.chance(30) { value & 0xff } else { value };
    }
}

/// Makes the accumulator equal to the destination half of the time.
fn exchange(case: &mut Case, instruction: &Instruction, rng: &mut Rng) {
    if rng.chance(50) {
        return;
    }
    let Some(address) = explicit(case, instruction) else {
        let slot = instruction.op0_register().full_register().number() & 15;
        case.gpr[RAX] = case.gpr[slot];
        return;
    };
    let uses = |register: Register| {
        [instruction.memory_base(), instruction.memory_index()].iter().any(|r| r.full_register() == register)
    };
    if uses(Register::RAX) || uses(Register::RDX) {
        return;
    }
    let size = instruction.memory_size().size().min(16);
    let Some((low, high)) = case.peek(address, size).map(halves) else { return };
    let keep_upper = |old: u64, new: u64| old & !0xffff_ffff | new & 0xffff_ffff;
    match instruction.mnemonic() {
        Mnemonic::Cmpxchg8b => {
            case.gpr[RAX] = keep_upper(case.gpr[RAX], low);
            case.gpr[RDX] = keep_upper(case.gpr[RDX], low >> 32);
        }
        Mnemonic::Cmpxchg16b => {
            case.gpr[RAX] = low;
            case.gpr[RDX] = high;
        }
        _ => case.gpr[RAX] = low,
    }
}

/// Asks for x87 and SSE state, or one of them, and writes an area for XRSTOR to load.
fn xsave(case: &mut Case, instruction: &Instruction, rng: &mut Rng) {
    const COMPACTED: u64 = 1 << 63;
    let in_address = |register| [instruction.memory_base(), instruction.memory_index()].contains(&register);
    if [Register::RAX, Register::EAX, Register::RDX, Register::EDX].into_iter().any(in_address) {
        return;
    }
    case.gpr[RAX] = rng.next() << 32 | if rng.chance(60) { 3 } else { rng.below(4) };
    case.gpr[RDX] = rng.next() << 32;
    let Some(address) = explicit(case, instruction) else { return };
    fxrstor(case, instruction, rng);
    let present = rng.below(4) | if rng.chance(5) { 1 << 25 } else { 0 };
    let compaction = match rng.below(10) {
        0..=6 => 0,
        7 | 8 => COMPACTED | 3,
        _ => COMPACTED | rng.below(4),
    };
    let mut header = [0; 64];
    header[..8].copy_from_slice(&present.to_le_bytes());
    header[8..16].copy_from_slice(&compaction.to_le_bytes());
    if rng.chance(5) {
        header[16 + rng.index(48)] = rng.byte();
    }
    case.poke(address.wrapping_add(512), &header);
}

fn fxrstor(case: &mut Case, instruction: &Instruction, rng: &mut Rng) {
    let Some(address) = explicit(case, instruction) else { return };
    let mut image = [0; 512];
    let mut fp = Fp { control: case.fp.control, status: case.fp.status, ..Fp::default() };
    fp.mxcsr = mxcsr(rng);
    fp.tags = rng.byte();
    for register in &mut fp.regs {
        *register = values::f80(rng);
    }
    for register in &mut fp.xmm {
        *register = u128::from_le_bytes(values::block(rng, Kind::Integer));
    }
    fp.write_image(&mut image);
    case.poke(address, &image);
}

fn ldmxcsr(case: &mut Case, instruction: &Instruction, rng: &mut Rng) {
    if let Some(address) = explicit(case, instruction) {
        case.poke(address, &mxcsr(rng).to_le_bytes());
    }
}

/// A value for MXCSR, now and then with a reserved bit.
fn mxcsr(rng: &mut Rng) -> u32 {
    let value = u32::from_le_bytes([rng.byte(), rng.byte(), 0, 0]);
    let reserved = if rng.chance(10) { 1 << (18 + rng.below(14)) } else { 0 };
    value & MXCSR_VALID | reserved
}

/// A plausible x87 environment: words that hardware would have stored.
fn environment(case: &mut Case, instruction: &Instruction, rng: &mut Rng) {
    let Some(address) = explicit(case, instruction) else { return };
    let short = matches!(instruction.memory_size(), MemorySize::FpuEnv14 | MemorySize::FpuState94);
    let step = if short { 2 } else { 4 };
    let words =
        [u16::from_le_bytes([rng.byte(), rng.byte()]), case.fp.status, u16::from_le_bytes([rng.byte(), rng.byte()])];
    let control = words[0] & 0x0f3f | 0x40;
    let pending = words[1] & !control & 0x3f != 0;
    let status = words[1] & 0x7f7f | if pending { 0x8080 } else { 0 };
    for (index, word) in [control, status, words[2]].into_iter().enumerate() {
        case.poke(address.wrapping_add((index * step) as u64), &word.to_le_bytes());
    }
}

/// Targets for returns and indirect branches.
fn flow(case: &mut Case, instruction: &Instruction, rng: &mut Rng) {
    let target = aim::code_target(case, rng);
    let code = instruction.code();
    match code {
        Code::Jrcxz_rel8_64 | Code::Jecxz_rel8_64 | Code::Loop_rel8_64_RCX | Code::Loop_rel8_64_ECX
            if rng.chance(60) =>
        {
            case.gpr[RCX] = rng.below(2) | if rng.chance(30) { 1 << 32 } else { 0 };
        }
        Code::Retnq | Code::Retnq_imm16 => case.poke(case.gpr[RSP], &target.to_le_bytes()),
        Code::Retfw | Code::Retfw_imm16 => far_frame(case, rng, 2),
        Code::Retfd | Code::Retfd_imm16 => far_frame(case, rng, 4),
        Code::Retfq | Code::Retfq_imm16 => far_frame(case, rng, 8),
        Code::Iretw => interrupt_frame(case, rng, 2),
        Code::Iretd => interrupt_frame(case, rng, 4),
        Code::Iretq => interrupt_frame(case, rng, 8),
        _ => {}
    }
    if instruction.is_jmp_far_indirect() || instruction.is_call_far_indirect() {
        let size = instruction.memory_size().size() - 2;
        let address = aim::effective(case, instruction);
        case.poke(address, &target.to_le_bytes()[..size]);
        case.poke(address.wrapping_add(size as u64), &code_selector(rng).to_le_bytes());
    } else if matches!(instruction.flow_control(), FlowControl::IndirectBranch | FlowControl::IndirectCall) {
        if instruction.op0_kind() == OpKind::Memory {
            case.poke(aim::effective(case, instruction), &target.to_le_bytes());
        } else {
            case.gpr[instruction.op0_register().full_register().number() & 15] = target;
        }
    }
}

fn code_selector(rng: &mut Rng) -> u16 {
    if rng.chance(80) { selector::USER_CODE } else { rng.pick(&[0, 0x10, selector::USER_DATA]) }
}

fn far_frame(case: &mut Case, rng: &mut Rng, size: usize) {
    let target = aim::code_target(case, rng);
    let rsp = case.gpr[RSP];
    case.poke(rsp, &target.to_le_bytes()[..size]);
    case.poke(rsp.wrapping_add(size as u64), &u64::from(code_selector(rng)).to_le_bytes()[..size]);
}

fn interrupt_frame(case: &mut Case, rng: &mut Rng, size: usize) {
    // NT, RF, TF and the like are left alone: the host's kernel sees them.
    let flags = rng.next() & 0x8d5 | 0x202;
    let stack = if rng.chance(85) { u64::from(selector::USER_DATA) } else { rng.pick(&[0, 0x18, 0x33]) };
    let words = [flags, middle(rng), stack];
    far_frame(case, rng, size);
    for (index, word) in words.into_iter().enumerate() {
        let at = case.gpr[RSP].wrapping_add(((index + 2) * size) as u64);
        case.poke(at, &word.to_le_bytes()[..size]);
    }
}
