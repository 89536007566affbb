//! Ties guest time to the host's clock.
//!
//! Guest time is a line over the step count; an anchor starts a new piece of it
//! (`time = time_ns + (count - at) * rate`). This module decides when an anchor is due and with which rate,
//! so that guest time stays within 10 ms of the host's. It has no clock of its own: the caller brings the
//! host's time, which makes it testable and keeps it usable for a backup that takes over a running line.
//!
//! Rules:
//! - Guest time never goes backwards: an anchor while busy begins exactly where the line is.
//! - While busy, corrections are by rate alone: an error is worked off over [`HORIZON_NS`]. Forward steps
//!   happen only when the guest leaves idleness.
//! - Anchors are log entries under fault tolerance, so they are few: none while the error is below
//!   [`TOLERANCE_NS`]; at most [`BURST`] at once and [`ANCHORS_PER_SECOND`] in the long run.
//! - After a stall of the host (a stopped process, an overloaded machine) the guest's clock runs up to
//!   [`MAX_CATCH_UP`] times as fast until it has caught up: the guest sees every tick.
//! - A guest whose clock got ahead, because it suddenly runs faster than the rate was made for, is held back for
//!   some milliseconds: that costs no anchor.

use virtft_machine::io::{ClockAnchor, InstructionCount};

/// Errors below this need no anchor while the rate is right.
const TOLERANCE_NS: i64 = 3_000_000;
/// With a wrong rate an error grows fast: it is met from here on.
const WATCH_NS: i64 = 1_000_000;
/// A correction ends here.
const SETTLED_NS: i64 = 300_000;
/// An error is worked off over this time.
const HORIZON_NS: f64 = 25e6;
/// Long-run limit of anchors while busy.
const ANCHORS_PER_SECOND: u64 = 40;
/// Anchors that may follow each other without waiting.
const BURST: u64 = 12;
/// How much faster than measured the guest's clock may run per step, and how much slower.
const MAX_CATCH_UP: f64 = 4.0;
/// Below this drift, a wake-up by an input needs no anchor.
const IDLE_TOLERANCE_NS: u64 = 200_000;
/// Shorter busy periods say nothing about the speed.
const MIN_SAMPLE_NS: u64 = 250_000;
/// Memory of the estimate of the speed.
const MEMORY_NS: f64 = 150e6;
/// The guest does something else now when fresh samples differ from the estimate by this part.
const JUMP: f64 = 0.3;
/// Guest time may be ahead by this much; then the guest is held back until it is less than half of it.
const MAX_AHEAD_NS: i64 = 5_000_000;
/// One as a rate: fixed-point numbers with 32 fraction bits.
const ONE: f64 = 4_294_967_296.0;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// The present piece of the line from counts to guest time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLine {
    at: u64,
    time_ns: u64,
    rate: u64,
}

impl TimeLine {
    /// A line through (`count`, `time_ns`).
    #[must_use]
    pub fn new(count: InstructionCount, anchor: ClockAnchor) -> Self {
        Self { at: count.0, time_ns: anchor.time_ns, rate: anchor.rate }
    }

    /// Guest time at `count`, which must not lie before the line's beginning.
    #[must_use]
    pub fn time_at(&self, count: InstructionCount) -> u64 {
        let steps = u128::from(count.0.saturating_sub(self.at));
        let passed = (steps * u128::from(self.rate)) >> 32;
        self.time_ns.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// The first count at which guest time is at least `time_ns`.
    #[must_use]
    pub fn count_at(&self, time_ns: u64) -> InstructionCount {
        let wanted = u128::from(time_ns.saturating_sub(self.time_ns)) << 32;
        let steps = wanted.div_ceil(u128::from(self.rate.max(1)));
        InstructionCount(self.at.saturating_add(u64::try_from(steps).unwrap_or(u64::MAX)))
    }

    /// The line's rate, as in [`ClockAnchor::rate`].
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.rate
    }
}

/// What to do with a busy guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pace {
    /// To be delivered at the count asked about.
    pub anchor: Option<ClockAnchor>,
    /// How long to let the guest stand still before it goes on; zero nearly always.
    pub hold_ns: u64,
}

/// See the module's description. All host times are of one monotonic clock in nanoseconds.
#[derive(Debug, Clone)]
pub struct Pacer {
    /// Guest time minus host time that is aimed at.
    offset_ns: i128,
    line: TimeLine,
    /// Measured speed of the guest while busy, stalls included.
    ns_per_step: f64,
    /// The last samples of it: their median shows that the guest does something else now, and no single stall.
    recent: [f64; 3],
    /// The line's rate is off on purpose, to work off an error.
    correcting: bool,
    /// Where the present speed sample began; none right after idleness.
    sample: Option<(u64, u64)>,
    /// Limits anchors while busy: nanoseconds of credit.
    credit_ns: u64,
    credit_at: u64,
    anchors: u64,
}

impl Pacer {
    /// Starts a line at `count` and guest time `guest_ns`, which is now. `ns_per_step` is a guess of the
    /// speed. The first anchor to deliver is returned with it.
    #[must_use]
    pub fn start(host_ns: u64, count: InstructionCount, guest_ns: u64, ns_per_step: f64) -> (Self, ClockAnchor) {
        let anchor = ClockAnchor { time_ns: guest_ns, rate: to_rate(ns_per_step) };
        let pacer = Self {
            offset_ns: i128::from(guest_ns) - i128::from(host_ns),
            line: TimeLine::new(count, anchor),
            ns_per_step,
            recent: [ns_per_step; 3],
            correcting: false,
            sample: Some((host_ns, count.0)),
            credit_ns: BURST * NS_PER_SECOND / ANCHORS_PER_SECOND,
            credit_at: host_ns,
            anchors: 1,
        };
        (pacer, anchor)
    }

    /// The guest was busy until `count`, which it reached at `host_ns`.
    pub fn busy(&mut self, host_ns: u64, count: InstructionCount) -> Pace {
        self.measure(host_ns, count);
        let guest = self.line.time_at(count);
        let behind = self.behind_ns(host_ns, guest);
        let hold_ns = if behind < -MAX_AHEAD_NS { behind.unsigned_abs() - MAX_AHEAD_NS.unsigned_abs() / 2 } else { 0 };
        let factor = self.correction(behind).filter(|_| self.spend_credit(host_ns));
        let anchor = factor.map(|factor| {
            #[expect(clippy::float_cmp, reason = "exactly one is what ends a correction")]
            let settled = factor == 1.0;
            self.correcting = !settled;
            self.anchor(count, guest, self.ns_per_step * factor)
        });
        Pace { anchor, hold_ns }
    }

    /// The guest was held back from `since_ns` to `host_ns`, as [`busy`](Self::busy) asked: that time says nothing about its
    /// speed. What it executes in between still does, or a guess that is far too slow would never be corrected, because each
    /// slice between two holds is too short to be measured by itself.
    pub fn released(&mut self, since_ns: u64, host_ns: u64) {
        if let Some((sample_ns, _)) = &mut self.sample {
            *sample_ns += host_ns.saturating_sub(since_ns);
        }
    }

    /// The factor on the measured speed that a new anchor should have, if one is needed.
    fn correction(&self, behind: i64) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "an error of a few seconds is far below 2^53 ns")]
        let wanted = (1.0 + behind as f64 / HORIZON_NS).clamp(1.0 / MAX_CATCH_UP, MAX_CATCH_UP);
        let actual = self.line_factor();
        if !self.correcting {
            let off = (actual - 1.0).abs() > JUMP;
            let due = behind.abs() > TOLERANCE_NS || (behind.abs() > WATCH_NS && off);
            return due.then_some(wanted);
        }
        let overshot = (wanted > 1.0) != (actual > 1.0);
        if behind.abs() <= SETTLED_NS || overshot {
            // An error that has already grown again on the other side is worked off at once.
            return Some(if behind.abs() > TOLERANCE_NS { wanted } else { 1.0 });
        }
        let (wanted_size, actual_size) = ((wanted - 1.0).abs(), (actual - 1.0).abs());
        let too_weak = wanted_size > 1.5 * actual_size;
        // Strong corrections are eased off in time, or one slice would overshoot by milliseconds.
        let too_strong = actual_size > 0.3 && wanted_size < 0.5 * actual_size;
        (too_weak || too_strong).then_some(wanted)
    }

    /// The guest idled at `count` and goes on at `host_ns`, because an input came or because guest time
    /// `deadline_ns` is due. Returns an anchor to deliver there, before any input.
    pub fn wake(&mut self, host_ns: u64, count: InstructionCount, deadline_ns: Option<u64>) -> Option<ClockAnchor> {
        self.sample = Some((host_ns, count.0));
        let guest = self.line.time_at(count);
        let target = self.target_ns(host_ns).max(guest);
        let timer_due = deadline_ns.is_some_and(|deadline| target >= deadline && guest < deadline);
        if target - guest < IDLE_TOLERANCE_NS && !timer_due {
            return None;
        }
        // The step forward ended any correction.
        self.correcting = false;
        Some(self.anchor(count, target, self.ns_per_step))
    }

    /// The guest was made to stand still at `count` and goes on at `host_ns`, with the guest time that it had. Returns the anchor to
    /// deliver there.
    pub fn resume(&mut self, host_ns: u64, count: InstructionCount) -> ClockAnchor {
        let guest = self.line.time_at(count);
        self.offset_ns = i128::from(guest) - i128::from(host_ns);
        self.sample = Some((host_ns, count.0));
        self.correcting = false;
        self.anchor(count, guest, self.ns_per_step)
    }

    /// Host time at which guest time `deadline_ns` is due for an idle guest.
    #[must_use]
    pub fn host_time_of(&self, deadline_ns: u64) -> u64 {
        u64::try_from(i128::from(deadline_ns) - self.offset_ns).unwrap_or(0)
    }

    /// Steps to run before the next look at the clock: about `ns` of host time, and no more of guest time, so
    /// that a clock that is catching up is stopped in time even when the guest suddenly runs faster.
    #[must_use]
    pub fn steps_in(&self, ns: u64) -> u64 {
        #[expect(clippy::cast_precision_loss, reason = "a slice is milliseconds")]
        let host_steps = ns as f64 / self.ns_per_step;
        let guest_steps = (u128::from(ns) << 32) / u128::from(self.line.rate.max(1));
        to_u64(host_steps).min(u64::try_from(guest_steps).unwrap_or(u64::MAX))
    }

    /// Guest time at `count`.
    #[must_use]
    pub fn guest_time(&self, count: InstructionCount) -> u64 {
        self.line.time_at(count)
    }

    /// Anchors made so far.
    #[must_use]
    pub fn anchors(&self) -> u64 {
        self.anchors
    }

    fn anchor(&mut self, count: InstructionCount, time_ns: u64, ns_per_step: f64) -> ClockAnchor {
        let anchor = ClockAnchor { time_ns, rate: to_rate(ns_per_step) };
        self.line = TimeLine::new(count, anchor);
        self.anchors += 1;
        anchor
    }

    fn target_ns(&self, host_ns: u64) -> u64 {
        u64::try_from(i128::from(host_ns) + self.offset_ns).unwrap_or(0)
    }

    /// Nanoseconds by which guest time is behind the host's; negative when it is ahead.
    fn behind_ns(&self, host_ns: u64, guest_ns: u64) -> i64 {
        let behind = i128::from(self.target_ns(host_ns)) - i128::from(guest_ns);
        i64::try_from(behind).unwrap_or(if behind > 0 { i64::MAX } else { i64::MIN })
    }

    /// The line's rate over the measured speed: one when guest time keeps up with the host's.
    fn line_factor(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate is compared within some percent")]
        let rate = self.line.rate as f64;
        rate / ONE / self.ns_per_step
    }

    fn measure(&mut self, host_ns: u64, count: InstructionCount) {
        let Some((since_ns, since)) = self.sample else {
            self.sample = Some((host_ns, count.0));
            return;
        };
        let (passed, steps) = (host_ns.saturating_sub(since_ns), count.0.saturating_sub(since));
        if passed < MIN_SAMPLE_NS || steps == 0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a sample is milliseconds long")]
        let sample = passed as f64 / steps as f64;
        self.recent = [self.recent[1], self.recent[2], sample];
        let mut sorted = self.recent;
        sorted.sort_by(f64::total_cmp);
        let median = sorted[1];
        if (median / self.ns_per_step - 1.0).abs() > JUMP {
            self.ns_per_step = median;
        } else {
            // A long stall is one very slow sample: bounded, it does not spoil the estimate.
            let sample = sample.min(median * 4.0);
            #[expect(clippy::cast_precision_loss, reason = "a sample is milliseconds long")]
            let weight = (passed as f64 / MEMORY_NS).min(0.2);
            self.ns_per_step += (sample - self.ns_per_step) * weight;
        }
        self.sample = Some((host_ns, count.0));
    }

    fn spend_credit(&mut self, host_ns: u64) -> bool {
        const PRICE: u64 = NS_PER_SECOND / ANCHORS_PER_SECOND;
        let earned = host_ns.saturating_sub(self.credit_at);
        self.credit_ns = self.credit_ns.saturating_add(earned).min(BURST * PRICE);
        self.credit_at = host_ns;
        if self.credit_ns < PRICE {
            return false;
        }
        self.credit_ns -= PRICE;
        true
    }
}

/// Nanoseconds per step as a fixed-point rate, at least the smallest.
fn to_rate(ns_per_step: f64) -> u64 {
    to_u64(ns_per_step * ONE).max(1)
}

/// The whole part of a non-negative number; saturates.
fn to_u64(value: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float casts saturate")]
    let whole = value as u64;
    whole
}

#[cfg(test)]
mod tests;
