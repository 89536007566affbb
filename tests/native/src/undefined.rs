//! Results that Intel's manual leaves undefined: not compared. `docs/cpu-model.md` says what virtft chose.

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::case::Case;

const CF: u64 = 1;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
/// All arithmetic flags.
pub const ALL: u64 = CF | PF | AF | ZF | SF | OF;

/// Condition codes C0, C2 and C3 of the x87 status word.
pub const C023: u16 = 0x4500;
/// Condition code C1.
pub const C1: u16 = 1 << 9;

/// What of an outcome is not compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignored {
    /// Bits of RFLAGS.
    pub rflags: u64,
    /// RIP.
    pub rip: bool,
    /// General registers, by number.
    pub gpr: u16,
    /// Bits of the x87 status word.
    pub status: u16,
    /// How many units in the last place x87 registers may differ by.
    pub x87_units: u64,
    /// x87 tags.
    pub tags: bool,
    /// XMM registers, by number, in which single-precision numbers need only be near each other.
    pub xmm: u16,
    /// Memory: address and bytes.
    pub memory: Vec<(u64, usize)>,
}

/// Flags that the manual leaves undefined after the instruction.
#[must_use]
pub fn flags(case: &Case, instruction: &Instruction) -> u64 {
    match instruction.mnemonic() {
        Mnemonic::And | Mnemonic::Or | Mnemonic::Xor | Mnemonic::Test => AF,
        Mnemonic::Andn | Mnemonic::Blsi | Mnemonic::Blsmsk | Mnemonic::Blsr | Mnemonic::Bzhi => AF | PF,
        Mnemonic::Bextr => AF | SF | PF,
        Mnemonic::Tzcnt | Mnemonic::Lzcnt => OF | SF | PF | AF,
        Mnemonic::Bsf | Mnemonic::Bsr => CF | OF | SF | AF | PF,
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => OF | SF | AF | PF,
        Mnemonic::Mul | Mnemonic::Imul => SF | ZF | AF | PF,
        Mnemonic::Div | Mnemonic::Idiv => ALL,
        Mnemonic::Shl | Mnemonic::Sal | Mnemonic::Shr | Mnemonic::Sar => shift(case, instruction),
        Mnemonic::Rol | Mnemonic::Ror | Mnemonic::Rcl | Mnemonic::Rcr => {
            if count(case, instruction) == 1 {
                0
            } else {
                OF
            }
        }
        Mnemonic::Shld | Mnemonic::Shrd => double_shift(case, instruction),
        _ => 0,
    }
}

/// The masked count of a shift or rotation.
fn count(case: &Case, instruction: &Instruction) -> u64 {
    let last = instruction.op_count() - 1;
    let value = match instruction.op_kind(last) {
        OpKind::Register => case.gpr[1],
        _ => instruction.immediate(last),
    };
    let wide = operand_bits(instruction) == 64;
    value & if wide { 63 } else { 31 }
}

/// Size of the destination in bits.
fn operand_bits(instruction: &Instruction) -> u64 {
    let bytes = match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size(),
        _ => instruction.memory_size().size(),
    };
    8 * bytes as u64
}

fn shift(case: &Case, instruction: &Instruction) -> u64 {
    let count = count(case, instruction);
    let too_far = count >= operand_bits(instruction) && instruction.mnemonic() != Mnemonic::Sar;
    match count {
        0 => 0,
        1 => AF,
        _ if too_far => AF | OF | CF,
        _ => AF | OF,
    }
}

fn double_shift(case: &Case, instruction: &Instruction) -> u64 {
    match count(case, instruction) {
        0 => 0,
        1 => AF,
        count if count > operand_bits(instruction) => ALL,
        _ => AF | OF,
    }
}

/// True for a double shift farther than its operand is wide: the result is undefined.
#[must_use]
pub fn is_overlong_double_shift(case: &Case, instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Shld | Mnemonic::Shrd)
        && count(case, instruction) > operand_bits(instruction)
}
