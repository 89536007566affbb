//! The console: one port, many ports, bounds.

use crate::devices::virtio::console::{Console, INPUT_LIMIT, PortConfig};
use crate::devices::virtio::testing::{Bench, Driver, function};
use crate::io::{CharPort, Input, Output};
use crate::snapshot::Snapshot;

fn typed(port: u8, data: &[u8]) -> Input {
    Input::CharReceive { port: CharPort::Console(port), data: data.to_vec() }
}

fn counter(bench: &Bench, name: &str) -> u64 {
    let counters = bench.host.functions().next().unwrap().counters();
    counters.into_iter().find(|(known, _)| *known == name).unwrap().1
}

#[test]
fn a_plain_console_writes_at_once_and_keeps_input_until_read() {
    let mut bench = Bench::new(vec![function(Console::new(Vec::new()))]);
    bench.deliver(&typed(0, b"early ")).unwrap();
    let mut driver = Driver::start(&mut bench, 1, u64::MAX);
    assert_eq!(driver.queues.len(), 2);
    let buffer = bench.alloc(4096);
    bench.poke(buffer, b"hello");
    driver.add(&bench, 1, &[(buffer, 2, false), (buffer + 2, 3, false)]);
    driver.kick(&mut bench, 1);
    assert_eq!(bench.outputs(), [Output::CharTransmit { port: CharPort::Console(0), data: b"hello".to_vec() }]);
    assert_eq!(driver.used(&bench, 1).len(), 1);

    // The reset by the driver's start dropped what was typed before; from here on nothing is lost.
    bench.deliver(&typed(0, b"abcdef")).unwrap();
    let head = driver.add(&bench, 0, &[(buffer + 0x100, 4, true)]);
    driver.kick(&mut bench, 0);
    assert_eq!(driver.used(&bench, 0), [(u32::from(head), 4)]);
    let head = driver.add(&bench, 0, &[(buffer + 0x200, 4, true)]);
    driver.kick(&mut bench, 0);
    assert_eq!(driver.used(&bench, 0), [(u32::from(head), 2)]);
    assert_eq!(bench.peek(buffer + 0x100, 4), b"abcd");
    assert_eq!(bench.peek(buffer + 0x200, 2), b"ef");
    let head = driver.add(&bench, 0, &[(buffer + 0x300, 4, true)]);
    driver.kick(&mut bench, 0);
    bench.deliver(&typed(0, b"g")).unwrap();
    assert_eq!(driver.used(&bench, 0), [(u32::from(head), 1)], "a waiting buffer is used at the input");

    bench.write(driver.config + 8, 4, u64::from(b'!'));
    assert_eq!(bench.outputs(), [Output::CharTransmit { port: CharPort::Console(0), data: b"!".to_vec() }]);
}

#[test]
fn input_is_bounded_and_counted() {
    let mut bench = Bench::new(vec![function(Console::new(Vec::new()))]);
    let _driver = Driver::start(&mut bench, 1, u64::MAX);
    bench.deliver(&typed(0, &vec![1; INPUT_LIMIT - 10])).unwrap();
    bench.deliver(&typed(0, &[2; 30])).unwrap();
    assert_eq!(counter(&bench, "input_drops"), 20);
    let state = bench.host.save();
    let mut twin = Bench::new(vec![function(Console::new(Vec::new()))]);
    twin.host.restore(state.clone()).unwrap();
    assert_eq!(twin.host.save(), state);
}

/// Sends a control message of the driver.
fn control(bench: &mut Bench, driver: &mut Driver, port: u32, event: u16, value: u16) {
    let buffer = bench.alloc(8);
    let mut bytes = port.to_le_bytes().to_vec();
    bytes.extend(event.to_le_bytes());
    bytes.extend(value.to_le_bytes());
    bench.poke(buffer, &bytes);
    driver.add(bench, 3, &[(buffer, 8, false)]);
    driver.kick(bench, 3);
}

#[test]
fn ports_are_announced_named_and_opened() {
    let named = PortConfig { name: Some("org.qemu.guest_agent.0".into()), console: false };
    let mut bench = Bench::new(vec![function(Console::new(vec![PortConfig::console(), named]))]);
    let mut driver = Driver::start(&mut bench, 1, u64::MAX);
    assert_eq!(driver.queues.len(), 6);
    assert_eq!(bench.read(driver.config + 4, 4), 2);
    let mut buffers = Vec::new();
    for _ in 0..8 {
        let buffer = bench.alloc(64);
        driver.add(&bench, 2, &[(buffer, 64, true)]);
        buffers.push(buffer);
    }
    let mut read = |bench: &mut Bench, driver: &mut Driver| {
        let mut messages = Vec::new();
        for (_, length) in driver.used(bench, 2) {
            let bytes = bench.peek(buffers.remove(0), length as usize);
            let (event, value) = (bytes[4], bytes[6]);
            messages.push((bytes[0], event, value, String::from_utf8(bytes[8..].to_vec()).unwrap()));
        }
        messages
    };
    let none = String::new;
    control(&mut bench, &mut driver, 0, 0, 1);
    assert_eq!(read(&mut bench, &mut driver), [(0, 1, 1, none()), (1, 1, 1, none())], "PORT_ADD");
    control(&mut bench, &mut driver, 0, 3, 1);
    assert_eq!(read(&mut bench, &mut driver), [(0, 4, 1, none()), (0, 6, 1, none())], "CONSOLE_PORT, PORT_OPEN");
    control(&mut bench, &mut driver, 1, 3, 1);
    let name = (1, 7, 1, "org.qemu.guest_agent.0".to_string());
    assert_eq!(read(&mut bench, &mut driver), [name, (1, 6, 1, none())], "PORT_NAME, PORT_OPEN");

    // Nobody listens at port 1 yet.
    bench.deliver(&typed(1, b"lost")).unwrap();
    assert_eq!(counter(&bench, "input_drops"), 4);
    control(&mut bench, &mut driver, 1, 6, 1);
    bench.deliver(&typed(1, b"heard")).unwrap();
    let buffer = bench.alloc(64);
    driver.add(&bench, 4, &[(buffer, 64, true)]);
    driver.kick(&mut bench, 4);
    assert_eq!(driver.used(&bench, 4), [(0, 5)]);
    assert_eq!(bench.peek(buffer, 5), b"heard");
    driver.add(&bench, 5, &[(buffer, 5, false)]);
    driver.kick(&mut bench, 5);
    assert_eq!(bench.outputs(), [Output::CharTransmit { port: CharPort::Console(1), data: b"heard".to_vec() }]);
}

#[test]
fn a_driver_that_never_reads_messages_does_not_fill_memory() {
    let named = PortConfig { name: Some("a".into()), console: false };
    let mut bench = Bench::new(vec![function(Console::new(vec![named; 16]))]);
    let mut driver = Driver::start(&mut bench, 1, u64::MAX);
    for _ in 0..40 {
        control(&mut bench, &mut driver, 0, 0, 1);
    }
    assert_eq!(counter(&bench, "control_drops"), 40 * 16 - 256);
}
