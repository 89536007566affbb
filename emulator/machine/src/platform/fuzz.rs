//! Bodies of the fuzz targets for the board: bytes become what a hostile guest does.
//!
//! Nothing may panic or hang, no timer may stay due, and the state must survive a round trip at any time.

use virtft_cpu::bus::{Bus, BusContext};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::bits::{low16, low32, to_usize};
use crate::devices::virtio::balloon::Balloon;
use crate::devices::virtio::block::{Block, BlockConfig};
use crate::devices::virtio::console::{Console, PortConfig};
use crate::devices::virtio::net::{Net, NetConfig};
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::transport::VirtioPci;
use crate::io::DeviceIndex;
use crate::snapshot::Snapshot;

const APIC: u64 = 0xfee0_0000;
const IOAPIC: u64 = 0xfec0_0000;
const VCPUS: usize = 2;
/// Steps between two round trips of the state.
const ROUND_TRIP: usize = 500;

/// A board with every device, 4 MiB of memory, and a clock of one nanosecond per step.
///
/// # Panics
/// Never: the configuration is a good one.
#[must_use]
pub fn board(vcpus: usize) -> Platform {
    let functions: Vec<Box<dyn crate::devices::pci::PciFunction>> = vec![
        Box::new(VirtioPci::new(Block::new(BlockConfig::new(DeviceIndex(0), 1 << 20)))),
        Box::new(VirtioPci::new(Net::new(NetConfig::new(DeviceIndex(0), [2, 0, 0, 0, 0, 1])))),
        Box::new(VirtioPci::new(Console::new(vec![PortConfig::console()]))),
        Box::new(VirtioPci::new(Rng::new())),
        Box::new(VirtioPci::new(Balloon::new())),
    ];
    let pci = PciHost::new(PCI_WINDOW, functions).expect("the window has room");
    let ram = GuestRam::new(4 << 20).expect("4 MiB can be had");
    let mut platform = Platform::new(ram, vcpus, crate::clock::RATE_ONE, pci);
    platform.set_up_for_boot();
    platform
}

/// A board whose functions decode memory and are bus masters.
fn live_board() -> Platform {
    let mut platform = board(VCPUS);
    for device in 1..=5 {
        let cx = BusContext { cpu: 0, count: 0 };
        platform.mmio_write(cx, ECAM.start + (device << 15) + 4, 2, 6);
    }
    platform
}

/// Bytes that steer a run; zeroes behind the end.
#[derive(Debug, Clone)]
struct Source<'a>(&'a [u8]);

impl Source<'_> {
    fn number(&mut self, bytes: usize) -> u64 {
        let (head, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        head.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.number(2) % limit
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[to_usize(self.below(choices.len() as u64))]
    }

    fn address(&mut self) -> u64 {
        let places =
            [(APIC, 0x1000), (IOAPIC, 0x50), (ECAM.start, 0x6_0000), (PCI_WINDOW.start, 0x4_0000), (0xfff0_0000, 16)];
        let (base, size) = self.one_of(&places);
        base + self.number(3) % size
    }

    fn port(&mut self) -> u16 {
        let places = [
            (0x20, 2),
            (0x40, 4),
            (0x60, 5),
            (0x70, 4),
            (0xa0, 2),
            (0xb2, 2),
            (0x2f8, 8),
            (0x3f8, 8),
            (0x4d0, 2),
            (0x600, 0x24),
            (0xcf8, 8),
            (0, 0x1_0000),
        ];
        let (base, size) = self.one_of(&places);
        low16(base + self.below(size))
    }

    fn value(&mut self) -> u64 {
        let bytes = self.one_of(&[0, 1, 2, 4, 8]);
        if bytes == 0 { u64::MAX } else { self.number(bytes) }
    }
}

/// One access of a hostile guest, and the time that passes before it.
fn step(platform: &mut Platform, source: &mut Source<'_>, count: &mut u64) {
    let scale = source.below(24);
    *count += 1 + (source.number(3) & ((1 << scale) - 1));
    let cx = BusContext { cpu: to_usize(source.below(VCPUS as u64)), count: *count };
    platform.advance(*count);
    let size = source.one_of(&[1, 2, 4, 8]);
    match source.below(12) {
        0..=2 => platform.mmio_write(cx, source.address(), size, source.value()),
        3..=4 => {
            platform.mmio_read(cx, source.address(), size);
        }
        5..=7 => platform.port_write(cx, source.port(), size.min(4), low32(source.value())),
        8..=9 => {
            platform.port_read(cx, source.port(), size.min(4));
        }
        10 => {
            let index = source.one_of(&[0x1b, 0x6e0, 0x800, 0x800, 0x800]);
            let index = if index == 0x800 { index + low32(source.below(0x100)) } else { index };
            let value = source.value();
            let value = if index == 0x1b { 0xfee0_0000 | (value & 0xd00) } else { value };
            // Either it is done or the instruction faults.
            let _ = platform.msr_write(cx, index, value);
            let _ = platform.msr_read(cx, index);
        }
        _ => {
            platform.cr8_write(cx, source.below(16));
            if platform.interrupt(cx.cpu) {
                platform.acknowledge(cx);
            }
            platform.take_signal(cx.cpu);
        }
    }
    platform.advance(*count);
    assert!(platform.deadline() > *count, "a timer stays due at {count}");
}

/// Accesses everything, resets when it is asked to, and sends the state through a round trip now and then.
///
/// # Panics
/// When the board is broken.
pub fn hostile_guest(data: &[u8]) {
    let mut platform = live_board();
    let mut source = Source(data);
    let mut count = 0;
    for number in 0.. {
        if source.0.is_empty() {
            break;
        }
        step(&mut platform, &mut source, &mut count);
        platform.take_outputs();
        if platform.take_power_action().is_some() {
            platform.reset(count);
        }
        if number % ROUND_TRIP == 0 {
            let saved = platform.save();
            let mut other = board(VCPUS);
            other.restore(saved.clone()).expect("a state that was saved can be restored");
            assert_eq!(other.save(), saved);
            assert_eq!(other.deadline(), platform.deadline());
        }
    }
}

/// Damages an encoded state; what is still accepted must be a state that a guest can go on with.
///
/// # Panics
/// When the board is broken.
pub fn damaged_state(data: &[u8]) {
    let mut source = Source(data);
    let mut platform = live_board();
    let mut count = 0;
    for _ in 0..100 {
        step(&mut platform, &mut source, &mut count);
    }
    let mut bytes = postcard::to_stdvec(&platform.save()).expect("state types are plain data");
    for _ in 0..1 + source.below(8) {
        let at = to_usize(source.number(3)) % bytes.len();
        bytes[at] = crate::bits::low8(source.number(1));
    }
    let Ok(state) = postcard::from_bytes::<PlatformState>(&bytes) else { return };
    let before = platform.save();
    if platform.restore(state).is_err() {
        assert_eq!(platform.save(), before, "a refused state changes nothing");
        return;
    }
    while !source.0.is_empty() {
        step(&mut platform, &mut source, &mut count);
        platform.take_outputs();
        platform.take_power_action();
    }
    let mut other = board(VCPUS);
    other.restore(platform.save()).expect("a state that was saved can be restored");
}

/// Restores a state into a second board and demands that both go on alike.
///
/// # Panics
/// When they differ.
pub fn twins(data: &[u8]) {
    let (first, second) = data.split_at(data.len() / 2);
    let mut source = Source(first);
    let mut platform = live_board();
    let mut count = 0;
    while !source.0.is_empty() {
        step(&mut platform, &mut source, &mut count);
        platform.take_outputs();
        platform.take_power_action();
    }
    let mut other = board(VCPUS);
    // Guest memory is not part of the board's state.
    for page in 0..platform.ram.page_count() {
        let address = GuestAddress(platform.ram.page_address(page));
        other.ram.memory().write_slice(&platform.ram.page(page), address).expect("memories of equal size");
    }
    other.restore(platform.save()).expect("a state that was saved can be restored");
    let (mut source, mut twin, mut other_count) = (Source(second), Source(second), count);
    while !source.0.is_empty() {
        step(&mut platform, &mut source, &mut count);
        step(&mut other, &mut twin, &mut other_count);
        assert_eq!(platform.take_outputs(), other.take_outputs());
        assert_eq!(platform.take_power_action(), other.take_power_action());
    }
    assert_eq!(platform.save(), other.save());
}
