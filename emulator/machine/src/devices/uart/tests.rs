//! The UART as a driver meets it.

use super::*;
use crate::devices::testing::{Bench, snapshot_walk};

fn com1() -> Uart {
    Uart::new(0, 0x3f8, InterruptLine(4))
}

#[test]
fn transmits_at_once_and_raises_the_empty_interrupt() {
    let mut bench = Bench::new(com1());
    bench.write(0x3fc, 0x0b);
    bench.write(0x3f9, 2);
    assert_eq!(bench.take_line(4), [true], "enabling raises it");
    assert_eq!(bench.read(0x3fa), 2);
    assert_eq!(bench.take_line(4), [false], "reading the cause lowers it");
    bench.write(0x3f8, b'A');
    assert_eq!(bench.take_line(4), [true]);
    let sent = Output::CharTransmit { port: CharPort::Serial(0), data: vec![b'A'] };
    assert_eq!(bench.effects, [Effect::Output(sent)]);
    assert_eq!(bench.read(0x3fd), 0x60);
}

#[test]
fn receives_by_trigger_and_by_timeout() {
    let mut bench = Bench::new(com1());
    bench.write(0x3fa, 0x81);
    bench.write(0x3fc, 8);
    bench.write(0x3f9, 1);
    bench.call(|uart, cx| uart.receive(cx, b"12345"));
    assert_eq!(bench.take_line(4), [], "below the trigger of eight");
    let due = bench.device.deadline_ns();
    // Seven bits (start, five data, stop) at 9600 baud, four times.
    assert_eq!(due, 4 * (7 * 12 * 16 * 1_000_000_000 / CLOCK_HZ));
    bench.run_to(due);
    assert_eq!(bench.take_line(4), [true]);
    assert_eq!(bench.read(0x3fa), 0xcc);
    assert_eq!(bench.read(0x3f8), b'1');
    assert_eq!(bench.take_line(4), [false]);
    bench.call(|uart, cx| uart.receive(cx, b"6789"));
    assert_eq!(bench.read(0x3fa), 0xc4);
    let all: Vec<u8> = (0..8).map(|_| bench.read(0x3f8)).collect();
    assert_eq!(all, b"23456789");
    assert_eq!(bench.read(0x3fd) & 1, 0);
}

#[test]
fn what_does_not_fit_waits_and_then_is_dropped() {
    let mut bench = Bench::new(com1());
    bench.write(0x3fa, 1);
    let data = vec![7; QUEUE_BYTES + FIFO_BYTES + 5];
    bench.call(|uart, cx| uart.receive(cx, &data));
    assert_eq!(bench.device.save().dropped, 21);
    let mut count = 0;
    while bench.read(0x3fd) & 1 != 0 {
        bench.read(0x3f8);
        count += 1;
    }
    assert_eq!(count, QUEUE_BYTES);
}

#[test]
fn loopback_returns_bytes_and_modem_signals() {
    let mut bench = Bench::new(com1());
    bench.write(0x3fc, 0x1a);
    assert_eq!(bench.read(0x3fe) & 0xf0, 0x90);
    bench.write(0x3f8, 0x5a);
    assert_eq!(bench.read(0x3fd) & 1, 1);
    bench.write(0x3f8, 0x5b);
    assert_eq!(bench.read(0x3fd) & 2, 2, "overrun");
    assert_eq!(bench.read(0x3f8), 0x5a);
    assert!(bench.effects.is_empty(), "nothing leaves, no interrupt");
}

#[test]
fn the_divisor_latch_hides_data() {
    let mut bench = Bench::new(com1());
    bench.write(0x3fb, 0x83);
    bench.write(0x3f8, 1);
    bench.write(0x3f9, 2);
    assert_eq!((bench.read(0x3f8), bench.read(0x3f9)), (1, 2));
    bench.write(0x3fb, 0x03);
    assert_eq!(bench.read(0x3f9), 0);
    bench.write(0x3ff, 0x42);
    assert_eq!(bench.read(0x3ff), 0x42);
}

snapshot_walk!(random_walk_is_saveable, com1(), 0x3f8..=0x3ff);
