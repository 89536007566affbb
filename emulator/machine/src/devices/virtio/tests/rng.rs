//! The entropy device.

use crate::context::EntropySource;
use crate::devices::virtio::rng::{BYTES_LIMIT, Rng};
use crate::devices::virtio::testing::{Bench, Driver, SeededRandom, function};

#[test]
fn buffers_are_filled_from_the_machines_generator() {
    let mut bench = Bench::new(vec![function(Rng::new())]);
    let mut driver = Driver::start(&mut bench, 1, u64::MAX);
    let buffer = bench.alloc(0x1000);
    driver.add(&bench, 0, &[(buffer, 10, true), (buffer + 0x100, 30, true)]);
    driver.kick(&mut bench, 0);
    assert_eq!(driver.used(&bench, 0), [(0, 40)]);
    let mut expected = vec![0; 40];
    SeededRandom(1).fill(&mut expected);
    assert_eq!(bench.peek(buffer, 10), expected[..10]);
    assert_eq!(bench.peek(buffer + 0x100, 30), expected[10..]);
    assert_eq!(bench.peek(buffer + 10, 1), [0], "nothing behind the buffer");
}

#[test]
fn a_huge_buffer_is_filled_in_part_and_the_driver_told() {
    let mut bench = Bench::new(vec![function(Rng::new())]);
    let mut driver = Driver::start(&mut bench, 1, u64::MAX);
    driver.add(&bench, 0, &[(0x80_0000, 0x40_0000, true)]);
    driver.kick(&mut bench, 0);
    assert_eq!(driver.used(&bench, 0), [(0, u32::try_from(BYTES_LIMIT).unwrap())]);
    assert_eq!(bench.peek(0x80_0000 + BYTES_LIMIT as u64, 64), [0; 64]);
}
