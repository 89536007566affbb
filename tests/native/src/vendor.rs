//! Where AMD's and Intel's processors, or two processors of one vendor, differ. virtft's model is Intel's; results that
//! a host of the other vendor cannot confirm are not compared. [`TABLE`] is printed with every report.

use iced_x86::{Code, CpuidFeature, Instruction, Mnemonic, OpKind};

use crate::case::{Case, Event, Outcome};
use crate::undefined::{self, Ignored};

/// Forms, by name, and what of them is not compared, with the reason.
pub const TABLE: &[(&str, &str)] = &[
    ("BSF, BSR with source zero", "destination: Intel documents it as undefined, AMD as unchanged"),
    ("SHLD, SHRD r/m16 with count over 16", "destination: undefined, and the vendors' results differ"),
    ("CMPXCHG r32, r32 with unequal operands", "upper half of the destination: Intel clears it, AMD does not write"),
    ("near branches with prefix 66", "not tried: Intel ignores the prefix in 64-bit mode, AMD truncates RIP"),
    ("LOOPE, LOOPNE with REP or REPNE", "not tried: AMD takes the prefix for the condition"),
    ("UD0, UD1 at the end of a page", "#UD or a fault in the fetch of ModRM and what follows"),
    ("CMPS with faults in both operands", "which of them is raised"),
    ("RCPPS, RCPSS, RSQRTPS, RSQRTSS", "destination: an approximation; only its error is bounded"),
    ("FSIN, FCOS, FSINCOS, FPTAN, FPATAN, F2XM1, FYL2X, FYL2XP1", "result's last bits, C1 and inexact flag"),
    ("x87 instruction, operand and opcode pointers", "AMD stores what Intel leaves out, and the other way round"),
];

/// Adds what the vendors do differently in this case.
pub fn ignore(case: &Case, instruction: &Instruction, native: &Outcome, ignored: &mut Ignored) {
    match instruction.mnemonic() {
        Mnemonic::Bsf | Mnemonic::Bsr if native.rflags & 0x40 != 0 => ignored.gpr |= destination(instruction),
        Mnemonic::Shld | Mnemonic::Shrd if undefined::is_overlong_double_shift(case, instruction) => {
            ignored.gpr |= destination(instruction);
            if instruction.op0_kind() == OpKind::Memory {
                let address = crate::aim::effective(case, instruction);
                ignored.memory.push((address, instruction.memory_size().size()));
            }
        }
        Mnemonic::Cmpxchg if instruction.code() == Code::Cmpxchg_rm32_r32 && native.rflags & 0x40 == 0 => {
            ignored.gpr |= destination(instruction);
        }
        Mnemonic::Rcpps | Mnemonic::Rcpss | Mnemonic::Rsqrtps | Mnemonic::Rsqrtss => {
            ignored.xmm |= 1 << (instruction.op0_register().number() & 15);
        }
        Mnemonic::Fsin
        | Mnemonic::Fcos
        | Mnemonic::Fsincos
        | Mnemonic::Fptan
        | Mnemonic::Fpatan
        | Mnemonic::F2xm1
        | Mnemonic::Fyl2x
        | Mnemonic::Fyl2xp1 => {
            ignored.x87 = 0xff;
            ignored.status |= undefined::C1 | undefined::C023 | 0x38;
        }
        Mnemonic::Fxsave | Mnemonic::Fxsave64 => {
            let address = crate::aim::effective(case, instruction);
            ignored.memory.extend([(address + 6, 18), (address + 416, 96)]);
        }
        Mnemonic::Fnsave => {
            let address = crate::aim::effective(case, instruction);
            let short = instruction.memory_size().size() == 94;
            ignored.memory.push(if short { (address + 6, 8) } else { (address + 12, 16) });
        }
        Mnemonic::Fnstenv => {
            let address = crate::aim::effective(case, instruction);
            let short = instruction.memory_size().size() == 14;
            ignored.memory.push(if short { (address + 6, 8) } else { (address + 12, 16) });
        }
        _ => {}
    }
}

/// True when either of two exceptions is right.
#[must_use]
pub fn either_exception(instruction: &Instruction, native: Event, guest: Event) -> bool {
    let exceptions = |event| matches!(event, Event::Exception { .. } | Event::TripleFault { .. });
    match instruction.mnemonic() {
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => {
            exceptions(native) && exceptions(guest)
        }
        _ => false,
    }
}

/// The bit of the destination register.
fn destination(instruction: &Instruction) -> u16 {
    match instruction.op0_kind() {
        OpKind::Register => 1 << (instruction.op0_register().full_register().number() & 15),
        _ => 0,
    }
}

/// True for x87 instructions.
#[must_use]
pub fn is_x87(instruction: &Instruction) -> bool {
    instruction
        .cpuid_features()
        .iter()
        .any(|feature| matches!(feature, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387))
}
