//! i8042 keyboard controller with a keyboard; no auxiliary port.
//!
//! Ports 0x60 and 0x64, interrupt line 1. Controller commands, self-test, scan code translation, the reset pulse and the output
//! port are there. Deviations: bytes take no time on the wire; address line 20 is always open, the output port only shows what was
//! written; commands for the auxiliary port answer as a controller without one (test fails, its loop-back
//! command answers through the keyboard's side).

mod keyboard;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Device;
use crate::context::{DeviceContext, Effect, InterruptLine, PowerAction};
use crate::snapshot::{RestoreError, Snapshot};
use keyboard::Keyboard;
pub use keyboard::KeyboardState;

const LINE: InterruptLine = InterruptLine(1);
/// Bytes of the controller itself that may wait.
const REPLY_BYTES: usize = 16;

const STATUS_OUTPUT_FULL: u8 = 0x01;
const STATUS_SYSTEM: u8 = 0x04;
const STATUS_COMMAND: u8 = 0x08;
const STATUS_UNLOCKED: u8 = 0x10;

const CONFIG_INTERRUPT: u8 = 0x01;
const CONFIG_SYSTEM: u8 = 0x04;
const CONFIG_KEYBOARD_OFF: u8 = 0x10;
/// The auxiliary clock is always off; there is no such port.
const CONFIG_AUX_OFF: u8 = 0x20;
const CONFIG_TRANSLATE: u8 = 0x40;

/// Output port: reset released, A20 open.
const OUTPUT_RESET: u8 = 0x01;
const OUTPUT_A20: u8 = 0x02;
const OUTPUT_BUFFER_FULL: u8 = 0x10;

/// State of [`I8042`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct I8042State {
    /// Command byte.
    pub config: u8,
    /// Output port as written.
    pub output_port: u8,
    /// Internal RAM beyond the command byte (commands 0x21 to 0x3f and 0x61 to 0x7f).
    pub memory: Vec<u8>,
    /// A command that waits for its parameter.
    pub command: Option<u8>,
    /// The last write went to the command port.
    pub last_was_command: bool,
    /// Bytes from the controller itself that wait for the output buffer.
    pub replies: VecDeque<u8>,
    /// The output buffer.
    pub output: Option<u8>,
    /// What an empty output buffer reads as.
    pub last_output: u8,
    /// A release prefix was taken from the keyboard and waits for its code (translation).
    pub release: bool,
    /// Level of the interrupt line.
    pub line: bool,
    /// The keyboard.
    pub keyboard: KeyboardState,
}

/// The controller.
#[derive(Debug, Clone)]
pub struct I8042 {
    state: I8042State,
}

impl Default for I8042 {
    fn default() -> Self {
        Self::new()
    }
}

impl I8042 {
    /// State as firmware leaves it: keyboard on, translating, interrupt on.
    #[must_use]
    pub fn new() -> Self {
        let config = CONFIG_INTERRUPT | CONFIG_SYSTEM | CONFIG_AUX_OFF | CONFIG_TRANSLATE;
        Self {
            state: I8042State {
                config,
                output_port: OUTPUT_RESET | OUTPUT_A20,
                memory: vec![0; 32],
                command: None,
                last_was_command: false,
                replies: VecDeque::new(),
                output: None,
                last_output: 0,
                release: false,
                line: false,
                keyboard: KeyboardState::default(),
            },
        }
    }

    /// Keys arrive as scan codes of set 1.
    pub fn receive(&mut self, cx: &mut DeviceContext<'_>, scancodes: &[u8]) {
        Keyboard(&mut self.state.keyboard).keys(scancodes);
        self.fill(cx);
    }

    /// Moves the next byte into the output buffer and drives the line.
    fn fill(&mut self, cx: &mut DeviceContext<'_>) {
        let state = &mut self.state;
        while state.output.is_none() {
            if let Some(byte) = state.replies.pop_front() {
                state.output = Some(byte);
            } else if state.config & CONFIG_KEYBOARD_OFF == 0
                && let Some(byte) = state.keyboard.queue.pop_front()
            {
                state.output = translate(byte, state.config & CONFIG_TRANSLATE != 0, &mut state.release);
            } else {
                break;
            }
        }
        let level = state.output.is_some() && state.config & CONFIG_INTERRUPT != 0;
        if level != state.line {
            state.line = level;
            cx.effects.push(Effect::Line(LINE, level));
        }
    }

    fn command(&mut self, cx: &mut DeviceContext<'_>, value: u8) {
        let state = &mut self.state;
        state.command = None;
        match value {
            0x20 => reply(state, state.config),
            0x21..=0x3f => state.replies.push_back(state.memory[usize::from(value & 0x1f)]),
            0x60..=0x7f | 0xd1..=0xd4 => state.command = Some(value),
            // Auxiliary port: its clock is stuck.
            0xa9 => reply(state, 0x02),
            0xaa => {
                // Self-test resets the controller: the keyboard is off until it is enabled again.
                state.config = CONFIG_SYSTEM | CONFIG_AUX_OFF | CONFIG_KEYBOARD_OFF;
                state.replies.clear();
                state.output = None;
                state.release = false;
                reply(state, 0x55);
            }
            0xab => reply(state, 0x00),
            0xad => state.config |= CONFIG_KEYBOARD_OFF,
            0xae => state.config &= !CONFIG_KEYBOARD_OFF,
            // Input port: keyboard not locked, jumpers open.
            0xc0 => reply(state, 0xf0),
            0xd0 => {
                let full = if state.output.is_some() { OUTPUT_BUFFER_FULL } else { 0 };
                reply(state, state.output_port | full);
            }
            // Test inputs: clock and data high.
            0xe0 => reply(state, 0x03),
            // Pulse of output lines whose bit is 0; bit 0 is the reset line.
            0xf0..=0xff if value & 1 == 0 => cx.effects.push(Effect::Power(PowerAction::Reset)),
            _ => {}
        }
    }

    fn parameter(&mut self, cx: &mut DeviceContext<'_>, command: u8, value: u8) {
        let state = &mut self.state;
        match command {
            0x60 => state.config = (value & 0x7f) | CONFIG_AUX_OFF,
            0x61..=0x7f => state.memory[usize::from(command & 0x1f)] = value,
            0xd1 => {
                state.output_port = value & !OUTPUT_BUFFER_FULL;
                if value & OUTPUT_RESET == 0 {
                    cx.effects.push(Effect::Power(PowerAction::Reset));
                }
            }
            // Both loop-backs answer on the keyboard's side; there is no other.
            0xd2 | 0xd3 => reply(state, value),
            // To the auxiliary device: nothing hears it.
            _ => {}
        }
    }
}

/// A byte from the controller itself. A host that never reads loses the oldest.
fn reply(state: &mut I8042State, byte: u8) {
    if state.replies.len() >= REPLY_BYTES {
        state.replies.pop_front();
    }
    state.replies.push_back(byte);
}

/// Set 2 to set 1 as the controller does it; `None` swallows the release prefix.
fn translate(byte: u8, on: bool, release: &mut bool) -> Option<u8> {
    if !on {
        return Some(byte);
    }
    if byte == 0xf0 {
        *release = true;
        return None;
    }
    let code = keyboard::set_2_to_1(byte);
    let bit = if std::mem::take(release) { 0x80 } else { 0 };
    Some(code | bit)
}

impl Device for I8042 {
    fn read(&mut self, cx: &mut DeviceContext<'_>, port: u16) -> u8 {
        if port == 0x64 {
            let full = if self.state.output.is_some() { STATUS_OUTPUT_FULL } else { 0 };
            let command = if self.state.last_was_command { STATUS_COMMAND } else { 0 };
            return full | (self.state.config & STATUS_SYSTEM) | command | STATUS_UNLOCKED;
        }
        if let Some(byte) = self.state.output.take() {
            self.state.last_output = byte;
            // The line falls between two bytes, so that each of them is an edge.
            if self.state.line {
                self.state.line = false;
                cx.effects.push(Effect::Line(LINE, false));
            }
        }
        let byte = self.state.last_output;
        self.fill(cx);
        byte
    }

    fn write(&mut self, cx: &mut DeviceContext<'_>, port: u16, value: u8) {
        self.state.last_was_command = port == 0x64;
        if port == 0x64 {
            self.command(cx, value);
        } else if let Some(command) = self.state.command.take() {
            self.parameter(cx, command, value);
        } else {
            // A byte for the keyboard turns its clock on.
            self.state.config &= !CONFIG_KEYBOARD_OFF;
            Keyboard(&mut self.state.keyboard).command(value);
        }
        self.fill(cx);
    }

    fn deadline_ns(&self) -> u64 {
        u64::MAX
    }

    fn advance(&mut self, _cx: &mut DeviceContext<'_>) {}

    fn reset(&mut self, cx: &mut DeviceContext<'_>) {
        let line = self.state.line;
        *self = Self::new();
        self.state.line = line;
        self.fill(cx);
    }
}

impl Snapshot for I8042 {
    const KIND: &'static str = "i8042";
    const VERSION: u16 = 1;
    type State = I8042State;

    fn save(&self) -> I8042State {
        let Self { state } = self;
        state.clone()
    }

    fn restore(&mut self, state: I8042State) -> Result<(), RestoreError> {
        let queue = state.keyboard.queue.len();
        if state.memory.len() != 32 || queue > keyboard::QUEUE_BYTES + 8 || state.replies.len() > REPLY_BYTES {
            let reason = format!("{} bytes of memory, {queue} in the keyboard", state.memory.len());
            return Err(RestoreError::Invalid { kind: Self::KIND, reason });
        }
        self.state = state;
        Ok(())
    }
}
