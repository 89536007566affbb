//! What is said about a triple fault.

use std::fmt::{self, Display, Formatter};

use iced_x86::{Decoder, DecoderOptions, FastFormatter};
use virtft_cpu::Core;
use virtft_cpu::memory::GuestRam;
use virtft_cpu::state::{CS, CpuState, SEG_DB, SEG_L, SS};

use super::Machine;
use crate::bits::{low8, to_usize};

/// Bytes decoded from one address on: the longest that the instructions shown can be.
const CODE_BYTES: u64 = 15 * HISTORY as u64;
/// Instructions shown.
const INSTRUCTIONS: usize = 8;
/// Instructions shown of those executed last.
const HISTORY: usize = 16;
/// Words of the stack shown.
const STACK_WORDS: u64 = 8;

const REGISTERS: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

const EFER_LONG_ACTIVE: u64 = 1 << 10;

/// A vCPU that met a fault while a double fault was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TripleFaultReport {
    /// Which vCPU.
    pub cpu: usize,
    /// Steps executed by all vCPUs.
    pub count: u64,
    /// Its registers.
    pub state: Box<CpuState>,
    /// The instructions that it executed last, as text; decoded afterwards, in its last mode.
    pub history: Vec<String>,
    /// The instructions at its instruction pointer, as text.
    pub code: Vec<String>,
    /// Words at its stack pointer; `None` where nothing is mapped.
    pub stack: Vec<Option<u64>>,
}

impl TripleFaultReport {
    pub(super) fn new(core: &Core, cpu: usize) -> Self {
        let state = core.cpu(cpu);
        let ram = core.ram();
        let code = disassemble(&state, ram, state.rip, INSTRUCTIONS);
        let runs = core.recent_runs();
        let own = runs.iter().filter(|run| run.cpu == cpu && run.steps > 0);
        let mut history: Vec<String> =
            own.flat_map(|run| disassemble(&state, ram, run.rip, to_usize(run.steps).min(HISTORY))).collect();
        history.drain(..history.len().saturating_sub(HISTORY));
        let top = state.sys.segs[SS].base.wrapping_add(state.gpr[4]);
        let stack = (0..STACK_WORDS).map(|index| read_word(&state, ram, top.wrapping_add(8 * index))).collect();
        Self { cpu, count: core.count(), state: Box::new(state), history, code, stack }
    }
}

impl Display for TripleFaultReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { cpu, count, .. } = self;
        writeln!(f, "triple fault on vCPU {cpu} after {count} steps")?;
        self.write_state(f)
    }
}

impl Machine {
    /// Registers, stack and instructions of every vCPU, as text for people.
    #[must_use]
    pub fn processor_report(&self) -> String {
        let mut text = String::new();
        for cpu in 0..self.core.vcpus() {
            let separator = if cpu == 0 { "" } else { "\n" };
            text += &format!("{separator}vCPU {cpu} after {} steps\n", self.core.count());
            text += &StateText(&TripleFaultReport::new(&self.core, cpu)).to_string();
        }
        text
    }
}

/// The state in a report, without its first line.
struct StateText<'a>(&'a TripleFaultReport);

impl Display for StateText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.write_state(f)
    }
}

impl TripleFaultReport {
    fn write_state(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { cpu: _, count: _, state, history, code, stack } = self;
        for (index, (name, value)) in REGISTERS.iter().zip(state.gpr).enumerate() {
            write!(f, "{name:>4} {value:016x}")?;
            f.write_str(if index % 4 == 3 { "\n" } else { "  " })?;
        }
        let sys = &state.sys;
        writeln!(f, " rip {:016x}  rflags {:08x}  efer {:04x}", state.rip, state.rflags, sys.efer)?;
        writeln!(f, " cr0 {:08x}  cr2 {:016x}  cr3 {:016x}  cr4 {:08x}", sys.cr0, sys.cr2, sys.cr3, sys.cr4)?;
        for (name, segment) in ["es", "cs", "ss", "ds", "fs", "gs"].iter().zip(sys.segs) {
            let (base, limit) = (segment.base, segment.limit);
            let (selector, flags) = (segment.selector, segment.flags);
            writeln!(f, "  {name} {selector:04x}  base {base:016x}  limit {limit:08x}  flags {flags:04x}")?;
        }
        let (gdt, idt) = (sys.gdtr, sys.idtr);
        writeln!(f, " gdt {:016x}/{:04x}  idt {:016x}/{:04x}", gdt.base, gdt.limit, idt.base, idt.limit)?;
        writeln!(f, "  tr {:04x}  base {:016x}  limit {:08x}", sys.tr.selector, sys.tr.base, sys.tr.limit)?;
        f.write_str("stack")?;
        for word in stack {
            match word {
                Some(word) => write!(f, " {word:016x}")?,
                None => f.write_str(" (not mapped)")?,
            }
        }
        f.write_str("\nlast instructions")?;
        for line in history {
            write!(f, "\n  {line}")?;
        }
        f.write_str("\nat rip")?;
        for line in code {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

/// Up to `most` instructions from `rip` on.
fn disassemble(state: &CpuState, ram: &GuestRam, rip: u64, most: usize) -> Vec<String> {
    let code = &state.sys.segs[CS];
    let long = code.flags & SEG_L != 0 && state.sys.efer & EFER_LONG_ACTIVE != 0;
    let bits = match (long, code.flags & SEG_DB != 0) {
        (true, _) => 64,
        (false, true) => 32,
        (false, false) => 16,
    };
    let start = code.base.wrapping_add(rip);
    let bytes: Vec<u8> =
        (0..CODE_BYTES).map_while(|offset| read_byte(state, ram, start.wrapping_add(offset))).collect();
    if bytes.is_empty() {
        return vec![format!("{start:016x}: not mapped")];
    }
    let mut decoder = Decoder::with_ip(bits, &bytes, rip, DecoderOptions::NONE);
    let mut formatter = FastFormatter::new();
    let mut lines = Vec::new();
    while decoder.can_decode() && lines.len() < most {
        let instruction = decoder.decode();
        let mut text = format!("{:016x}: ", instruction.ip());
        formatter.format(&instruction, &mut text);
        lines.push(text);
    }
    lines
}

fn read_byte(state: &CpuState, ram: &GuestRam, linear: u64) -> Option<u8> {
    let physical = translate(state, ram, linear)?;
    ram.page_index(physical)?;
    let word = ram.read_u64(physical & !7);
    Some(low8(word >> (8 * (physical & 7))))
}

fn read_word(state: &CpuState, ram: &GuestRam, linear: u64) -> Option<u64> {
    (0..8)
        .rev()
        .try_fold(0, |word, index| Some((word << 8) | u64::from(read_byte(state, ram, linear.wrapping_add(index))?)))
}

/// Walks the page tables without leaving a trace; permissions are not looked at.
fn translate(state: &CpuState, ram: &GuestRam, linear: u64) -> Option<u64> {
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    let sys = &state.sys;
    if sys.cr0 & (1 << 31) == 0 {
        return Some(linear & 0xffff_ffff);
    }
    let (long, pae) = (sys.efer & EFER_LONG_ACTIVE != 0, sys.cr4 & (1 << 5) != 0);
    let (mut table, levels, index_bits) = match (long, pae) {
        (true, _) => (sys.cr3 & ADDRESS, 4, 9),
        (false, true) => (sys.pdptrs[to_usize((linear >> 30) & 3)] & ADDRESS, 2, 9),
        (false, false) => (sys.cr3 & 0xffff_f000, 2, 10),
    };
    for level in (1..=levels).rev() {
        let shift = 12 + index_bits * (level - 1);
        let index = (linear >> shift) & ((1 << index_bits) - 1);
        let entry = if index_bits == 9 {
            ram.read_u64(table + index * 8)
        } else {
            let pair = ram.read_u64((table + index * 4) & !7);
            (pair >> (32 * (index & 1))) & 0xffff_ffff
        };
        if entry & 1 == 0 {
            return None;
        }
        let large = entry & (1 << 7) != 0 && (level == 2 || (level == 3 && long));
        if level == 1 || large {
            let offset = (1u64 << shift) - 1;
            return Some((entry & ADDRESS & !offset) | (linear & offset));
        }
        table = entry & ADDRESS;
    }
    None
}
