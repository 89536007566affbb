//! Plays a script: knows the count of the next input and what output it waits for.
//!
//! Positions depend only on the script and on the positions of outputs, never on how the run was cut into
//! pieces. For that, the caller must show every output at most [`REACTION_STEPS`] after its position, which is
//! also the least distance between an output and the reaction to it.

use std::collections::{BTreeMap, VecDeque};

use virtft_machine::io::{CharPort, InstructionCount, Output};

use super::{Action, Position, Script, Step};
use virtft_machine::io::Input;

/// Steps between an output and the reaction to it, and between two portions of typed text.
pub const REACTION_STEPS: u64 = 100_000;
/// Bytes typed at once: what a FIFO and a small queue behind it hold.
const PORTION_BYTES: usize = 64;
/// Output kept per channel for the next `expect`.
const TAIL_BYTES: usize = 64 << 10;

/// What is to happen now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScriptEvent {
    /// Deliver this input.
    Input(Input),
    /// End the run.
    End,
}

/// Output of one channel that no `expect` consumed: runs of bytes with the position of each run.
#[derive(Debug, Default)]
struct Tail {
    bytes: VecDeque<u8>,
    positions: VecDeque<u64>,
}

/// See the module's description.
#[derive(Debug)]
pub struct ScriptPlayer {
    steps: VecDeque<(usize, Step)>,
    tails: BTreeMap<CharPort, Tail>,
    /// Position of the last step done.
    base: u64,
    /// The last step done was an `expect`.
    after_expect: bool,
}

impl ScriptPlayer {
    /// Starts at count `start`.
    #[must_use]
    pub fn new(script: Script, start: InstructionCount) -> Self {
        let steps = script.steps.into_iter().flat_map(portions).collect();
        Self { steps, tails: BTreeMap::new(), base: start.0, after_expect: false }
    }

    /// Count at which the next input is due; `None` while waiting for output and when the script is done.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        match self.steps.front() {
            Some((_, Step::Do(Position::At(count), _))) => Some((*count).max(self.earliest(0))),
            Some((_, Step::Do(Position::After(delta), _))) => Some(self.earliest(*delta)),
            _ => None,
        }
    }

    fn earliest(&self, delta: u64) -> u64 {
        let delta = if self.after_expect { delta.max(REACTION_STEPS) } else { delta };
        self.base.saturating_add(delta)
    }

    /// Takes the next input if it is due at `count`, or regardless with `force` (an idle guest without timers
    /// would never get there).
    pub fn take(&mut self, count: InstructionCount, force: bool) -> Option<ScriptEvent> {
        let due = self.due()?;
        if due > count.0 && !force {
            return None;
        }
        let Some((_, Step::Do(_, action))) = self.steps.pop_front() else { return None };
        self.base = due.min(count.0);
        self.after_expect = false;
        self.match_output();
        Some(match action {
            Action::Deliver(input) => ScriptEvent::Input(input),
            Action::Type(port, data) => ScriptEvent::Input(Input::CharReceive { port, data }),
            Action::End => ScriptEvent::End,
        })
    }

    /// Shows an output, emitted at `at`.
    pub fn observe(&mut self, at: InstructionCount, output: &Output) {
        let Output::CharTransmit { port, data } = output else { return };
        if self.steps.is_empty() {
            return;
        }
        let tail = self.tails.entry(*port).or_default();
        tail.bytes.extend(data);
        tail.positions.extend(std::iter::repeat_n(at.0, data.len()));
        let excess = tail.bytes.len().saturating_sub(TAIL_BYTES);
        tail.bytes.drain(..excess);
        tail.positions.drain(..excess);
        self.match_output();
    }

    /// Line and text of the `expect` that the script waits for.
    #[must_use]
    pub fn waiting_for(&self) -> Option<(usize, String)> {
        match self.steps.front() {
            Some((line, Step::Expect(_, text))) => Some((*line, String::from_utf8_lossy(text).into_owned())),
            _ => None,
        }
    }

    /// Whether every step is done.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.steps.is_empty()
    }

    /// Completes `expect` steps at the front as long as their text is there.
    fn match_output(&mut self) {
        while let Some((_, Step::Expect(port, text))) = self.steps.front() {
            let Some(tail) = self.tails.get_mut(port) else { return };
            let Some(start) = find(tail.bytes.make_contiguous(), text) else { return };
            let end = start + text.len();
            let at = tail.positions.get(end - 1).copied().unwrap_or(self.base);
            tail.bytes.drain(..end);
            tail.positions.drain(..end);
            self.base = self.base.max(at);
            self.after_expect = true;
            self.steps.pop_front();
        }
    }
}

/// Cuts a step that types long text into steps that type portions of it.
fn portions((line, step): (usize, Step)) -> Vec<(usize, Step)> {
    match step {
        Step::Do(position, Action::Type(port, text)) => text
            .chunks(PORTION_BYTES)
            .enumerate()
            .map(|(index, chunk)| {
                let position = if index == 0 { position } else { Position::After(REACTION_STEPS) };
                (line, Step::Do(position, Action::Type(port, chunk.to_vec())))
            })
            .collect(),
        other => vec![(line, other)],
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
