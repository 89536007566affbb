//! Input scripts for `--clock virtual`: what happens to the machine from outside, as a text file.
//!
//! One step a line, done in order; `#` starts a comment line. A step that does something has a position in
//! front: a step count (`250M`), or `+COUNT` after the previous step. Without a position it is
//! `+100k`. A count that has passed already means "as soon as possible".
//!
//! ```text
//! 100M net 0 ffffffffffff525400123456080600...   # a frame for network device 0, in hex
//! +5M link 0 down                                # carrier of network device 0: up or down
//! key 1d 38 53                                   # scan codes (set 1) for the keyboard, in hex
//! 400M serial 0 "ls -l\n"                        # bytes typed at COM1; 'console N' for the virtio console
//! expect "login: "                               # waits for this output of COM1
//! expect serial 1 "ready"                        # or of another channel
//! send "root\n"                                  # types at the channel of the last expect
//! 900M power                                     # also: reset, nmi, end (ends the run with status 0)
//! ```
//!
//! Text is in double quotes with the escapes `\n \r \t \e \\ \" \xHH`. A comment may also follow a step.
//! Everything is deterministic: output has a position, and a step after `expect` counts from there.

mod parser;
mod player;
#[cfg(test)]
mod tests;

use std::path::Path;

use thiserror::Error;
use virtft_machine::io::{CharPort, Input};

pub use player::{REACTION_STEPS, ScriptEvent, ScriptPlayer};

/// When a step happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// At this many steps since the start, or as soon as possible after.
    At(u64),
    /// This many steps after the previous step.
    After(u64),
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Delivers an input.
    Deliver(Input),
    /// Types text at a channel, in small portions.
    Type(CharPort, Vec<u8>),
    /// Ends the run.
    End,
}

/// One step of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Does something at a position.
    Do(Position, Action),
    /// Waits until a channel's output contains the text.
    Expect(CharPort, Vec<u8>),
}

/// A parsed script: steps with their line numbers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Script {
    /// In order; the number is that of the line, from 1.
    pub steps: Vec<(usize, Step)>,
}

/// Why a script was refused.
#[derive(Debug, Error)]
pub enum ScriptError {
    /// The file could not be read.
    #[error("input script {path}: it cannot be read ({source}); name a readable text file")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is wrong.
    #[error("input script {path}, line {line}: {reason}")]
    Line {
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong and what to write.
        reason: String,
    },
}

impl Script {
    /// Reads and parses a script.
    ///
    /// # Errors
    /// When the file cannot be read or a line is wrong.
    pub fn load(path: &Path) -> Result<Self, ScriptError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ScriptError::Read { path: name.clone(), source })?;
        Self::parse(&name, &text)
    }

    /// Parses `text`; `name` is for messages.
    ///
    /// # Errors
    /// When a line is wrong.
    pub fn parse(name: &str, text: &str) -> Result<Self, ScriptError> {
        parser::parse(text).map_err(|(line, reason)| ScriptError::Line { path: name.to_owned(), line, reason })
    }
}
