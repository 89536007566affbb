//! The transport: features, registers, notifications, interrupts.

use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::testing::{Bench, Driver, function};

const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;
const INDIRECT: u64 = 1 << 28;
const PACKED: u64 = 1 << 34;

fn bench() -> Bench {
    Bench::new(vec![function(Rng::new())])
}

fn counter(bench: &Bench, name: &str) -> u64 {
    let counters = bench.host.functions().next().unwrap().counters();
    counters.into_iter().find(|(known, _)| *known == name).unwrap().1
}

#[test]
fn features_are_offered_and_only_sensible_sets_accepted() {
    let mut bench = bench();
    let mut driver = Driver::probe(&mut bench, 1);
    assert_eq!(driver.offered(&mut bench), VERSION_1 | EVENT_IDX | INDIRECT);
    assert!(!driver.negotiate(&mut bench, EVENT_IDX), "version 1 is needed");
    assert!(!driver.negotiate(&mut bench, VERSION_1 | PACKED), "never offered");
    bench.write(driver.common + 20, 1, 15);
    assert_eq!(driver.status(&mut bench), 3, "DRIVER_OK needs FEATURES_OK");
    assert!(driver.negotiate(&mut bench, VERSION_1 | INDIRECT));
    bench.write(driver.common + 8, 4, 0);
    bench.write(driver.common + 12, 4, EVENT_IDX);
    assert_eq!(bench.read(driver.common + 12, 4), INDIRECT, "final after FEATURES_OK");
}

#[test]
fn registers_read_back_and_read_only_ones_stay() {
    let mut bench = bench();
    let driver = Driver::probe(&mut bench, 1);
    let common = driver.common;
    assert_eq!(bench.read(common + 18, 2), 1);
    assert_eq!(bench.read(common + 24, 2), 64);
    for bad in [0, 3, 128] {
        bench.write(common + 24, 2, bad);
        assert_eq!(bench.read(common + 24, 2), 64, "size {bad} is not allowed");
    }
    bench.write(common + 24, 2, 16);
    assert_eq!(bench.read(common + 24, 2), 16);
    bench.write(common + 32, 8, 0x1234_5678_9ab0);
    assert_eq!(bench.read(common + 36, 4), 0x1234);
    bench.write(common + 32, 4, 0x7);
    assert_eq!(bench.read(common + 32, 4), 0x5678_9ab0, "misaligned");
    bench.write(common + 26, 2, 2);
    assert_eq!(bench.read(common + 26, 2), 0xffff, "there are two vectors");
    bench.write(common + 26, 2, 1);
    assert_eq!(bench.read(common + 26, 2), 1);
    bench.write(common + 22, 2, 7);
    assert_eq!(bench.read(common + 24, 2), 0, "no such queue");
    bench.write(common + 28, 2, 1);
    bench.write(common + 4, 4, 0);
    bench.write(common + 22, 1, 0);
    assert_eq!(bench.read(common + 22, 2), 7);
    assert_eq!(bench.read(common + 0x800, 4), 0);
    bench.write(common + 20, 1, 0);
    assert_eq!(bench.read(common + 22, 2), 0);
    assert_eq!(bench.read(common + 24, 2), 64, "a reset forgets everything");
}

fn request(bench: &mut Bench, driver: &mut Driver) {
    let buffer = bench.alloc(8);
    driver.add(bench, 0, &[(buffer, 8, true)]);
}

#[test]
fn notifications_count_only_when_the_device_is_live() {
    let mut bench = bench();
    let mut driver = Driver::probe(&mut bench, 1);
    assert!(driver.negotiate(&mut bench, VERSION_1));
    driver.set_up_queues(&mut bench, 8);
    request(&mut bench, &mut driver);
    driver.kick(&mut bench, 0);
    driver.kick(&mut bench, 9);
    assert_eq!(driver.used(&bench, 0).len(), 0);
    assert_eq!(counter(&bench, "ignored_notifications"), 2);
    bench.write(driver.common + 20, 1, 15);
    assert_eq!(driver.used(&bench, 0).len(), 1, "DRIVER_OK looks at what is there");

    bench.set_config(1, 4, 2, 2);
    request(&mut bench, &mut driver);
    driver.kick(&mut bench, 0);
    assert_eq!(driver.used(&bench, 0).len(), 0, "not without bus mastering");
    bench.set_config(1, 4, 2, 6);
    assert_eq!(driver.used(&bench, 0).len(), 1);
}

#[test]
fn interrupts_are_suppressed_as_asked() {
    let mut bench = bench();
    let mut driver = Driver::start(&mut bench, 1, VERSION_1);
    request(&mut bench, &mut driver);
    driver.kick(&mut bench, 0);
    assert_eq!(bench.messages(), [1]);
    let flags = driver.queues[0].available;
    bench.poke(flags, &[1, 0]);
    request(&mut bench, &mut driver);
    driver.kick(&mut bench, 0);
    assert_eq!(bench.messages(), [0; 0], "VIRTQ_AVAIL_F_NO_INTERRUPT");

    driver.restart(&mut bench, u64::MAX);
    assert_eq!(driver.wanted(&bench, 0), 0);
    request(&mut bench, &mut driver);
    driver.kick(&mut bench, 0);
    assert_eq!(bench.messages(), [1], "used_event is 0");
    assert_eq!(driver.wanted(&bench, 0), 1, "the device wants to hear of the next one");
    request(&mut bench, &mut driver);
    driver.kick(&mut bench, 0);
    assert_eq!(bench.messages(), [0; 0], "used_event was passed already");
    driver.used(&bench, 0);
    driver.arm(&bench, 0);
    request(&mut bench, &mut driver);
    request(&mut bench, &mut driver);
    driver.kick(&mut bench, 0);
    assert_eq!(bench.messages(), [1]);
}

#[test]
fn rings_outside_ram_break_the_device_until_its_reset() {
    let mut bench = bench();
    let mut driver = Driver::probe(&mut bench, 1);
    for (register, address) in [(32, 0xbfff_fff0), (40, 0), (40, 0x00ff_fff8), (48, 0xffff_ffff_ffff_fff0)] {
        assert!(driver.negotiate(&mut bench, VERSION_1));
        for (good, at) in [(32, 0x1000), (40, 0x2000), (48, 0x3000)] {
            bench.write(driver.common + good, 8, at);
        }
        bench.write(driver.common + register, 8, address);
        bench.write(driver.common + 28, 2, 1);
        assert_eq!(bench.read(driver.common + 28, 2), 0);
        assert!(driver.broken(&mut bench), "{address:#x}");
    }
    driver.restart(&mut bench, u64::MAX);
    request(&mut bench, &mut driver);
    driver.kick(&mut bench, 0);
    assert_eq!(driver.used(&bench, 0).len(), 1);
}

#[test]
fn an_enabled_queue_cannot_be_changed() {
    let mut bench = bench();
    let driver = Driver::start(&mut bench, 1, u64::MAX);
    let before = bench.read(driver.common + 32, 8);
    bench.write(driver.common + 32, 8, 0x5000);
    bench.write(driver.common + 24, 2, 2);
    bench.write(driver.common + 28, 2, 0);
    assert_eq!(bench.read(driver.common + 32, 8), before);
    assert_eq!(bench.read(driver.common + 24, 2), 64);
    assert_eq!(bench.read(driver.common + 28, 2), 1);
}
