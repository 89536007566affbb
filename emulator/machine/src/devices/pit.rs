//! The 8254 interval timer and the system control port 0x61.
//!
//! Ports 0x40 to 0x43 and 0x61. Channel 0 drives ISA line 0, channel 2 the speaker; its gate and output are in port
//! 0x61. Counters are computed from guest time, [`PIT_HZ`] ticks a second counted from the load. All six modes, BCD,
//! both latches and read-back are there.
//!
//! Missed ticks coalesce: when several periods of channel 0 passed at once, the line rises once. The line is lowered
//! only just before it rises again; every input of it is edge-triggered, so nothing sees the difference. Writing a
//! control word does not raise the line by itself.

use serde::{Deserialize, Serialize};

use super::Device;
use crate::bits::{low8, low16, low32};
use crate::context::{DeviceContext, Effect, InterruptLine};
use crate::snapshot::{RestoreError, Snapshot};

/// Input clock of every channel.
pub const PIT_HZ: u64 = 1_193_182;

/// Half period of the refresh signal in bit 4 of port 0x61.
const REFRESH_NS: u64 = 15_085;

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
    fn new(gate: bool) -> Self {
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
    fn settle(&mut self, now_ns: u64) {
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
    fn output(&self, now_ns: u64) -> bool {
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
    fn deadline_ns(&self) -> u64 {
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
    fn take_edge(&mut self, now_ns: u64) -> bool {
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

    fn set_gate(&mut self, gate: bool, now_ns: u64) {
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

    fn control(&mut self, value: u8) {
        let mode = (value >> 1) & 7;
        *self = Self {
            mode: if mode > 5 { mode - 4 } else { mode },
            bcd: value & 1 != 0,
            access: (value >> 4) & 3,
            ..Self::new(self.gate)
        };
    }

    fn status_byte(&self, now_ns: u64) -> u8 {
        let null = self.count == 0 || self.next.is_some();
        (u8::from(self.output(now_ns)) << 7)
            | (u8::from(null) << 6)
            | (self.access << 4)
            | (self.mode << 1)
            | u8::from(self.bcd)
    }

    fn latch_count(&mut self, now_ns: u64) {
        if self.latch.is_none() {
            self.latch = Some(self.value(now_ns));
        }
    }

    fn read(&mut self, now_ns: u64) -> u8 {
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

    fn write(&mut self, value: u8, now_ns: u64) {
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

/// State of [`Pit`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitState {
    /// The three channels.
    pub channels: [PitChannel; 3],
    /// Bits 3:0 of port 0x61.
    pub control: u8,
}

/// The 8254.
#[derive(Debug, Clone)]
pub struct Pit {
    state: PitState,
}

impl Default for Pit {
    fn default() -> Self {
        Self::new()
    }
}

impl Pit {
    /// Power-on state: no channel counts, the gate of channel 2 is low.
    #[must_use]
    pub fn new() -> Self {
        let channels = [PitChannel::new(true), PitChannel::new(true), PitChannel::new(false)];
        Self { state: PitState { channels, control: 0 } }
    }

    fn write_control(&mut self, value: u8, cx: &mut DeviceContext<'_>) {
        let now_ns = cx.now_ns;
        let select = usize::from(value >> 6);
        if select == 3 {
            // Read-back: bits 5 and 4 are active low.
            for (index, channel) in self.state.channels.iter_mut().enumerate() {
                if value & (2 << index) == 0 {
                    continue;
                }
                channel.settle(now_ns);
                if value & 0x20 == 0 {
                    channel.latch_count(now_ns);
                }
                if value & 0x10 == 0 && channel.status.is_none() {
                    channel.status = Some(channel.status_byte(now_ns));
                }
            }
            return;
        }
        let channel = &mut self.state.channels[select];
        channel.settle(now_ns);
        if value & 0x30 == 0 {
            channel.latch_count(now_ns);
            return;
        }
        channel.control(value);
        if select == 0 {
            cx.effects.push(Effect::Line(InterruptLine(0), false));
        }
    }
}

impl Device for Pit {
    fn read(&mut self, cx: &mut DeviceContext<'_>, port: u16) -> u8 {
        match port {
            0x40..=0x42 => self.state.channels[usize::from(port - 0x40)].read(cx.now_ns),
            0x61 => {
                let channel = &mut self.state.channels[2];
                channel.settle(cx.now_ns);
                let refresh = (cx.now_ns / REFRESH_NS) & 1;
                self.state.control | (low8(refresh) << 4) | (u8::from(channel.output(cx.now_ns)) << 5)
            }
            _ => 0xff,
        }
    }

    fn write(&mut self, cx: &mut DeviceContext<'_>, port: u16, value: u8) {
        self.advance(cx);
        match port {
            0x40..=0x42 => {
                self.state.channels[usize::from(port - 0x40)].write(value, cx.now_ns);
                if port == 0x40 && self.state.channels[0].mode == 0 {
                    cx.effects.push(Effect::Line(InterruptLine(0), false));
                }
            }
            0x43 => self.write_control(value, cx),
            0x61 => {
                self.state.control = value & 0xf;
                self.state.channels[2].set_gate(value & 1 != 0, cx.now_ns);
            }
            _ => {}
        }
    }

    fn deadline_ns(&self) -> u64 {
        self.state.channels[0].deadline_ns()
    }

    fn advance(&mut self, cx: &mut DeviceContext<'_>) {
        if self.state.channels[0].take_edge(cx.now_ns) {
            cx.effects.push(Effect::Line(InterruptLine(0), false));
            cx.effects.push(Effect::Line(InterruptLine(0), true));
        }
    }

    fn reset(&mut self, cx: &mut DeviceContext<'_>) {
        *self = Self::new();
        cx.effects.push(Effect::Line(InterruptLine(0), false));
    }
}

impl Snapshot for Pit {
    const KIND: &'static str = "8254";
    const VERSION: u16 = 1;
    type State = PitState;

    fn save(&self) -> PitState {
        let Self { state } = self;
        state.clone()
    }

    fn restore(&mut self, state: PitState) -> Result<(), RestoreError> {
        for channel in &state.channels {
            let counts = [Some(channel.count), channel.next.map(|(_, count)| count)];
            let bad_count = counts.into_iter().flatten().any(|count| count > 0x1_0000);
            let runs_on_nothing = channel.run != PitRun::Stopped && channel.count == 0;
            let bad_next = channel.next.is_some_and(|(at, count)| count == 0 || (at != u64::MAX && at > 1 << 60));
            let bad_edges = channel.edges_seen > 1 << 44;
            let bad_mode = channel.mode > 5 || !(1..=3).contains(&channel.access);
            if bad_count || runs_on_nothing || bad_next || bad_mode || bad_edges {
                let reason = format!("impossible channel {channel:?}");
                return Err(RestoreError::Invalid { kind: Self::KIND, reason });
            }
        }
        self.state = state;
        Ok(())
    }
}

/// Whole ticks in a time.
fn ns_to_ticks(ns: u64) -> u64 {
    u64::try_from(u128::from(ns) * u128::from(PIT_HZ) / 1_000_000_000).unwrap_or(u64::MAX)
}

/// The first nanosecond at which that many ticks have passed.
fn ticks_to_ns(ticks: u64) -> u64 {
    u64::try_from((u128::from(ticks) * 1_000_000_000).div_ceil(u128::from(PIT_HZ))).unwrap_or(u64::MAX)
}

fn to_bcd(value: u64) -> u64 {
    (0..4).fold(0, |bcd, digit| bcd | ((value / 10u64.pow(digit) % 10) << (4 * digit)))
}

fn from_bcd(value: u16) -> u32 {
    (0..4u32).fold(0, |sum, digit| sum + low32(u64::from((value >> (4 * digit)) & 0xf)) * 10u32.pow(digit)) % 10_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::testing::{Bench, check_snapshot, snapshot_walk};

    fn tick(count: u64) -> u64 {
        ticks_to_ns(count)
    }

    #[test]
    fn rate_generator_ticks_at_its_period_and_coalesces() {
        let mut bench = Bench::new(Pit::new());
        bench.write(0x43, 0x34);
        bench.write(0x40, 0xa9);
        bench.write(0x40, 0x04);
        bench.effects.clear();
        assert_eq!(bench.device.deadline_ns(), tick(1193));
        bench.run_to(tick(1193) - 1);
        assert_eq!(bench.take_line(0), []);
        bench.run_to(tick(1193));
        assert_eq!(bench.take_line(0), [false, true]);
        bench.run_to(tick(1193 * 7));
        assert_eq!(bench.take_line(0), [false, true], "six periods make one edge");
        assert_eq!(bench.device.deadline_ns(), tick(1193 * 8), "the phase is kept");
    }

    #[test]
    fn a_new_period_waits_for_the_end_of_the_old_one() {
        let mut bench = Bench::new(Pit::new());
        bench.write(0x43, 0x34);
        bench.write(0x40, 100);
        bench.write(0x40, 0);
        bench.run_to(tick(130));
        bench.effects.clear();
        bench.write(0x40, 50);
        bench.write(0x40, 0);
        bench.write(0x43, 0xe2);
        assert_eq!(bench.read(0x40) & 0x40, 0x40, "the count is not in force yet");
        assert_eq!(bench.device.deadline_ns(), tick(200));
        bench.run_to(tick(200));
        assert_eq!(bench.take_line(0), [false, true]);
        assert_eq!(bench.device.deadline_ns(), tick(200) + tick(50));
    }

    #[test]
    fn terminal_count_rises_once() {
        let mut bench = Bench::new(Pit::new());
        bench.write(0x43, 0x30);
        bench.write(0x40, 10);
        bench.write(0x40, 0);
        bench.effects.clear();
        bench.run_to(tick(10));
        assert_eq!(bench.take_line(0), [false, true]);
        assert_eq!(bench.device.deadline_ns(), u64::MAX);
        bench.write(0x43, 0x00);
        bench.now_ns = tick(500);
        assert_eq!((bench.read(0x40), bench.read(0x40)), (0, 0), "latched at the terminal count");
    }

    #[test]
    fn latched_count_and_status() {
        let mut bench = Bench::new(Pit::new());
        bench.write(0x43, 0xb6);
        bench.write(0x42, 0x00);
        bench.write(0x42, 0x10);
        bench.write(0x61, 1);
        bench.now_ns = tick(0x100);
        bench.write(0x43, 0x80);
        bench.now_ns = tick(0x900);
        assert_eq!(u16::from_le_bytes([bench.read(0x42), bench.read(0x42)]), 0x1000 - 0x200);
        bench.write(0x43, 0xe8);
        assert_eq!(bench.read(0x42), 0x36, "second half: output low, count in force");
        assert_eq!(bench.read(0x61) & 0x20, 0);
        bench.now_ns = tick(0x1001);
        assert_eq!(bench.read(0x61) & 0x20, 0x20);
    }

    #[test]
    fn the_gate_holds_and_triggers() {
        let mut bench = Bench::new(Pit::new());
        bench.write(0x61, 1);
        bench.write(0x43, 0xb0);
        bench.write(0x42, 100);
        bench.write(0x42, 0);
        bench.now_ns = tick(40);
        bench.write(0x61, 0);
        bench.now_ns = tick(4000);
        assert_eq!(bench.read(0x42), 60);
        bench.read(0x42);
        bench.write(0x61, 1);
        bench.now_ns += tick(61);
        assert_eq!(bench.read(0x61) & 0x20, 0x20);

        bench.write(0x43, 0xb2);
        bench.write(0x42, 30);
        bench.write(0x42, 0);
        assert_eq!(bench.read(0x61) & 0x20, 0x20, "one-shot waits for its trigger");
        bench.write(0x61, 0);
        bench.write(0x61, 1);
        assert_eq!(bench.read(0x61) & 0x20, 0);
        bench.now_ns += tick(30);
        assert_eq!(bench.read(0x61) & 0x20, 0x20);
    }

    #[test]
    fn bcd_counts_in_decimal() {
        let mut bench = Bench::new(Pit::new());
        bench.write(0x43, 0x35);
        bench.write(0x40, 0x00);
        bench.write(0x40, 0x10);
        bench.now_ns = tick(1);
        assert_eq!((bench.read(0x40), bench.read(0x40)), (0x99, 0x09));
        check_snapshot(&mut bench.device, Pit::new());
    }

    snapshot_walk!(random_walk_is_saveable, Pit::new(), (0x40..=0x43).chain([0x61]));
}
