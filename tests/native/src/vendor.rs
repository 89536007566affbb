//! Where AMD's and Intel's processors, or two processors of one vendor, differ. virtft's model is Intel's; results that
//! a host of the other vendor cannot confirm are not compared. [`TABLE`] is printed with every report.

use iced_x86::{Code, CpuidFeature, Instruction, Mnemonic, OpKind};

use crate::case::{Case, Event, Outcome};
use crate::forms;
use crate::layout::{CODE, CODE_SIZE, DATA, DATA_BYTES};
use crate::undefined::{self, C1, C023, Ignored};

/// Forms, by name, and what of them is not compared, with the reason.
pub const TABLE: &[(&str, &str)] = &[
    ("BSF, BSR with source zero", "destination: Intel documents it as undefined, AMD as unchanged"),
    ("SHLD, SHRD r/m16 with count over 16", "destination: undefined, and the vendors' results differ"),
    ("CMPXCHG r32, r32 with unequal operands", "upper half of the destination: Intel clears it, AMD does not write"),
    ("near branches with prefix 66", "not tried: Intel ignores the prefix in 64-bit mode, AMD truncates RIP"),
    ("LOOPE, LOOPNE with REP or REPNE", "not tried: AMD takes the prefix for the condition"),
    ("UD0, UD1 at the end of a page", "#UD or a fault in the fetch of ModRM and what follows"),
    ("CMPS with faults in both operands", "which of them is raised"),
    ("CALL with a target that is not canonical and a stack that faults", "which exception is raised"),
    ("BT, BTS, BTR, BTC with the offset register in the address", "which exception an address that wraps raises"),
    (
        "#AC for operands of more than 8 bytes",
        "Intel leaves it to the implementation, and which comes first of it and #GP, #PF",
    ),
    ("MASKMOVQ, MASKMOVDQU", "whether bytes that are not stored fault: left to the implementation"),
    ("SHA1*, SHA256* with an operand that is not aligned", "Intel raises #GP, AMD does not"),
    ("RCPPS, RCPSS, RSQRTPS, RSQRTSS", "destination: approximations; both are within 1.5 * 2^-12"),
    ("CVTPI2PS xmm, m64", "Intel enters MMX mode (TOP and tags) with a memory operand too"),
    ("CVT(T)PS2PI, CVT(T)PD2PI, CVTPI2PS that raise #XM", "AMD enters MMX mode before the fault"),
    (
        "FSIN, FCOS, FSINCOS, FPTAN, FPATAN, F2XM1, FYL2X, FYL2XP1",
        "the result's last place, condition codes, inexact and underflow; of F2XM1 and FYL2XP1 outside their domain everything",
    ),
    (
        "FCOM*, FUCOM*, FICOM*, FTST with an unmasked exception",
        "condition codes, flags: Intel leaves them, AMD sets them",
    ),
    ("FLD m32, m64 of a denormal with #D unmasked", "Intel leaves TOP and registers, AMD pushes"),
    ("FXSAVE, FXRSTOR, XSAVE, XRSTOR across a page's border", "whether the bytes that are not used can fault"),
    (
        "FXSAVE, FXRSTOR, FNSAVE, FRSTOR, FNSTENV, FLDENV, RETF, IRET",
        "in which order their accesses fault: the address of #PF",
    ),
    ("POP FS, POP GS across a page's border", "whether more than the selector is read"),
    ("ENTER that faults", "whether what it pushed before is in memory, and which fault comes first"),
    ("INT1", "RIP: some hypervisors push that of the instruction itself"),
    ("opcodes that do not exist at the end of a page", "#UD or a fault in the fetch of what would follow"),
    ("LOCK where it is not allowed", "whether #UD comes before a fault of the operand"),
    ("opcodes that do not exist after many prefixes", "#UD, or #GP for the length that they would have"),
    ("FCMOVcc, FCOMI, FCOMIP, FUCOMI, FUCOMIP", "C1 where no stack fault says what it is"),
    ("FSCALE with an unmasked exception", "C1 and inexact"),
    ("FFREE, FFREEP", "condition codes: undefined"),
    ("FPREM, FPREM1 of NaN and invalid operands", "condition codes: undefined"),
    ("FLD st(i) with an empty source and a full stack", "C1: which of both stack faults it tells"),
    ("FSTPNCE", "not documented: whether an empty register is an exception"),
    ("x87 stores that an unmasked exception suppresses", "whether the address can fault still"),
    ("LDMXCSR, FXRSTOR, XRSTOR with bit 17 of MXCSR", "Intel raises #GP, AMD has the bit"),
    ("3DNow! opcodes (0F 0F)", "not tried: #UD on Intel; AMD still reads their operands"),
    ("VMCALL, VMMCALL", "not tried: a hypervisor under the host answers them itself"),
    ("FXSAVE, XSAVE, XSAVEC", "MXCSR_MASK: AMD has bit 17; XSTATE_BV: what counts as in use"),
    ("x87 instruction, operand and opcode pointers", "AMD stores what Intel leaves out, and the other way round"),
];

/// x87 status: invalid operation, underflow and inexact, error summary and busy.
const IE: u16 = 1;
const DE: u16 = 1 << 1;
const UE: u16 = 1 << 4;
const PE: u16 = 1 << 5;
const ES: u16 = 0x8080;
const TOP: u16 = 7 << 11;
/// Units in the last place by which transcendental functions may differ.
const TRANSCENDENTAL_UNITS: u64 = 1;
/// A bit of MXCSR that only AMD's processors have.
const MISALIGNED: u32 = 1 << 17;
/// The prefix.
const LOCK: u8 = 0xf0;
/// From so many prefixes on an opcode and its operands may be more than 15 bytes.
pub const MANY_PREFIXES: usize = 4;
const AC: u8 = 17;
const XM: u8 = 19;
const PF: u8 = 14;

/// Adds what the vendors do differently in this case, when the instruction retired.
pub fn ignore(case: &Case, instruction: &Instruction, outcomes: [&Outcome; 2], ignored: &mut Ignored) {
    let [native, guest] = outcomes;
    let zero = native.rflags & 0x40 != 0;
    match instruction.mnemonic() {
        Mnemonic::Bsf | Mnemonic::Bsr if zero => ignored.gpr |= destination(instruction),
        Mnemonic::Shld | Mnemonic::Shrd if undefined::is_overlong_double_shift(case, instruction) => {
            ignored.gpr |= destination(instruction);
            if instruction.op0_kind() == OpKind::Memory {
                let address = crate::aim::effective(case, instruction);
                ignored.memory.push((address, instruction.memory_size().size()));
            }
        }
        Mnemonic::Cmpxchg if instruction.code() == Code::Cmpxchg_rm32_r32 && !zero => {
            ignored.gpr |= destination(instruction);
        }
        Mnemonic::Rcpps | Mnemonic::Rcpss | Mnemonic::Rsqrtps | Mnemonic::Rsqrtss => {
            ignored.xmm |= 1 << (instruction.op0_register().number() & 15);
        }
        Mnemonic::Cvtpi2ps if instruction.op1_kind() == OpKind::Memory => {
            ignored.status |= TOP;
            ignored.tags = true;
        }
        _ if is_x87(instruction) => x87(case, instruction, native, guest, ignored),
        _ => images(case, instruction, ignored),
    }
}

/// What images in memory hold of pointers and of the vendor.
fn images(case: &Case, instruction: &Instruction, ignored: &mut Ignored) {
    let address = crate::aim::effective(case, instruction);
    match instruction.mnemonic() {
        Mnemonic::Fxsave | Mnemonic::Fxsave64 => {
            // Opcode, pointers, MXCSR_MASK, and what is not written.
            ignored.memory.extend([(address.wrapping_add(6), 18), (address.wrapping_add(28), 4)]);
            ignored.memory.push((address.wrapping_add(416), 96));
        }
        _ if forms::is_xsave(instruction) => {
            // As above; and XSTATE_BV, which says what was in use.
            ignored.memory.extend([(address.wrapping_add(6), 18), (address.wrapping_add(28), 4)]);
            ignored.memory.push((address.wrapping_add(512), 8));
        }
        Mnemonic::Fnsave | Mnemonic::Fnstenv => {
            let short = matches!(instruction.memory_size().size(), 14 | 94);
            let (offset, size) = if short { (6, 8) } else { (12, 16) };
            ignored.memory.push((address.wrapping_add(offset), size));
        }
        _ => {}
    }
}

fn x87(case: &Case, instruction: &Instruction, native: &Outcome, guest: &Outcome, ignored: &mut Ignored) {
    let raised = native.fp.status | guest.fp.status;
    let unmasked = raised & !case.fp.control & 0x3f != 0;
    match instruction.mnemonic() {
        Mnemonic::Fsin
        | Mnemonic::Fcos
        | Mnemonic::Fsincos
        | Mnemonic::Fptan
        | Mnemonic::Fpatan
        | Mnemonic::F2xm1
        | Mnemonic::Fyl2x
        | Mnemonic::Fyl2xp1 => {
            ignored.x87_units = TRANSCENDENTAL_UNITS;
            ignored.status |= C1 | C023 | UE | PE | ES;
        }
        Mnemonic::Fcom
        | Mnemonic::Fcomp
        | Mnemonic::Fcompp
        | Mnemonic::Fucom
        | Mnemonic::Fucomp
        | Mnemonic::Fucompp
        | Mnemonic::Ficom
        | Mnemonic::Ficomp
        | Mnemonic::Ftst
            if unmasked =>
        {
            ignored.status |= C023 | C1;
        }
        Mnemonic::Fcomi | Mnemonic::Fcomip | Mnemonic::Fucomi | Mnemonic::Fucomip if unmasked => {
            ignored.rflags |= undefined::ALL;
            ignored.status |= C1;
        }
        Mnemonic::Fcmovb
        | Mnemonic::Fcmove
        | Mnemonic::Fcmovbe
        | Mnemonic::Fcmovu
        | Mnemonic::Fcmovnb
        | Mnemonic::Fcmovne
        | Mnemonic::Fcmovnbe
        | Mnemonic::Fcmovnu
        | Mnemonic::Fcomi
        | Mnemonic::Fcomip
        | Mnemonic::Fucomi
        | Mnemonic::Fucomip => ignored.status |= C1,
        Mnemonic::Fscale if unmasked => ignored.status |= C1 | PE,
        Mnemonic::Ffree | Mnemonic::Ffreep => ignored.status |= C1 | C023,
        Mnemonic::Fprem | Mnemonic::Fprem1 if unmasked || raised & IE != 0 || is_nan(native) => {
            ignored.status |= C1 | C023
        }
        Mnemonic::Fld if raised & IE != 0 && instruction.op0_kind() == OpKind::Register => ignored.status |= C1,
        _ => images(case, instruction, ignored),
    }
}

/// True when the outcomes of a case cannot be compared at all.
#[must_use]
pub fn differ_freely(case: &Case, instruction: &Instruction, native: &Outcome, guest: &Outcome) -> bool {
    let exception = |event| match event {
        Event::Exception { vector, .. } => Some(vector),
        _ => None,
    };
    let (expected, got) = (exception(native.event), exception(guest.event));
    let both = expected.is_some() && got.is_some();
    let size = instruction.memory_size().size();
    let mnemonic = instruction.mnemonic();
    let unaligned = size == 16 && crate::aim::effective(case, instruction) & 15 != 0;
    match mnemonic {
        _ if expected == Some(AC) && (size > 8 || size == 0 || is_mask_move(mnemonic)) => true,
        Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Call | Mnemonic::Enter => both,
        Mnemonic::Pop if instruction.op0_register().is_segment_register() => {
            (expected == Some(PF) || got == Some(PF)) && case.gpr[4] & 0xfff > 0xff8
        }
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => both,
        Mnemonic::Retf | Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => both && expected == Some(PF),
        Mnemonic::Fnsave | Mnemonic::Frstor | Mnemonic::Fnstenv | Mnemonic::Fldenv => {
            expected == Some(PF) && got == Some(PF)
        }
        Mnemonic::Cvtpi2ps if case.fp.status & ES != 0 => instruction.op1_kind() == OpKind::Memory,
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => both,
        Mnemonic::INVALID => {
            let at_end = case.rip + case.bytes.len() as u64 > CODE + CODE_SIZE;
            let (prefixes, _) = case.bytes.split_at(forms::prefixes(&case.bytes));
            both && (at_end || prefixes.len() >= MANY_PREFIXES || prefixes.contains(&LOCK))
        }
        Mnemonic::Fstpnce => true,
        Mnemonic::Ldmxcsr => native.fp.mxcsr & MISALIGNED != 0,
        Mnemonic::Fxsave | Mnemonic::Fxsave64 | Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => {
            let crosses = crate::aim::effective(case, instruction) & 0xfff > 0xe00;
            expected == Some(PF) && (crosses || got == expected) || native.fp.mxcsr & MISALIGNED != 0
        }
        _ if forms::is_xsave(instruction) => {
            expected == Some(PF) && (crate::aim::effective(case, instruction) & 0xfff > 0xdc0 || got == expected)
                || native.fp.mxcsr & MISALIGNED != 0
        }
        Mnemonic::F2xm1 | Mnemonic::Fyl2xp1 if is_outside_domain(case, mnemonic) => true,
        _ if is_denormal_load(case, instruction, native) => true,
        _ if is_mask_move(mnemonic) => both || expected.is_some() || got.is_some(),
        _ if is_sha(instruction) => unaligned,
        _ => is_x87(instruction) && expected.is_some() && guest.fp.status & !native.fp.status & 0x80 != 0,
    }
}

fn is_mask_move(mnemonic: Mnemonic) -> bool {
    matches!(mnemonic, Mnemonic::Maskmovq | Mnemonic::Maskmovdqu)
}

/// True for the SHA extensions.
#[must_use]
pub fn is_sha(instruction: &Instruction) -> bool {
    instruction.cpuid_features().contains(&CpuidFeature::SHA)
}

/// True when ST(0) has the largest exponent.
fn is_nan(outcome: &Outcome) -> bool {
    outcome.fp.regs[outcome.fp.top()].1 & 0x7fff == 0x7fff
}

/// True when ST(0) is outside the domain of F2XM1 (-1 to 1) or FYL2XP1 (about -0.29 to 0.41).
fn is_outside_domain(case: &Case, mnemonic: Mnemonic) -> bool {
    let exponent = case.fp.regs[case.fp.top()].1 & 0x7fff;
    match mnemonic {
        Mnemonic::F2xm1 => (0x3fff..0x7fff).contains(&exponent),
        Mnemonic::Fyl2xp1 => (0x3ffd..0x7fff).contains(&exponent),
        _ => false,
    }
}

/// True for a load that an unmasked denormal-operand exception stops.
fn is_denormal_load(case: &Case, instruction: &Instruction, native: &Outcome) -> bool {
    let memory = matches!(instruction.code(), Code::Fld_m32fp | Code::Fld_m64fp);
    memory && native.fp.status & !case.fp.control & DE != 0
}

/// What is not compared after a fault: the conversions into MMX registers may have entered MMX mode.
pub fn ignore_after_fault(instruction: &Instruction, native: &Outcome, ignored: &mut Ignored) {
    let conversion = matches!(
        instruction.mnemonic(),
        Mnemonic::Cvtps2pi | Mnemonic::Cvttps2pi | Mnemonic::Cvtpd2pi | Mnemonic::Cvttpd2pi | Mnemonic::Cvtpi2ps
    );
    if matches!(instruction.mnemonic(), Mnemonic::Enter) {
        ignored.memory.push((DATA, DATA_BYTES));
    }
    if conversion && matches!(native.event, Event::Exception { vector: XM, .. }) {
        ignored.status |= TOP;
        ignored.tags = true;
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
