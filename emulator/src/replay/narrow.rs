//! Looks for the instruction at which a replayed run went another way.
//!
//! The log says what was right at its digests and nothing in between, so the place is looked for by comparing ways to execute
//! the same stretch: from the last digest that agreed, once in the ordinary way and once carefully, with all that the engine
//! caches forgotten again and again.
//!
//! | ordinary | carefully | so |
//! |---|---|---|
//! | agrees with the log | | the first pass was disturbed: the host's memory, or something that happened earlier |
//! | differs | differs in the same way | replay is repeatable, so it was the recorded run that went another way |
//! | differs | agrees, or differs in another way | the engine: halving the stretch finds the instruction |

use std::fmt::Write;

use virtft_machine::Machine;
use virtft_machine::io::InstructionCount;
use virtft_machine::machine::{MachineSnapshot, MemoryImage, StateDigest};
use virtft_replay::header::DiskData;
use virtft_replay::outputs::OutputDigest;
use virtft_replay::{Divergence, Positioned, Replayer, Step};

use super::session::{Session, SessionFiles};
use super::source::LogFile;
use crate::cli::{InjectedFault, ReplayArguments};

/// In the careful way, caches are forgotten about so many times in the stretch.
const CAREFUL_STOPS: u64 = 2000;
/// Entries and lines of a state that are shown.
const SHOWN: usize = 24;

/// Finds out what it can, in words. `session` is the pass that diverged; its memory is given back first.
pub fn narrow(
    log: &LogFile,
    files: &SessionFiles,
    arguments: &ReplayArguments,
    divergence: &Divergence,
    session: Session,
) -> String {
    let own_disks = matches!(session.header().disk_data, DiskData::OwnCopies(_));
    drop(session);
    if own_disks {
        return "the place cannot be narrowed down, because the log does not carry what was read from disks".into();
    }
    let (from, to) = (divergence.last_equal, divergence.count);
    eprintln!("virtft-emulator: looking for the place between counts {} and {} ...", from.0, to.0);
    let mut session = match Session::open(log, files, arguments.from_snapshot) {
        Ok(session) => session,
        Err(error) => return format!("the place cannot be narrowed down: {error}"),
    };
    let fault = arguments.inject_fault.filter(|fault| fault.persistent);
    if let Err(error) = run_with_fault(&mut session, from, fault) {
        return format!("a second replay did not come as far as the first: {error}");
    }
    let entries = match session.take_entries(to) {
        Ok(entries) => entries,
        Err(error) => return format!("the place cannot be narrowed down: {error}"),
    };
    let outputs = session.replayer().outputs();
    let base = Base::of(&mut session.machine, outputs);
    Search { machine: session.machine, entries, base, fault }.report(from, to)
}

/// The first part of the second pass, which a persistent fault may lie in too.
fn run_with_fault(session: &mut Session, until: InstructionCount, fault: Option<InjectedFault>) -> Result<(), String> {
    let mut nothing = |_, _| {};
    if let Some(fault) = fault.filter(|fault| fault.count <= until.0 && fault.count >= session.machine.count().0) {
        session.run(InstructionCount(fault.count), &mut nothing).map_err(|error| error.to_string())?;
        session.machine.disturb();
    }
    session.run(until, &mut nothing).map(|_| ()).map_err(|error| error.to_string())
}

/// A state to start from.
struct Base {
    count: InstructionCount,
    state: MachineSnapshot,
    memory: MemoryImage,
    outputs: OutputDigest,
}

impl Base {
    fn of(machine: &mut Machine, outputs: OutputDigest) -> Self {
        Self { count: machine.count(), state: machine.save(), memory: machine.save_memory(), outputs }
    }
}

/// How a stretch is executed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Ordinary,
    Careful,
}

/// What came out: digests of CPUs and devices and of memory, or that the run left the log.
type Outcome = Result<(StateDigest, StateDigest), String>;

struct Search {
    machine: Machine,
    /// From the base on.
    entries: Vec<Positioned>,
    base: Base,
    fault: Option<InjectedFault>,
}

impl Search {
    fn report(mut self, from: InstructionCount, to: InstructionCount) -> String {
        // One step further, or the digest that differed would not be looked at.
        let beyond = InstructionCount(to.0.saturating_add(1));
        let (ordinary, careful) = (self.execute(beyond, Way::Ordinary).0, self.execute(beyond, Way::Careful).0);
        match (ordinary, careful) {
            (Ok(_), _) => {
                "a second replay agrees with the log: the first one was disturbed by something that does not repeat, such as an \
                 error of this host's memory"
                    .into()
            }
            (Err(first), Err(second)) if first == second => self.blame_recording(from, to),
            _ => self.halve(from, to),
        }
    }

    /// Executes from the base to `target`.
    fn execute(&mut self, target: InstructionCount, way: Way) -> (Outcome, OutputDigest) {
        let restored = self.machine.restore_memory(&self.base.memory);
        if let Err(error) = restored.and_then(|()| self.machine.restore(self.base.state.clone())) {
            return (Err(error.to_string()), self.base.outputs);
        }
        let mut replayer = Replayer::resumed(self.base.count, self.base.outputs);
        let mut entries = self.entries.iter().filter(|entry| entry.count > self.base.count).cloned();
        let pause = match way {
            Way::Ordinary => u64::MAX,
            Way::Careful => ((target.0 - self.base.count.0) / CAREFUL_STOPS).max(1),
        };
        let mut fault = self.fault.filter(|fault| way == Way::Ordinary && fault.count >= self.base.count.0);
        loop {
            let count = self.machine.count().0;
            if fault.is_some_and(|fault| fault.count == count) {
                fault = None;
                self.machine.disturb();
            }
            let stop = fault.map_or(u64::MAX, |fault| fault.count).min(count.saturating_add(pause)).min(target.0);
            match replayer.advance(&mut self.machine, InstructionCount(stop)) {
                Ok(Step::NeedEntry) => match entries.next() {
                    Some(entry) => replayer.push(entry),
                    // The stretch ends with the last entry.
                    None => break,
                },
                Ok(Step::Limit) if self.machine.count() >= target => break,
                Ok(Step::Limit) if way == Way::Careful => self.machine.flush_caches(),
                Ok(Step::Ended(_)) => break,
                Ok(Step::Limit | Step::Outputs(_) | Step::Snapshot(_)) => {}
                Ok(Step::NeedBlock { .. }) => return (Err("data of a disk is missing".into()), replayer.outputs()),
                Err(divergence) => return (Err(format!("{:?}", divergence.difference)), replayer.outputs()),
            }
        }
        (Ok((self.machine.state_digest(), self.machine.memory_digest())), replayer.outputs())
    }

    /// Both ways lead to the same other state.
    fn blame_recording(&self, from: InstructionCount, to: InstructionCount) -> String {
        let mut text = format!(
            "replay repeats itself exactly, also without any caches: the recorded run itself went another way between counts {} and \
             {}. What entered the machine there:",
            from.0, to.0
        );
        let between = self.entries.iter().filter(|entry| entry.count <= to);
        for entry in between.clone().take(SHOWN) {
            let _ = write!(text, "\n{:>14} {}", entry.count.0, entry.entry.summary());
        }
        let rest = between.count().saturating_sub(SHOWN);
        if rest > 0 {
            let _ = write!(text, "\n  and {rest} more entries");
        }
        text + "\nrecord with --check-inputs to see which of them met another state"
    }

    /// The two ways differ: halves the stretch until one step is left.
    fn halve(mut self, from: InstructionCount, to: InstructionCount) -> String {
        let (mut low, mut high) = (from.0, to.0);
        while high - low > 1 {
            let middle = InstructionCount(low + (high - low) / 2);
            let ordinary = self.execute(middle, Way::Ordinary).0;
            let (careful, outputs) = self.execute(middle, Way::Careful);
            if ordinary.is_ok() && ordinary == careful {
                self.base = Base::of(&mut self.machine, outputs);
                low = middle.0;
            } else {
                high = middle.0;
            }
        }
        let _ = self.execute(InstructionCount(low), Way::Careful);
        let before = self.machine.processor_report();
        let _ = self.execute(InstructionCount(high), Way::Careful);
        let right = format!("{:#?}", self.machine.save());
        let _ = self.execute(InstructionCount(high), Way::Ordinary);
        let wrong = format!("{:#?}", self.machine.save());
        format!(
            "the step after count {low} goes another way with the engine's caches than without: a defect of the engine\n{before}\nafter \
             it (without caches / with them):\n{}",
            differing_lines(&right, &wrong)
        )
    }
}

/// Lines in which two listings of the same shape differ.
fn differing_lines(right: &str, wrong: &str) -> String {
    let pairs = right.lines().zip(wrong.lines()).filter(|(right, wrong)| right != wrong);
    let lines: Vec<String> =
        pairs.take(SHOWN).map(|(right, wrong)| format!("  {} / {}", right.trim(), wrong.trim())).collect();
    if lines.is_empty() { "  CPUs and devices are equal: memory differs".into() } else { lines.join("\n") }
}
