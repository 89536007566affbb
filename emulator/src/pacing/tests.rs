//! A simulated host: its speed drifts and jumps, it stalls, the guest works and idles.

use super::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = NS_PER_SECOND;

/// xorshift: the simulation is the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

struct World {
    host: u64,
    count: u64,
    pacer: Pacer,
    /// What the machine would compute.
    line: TimeLine,
    last_guest: u64,
    worst: u64,
    /// Errors are not judged before this host time: the host stalled.
    grace_until: u64,
    /// Time for which the guest was held back.
    held: u64,
}

impl World {
    fn new() -> Self {
        let (pacer, anchor) = Pacer::start(5 * SECOND, InstructionCount(1000), 77, 8.0);
        let line = TimeLine::new(InstructionCount(1000), anchor);
        Self { host: 5 * SECOND, count: 1000, pacer, line, last_guest: 0, worst: 0, grace_until: 0, held: 0 }
    }

    fn deliver(&mut self, anchor: Option<ClockAnchor>, may_step: bool) {
        let count = InstructionCount(self.count);
        if let Some(anchor) = anchor {
            let before = self.line.time_at(count);
            assert!(anchor.time_ns >= before, "time went backwards");
            assert!(may_step || anchor.time_ns == before, "a step while busy");
            assert!(anchor.rate >= 1);
            self.line = TimeLine::new(count, anchor);
        }
        let guest = self.line.time_at(count);
        assert!(guest >= self.last_guest);
        assert_eq!(guest, self.pacer.guest_time(count));
        self.last_guest = guest;
        let error = (guest - 77).abs_diff(self.host - 5 * SECOND);
        if self.host > self.grace_until {
            self.worst = self.worst.max(error);
        }
    }

    /// Runs busy for one slice of about a millisecond at `ns_per_step`.
    fn slice(&mut self, ns_per_step: f64) {
        let steps = self.pacer.steps_in(MS).clamp(5_000, 2_000_000);
        self.count += steps;
        self.host += to_u64(f64::from(u32::try_from(steps).unwrap()) * ns_per_step);
        let pace = self.pacer.busy(self.host, InstructionCount(self.count));
        self.deliver(pace.anchor, false);
        if pace.hold_ns > 0 {
            // A host never wakes a thread on time.
            let (since, late) = (self.host, 60_000);
            self.host += pace.hold_ns + late;
            self.held += pace.hold_ns + late;
            self.pacer.released(since, self.host);
        }
    }

    fn idle(&mut self, ns: u64, deadline: Option<u64>) {
        self.host += ns;
        let anchor = self.pacer.wake(self.host, InstructionCount(self.count), deadline);
        self.deliver(anchor, true);
    }
}

#[test]
fn an_hour_with_drifting_speed_stays_within_ten_milliseconds() {
    let mut world = World::new();
    let mut random = Random(42);
    let mut speed = 8.0;
    let end = world.host + 3600 * SECOND;
    let mut next_change = 0;
    while world.host < end {
        if world.host >= next_change {
            // Guest code changes between 4 and 16 ns a step, up to five times a second.
            speed = 4.0 + f64::from(u32::try_from(random.below(1200)).unwrap()) / 100.0;
            next_change = world.host + 200 * MS + random.below(800 * MS);
        }
        world.slice(speed);
    }
    assert!(world.worst < 10 * MS, "worst error {} us", world.worst / 1000);
    assert!(world.held < 36 * SECOND, "held back for {} ms", world.held / MS);
    let rate = world.pacer.anchors() / 3600;
    assert!(rate <= ANCHORS_PER_SECOND, "{rate} anchors a second");
}

#[test]
fn a_guest_that_seemed_slow_runs_at_full_speed_again() {
    let mut world = World::new();
    // An overloaded host: the guest gets a sixtieth of a processor for a while, then all of it.
    world.grace_until = u64::MAX;
    for _ in 0..40 {
        world.slice(600.0);
    }
    world.grace_until = world.host + 500 * MS;
    let (start, count) = (world.host, world.count);
    while world.host < start + SECOND {
        world.slice(10.0);
    }
    let steps = world.count - count;
    assert!(steps > 80_000_000, "{steps} steps in a second, held back for {} ms", world.held / MS);
    assert!(world.worst < 10 * MS, "worst error {} us", world.worst / 1000);
}

#[test]
fn a_steady_guest_needs_few_anchors() {
    let mut world = World::new();
    let end = world.host + 60 * SECOND;
    while world.host < end {
        world.slice(10.0);
    }
    assert!(world.worst < 5 * MS, "worst error {} us", world.worst / 1000);
    assert!(world.pacer.anchors() < 60 * 2, "{} anchors", world.pacer.anchors());
}

#[test]
fn a_stall_is_caught_up_by_rate() {
    let mut world = World::new();
    for _ in 0..1000 {
        world.slice(8.0);
    }
    for stall in [50 * MS, 500 * MS, 3 * SECOND] {
        world.host += stall;
        // At up to four times the speed, and with the last part worked off exponentially.
        world.grace_until = world.host + stall / 2 + 400 * MS;
        for _ in 0..4000 {
            world.slice(8.0);
        }
    }
    assert!(world.worst < 10 * MS, "worst error {} us", world.worst / 1000);
}

/// Other programs take turns with the guest: it stands still for some milliseconds again and again.
#[test]
fn on_a_busy_host_the_guest_is_late_but_never_early() {
    let mut world = World::new();
    let mut random = Random(3);
    let mut earliest = 0;
    for turn in 0..30_000 {
        world.slice(if turn % 700 < 350 { 5.0 } else { 15.0 });
        if random.below(20) == 0 {
            world.host += random.below(15 * MS);
        }
        let guest = world.pacer.guest_time(InstructionCount(world.count)) - 77;
        earliest = earliest.max(guest.saturating_sub(world.host - 5 * SECOND));
    }
    assert!(earliest < 10 * MS, "{} us ahead", earliest / 1000);
    assert!(world.worst < 80 * MS, "worst error {} us", world.worst / 1000);
    let share = world.held * 100 / (world.host - 5 * SECOND);
    assert!(share < 10, "held back for {share} % of the time");
}

#[test]
fn idle_periods_step_forward_and_timers_are_due_on_time() {
    let mut world = World::new();
    let mut random = Random(7);
    let anchors_before = world.pacer.anchors();
    let mut wakeups = 0;
    let end = world.host + 600 * SECOND;
    while world.host < end {
        for _ in 0..random.below(4) {
            world.slice(6.0 + f64::from(u32::try_from(random.below(50)).unwrap()) / 10.0);
        }
        wakeups += 1;
        if random.below(2) == 0 {
            let guest = world.pacer.guest_time(InstructionCount(world.count));
            let deadline = guest + 1000 + random.below(20 * MS);
            let due = world.pacer.host_time_of(deadline).max(world.host);
            world.idle(due - world.host + random.below(100_000), Some(deadline));
            assert!(world.pacer.guest_time(InstructionCount(world.count)) >= deadline, "the timer is due");
        } else {
            world.idle(random.below(30 * MS), None);
        }
    }
    assert!(world.worst < 10 * MS, "worst error {} us", world.worst / 1000);
    assert!(world.pacer.anchors() - anchors_before <= wakeups + 600 * ANCHORS_PER_SECOND);
}

#[test]
fn a_storm_of_wakeups_needs_no_storm_of_anchors() {
    let mut world = World::new();
    for _ in 0..100_000 {
        world.idle(10_000, None);
    }
    assert!(world.pacer.anchors() < 1 + 100_000 * 10_000 / IDLE_TOLERANCE_NS + 100);
    assert!(world.worst < MS);
}

#[test]
fn lines_and_counts_agree() {
    let anchor = ClockAnchor { time_ns: 500, rate: to_rate(7.3) };
    let line = TimeLine::new(InstructionCount(100), anchor);
    for time in [0, 500, 501, 10_000, 123_456_789_012] {
        let count = line.count_at(time);
        assert!(line.time_at(count) >= time);
        assert!(count.0 == 100 || line.time_at(InstructionCount(count.0 - 1)) < time);
    }
    assert_eq!(TimeLine::new(InstructionCount(0), ClockAnchor { time_ns: 0, rate: 0 }).count_at(1).0, 1 << 32);
}

#[test]
fn time_stands_while_the_guest_is_paused() {
    let (mut pacer, _) = Pacer::start(0, InstructionCount(0), 1000, 10.0);
    pacer.busy(10 * MS, InstructionCount(1_000_000));
    let stood = pacer.guest_time(InstructionCount(1_000_000));
    let anchor = pacer.resume(3_600_000 * MS, InstructionCount(1_000_000));
    assert_eq!(anchor.time_ns, stood);
    // From there on it follows the host again, without catching up.
    let pace = pacer.busy(3_600_010 * MS, InstructionCount(2_000_000));
    assert_eq!((pace.anchor, pace.hold_ns), (None, 0));
    assert_eq!(pacer.host_time_of(stood + 50 * MS), 3_600_050 * MS);
}
