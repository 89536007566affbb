//! The bus, driven with entropy devices on it.

use super::{PciError, PciHost, interrupt_line};
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::testing::{Bench, Driver, WINDOW, function};
use crate::io::{CharPort, DeviceIndex, Input};
use crate::snapshot::Snapshot;

fn bench(count: usize) -> Bench {
    Bench::new((0..count).map(|_| function(Rng::new())).collect())
}

#[test]
fn enumeration_finds_bridge_and_functions_and_nothing_else() {
    let mut bench = bench(2);
    assert_eq!(bench.config(0, 0, 4), 0x0008_1b36);
    assert_eq!(bench.config(0, 0x08, 4) >> 8, 0x06_0000);
    assert_eq!(bench.config(1, 0, 4), 0x1044_1af4);
    assert_eq!(bench.config(2, 0x0a, 2), 0x00ff);
    assert_eq!(bench.config(3, 0, 4), 0xffff_ffff);
    // Function 1, bus 1, and extended space.
    assert_eq!(bench.config(1, 0x1000, 4), 0xffff_ffff);
    assert_eq!(bench.with(|host, cx| host.ecam_read(cx, (1 << 20) | (1 << 15), 4)), 0xffff_ffff);
    assert_eq!(bench.config(1, 0x100, 4), 0);
}

#[test]
fn ports_and_ecam_show_the_same_space() {
    let mut bench = bench(1);
    assert_eq!(bench.with(|host, cx| host.io_read(cx, 0xcfc, 4)), 0xffff_ffff, "not enabled");
    for register in (0..256).step_by(4) {
        bench.with(|host, cx| host.io_write(cx, 0xcf8, 4, 0x8000_0800 | register));
        let port = bench.with(|host, cx| host.io_read(cx, 0xcfc, 4));
        assert_eq!(u64::from(port), bench.config(1, u64::from(register), 4));
        for byte in 0..4u16 {
            let part = bench.with(|host, cx| host.io_read(cx, 0xcfc + byte, 1));
            assert_eq!(part, (port >> (8 * byte)) & 0xff);
        }
    }
    bench.with(|host, cx| host.io_write(cx, 0xcf8, 4, 0x8000_0804));
    bench.with(|host, cx| host.io_write(cx, 0xcfd, 1, 0x04));
    assert_eq!(bench.config(1, 4, 2), 0x0402, "one byte was written");
    assert_eq!(bench.with(|host, cx| host.io_read(cx, 0xcf8, 4)), 0x8000_0804);
    assert_eq!(bench.with(|host, cx| host.io_read(cx, 0xcf9, 1)), 0xff, "the reset register is not ours");
}

#[test]
fn bars_are_assigned_sized_and_moved() {
    let mut bench = bench(2);
    assert_eq!(bench.config(1, 0x10, 8), WINDOW | 4);
    assert_eq!(bench.config(2, 0x10, 8), (WINDOW + 0x8000) | 4);
    let status = WINDOW + 20;
    assert_eq!(bench.read(status, 1), 0);
    bench.set_config(1, 0x10, 8, u64::MAX);
    assert_eq!(bench.config(1, 0x10, 8), !0x7fff | 4, "32 KiB");
    assert_eq!(bench.read(0xffff_ffff_ffff_8014, 1), u64::MAX, "not decoded where it ends the address space");
    let moved = 0x12_3456_8000;
    bench.set_config(1, 0x10, 4, moved & 0xffff_ffff);
    bench.set_config(1, 0x14, 4, moved >> 32);
    assert_eq!(bench.read(moved + 20, 1), 0);
    assert_eq!(bench.read(status, 1), u64::MAX, "nothing is left at the old place");
    assert_eq!(bench.read(moved + 0x7ffc, 8), u64::MAX, "an access over the end is not ours");
    bench.set_config(1, 4, 2, 0);
    assert_eq!(bench.read(moved + 20, 1), u64::MAX, "memory space is off");
    bench.with(|host, cx| host.reset(cx));
    assert_eq!(bench.config(1, 0x10, 8), WINDOW | 4);
    assert_eq!(bench.read(status, 1), 0);
}

#[test]
fn the_lowest_device_answers_where_bars_overlap() {
    let mut bench = bench(2);
    bench.write(WINDOW + 22, 2, 1);
    bench.set_config(2, 0x10, 4, WINDOW);
    assert_eq!(bench.read(WINDOW + 22, 2), 1);
    bench.set_config(1, 4, 2, 0);
    assert_eq!(bench.read(WINDOW + 22, 2), 0, "now the second one is seen");
}

#[test]
fn read_only_bits_stay() {
    let mut bench = bench(1);
    let before: Vec<_> = (0..64).map(|index| bench.config(1, 4 * index, 4)).collect();
    for index in 0..64 {
        let register = 4 * index;
        // Leave out what may change: command, BAR, interrupt line, access capability, MSI-X control.
        if !matches!(register, 4 | 0x10 | 0x14 | 0x3c) && register < 0x40 {
            bench.set_config(1, register, 4, 0xffff_ffff);
            assert_eq!(bench.config(1, register, 4), before[usize::try_from(index).unwrap()]);
        }
    }
    bench.set_config(1, 4, 2, 0xffff);
    assert_eq!(bench.config(1, 4, 2), 0x0406);
}

#[test]
fn too_many_or_too_large_is_an_error() {
    let functions = |count: usize| (0..count).map(|_| function(Rng::new())).collect();
    let error = PciHost::new(0..1 << 30, functions(32)).unwrap_err();
    assert_eq!(error, PciError::TooManyDevices { count: 32, limit: 31 });
    let error = PciHost::new(WINDOW..WINDOW + 0xc000, functions(2)).unwrap_err();
    assert_eq!(error, PciError::WindowFull { name: "virtio-rng", size_bytes: 0x8000 });
}

#[test]
fn inta_is_shared_by_eight_and_acknowledged_by_reading() {
    let mut bench = bench(9);
    assert_eq!(interrupt_line(1), interrupt_line(9));
    let mut drivers = Vec::new();
    for device in [1, 9] {
        let mut driver = Driver::probe(&mut bench, device);
        assert!(driver.negotiate(&mut bench, 1 << 32));
        driver.set_up_queues(&mut bench, 8);
        bench.write(driver.common + 20, 1, 15);
        let buffer = bench.alloc(16);
        driver.add(&bench, 0, &[(buffer, 16, true)]);
        driver.kick(&mut bench, 0);
        drivers.push(driver);
    }
    assert_eq!(bench.lines(), [(17, true)], "the line rises once");
    assert_eq!(bench.config(1, 6, 2) & 8, 8);
    assert_eq!(bench.read(drivers[0].isr, 1), 1);
    assert_eq!(bench.lines(), [], "the other device still asserts it");
    bench.set_config(9, 4, 2, 0x0406);
    assert_eq!(bench.lines(), [(17, false)], "INTx disable");
    bench.set_config(9, 4, 2, 0x0006);
    assert_eq!(bench.lines(), [(17, true)]);
    assert_eq!(bench.read(drivers[1].isr, 1), 1);
    assert_eq!(bench.lines(), [(17, false)]);
    assert_eq!(bench.read(drivers[1].isr, 1), 0);
    assert_eq!(bench.config(9, 6, 2) & 8, 0);
}

fn fill(bench: &mut Bench, driver: &mut Driver) {
    let buffer = bench.alloc(16);
    driver.add(bench, 0, &[(buffer, 16, true)]);
    driver.kick(bench, 0);
}

#[test]
fn masked_vectors_wait_in_their_pending_bits() {
    let mut bench = bench(1);
    let mut driver = Driver::start(&mut bench, 1, 1 << 32);
    let control = driver.msix_capability + 2;
    let pending = driver.common + 0x6000;
    fill(&mut bench, &mut driver);
    assert_eq!(bench.messages(), [1]);

    bench.write(driver.msix_table + 16 + 12, 4, 1);
    fill(&mut bench, &mut driver);
    assert_eq!((bench.messages().len(), bench.read(pending, 8)), (0, 2));
    bench.write(driver.msix_table + 16 + 12, 4, 0);
    assert_eq!((bench.messages(), bench.read(pending, 8)), (vec![1], 0));

    bench.set_config(1, control, 2, 0xc000);
    fill(&mut bench, &mut driver);
    fill(&mut bench, &mut driver);
    assert_eq!((bench.messages().len(), bench.read(pending, 4)), (0, 2));
    bench.set_config(1, control, 2, 0x8000);
    assert_eq!(bench.messages(), [1], "two interrupts became one");

    bench.write(driver.msix_table + 16, 8, 0x1_2345_6783);
    bench.write(driver.msix_table + 16 + 8, 4, 77);
    assert_eq!(bench.read(driver.msix_table + 16, 8), 0x1_2345_6780);
    fill(&mut bench, &mut driver);
    assert_eq!(bench.messages(), [77], "junk addresses are the platform's to ignore");
    assert_eq!(bench.lines(), [], "INTA is quiet while MSI-X is on");
}

#[test]
fn the_access_capability_reaches_the_bar() {
    let mut bench = bench(1);
    let driver = Driver::probe(&mut bench, 1);
    let at = driver.access_capability;
    bench.set_config(1, at + 8, 4, 20);
    bench.set_config(1, at + 12, 4, 1);
    bench.set_config(1, at + 16, 1, 3);
    assert_eq!(driver.status(&mut bench), 3);
    assert_eq!(bench.config(1, at + 16, 1), 3);
    // Illegal places do nothing.
    for (bar, offset, length) in [(1, 20, 1), (0, 0x8000, 4), (0, 21, 2), (0, 20, 3), (0, 20, 0)] {
        bench.set_config(1, at + 4, 1, bar);
        bench.set_config(1, at + 8, 4, offset);
        bench.set_config(1, at + 12, 4, length);
        bench.set_config(1, at + 16, 4, 0);
        assert_eq!(bench.config(1, at + 16, 4), 0);
        assert_eq!(driver.status(&mut bench), 3);
    }
}

#[test]
fn inputs_without_a_device_are_errors() {
    let mut bench = bench(1);
    let input = Input::CharReceive { port: CharPort::Console(0), data: vec![1] };
    assert!(bench.deliver(&input).unwrap_err().to_string().contains("Console(0)"));
    let input = Input::NetLink { device: DeviceIndex(3), up: true };
    assert!(bench.deliver(&input).unwrap_err().to_string().contains("network device 3"));
}

#[test]
fn a_state_of_another_machine_is_refused_and_changes_nothing() {
    let mut bench = bench(2);
    let mut driver = Driver::start(&mut bench, 2, u64::MAX);
    fill(&mut bench, &mut driver);
    let state = bench.host.save();
    let mut other = Bench::new(vec![function(Rng::new())]);
    assert!(other.host.restore(state.clone()).is_err());

    let mut wrong = state.clone();
    wrong.functions[1].kind = "virtio-net".into();
    assert!(bench.host.restore(wrong).unwrap_err().to_string().contains("virtio-net"));
    let mut wrong = state.clone();
    wrong.functions[1].bytes.pop();
    assert!(bench.host.restore(wrong).is_err());
    let mut wrong = state.clone();
    wrong.bridge[0] = 0;
    assert!(bench.host.restore(wrong).is_err());
    assert_eq!(bench.host.save(), state);

    let mut twin = self::bench(2);
    twin.host.restore(state.clone()).unwrap();
    assert_eq!(twin.host.save(), state);
    assert_eq!(twin.read(driver.common + 20, 1), 15, "BARs are decoded again");
}
