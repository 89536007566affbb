//! The timer against its datasheet.

use super::channel::ticks_to_ns;
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
