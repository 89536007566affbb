//! The vCPU thread: runs the machine, delivers inputs, hands out outputs, keeps time.
//!
//! ```text
//!   I/O threads --> InputQueue --> driver --deliver--> Guest
//!        ^                                                |
//!        +---------------- OutputSink <--take_outputs-----+
//! ```
//!
//! [`real`] follows the host's clock and blocks while the guest idles. [`virtual_clock`] has no host time:
//! time is a function of the count, an idle guest skips to its next timer, inputs come from a script. Both are
//! written against [`Guest`], so they are tested without a machine.

#[cfg(test)]
pub(crate) mod fake;
pub mod milestones;
pub mod real;
pub mod snapshot;
pub mod task;
#[cfg(test)]
mod tests;
pub mod virtual_clock;

use thiserror::Error;
use virtft_machine::io::{Input, InstructionCount, Output};

use crate::exit::ExitStatus;
pub use milestones::Milestones;
pub use task::{Look, Task};

/// Why [`Guest::run`] returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The count asked for was reached.
    Limit,
    /// There are outputs to take.
    Output,
    /// Every vCPU is halted.
    Idle {
        /// Guest time of the next timer; `None` when only an input can wake the guest.
        deadline_ns: Option<u64>,
    },
    /// The guest switched the machine off.
    Shutdown,
    /// Triple fault: registers and last instructions, as text.
    TripleFault(String),
    /// The guest wrote this byte to the debug exit port.
    DebugExit(u8),
    /// The log of a recorded run cannot be written: one line.
    LogFailed(String),
    /// The machine must not run here any more: one line, and whether that was wished.
    Elsewhere(String, bool),
}

/// What a digest covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestScope {
    /// CPUs and devices.
    Devices,
    /// Guest memory.
    Memory,
}

/// A change that must not show in any digest: for tests of exactly that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Perturbation {
    /// Forget cached translations of addresses.
    FlushTlb,
    /// Forget cached decoded and translated code.
    FlushCode,
    /// Save the whole machine and restore it in place.
    SaveRestore,
}

/// The machine as the driver sees it.
pub trait Guest: Send {
    /// Steps executed so far.
    fn count(&self) -> InstructionCount;

    /// Guest time at the present count.
    fn time_ns(&self) -> u64;

    /// Runs up to the count `until`, never beyond.
    fn run(&mut self, until: InstructionCount) -> Stop;

    /// Delivers an input at the present count.
    fn deliver(&mut self, input: Input);

    /// Takes the outputs since the last call, each with the count at which it was emitted.
    fn take_outputs(&mut self) -> Vec<(InstructionCount, Output)>;

    /// Gives the host memory under these guest page frames back.
    fn release_frames(&mut self, frames: &[u64]);

    /// Disk requests that were emitted and not completed.
    fn requests_in_flight(&self) -> usize;

    /// Events counted by the machine's devices, by name.
    fn counters(&self) -> Vec<(String, u64)>;

    /// A digest of the present state.
    fn digest(&mut self, scope: DigestScope) -> u64;

    /// The whole present state.
    ///
    /// # Errors
    /// One line that says why it cannot be saved.
    fn save(&mut self) -> Result<Vec<u8>, String>;

    /// Does something that must not show; `random` decides about details.
    ///
    /// # Errors
    /// When the state cannot be saved or restored.
    fn perturb(&mut self, kind: Perturbation, random: u64) -> Result<(), String>;

    /// An operator makes the machine stand still from now on, or lets it go on.
    fn stand_still(&mut self, paused: bool);

    /// The run has ended: what belongs to it is brought to its end.
    ///
    /// # Errors
    /// When the log of the run could not be written.
    fn finish(&mut self) -> Result<(), DriverError>;
}

/// Where outputs go.
pub trait OutputSink: Send {
    /// Carries out one output. Never waits for a network or console reader.
    ///
    /// # Errors
    /// When a host resource is gone for good.
    fn send(&mut self, output: Output) -> Result<(), DriverError>;
}

/// Why a run cannot go on: one line each.
#[derive(Debug, Error)]
pub enum DriverError {
    /// The thread of a disk has died.
    #[error("disk {0}: its thread has died; see the log above")]
    DiskThread(u8),
    /// The machine asked for a device that it does not have: a defect of this program.
    #[error("the machine addressed {0}, which was not configured")]
    NoSuchDevice(String),
    /// The digest log or a snapshot cannot be written.
    #[error("{file}: it cannot be written ({reason})")]
    Write {
        /// The file.
        file: String,
        /// What the system said.
        reason: String,
    },
    /// The host has no random numbers for the guest.
    #[error("the host gives no random numbers ({0})")]
    Entropy(String),
    /// The machine cannot be saved or restored.
    #[error("snapshot: {0}")]
    Snapshot(String),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunEnd {
    /// The process's exit status.
    pub status: ExitStatus,
    /// What to tell the user.
    pub report: Option<String>,
}

impl RunEnd {
    /// An end without anything to tell.
    #[must_use]
    pub fn quiet(status: ExitStatus) -> Self {
        Self { status, report: None }
    }

    /// An end with a text for the user.
    #[must_use]
    pub fn with_report(status: ExitStatus, report: impl Into<String>) -> Self {
        Self { status, report: Some(report.into()) }
    }

    /// The end that a stop of the guest means, if it means one.
    fn of(stop: &Stop) -> Option<Self> {
        match stop {
            Stop::Shutdown => Some(Self::quiet(ExitStatus::Clean)),
            Stop::TripleFault(state) => {
                Some(Self::with_report(ExitStatus::TripleFault, format!("triple fault\n{state}")))
            }
            Stop::DebugExit(value) => Some(Self::quiet(ExitStatus::DebugExit(*value))),
            Stop::LogFailed(reason) => Some(Self::with_report(ExitStatus::Io, reason.as_str())),
            Stop::Elsewhere(reason, wished) => {
                let status = if *wished { ExitStatus::Clean } else { ExitStatus::RunsElsewhere };
                Some(Self::with_report(status, reason.as_str()))
            }
            Stop::Limit | Stop::Output | Stop::Idle { .. } => None,
        }
    }
}

impl From<DriverError> for RunEnd {
    fn from(error: DriverError) -> Self {
        Self::with_report(ExitStatus::Io, error.to_string())
    }
}
