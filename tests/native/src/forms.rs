//! The instruction forms that are tried: every one of 64-bit mode that the model `virtft-v2` has, but those that
//! [`EXCLUDED`] names.

use iced_x86::{Code, CpuidFeature, EncodingKind, Instruction, Mnemonic, OpCodeInfo};

/// CPUID features of `virtft-v2`.
const MODEL: [CpuidFeature; 49] = [
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::ADX,
    CpuidFeature::AES,
    CpuidFeature::BMI1,
    CpuidFeature::BMI2,
    CpuidFeature::CET_IBT,
    CpuidFeature::CLFLUSHOPT,
    CpuidFeature::CLFSH,
    CpuidFeature::CMOV,
    CpuidFeature::CMPXCHG16B,
    CpuidFeature::CPUID,
    CpuidFeature::CX8,
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::FSGSBASE,
    CpuidFeature::FXSR,
    CpuidFeature::INVPCID,
    CpuidFeature::LZCNT,
    CpuidFeature::MMX,
    CpuidFeature::MOVBE,
    CpuidFeature::MSR,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::PAUSE,
    CpuidFeature::PCLMULQDQ,
    CpuidFeature::POPCNT,
    CpuidFeature::PREFETCHW,
    CpuidFeature::RDPMC,
    CpuidFeature::RDRAND,
    CpuidFeature::RDSEED,
    CpuidFeature::RDTSCP,
    CpuidFeature::SHA,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::SSE3,
    CpuidFeature::SSSE3,
    CpuidFeature::SSE4_1,
    CpuidFeature::SSE4_2,
    CpuidFeature::SYSCALL,
    CpuidFeature::TSC,
    CpuidFeature::XSAVE,
    CpuidFeature::XSAVEC,
    CpuidFeature::XSAVEOPT,
    CpuidFeature::SEP,
];

const VALUE: &str = "its result is a property of the model or of time";
const KERNEL: &str = "enters the host's kernel";
const EMULATED: &str = "the host's kernel emulates it under UMIP";
const TABLES: &str = "depends on the host kernel's descriptor tables; directed tests cover it";
const XSTATE: &str = "what it leaves out depends on what the host's kernel did before; directed tests cover it";
const PREFETCH: &str = "0F 0D with a register operand: a no-operation on Intel's processors, #UD on AMD's";
const FAR64: &str = "AMD's processors do not have far pointers with 64-bit offsets";
const MOVSXD: &str = "MOVSXD with 16-bit operands reads 2 bytes on Intel's processors and 4 on AMD's";

/// Forms that are not tried, and why.
pub const EXCLUDED: &[(Mnemonic, &str)] = &[
    (Mnemonic::Cpuid, VALUE),
    (Mnemonic::Rdtsc, VALUE),
    (Mnemonic::Rdtscp, VALUE),
    (Mnemonic::Rdpmc, VALUE),
    (Mnemonic::Rdrand, VALUE),
    (Mnemonic::Rdseed, VALUE),
    (Mnemonic::Xgetbv, VALUE),
    (Mnemonic::Syscall, KERNEL),
    (Mnemonic::Sysenter, KERNEL),
    (Mnemonic::Sysexit, KERNEL),
    (Mnemonic::Sysexitq, KERNEL),
    (Mnemonic::Sysret, KERNEL),
    (Mnemonic::Sysretq, KERNEL),
    (Mnemonic::Sgdt, EMULATED),
    (Mnemonic::Sidt, EMULATED),
    (Mnemonic::Sldt, EMULATED),
    (Mnemonic::Smsw, EMULATED),
    (Mnemonic::Str, EMULATED),
    (Mnemonic::Lar, TABLES),
    (Mnemonic::Lsl, TABLES),
    (Mnemonic::Verr, TABLES),
    (Mnemonic::Verw, TABLES),
    (Mnemonic::Xsaveopt, XSTATE),
    (Mnemonic::Xsaveopt64, XSTATE),
];

/// Forms with one encoding each that are not tried, and why.
const EXCLUDED_CODES: &[(Code, &str)] = &[
    (Code::Reservednop_rm16_r16_0F0D, PREFETCH),
    (Code::Reservednop_rm32_r32_0F0D, PREFETCH),
    (Code::Reservednop_rm64_r64_0F0D, PREFETCH),
    (Code::Call_m1664, FAR64),
    (Code::Jmp_m1664, FAR64),
    (Code::Lss_r64_m1664, FAR64),
    (Code::Lfs_r64_m1664, FAR64),
    (Code::Lgs_r64_m1664, FAR64),
    (Code::Movsxd_r16_rm16, MOVSXD),
];

/// Why a form of the model is not tried.
#[must_use]
pub fn excluded(code: Code) -> Option<&'static str> {
    let by_code = EXCLUDED_CODES.iter().find(|(excluded, _)| *excluded == code).map(|(_, reason)| *reason);
    by_code.or_else(|| {
        let mnemonic = code.mnemonic();
        EXCLUDED.iter().find(|(excluded, _)| *excluded == mnemonic).map(|(_, reason)| *reason)
    })
}

/// True when the model has the instruction in 64-bit mode.
#[must_use]
pub fn in_model(code: Code) -> bool {
    let info = code.op_code();
    let supported = code.cpuid_features().iter().all(|feature| MODEL.contains(feature));
    info.is_instruction()
        && info.mode64()
        && info.intel_decoder64()
        && supported
        && matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
}

/// True for XSAVE, XSAVEC and XRSTOR, whose operand is a whole area.
#[must_use]
pub fn is_xsave(instruction: &Instruction) -> bool {
    use Mnemonic::{Xrstor, Xrstor64, Xsave, Xsave64, Xsavec, Xsavec64};
    matches!(instruction.mnemonic(), Xsave | Xsave64 | Xsavec | Xsavec64 | Xrstor | Xrstor64)
}

/// One instruction form.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// The form as iced names it.
    pub code: Code,
    /// Its encoding.
    pub info: &'static OpCodeInfo,
}

impl Form {
    /// The form's name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{:?}", self.code)
    }
}

/// True when the host's processor has what the form needs.
fn host_has(code: Code) -> bool {
    code.cpuid_features().iter().all(|feature| match feature {
        CpuidFeature::ADX => std::is_x86_feature_detected!("adx"),
        CpuidFeature::AES => std::is_x86_feature_detected!("aes"),
        CpuidFeature::BMI1 => std::is_x86_feature_detected!("bmi1"),
        CpuidFeature::BMI2 => std::is_x86_feature_detected!("bmi2"),
        CpuidFeature::LZCNT => std::is_x86_feature_detected!("lzcnt"),
        CpuidFeature::MOVBE => std::is_x86_feature_detected!("movbe"),
        CpuidFeature::PCLMULQDQ => std::is_x86_feature_detected!("pclmulqdq"),
        CpuidFeature::XSAVE => std::is_x86_feature_detected!("xsave"),
        CpuidFeature::XSAVEC => std::is_x86_feature_detected!("xsavec"),
        CpuidFeature::SHA => std::is_x86_feature_detected!("sha"),
        _ => true,
    })
}

/// All forms that are tried, in iced's order.
#[must_use]
pub fn forms() -> Vec<Form> {
    Code::values()
        .filter(|&code| in_model(code) && !code.op_code().fwait() && excluded(code).is_none() && host_has(code))
        .map(|code| Form { code, info: code.op_code() })
        .collect()
}

/// True for encodings in the space of hints: they do nothing on processors that do not have what they stand for.
#[must_use]
pub fn is_hint(code: Code) -> bool {
    let info = code.op_code();
    info.is_reserved_nop()
        || info.is_nop()
        || info.table() == iced_x86::OpCodeTableKind::T0F && matches!(info.op_code() >> (8 * (info.op_code_len() - 1)), 0x0d | 0x18..=0x1f)
        // Those of SSE4a, MPX, waiting and cache control may share opcodes with hints behind a mandatory prefix.
        || code.cpuid_features().iter().any(|feature| {
            matches!(feature, CpuidFeature::WBNOINVD | CpuidFeature::CLDEMOTE | CpuidFeature::CET_SS | CpuidFeature::MPX)
        })
}

/// True for branches with prefixes that processors understand differently: the operand size of near branches, which
/// Intel's processors ignore in 64-bit mode, and REP with LOOPE and LOOPNE, which turns their condition on AMD's.
#[must_use]
pub fn is_odd(instruction: &Instruction, bytes: &[u8]) -> bool {
    if instruction.is_loopcc() && (instruction.has_rep_prefix() || instruction.has_repne_prefix()) {
        return true;
    }
    let (prefixes, rest) = bytes.split_at(prefixes(bytes));
    let near = match rest {
        [0x0f, 0x80..=0x8f, ..] | [0x70..=0x7f | 0xe0..=0xe3 | 0xe8 | 0xe9 | 0xeb | 0xc2 | 0xc3, ..] => true,
        // Indirect CALL and JMP.
        [0xff, modrm, ..] => matches!(modrm >> 3 & 7, 2 | 4),
        // LOCK with MOV to and from CR0 is one of AMD's encodings of CR8.
        [0x0f, 0x20 | 0x22, ..] => return prefixes.contains(&0xf0),
        // A hypervisor under this host may answer its hypercalls itself, whoever makes them.
        [0x0f, 0x01, 0xc1 | 0xd9, ..] => return true,
        // AMD's processors still know how long 3DNow! instructions are.
        [0x0f, 0x0f, ..] => return true,
        _ => false,
    };
    near && prefixes.contains(&0x66)
}

/// How many legacy and REX prefixes the bytes begin with.
#[must_use]
pub fn prefixes(bytes: &[u8]) -> usize {
    let is_prefix =
        |byte: &&u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3 | 0x40..=0x4f);
    bytes.iter().take_while(is_prefix).count()
}
