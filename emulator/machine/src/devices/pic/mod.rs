//! The pair of 8259A interrupt controllers, with the edge/level registers of later chipsets.
//!
//! Ports 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1. All initialisation and operation command words are there: cascade,
//! automatic EOI, rotation, special mask, special fully nested mode, polling. Deviations: the mode for
//! the 8080 and buffered mode have no meaning here, and a request latched by an edge stays latched when its line
//! falls before it is acknowledged (the 8259A would deliver a spurious IRQ 7).

mod chip;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::snapshot::{RestoreError, Snapshot};
pub use chip::PicRegisters;

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
