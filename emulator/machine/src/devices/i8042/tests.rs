//! The controller and its keyboard as a driver meets them.

use super::*;
use crate::devices::testing::{Bench, snapshot_walk};

fn drain(bench: &mut Bench<I8042>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bench.read(0x64) & STATUS_OUTPUT_FULL != 0 {
        bytes.push(bench.read(0x60));
    }
    bytes
}

#[test]
fn self_test_and_command_byte() {
    let mut bench = Bench::new(I8042::new());
    bench.write(0x64, 0xaa);
    assert_eq!(drain(&mut bench), [0x55]);
    bench.write(0x64, 0x20);
    assert_eq!(drain(&mut bench), [0x34]);
    bench.write(0x64, 0x60);
    bench.write(0x60, 0x47);
    bench.write(0x64, 0x20);
    assert_eq!(drain(&mut bench), [0x67], "the auxiliary port stays off");
    bench.write(0x64, 0xab);
    assert_eq!(drain(&mut bench), [0]);
}

#[test]
fn the_keyboard_answers() {
    let mut bench = Bench::new(I8042::new());
    bench.write(0x64, 0x60);
    bench.write(0x60, 0x04);
    bench.write(0x60, 0xf2);
    assert_eq!(drain(&mut bench), [0xfa, 0xab, 0x83]);
    bench.write(0x60, 0xff);
    assert_eq!(drain(&mut bench), [0xfa, 0xaa]);
    bench.write(0x60, 0xed);
    bench.write(0x60, 0x07);
    assert_eq!(drain(&mut bench), [0xfa, 0xfa]);
    assert_eq!(bench.device.save().keyboard.leds, 7);
    bench.write(0x60, 0x99);
    assert_eq!(drain(&mut bench), [0xfe]);
}

#[test]
fn keys_are_set_1_when_translated_and_set_2_when_not() {
    let mut bench = Bench::new(I8042::new());
    let keys = [0x1e, 0x9e, 0xe0, 0x48, 0xe0, 0xc8, 0x01, 0x58, 0xd8];
    bench.call(|device, cx| device.receive(cx, &keys));
    assert_eq!(drain(&mut bench), keys);
    bench.write(0x64, 0x60);
    bench.write(0x60, 0x05);
    bench.call(|device, cx| device.receive(cx, &[0x1e, 0x9e, 0xe0, 0xc8]));
    assert_eq!(drain(&mut bench), [0x1c, 0xf0, 0x1c, 0xe0, 0xf0, 0x75]);
}

#[test]
fn every_byte_is_an_edge() {
    let mut bench = Bench::new(I8042::new());
    bench.call(|device, cx| device.receive(cx, &[0x10, 0x90]));
    assert_eq!(bench.take_line(1), [true]);
    bench.read(0x60);
    assert_eq!(bench.take_line(1), [false, true]);
    bench.read(0x60);
    assert_eq!(bench.take_line(1), [false]);
}

#[test]
fn resets_the_machine() {
    let reset = Effect::Power(PowerAction::Reset);
    for writes in [[(0x64, 0xfe), (0x64, 0x20)], [(0x64, 0xd1), (0x60, 0x02)]] {
        let mut bench = Bench::new(I8042::new());
        for (port, value) in writes {
            bench.write(port, value);
        }
        assert!(bench.effects.contains(&reset));
    }
    let mut bench = Bench::new(I8042::new());
    bench.write(0x64, 0xff);
    assert!(bench.effects.is_empty(), "a pulse of no line");
}

#[test]
fn queues_are_bounded() {
    let mut bench = Bench::new(I8042::new());
    for _ in 0..1000 {
        bench.call(|device, cx| device.receive(cx, &[0x1e, 0x9e, 0xe0]));
        bench.write(0x60, 0xf2);
        bench.write(0x64, 0x20);
    }
    assert!(bench.device.save().replies.len() <= REPLY_BYTES);
    assert!(bench.device.save().keyboard.queue.len() <= keyboard::QUEUE_BYTES + 8);
}

snapshot_walk!(random_walk_is_saveable, I8042::new(), [0x60, 0x64].into_iter());
