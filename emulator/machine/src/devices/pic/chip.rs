//! One 8259A: requests, priorities and command words.

use serde::{Deserialize, Serialize};

use crate::bits::low8;

/// State of one controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PicRegisters {
    /// Interrupt request register.
    pub irr: u8,
    /// Interrupt mask register.
    pub imr: u8,
    /// In-service register.
    pub isr: u8,
    /// Levels of the lines.
    pub lines: u8,
    /// Lines that are level-triggered.
    pub elcr: u8,
    /// Vector of line 0.
    pub base: u8,
    /// Line with the highest priority, 0 to 7.
    pub first: u8,
    /// Initialisation command word expected next: 0 for none, else 2 to 4.
    pub expect: u8,
    /// The ICW1 in force wants an ICW4.
    pub wants_icw4: bool,
    /// No cascade.
    pub single: bool,
    /// Command-port reads give ISR instead of IRR.
    pub read_isr: bool,
    /// The next read is a poll.
    pub poll: bool,
    /// Special mask mode.
    pub special_mask: bool,
    /// Special fully nested mode.
    pub special_nested: bool,
    /// Automatic EOI.
    pub auto_eoi: bool,
    /// Rotate on automatic EOI.
    pub rotate_on_auto_eoi: bool,
}

impl PicRegisters {
    /// Place of the highest-priority line in `mask`, counted from the first in priority; 8 for none.
    fn priority(&self, mask: u8) -> u8 {
        low8(u64::from(mask.rotate_right(u32::from(self.first)).trailing_zeros()))
    }

    fn line_at(&self, priority: u8) -> u8 {
        (priority + self.first) & 7
    }

    /// The line to serve next, if any. `cascade` is the line of the slave on the master.
    pub(super) fn pending(&self, cascade: Option<u8>) -> Option<u8> {
        let wanted = self.priority(self.irr & !self.imr);
        if wanted == 8 {
            return None;
        }
        let mut served = self.isr;
        if self.special_mask {
            served &= !self.imr;
        }
        if self.special_nested
            && let Some(line) = cascade
        {
            served &= !(1 << line);
        }
        (wanted < self.priority(served)).then(|| self.line_at(wanted))
    }

    pub(super) fn set_line(&mut self, line: u8, level: bool) {
        let bit = 1 << line;
        let rising = level && self.lines & bit == 0;
        self.lines = if level { self.lines | bit } else { self.lines & !bit };
        if self.elcr & bit != 0 {
            self.irr = if level { self.irr | bit } else { self.irr & !bit };
        } else if rising {
            self.irr |= bit;
        }
    }

    pub(super) fn acknowledge(&mut self, line: u8) {
        let bit = 1 << line;
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.first = (line + 1) & 7;
            }
        } else {
            self.isr |= bit;
        }
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
    }

    pub(super) fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            // ICW1 resets the edge logic: a line must rise anew to be seen. Level lines stay requested.
            *self = Self {
                lines: self.lines,
                elcr: self.elcr,
                irr: self.irr & self.elcr,
                expect: 2,
                wants_icw4: value & 1 != 0,
                single: value & 2 != 0,
                ..Self::default()
            };
        } else if value & 8 != 0 {
            if value & 4 != 0 {
                self.poll = true;
            }
            if value & 2 != 0 {
                self.read_isr = value & 1 != 0;
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.end_of_interrupt(value);
        }
    }

    /// OCW2.
    fn end_of_interrupt(&mut self, value: u8) {
        let line = value & 7;
        match value >> 5 {
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            command @ (1 | 5) => {
                // In special mask mode a masked line in service is not ended by a non-specific EOI.
                let mask = if self.special_mask { self.isr & !self.imr } else { self.isr };
                let priority = self.priority(mask);
                if priority < 8 {
                    let line = self.line_at(priority);
                    self.isr &= !(1 << line);
                    if command == 5 {
                        self.first = (line + 1) & 7;
                    }
                }
            }
            command @ (3 | 7) => {
                self.isr &= !(1 << line);
                if command == 7 {
                    self.first = (line + 1) & 7;
                }
            }
            6 => self.first = (line + 1) & 7,
            _ => {}
        }
    }

    pub(super) fn write_data(&mut self, value: u8) {
        match self.expect {
            2 => {
                self.base = value & 0xf8;
                self.expect = match (self.single, self.wants_icw4) {
                    (false, _) => 3,
                    (true, true) => 4,
                    (true, false) => 0,
                };
            }
            // ICW3 names the cascade line, which is wired.
            3 => self.expect = if self.wants_icw4 { 4 } else { 0 },
            4 => {
                self.special_nested = value & 0x10 != 0;
                self.auto_eoi = value & 2 != 0;
                self.expect = 0;
            }
            _ => self.imr = value,
        }
    }
}
