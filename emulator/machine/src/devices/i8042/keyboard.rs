//! The keyboard behind the controller: commands, and scan codes of sets 1 and 2.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Bytes that wait in the keyboard; keys beyond are dropped, as a real keyboard overruns.
pub(super) const QUEUE_BYTES: usize = 256;

const ACKNOWLEDGE: u8 = 0xfa;
const RESEND: u8 = 0xfe;

/// Set 2 codes of set 1 codes 0x00 to 0x5f.
const SET_1_TO_2: [u8; 96] = [
    0x00, 0x76, 0x16, 0x1e, 0x26, 0x25, 0x2e, 0x36, 0x3d, 0x3e, 0x46, 0x45, 0x4e, 0x55, 0x66, 0x0d, // 0x00
    0x15, 0x1d, 0x24, 0x2d, 0x2c, 0x35, 0x3c, 0x43, 0x44, 0x4d, 0x54, 0x5b, 0x5a, 0x14, 0x1c, 0x1b, // 0x10
    0x23, 0x2b, 0x34, 0x33, 0x3b, 0x42, 0x4b, 0x4c, 0x52, 0x0e, 0x12, 0x5d, 0x1a, 0x22, 0x21, 0x2a, // 0x20
    0x32, 0x31, 0x3a, 0x41, 0x49, 0x4a, 0x59, 0x7c, 0x11, 0x29, 0x58, 0x05, 0x06, 0x04, 0x0c, 0x03, // 0x30
    0x0b, 0x83, 0x0a, 0x01, 0x09, 0x77, 0x7e, 0x6c, 0x75, 0x7d, 0x7b, 0x6b, 0x73, 0x74, 0x79, 0x69, // 0x40
    0x72, 0x7a, 0x70, 0x71, 0x7f, 0x60, 0x61, 0x78, 0x07, 0x0f, 0x17, 0x1f, 0x27, 0x2f, 0x37, 0x3f, // 0x50
];

/// The controller's translation of one byte from set 2 to set 1; bytes without a partner pass.
pub(super) fn set_2_to_1(code: u8) -> u8 {
    if code == 0 {
        return 0xff;
    }
    (0u8..).zip(SET_1_TO_2).find(|&(_, other)| other == code).map_or(code, |(set_1, _)| set_1)
}

/// State of the keyboard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyboardState {
    /// Bytes on their way to the controller, in the keyboard's own scan code set.
    pub queue: VecDeque<u8>,
    /// Keys are reported.
    pub scanning: bool,
    /// Scan code set, 1 or 2.
    pub set: u8,
    /// Lights: scroll, num, caps.
    pub leds: u8,
    /// Typematic rate and delay.
    pub typematic: u8,
    /// A command that waits for its parameter.
    pub command: Option<u8>,
    /// Last byte sent in answer to a command.
    pub last_sent: u8,
}

impl Default for KeyboardState {
    fn default() -> Self {
        Self { queue: VecDeque::new(), scanning: true, set: 2, leds: 0, typematic: 0x2b, command: None, last_sent: 0 }
    }
}

/// The keyboard's behaviour over its state.
pub(super) struct Keyboard<'a>(pub &'a mut KeyboardState);

impl Keyboard<'_> {
    /// Keys as set 1 codes, converted to the set in use.
    pub fn keys(&mut self, set_1: &[u8]) {
        if !self.0.scanning {
            return;
        }
        for &code in set_1 {
            if self.0.queue.len() >= QUEUE_BYTES {
                return;
            }
            // Prefixes are the same in both sets.
            if self.0.set == 1 || matches!(code, 0xe0 | 0xe1) {
                self.0.queue.push_back(code);
                continue;
            }
            if code & 0x80 != 0 {
                self.0.queue.push_back(0xf0);
            }
            let key = SET_1_TO_2.get(usize::from(code & 0x7f)).copied().unwrap_or(code & 0x7f);
            self.0.queue.push_back(key);
        }
    }

    /// A byte from the host.
    pub fn command(&mut self, value: u8) {
        if let Some(command) = self.0.command.take()
            && self.parameter(command, value)
        {
            return;
        }
        match value {
            0xed | 0xf0 | 0xf3 => {
                self.0.command = Some(value);
                self.answer(&[ACKNOWLEDGE]);
            }
            0xee => self.answer(&[0xee]),
            0xf2 => self.answer(&[ACKNOWLEDGE, 0xab, 0x83]),
            0xf4 => {
                self.0.queue.clear();
                self.0.scanning = true;
                self.answer(&[ACKNOWLEDGE]);
            }
            0xf5 | 0xf6 => {
                self.defaults();
                self.0.scanning = value == 0xf6;
                self.answer(&[ACKNOWLEDGE]);
            }
            // Key type commands of set 3 are taken and have no effect.
            0xf7..=0xfa => self.answer(&[ACKNOWLEDGE]),
            0xfe => {
                let last = self.0.last_sent;
                self.answer(&[last]);
            }
            0xff => {
                self.defaults();
                self.0.set = 2;
                self.0.scanning = true;
                self.answer(&[ACKNOWLEDGE, 0xaa]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    /// The parameter of a command; false when the byte is a command instead.
    fn parameter(&mut self, command: u8, value: u8) -> bool {
        match command {
            0xed if value & 0x80 == 0 => self.0.leds = value & 7,
            0xf3 if value & 0x80 == 0 => self.0.typematic = value,
            0xf0 if value == 0 => {
                let set = self.0.set;
                self.answer(&[ACKNOWLEDGE, set]);
                return true;
            }
            0xf0 if matches!(value, 1 | 2) => self.0.set = value,
            _ => return false,
        }
        self.answer(&[ACKNOWLEDGE]);
        true
    }

    fn defaults(&mut self) {
        self.0.queue.clear();
        self.0.leds = 0;
        self.0.typematic = 0x2b;
        self.0.command = None;
    }

    fn answer(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            // Answers have room of their own beyond the keys; a host that never reads loses the oldest keys.
            if self.0.queue.len() >= QUEUE_BYTES + 4 {
                self.0.queue.pop_front();
            }
            self.0.queue.push_back(byte);
            self.0.last_sent = byte;
        }
    }
}
