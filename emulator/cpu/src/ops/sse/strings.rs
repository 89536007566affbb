//! PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (Intel SDM volume 2, 4.1).
//!
//! The first operand is the set, the ranges or the pattern; the second is the text. The memory operand need not be
//! aligned.

use iced_x86::{Instruction, Mnemonic};

use super::moves::registers;
use super::vector::{Vector, from_low, join, split};
use crate::core::Core;
use crate::flags::{CF, OF, SF, ZF};
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, OP_MEMORY, Op};

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;

/// The elements of one operand, widened, and how many are valid.
struct Elements {
    values: [i32; 16],
    valid: usize,
}

/// How the immediate says to read elements.
#[derive(Clone, Copy)]
struct Format {
    words: bool,
    signed: bool,
}

impl Format {
    fn of(control: u64) -> Self {
        Self { words: control & 1 != 0, signed: control & 2 != 0 }
    }

    fn count(self) -> usize {
        if self.words { 8 } else { 16 }
    }

    fn elements(self, value: Vector) -> [i32; 16] {
        let mut out = [0; 16];
        match (self.words, self.signed) {
            (false, false) => fill(&mut out, split::<[u8; 16]>(value)),
            (false, true) => fill(&mut out, split::<[i8; 16]>(value)),
            (true, false) => fill(&mut out, split::<[u16; 8]>(value)),
            (true, true) => fill(&mut out, split::<[i16; 8]>(value)),
        }
        out
    }

    /// Elements up to the first zero.
    fn implicit(self, value: Vector) -> Elements {
        let values = self.elements(value);
        let valid = values[..self.count()].iter().position(|&element| element == 0).unwrap_or(self.count());
        Elements { values, valid }
    }

    /// As many elements as the absolute value of a register says.
    fn explicit(self, value: Vector, length: i64) -> Elements {
        let valid = length.unsigned_abs().min(self.count() as u64) as usize;
        Elements { values: self.elements(value), valid }
    }
}

fn fill<T: Into<i32>, const N: usize>(out: &mut [i32; 16], lanes: [T; N]) {
    for (slot, lane) in out.iter_mut().zip(lanes) {
        *slot = lane.into();
    }
}

/// Bits 0 to `count - 1` for which `test` holds.
fn bits(count: usize, test: impl Fn(usize) -> bool) -> u32 {
    (0..count).fold(0, |mask, index| mask | u32::from(test(index)) << index)
}

/// IntRes1: one bit per element of the text.
fn aggregate(a: &Elements, b: &Elements, control: u64, count: usize) -> u32 {
    let set = &a.values[..a.valid];
    let text = &b.values[..b.valid];
    match control >> 2 & 3 {
        0 => bits(b.valid, |j| set.contains(&text[j])),
        1 => bits(b.valid, |j| set.chunks_exact(2).any(|range| (range[0]..=range[1]).contains(&text[j]))),
        2 => bits(count, |j| match (j < a.valid, j < b.valid) {
            (true, true) => set[j] == text[j],
            (false, false) => true,
            _ => false,
        }),
        // The pattern matches at `j` as far as the vector goes, but not beyond the end of the text.
        _ => bits(count, |j| (0..a.valid.min(count - j)).all(|i| text.get(j + i) == Some(&set[i]))),
    }
}

/// IntRes2, and the flags.
fn compare(a: &Elements, b: &Elements, control: u64) -> (u32, u64) {
    let count = Format::of(control).count();
    let all = u32::MAX >> (32 - count);
    let result = aggregate(a, b, control, count);
    let result = match control >> 4 & 3 {
        1 => !result & all,
        3 => result ^ bits(b.valid, |_| true),
        _ => result,
    };
    let mut flags = 0;
    for (flag, set) in [(CF, result != 0), (ZF, b.valid < count), (SF, a.valid < count), (OF, result & 1 != 0)] {
        if set {
            flags |= flag;
        }
    }
    (result, flags)
}

/// ECX: the lowest or highest bit set, or the number of elements.
fn index(result: u32, control: u64) -> u64 {
    if result == 0 {
        return Format::of(control).count() as u64;
    }
    u64::from(if control & 1 << 6 != 0 { 31 - result.leading_zeros() } else { result.trailing_zeros() })
}

/// XMM0: the bits themselves, or every bit as a whole element.
fn mask(result: u32, control: u64) -> Vector {
    if control & 1 << 6 == 0 {
        return from_low(u64::from(result));
    }
    if Format::of(control).words {
        join::<[u16; 8]>(std::array::from_fn(|lane| if result >> lane & 1 != 0 { u16::MAX } else { 0 }))
    } else {
        join::<[u8; 16]>(std::array::from_fn(|lane| if result >> lane & 1 != 0 { u8::MAX } else { 0 }))
    }
}

/// `EXPLICIT` lengths are in EAX and EDX, or RAX and RDX when `WIDE`; `INDEX` is the result in ECX, else a mask in
/// XMM0.
fn string<const EXPLICIT: bool, const WIDE: bool, const INDEX: bool>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let b = if op.has(OP_MEMORY) { core.load_unaligned(op)? } else { core.xmm(op.src) };
    let a = core.xmm(op.dst);
    let format = Format::of(op.imm);
    let length = |register: u64| if WIDE { register as i64 } else { i64::from(register as i32) };
    let (a, b) = if EXPLICIT {
        (format.explicit(a, length(core.r[RAX])), format.explicit(b, length(core.r[RDX])))
    } else {
        (format.implicit(a), format.implicit(b))
    };
    let (result, flags) = compare(&a, &b, op.imm);
    if INDEX {
        core.r[RCX] = index(result, op.imm);
    } else {
        core.set_xmm(0, mask(result, op.imm));
    }
    core.flags.set_arithmetic(flags);
    Ok(())
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    let handler: Handler = match ins.mnemonic() {
        Mnemonic::Pcmpestri => string::<true, false, true>,
        Mnemonic::Pcmpestri64 => string::<true, true, true>,
        Mnemonic::Pcmpestrm => string::<true, false, false>,
        Mnemonic::Pcmpestrm64 => string::<true, true, false>,
        Mnemonic::Pcmpistri => string::<false, false, true>,
        Mnemonic::Pcmpistrm => string::<false, false, false>,
        _ => return None,
    };
    registers(ins, op);
    op.imm = u64::from(ins.immediate8());
    Some(handler)
}
