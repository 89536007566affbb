//! Every instruction that processors agree on, on random state, beside the host's own unit.

use super::native::{Harness, Registers};
use super::{OPERAND, Random, execute, guest, read_memory, write_memory};
use crate::core::Core;
use crate::flags;
use crate::state::Float80;

/// Status word bits that are always defined: exceptions, SF, ES, C1, TOP, B.
const ALWAYS: u16 = 0xbaff;
const C1: u16 = 1 << 9;
const C0: u16 = 1 << 8;
const C2: u16 = 1 << 10;
const C3: u16 = 1 << 14;
const ALL: u16 = ALWAYS | C0 | C2 | C3;

/// Instructions, by encoding, and the status bits they define.
fn cases() -> Vec<(Vec<u8>, u16)> {
    let mut cases = Vec::new();
    // Arithmetic and comparison with memory, then with registers.
    for escape in [0xd8u8, 0xdc, 0xda, 0xde] {
        for group in 0..8u8 {
            cases.push((vec![escape, group << 3 | 6], if matches!(group, 2 | 3) { ALL } else { ALWAYS }));
        }
    }
    for i in [0u8, 1, 2, 5] {
        for group in 0..8u8 {
            let compares = matches!(group, 2 | 3);
            cases.push((vec![0xd8, 0xc0 | group << 3 | i], if compares { ALL } else { ALWAYS }));
            if !compares {
                cases.push((vec![0xdc, 0xc0 | group << 3 | i], ALWAYS));
                cases.push((vec![0xde, 0xc0 | group << 3 | i], ALWAYS));
            }
        }
        for (escape, base) in
            [(0xd9, 0xc0), (0xd9, 0xc8), (0xd9, 0xd8), (0xdd, 0xd0), (0xdd, 0xd8), (0xdd, 0xc0), (0xdf, 0xc0)]
        {
            cases.push((vec![escape, base | i], ALWAYS));
        }
        for (escape, base) in [(0xdd, 0xe0), (0xdd, 0xe8)] {
            cases.push((vec![escape, base | i], ALL));
        }
        for (escape, base) in [(0xdb, 0xe8), (0xdb, 0xf0), (0xdf, 0xe8), (0xdf, 0xf0)] {
            // The manual clears C1; AMD's processors leave it.
            cases.push((vec![escape, base | i], ALWAYS & !C1));
        }
        for base in [0xc0, 0xc8, 0xd0, 0xd8] {
            cases.push((vec![0xda, base | i], ALWAYS));
            cases.push((vec![0xdb, base | i], ALWAYS));
        }
    }
    // Loads and stores: FLD, FST, FSTP, FILD, FISTTP, FIST, FISTP, FBLD, FBSTP.
    for (escape, groups) in [
        (0xd9u8, &[0u8, 2, 3][..]),
        (0xdd, &[0, 1, 2, 3]),
        (0xdb, &[0, 1, 2, 3, 5, 7]),
        (0xdf, &[0, 1, 2, 3, 4, 5, 6, 7]),
    ] {
        for &group in groups {
            cases.push((vec![escape, group << 3 | 6], ALWAYS));
        }
    }
    cases.push((vec![0xda, 0xe9], ALL));
    cases.push((vec![0xde, 0xd9], ALL));
    // FCHS, FABS, the constants, FSQRT, FRNDINT, FSCALE, FXTRACT, FINCSTP, FDECSTP.
    for modrm in [0xe0, 0xe1, 0xe8, 0xe9, 0xea, 0xeb, 0xec, 0xed, 0xee, 0xfa, 0xfc, 0xfd, 0xf4, 0xf6, 0xf7] {
        cases.push((vec![0xd9, modrm], ALWAYS));
    }
    // FTST, FXAM.
    cases.push((vec![0xd9, 0xe4], ALL));
    cases.push((vec![0xd9, 0xe5], ALL));
    // FLDCW, FNSTCW, FNSTSW, FNSTSW AX, FNCLEX, FNINIT.
    cases.push((vec![0xd9, 0x2e], ALL));
    cases.push((vec![0xd9, 0x3e], ALL));
    cases.push((vec![0xdd, 0x3e], ALL));
    cases.push((vec![0xdf, 0xe0], ALL));
    cases.push((vec![0xdb, 0xe2], ALWAYS));
    cases.push((vec![0xdb, 0xe3], ALL));
    cases
}

/// Random state without a pending exception.
fn state(random: &mut Random) -> Registers {
    let mut regs = [(); 8].map(|()| random.float());
    if random.below(3) == 0 {
        // Operands of like magnitude.
        let near = regs[0].sign_exponent & 0x7fff;
        for register in &mut regs[1..] {
            let exponent = (near + random.below(5) as u16).saturating_sub(2).min(0x7fff);
            register.sign_exponent = register.sign_exponent & 0x8000 | exponent;
        }
    }
    let masks = if random.below(3) == 0 { random.below(64) as u16 } else { 0x3f };
    let precision = [0u16, 1, 2, 3, 3, 3][random.below(6) as usize];
    let control = masks | 0x40 | precision << 8 | (random.below(4) as u16) << 10 | (random.below(2) as u16) << 12;
    // FLD needs free registers now and then, everything else full ones.
    let empty = match random.below(4) {
        0 => random.next() as u8,
        1 => 0xff >> random.below(8),
        _ => 1 << random.below(8),
    };
    let tag_word = (0..8).fold(0, |word, n| word | if empty >> n & 1 != 0 { 3 << (2 * n) } else { 0 });
    let status = random.next() as u16 & 0x7f00 | random.next() as u16 & masks;
    let mut memory = [0; 16];
    let value = random.float();
    match random.below(4) {
        0 => {
            memory[..8].copy_from_slice(&value.mantissa.to_le_bytes());
            memory[8..10].copy_from_slice(&value.sign_exponent.to_le_bytes());
        }
        1 => {
            // A double or single whose exponent is special or near one.
            let exponent = [0u64, 1, 0x3ff, 0x7fe, 0x7ff][random.below(5) as usize];
            let bits = random.next() & 1 << 63 | exponent << 52 | random.significand() >> 12;
            memory[..8].copy_from_slice(&bits.to_le_bytes());
        }
        2 => {
            let exponent = [0u32, 1, 0x7f, 0xfe, 0xff][random.below(5) as usize];
            let bits = random.next() as u32 & 1 << 31 | exponent << 23 | (random.significand() >> 41) as u32;
            memory[..4].copy_from_slice(&bits.to_le_bytes());
        }
        _ => {
            for byte in &mut memory {
                *byte = (random.below(10) | random.below(10) << 4) as u8;
            }
        }
    }
    let rflags = flags::RESERVED_ONE | random.next() & flags::ARITHMETIC;
    Registers { control, status, tag_word, regs, rflags, rax: random.next(), memory: memory.to_vec() }
}

/// What the emulated unit makes of `before`.
fn emulate(core: &mut Core, instruction: &[u8], before: &Registers) -> Registers {
    core.fpu = before.fpu();
    core.r[0] = before.rax;
    core.flags = flags::Flags::from_bits(before.rflags);
    write_memory(core, OPERAND, &before.memory);
    execute(core, instruction).expect("no fault");
    Registers {
        control: core.fpu.control,
        status: core.fpu.status,
        tag_word: core.fpu.tag_word(),
        regs: core.fpu.regs,
        rflags: core.flags.bits() & 0xcd5,
        rax: core.r[0],
        memory: read_memory(core, OPERAND, before.memory.len()),
    }
}

/// FLD ST(i) with an empty source and a full stack: overflow on Intel's processors, underflow on AMD's.
fn vendors_differ(instruction: &[u8], before: &Registers) -> bool {
    let empty = |i: u8| {
        let physical = (u16::from(i) + (before.status >> 11)) & 7;
        before.tag_word >> (2 * physical) & 3 == 3
    };
    instruction[0] == 0xd9 && instruction[1] & 0xf8 == 0xc0 && empty(instruction[1] & 7) && !empty(7)
}

/// Runs `rounds` states through an instruction; panics at the first difference.
fn compare(instruction: &[u8], defined: u16, rounds: u32, seed: u64) {
    let mut core = guest();
    let mut harness = Harness::new();
    let mut random = Random(seed);
    for round in 0..rounds {
        let before = state(&mut random);
        if vendors_differ(instruction, &before) {
            continue;
        }
        let mut ours = emulate(&mut core, instruction, &before);
        let mut theirs = harness.run(instruction, &before);
        ours.status &= defined;
        theirs.status &= defined;
        assert_eq!(ours, theirs, "{instruction:02x?}, round {round}, from {before:04x?}");
    }
}

/// Runs every instruction and names those that differ.
fn compare_all(cases: Vec<(Vec<u8>, u16)>, rounds: u32, seed: u64, compare: fn(&[u8], u16, u32, u64)) {
    let mut failures = Vec::new();
    for (index, (instruction, defined)) in cases.into_iter().enumerate() {
        let outcome = std::panic::catch_unwind(|| {
            compare(&instruction, defined, rounds, seed ^ index as u64);
        });
        if outcome.is_err() {
            failures.push(format!("{instruction:02x?}"));
        }
    }
    assert!(failures.is_empty(), "seed {seed:#x}: these differ: {failures:?}");
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

#[test]
fn agrees_with_host() {
    compare_all(cases(), 8000, SEED, compare);
}

/// FPREM and FPREM1 end at the same remainder, though they may take other steps there.
fn compare_remainder(instruction: &[u8], _defined: u16, rounds: u32, seed: u64) {
    let mut core = guest();
    let mut harness = Harness::new();
    let mut random = Random(seed);
    for round in 0..rounds {
        let before = state(&mut random);
        let mut ours = emulate(&mut core, instruction, &before);
        let mut theirs = harness.run(instruction, &before);
        if ours.status & theirs.status & C2 != 0 {
            for registers in [&mut ours, &mut theirs] {
                // Most come to an end in some hundred steps. Exceptions of the last one are not those of the first.
                registers.status &= !0x80ff;
                registers.control |= 0x3f;
            }
            while ours.status & C2 != 0 {
                ours = emulate(&mut core, instruction, &ours);
            }
            while theirs.status & C2 != 0 {
                theirs = harness.run(instruction, &theirs);
            }
        }
        assert_eq!(ours, theirs, "{instruction:02x?}, round {round}, from {before:04x?}");
    }
}

#[test]
fn remainders_agree_with_host() {
    compare_all(vec![(vec![0xd9, 0xf8], ALL), (vec![0xd9, 0xf5], ALL)], 8000, SEED, compare_remainder);
}

/// FNSTENV, FNSAVE, FLDENV and FRSTOR; pointers are not compared, they are the host code's own.
fn compare_image(instruction: &[u8], _defined: u16, rounds: u32, seed: u64) {
    let mut core = guest();
    let mut harness = Harness::new();
    let mut random = Random(seed);
    let short = instruction[0] == 0x66;
    let (pointers, image) = if short { (6..14, 94) } else { (12..28, 108) };
    for round in 0..rounds {
        let mut before = state(&mut random);
        before.memory = (0..image).map(|_| random.next() as u8).collect();
        let mut ours = emulate(&mut core, instruction, &before);
        let mut theirs = harness.run(instruction, &before);
        for registers in [&mut ours, &mut theirs] {
            registers.memory[pointers.clone()].fill(0);
        }
        assert_eq!(ours, theirs, "{instruction:02x?}, round {round}, from {before:04x?}");
    }
}

#[test]
fn images_agree_with_host() {
    let mut cases = Vec::new();
    for code in [[0xd9, 0x36], [0xdd, 0x36], [0xd9, 0x26], [0xdd, 0x26]] {
        cases.push((code.to_vec(), ALL));
        cases.push((vec![0x66, code[0], code[1]], ALL));
    }
    compare_all(cases, 1000, SEED, compare_image);
}

/// FXSAVE and FXRSTOR on x87 state. AMD's processors store pointers only with an exception, and have one more MXCSR
/// bit, so these bytes are left out.
fn compare_fxsave(instruction: &[u8], _defined: u16, rounds: u32, seed: u64) {
    let mut core = guest();
    let mut harness = Harness::new();
    let mut random = Random(seed);
    for round in 0..rounds {
        let mut before = state(&mut random);
        before.memory = (0..512).map(|_| random.next() as u8).collect();
        before.memory[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        let mut ours = emulate(&mut core, instruction, &before);
        let mut theirs = harness.run(instruction, &before);
        for registers in [&mut ours, &mut theirs] {
            registers.memory[6..32].fill(0);
            registers.memory[160..416].fill(0);
        }
        assert_eq!(ours, theirs, "{instruction:02x?}, round {round}, from {before:04x?}");
    }
}

#[test]
fn fxsave_agrees_with_host() {
    let cases = [vec![0x0f, 0xae, 0x06], vec![0x48, 0x0f, 0xae, 0x06], vec![0x0f, 0xae, 0x0e]];
    compare_all(cases.map(|code| (code, ALL)).to_vec(), 1000, SEED, compare_fxsave);
}

/// Arguments for which the manual leaves the result open, and powers of two for FYL2X, whose exact results the host
/// calls inexact.
fn is_undefined(instruction: &[u8], before: &Registers) -> bool {
    let argument = before.regs[usize::from(before.status >> 11 & 7)];
    let exponent = argument.sign_exponent & 0x7fff;
    match instruction[1] {
        0xf0 => exponent >= 0x3fff,
        0xf1 => argument.mantissa.is_power_of_two(),
        0xf9 => exponent >= 0x3ffd,
        _ => false,
    }
}

/// Numbers of one sign in the order of their magnitudes, one apart from their neighbours.
fn ordinal(value: &Float80) -> u128 {
    u128::from(value.sign_exponent) << 63 | u128::from(value.mantissa & !(1 << 63))
}

/// Transcendentals: within two units of the last place of the host's, exceptions and condition codes alike but for C1 and
/// #P.
fn compare_near(instruction: &[u8], _defined: u16, rounds: u32, seed: u64) {
    let mut core = guest();
    let mut harness = Harness::new();
    let mut random = Random(seed);
    for round in 0..rounds {
        let mut before = state(&mut random);
        before.control |= 0x20;
        if is_undefined(instruction, &before) {
            continue;
        }
        let mut ours = emulate(&mut core, instruction, &before);
        let mut theirs = harness.run(instruction, &before);
        for (our, their) in ours.regs.iter_mut().zip(&mut theirs.regs) {
            if ordinal(our).abs_diff(ordinal(their)) <= 2 {
                *our = *their;
            }
        }
        ours.status &= !(C1 | 0x20);
        theirs.status &= !(C1 | 0x20);
        assert_eq!(ours, theirs, "{instruction:02x?}, round {round}, from {before:04x?}");
    }
}

#[test]
fn transcendentals_near_host() {
    let cases = [0xf0, 0xf1, 0xf2, 0xf3, 0xf9, 0xfb, 0xfe, 0xff].map(|modrm| (vec![0xd9, modrm], ALL));
    compare_all(cases.to_vec(), 4000, SEED, compare_near);
}
