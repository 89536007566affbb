//! The pair of 8259A interrupt controllers, with the edge/level registers of later chipsets.
//!
//! Ports 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1. All initialisation and operation command words are there: cascade,
//! automatic EOI, rotation, special mask, special fully nested mode, polling. Deviations: the mode for
//! the 8080 and buffered mode have no meaning here, and a request latched by an edge stays latched when its line
//! falls before it is acknowledged (the 8259A would deliver a spurious IRQ 7).

use serde::{Deserialize, Serialize};

use crate::bits::low8;
use crate::snapshot::{RestoreError, Snapshot};

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
    fn pending(&self, cascade: Option<u8>) -> Option<u8> {
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

    fn set_line(&mut self, line: u8, level: bool) {
        let bit = 1 << line;
        let rising = level && self.lines & bit == 0;
        self.lines = if level { self.lines | bit } else { self.lines & !bit };
        if self.elcr & bit != 0 {
            self.irr = if level { self.irr | bit } else { self.irr & !bit };
        } else if rising {
            self.irr |= bit;
        }
    }

    fn acknowledge(&mut self, line: u8) {
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

    fn write_command(&mut self, value: u8) {
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

    fn write_data(&mut self, value: u8) {
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

/// State of [`PicPair`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PicState {
    /// Lines 0 to 7.
    pub master: PicRegisters,
    /// Lines 8 to 15, cascaded to line 2.
    pub slave: PicRegisters,
}

/// Master and slave 8259A.
#[derive(Debug, Clone, Default)]
pub struct PicPair {
    state: PicState,
}

const CASCADE: u8 = 2;

impl PicPair {
    /// Power-on state.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The reset line: registers return to power-on, the lines keep their levels.
    pub fn reset(&mut self) {
        for chip in [&mut self.state.master, &mut self.state.slave] {
            *chip = PicRegisters { lines: chip.lines, ..PicRegisters::default() };
        }
    }

    /// An ISA line, 0 to 15, changes its level. Line 2 is the cascade and has no input.
    pub fn set_line(&mut self, line: u8, level: bool) {
        match line {
            CASCADE => {}
            0..=7 => self.state.master.set_line(line, level),
            8..=15 => self.state.slave.set_line(line - 8, level),
            _ => {}
        }
        self.update_cascade();
    }

    /// Level of the INTR output.
    #[inline]
    #[must_use]
    pub fn output(&self) -> bool {
        self.state.master.pending(Some(CASCADE)).is_some()
    }

    /// Interrupt acknowledge cycle: the vector, the spurious one (line 7) when nothing is requested.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.state.master.pending(Some(CASCADE)) {
            Some(CASCADE) => {
                self.state.master.acknowledge(CASCADE);
                let slave = &mut self.state.slave;
                let line = slave.pending(None);
                if let Some(line) = line {
                    slave.acknowledge(line);
                }
                slave.base + line.unwrap_or(7)
            }
            Some(line) => {
                self.state.master.acknowledge(line);
                self.state.master.base + line
            }
            None => self.state.master.base + 7,
        };
        self.update_cascade();
        vector
    }

    /// Byte read of one of the ports.
    pub fn read(&mut self, port: u16) -> u8 {
        let state = &mut self.state;
        let (chip, cascade) = match port {
            0x20 | 0x21 => (&mut state.master, Some(CASCADE)),
            0xa0 | 0xa1 => (&mut state.slave, None),
            0x4d0 => return state.master.elcr,
            0x4d1 => return state.slave.elcr,
            _ => return 0xff,
        };
        let value = if chip.poll {
            chip.poll = false;
            match chip.pending(cascade) {
                Some(line) => {
                    chip.acknowledge(line);
                    0x80 | line
                }
                None => 0,
            }
        } else if port & 1 != 0 {
            chip.imr
        } else if chip.read_isr {
            chip.isr
        } else {
            chip.irr
        };
        self.update_cascade();
        value
    }

    /// Byte write of one of the ports.
    pub fn write(&mut self, port: u16, value: u8) {
        let state = &mut self.state;
        match port {
            0x20 => state.master.write_command(value),
            0x21 => state.master.write_data(value),
            0xa0 => state.slave.write_command(value),
            0xa1 => state.slave.write_data(value),
            // Lines 0, 1, 2, 8 and 13 are always edge-triggered.
            0x4d0 => state.master.elcr = value & 0xf8,
            0x4d1 => state.slave.elcr = value & 0xde,
            _ => {}
        }
        self.update_cascade();
    }

    fn update_cascade(&mut self) {
        let level = self.state.slave.pending(None).is_some();
        // Between two slave interrupts the cascade falls in hardware for the length of the acknowledge; a drop and
        // rise here keeps the master's edge latch in step with the slave.
        self.state.master.set_line(CASCADE, level);
        if level {
            self.state.master.irr |= 1 << CASCADE;
        } else {
            self.state.master.irr &= !(1 << CASCADE);
        }
    }
}

impl Snapshot for PicPair {
    const KIND: &'static str = "8259";
    const VERSION: u16 = 1;
    type State = PicState;

    fn save(&self) -> PicState {
        let Self { state } = self;
        state.clone()
    }

    fn restore(&mut self, state: PicState) -> Result<(), RestoreError> {
        for chip in [&state.master, &state.slave] {
            if chip.first > 7 || chip.base & 7 != 0 || !matches!(chip.expect, 0 | 2..=4) {
                let reason = format!("first {}, base {:#x}, expect {}", chip.first, chip.base, chip.expect);
                return Err(RestoreError::Invalid { kind: Self::KIND, reason });
            }
        }
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initialised(icw4: u8) -> PicPair {
        let mut pic = PicPair::new();
        for (port, base, icw3) in [(0x20, 0x30, 4), (0xa0, 0x38, 2)] {
            pic.write(port, 0x11);
            pic.write(port + 1, base);
            pic.write(port + 1, icw3);
            pic.write(port + 1, icw4);
        }
        pic
    }

    #[test]
    fn priorities_nest_until_the_end_of_interrupt() {
        let mut pic = initialised(1);
        pic.set_line(4, true);
        assert_eq!(pic.acknowledge(), 0x34);
        pic.set_line(6, true);
        assert!(!pic.output(), "a lower priority waits");
        pic.set_line(1, true);
        assert_eq!(pic.acknowledge(), 0x31);
        pic.write(0x20, 0x20);
        assert!(!pic.output());
        pic.write(0x20, 0x64);
        assert_eq!(pic.acknowledge(), 0x36);
    }

    #[test]
    fn the_slave_is_served_through_line_2() {
        let mut pic = initialised(1);
        pic.set_line(8, true);
        pic.set_line(12, true);
        assert_eq!(pic.acknowledge(), 0x38);
        pic.write(0xa0, 0x0b);
        assert_eq!(pic.read(0xa0), 1, "in service on the slave");
        pic.write(0xa0, 0x20);
        pic.write(0x20, 0x20);
        assert_eq!(pic.acknowledge(), 0x3c);
    }

    #[test]
    fn a_vanished_request_is_spurious() {
        let mut pic = initialised(1);
        pic.write(0x4d0, 0x20);
        pic.set_line(5, true);
        assert!(pic.output());
        pic.set_line(5, false);
        assert!(!pic.output());
        assert_eq!(pic.acknowledge(), 0x37);
        pic.write(0x20, 0x0b);
        assert_eq!(pic.read(0x20), 0, "a spurious interrupt is not in service");
    }

    #[test]
    fn automatic_eoi_rotates() {
        let mut pic = initialised(3);
        pic.write(0x20, 0x80);
        pic.set_line(3, true);
        assert_eq!(pic.acknowledge(), 0x33);
        pic.set_line(3, false);
        pic.set_line(3, true);
        pic.set_line(4, true);
        assert_eq!(pic.acknowledge(), 0x34, "line 3 went to the lowest priority");
        assert_eq!(pic.acknowledge(), 0x33);
    }

    #[test]
    fn polling_acknowledges() {
        let mut pic = initialised(1);
        pic.set_line(6, true);
        pic.write(0x20, 0x0c);
        assert_eq!(pic.read(0x20), 0x86);
        pic.write(0x20, 0x0c);
        assert_eq!(pic.read(0x20), 0);
        pic.write(0x20, 0x0b);
        assert_eq!(pic.read(0x20), 0x40);
    }

    #[test]
    fn special_mask_lets_lower_priorities_in() {
        let mut pic = initialised(1);
        pic.set_line(1, true);
        assert_eq!(pic.acknowledge(), 0x31);
        pic.write(0x21, 0x02);
        pic.set_line(5, true);
        assert!(!pic.output());
        pic.write(0x20, 0x68);
        assert_eq!(pic.acknowledge(), 0x35);
    }

    #[test]
    fn state_survives() {
        let mut pic = initialised(1);
        pic.set_line(9, true);
        pic.write(0x4d1, 0xff);
        assert_eq!(pic.read(0x4d1), 0xde);
        crate::devices::testing::check_snapshot(&mut pic, PicPair::new());
    }
}
