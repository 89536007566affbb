//! The clock against the calendar and the datasheet.

use super::*;
use crate::devices::testing::{Bench, check_snapshot, snapshot_walk};

/// 2024-02-29 23:59:58.5 UTC.
const LEAP_EVE_NS: u64 = 1_709_251_198_500_000_000;

fn read(bench: &mut Bench<Rtc>, register: u8) -> u8 {
    bench.write(0x70, register);
    bench.read(0x71)
}

fn write(bench: &mut Bench<Rtc>, register: u8, value: u8) {
    bench.write(0x70, register);
    bench.write(0x71, value);
}

fn at_origin() -> Bench<Rtc> {
    let mut bench = Bench::new(Rtc::new());
    bench.call(|rtc, cx| rtc.set_origin(cx, LEAP_EVE_NS));
    bench
}

#[test]
fn shows_the_date_in_every_format() {
    let mut bench = at_origin();
    let bcd: Vec<u8> = [0x32, 9, 8, 7, 6, 4, 2, 0].into_iter().map(|r| read(&mut bench, r)).collect();
    assert_eq!(bcd, [0x20, 0x24, 0x02, 0x29, 0x05, 0x23, 0x59, 0x58]);
    write(&mut bench, 0x0b, B_BINARY);
    assert_eq!(read(&mut bench, 4), 0x80 | 11, "11 p.m.");
    bench.run_to(1_600_000_000);
    assert_eq!((read(&mut bench, 8), read(&mut bench, 7), read(&mut bench, 4)), (3, 1, 12), "midnight, 1 March");
}

#[test]
fn setting_the_time_holds_until_set_is_cleared() {
    let mut bench = at_origin();
    write(&mut bench, 0x0b, 0x82);
    for (register, value) in [(0x32, 0x19), (9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x59)] {
        write(&mut bench, register, value);
    }
    bench.run_to(5_000_000_000);
    assert_eq!(read(&mut bench, 0), 0x59);
    write(&mut bench, 0x0b, 0x02);
    bench.run_to(6_000_000_000);
    assert_eq!((read(&mut bench, 0x32), read(&mut bench, 9), read(&mut bench, 0)), (0x20, 0x00, 0x00));
}

#[test]
fn calendar_round_trip() {
    for seconds in (-62_000_000_000i64..250_000_000_000).step_by(86_400 * 97 + 12_345) {
        let time = DateTime::from_unix(seconds);
        assert_eq!(time.to_unix(), seconds, "{time:?}");
        assert!((1..=12).contains(&time.month) && (1..=31).contains(&time.day) && time.hour < 24);
    }
    assert_eq!(DateTime::from_unix(0).weekday, 5, "1970-01-01 was a Thursday");
}

#[test]
fn periodic_interrupt_coalesces_until_register_c_is_read() {
    let mut bench = at_origin();
    write(&mut bench, 0x0a, 0x26);
    write(&mut bench, 0x0b, 0x42);
    assert_eq!(bench.device.deadline_ns(), 976_563, "1024 Hz");
    bench.run_to(976_563);
    assert_eq!(bench.take_line(8), [true]);
    assert_eq!(bench.device.deadline_ns(), u64::MAX, "nothing new can happen");
    bench.run_to(10_000_000);
    assert_eq!(read(&mut bench, 0x0c), 0xc0);
    assert_eq!(bench.take_line(8), [false]);
    assert_eq!(read(&mut bench, 0x0c), 0);
    assert_eq!(bench.device.deadline_ns(), 10_742_188);
}

#[test]
fn alarm_and_update_ended() {
    let mut bench = at_origin();
    write(&mut bench, 5, 0x00);
    write(&mut bench, 3, 0x00);
    write(&mut bench, 1, 0x05);
    write(&mut bench, 0x0b, 0x22);
    assert_eq!(bench.device.deadline_ns(), 6_500_000_000);
    bench.run_to(6_499_999_999);
    assert_eq!(bench.take_line(8), []);
    bench.run_to(6_500_000_000);
    assert_eq!(bench.take_line(8), [true]);
    assert_eq!(read(&mut bench, 0x0c), 0xa0 | B_UPDATE | B_PERIODIC);
    write(&mut bench, 1, 0xff);
    write(&mut bench, 3, 0xff);
    write(&mut bench, 5, 0xff);
    assert_eq!(bench.device.deadline_ns(), 7_500_000_000, "don't care matches every second");
    write(&mut bench, 1, 0x77);
    assert_eq!(bench.device.deadline_ns(), u64::MAX, "an impossible alarm never comes");
    write(&mut bench, 0x0b, 0x12);
    assert_eq!(bench.device.deadline_ns(), 7_500_000_000);
}

#[test]
fn update_in_progress_announces_the_second() {
    let mut bench = at_origin();
    bench.now_ns = 500_000_000 - 244_001;
    assert_eq!(read(&mut bench, 0x0a) & 0x80, 0);
    bench.now_ns = 500_000_000 - 244_000;
    assert_eq!(read(&mut bench, 0x0a) & 0x80, 0x80);
    bench.now_ns = 500_000_000;
    assert_eq!(read(&mut bench, 0x0a) & 0x80, 0);
}

#[test]
fn memory_size_is_in_cmos() {
    let mut bench = Bench::new(Rtc::new());
    bench.device.set_memory_size(1 << 30, 0);
    let word = |bench: &mut Bench<Rtc>, at| u16::from_le_bytes([read(bench, at), read(bench, at + 1)]);
    assert_eq!(word(&mut bench, 0x15), 640);
    assert_eq!(word(&mut bench, 0x17), 0xffff);
    assert_eq!(word(&mut bench, 0x34), (1 << 14) - (1 << 8));
    check_snapshot(&mut bench.device, Rtc::new());
}

snapshot_walk!(random_walk_is_saveable, Rtc::new(), 0x70..=0x73);
