//! The balloon: pages given up read as zeroes.

use crate::devices::virtio::balloon::{Balloon, F_STATS_VQ};
use crate::devices::virtio::testing::{Bench, Driver, function};
use crate::io::{Input, Output};

fn bench(features: u64) -> (Bench, Driver) {
    let mut bench = Bench::new(vec![function(Balloon::new())]);
    let driver = Driver::start(&mut bench, 1, features);
    (bench, driver)
}

fn frames(bench: &mut Bench, frames: &[u32]) -> (u64, u32, bool) {
    let address = bench.alloc(4096);
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.to_le_bytes()).collect();
    bench.poke(address, &bytes);
    (address, u32::try_from(bytes.len()).unwrap(), false)
}

#[test]
fn inflated_pages_are_zero_from_that_moment() {
    let (mut bench, mut driver) = bench(u64::MAX);
    bench.poke(0xa0_0000, &[0xaa; 8192]);
    bench.poke(0xa0_2000, &[0xbb; 1]);
    let list = frames(&mut bench, &[0xa00, 0xa01, 0xfff_ffff]);
    driver.add(&bench, 0, &[list]);
    driver.kick(&mut bench, 0);
    assert_eq!(bench.outputs(), [Output::BalloonInflate { frames: vec![0xa00, 0xa01] }], "not what is no RAM");
    assert_eq!(bench.peek(0xa0_0000, 8192), [0; 8192]);
    assert_eq!(bench.peek(0xa0_2000, 1), [0xbb]);
    let list = frames(&mut bench, &[0xa00]);
    driver.add(&bench, 1, &[list]);
    driver.kick(&mut bench, 1);
    assert_eq!(driver.used(&bench, 1).len(), 1);
    bench.write(driver.config + 4, 4, 1);
    let counters = bench.host.functions().next().unwrap().counters();
    for expected in [("inflated", 2), ("deflated", 1), ("bad_frames", 1), ("actual_pages", 1)] {
        assert!(counters.contains(&expected), "{counters:?}");
    }
}

#[test]
fn reports_clear_whole_pages_on_either_queue_number() {
    for queue in [3, 4] {
        let (mut bench, mut driver) = bench(u64::MAX);
        bench.poke(0xa0_0000, &[0xaa; 0x4000]);
        driver.add(&bench, queue, &[(0xa0_0800, 0x2800, true)]);
        driver.kick(&mut bench, queue);
        assert_eq!(bench.outputs(), [Output::BalloonInflate { frames: vec![0xa01, 0xa02] }]);
        assert_eq!(bench.peek(0xa0_0fff, 2), [0xaa, 0]);
        assert_eq!(bench.peek(0xa0_2fff, 2), [0, 0xaa]);
    }
    // Without statistics a driver that counts queues that exist reports by queue 2.
    let (mut bench, mut driver) = bench(!(1 << F_STATS_VQ));
    bench.poke(0xa0_0000, &[0xaa; 0x1000]);
    driver.add(&bench, 2, &[(0xa0_0000, 0x1000, true)]);
    driver.kick(&mut bench, 2);
    assert_eq!(bench.outputs().len(), 1);
    assert_eq!(bench.peek(0xa0_0000, 1), [0]);
}

#[test]
fn a_target_reaches_the_driver_and_asks_for_statistics() {
    let (mut bench, mut driver) = bench(u64::MAX);
    let address = bench.alloc(4096);
    let mut bytes = 4u16.to_le_bytes().to_vec();
    bytes.extend(123_456u64.to_le_bytes());
    bytes.extend(999u16.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bench.poke(address, &bytes);
    driver.add(&bench, 2, &[(address, 20, false)]);
    driver.kick(&mut bench, 2);
    assert_eq!(driver.used(&bench, 2), [], "the buffer is kept");
    let generation = bench.read(driver.common + 21, 1);
    bench.deliver(&Input::BalloonTarget { pages: 512 }).unwrap();
    assert_eq!(bench.read(driver.config, 4), 512);
    assert_ne!(bench.read(driver.common + 21, 1), generation);
    assert_eq!(driver.used(&bench, 2).len(), 1, "it goes back with a new target");
    assert_eq!(bench.messages(), [3, 0]);
    bench.deliver(&Input::BalloonTarget { pages: 512 }).unwrap();
    assert_eq!(bench.messages(), [0; 0], "nothing has changed");
}
