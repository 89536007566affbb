//! The pair against the datasheet.

use super::*;

fn initialised(icw4: u8) -> PicPair {
    let mut pic = PicPair::new();
    for (port, base, icw3) in [(0x20, 0x30, 4), (0xa0, 0x38, 2)] {
        pic.write(port, 0x11);
        pic.write(port + 1, base);
        pic.write(port + 1, icw3);
        pic.write(port + 1, icw4);
    }
    pic
}

#[test]
fn priorities_nest_until_the_end_of_interrupt() {
    let mut pic = initialised(1);
    pic.set_line(4, true);
    assert_eq!(pic.acknowledge(), 0x34);
    pic.set_line(6, true);
    assert!(!pic.output(), "a lower priority waits");
    pic.set_line(1, true);
    assert_eq!(pic.acknowledge(), 0x31);
    pic.write(0x20, 0x20);
    assert!(!pic.output());
    pic.write(0x20, 0x64);
    assert_eq!(pic.acknowledge(), 0x36);
}

#[test]
fn the_slave_is_served_through_line_2() {
    let mut pic = initialised(1);
    pic.set_line(8, true);
    pic.set_line(12, true);
    assert_eq!(pic.acknowledge(), 0x38);
    pic.write(0xa0, 0x0b);
    assert_eq!(pic.read(0xa0), 1, "in service on the slave");
    pic.write(0xa0, 0x20);
    pic.write(0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x3c);
}

#[test]
fn a_vanished_request_is_spurious() {
    let mut pic = initialised(1);
    pic.write(0x4d0, 0x20);
    pic.set_line(5, true);
    assert!(pic.output());
    pic.set_line(5, false);
    assert!(!pic.output());
    assert_eq!(pic.acknowledge(), 0x37);
    pic.write(0x20, 0x0b);
    assert_eq!(pic.read(0x20), 0, "a spurious interrupt is not in service");
}

#[test]
fn automatic_eoi_rotates() {
    let mut pic = initialised(3);
    pic.write(0x20, 0x80);
    pic.set_line(3, true);
    assert_eq!(pic.acknowledge(), 0x33);
    pic.set_line(3, false);
    pic.set_line(3, true);
    pic.set_line(4, true);
    assert_eq!(pic.acknowledge(), 0x34, "line 3 went to the lowest priority");
    assert_eq!(pic.acknowledge(), 0x33);
}

#[test]
fn polling_acknowledges() {
    let mut pic = initialised(1);
    pic.set_line(6, true);
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20), 0x86);
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20), 0);
    pic.write(0x20, 0x0b);
    assert_eq!(pic.read(0x20), 0x40);
}

#[test]
fn special_mask_lets_lower_priorities_in() {
    let mut pic = initialised(1);
    pic.set_line(1, true);
    assert_eq!(pic.acknowledge(), 0x31);
    pic.write(0x21, 0x02);
    pic.set_line(5, true);
    assert!(!pic.output());
    pic.write(0x20, 0x68);
    assert_eq!(pic.acknowledge(), 0x35);
}

#[test]
fn state_survives() {
    let mut pic = initialised(1);
    pic.set_line(9, true);
    pic.write(0x4d1, 0xff);
    assert_eq!(pic.read(0x4d1), 0xde);
    crate::devices::testing::check_snapshot(&mut pic, PicPair::new());
}
