//! What an operator asks of the vCPU thread: things that only it can do, at a position that it chooses.

use std::fs::File;
use std::sync::mpsc::Sender;

use virtft_machine::io::InstructionCount;

/// Takes the one answer to a task; a reason when it was not done.
pub type Answer = Sender<Result<(), String>>;

/// A task for the vCPU thread.
#[derive(Debug)]
pub enum Task {
    /// The machine stands still, and its time with it.
    Pause(Answer),
    /// It goes on.
    Resume(Answer),
    /// The whole state is written to a file, durably, at one position.
    Save(File, Answer),
    /// How the machine stands.
    Look(Sender<Look>),
}

/// How a machine stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Steps executed.
    pub count: InstructionCount,
    /// Guest time in nanoseconds.
    pub time_ns: u64,
    /// Events counted by its devices, as `Platform::counters` names them.
    pub counters: Vec<(String, u64)>,
}
