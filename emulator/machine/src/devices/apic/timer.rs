//! The APIC timer: one-shot, periodic, TSC deadline.
//!
//! The counter is computed from guest time. `settle` brings it up to a time and says whether it expired; every
//! access that reads or changes the timer settles it first, so an expiry is never lost or seen twice.

use super::registers::TimerRegisters;
use crate::bits::low32;

/// Frequency of the timer before its divider: one tick per nanosecond of guest time.
pub const APIC_TIMER_HZ: u64 = 1_000_000_000;

/// Mode field of the timer's LVT entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimerMode {
    OneShot,
    Periodic,
    TscDeadline,
    Reserved,
}

impl TimerMode {
    pub(super) fn from_lvt(lvt: u32) -> Self {
        match (lvt >> 17) & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }
}

impl TimerRegisters {
    /// Nanoseconds per tick after the divider: 2, 4, ... 128, or 1.
    fn tick_ns(&self) -> u64 {
        let field = (self.divide & 3) | ((self.divide >> 1) & 4);
        if field == 7 { 1 } else { 2 << field }
    }

    /// Guest time of the next expiry; `u64::MAX` for never.
    pub(super) fn due_ns(&self, mode: TimerMode) -> u64 {
        match mode {
            TimerMode::TscDeadline if self.tsc_deadline != 0 => self.tsc_deadline,
            TimerMode::OneShot | TimerMode::Periodic if self.running => {
                self.base_ns.saturating_add(u64::from(self.base_count) * self.tick_ns())
            }
            _ => u64::MAX,
        }
    }

    /// Brings the timer to `now_ns`; true when it expired since it was last settled.
    pub(super) fn settle(&mut self, mode: TimerMode, now_ns: u64) -> bool {
        let due_ns = self.due_ns(mode);
        if due_ns == u64::MAX || now_ns < due_ns {
            return false;
        }
        match mode {
            TimerMode::TscDeadline => self.tsc_deadline = 0,
            TimerMode::Periodic if self.initial != 0 => {
                let period_ns = u64::from(self.initial) * self.tick_ns();
                self.base_ns = due_ns + (now_ns - due_ns) / period_ns * period_ns;
                self.base_count = self.initial;
            }
            _ => {
                self.running = false;
                self.base_count = 0;
            }
        }
        true
    }

    /// Current count at `now_ns`; the timer must be settled there.
    pub(super) fn current(&self, now_ns: u64) -> u32 {
        if !self.running {
            return 0;
        }
        let ticks = now_ns.saturating_sub(self.base_ns) / self.tick_ns();
        low32(u64::from(self.base_count).saturating_sub(ticks))
    }

    /// Write of the initial count: the counter starts over, zero stops it.
    pub(super) fn start(&mut self, initial: u32, now_ns: u64) {
        self.initial = initial;
        self.base_count = initial;
        self.base_ns = now_ns;
        self.running = initial != 0;
    }

    /// Write of the divide configuration: the counter goes on from its value at the new speed.
    pub(super) fn set_divide(&mut self, divide: u32, now_ns: u64) {
        self.base_count = self.current(now_ns);
        self.base_ns = now_ns;
        self.divide = divide & 0xb;
    }

    /// Between TSC-deadline mode and the counting modes everything armed is disarmed.
    pub(super) fn change_mode(&mut self, old: TimerMode, new: TimerMode) {
        if (old == TimerMode::TscDeadline) != (new == TimerMode::TscDeadline) {
            self.tsc_deadline = 0;
            self.running = false;
            self.base_count = 0;
        }
    }
}
