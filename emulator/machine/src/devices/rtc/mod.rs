//! MC146818 real-time clock and CMOS memory.
//!
//! Ports 0x70 to 0x73 (the second pair reaches the same 128 bytes). The time shown is the origin that an input gives
//! plus guest time, plus what the guest set. Periodic, alarm and update-ended interrupts, BCD and binary, 12 and 24 hours,
//! century in byte 0x32. Deviations: all time registers change together at the second; daylight saving is
//! not done; the update-in-progress bit is set for the 244 µs before the second only, because there is no
//! update time in which registers would be torn. Missed periodic ticks coalesce: flags are single bits.

mod calendar;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::Device;
use crate::bits::{byte, low8, to_usize};
use crate::context::{DeviceContext, Effect, InterruptLine};
use crate::snapshot::{RestoreError, Snapshot};
use calendar::{DateTime, Format};

const SECOND_NS: u64 = 1_000_000_000;
const UPDATE_AHEAD_NS: u64 = 244_000;
const LINE: InterruptLine = InterruptLine(8);
const CMOS_BYTES: usize = 128;

const REG_A: usize = 0x0a;
const REG_B: usize = 0x0b;
const REG_C: usize = 0x0c;
const REG_D: usize = 0x0d;
const CENTURY: usize = 0x32;
/// Seconds, minutes, hours, day of week, day, month, year, century.
const TIME_REGISTERS: [usize; 8] = [0, 2, 4, 6, 7, 8, 9, CENTURY];

const A_UPDATE: u8 = 0x80;
const B_SET: u8 = 0x80;
const B_PERIODIC: u8 = 0x40;
const B_ALARM: u8 = 0x20;
const B_UPDATE: u8 = 0x10;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;
const C_REQUEST: u8 = 0x80;

/// State of [`Rtc`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcState {
    /// Register selected through port 0x70.
    pub index: u8,
    /// 128 bytes. While the clock runs the time registers in here are stale; while it is set they hold the time.
    pub cmos: Vec<u8>,
    /// Nanoseconds since 1970 at guest time zero, as shown by this clock.
    pub origin_ns: i128,
    /// Guest time up to which the flags of register C are computed.
    pub settled_ns: u64,
    /// Level of the interrupt line.
    pub line: bool,
}

/// The clock.
#[derive(Debug, Clone)]
pub struct Rtc {
    state: RtcState,
}

impl Default for Rtc {
    fn default() -> Self {
        Self::new()
    }
}

impl Rtc {
    /// Power-on state: 24 hours, BCD, running from 1970-01-01 until an origin is given.
    #[must_use]
    pub fn new() -> Self {
        let mut cmos = vec![0; CMOS_BYTES];
        cmos[REG_A] = 0x26;
        cmos[REG_B] = B_24_HOURS;
        cmos[REG_D] = 0x80;
        Self { state: RtcState { index: 0, cmos, origin_ns: 0, settled_ns: 0, line: false } }
    }

    /// Writes the memory sizes that firmware leaves in CMOS: conventional, extended, above 16 MiB, above 4 GiB.
    pub fn set_memory_size(&mut self, below_4g: u64, above_4g: u64) {
        let cmos = &mut self.state.cmos;
        let extended_kib = (below_4g.saturating_sub(1 << 20) >> 10).min(0xffff);
        let above_16m = (below_4g.saturating_sub(16 << 20) >> 16).min(0xffff);
        let above_4g = (above_4g >> 16).min(0xff_ffff);
        let words: [(usize, u64, u32); 5] = [
            (0x15, 640, 2),
            (0x17, extended_kib, 2),
            (0x30, extended_kib, 2),
            (0x34, above_16m, 2),
            (0x5b, above_4g, 3),
        ];
        for (at, value, count) in words {
            for (index, cell) in (0..count).zip(&mut cmos[at..]) {
                *cell = byte(value, index);
            }
        }
    }

    /// The wall clock at guest time zero becomes known.
    pub fn set_origin(&mut self, cx: &mut DeviceContext<'_>, unix_ns: u64) {
        self.settle(cx);
        self.state.origin_ns = i128::from(unix_ns);
    }

    fn reg_b(&self) -> u8 {
        self.state.cmos[REG_B]
    }

    /// The clock does not advance: SET, or the divider held in reset.
    fn frozen(&self) -> bool {
        self.reg_b() & B_SET != 0 || self.state.cmos[REG_A] & 0x60 == 0x60
    }

    fn format(&self) -> Format {
        Format { binary: self.reg_b() & B_BINARY != 0, hours_24: self.reg_b() & B_24_HOURS != 0 }
    }

    /// Nanoseconds since 1970 shown at a guest time.
    fn unix_ns(&self, now_ns: u64) -> i128 {
        self.state.origin_ns + i128::from(now_ns)
    }

    fn unix_s(&self, now_ns: u64) -> i64 {
        let seconds = self.unix_ns(now_ns).div_euclid(i128::from(SECOND_NS));
        i64::try_from(seconds).unwrap_or(0)
    }

    /// Period of the periodic interrupt in ticks of 32768 Hz; `None` when it is off.
    fn period_ticks(&self) -> Option<u64> {
        match self.state.cmos[REG_A] & 0xf {
            0 => None,
            rate @ 1..=2 => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }

    fn period_index(&self, now_ns: u64, ticks: u64) -> u64 {
        let passed = u128::from(now_ns) * 32_768 / u128::from(SECOND_NS);
        u64::try_from(passed / u128::from(ticks)).unwrap_or(u64::MAX)
    }

    /// The first second after `after_s` that matches the alarm registers, at most two days ahead.
    fn next_alarm_s(&self, after_s: i64) -> Option<i64> {
        let cmos = &self.state.cmos;
        let format = self.format();
        let field = |index: usize| (cmos[index] < 0xc0).then(|| format.decode(cmos[index]));
        let hour = (cmos[5] < 0xc0).then(|| format.decode_hour(cmos[5]));
        calendar::next_match(after_s, hour, field(3), field(1))
    }

    /// Brings register C and the line to the time of the context.
    fn settle(&mut self, cx: &mut DeviceContext<'_>) {
        let (from, to) = (self.state.settled_ns, cx.now_ns);
        self.state.settled_ns = to.max(from);
        if to > from {
            let mut flags = 0;
            if let Some(ticks) = self.period_ticks()
                && self.period_index(to, ticks) > self.period_index(from, ticks)
            {
                flags |= B_PERIODIC;
            }
            let (from_s, to_s) = (self.unix_s(from), self.unix_s(to));
            if !self.frozen() && to_s > from_s {
                flags |= B_UPDATE;
                if self.next_alarm_s(from_s).is_some_and(|at| at <= to_s) {
                    flags |= B_ALARM;
                }
            }
            self.state.cmos[REG_C] |= flags;
        }
        self.update(cx);
    }

    fn update(&mut self, cx: &mut DeviceContext<'_>) {
        let flags = self.state.cmos[REG_C] & (B_PERIODIC | B_ALARM | B_UPDATE);
        let level = flags & self.reg_b() != 0;
        self.state.cmos[REG_C] = flags | if level { C_REQUEST } else { 0 };
        if level != self.state.line {
            self.state.line = level;
            cx.effects.push(Effect::Line(LINE, level));
        }
    }

    /// The time registers as the guest reads them at a guest time.
    fn load_time(&mut self, now_ns: u64) {
        let time = DateTime::from_unix(self.unix_s(now_ns));
        let values = time.encode(self.format());
        for (register, value) in TIME_REGISTERS.into_iter().zip(values) {
            self.state.cmos[register] = value;
        }
    }

    /// Makes the clock show what the time registers hold; the fraction of the second is kept.
    fn store_time(&mut self, now_ns: u64) {
        let values = TIME_REGISTERS.map(|register| self.state.cmos[register]);
        let seconds = DateTime::decode(self.format(), values).to_unix();
        let fraction = self.unix_ns(now_ns).rem_euclid(i128::from(SECOND_NS));
        self.state.origin_ns = i128::from(seconds) * i128::from(SECOND_NS) + fraction - i128::from(now_ns);
    }

    fn read_register(&mut self, cx: &mut DeviceContext<'_>, register: usize) -> u8 {
        self.settle(cx);
        if TIME_REGISTERS.contains(&register) && !self.frozen() {
            self.load_time(cx.now_ns);
        }
        match register {
            REG_A => {
                let fraction = self.unix_ns(cx.now_ns).rem_euclid(i128::from(SECOND_NS));
                let near = fraction >= i128::from(SECOND_NS - UPDATE_AHEAD_NS);
                self.state.cmos[REG_A] | if near && !self.frozen() { A_UPDATE } else { 0 }
            }
            REG_C => {
                let value = self.state.cmos[REG_C];
                self.state.cmos[REG_C] = 0;
                self.update(cx);
                value
            }
            _ => self.state.cmos[register],
        }
    }

    fn write_register(&mut self, cx: &mut DeviceContext<'_>, register: usize, value: u8) {
        self.settle(cx);
        let was_frozen = self.frozen();
        match register {
            REG_A | REG_B => {
                if !was_frozen {
                    self.load_time(cx.now_ns);
                }
                let value = if register == REG_A { value & 0x7f } else { value };
                self.state.cmos[register] = value;
                if register == REG_B && value & B_SET != 0 {
                    self.state.cmos[REG_B] &= !B_UPDATE;
                }
                if was_frozen && !self.frozen() {
                    self.store_time(cx.now_ns);
                }
                self.update(cx);
            }
            REG_C | REG_D => {}
            _ if TIME_REGISTERS.contains(&register) && !was_frozen => {
                self.load_time(cx.now_ns);
                self.state.cmos[register] = value;
                self.store_time(cx.now_ns);
            }
            _ => self.state.cmos[register] = value,
        }
    }

    /// Guest time at which the shown clock reaches a second.
    fn guest_ns(&self, unix_s: i64) -> u64 {
        let at = i128::from(unix_s) * i128::from(SECOND_NS) - self.state.origin_ns;
        u64::try_from(at.max(0)).unwrap_or(u64::MAX)
    }
}

impl Device for Rtc {
    fn read(&mut self, cx: &mut DeviceContext<'_>, port: u16) -> u8 {
        match port {
            0x71 | 0x73 => self.read_register(cx, usize::from(self.state.index)),
            // The index is write-only on the first port; the second one of later chipsets reads back.
            0x72 => self.state.index,
            _ => 0xff,
        }
    }

    fn write(&mut self, cx: &mut DeviceContext<'_>, port: u16, value: u8) {
        match port {
            // Bit 7 masks NMI on a PC; it is not connected here.
            0x70 | 0x72 => self.state.index = value & 0x7f,
            0x71 | 0x73 => self.write_register(cx, usize::from(self.state.index), value),
            _ => {}
        }
    }

    fn deadline_ns(&self) -> u64 {
        // A flag that is already set cannot rise again, and one that is not enabled moves no line.
        let wanted = self.reg_b() & !self.state.cmos[REG_C];
        let settled = self.state.settled_ns;
        let mut due = u64::MAX;
        if wanted & B_PERIODIC != 0
            && let Some(ticks) = self.period_ticks()
        {
            let next = u128::from(self.period_index(settled, ticks) + 1) * u128::from(ticks);
            let at = (next * u128::from(SECOND_NS)).div_ceil(32_768);
            due = due.min(u64::try_from(at).unwrap_or(u64::MAX));
        }
        if !self.frozen() {
            let second = self.unix_s(settled);
            if wanted & B_UPDATE != 0 {
                due = due.min(self.guest_ns(second + 1));
            }
            if wanted & B_ALARM != 0
                && let Some(at) = self.next_alarm_s(second)
            {
                due = due.min(self.guest_ns(at));
            }
        }
        due
    }

    fn advance(&mut self, cx: &mut DeviceContext<'_>) {
        self.settle(cx);
    }

    fn reset(&mut self, cx: &mut DeviceContext<'_>) {
        // The clock and the memory are on the battery; reset clears the interrupt enables and flags.
        self.settle(cx);
        self.state.cmos[REG_B] &= !(B_PERIODIC | B_ALARM | B_UPDATE);
        self.state.cmos[REG_C] = 0;
        self.state.index = 0;
        self.update(cx);
    }
}

impl Snapshot for Rtc {
    const KIND: &'static str = "RTC";
    const VERSION: u16 = 1;
    type State = RtcState;

    fn save(&self) -> RtcState {
        let Self { state } = self;
        state.clone()
    }

    fn restore(&mut self, state: RtcState) -> Result<(), RestoreError> {
        let origin_limit = i128::from(i64::MAX) * i128::from(SECOND_NS) / 4;
        let origin_fits = (-origin_limit..=origin_limit).contains(&state.origin_ns);
        if state.cmos.len() != CMOS_BYTES || to_usize(u64::from(state.index)) >= CMOS_BYTES || !origin_fits {
            let reason = format!("{} bytes, index {}, origin {}", state.cmos.len(), state.index, state.origin_ns);
            return Err(RestoreError::Invalid { kind: Self::KIND, reason });
        }
        self.state = state;
        Ok(())
    }
}

/// A number of at most two digits in BCD.
fn to_bcd(value: u8) -> u8 {
    low8(u64::from(value / 10 * 16 + value % 10))
}

fn from_bcd(value: u8) -> u8 {
    (value >> 4) * 10 + (value & 0xf)
}
