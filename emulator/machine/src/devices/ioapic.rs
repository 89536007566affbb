//! IO-APIC with 24 pins, version 0x20 (82093AA with the EOI register of later chipsets).
//!
//! Pins 0 to 15 carry the ISA lines, except that line 0 (the 8254) is on pin 2 and pin 0 is not connected; pins 16 to
//! 23 carry PCI INTx. An edge that arrives at a masked pin is lost, as the 82093AA manual says. A level pin
//! delivers, sets remote IRR, and delivers again after the EOI while its line is still asserted.
//! Polarity bits are kept but have no effect: a line is asserted or not.

use serde::{Deserialize, Serialize};

use crate::bits::{low8, low32};
use crate::devices::apic::{DeliveryMode, InterruptMessage};
use crate::snapshot::{RestoreError, Snapshot};

/// Number of pins.
pub const PINS: usize = 24;
/// Physical address of the register window.
pub const IOAPIC_BASE: u64 = 0xfec0_0000;

const VERSION: u32 = 0x0017_0020;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Vector, delivery mode, destination mode, polarity, trigger mode, mask, destination.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// State of [`IoApic`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApicRegisters {
    /// Register selected by the index register.
    pub select: u8,
    /// Identification, bits 27:24.
    pub id: u32,
    /// Redirection table.
    pub table: [u64; PINS],
    /// Level of each pin's line.
    pub lines: u32,
}

/// The IO-APIC.
#[derive(Debug, Clone)]
pub struct IoApic {
    registers: IoApicRegisters,
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new()
    }
}

impl IoApic {
    /// Power-on state: every pin masked.
    #[must_use]
    pub fn new() -> Self {
        Self { registers: IoApicRegisters { select: 0, id: 0, table: [MASKED; PINS], lines: 0 } }
    }

    /// The reset line: registers return to power-on, the lines keep their levels.
    pub fn reset(&mut self) {
        let lines = self.registers.lines;
        *self = Self::new();
        self.registers.lines = lines;
    }

    /// A pin's line changes. `deliver` takes a message and says whether any vCPU accepted it.
    pub fn set_pin(&mut self, pin: usize, level: bool, deliver: &mut dyn FnMut(InterruptMessage) -> bool) {
        let Some(entry) = self.registers.table.get(pin).copied() else {
            return;
        };
        let bit = 1u32 << pin;
        let rising = level && self.registers.lines & bit == 0;
        if level {
            self.registers.lines |= bit;
        } else {
            self.registers.lines &= !bit;
        }
        if entry & LEVEL != 0 {
            self.service_level(pin, deliver);
        } else if rising && entry & MASKED == 0 {
            deliver(message(entry));
        }
    }

    /// A vCPU completed a level-triggered vector: entries that wait for it may deliver again.
    pub fn end_of_interrupt(&mut self, vector: u8, deliver: &mut dyn FnMut(InterruptMessage) -> bool) {
        for pin in 0..PINS {
            let entry = &mut self.registers.table[pin];
            if low8(*entry) == vector && *entry & LEVEL != 0 {
                *entry &= !REMOTE_IRR;
                self.service_level(pin, deliver);
            }
        }
    }

    /// Read of 4 bytes at an offset of the window.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => u32::from(self.registers.select),
            0x10 => self.read_register(self.registers.select),
            _ => 0,
        }
    }

    /// Write of 4 bytes at an offset of the window.
    pub fn write(&mut self, offset: u64, value: u32, deliver: &mut dyn FnMut(InterruptMessage) -> bool) {
        match offset {
            0x00 => self.registers.select = low8(u64::from(value)),
            0x10 => self.write_register(self.registers.select, value, deliver),
            0x40 => self.end_of_interrupt(low8(u64::from(value)), deliver),
            _ => {}
        }
    }

    fn read_register(&self, index: u8) -> u32 {
        match index {
            // Arbitration ID follows the ID.
            0 | 2 => self.registers.id,
            1 => VERSION,
            0x10..=0x3f => {
                let entry = self.registers.table[usize::from((index - 0x10) / 2)];
                low32(if index & 1 == 0 { entry } else { entry >> 32 })
            }
            _ => 0,
        }
    }

    fn write_register(&mut self, index: u8, value: u32, deliver: &mut dyn FnMut(InterruptMessage) -> bool) {
        match index {
            0 => self.registers.id = value & 0x0f00_0000,
            0x10..=0x3f => {
                let pin = usize::from((index - 0x10) / 2);
                let old = self.registers.table[pin];
                let value = u64::from(value);
                let merged =
                    if index & 1 == 0 { (old & !0xffff_ffff) | value } else { (old & 0xffff_ffff) | (value << 32) };
                let mut entry = (merged & WRITABLE) | (old & REMOTE_IRR);
                if entry & LEVEL == 0 {
                    // Software clears a stuck remote IRR by switching the pin to edge.
                    entry &= !REMOTE_IRR;
                }
                self.registers.table[pin] = entry;
                self.service_level(pin, deliver);
            }
            _ => {}
        }
    }

    /// Delivers a level pin that is asserted, unmasked and not waiting for an EOI.
    fn service_level(&mut self, pin: usize, deliver: &mut dyn FnMut(InterruptMessage) -> bool) {
        let entry = self.registers.table[pin];
        let asserted = self.registers.lines & (1 << pin) != 0;
        if asserted && entry & (LEVEL | MASKED | REMOTE_IRR) == LEVEL && deliver(message(entry)) {
            self.registers.table[pin] |= REMOTE_IRR;
        }
    }
}

fn message(entry: u64) -> InterruptMessage {
    let mode = DeliveryMode::from_bits(entry >> 8);
    InterruptMessage {
        destination: low32(entry >> 56),
        wide: false,
        logical: entry & (1 << 11) != 0,
        mode,
        vector: low8(entry),
        // Only these modes use the trigger mode; NMI and INIT are always edges.
        level: entry & LEVEL != 0 && matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority),
    }
}

impl Snapshot for IoApic {
    const KIND: &'static str = "IO-APIC";
    const VERSION: u16 = 1;
    type State = IoApicRegisters;

    fn save(&self) -> IoApicRegisters {
        let Self { registers } = self;
        registers.clone()
    }

    fn restore(&mut self, state: IoApicRegisters) -> Result<(), RestoreError> {
        if state.table.iter().any(|entry| entry & !(WRITABLE | REMOTE_IRR) != 0) {
            let reason = "a redirection entry has reserved bits set".into();
            return Err(RestoreError::Invalid { kind: Self::KIND, reason });
        }
        self.registers = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(ioapic: &mut IoApic, pin: u32, entry: u64, log: &mut Vec<InterruptMessage>) {
        let mut deliver = |message| {
            log.push(message);
            true
        };
        ioapic.write(0, 0x11 + pin * 2, &mut deliver);
        ioapic.write(0x10, low32(entry >> 32), &mut deliver);
        ioapic.write(0, 0x10 + pin * 2, &mut deliver);
        ioapic.write(0x10, low32(entry), &mut deliver);
    }

    #[test]
    fn edges_deliver_once_and_are_lost_while_masked() {
        let mut ioapic = IoApic::new();
        let mut log = Vec::new();
        program(&mut ioapic, 4, MASKED | 0x41, &mut log);
        let mut sent = 0;
        let mut count = |_| {
            sent += 1;
            true
        };
        ioapic.set_pin(4, true, &mut count);
        ioapic.write(0x10, 0x41, &mut count);
        ioapic.set_pin(4, true, &mut count);
        ioapic.set_pin(4, false, &mut count);
        ioapic.set_pin(4, true, &mut count);
        assert_eq!(sent, 1, "only the edge after unmasking counts");
    }

    #[test]
    fn a_level_pin_waits_for_eoi_and_repeats_while_asserted() {
        let mut ioapic = IoApic::new();
        let mut log = Vec::new();
        program(&mut ioapic, 16, 0x0300_0000_0000_0000 | LEVEL | 0x55, &mut log);
        let mut deliver = |message| {
            log.push(message);
            true
        };
        ioapic.set_pin(16, true, &mut deliver);
        ioapic.set_pin(16, true, &mut deliver);
        ioapic.end_of_interrupt(0x54, &mut deliver);
        ioapic.end_of_interrupt(0x55, &mut deliver);
        ioapic.set_pin(16, false, &mut deliver);
        ioapic.write(0x40, 0x55, &mut deliver);
        assert_eq!(log.len(), 2);
        let expected = InterruptMessage {
            destination: 3,
            wide: false,
            logical: false,
            mode: DeliveryMode::Fixed,
            vector: 0x55,
            level: true,
        };
        assert_eq!(log[0], expected);
        assert_eq!(ioapic.save().table[16] & REMOTE_IRR, 0);
    }

    #[test]
    fn identification_and_version() {
        let mut ioapic = IoApic::new();
        let mut none = |_| false;
        ioapic.write(0, 0, &mut none);
        ioapic.write(0x10, u32::MAX, &mut none);
        assert_eq!(ioapic.read(0x10), 0x0f00_0000);
        ioapic.write(0, 1, &mut none);
        assert_eq!(ioapic.read(0x10), 0x0017_0020);
        ioapic.write(0, 0xff, &mut none);
        assert_eq!(ioapic.read(0x10), 0);
        crate::devices::testing::check_snapshot(&mut ioapic, IoApic::new());
    }
}
