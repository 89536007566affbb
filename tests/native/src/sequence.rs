//! Several instructions in a row: what one leaves in registers and flags the next one reads, without the state being
//! saved and loaded between them.
//!
//! Only instructions take part whose results are the same on every processor; of flags that one leaves undefined it is
//! kept track, so that none of the following reads them.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register, RflagsBits};

use crate::aim;
use crate::case::Case;
use crate::encode;
use crate::forms::{self, Form};
use crate::layout::{DATA, DATA_SIZE};
use crate::rng::Rng;
use crate::safety;
use crate::vendor;

/// Most instructions in a row.
const MOST: u64 = 8;
/// Attempts to find each of them.
const ATTEMPTS: usize = 12;

/// Flags that are undefined so far, as iced's `RflagsBits`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taint(u32);

impl Taint {
    /// False when the instruction reads an undefined flag; else its own effect is added.
    fn admits(&mut self, instruction: &Instruction) -> bool {
        if instruction.rflags_read() & self.0 != 0 {
            return false;
        }
        let defined = instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set();
        // With a count of zero a shift changes no flag.
        if !is_shift(instruction) {
            self.0 &= !defined;
        }
        self.0 |= instruction.rflags_undefined();
        if is_shift(instruction) {
            // Of counts beyond the operand's size.
            self.0 |= RflagsBits::CF | RflagsBits::OF | RflagsBits::AF;
        }
        true
    }

    /// As bits of RFLAGS.
    #[must_use]
    pub fn rflags(self) -> u64 {
        let bits = [
            (RflagsBits::OF, 1 << 11),
            (RflagsBits::SF, 1 << 7),
            (RflagsBits::ZF, 1 << 6),
            (RflagsBits::AF, 1 << 4),
            (RflagsBits::CF, 1),
            (RflagsBits::PF, 1 << 2),
        ];
        bits.iter().filter(|(flag, _)| self.0 & flag != 0).fold(0, |all, (_, bit)| all | bit)
    }
}

fn is_shift(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Shl
            | Mnemonic::Sal
            | Mnemonic::Shr
            | Mnemonic::Sar
            | Mnemonic::Rol
            | Mnemonic::Ror
            | Mnemonic::Rcl
            | Mnemonic::Rcr
    )
}

/// A sequence that starts with the case's own instruction: appends bytes to the case and returns what follows, with the
/// flags that are undefined anywhere on the way. `None` when the instruction does not take part.
pub fn extend(case: &mut Case, first: &Instruction, all: &[Form], rng: &mut Rng) -> Option<(Vec<Instruction>, u64)> {
    let mut taint = Taint::default();
    if !is_plain(first) || !taint.admits(first) {
        return None;
    }
    let mut ever = taint.rflags();
    if ![first.memory_base(), first.memory_index()].contains(&Register::RSP) && !first.is_stack_instruction() {
        // For PUSH and POP.
        case.gpr[4] = DATA + 256 + 8 * rng.below((DATA_SIZE - 512) / 8);
    }
    let mut rest = Vec::new();
    for _ in 0..1 + rng.below(MOST - 1) {
        if let Some(instruction) = append(case, all, &mut taint, rng) {
            ever |= taint.rflags();
            rest.push(instruction);
        }
    }
    (!rest.is_empty()).then_some((rest, ever))
}

fn append(case: &mut Case, all: &[Form], taint: &mut Taint, rng: &mut Rng) -> Option<Instruction> {
    for _ in 0..ATTEMPTS {
        let Some(bytes) = encode::encode(&rng.pick(all), rng) else { continue };
        let rip = case.rip + case.bytes.len() as u64;
        // The aim works on a case of its own, which only lends its registers.
        let mut own = Case { bytes, rip, ..case.clone() };
        let mut instruction = encode::decode(&own.bytes, rip);
        if !is_plain(&instruction) || forms::is_odd(&instruction, &own.bytes) || has_moving_address(&instruction) {
            continue;
        }
        aim::memory(&mut own, &mut instruction, rng);
        if safety::is_harmless(&own, &instruction) && taint.admits(&instruction) {
            case.bytes.extend_from_slice(&own.bytes);
            return Some(instruction);
        }
    }
    None
}

/// True when the address depends on registers, which instructions before may have changed.
fn has_moving_address(instruction: &Instruction) -> bool {
    let memory = (0..instruction.op_count()).any(|index| instruction.op_kind(index) == OpKind::Memory);
    let moving = |register: Register| register != Register::None && !register.is_ip();
    memory && (moving(instruction.memory_base()) || moving(instruction.memory_index()))
}

/// True when the instruction gives the same on every processor, goes on with the next one and needs no set-up.
fn is_plain(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let special = matches!(
        instruction.mnemonic(),
        M::Lss | M::Lfs | M::Lgs | M::Bsf | M::Bsr | M::Shld | M::Shrd | M::Cmpxchg | M::Enter | M::Xlatb | M::Maskmovq | M::Maskmovdqu
            | M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss | M::Cvtpi2ps | M::Cvtps2pi | M::Cvttps2pi | M::Cvtpd2pi
            | M::Cvttpd2pi | M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 | M::Ldmxcsr | M::Wrfsbase | M::Wrgsbase
            | M::Ud0 | M::Ud1 | M::Popf | M::Popfq | M::Pushf | M::Pushfq
            // These save AF, which iced does not count as read.
            | M::Lahf
    );
    let bit_offset = matches!(instruction.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc)
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Register;
    let loads_segment = instruction.op0_kind() == OpKind::Register && instruction.op0_register().is_segment_register();
    instruction.flow_control() == FlowControl::Next
        && !encode::is_invalid(instruction)
        && !instruction.is_string_instruction()
        && !instruction.is_privileged()
        && !vendor::is_x87(instruction)
        && !vendor::is_sha(instruction)
        && !forms::is_xsave(instruction)
        && !special
        && !loads_segment
        && !bit_offset
}
