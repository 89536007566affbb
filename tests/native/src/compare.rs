//! Compares two outcomes.

use std::fmt::Write as _;

use iced_x86::{Instruction, Mnemonic};

use crate::case::{Case, Event, Outcome};
use crate::generate::Generated;
use crate::layout::{DATA, DATA_BYTES};
use crate::undefined::{self, Ignored};
use crate::vendor;

/// Names of the general registers.
pub const GPR_NAMES: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// RFLAGS that are compared: the arithmetic ones, TF, DF, NT, AC, ID.
const COMPARED_FLAGS: u64 = 0x8d5 | 1 << 8 | 1 << 10 | 1 << 14 | 1 << 18 | 1 << 21;
/// Where the addresses of programs end on Linux: a page below the canonical half.
const TASK_SIZE: u64 = 0x7fff_ffff_f000;
/// Vector of a page fault.
const PF: u8 = 14;

/// Differences, one a line; empty when there are none. The host's value comes first.
#[must_use]
pub fn compare(generated: &Generated, native: &Outcome, guest: &Outcome) -> String {
    let (case, instruction) = (&generated.case, &generated.instruction);
    let mut text = String::new();
    let alone = generated.rest.is_empty();
    if alone && vendor::differ_freely(case, instruction, native, guest) {
        return text;
    }
    let (expected, got) = (native.event, guest.event);
    if !same_event(expected, got) {
        let _ = writeln!(text, "  event   {got:?}\n    not   {expected:?}");
    }
    let ignored = if alone {
        ignored(case, instruction, native, guest)
    } else {
        Ignored { rflags: generated.undefined_flags, ..Ignored::default() }
    };
    general(&mut text, native, guest, &ignored);
    floating_point(&mut text, native, guest, &ignored);
    memory(&mut text, native, guest, &ignored);
    text
}

fn ignored(case: &Case, instruction: &Instruction, native: &Outcome, guest: &Outcome) -> Ignored {
    let mut ignored = Ignored { rip: instruction.mnemonic() == Mnemonic::Int1, ..Ignored::default() };
    // A fault after the instruction, when the next one is fetched, says that it retired.
    if native.event != Event::Retired && native.rip == case.rip {
        vendor::ignore_after_fault(instruction, native, &mut ignored);
        return ignored;
    }
    ignored.rflags = undefined::flags(case, instruction);
    vendor::ignore(case, instruction, [native, guest], &mut ignored);
    ignored
}

fn same_event(native: Event, guest: Event) -> bool {
    let (
        Event::Exception { vector: a, code: code_a, address: address_a },
        Event::Exception { vector: b, code: code_b, address: address_b },
    ) = (native, guest)
    else {
        return native == guest;
    };
    // Linux says "present" of every address that no program can have.
    let hidden = u64::from(a == PF && address_a >= TASK_SIZE);
    a == b && code_a | hidden == code_b | hidden && address_a == address_b
}

fn line(text: &mut String, name: &str, native: u64, guest: u64) {
    if native != guest {
        let _ = writeln!(text, "  {name:7} {guest:#018x}, not {native:#018x}");
    }
}

fn general(text: &mut String, native: &Outcome, guest: &Outcome, ignored: &Ignored) {
    if !ignored.rip {
        line(text, "rip", native.rip, guest.rip);
    }
    let mask = COMPARED_FLAGS & !ignored.rflags;
    line(text, "rflags", native.rflags & mask, guest.rflags & mask);
    for (index, name) in GPR_NAMES.into_iter().enumerate() {
        if ignored.gpr >> index & 1 == 0 {
            line(text, name, native.gpr[index], guest.gpr[index]);
        }
    }
    for (index, name) in ["es", "cs", "ss", "ds", "fs", "gs"].into_iter().enumerate() {
        // The kernel's return into the signal handler clears the privilege level of null selectors.
        let value = |selector: u16| if selector < 4 { 0 } else { u64::from(selector) };
        line(text, name, value(native.selectors[index]), value(guest.selectors[index]));
    }
    line(text, "fs_base", native.fs_base, guest.fs_base);
    line(text, "gs_base", native.gs_base, guest.gs_base);
}

fn floating_point(text: &mut String, native: &Outcome, guest: &Outcome, ignored: &Ignored) {
    let (a, b) = (&native.fp, &guest.fp);
    line(text, "mxcsr", u64::from(a.mxcsr), u64::from(b.mxcsr));
    line(text, "fcw", u64::from(a.control), u64::from(b.control));
    let status = |value: u16| u64::from(value & !ignored.status);
    line(text, "fsw", status(a.status), status(b.status));
    if !ignored.tags {
        line(text, "ftw", u64::from(a.tags), u64::from(b.tags));
    }
    for index in 0..8 {
        if distance(a.regs[index], b.regs[index]) > i128::from(ignored.x87_units) {
            let show = |(mantissa, exponent): (u64, u16)| format!("{exponent:04x}:{mantissa:016x}");
            let stack = (index + 8 - a.top()) & 7;
            let _ = writeln!(text, "  r{index} (st{stack}) {}, not {}", show(b.regs[index]), show(a.regs[index]));
        }
    }
    for index in 0..16 {
        let approximate = ignored.xmm >> index & 1 != 0 && are_near(a.xmm[index], b.xmm[index]);
        if a.xmm[index] != b.xmm[index] && !approximate {
            let _ = writeln!(text, "  xmm{index:<4} {:032x}, not\n          {:032x}", b.xmm[index], a.xmm[index]);
        }
    }
}

/// How many values lie between two x87 registers; very many for two of different kinds.
fn distance(a: (u64, u16), b: (u64, u16)) -> i128 {
    let special = |(_, exponent): (u64, u16)| exponent & 0x7fff == 0x7fff;
    if a == b {
        return 0;
    }
    if special(a) || special(b) {
        return i128::MAX;
    }
    let place = |(mantissa, exponent): (u64, u16)| {
        let magnitude = i128::from(exponent & 0x7fff) << 63 | i128::from(mantissa & (u64::MAX >> 1));
        if exponent >> 15 == 0 { magnitude } else { -magnitude }
    };
    (place(a) - place(b)).abs().max(1)
}

/// True when the four single-precision numbers differ by at most twice what RCPPS and RSQRTPS may be wrong by.
fn are_near(a: u128, b: u128) -> bool {
    // 2 * 1.5 * 2^-12 of a number are at most so many units in its last place.
    const UNITS: u32 = 1 << 13;
    a.to_le_bytes().chunks_exact(4).zip(b.to_le_bytes().chunks_exact(4)).all(|(a, b)| {
        let number = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let (a, b) = (number(a), number(b));
        let magnitudes = [a & 0x7fff_ffff, b & 0x7fff_ffff];
        // The smallest normal numbers may become zero.
        let tiny = magnitudes.iter().all(|magnitude| *magnitude <= 0x0080_1000);
        let near = a.abs_diff(b) <= UNITS && magnitudes.iter().all(|magnitude| *magnitude < 0x7f80_0000);
        a == b || a >> 31 == b >> 31 && (near || tiny)
    })
}

fn memory(text: &mut String, native: &Outcome, guest: &Outcome, ignored: &Ignored) {
    if native.data == guest.data {
        return;
    }
    let is_ignored = |offset: usize| {
        let address = DATA + offset as u64;
        ignored.memory.iter().any(|&(start, size)| address.wrapping_sub(start) < size as u64)
    };
    let different: Vec<usize> =
        (0..DATA_BYTES).filter(|&at| native.data[at] != guest.data[at] && !is_ignored(at)).collect();
    let Some(&first) = different.first() else { return };
    let start = first & !7;
    let end = (start + 24).min(DATA_BYTES);
    let address = DATA + start as u64;
    let _ = writeln!(text, "  {} bytes of memory, first at {address:#x}:", different.len());
    let _ = writeln!(text, "    {:02x?}, not", &guest.data[start..end]);
    let _ = writeln!(text, "    {:02x?}", &native.data[start..end]);
}
