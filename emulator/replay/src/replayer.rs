//! Does to a machine what a log says, and compares what comes out.
//!
//! ```text
//!   push(entry) --> advance(machine) --> NeedEntry      push the next one
//!                                        Outputs        carry them out, or not; go on
//!                                        NeedBlock      read the disk, supply_block
//!                                        Limit          the count asked for is reached
//!                                        Snapshot       the place of a snapshot; go on
//!                                        Ended          as the log says
//!                                        Err(Divergence)
//! ```
//!
//! Entries at one count are applied one after the other without running the machine in between, which is how they came to
//! be: the recording side delivers everything that waits before it runs on.

use std::collections::VecDeque;
use std::fmt;

use virtft_machine::io::{DeviceIndex, Input, InstructionCount, Output, RequestId};
use virtft_machine::{Machine, StopReason};

use crate::entry::{EndReason, LogEntry, Positioned};
use crate::outputs::OutputDigest;

/// Entries shown with a divergence.
const RECENT: usize = 12;

/// What [`Replayer::advance`] wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The next entry of the log.
    NeedEntry,
    /// These outputs were emitted at the machine's present count.
    Outputs(Vec<Output>),
    /// The data of a read, from the replaying side's own disk.
    NeedBlock {
        /// Which disk.
        device: DeviceIndex,
        /// Which request.
        request: RequestId,
    },
    /// The count asked for is reached.
    Limit,
    /// A snapshot with this number was taken here.
    Snapshot(u32),
    /// The log ends here.
    Ended(EndReason),
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Two values of the same thing.
    Values {
        /// The thing.
        what: &'static str,
        /// In the log.
        recorded: String,
        /// Here.
        replayed: String,
    },
    /// The machine cannot go on to the next entry.
    Stopped {
        /// What it does instead.
        reason: String,
        /// Count of the next entry.
        next: InstructionCount,
    },
    /// The machine refuses an input that was delivered.
    Refused {
        /// Why.
        reason: String,
    },
    /// An entry lies behind the machine.
    Behind {
        /// Count of the entry.
        entry: InstructionCount,
    },
    /// The run ended otherwise.
    End {
        /// In the log.
        recorded: EndReason,
        /// What the machine does.
        replayed: String,
    },
}

/// The replayed machine is not in the state of the recorded one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// Steps executed where it was noticed.
    pub count: InstructionCount,
    /// Number of the entry at which it was noticed.
    pub sequence: u64,
    /// Count of the last digest that agreed; the start if there was none.
    pub last_equal: InstructionCount,
    /// What differs.
    pub difference: Difference,
    /// The last entries, in words.
    pub recent: Vec<String>,
    /// Registers and instructions of every vCPU here.
    pub processors: String,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, sequence, last_equal, difference, recent, processors } = self;
        write!(f, "divergence at count {} (entry {sequence}): ", count.0)?;
        match difference {
            Difference::Values { what, recorded, replayed } => {
                write!(f, "{what} was {recorded} when recorded and is {replayed} now")?;
            }
            Difference::Stopped { reason, next } => write!(f, "the log goes on at count {}, but {reason}", next.0)?,
            Difference::Refused { reason } => write!(f, "an input that was delivered is refused now: {reason}")?,
            Difference::Behind { entry } => write!(f, "the next entry is at count {}, which is behind", entry.0)?,
            Difference::End { recorded, replayed } => {
                write!(f, "the recorded run ended here ({}), but now {replayed}", LogEntry::End(*recorded).summary())?;
            }
        }
        write!(f, "\nthe last digest that agreed was at count {}\nlast entries:", last_equal.0)?;
        for line in recent {
            write!(f, "\n  {line}")?;
        }
        write!(f, "\n{processors}")
    }
}

impl std::error::Error for Divergence {}

/// See the module's description.
#[derive(Debug)]
pub struct Replayer {
    pending: Option<Positioned>,
    outputs: OutputDigest,
    last_equal: InstructionCount,
    recent: VecDeque<String>,
    digests: u64,
    entries: u64,
}

impl Replayer {
    /// A replayer for a machine that stands at `count`, where the log begins.
    #[must_use]
    pub fn new(count: InstructionCount) -> Self {
        Self {
            pending: None,
            outputs: OutputDigest::default(),
            last_equal: count,
            recent: VecDeque::new(),
            digests: 0,
            entries: 0,
        }
    }

    /// A replayer that begins in the middle of a log: the digest of outputs is taken over from the first one it meets.
    #[must_use]
    pub fn resumed(count: InstructionCount, outputs: OutputDigest) -> Self {
        Self { outputs, ..Self::new(count) }
    }

    /// Digest of the outputs so far.
    #[must_use]
    pub fn outputs(&self) -> OutputDigest {
        self.outputs
    }

    /// Digests compared so far.
    #[must_use]
    pub fn digests(&self) -> u64 {
        self.digests
    }

    /// Entries applied so far.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Count of the last digest that agreed.
    #[must_use]
    pub fn last_equal(&self) -> InstructionCount {
        self.last_equal
    }

    /// Takes back the entry that was pushed and not applied.
    pub fn take_pending(&mut self) -> Option<Positioned> {
        self.pending.take()
    }

    /// The next entry.
    ///
    /// # Panics
    /// When the one before was not asked for yet.
    pub fn push(&mut self, entry: Positioned) {
        assert!(self.pending.is_none(), "an entry was pushed that was not asked for");
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(format!("{:>14} {}", entry.count.0, entry.entry.summary()));
        self.pending = Some(entry);
    }

    /// Runs `machine` up to the next thing for the caller to do, never beyond `until`.
    ///
    /// # Errors
    /// When the machine is not in the state of the recorded one.
    pub fn advance(&mut self, machine: &mut Machine, until: InstructionCount) -> Result<Step, Box<Divergence>> {
        loop {
            let Some(Positioned { count: next, .. }) = self.pending else { return Ok(Step::NeedEntry) };
            let count = machine.count();
            if next < count {
                return Err(self.diverged(machine, Difference::Behind { entry: next }));
            }
            if next == count {
                if let Some(step) = self.apply(machine)? {
                    return Ok(step);
                }
                continue;
            }
            if count >= until {
                return Ok(Step::Limit);
            }
            let stop = machine.run(next.min(until));
            // A machine that is off or shut down has reached its last entries, which say so.
            if machine.count() == next && stop != StopReason::Outputs {
                continue;
            }
            let reason = match stop {
                StopReason::Count | StopReason::Reset => continue,
                StopReason::Outputs => return Ok(self.take_outputs(machine)),
                StopReason::Idle { .. } => "every processor waits and nothing is due".into(),
                StopReason::Off { status } => format!("the machine is off with status {status}"),
                StopReason::TripleFault(_) => "a processor met a triple fault".into(),
            };
            return Err(self.diverged(machine, Difference::Stopped { reason, next }));
        }
    }

    /// The data that [`Step::NeedBlock`] asked for.
    ///
    /// # Errors
    /// When it is not what the recorded machine read.
    ///
    /// # Panics
    /// When nothing was asked for.
    pub fn supply_block(&mut self, machine: &mut Machine, data: Vec<u8>) -> Result<(), Box<Divergence>> {
        let Some(Positioned { entry: LogEntry::BlockReference { device, request, status, length, crc }, .. }) =
            self.pending
        else {
            panic!("data of a disk was supplied that was not asked for");
        };
        let found = crc32c::crc32c(&data);
        if data.len() as u64 != u64::from(length) || found != crc {
            let text = |length: u64, crc: u32| format!("{length} bytes with CRC {crc:08x}");
            let difference = Difference::Values {
                what: "data read from a disk",
                recorded: text(length.into(), crc),
                replayed: text(data.len() as u64, found),
            };
            return Err(self.diverged(machine, difference));
        }
        self.deliver(machine, &Input::BlockCompletion { device, request, status, data })?;
        self.finish_entry();
        Ok(())
    }

    /// Applies the pending entry, whose position the machine has reached.
    fn apply(&mut self, machine: &mut Machine) -> Result<Option<Step>, Box<Divergence>> {
        // Digests, marks and the end cover the outputs that were emitted on the way here.
        let covers_outputs = self.pending.as_ref().is_some_and(|pending| {
            matches!(
                pending.entry,
                LogEntry::StateDigest { .. } | LogEntry::Snapshot(_) | LogEntry::Mark | LogEntry::End(_)
            )
        });
        if covers_outputs && machine.platform().has_outputs() {
            return Ok(Some(self.take_outputs(machine)));
        }
        let Some(Positioned { entry, .. }) = &self.pending else { return Ok(None) };
        match entry {
            LogEntry::BlockReference { device, request, .. } => {
                return Ok(Some(Step::NeedBlock { device: *device, request: *request }));
            }
            LogEntry::Mark => {}
            LogEntry::Input(input) => {
                let input = input.clone();
                self.deliver(machine, &input)?;
            }
            LogEntry::StateDigest { state, outputs } => {
                let (state, outputs) = (*state, *outputs);
                self.compare(machine, "the digest of CPUs and devices", state, machine.state_digest())?;
                let here = self.outputs.0;
                self.compare(machine, "the digest of outputs", format!("{outputs:016x}"), format!("{here:016x}"))?;
                self.agreed(machine);
            }
            LogEntry::MemoryDigest(digest) => {
                let (recorded, here) = (*digest, machine.memory_digest());
                self.compare(machine, "the digest of memory", recorded, here)?;
            }
            LogEntry::Snapshot(number) => {
                let number = *number;
                self.finish_entry();
                return Ok(Some(Step::Snapshot(number)));
            }
            LogEntry::End(reason) => {
                let reason = *reason;
                self.check_end(machine, reason)?;
                self.finish_entry();
                return Ok(Some(Step::Ended(reason)));
            }
        }
        self.finish_entry();
        Ok(None)
    }

    fn finish_entry(&mut self) {
        self.pending = None;
        self.entries += 1;
    }

    fn deliver(&self, machine: &mut Machine, input: &Input) -> Result<(), Box<Divergence>> {
        machine
            .deliver(input)
            .map_err(|error| self.diverged(machine, Difference::Refused { reason: error.to_string() }))
    }

    /// Takes the outputs that wait, also into the digest.
    fn take_outputs(&mut self, machine: &mut Machine) -> Step {
        let outputs = machine.take_outputs();
        for output in &outputs {
            self.outputs.add(machine.count(), output);
        }
        Step::Outputs(outputs)
    }

    fn compare<T: PartialEq + ToString>(
        &self,
        machine: &Machine,
        what: &'static str,
        recorded: T,
        replayed: T,
    ) -> Result<(), Box<Divergence>> {
        if recorded == replayed {
            return Ok(());
        }
        let (recorded, replayed) = (recorded.to_string(), replayed.to_string());
        Err(self.diverged(machine, Difference::Values { what, recorded, replayed }))
    }

    fn agreed(&mut self, machine: &Machine) {
        self.digests += 1;
        self.last_equal = machine.count();
    }

    /// The machine must want to end as the recorded one did.
    fn check_end(&self, machine: &mut Machine, recorded: EndReason) -> Result<(), Box<Divergence>> {
        let here = machine.count();
        let stop = match recorded {
            EndReason::Stopped => return Ok(()),
            EndReason::Off { .. } | EndReason::TripleFault => machine.run(here),
        };
        match (&stop, recorded) {
            (StopReason::Off { status }, EndReason::Off { status: recorded }) if *status == recorded => Ok(()),
            (StopReason::TripleFault(_), EndReason::TripleFault) => Ok(()),
            _ => {
                let replayed = match stop {
                    StopReason::Off { status } => format!("the machine is off with status {status}"),
                    StopReason::TripleFault(_) => "a processor met a triple fault".into(),
                    _ => "the machine goes on".into(),
                };
                Err(self.diverged(machine, Difference::End { recorded, replayed }))
            }
        }
    }

    fn diverged(&self, machine: &Machine, difference: Difference) -> Box<Divergence> {
        let sequence = self.pending.as_ref().map_or(self.entries, |pending| pending.sequence);
        Box::new(Divergence {
            count: machine.count(),
            sequence,
            last_equal: self.last_equal,
            difference,
            recent: self.recent.iter().cloned().collect(),
            processors: machine.processor_report(),
        })
    }
}
