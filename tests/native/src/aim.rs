//! Makes memory operands and branches hit something: the data pages mostly, their borders often.

use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind, Register};

use crate::case::Case;
use crate::encode;
use crate::forms;
use crate::layout::{CODE, CODE_SIZE, CONSTANT, DATA, DATA_SIZE, PAGE, WINDOW_SIZE, harmless};
use crate::rng::Rng;

/// Size of an XSAVE area that has x87 and SSE state.
const XSAVE_BYTES: u64 = 576;

/// An address for `size` bytes: in the data pages, aligned or not, across a border, read-only, not mapped.
pub fn target(rng: &mut Rng, size: u64, aligned: bool) -> u64 {
    let align = if size.is_power_of_two() { size.min(64) } else { 8 };
    let align = match size {
        512 => 16,
        XSAVE_BYTES => 64,
        _ => align,
    };
    match rng.below(100) {
        0..=66 => (DATA + rng.below(DATA_SIZE - size)) & !(align - 1),
        67..=80 if aligned && rng.chance(60) => (DATA + rng.below(DATA_SIZE - size)) & !(align - 1),
        67..=80 => DATA + rng.below(DATA_SIZE - size),
        81..=84 => DATA + PAGE - rng.below(size + 1),
        85..=87 => CONSTANT - rng.below(size + 1),
        88..=90 => CONSTANT + rng.below(PAGE - size.min(PAGE - 1)),
        91..=93 => DATA + WINDOW_SIZE - rng.below(size + 1),
        94 | 95 => DATA - rng.below(size + 1),
        96 => CODE + rng.below(CODE_SIZE),
        97 => rng.below(1 << 20),
        98 => 0x8000_0000_0000 - rng.below(2 * size),
        _ => 0xffff_8000_0000_0000 | rng.next() >> 17,
    }
}

/// Sets the registers of an address operand, or the displacement, so that it points at a target, which is returned.
pub fn memory(case: &mut Case, instruction: &mut Instruction, rng: &mut Rng) -> Option<u64> {
    let has_operand = (0..instruction.op_count()).any(|index| instruction.op_kind(index) == OpKind::Memory);
    if !has_operand {
        return None;
    }
    let size = match instruction.memory_size().size() {
        _ if forms::is_xsave(instruction) => XSAVE_BYTES,
        size => size.clamp(1, 512) as u64,
    };
    let wanted = target(rng, size, size >= 16);
    let segment = segment_base(case, instruction.memory_segment());
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    let offset = wanted.wrapping_sub(segment);
    if base == Register::None && index == Register::None || base.is_ip() {
        return patch_displacement(case, instruction, offset).map(|()| effective(case, instruction));
    }
    let scale = u64::from(instruction.memory_index_scale());
    let displacement = instruction.memory_displacement64();
    let rest = offset.wrapping_sub(displacement);
    match (base, index) {
        (base, Register::None) => set(case, base, rest, rng),
        (Register::None, index) => set(case, index, rest / scale, rng),
        (base, index) if base.full_register() == index.full_register() => set(case, base, rest / (scale + 1), rng),
        (base, index) => {
            if rng.chance(60) {
                let small = rng.below(256).wrapping_sub(rng.below(128));
                set(case, index, small, rng);
            }
            let part = register(case, index).wrapping_mul(scale);
            set(case, base, rest.wrapping_sub(part), rng);
        }
    }
    Some(effective(case, instruction))
}

/// Address of the explicit memory operand with the case's registers.
#[must_use]
pub fn effective(case: &Case, instruction: &Instruction) -> u64 {
    let base = instruction.memory_base();
    let index = instruction.memory_index();
    let from_base = if base == Register::None || base.is_ip() { 0 } else { register(case, base) };
    let from_index = if index == Register::None { 0 } else { register(case, index) };
    let scaled = from_index.wrapping_mul(u64::from(instruction.memory_index_scale()));
    let sum = from_base.wrapping_add(scaled).wrapping_add(instruction.memory_displacement64());
    let short = base.size() == 4
        || index.size() == 4
        || base == Register::None && index == Register::None && instruction.memory_displ_size() == 4;
    let offset = if short { sum & 0xffff_ffff } else { sum };
    offset.wrapping_add(segment_base(case, instruction.memory_segment()))
}

/// Base of a segment register.
#[must_use]
pub fn segment_base(case: &Case, segment: Register) -> u64 {
    match segment {
        Register::FS => case.fs_base,
        Register::GS => case.gs_base,
        _ => 0,
    }
}

/// Value of an address register.
#[must_use]
pub fn register(case: &Case, register: Register) -> u64 {
    let value = case.gpr[register.full_register().number() & 15];
    if register.size() == 4 { value & 0xffff_ffff } else { value }
}

fn set(case: &mut Case, register: Register, value: u64, rng: &mut Rng) {
    let slot = &mut case.gpr[register.full_register().number() & 15];
    *slot = if register.size() == 4 { value & 0xffff_ffff | rng.next() << 32 } else { value };
}

/// Writes the displacement that makes an address without registers `offset`.
fn patch_displacement(case: &mut Case, instruction: &mut Instruction, offset: u64) -> Option<()> {
    let mut decoder = Decoder::with_ip(64, &case.bytes, case.rip, DecoderOptions::NONE);
    let decoded = decoder.decode();
    let place = decoder.get_constant_offsets(&decoded);
    let at = place.displacement_offset();
    let size = place.displacement_size();
    let value = if instruction.memory_base().is_ip() { offset.wrapping_sub(decoded.next_ip()) } else { offset };
    let bytes = case.bytes.clone();
    case.bytes.get_mut(at..at + size)?.copy_from_slice(&value.to_le_bytes()[..size]);
    let patched = encode::decode(&case.bytes, case.rip);
    if patched.code() == instruction.code() && patched.len() == instruction.len() {
        *instruction = patched;
    } else {
        case.bytes = bytes;
    }
    Some(())
}

/// A place in the code pages outside the instruction, now and then one that is not mapped.
pub fn code_target(case: &Case, rng: &mut Rng) -> u64 {
    if rng.chance(4) {
        let wild = rng.pick(&[CODE - 1, CODE + CODE_SIZE, DATA + 8, 0x1000, CODE + CODE_SIZE + 0x1000]);
        if harmless(wild, 1) {
            return wild;
        }
    }
    let own = case.rip..case.rip + case.bytes.len() as u64;
    loop {
        let target = CODE + rng.below(CODE_SIZE);
        if !own.contains(&target) {
            return target;
        }
    }
}

/// Gives a relative branch a target in the code pages.
pub fn branch(case: &mut Case, instruction: &mut Instruction, rng: &mut Rng) {
    let relative = matches!(instruction.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32 | OpKind::NearBranch16);
    if !relative {
        return;
    }
    let mut decoder = Decoder::with_ip(64, &case.bytes, case.rip, DecoderOptions::NONE);
    let decoded = decoder.decode();
    let place = decoder.get_constant_offsets(&decoded);
    let (at, size) = (place.immediate_offset(), place.immediate_size());
    let next = decoded.next_ip();
    let displacement = if size == 4 {
        code_target(case, rng).wrapping_sub(next)
    } else {
        // Not into the instruction itself, which would run for ever.
        let short = rng.below(127);
        if rng.chance(50) {
            short
        } else {
            0_u64.wrapping_sub(short + 1 + case.bytes.len() as u64).max(0_u64.wrapping_sub(128))
        }
    };
    if let Some(bytes) = case.bytes.get_mut(at..at + size) {
        bytes.copy_from_slice(&displacement.to_le_bytes()[..size]);
        *instruction = encode::decode(&case.bytes, case.rip);
    }
}
