//! One counter of the 8254.
//!
//! The counting element is computed from guest time since the load or trigger; `settle` puts a waiting count in force.

use serde::{Deserialize, Serialize};

use super::PIT_HZ;
use crate::bits::{low8, low16, low32};

/// What a channel is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PitRun {
    /// No count since the control word, or a trigger is awaited.
    Stopped,
    /// Counts since this guest time.
    Since {
        /// Guest time of the load or trigger.
        start_ns: u64,
    },
    /// The gate is low after this many ticks.
    Held {
        /// Ticks counted.
        ticks: u64,
    },
}

/// State of one channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitChannel {
    /// Mode, 0 to 5.
    pub mode: u8,
    /// Counts in BCD.
    pub bcd: bool,
    /// Access: 1 low byte, 2 high byte, 3 both.
    pub access: u8,
    /// Level of the gate input.
    pub gate: bool,
    /// Count in force, 1 to 65536; 0 before any was written.
    pub count: u32,
    /// A count that takes effect at this tick (modes 2 and 3 while counting) or at the next trigger.
    pub next: Option<(u64, u32)>,
    /// Whether it counts.
    pub run: PitRun,
    /// Rising edges of the output since the load that were reported.
    pub edges_seen: u64,
    /// An edge before the last reload is still to be reported.
    pub edge_owed: bool,
    /// First byte of a two-byte write.
    pub low_byte: Option<u8>,
    /// The next byte read is the high one.
    pub read_high: bool,
    /// Latched count.
    pub latch: Option<u16>,
    /// Latched status.
    pub status: Option<u8>,
}

impl PitChannel {
    pub(super) fn new(gate: bool) -> Self {
        Self {
            mode: 0,
            bcd: false,
            access: 3,
            gate,
            count: 0,
            next: None,
            run: PitRun::Stopped,
            edges_seen: 0,
            edge_owed: false,
            low_byte: None,
            read_high: false,
            latch: None,
            status: None,
        }
    }

    fn ticks(&self, now_ns: u64) -> Option<u64> {
        match self.run {
            PitRun::Stopped => None,
            PitRun::Since { start_ns } => Some(ns_to_ticks(now_ns.saturating_sub(start_ns))),
            PitRun::Held { ticks } => Some(ticks),
        }
    }

    /// Makes a waiting count the one in force when its time has come.
    pub(super) fn settle(&mut self, now_ns: u64) {
        let (Some((at, count)), PitRun::Since { start_ns }) = (self.next, self.run) else {
            return;
        };
        if at != u64::MAX && ns_to_ticks(now_ns.saturating_sub(start_ns)) >= at {
            self.edge_owed |= at / u64::from(self.count) > self.edges_seen;
            self.run = PitRun::Since { start_ns: start_ns.saturating_add(ticks_to_ns(at)) };
            self.count = count;
            self.edges_seen = 0;
            self.next = None;
        }
    }

    /// Level of the output; the channel must be settled at `now_ns`.
    pub(super) fn output(&self, now_ns: u64) -> bool {
        let count = u64::from(self.count);
        let Some(ticks) = self.ticks(now_ns) else {
            return self.mode != 0;
        };
        match self.mode {
            0 | 1 => ticks >= count,
            2 => !self.gate || ticks % count != count - 1,
            3 => !self.gate || ticks % count < count.div_ceil(2),
            _ => ticks != count,
        }
    }

    /// Value of the counting element.
    fn value(&self, now_ns: u64) -> u16 {
        let count = u64::from(self.count);
        let wrap = if self.bcd { 10_000 } else { 0x1_0000 };
        let value = match self.ticks(now_ns) {
            None => count % wrap,
            Some(ticks) => match self.mode {
                2 => count - ticks % count,
                // Square wave: counts down by two, twice per period.
                3 => {
                    let phase = ticks % count;
                    let half = count.div_ceil(2);
                    let in_half = if phase < half { phase } else { phase - half };
                    (count & !1).saturating_sub(2 * in_half)
                }
                _ => (count + wrap - ticks % wrap) % wrap,
            },
        };
        let value = value % wrap;
        low16(if self.bcd { to_bcd(value) } else { value })
    }

    /// Rising edges of the output after `ticks`.
    fn edges(&self, ticks: u64) -> u64 {
        let count = u64::from(self.count);
        match self.mode {
            0 | 1 => u64::from(ticks >= count),
            2 | 3 => ticks / count,
            _ => u64::from(ticks > count),
        }
    }

    /// Guest time of the next rising edge that was not reported.
    pub(super) fn deadline_ns(&self) -> u64 {
        if self.edge_owed {
            return 0;
        }
        let PitRun::Since { start_ns } = self.run else {
            return u64::MAX;
        };
        let count = u64::from(self.count);
        let tick = match self.mode {
            2 | 3 => self.next.map_or(u64::MAX, |(at, _)| at).min((self.edges_seen + 1) * count),
            _ if self.edges_seen > 0 => return u64::MAX,
            0 | 1 => count,
            _ => count + 1,
        };
        start_ns.saturating_add(ticks_to_ns(tick))
    }

    /// Brings the channel to `now_ns`; true when the output rose meanwhile.
    pub(super) fn take_edge(&mut self, now_ns: u64) -> bool {
        self.settle(now_ns);
        let edges = self.ticks(now_ns).map_or(0, |ticks| self.edges(ticks));
        let rose = self.edge_owed || edges > self.edges_seen;
        self.edge_owed = false;
        self.edges_seen = self.edges_seen.max(edges);
        rose
    }

    fn start(&mut self, now_ns: u64) {
        if let Some((_, count)) = self.next.take() {
            self.count = count;
        }
        if self.count == 0 {
            return;
        }
        self.edges_seen = 0;
        self.run = PitRun::Since { start_ns: now_ns };
    }

    fn load(&mut self, raw: u16, now_ns: u64) {
        let value = if self.bcd { from_bcd(raw) } else { u32::from(raw) };
        let whole = if self.bcd { 10_000 } else { 0x1_0000 };
        let value = if value == 0 { whole } else { value };
        self.settle(now_ns);
        match (self.mode, self.run) {
            // Triggered by the gate.
            (1 | 5, PitRun::Stopped) => self.count = value,
            (1 | 5, _) => self.next = Some((u64::MAX, value)),
            // A running period is finished with the old count.
            (2 | 3, PitRun::Since { start_ns }) => {
                let ticks = ns_to_ticks(now_ns.saturating_sub(start_ns));
                let period = u64::from(self.count);
                self.next = Some(((ticks / period + 1) * period, value));
            }
            _ => {
                self.count = value;
                self.next = None;
                self.start(now_ns);
                if !self.gate {
                    self.run = PitRun::Held { ticks: 0 };
                }
            }
        }
    }

    pub(super) fn set_gate(&mut self, gate: bool, now_ns: u64) {
        if gate == self.gate {
            return;
        }
        self.settle(now_ns);
        self.gate = gate;
        match (self.mode, gate, self.run) {
            (1 | 5, true, _) => self.start(now_ns),
            (2 | 3, true, PitRun::Held { .. }) => self.start(now_ns),
            (0 | 4, true, PitRun::Held { ticks }) => {
                self.run = PitRun::Since { start_ns: now_ns.saturating_sub(ticks_to_ns(ticks)) };
            }
            (0 | 2 | 3 | 4, false, PitRun::Since { start_ns }) => {
                self.run = PitRun::Held { ticks: ns_to_ticks(now_ns.saturating_sub(start_ns)) };
            }
            _ => {}
        }
    }

    pub(super) fn control(&mut self, value: u8) {
        let mode = (value >> 1) & 7;
        *self = Self {
            mode: if mode > 5 { mode - 4 } else { mode },
            bcd: value & 1 != 0,
            access: (value >> 4) & 3,
            ..Self::new(self.gate)
        };
    }

    pub(super) fn status_byte(&self, now_ns: u64) -> u8 {
        let null = self.count == 0 || self.next.is_some();
        (u8::from(self.output(now_ns)) << 7)
            | (u8::from(null) << 6)
            | (self.access << 4)
            | (self.mode << 1)
            | u8::from(self.bcd)
    }

    pub(super) fn latch_count(&mut self, now_ns: u64) {
        if self.latch.is_none() {
            self.latch = Some(self.value(now_ns));
        }
    }

    pub(super) fn read(&mut self, now_ns: u64) -> u8 {
        self.settle(now_ns);
        if let Some(status) = self.status.take() {
            return status;
        }
        let value = u64::from(self.latch.unwrap_or_else(|| self.value(now_ns)));
        let (byte, last) = match self.access {
            1 => (low8(value), true),
            2 => (low8(value >> 8), true),
            _ if self.read_high => (low8(value >> 8), true),
            _ => (low8(value), false),
        };
        self.read_high = !last;
        if last {
            self.latch = None;
        }
        byte
    }

    pub(super) fn write(&mut self, value: u8, now_ns: u64) {
        match (self.access, self.low_byte) {
            (1, _) => self.load(u16::from(value), now_ns),
            (2, _) => self.load(u16::from(value) << 8, now_ns),
            (_, None) => {
                self.low_byte = Some(value);
                if self.mode == 0 {
                    // The first byte stops the counting of mode 0.
                    self.run = PitRun::Stopped;
                }
            }
            (_, Some(low)) => {
                self.low_byte = None;
                self.load(u16::from_le_bytes([low, value]), now_ns);
            }
        }
    }
}

/// Whole ticks in a time.
fn ns_to_ticks(ns: u64) -> u64 {
    u64::try_from(u128::from(ns) * u128::from(PIT_HZ) / 1_000_000_000).unwrap_or(u64::MAX)
}

/// The first nanosecond at which that many ticks have passed.
pub(super) fn ticks_to_ns(ticks: u64) -> u64 {
    u64::try_from((u128::from(ticks) * 1_000_000_000).div_ceil(u128::from(PIT_HZ))).unwrap_or(u64::MAX)
}

fn to_bcd(value: u64) -> u64 {
    (0..4).fold(0, |bcd, digit| bcd | ((value / 10u64.pow(digit) % 10) << (4 * digit)))
}

fn from_bcd(value: u16) -> u32 {
    (0..4u32).fold(0, |sum, digit| sum + low32(u64::from((value >> (4 * digit)) & 0xf)) * 10u32.pow(digit)) % 10_000
}
