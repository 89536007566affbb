//! Counts, and failures with all that is needed to see them again.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use iced_x86::FastFormatter;

use crate::case::{Case, Event, Outcome};
use crate::compare::GPR_NAMES;
use crate::generate::Generated;

/// What happened to the cases of one form.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Cases that were compared.
    pub cases: u64,
    /// Of these, cases in which the instruction retired on the host.
    pub retired: u64,
    /// Cases with differences.
    pub failures: u64,
}

/// Failures of one form, those with changed bytes apart.
#[derive(Debug, Clone, Default)]
struct Failure {
    count: u64,
    /// What is needed to see the first again.
    first: String,
}

/// Counts of a run.
#[derive(Debug)]
pub struct Report {
    seed: u64,
    names: Vec<String>,
    tallies: Vec<Tally>,
    /// Failures by the form that the bytes decode to.
    failed: BTreeMap<String, Failure>,
    /// Exceptions that the host raised, by vector.
    exceptions: BTreeMap<u8, u64>,
    /// Cases with changed bytes, cases of several instructions, cases of instructions that the model does not have, numbers without a case.
    mutated: u64,
    sequences: u64,
    absent: u64,
    skipped: u64,
}

impl Report {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(seed: u64, names: Vec<String>) -> Self {
        let tallies = vec![Tally::default(); names.len()];
        Self {
            seed,
            names,
            tallies,
            failed: BTreeMap::new(),
            exceptions: BTreeMap::new(),
            mutated: 0,
            sequences: 0,
            absent: 0,
            skipped: 0,
        }
    }

    /// A number for which no case could be made.
    pub fn skip(&mut self) {
        self.skipped += 1;
    }

    /// A case of an instruction that the model does not have.
    pub fn count_absent(&mut self) {
        self.absent += 1;
    }

    /// A case that was compared.
    pub fn count(&mut self, generated: &Generated, native: &Outcome) {
        if let Event::Exception { vector, .. } = native.event {
            *self.exceptions.entry(vector).or_default() += 1;
        }
        self.sequences += u64::from(!generated.rest.is_empty());
        if generated.mutated {
            self.mutated += 1;
            return;
        }
        let tally = &mut self.tallies[generated.form];
        tally.cases += 1;
        tally.retired += u64::from(native.event == Event::Retired);
    }

    /// A case with differences.
    pub fn fail(&mut self, number: u64, generated: &Generated, text: &str) {
        if !generated.mutated {
            self.tallies[generated.form].failures += 1;
        }
        let change = match generated.rest.is_empty() {
            _ if generated.mutated => " (changed bytes)",
            true => "",
            false => " and more in sequence",
        };
        let failure = self.failed.entry(format!("{:?}{change}", generated.instruction.code())).or_default();
        failure.count += 1;
        if failure.first.is_empty() {
            let seed = self.seed;
            failure.first = format!(
                "{}\n{}{text}  again: native --seed {seed} --case {number}\n",
                title(number, generated),
                operands(&generated.case, generated)
            );
        }
    }

    /// Failures in all.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().map(|failure| failure.count).sum()
    }

    /// Cases compared in all.
    #[must_use]
    pub fn compared(&self) -> u64 {
        self.mutated + self.tallies.iter().map(|tally| tally.cases).sum::<u64>()
    }

    /// The first failure of each form.
    #[must_use]
    pub fn failed_forms(&self) -> String {
        let mut text = String::new();
        for (name, failure) in &self.failed {
            let _ = writeln!(text, "FAILED {name}: {}\n{}", failure.count, failure.first);
        }
        text
    }

    /// Totals and coverage.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = String::new();
        let reached = self.tallies.iter().filter(|tally| tally.cases > 0).count();
        let retired = self.tallies.iter().filter(|tally| tally.retired > 0).count();
        let failed = self.tallies.iter().filter(|tally| tally.failures > 0).count();
        let least = self.tallies.iter().map(|tally| tally.cases).min().unwrap_or(0);
        let _ = writeln!(
            text,
            "seed {}: {} cases compared, {} with changed bytes, {} of several instructions; {} of instructions outside the \
             model; {} numbers unused",
            self.seed,
            self.compared(),
            self.mutated,
            self.sequences,
            self.absent,
            self.skipped
        );
        let _ = writeln!(
            text,
            "{} forms, {reached} reached (at least {least} cases each), {retired} retired on the host, {failed} with failures",
            self.names.len()
        );
        let vectors: Vec<String> = self.exceptions.iter().map(|(vector, n)| format!("{vector}: {n}")).collect();
        let _ = writeln!(text, "exceptions by vector: {}", vectors.join(", "));
        let _ = writeln!(text, "{} failures", self.failures());
        text
    }

    /// Cases, retired cases and failures of each form; then forms never reached and never retired.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for (name, tally) in self.names.iter().zip(&self.tallies) {
            let Tally { cases, retired, failures, .. } = tally;
            let _ = writeln!(text, "{name:32} {cases:8} cases {retired:8} retired {failures:8} failures");
        }
        text
    }

    /// Forms for which no case could be made, and those that never retired on the host (privileged ones cannot).
    #[must_use]
    pub fn gaps(&self) -> String {
        let list = |wanted: &dyn Fn(&Tally) -> bool| {
            let names: Vec<&str> =
                self.names.iter().zip(&self.tallies).filter(|(_, t)| wanted(t)).map(|(n, _)| n.as_str()).collect();
            format!("{}: {}", names.len(), names.join(" "))
        };
        format!(
            "never reached {}\nonly raised exceptions {}\n",
            list(&|tally| tally.cases == 0),
            list(&|tally| tally.cases > 0 && tally.retired == 0)
        )
    }
}

/// Number, bytes and disassembly.
#[must_use]
pub fn title(number: u64, generated: &Generated) -> String {
    let bytes: Vec<String> = generated.case.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut assembly = String::new();
    for instruction in std::iter::once(&generated.instruction).chain(&generated.rest) {
        let separator = if assembly.is_empty() { "" } else { "; " };
        assembly += separator;
        FastFormatter::new().format(instruction, &mut assembly);
    }
    format!("case {number}: {} at {:#x}: {assembly}", bytes.join(" "), generated.case.rip)
}

/// The state that the instruction starts from.
fn operands(case: &Case, generated: &Generated) -> String {
    let mut text = String::new();
    let flags = case.rflags;
    let _ = writeln!(text, "  from rflags {flags:#x} fs_base {:#x} gs_base {:#x}", case.fs_base, case.gs_base);
    for (index, name) in GPR_NAMES.into_iter().enumerate() {
        let end = if index % 4 == 3 { '\n' } else { ' ' };
        let _ = write!(text, "  {name:>4} {:016x}{end}", case.gpr[index]);
    }
    let mut factory = iced_x86::InstructionInfoFactory::new();
    let used = factory.info(&generated.instruction);
    for register in used.used_registers() {
        let register = register.register();
        if register.is_xmm() {
            let _ = writeln!(text, "  {register:?} {:032x}", case.fp.xmm[register.number() & 15]);
        }
        if register.is_mm() {
            let _ = writeln!(text, "  {register:?} {:016x}", case.fp.regs[register.number() & 7].0);
        }
    }
    for memory in used.used_memory() {
        if let Some(address) = memory.virtual_address(0, |register, _, _| {
            Some(match register.size() {
                2 => crate::aim::segment_base(case, register),
                _ => crate::aim::register(case, register),
            })
        }) {
            let size = memory.memory_size().size().clamp(1, 16);
            let value = case.peek(address, size).map_or("unknown".to_owned(), |value| format!("{value:x}"));
            let _ = writeln!(text, "  [{address:#x}] {value} ({size} bytes)");
        }
    }
    let fp = &case.fp;
    let _ = writeln!(text, "  mxcsr {:#x} fcw {:#x} fsw {:#x} ftw {:#x}", fp.mxcsr, fp.control, fp.status, fp.tags);
    if crate::vendor::is_x87(&generated.instruction) {
        for stack in 0..8 {
            let (mantissa, exponent) = fp.regs[(fp.top() + stack) & 7];
            let end = if stack % 4 == 3 { '\n' } else { ' ' };
            let _ = write!(text, "  st{stack} {exponent:04x}:{mantissa:016x}{end}");
        }
    }
    text
}
