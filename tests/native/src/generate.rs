//! Makes the case with a given number: chooses the form, encodes it, and sets up state that lets it do something.

use iced_x86::{Code, FlowControl, Instruction, MemorySize};

use crate::aim;
use crate::case::{Case, LONGEST};
use crate::encode;
use crate::forms::{self, Form};
use crate::fp::Fp;
use crate::layout::{CODE, CODE_SIZE, DATA, DATA_BYTES, INT3, PAGE, WINDOW_SIZE};
use crate::rng::Rng;
use crate::safety;
use crate::sequence;
use crate::special;
use crate::values::{self, Kind};

/// Attempts to make a case harmless before it is given up.
const ATTEMPTS: usize = 12;
/// Bytes of random data from which the data pages are filled.
const POOL: usize = 64 << 10;

/// Alignment check and trap flags.
const AC: u64 = 1 << 18;
const TF: u64 = 1 << 8;

/// What a case is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To compare both processors.
    Compare,
    /// The model does not have the instruction: the interpreter must raise #UD; the host's processor is not asked.
    Absent,
}

/// A case with what it is made of.
#[derive(Debug)]
pub struct Generated {
    /// The case.
    pub case: Case,
    /// The instruction as it decodes.
    pub instruction: Instruction,
    /// Index of the form it was made from.
    pub form: usize,
    /// True when the bytes were changed after encoding.
    pub mutated: bool,
    /// The instructions that follow it.
    pub rest: Vec<Instruction>,
    /// Flags that these and the first leave undefined.
    pub undefined_flags: u64,
    /// How to use it.
    pub purpose: Purpose,
}

/// Makes cases from a seed.
#[derive(Debug)]
pub struct Generator {
    forms: Vec<Form>,
    seed: u64,
    pool: Vec<u8>,
}

impl Generator {
    /// A generator over all forms.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed, u64::MAX);
        let kinds = [Kind::Integer, Kind::Integer, Kind::F32, Kind::F64, Kind::Text];
        let mut pool = Vec::with_capacity(POOL + DATA_BYTES);
        while pool.len() < POOL + DATA_BYTES {
            let kind = rng.pick(&kinds);
            for _ in 0..4 {
                pool.extend(values::block(&mut rng, kind));
            }
        }
        Self { forms: forms::forms(), seed, pool }
    }

    /// The forms, in the order in which case numbers go round.
    #[must_use]
    pub fn forms(&self) -> &[Form] {
        &self.forms
    }

    /// What fills the read-only page: the same for all cases of a seed.
    #[must_use]
    pub fn constant(&self) -> &[u8] {
        &self.pool[..4096]
    }

    /// The case with this number; `None` when no harmless one was found.
    #[must_use]
    pub fn generate(&self, number: u64) -> Option<Generated> {
        let mut rng = Rng::new(self.seed, number);
        let index = usize::try_from(number % self.forms.len() as u64).unwrap_or(0);
        let form = &self.forms[index];
        let mutated = rng.chance(12);
        let in_sequence = rng.chance(20);
        for _ in 0..ATTEMPTS {
            let Some(mut bytes) = encode::encode(form, &mut rng) else { continue };
            if mutated {
                encode::mutate(&mut bytes, &mut rng);
                // What follows in the code pages may become part of the instruction.
                bytes.resize(LONGEST, INT3);
            }
            let rip = place(&mut rng, bytes.len());
            let mut instruction = encode::decode(&bytes, rip);
            let Some(purpose) = purpose(&instruction, &bytes) else { continue };
            if forms::is_odd(&instruction, &bytes) {
                continue;
            }
            if !encode::is_invalid(&instruction) {
                // What follows the instruction would be random code.
                bytes.truncate(instruction.len());
            }
            let mut case = self.random_state(&mut rng, bytes, rip);
            if !encode::is_invalid(&instruction) && purpose == Purpose::Compare {
                aim_and_set(&mut case, &mut instruction, &mut rng);
            }
            if purpose == Purpose::Absent || safety::is_harmless(&case, &instruction) {
                let (mut rest, mut undefined_flags) = (Vec::new(), 0);
                if purpose == Purpose::Compare && !mutated && in_sequence {
                    case.rflags &= !(AC | TF);
                    (rest, undefined_flags) =
                        sequence::extend(&mut case, &instruction, &self.forms, &mut rng).unwrap_or_default();
                    case.count += rest.len() as u64;
                }
                return Some(Generated { case, instruction, form: index, mutated, rest, undefined_flags, purpose });
            }
        }
        None
    }

    fn random_state(&self, rng: &mut Rng, bytes: Vec<u8>, rip: u64) -> Case {
        const ARITHMETIC: u64 = 0x8d5;
        const DF: u64 = 1 << 10;
        let mut gpr = [0; 16];
        for value in &mut gpr {
            *value = match rng.below(8) {
                0 | 1 => DATA + rng.below(WINDOW_SIZE),
                _ => values::integer(rng),
            };
        }
        let mut rflags = rng.next() & ARITHMETIC;
        if rng.chance(25) {
            rflags |= DF;
        }
        if rng.chance(4) {
            rflags |= AC;
        }
        if rng.chance(2) {
            rflags |= TF;
        }
        let start = rng.index(POOL);
        let mut data = Box::new([0; DATA_BYTES]);
        data.copy_from_slice(&self.pool[start..start + DATA_BYTES]);
        Case {
            bytes,
            count: 1,
            rip,
            gpr,
            rflags,
            fp: random_fp(rng),
            fs_base: segment_base(rng),
            gs_base: segment_base(rng),
            data,
        }
    }
}

/// Where the instruction lies: somewhere in the code pages, now and then across their border or their end.
fn place(rng: &mut Rng, length: usize) -> u64 {
    let length = length as u64;
    let inside = length.saturating_sub(1).max(1);
    match rng.below(100) {
        0..=2 => CODE + PAGE - 1 - rng.below(inside),
        3 => CODE + CODE_SIZE - 1 - rng.below(inside),
        4 => CODE + CODE_SIZE - length,
        _ => CODE + 256 + rng.below(CODE_SIZE - 512),
    }
}

fn purpose(instruction: &Instruction, bytes: &[u8]) -> Option<Purpose> {
    let code = instruction.code();
    if code == Code::INVALID && encode::is_vector_extension(bytes) {
        // The host may have vector extensions that the decoder does not know or checks less strictly.
        return Some(Purpose::Absent);
    }
    if code == Code::INVALID || forms::in_model(code) && forms::excluded(code).is_none() {
        return Some(Purpose::Compare);
    }
    let absent = code.op_code().mode64() && !forms::in_model(code) && !forms::is_hint(code);
    absent.then_some(Purpose::Absent)
}

fn aim_and_set(case: &mut Case, instruction: &mut Instruction, rng: &mut Rng) {
    if instruction.flow_control() != FlowControl::Next {
        aim::branch(case, instruction, rng);
    }
    let kind = data_kind(instruction);
    fill_registers(case, instruction, kind, rng);
    if let Some(target) = aim::memory(case, instruction, rng) {
        let bytes = values::block(rng, kind);
        let size = instruction.memory_size().size().clamp(1, 16);
        case.poke(target, &bytes[..size]);
        if size == 16 && kind == Kind::Integer && rng.chance(50) {
            case.poke(target, &case.fp.xmm[rng.index(16)].to_le_bytes());
        }
    }
    special::set_up(case, instruction, rng);
}

/// What the instruction's operands most likely are.
fn data_kind(instruction: &Instruction) -> Kind {
    match instruction.memory_size() {
        MemorySize::Float32 => return Kind::F32,
        MemorySize::Float64 => return Kind::F64,
        MemorySize::Float80 => return Kind::F80,
        MemorySize::Bcd => return Kind::Bcd,
        _ => {}
    }
    let name = format!("{:?}", instruction.mnemonic()).to_lowercase();
    let from_64 = ["cvtsd2", "cvtpd2", "cvttsd2", "cvttpd2"].iter().any(|start| name.starts_with(start));
    let from_32 = ["cvtss2", "cvtps2", "cvttss2", "cvttps2"].iter().any(|start| name.starts_with(start));
    if from_32 {
        Kind::F32
    } else if from_64 {
        Kind::F64
    } else if name.starts_with("pcmp") && name.contains("str") {
        Kind::Text
    } else if name.ends_with("ps") || name.ends_with("ss") {
        Kind::F32
    } else if name.ends_with("pd") || name.ends_with("sd") {
        Kind::F64
    } else {
        Kind::Integer
    }
}

fn fill_registers(case: &mut Case, instruction: &Instruction, kind: Kind, rng: &mut Rng) {
    let usual = match kind {
        Kind::F80 | Kind::Bcd => Kind::Integer,
        kind => kind,
    };
    for register in &mut case.fp.xmm {
        let kind = if rng.chance(85) { usual } else { rng.pick(&[Kind::Integer, Kind::F32, Kind::F64]) };
        *register = u128::from_le_bytes(values::block(rng, kind));
    }
    // Equal and related operands.
    if rng.chance(8) {
        case.fp.xmm[rng.index(16)] = case.fp.xmm[rng.index(16)];
    }
    if instruction.op_count() == 2 && rng.chance(8) {
        case.gpr[rng.index(16)] = case.gpr[rng.index(16)];
    }
}

/// x87 and SSE state: mostly defaults, often other rounding and precision, sometimes exceptions unmasked.
fn random_fp(rng: &mut Rng) -> Fp {
    let mut fp = Fp::default();
    let unmasked = |rng: &mut Rng| match rng.below(10) {
        0..=6 => 0,
        7 | 8 => 1 << rng.below(6),
        _ => u16::from(rng.byte() & 0x3f),
    };
    if rng.chance(60) {
        let rounding = u16::from(rng.byte() & 3) << 10;
        let precision = rng.pick(&[0x300, 0x300, 0x200, 0x000, 0x100]);
        fp.control = 0x40 | rounding | precision | 0x3f & !unmasked(rng);
    }
    if rng.chance(60) {
        let rounding = u32::from(rng.byte() & 3) << 13;
        let zero = if rng.chance(25) { u32::from(rng.byte() & 1) << 15 | u32::from(rng.byte() & 1) << 6 } else { 0 };
        let flags = if rng.chance(30) { u32::from(rng.byte() & 0x3f) } else { 0 };
        let masks = u32::from(0x3f & !unmasked(rng)) << 7;
        fp.mxcsr = rounding | zero | flags | masks;
    }
    let top = if rng.chance(50) { u16::from(rng.byte() & 7) << 11 } else { 0 };
    let conditions = u16::from(rng.byte()) << 7 & 0x4700;
    let flags = match rng.below(10) {
        0 | 1 => u16::from(rng.byte() & 0x7f),
        2 => 1 << rng.below(7),
        _ => 0,
    };
    fp.status = top | conditions | flags;
    let pending = fp.status & !fp.control & 0x3f != 0;
    if pending && rng.chance(80) {
        fp.control |= 0x3f;
    } else if pending {
        // ES and B: an exception waits for the next x87 instruction.
        fp.status |= 0x8080;
    }
    fp.tags = match rng.below(10) {
        0 => 0,
        1 => rng.byte(),
        2 => !(1 << rng.below(8)),
        _ => 0xff,
    };
    for register in &mut fp.regs {
        *register = values::f80(rng);
    }
    fp
}

fn segment_base(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => 0,
        1 => DATA,
        2 => rng.below(1 << 31),
        // High enough that no offset is beyond the canonical ones: AMD's processors look at it before the sum too.
        _ => 0xffff_8100_0000_0000 | rng.next() >> 18,
    }
}
