//! From a form to bytes, by hand rather than by an assembler: so redundant prefixes, every addressing form and unusual
//! encodings come up. What does not decode to the form wanted is thrown away.

use iced_x86::{
    Code, Decoder, DecoderOptions, EncodingKind, Instruction, MandatoryPrefix, OpCodeOperandKind as Kind,
    OpCodeTableKind,
};

use crate::forms::{self, Form};
use crate::rng::Rng;
use crate::values;

/// Attempts at an encoding before the form is given up for this case.
const ATTEMPTS: usize = 40;

/// Random bytes that decode to the form; `None` when none of the attempts does.
pub fn encode(form: &Form, rng: &mut Rng) -> Option<Vec<u8>> {
    for _ in 0..ATTEMPTS {
        let bytes = attempt(form, rng);
        let instruction = decode(&bytes, 0);
        if instruction.code() == form.code && instruction.len() == bytes.len() {
            return Some(bytes);
        }
    }
    None
}

/// Decodes as the engine does.
#[must_use]
pub fn decode(bytes: &[u8], rip: u64) -> Instruction {
    Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE).decode()
}

fn attempt(form: &Form, rng: &mut Rng) -> Vec<u8> {
    let vex = form.info.encoding() == EncodingKind::VEX;
    let mut bytes = Vec::with_capacity(18);
    let kinds = form.info.op_kinds();
    let short_address = wants_short_address(form) || uses_memory(kinds) && rng.chance(8);
    prefixes(form, short_address, rng, &mut bytes);
    let extension = if rng.chance(50) { rng.byte() & 7 } else { 0 };
    if vex {
        vex_prefix(form, extension, rng, &mut bytes);
    } else {
        rex_prefix(form, extension, rng, &mut bytes);
        match form.info.table() {
            OpCodeTableKind::T0F => bytes.push(0x0f),
            OpCodeTableKind::T0F38 => bytes.extend([0x0f, 0x38]),
            OpCodeTableKind::T0F3A => bytes.extend([0x0f, 0x3a]),
            _ => {}
        }
    }
    opcode(form, kinds, rng, &mut bytes);
    if has_modrm(form, kinds) {
        modrm(form, kinds, rng, &mut bytes);
    }
    for &kind in kinds {
        immediate(kind, short_address, rng, &mut bytes);
    }
    bytes
}

fn wants_short_address(form: &Form) -> bool {
    form.info.address_size() == 32
}

fn uses_memory(kinds: &[Kind]) -> bool {
    kinds.iter().any(|&kind| {
        may_be_memory(kind)
            || matches!(kind, Kind::seg_rSI | Kind::es_rDI | Kind::seg_rDI | Kind::seg_rBX_al | Kind::mem_offs)
    })
}

fn prefixes(form: &Form, short_address: bool, rng: &mut Rng, bytes: &mut Vec<u8>) {
    let info = form.info;
    let legacy = info.encoding() == EncodingKind::Legacy;
    if legacy {
        let mandatory = info.mandatory_prefix();
        if mandatory == MandatoryPrefix::P66 || info.operand_size() == 16 || rng.chance(2) {
            bytes.push(0x66);
        }
        match mandatory {
            MandatoryPrefix::PF3 => bytes.push(0xf3),
            MandatoryPrefix::PF2 => bytes.push(0xf2),
            _ => {
                if rng.chance(if info.can_use_rep_prefix() { 50 } else { 1 }) {
                    bytes.push(0xf3);
                }
                if rng.chance(if info.can_use_repne_prefix() { 30 } else { 1 }) {
                    bytes.push(0xf2);
                }
            }
        }
        if rng.chance(if info.can_use_lock_prefix() { 20 } else { 1 }) {
            bytes.push(0xf0);
        }
    }
    if short_address {
        bytes.push(0x67);
    }
    if rng.chance(if uses_memory(info.op_kinds()) { 14 } else { 2 }) {
        bytes.push(rng.pick(&[0x64, 0x65, 0x64, 0x65, 0x2e, 0x36, 0x3e, 0x26]));
    }
    // A shuffle: the order of legacy prefixes has no meaning, but for the last of F2 and F3.
    for index in (1..bytes.len()).rev() {
        bytes.swap(index, rng.index(index + 1));
    }
}

/// REX with W as the form needs it and the three extension bits, if any is set.
fn rex_prefix(form: &Form, extension: u8, rng: &mut Rng, bytes: &mut Vec<u8>) {
    let wide = match form.info.operand_size() {
        64 => !form.info.default_op_size64() || rng.chance(20),
        0 => rng.chance(10),
        _ => false,
    };
    let rex = 0x40 | u8::from(wide) << 3 | extension;
    if rex != 0x40 || rng.chance(8) {
        bytes.push(rex);
    }
}

/// The three-byte form, or sometimes the two-byte form where it can be used.
fn vex_prefix(form: &Form, extension: u8, rng: &mut Rng, bytes: &mut Vec<u8>) {
    let info = form.info;
    let map = match info.table() {
        OpCodeTableKind::T0F38 => 2,
        OpCodeTableKind::T0F3A => 3,
        _ => 1,
    };
    let prefix = match info.mandatory_prefix() {
        MandatoryPrefix::P66 => 1,
        MandatoryPrefix::PF3 => 2,
        MandatoryPrefix::PF2 => 3,
        _ => 0,
    };
    let wide = if info.is_wig() { rng.byte() & 1 } else { u8::from(info.w() != 0) };
    let takes_vvvv = info.op_kinds().iter().any(|kind| matches!(kind, Kind::r32_vvvv | Kind::r64_vvvv));
    let register = if takes_vvvv || rng.chance(2) { rng.byte() & 15 } else { 0 };
    let length = u8::from(info.l() != 0);
    bytes.extend([0xc4, (!extension & 7) << 5 | map, wide << 7 | (!register & 15) << 3 | length << 2 | prefix]);
}

fn opcode(form: &Form, kinds: &[Kind], rng: &mut Rng, bytes: &mut Vec<u8>) {
    let code = form.info.op_code().to_be_bytes();
    let in_opcode = kinds.iter().any(|kind| {
        matches!(kind, Kind::r8_opcode | Kind::r16_opcode | Kind::r32_opcode | Kind::r64_opcode | Kind::sti_opcode)
    });
    if form.info.op_code_len() == 2 {
        bytes.push(code[2]);
    }
    let register = if in_opcode { rng.byte() & 7 } else { 0 };
    bytes.push(code[3] | register);
}

fn may_be_memory(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::mem
            | Kind::mem_mib
            | Kind::r8_or_mem
            | Kind::r16_or_mem
            | Kind::r32_or_mem
            | Kind::r64_or_mem
            | Kind::mm_or_mem
            | Kind::xmm_or_mem
    )
}

fn has_modrm(form: &Form, kinds: &[Kind]) -> bool {
    let in_modrm = |kind| {
        may_be_memory(kind)
            || matches!(
                kind,
                Kind::r8_reg
                    | Kind::r16_reg
                    | Kind::r16_reg_mem
                    | Kind::r16_rm
                    | Kind::r32_reg
                    | Kind::r32_reg_mem
                    | Kind::r32_rm
                    | Kind::r64_reg
                    | Kind::r64_reg_mem
                    | Kind::r64_rm
                    | Kind::seg_reg
                    | Kind::mm_reg
                    | Kind::mm_rm
                    | Kind::xmm_reg
                    | Kind::xmm_rm
                    | Kind::cr_reg
                    | Kind::dr_reg
            )
    };
    form.info.is_group() || form.info.is_rm_group() || kinds.iter().any(|&kind| in_modrm(kind))
}

/// ModRM, SIB and displacement.
fn modrm(form: &Form, kinds: &[Kind], rng: &mut Rng, bytes: &mut Vec<u8>) {
    let only_memory = kinds.iter().any(|kind| matches!(kind, Kind::mem | Kind::mem_mib));
    let memory = only_memory || kinds.iter().any(|&kind| may_be_memory(kind)) && rng.chance(50);
    let group = u8::try_from(form.info.group_index()).ok();
    let reg = group.unwrap_or(rng.byte() & 7);
    let rm = u8::try_from(form.info.rm_group_index()).unwrap_or(rng.byte() & 7);
    if !memory {
        bytes.push(0xc0 | reg << 3 | rm);
        return;
    }
    let mode = rng.byte() % 3;
    bytes.push(mode << 6 | reg << 3 | rm);
    let mut displacement = [0, 1, 4][usize::from(mode)];
    if rm == 4 {
        let sib = rng.byte();
        bytes.push(sib);
        if sib & 7 == 5 && mode == 0 {
            displacement = 4;
        }
    } else if rm == 5 && mode == 0 {
        displacement = 4;
    }
    let value = values::integer(rng);
    bytes.extend_from_slice(&value.to_le_bytes()[..displacement]);
}

fn immediate(kind: Kind, short_address: bool, rng: &mut Rng, bytes: &mut Vec<u8>) {
    let size = match kind {
        Kind::imm8 | Kind::imm8sex16 | Kind::imm8sex32 | Kind::imm8sex64 => 1,
        Kind::br16_1 | Kind::br32_1 | Kind::br64_1 => 1,
        Kind::imm16 | Kind::br16_2 => 2,
        Kind::imm32 | Kind::imm32sex64 | Kind::br32_4 | Kind::br64_4 => 4,
        Kind::imm64 => 8,
        Kind::mem_offs if short_address => 4,
        Kind::mem_offs => 8,
        _ => 0,
    };
    let value = values::integer(rng);
    bytes.extend_from_slice(&value.to_le_bytes()[..size]);
}

/// Changes a few bytes, or adds one: for encodings that no form describes.
pub fn mutate(bytes: &mut Vec<u8>, rng: &mut Rng) {
    const PREFIXES: [u8; 16] =
        [0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x64, 0x48, 0x41, 0x0f, 0x66, 0x4c, 0xc5, 0xc4, 0x65, 0x3e];
    for _ in 0..=rng.below(3) {
        let at = rng.index(bytes.len());
        match rng.below(5) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.byte(),
            2 => bytes.insert(at, rng.byte()),
            3 => bytes.insert(0, rng.pick(&PREFIXES)),
            _ => *bytes = (0..12).map(|_| rng.byte()).collect(),
        }
    }
    if rng.chance(3) {
        let prefix = rng.pick(&PREFIXES[..8]);
        let missing = 16_usize.saturating_sub(bytes.len());
        bytes.splice(0..0, std::iter::repeat_n(prefix, rng.index(missing + 1)));
    }
}

/// True for what [`decode`] gives for bytes that are no instruction.
#[must_use]
pub fn is_invalid(instruction: &Instruction) -> bool {
    instruction.code() == Code::INVALID
}

/// True for bytes with a VEX, XOP or EVEX prefix.
#[must_use]
pub fn is_vector_extension(bytes: &[u8]) -> bool {
    let start = forms::prefixes(bytes);
    matches!(bytes.get(start), Some(0xc4 | 0xc5 | 0x62 | 0x8f))
}
