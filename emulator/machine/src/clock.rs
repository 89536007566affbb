//! Guest time: a function of the instruction count.
//!
//! `time = anchor.time + ((count - anchor.at) * rate >> 32)`, in nanoseconds, with `rate` a fixed-point
//! number of 32 fraction bits and all arithmetic in 128 bits. Anchors are inputs; they may change the rate and
//! may step forward, never back. The time-stamp counter runs at exactly [`TSC_HZ`], one tick per nanosecond
//! of guest time, so RDTSC, every timer and the RTC are the same function and need no log entries.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::io::ClockAnchor;
use crate::snapshot::{RestoreError, Snapshot};

/// Frequency of the time-stamp counter: one tick is one nanosecond of guest time.
pub const TSC_HZ: u64 = 1_000_000_000;

/// One guest nanosecond per step, as a rate.
pub const RATE_ONE: u64 = 1 << 32;

/// How guest time is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClockMode {
    /// By anchors that the host delivers. Until the first anchor the rate is [`RATE_ONE`].
    Host,
    /// By the count alone: a fixed rate, and idle time is skipped to the next timer.
    Virtual {
        /// Guest nanoseconds per step, 32 fraction bits; at least 1.
        rate: u64,
    },
}

/// An anchor that would break the clock.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ClockError {
    /// Guest time would run backwards.
    #[error("the clock anchor sets guest time to {asked_ns} ns, but it is already {now_ns} ns")]
    Backwards {
        /// Time in the anchor.
        asked_ns: u64,
        /// Guest time at the same count.
        now_ns: u64,
    },
    /// Guest time would stand still.
    #[error("the clock anchor has rate 0; the least is 1")]
    RateZero,
}

/// Guest clock: the anchor in force.
#[derive(Debug, Clone)]
pub struct Clock {
    state: ClockState,
}

/// State of [`Clock`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockState {
    /// Count at which the anchor was delivered.
    pub at: u64,
    /// Guest time there, in nanoseconds.
    pub time_ns: u64,
    /// Nanoseconds per step, 32 fraction bits.
    pub rate: u64,
}

impl Clock {
    /// A clock that shows 0 at count 0 and runs at `rate` (raised to 1 if it is 0).
    #[must_use]
    pub fn new(rate: u64) -> Self {
        Self { state: ClockState { at: 0, time_ns: 0, rate: rate.max(1) } }
    }

    /// Guest time in nanoseconds at `count`. Counts before the anchor give the anchor's time.
    #[inline]
    #[must_use]
    pub fn time_ns(&self, count: u64) -> u64 {
        let steps = count.saturating_sub(self.state.at);
        let passed = (u128::from(steps) * u128::from(self.state.rate)) >> 32;
        u64::try_from(u128::from(self.state.time_ns) + passed).unwrap_or(u64::MAX)
    }

    /// The first count at which guest time is at least `time_ns`; `u64::MAX` for a time never reached.
    #[must_use]
    pub fn count_at(&self, time_ns: u64) -> u64 {
        if time_ns == u64::MAX {
            return u64::MAX;
        }
        let Some(ahead) = time_ns.checked_sub(self.state.time_ns) else {
            return self.state.at;
        };
        // The common case, a timer within four seconds, stays in 64 bits.
        let steps = if ahead < 1 << 32 {
            u128::from((ahead << 32).div_ceil(self.state.rate))
        } else {
            (u128::from(ahead) << 32).div_ceil(u128::from(self.state.rate))
        };
        u64::try_from(u128::from(self.state.at) + steps).unwrap_or(u64::MAX)
    }

    /// Guest time goes on from `anchor` at `count`.
    ///
    /// # Errors
    /// When time would go backwards or stand still; the clock is unchanged then.
    pub fn anchor(&mut self, count: u64, anchor: ClockAnchor) -> Result<(), ClockError> {
        if anchor.rate == 0 {
            return Err(ClockError::RateZero);
        }
        let now_ns = self.time_ns(count);
        if anchor.time_ns < now_ns {
            return Err(ClockError::Backwards { asked_ns: anchor.time_ns, now_ns });
        }
        self.state = ClockState { at: count, time_ns: anchor.time_ns, rate: anchor.rate };
        Ok(())
    }

    /// Nanoseconds per step in force, 32 fraction bits.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.state.rate
    }
}

impl Snapshot for Clock {
    const KIND: &'static str = "clock";
    const VERSION: u16 = 1;
    type State = ClockState;

    fn save(&self) -> ClockState {
        let Self { state } = self;
        state.clone()
    }

    fn restore(&mut self, state: ClockState) -> Result<(), RestoreError> {
        if state.rate == 0 {
            return Err(RestoreError::Invalid { kind: Self::KIND, reason: "the rate is 0".into() });
        }
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_at_is_the_first_count_that_reaches_the_time() {
        for rate in [1, 3, RATE_ONE / 7, RATE_ONE, RATE_ONE * 5 + 12345, u64::MAX] {
            let mut clock = Clock::new(rate);
            clock.anchor(1000, ClockAnchor { time_ns: clock.time_ns(1000) + 77, rate }).unwrap();
            for ahead in [0, 1, 2, 999, 1_000_000, 4_294_967_295, 4_294_967_296, 1 << 40] {
                let time = clock.state.time_ns + ahead;
                let count = clock.count_at(time);
                if count == u64::MAX {
                    continue;
                }
                assert!(clock.time_ns(count) >= time, "rate {rate} ahead {ahead}");
                assert!(count == 1000 || clock.time_ns(count - 1) < time, "rate {rate} ahead {ahead}");
            }
        }
    }

    #[test]
    fn anchors_never_go_back() {
        let mut clock = Clock::new(RATE_ONE);
        let error = clock.anchor(500, ClockAnchor { time_ns: 499, rate: 1 }).unwrap_err();
        assert_eq!(error, ClockError::Backwards { asked_ns: 499, now_ns: 500 });
        assert_eq!(clock.anchor(500, ClockAnchor { time_ns: 500, rate: 0 }), Err(ClockError::RateZero));
        clock.anchor(500, ClockAnchor { time_ns: 10_000, rate: RATE_ONE / 2 }).unwrap();
        assert_eq!(clock.time_ns(500), 10_000);
        assert_eq!(clock.time_ns(600), 10_050);
        assert_eq!(clock.count_at(9_000), 500, "a time already reached is due at the anchor");
    }

    #[test]
    fn the_end_of_time_does_not_overflow() {
        let mut clock = Clock::new(u64::MAX);
        assert_eq!(clock.time_ns(u64::MAX), u64::MAX);
        clock.anchor(3, ClockAnchor { time_ns: u64::MAX - 1, rate: 1 }).unwrap();
        assert_eq!(clock.count_at(u64::MAX), u64::MAX);
    }
}
