//! 16550A UART.
//!
//! Eight ports from a base. The transmitter is immediate: a byte written leaves at once as an output and the holding
//! register is empty again, so a guest never waits for a reader. Received bytes wait in a bounded queue behind the
//! 16-byte FIFO and move up as the guest reads; the guest therefore never sees an overrun. What does not fit the queue is dropped and
//! counted. Character times (for the receive timeout) follow the divisor latch; no other timing does.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Device;
use crate::bits::low8;
use crate::context::{DeviceContext, Effect, InterruptLine};
use crate::io::{CharPort, Output};
use crate::snapshot::{RestoreError, Snapshot};

const FIFO_BYTES: usize = 16;
/// Bytes that wait behind the FIFO.
pub const QUEUE_BYTES: usize = 64 << 10;
/// Input clock; the divisor divides it by sixteen.
const CLOCK_HZ: u64 = 1_843_200;

const IER_RECEIVE: u8 = 1;
const IER_TRANSMIT: u8 = 2;
const IER_LINE: u8 = 4;
const IER_MODEM: u8 = 8;
const FCR_ENABLE: u8 = 1;
const LCR_DLAB: u8 = 0x80;
const MCR_OUT2: u8 = 8;
const MCR_LOOP: u8 = 0x10;
const LSR_DATA: u8 = 1;
const LSR_OVERRUN: u8 = 2;
const LSR_EMPTY: u8 = 0x60;
/// Carrier, data set ready, clear to send: the other end is always there.
const MSR_CONNECTED: u8 = 0xb0;

/// State of [`Uart`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UartRegisters {
    /// Interrupt enable.
    pub ier: u8,
    /// FIFO control: enable and trigger bits.
    pub fcr: u8,
    /// Line control.
    pub lcr: u8,
    /// Modem control.
    pub mcr: u8,
    /// Line status errors (bits 4:1) that wait for a read.
    pub lsr_errors: u8,
    /// Modem status; bits 3:0 are changes since the last read.
    pub msr: u8,
    /// Scratch.
    pub scr: u8,
    /// Divisor latch.
    pub divisor: u16,
    /// The receiver FIFO, or the single receive buffer.
    pub fifo: VecDeque<u8>,
    /// Received bytes that wait for room in the FIFO.
    pub queue: VecDeque<u8>,
    /// A transmit interrupt is pending.
    pub transmit_pending: bool,
    /// A receive timeout is pending.
    pub timeout_pending: bool,
    /// Guest time at which the receive timeout happens; `u64::MAX` for none.
    pub timeout_ns: u64,
    /// Level of the interrupt line.
    pub line: bool,
    /// Received bytes dropped because the queue was full.
    pub dropped: u64,
}

/// A 16550A.
#[derive(Debug, Clone)]
pub struct Uart {
    registers: UartRegisters,
    /// Configuration: which serial port, its first I/O port, its interrupt line.
    index: u8,
    base: u16,
    irq: InterruptLine,
}

impl Uart {
    /// Serial port `index` at I/O port `base`.
    #[must_use]
    pub fn new(index: u8, base: u16, irq: InterruptLine) -> Self {
        let registers =
            UartRegisters { msr: MSR_CONNECTED, divisor: 12, timeout_ns: u64::MAX, ..UartRegisters::default() };
        Self { registers, index, base, irq }
    }

    /// Bytes arrive from outside.
    pub fn receive(&mut self, cx: &mut DeviceContext<'_>, data: &[u8]) {
        for &byte in data {
            if self.registers.queue.len() < QUEUE_BYTES {
                self.registers.queue.push_back(byte);
            } else {
                self.registers.dropped += 1;
            }
        }
        self.fill(cx.now_ns);
        self.update(cx);
    }

    /// Received bytes that were dropped because the queue was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.registers.dropped
    }

    fn fifo_enabled(&self) -> bool {
        self.registers.fcr & FCR_ENABLE != 0
    }

    fn fifo_size(&self) -> usize {
        if self.fifo_enabled() { FIFO_BYTES } else { 1 }
    }

    fn trigger(&self) -> usize {
        if !self.fifo_enabled() {
            return 1;
        }
        [1, 4, 8, 14][usize::from(self.registers.fcr >> 6)]
    }

    /// Moves waiting bytes into the FIFO; in loopback the receiver is cut off from the wire.
    fn fill(&mut self, now_ns: u64) {
        let size = self.fifo_size();
        let registers = &mut self.registers;
        if registers.mcr & MCR_LOOP == 0 {
            let room = size.saturating_sub(registers.fifo.len()).min(registers.queue.len());
            registers.fifo.extend(registers.queue.drain(..room));
        }
        self.restart_timeout(now_ns);
    }

    /// Four character times without a read while bytes below the trigger wait.
    fn restart_timeout(&mut self, now_ns: u64) {
        let waits = self.fifo_enabled() && !self.registers.fifo.is_empty();
        if self.registers.fifo.is_empty() {
            self.registers.timeout_pending = false;
        }
        self.registers.timeout_ns = if waits && self.registers.fifo.len() < self.trigger() {
            now_ns.saturating_add(4 * self.character_ns())
        } else {
            u64::MAX
        };
    }

    fn character_ns(&self) -> u64 {
        let lcr = self.registers.lcr;
        let bits = 1 + 5 + u64::from(lcr & 3) + u64::from(lcr >> 3 & 1) + 1 + u64::from(lcr >> 2 & 1);
        let divisor = u64::from(self.registers.divisor.max(1));
        bits * divisor * 16 * 1_000_000_000 / CLOCK_HZ
    }

    fn transmit(&mut self, cx: &mut DeviceContext<'_>, value: u8) {
        if self.registers.mcr & MCR_LOOP != 0 {
            if self.registers.fifo.len() < self.fifo_size() {
                self.registers.fifo.push_back(value);
            } else {
                self.registers.lsr_errors |= LSR_OVERRUN;
            }
            self.restart_timeout(cx.now_ns);
        } else {
            let port = CharPort::Serial(self.index);
            cx.effects.push(Effect::Output(Output::CharTransmit { port, data: vec![value] }));
        }
        self.registers.transmit_pending = true;
    }

    fn line_status(&self) -> u8 {
        let data = if self.registers.fifo.is_empty() { 0 } else { LSR_DATA };
        data | self.registers.lsr_errors | LSR_EMPTY
    }

    /// The highest-priority cause as bits 3:0 of the identification register; bit 0 set for none.
    fn cause(&self) -> u8 {
        let registers = &self.registers;
        if registers.ier & IER_LINE != 0 && registers.lsr_errors != 0 {
            6
        } else if registers.ier & IER_RECEIVE != 0 && registers.fifo.len() >= self.trigger() {
            4
        } else if registers.ier & IER_RECEIVE != 0 && registers.timeout_pending {
            12
        } else if registers.ier & IER_TRANSMIT != 0 && registers.transmit_pending {
            2
        } else if registers.ier & IER_MODEM != 0 && registers.msr & 0xf != 0 {
            0
        } else {
            1
        }
    }

    fn update(&mut self, cx: &mut DeviceContext<'_>) {
        // OUT2 connects the interrupt to the bus on a PC; loopback disconnects it.
        let connected = self.registers.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2;
        let level = connected && self.cause() & 1 == 0;
        if level != self.registers.line {
            self.registers.line = level;
            cx.effects.push(Effect::Line(self.irq, level));
        }
    }

    fn read_identification(&mut self) -> u8 {
        let cause = self.cause();
        if cause == 2 {
            self.registers.transmit_pending = false;
        }
        cause | if self.fifo_enabled() { 0xc0 } else { 0 }
    }

    fn read_data(&mut self, now_ns: u64) -> u8 {
        let byte = self.registers.fifo.pop_front().unwrap_or(0);
        self.registers.timeout_pending = false;
        self.fill(now_ns);
        byte
    }

    fn write_fcr(&mut self, value: u8, now_ns: u64) {
        let registers = &mut self.registers;
        let toggled = (registers.fcr ^ value) & FCR_ENABLE != 0;
        if toggled || value & 2 != 0 {
            registers.fifo.clear();
            registers.timeout_pending = false;
        }
        if toggled || value & 4 != 0 {
            registers.transmit_pending = true;
        }
        registers.fcr = if value & FCR_ENABLE != 0 { value & 0xc9 } else { 0 };
        self.fill(now_ns);
    }

    fn write_mcr(&mut self, value: u8, now_ns: u64) {
        self.registers.mcr = value & 0x1f;
        let signals = if value & MCR_LOOP != 0 {
            // DTR to DSR, RTS to CTS, OUT1 to RI, OUT2 to DCD.
            (value & 1) << 5 | (value & 2) << 3 | (value & 4) << 4 | (value & 8) << 4
        } else {
            MSR_CONNECTED
        };
        let changed = (self.registers.msr ^ signals) & 0xf0;
        // The ring bit reports the trailing edge only.
        let ring = if changed & 0x40 != 0 && signals & 0x40 != 0 { 0x40 } else { 0 };
        let delta = (changed & !ring) >> 4;
        self.registers.msr = signals | (self.registers.msr & 0xf) | delta;
        self.fill(now_ns);
    }
}

impl Device for Uart {
    fn read(&mut self, cx: &mut DeviceContext<'_>, port: u16) -> u8 {
        let dlab = self.registers.lcr & LCR_DLAB != 0;
        let value = match port.wrapping_sub(self.base) {
            0 if dlab => low8(u64::from(self.registers.divisor)),
            1 if dlab => low8(u64::from(self.registers.divisor >> 8)),
            0 => self.read_data(cx.now_ns),
            1 => self.registers.ier,
            2 => self.read_identification(),
            3 => self.registers.lcr,
            4 => self.registers.mcr,
            5 => {
                let value = self.line_status();
                self.registers.lsr_errors = 0;
                value
            }
            6 => {
                let value = self.registers.msr;
                self.registers.msr &= 0xf0;
                value
            }
            7 => self.registers.scr,
            _ => 0xff,
        };
        self.update(cx);
        value
    }

    fn write(&mut self, cx: &mut DeviceContext<'_>, port: u16, value: u8) {
        let dlab = self.registers.lcr & LCR_DLAB != 0;
        match port.wrapping_sub(self.base) {
            0 if dlab => self.registers.divisor = (self.registers.divisor & 0xff00) | u16::from(value),
            1 if dlab => self.registers.divisor = (self.registers.divisor & 0xff) | (u16::from(value) << 8),
            0 => self.transmit(cx, value),
            1 => {
                let rising = !self.registers.ier & value & IER_TRANSMIT != 0;
                self.registers.ier = value & 0xf;
                // The holding register is always empty: enabling its interrupt raises it.
                self.registers.transmit_pending |= rising;
            }
            2 => self.write_fcr(value, cx.now_ns),
            3 => self.registers.lcr = value,
            4 => self.write_mcr(value, cx.now_ns),
            7 => self.registers.scr = value,
            _ => {}
        }
        self.update(cx);
    }

    fn deadline_ns(&self) -> u64 {
        self.registers.timeout_ns
    }

    fn advance(&mut self, cx: &mut DeviceContext<'_>) {
        if cx.now_ns >= self.registers.timeout_ns {
            self.registers.timeout_ns = u64::MAX;
            self.registers.timeout_pending = true;
            self.update(cx);
        }
    }

    fn reset(&mut self, cx: &mut DeviceContext<'_>) {
        // Bytes on the wire are not lost by a reset of the board.
        let queue = std::mem::take(&mut self.registers.queue);
        let (dropped, line) = (self.registers.dropped, self.registers.line);
        *self = Self::new(self.index, self.base, self.irq);
        self.registers.queue = queue;
        self.registers.dropped = dropped;
        self.registers.line = line;
        self.update(cx);
    }
}

impl Snapshot for Uart {
    const KIND: &'static str = "16550A";
    const VERSION: u16 = 1;
    type State = UartRegisters;

    fn save(&self) -> UartRegisters {
        let Self { registers, index: _, base: _, irq: _ } = self;
        registers.clone()
    }

    fn restore(&mut self, state: UartRegisters) -> Result<(), RestoreError> {
        if state.fifo.len() > FIFO_BYTES || state.queue.len() > QUEUE_BYTES {
            let reason = format!("{} bytes in the FIFO, {} behind it", state.fifo.len(), state.queue.len());
            return Err(RestoreError::Invalid { kind: Self::KIND, reason });
        }
        self.registers = state;
        Ok(())
    }
}
