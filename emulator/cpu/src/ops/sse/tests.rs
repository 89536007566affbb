//! Every form with vector or MMX operands against the host's own processor, on random operands.
//!
//! Opcode bytes are enumerated, so no list of instructions can be incomplete: what decodes to a form of these
//! extensions must have a handler, and must do what the host does (where the host has the extension).

use std::collections::BTreeSet;

use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use vm_memory::MmapRegion;

use super::vector::{join, split};
use crate::bus::{Bus, BusContext, CpuSignal, Refused};
use crate::core::Core;
use crate::memory::GuestRam;
use crate::mmu::{CodeMode, cr0, cr4, efer};
use crate::op::{Op, Stop};
use crate::state::{CS, SEG_L};
use crate::{flags, vector};

/// A computer of memory only.
struct NoBus;

impl Bus for NoBus {
    fn mmio_read(&mut self, _: BusContext, _: u64, _: usize) -> u64 {
        u64::MAX
    }
    fn mmio_write(&mut self, _: BusContext, _: u64, _: usize, _: u64) {}
    fn port_read(&mut self, _: BusContext, _: u16, _: usize) -> u32 {
        u32::MAX
    }
    fn port_write(&mut self, _: BusContext, _: u16, _: usize, _: u32) {}
    fn msr_read(&mut self, _: BusContext, _: u32) -> Result<u64, Refused> {
        Err(Refused)
    }
    fn msr_write(&mut self, _: BusContext, _: u32, _: u64) -> Result<(), Refused> {
        Err(Refused)
    }
    fn cr8_read(&mut self, _: BusContext) -> u64 {
        0
    }
    fn cr8_write(&mut self, _: BusContext, _: u64) {}
    fn tsc(&self, count: u64) -> u64 {
        count
    }
    fn interrupt(&self, _: usize) -> bool {
        false
    }
    fn acknowledge(&mut self, _: BusContext) -> Option<u8> {
        None
    }
    fn signal(&self, _: usize) -> bool {
        false
    }
    fn take_signal(&mut self, _: usize) -> Option<CpuSignal> {
        None
    }
    fn deadline(&self) -> u64 {
        u64::MAX
    }
    fn advance(&mut self, _: u64) {}
    fn attention(&self) -> bool {
        false
    }
    fn random(&mut self) -> u64 {
        0
    }
}

/// Guest address of the memory operand.
const BUFFER: u64 = 0x2000;
const RDI: usize = 7;

/// A vCPU in 64-bit mode without paging, with SSE on.
pub(super) fn core() -> Core {
    let ram = GuestRam::new(1 << 20).expect("one MiB can be had");
    let mut core = Core::new(ram, 1, Box::new(NoBus));
    core.sys.cr0 = cr0::PE | cr0::MP | cr0::NE;
    core.sys.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT;
    core.sys.efer = efer::LMA | efer::LME;
    core.sys.segs[CS].flags |= SEG_L;
    core.update_mode();
    core
}

/// Executes one instruction.
pub(super) fn step(core: &mut Core, bytes: &[u8]) -> Result<(), Stop> {
    let mut decoder = Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE);
    let op: Op = super::super::translate(&decoder.decode(), bytes, 0, CodeMode::Bits64);
    (op.run)(core, &op)
}

/// xorshift64*: the same numbers in every run.
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// 64 bits that are often the limits of some lane or float format.
    pub fn word(&mut self) -> u64 {
        const SINGLES: [u32; 20] = [
            0,
            1,
            0x7f_ffff,
            0x80_0000,
            0x80_0001,
            0x3f80_0000,
            0x3f80_0001,
            0x3fc0_0000,
            0x7f7f_ffff,
            0x7f80_0000,
            0x7f80_0001,
            0x7fc0_0000,
            0x7fff_ffff,
            0x4eff_ffff,
            0x4f00_0000,
            0x5f00_0000,
            0x3400_0000,
            0x7fa1_2345,
            0x40_0000,
            0x4b7f_ffff,
        ];
        const DOUBLES: [u64; 18] = [
            0,
            1,
            0xf_ffff_ffff_ffff,
            0x10_0000_0000_0000,
            0x3ff0_0000_0000_0000,
            0x3ff0_0000_0000_0001,
            0x7fef_ffff_ffff_ffff,
            0x7ff0_0000_0000_0000,
            0x7ff0_0000_0000_0001,
            0x7ff8_0000_0000_0000,
            0x43e0_0000_0000_0000,
            0x43df_ffff_ffff_ffff,
            0x41df_ffff_ffc0_0000,
            0x47ef_ffff_f000_0000,
            0x36a0_0000_0000_0000,
            0x3800_0000_0000_0000,
            0x3fe0_0000_0000_0000,
            0x47ef_ffff_e000_0000,
        ];
        let single = |random: &mut Self| {
            let index = random.below(SINGLES.len() as u64) as usize;
            SINGLES[index] ^ (random.next() as u32) << 31
        };
        match self.below(8) {
            0 | 1 => self.next(),
            2 | 3 => u64::from(single(self)) << 32 | u64::from(single(self)),
            4 => DOUBLES[self.below(DOUBLES.len() as u64) as usize] ^ self.next() << 63,
            5 => self.next() & self.next() & self.next(),
            // Floats of moderate size, so that sums and products are ordinary.
            6 => {
                let mut exponent = || self.next() & 0x87ff_ffff | (0x3c00_0000 + ((self.next() & 7) << 24));
                exponent() << 32 | exponent() & 0xffff_ffff
            }
            _ => self.next() & 0x800f_ffff_ffff_ffff | (0x3f0 + self.below(32)) << 52,
        }
    }
}

/// What an instruction can see and change, in FXSAVE form.
#[derive(Clone)]
#[repr(C, align(64))]
struct Native {
    image: [u8; 512],
    buffer: [u64; 8],
    /// RAX, RCX, RDX, RSI.
    general: [u64; 4],
    flags: u64,
    code: u64,
}

impl Native {
    fn xmm(&self, index: usize) -> [u64; 2] {
        let at = |offset| self.word(160 + 16 * index + offset);
        [at(0), at(8)]
    }

    fn word(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.image[offset..offset + 8].try_into().expect("eight bytes"))
    }

    fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.image[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

/// A page in which the host executes.
struct Page(MmapRegion<()>);

impl Page {
    fn new() -> Self {
        const READ_WRITE_EXECUTE: i32 = 7;
        const PRIVATE_ANONYMOUS: i32 = 0x22;
        let region = MmapRegion::<()>::build(None, 4096, READ_WRITE_EXECUTE, PRIVATE_ANONYMOUS);
        Self(region.expect("one page can be had"))
    }

    /// Executes one instruction on `state`; RDI is the address of its buffer.
    fn run(&self, bytes: &[u8], state: &mut Native) {
        let code = [bytes, &[0xc3]].concat();
        // SAFETY: the page is ours and longer than an instruction.
        unsafe { self.0.as_ptr().copy_from_nonoverlapping(code.as_ptr(), code.len()) };
        state.code = self.0.as_ptr() as u64;
        // SAFETY: the instruction changes only what is in `state` or named here; it faults on nothing, for all
        // exceptions are masked and the buffer is aligned.
        unsafe {
            core::arch::asm!(
                "push rbx",
                "push rbp",
                "mov rbx, rdi",
                "fxrstor64 [rbx]",
                "push qword ptr [rbx + 608]",
                "popfq",
                "mov rax, [rbx + 576]",
                "mov rcx, [rbx + 584]",
                "mov rdx, [rbx + 592]",
                "mov rsi, [rbx + 600]",
                "lea rdi, [rbx + 512]",
                "call [rbx + 616]",
                "mov [rbx + 576], rax",
                "mov [rbx + 584], rcx",
                "mov [rbx + 592], rdx",
                "mov [rbx + 600], rsi",
                "pushfq",
                "pop qword ptr [rbx + 608]",
                "fxsave64 [rbx]",
                "fninit",
                "ldmxcsr [r12]",
                "pop rbp",
                "pop rbx",
                in("r12") &super::float::HOST_MXCSR,
                inout("rdi") std::ptr::from_mut(state) => _,
                clobber_abi("C"),
            );
        }
    }
}

const EXTENSIONS: [CpuidFeature; 11] = [
    CpuidFeature::MMX,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::SSE3,
    CpuidFeature::SSSE3,
    CpuidFeature::SSE4_1,
    CpuidFeature::SSE4_2,
    CpuidFeature::AES,
    CpuidFeature::PCLMULQDQ,
    CpuidFeature::SHA,
    CpuidFeature::PREFETCHW,
];

/// True for forms of this family.
fn ours(ins: &Instruction) -> bool {
    let legacy = !format!("{:?}", ins.code()).starts_with("VEX");
    legacy
        && ins.cpuid_features().iter().any(|feature| EXTENSIONS.contains(feature))
        && ins.mnemonic() != Mnemonic::Fisttp
}

/// True when the host can execute the form and must give the same result.
fn comparable(ins: &Instruction) -> bool {
    let has = |feature: &CpuidFeature| match feature {
        CpuidFeature::AES => is_x86_feature_detected!("aes"),
        CpuidFeature::PCLMULQDQ => is_x86_feature_detected!("pclmulqdq"),
        CpuidFeature::SHA => is_x86_feature_detected!("sha"),
        _ => true,
    };
    // The estimates are our own; LDMXCSR of random bits faults.
    let own = matches!(
        ins.mnemonic(),
        Mnemonic::Rcpps | Mnemonic::Rcpss | Mnemonic::Rsqrtps | Mnemonic::Rsqrtss | Mnemonic::Ldmxcsr
    );
    ins.cpuid_features().iter().all(has) && !own
}

/// True when all general registers are among those that [`Page::run`] loads, and memory is its buffer.
fn harmless(ins: &Instruction) -> bool {
    let general = [Register::RAX, Register::RCX, Register::RDX, Register::RSI];
    (0..ins.op_count()).all(|index| match ins.op_kind(index) {
        OpKind::Register if ins.op_register(index).is_gpr() => {
            general.contains(&ins.op_register(index).full_register()) && !ins.op_register(index).is_gpr8()
                || matches!(ins.op_register(index), Register::AL | Register::CL | Register::DL)
        }
        OpKind::Memory => ins.memory_base() == Register::RDI && ins.memory_index() == Register::None,
        _ => true,
    })
}

/// Bytes of every form: mandatory prefix, REX, opcode map and opcode, ModRM and immediate.
fn encodings(random: &mut Random, mut each: impl FnMut(&[u8], &Instruction, &mut Random)) {
    let prefixes: [&[u8]; 5] = [&[], &[0x66], &[0xf3], &[0xf2], &[0x66, 0xf2]];
    let maps: [&[u8]; 3] = [&[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];
    for (prefix, map) in prefixes.iter().flat_map(|prefix| maps.iter().map(move |map| (*prefix, *map))) {
        for opcode in 0..=u8::MAX {
            for round in 0..64 {
                let rex = 0x40 | [0, 8, 5, 13][round / 4 % 4] & if round % 2 == 0 { 0xff } else { 8 };
                let reg = if round / 16 % 2 == 0 { random.below(8) } else { [0, 1, 2, 6][random.below(4) as usize] };
                let (rex, modrm) = match round % 4 {
                    // Memory at RDI.
                    0 => (rex & 0x4c, 0x07 | (reg as u8) << 3),
                    1 => (rex, 0xc0 | (reg as u8) << 3 | [0, 1, 2, 6][random.below(4) as usize]),
                    _ => (rex, 0xc0 | (reg as u8) << 3 | random.below(8) as u8),
                };
                let rex: &[u8] = if rex == 0x40 { &[] } else { &[rex] };
                let tail = [modrm, random.next() as u8, 0, 0, 0, 0];
                let bytes = [prefix, rex, map, &[opcode], &tail].concat();
                let ins = Decoder::with_ip(64, &bytes, 0, DecoderOptions::NONE).decode();
                if ins.code() != Code::INVALID && ours(&ins) {
                    each(&bytes[..ins.len()], &ins, random);
                }
            }
        }
    }
}

/// Random state, all floating-point exceptions masked, no x87 exception pending.
fn random_state(random: &mut Random) -> Native {
    let mut state = Native { image: [0; 512], buffer: [0; 8], general: [0; 4], flags: 2, code: 0 };
    state.set(0, &0x37f_u16.to_le_bytes());
    state.set(2, &((random.below(8) << 11) as u16).to_le_bytes());
    state.set(4, &[random.next() as u8]);
    // Often as programs have it: nothing changed, inexact set.
    let control = match random.below(4) {
        0 => 0,
        1 | 2 => 0x20,
        _ => random.next() as u32 & 0xe07f,
    };
    state.set(24, &(0x1f80 | control).to_le_bytes());
    for register in 0..8 {
        state.set(32 + 16 * register, &random.word().to_le_bytes());
        state.set(40 + 16 * register, &(random.next() as u16).to_le_bytes());
    }
    for half in 0..32 {
        state.set(160 + 8 * half, &random.word().to_le_bytes());
    }
    state.buffer.fill_with(|| random.word());
    state.general.fill_with(|| if random.below(4) == 0 { random.below(20) } else { random.word() });
    state.flags |= random.next() & flags::ARITHMETIC;
    state
}

fn load(core: &mut Core, state: &Native) {
    for index in 0..16 {
        let [low, high] = state.xmm(index);
        core.vector.regs[index] = [low, high, 0x1111, 0x2222];
    }
    let control = state.word(0);
    core.fpu.control = control as u16;
    core.fpu.status = (control >> 16) as u16;
    core.fpu.tags = (control >> 32) as u8;
    core.vector.mxcsr = state.word(24) as u32;
    let top = usize::from(core.fpu.status >> 11 & 7);
    for index in 0..8 {
        let register = &mut core.fpu.regs[(top + index) & 7];
        register.mantissa = state.word(32 + 16 * index);
        register.sign_exponent = state.word(40 + 16 * index) as u16;
    }
    for (index, slot) in [0, 1, 2, 6].into_iter().enumerate() {
        core.r[slot] = state.general[index];
    }
    core.r[RDI] = BUFFER;
    core.flags.set_arithmetic(state.flags);
    for (index, word) in (0_u64..).zip(state.buffer) {
        core.write::<u64>(BUFFER + 8 * index, 6, word).expect("mapped");
    }
}

/// Every difference between the guest and the host, in words.
fn differences(core: &mut Core, state: &Native) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |name: String, guest: u64, host: u64| {
        if guest != host {
            found.push(format!("{name}: guest {guest:016x}, host {host:016x}"));
        }
    };
    for index in 0..16 {
        for half in 0..2 {
            compare(format!("xmm{index}[{half}]"), core.vector.regs[index][half], state.xmm(index)[half]);
        }
        compare(
            format!("ymm{index} upper"),
            core.vector.regs[index][2] << 16 | core.vector.regs[index][3],
            0x1111_2222,
        );
    }
    let control = state.word(0);
    compare("x87 status".into(), core.fpu.status.into(), control >> 16 & 0xffff);
    compare("tags".into(), core.fpu.tags.into(), control >> 32 & 0xff);
    compare("mxcsr".into(), core.vector.mxcsr.into(), state.word(24) & 0xffff_ffff);
    let top = usize::from(core.fpu.status >> 11 & 7);
    for index in 0..8 {
        let register = core.fpu.regs[(top + index) & 7];
        compare(format!("st{index}"), register.mantissa, state.word(32 + 16 * index));
        compare(format!("st{index} exponent"), register.sign_exponent.into(), state.word(40 + 16 * index) & 0xffff);
    }
    for (index, slot) in [0, 1, 2, 6].into_iter().enumerate() {
        compare(format!("r{slot}"), core.r[slot], state.general[index]);
    }
    compare("flags".into(), core.flags.arithmetic(), state.flags & flags::ARITHMETIC);
    for (index, word) in (0_u64..).zip(state.buffer) {
        let guest = core.read::<u64>(BUFFER + 8 * index, 6).expect("mapped");
        compare(format!("memory[{index}]"), guest, word);
    }
    found
}

#[test]
fn every_form_does_what_the_host_does() {
    let page = Page::new();
    let mut core = core();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut forms, mut cases) = (BTreeSet::new(), 0_u64);
    let mut failures = Vec::new();
    let mut failed = BTreeSet::new();
    for _ in 0..3 {
        encodings(&mut random, |bytes, ins, random| {
            let name = format!("{:?}", ins.code());
            if !comparable(ins) || !harmless(ins) {
                return;
            }
            for _ in 0..8 {
                let mut state = random_state(random);
                load(&mut core, &state);
                let before = format!("{:x?} flags {:x} mxcsr {:x}", state.general, state.flags, state.word(24) as u32);
                let done = step(&mut core, bytes);
                assert!(done.is_ok(), "{name} {bytes:02x?}: {done:?} {:?}", core.fault);
                page.run(bytes, &mut state);
                let found = differences(&mut core, &state);
                if !found.is_empty() && failed.insert(name.clone()) {
                    failures.push(format!("{name} {bytes:02x?} {before}\n    {}", found.join("\n    ")));
                }
                cases += 1;
            }
            forms.insert(name);
        });
    }
    assert!(failures.is_empty(), "{} forms differ:\n{}", failures.len(), failures.join("\n"));
    assert!(forms.len() > 400, "only {} forms in {cases} cases", forms.len());
}

#[test]
fn every_form_has_a_handler() {
    let mut missing = BTreeSet::new();
    let mut random = Random(1);
    encodings(&mut random, |bytes, ins, _| {
        let mut core = core();
        core.r[RDI] = BUFFER;
        let op = super::super::translate(ins, bytes, 0, CodeMode::Bits64);
        let _ = (op.run)(&mut core, &op);
        if !core.statistics.undefined.is_empty() {
            missing.insert(format!("{:?}", ins.code()));
        }
    });
    assert!(missing.is_empty(), "no handler: {missing:?}");
}

#[test]
fn denied_when_the_system_does_not_allow_it() {
    let paddb_xmm = [0x66, 0x0f, 0xfc, 0xc1];
    let paddb_mmx = [0x0f, 0xfc, 0xc1];
    let with = |change: fn(&mut Core), bytes: &[u8]| {
        let mut core = core();
        change(&mut core);
        step(&mut core, bytes).map_err(|_| core.fault.vector)
    };
    assert_eq!(with(|core| core.sys.cr0 |= cr0::TS, &paddb_xmm), Err(vector::NM));
    assert_eq!(with(|core| core.sys.cr0 |= cr0::TS | cr0::EM, &paddb_xmm), Err(vector::UD));
    assert_eq!(with(|core| core.sys.cr4 &= !cr4::OSFXSR, &paddb_xmm), Err(vector::UD));
    assert_eq!(with(|core| core.fpu.status |= 0x80, &paddb_xmm), Ok(()));
    assert_eq!(with(|core| core.sys.cr4 &= !cr4::OSFXSR, &paddb_mmx), Ok(()));
    assert_eq!(with(|core| core.sys.cr0 |= cr0::TS, &paddb_mmx), Err(vector::NM));
    assert_eq!(with(|core| core.sys.cr0 |= cr0::EM, &paddb_mmx), Err(vector::UD));
    assert_eq!(with(|core| core.fpu.status |= 0x80, &paddb_mmx), Err(vector::MF));
    // CRC32 works on general registers.
    assert_eq!(with(|core| core.sys.cr0 |= cr0::TS, &[0xf2, 0x0f, 0x38, 0xf1, 0xc1]), Ok(()));
}

#[test]
fn unaligned_operands() {
    let mut core = core();
    core.r[RDI] = BUFFER + 8;
    // PADDB xmm0, [rdi]; MOVAPS [rdi], xmm0; MOVNTDQA xmm0, [rdi]
    for bytes in [&[0x66, 0x0f, 0xfc, 0x07][..], &[0x0f, 0x29, 0x07], &[0x66, 0x0f, 0x38, 0x2a, 0x07]] {
        assert_eq!(step(&mut core, bytes), Err(Stop::Fault), "{bytes:02x?}");
        assert_eq!((core.fault.vector, core.fault.code), (vector::GP, Some(0)), "{bytes:02x?}");
    }
    core.set_xmm(1, join(0x1234_5678_9abc_def0_1122_3344_5566_7788_u128));
    // MOVUPS [rdi], xmm1; MOVDQU xmm2, [rdi]; PCMPISTRI xmm2, [rdi], 0; LDDQU xmm3, [rdi], across a page.
    core.r[RDI] = BUFFER + 0xff9;
    for bytes in [&[0x0f, 0x11, 0x0f][..], &[0xf3, 0x0f, 0x6f, 0x17], &[0x66, 0x0f, 0x3a, 0x63, 0x17, 0]] {
        assert_eq!(step(&mut core, bytes), Ok(()), "{bytes:02x?}");
    }
    assert_eq!(split::<u128>(core.xmm(2)), 0x1234_5678_9abc_def0_1122_3344_5566_7788);
}

#[test]
fn mxcsr_has_no_reserved_bits() {
    let mut core = core();
    core.r[RDI] = BUFFER;
    core.write::<u32>(BUFFER, 6, 0x2_1f80).expect("mapped");
    assert_eq!(step(&mut core, &[0x0f, 0xae, 0x17]), Err(Stop::Fault));
    assert_eq!((core.fault.vector, core.fault.code), (vector::GP, Some(0)));
    assert_eq!(core.vector.mxcsr, 0x1f80);
    core.write::<u32>(BUFFER, 6, 0xffff).expect("mapped");
    assert_eq!(step(&mut core, &[0x0f, 0xae, 0x17]), Ok(()));
    assert_eq!(core.vector.mxcsr, 0xffff);
}
