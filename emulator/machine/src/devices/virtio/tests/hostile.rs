//! Drivers that mean harm: nothing panics, hangs or grows, and a reset mends everything.

use std::collections::BTreeMap;

use crate::context::EntropySource;
use crate::devices::virtio::fuzz::{full_bench, run};
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::testing::{Bench, Driver, RAM_BYTES, RawDescriptor, SeededRandom, WINDOW, function};
use crate::snapshot::Snapshot;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

fn rng() -> (Bench, Driver) {
    let mut bench = Bench::new(vec![function(Rng::new())]);
    let driver = Driver::start(&mut bench, 1, u64::MAX);
    (bench, driver)
}

/// The device broke, told its driver, and works again after a reset.
fn broke_and_mends(bench: &mut Bench, driver: &mut Driver) {
    assert!(driver.broken(bench));
    assert!(bench.messages().contains(&0), "a configuration change is signalled");
    driver.restart(bench, u64::MAX);
    let buffer = bench.alloc(8);
    driver.add(bench, 0, &[(buffer, 8, true)]);
    driver.kick(bench, 0);
    assert_eq!(driver.used(bench, 0).len(), 1);
}

#[test]
fn malformed_chains_break_the_device() {
    let table = 0x80_0000u64;
    let cases: [(&str, &[RawDescriptor]); 10] = [
        ("loop", &[(table, 8, WRITE | NEXT, 1), (table, 8, WRITE | NEXT, 0)]),
        ("loop to itself", &[(table, 8, WRITE | NEXT, 0)]),
        ("next outside the table", &[(table, 8, WRITE | NEXT, 64)]),
        ("outside RAM", &[(WINDOW, 8, WRITE, 0)]),
        ("over the end of RAM", &[(RAM_BYTES - 4, 8, WRITE, 0)]),
        ("over the end of the address space", &[(u64::MAX - 3, 8, WRITE, 0)]),
        ("empty", &[(table, 0, WRITE, 0)]),
        ("readable behind writable", &[(table, 8, WRITE | NEXT, 1), (table, 8, 0, 0)]),
        ("odd indirect table", &[(table, 17, INDIRECT, 0)]),
        ("indirect table outside RAM", &[(WINDOW, 32, INDIRECT, 0)]),
    ];
    for (name, descriptors) in cases {
        let (mut bench, mut driver) = rng();
        for (index, &descriptor) in (0u16..).zip(descriptors) {
            driver.set_descriptor(&bench, 0, index, descriptor);
        }
        driver.make_available(&bench, 0, 0);
        driver.kick(&mut bench, 0);
        assert_eq!(driver.used(&bench, 0), [], "{name}");
        broke_and_mends(&mut bench, &mut driver);
    }
}

#[test]
fn nested_and_endless_indirect_tables_break_the_device() {
    let table = 0x80_0000u64;
    let mut nested = table.to_le_bytes().to_vec();
    nested.extend(16u32.to_le_bytes());
    nested.extend([4, 0, 0, 0]);
    let (mut bench, mut driver) = rng();
    bench.poke(table, &nested);
    driver.set_descriptor(&bench, 0, 0, (table, 16, INDIRECT, 0));
    driver.make_available(&bench, 0, 0);
    driver.kick(&mut bench, 0);
    broke_and_mends(&mut bench, &mut driver);

    // 65535 buffers that all lead on.
    let (mut bench, mut driver) = rng();
    for index in 0..65535u64 {
        let mut entry = 0xa0_0000u64.to_le_bytes().to_vec();
        entry.extend(1u32.to_le_bytes());
        entry.extend([3, 0]);
        entry.extend(u16::try_from(index + 1).unwrap().to_le_bytes());
        bench.poke(table + 16 * index, &entry);
    }
    driver.set_descriptor(&bench, 0, 0, (table, 65535 * 16, INDIRECT, 0));
    driver.make_available(&bench, 0, 0);
    driver.kick(&mut bench, 0);
    broke_and_mends(&mut bench, &mut driver);
}

#[test]
fn available_indices_out_of_range_break_the_device() {
    let (mut bench, mut driver) = rng();
    bench.poke(driver.queues[0].available + 2, &1000u16.to_le_bytes());
    driver.kick(&mut bench, 0);
    broke_and_mends(&mut bench, &mut driver);
    let (mut bench, mut driver) = rng();
    driver.make_available(&bench, 0, 64);
    driver.kick(&mut bench, 0);
    broke_and_mends(&mut bench, &mut driver);
}

#[test]
fn a_buffer_over_its_own_ring_ends() {
    let (mut bench, mut driver) = rng();
    let available = driver.queues[0].available;
    for _ in 0..8 {
        driver.add(&bench, 0, &[(available, 6, true)]);
    }
    driver.kick(&mut bench, 0);
    let done = driver.used(&bench, 0).len();
    assert!((1..=64).contains(&done), "{done}");
    driver.restart(&mut bench, u64::MAX);
    assert_eq!(driver.status(&mut bench), 15);
}

#[test]
fn one_memory_for_all_rings_ends() {
    let mut bench = Bench::new(vec![function(Rng::new())]);
    let mut driver = Driver::probe(&mut bench, 1);
    let mut random = SeededRandom(3);
    for _ in 0..200 {
        assert!(driver.negotiate(&mut bench, 1 << 32));
        let mut bytes = vec![0; 4096];
        random.fill(&mut bytes);
        bytes[2..4].copy_from_slice(&u16::try_from(random.below(64)).unwrap().to_le_bytes());
        bench.poke(0x10_0000, &bytes);
        for register in [32, 40, 48] {
            bench.write(driver.common + register, 8, 0x10_0000 + 16 * random.below(3));
        }
        bench.write(driver.common + 28, 2, 1);
        bench.write(driver.common + 20, 1, 15);
        driver.kick(&mut bench, 0);
    }
    driver.restart(&mut bench, u64::MAX);
    assert_eq!(driver.status(&mut bench), 15);
}

#[test]
fn junk_in_every_register_of_every_device() {
    let mut bench = full_bench();
    let mut random = SeededRandom(7);
    for round in 0..200_000u64 {
        let address = WINDOW + random.below(6 * 0x8000);
        let (size, value) = (1 << random.below(4), random.number());
        match random.below(8) {
            0 => {
                bench.read(address, size);
            }
            1 => bench.set_config(u8::try_from(random.below(8)).unwrap(), random.below(4096), size, value),
            2 if round % 64 == 0 => bench.with(|host, cx| host.reset(cx)),
            _ => bench.write(address & !random.below(4), size, value),
        }
        bench.effects.clear();
    }
    let state = bench.host.save();
    let mut twin = full_bench();
    twin.host.restore(state.clone()).unwrap();
    assert_eq!(twin.host.save(), state);
}

/// Runs the fuzz target; returns the sums of the counters.
fn seeded_runs(seeds: std::ops::Range<u64>) -> BTreeMap<&'static str, u64> {
    let mut sums = BTreeMap::new();
    for seed in seeds {
        let mut data = vec![0; 6000];
        SeededRandom(seed).fill(&mut data);
        let outcome = std::panic::catch_unwind(|| run(&data));
        for (name, count) in outcome.unwrap_or_else(|_| panic!("the run with seed {seed} panicked")) {
            *sums.entry(name).or_insert(0) += count;
        }
    }
    sums
}

#[test]
fn the_fuzz_target_holds_on_seeded_input() {
    let sums = seeded_runs(0..300);
    // Most of it must get behind the checks, or it proves little.
    for name in ["requests", "held_back", "transmitted", "received", "output_bytes", "input_bytes", "bytes", "reported"]
    {
        assert!(sums[name] > 100, "{name}: {sums:?}");
    }
}

#[test]
#[ignore = "takes minutes"]
fn the_fuzz_target_holds_on_much_seeded_input() {
    seeded_runs(300..20_000);
}

#[test]
fn the_same_bytes_cause_the_same_effects() {
    let trace = || {
        let mut bench = full_bench();
        let mut driver = Driver::start(&mut bench, 4, u64::MAX);
        let mut random = SeededRandom(11);
        for _ in 0..500 {
            let address = 0x80_0000 + 16 * random.below(1000);
            driver.add(&bench, 0, &[(address, u32::try_from(1 + random.below(64)).unwrap(), true)]);
            driver.kick(&mut bench, 0);
        }
        (bench.host.save(), bench.effects.clone(), bench.peek(0x80_0000, 20_000))
    };
    assert_eq!(trace(), trace());
}
