//! The board through the engine's eyes.

use virtft_cpu::bus::{Bus, BusContext, CpuSignal};

use super::*;
use crate::devices::testing::check_snapshot;
use crate::devices::virtio::balloon::Balloon;
use crate::devices::virtio::block::{Block, BlockConfig};
use crate::devices::virtio::console::{Console, PortConfig};
use crate::devices::virtio::net::{Net, NetConfig};
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::transport::VirtioPci;
use crate::io::{ClockAnchor, DeviceIndex};
use crate::snapshot::Snapshot;

const APIC: u64 = 0xfee0_0000;
const IOAPIC: u64 = 0xfec0_0000;

fn board(vcpus: usize) -> Platform {
    let pci = PciHost::new(
        PCI_WINDOW,
        vec![
            Box::new(VirtioPci::new(Block::new(BlockConfig::new(DeviceIndex(0), 1 << 20)))),
            Box::new(VirtioPci::new(Net::new(NetConfig::new(DeviceIndex(0), [2, 0, 0, 0, 0, 1])))),
            Box::new(VirtioPci::new(Console::new(vec![PortConfig::console()]))),
            Box::new(VirtioPci::new(Rng::new())),
            Box::new(VirtioPci::new(Balloon::new())),
        ],
    )
    .unwrap();
    let mut platform = Platform::new(GuestRam::new(4 << 20).unwrap(), vcpus, 1 << 32, pci);
    platform.set_up_for_boot();
    platform
}

/// A vCPU at a count. The rate is one nanosecond per step, so the count is the time.
fn at(cpu: usize, count: u64) -> BusContext {
    BusContext { cpu, count }
}

fn enable_apics(platform: &mut Platform, vcpus: usize) {
    for cpu in 0..vcpus {
        platform.mmio_write(at(cpu, 0), APIC + 0xf0, 4, 0x1ff);
    }
}

fn route(platform: &mut Platform, pin: u64, entry: u64) {
    for (half, value) in [(1, entry >> 32), (0, entry & 0xffff_ffff)] {
        platform.mmio_write(at(0, 0), IOAPIC, 4, 0x10 + 2 * pin + half);
        platform.mmio_write(at(0, 0), IOAPIC + 0x10, 4, value);
    }
}

#[test]
fn the_8254_interrupts_through_both_controllers() {
    let mut platform = board(1);
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, 0xfe)] {
        platform.port_write(at(0, 0), port, 1, value);
    }
    platform.port_write(at(0, 0), 0x43, 1, 0x34);
    platform.port_write(at(0, 0), 0x40, 1, 0xe8);
    platform.port_write(at(0, 0), 0x40, 1, 0x03);
    let due = platform.deadline();
    assert_eq!(due, (1000u64 * 1_000_000_000).div_ceil(1_193_182));
    platform.advance(due - 1);
    assert!(!platform.interrupt(0));
    platform.advance(due);
    assert!(platform.interrupt(0), "ExtINT through LINT0 in virtual wire mode");
    assert_eq!(platform.acknowledge(at(0, due)), Some(0x30));

    // The same line on pin 2 of the IO-APIC.
    enable_apics(&mut platform, 1);
    platform.mmio_write(at(0, due), APIC + 0x350, 4, 0x1_0700);
    route(&mut platform, 2, 0x42);
    let next = platform.deadline();
    platform.advance(next);
    assert_eq!(platform.acknowledge(at(0, next)), Some(0x42));
}

#[test]
fn a_level_interrupt_goes_on_until_its_device_is_served() {
    let mut platform = board(2);
    enable_apics(&mut platform, 2);
    route(&mut platform, 9, (1 << 56) | (1 << 15) | 0x59);
    platform.port_write(at(0, 0), 0xb2, 1, 0xa1);
    platform.port_write(at(0, 0), 0x602, 2, 0x100);
    platform.deliver(10, &Input::PowerButton).unwrap();
    assert!(!platform.interrupt(0));
    assert_eq!(platform.acknowledge(at(1, 11)), Some(0x59));
    platform.mmio_write(at(1, 12), APIC + 0xb0, 4, 0);
    assert_eq!(platform.acknowledge(at(1, 13)), Some(0x59), "still asserted after the EOI");
    platform.port_write(at(1, 14), 0x600, 2, 0x100);
    platform.mmio_write(at(1, 15), APIC + 0xb0, 4, 0);
    assert!(!platform.interrupt(1));
}

#[test]
fn interprocessor_interrupts_and_start_up() {
    let mut platform = board(4);
    enable_apics(&mut platform, 4);
    let send = |platform: &mut Platform, destination: u64, command: u64| {
        platform.mmio_write(at(0, 0), APIC + 0x310, 4, destination << 24);
        platform.mmio_write(at(0, 0), APIC + 0x300, 4, command);
    };
    send(&mut platform, 2, 0x4500);
    send(&mut platform, 2, 0x4609);
    send(&mut platform, 2, 0x460a);
    assert_eq!(platform.take_signal(2), Some(CpuSignal::Init));
    assert_eq!(platform.take_signal(2), Some(CpuSignal::Startup(9)));
    assert_eq!(platform.take_signal(2), None, "the second start-up finds the vCPU started");
    assert_eq!(platform.mmio_read(at(2, 0), APIC + 0xf0, 4), 0xff, "INIT reset its APIC");

    send(&mut platform, 0, 0xc_00f0);
    let woken: Vec<_> = (0..4).map(|cpu| platform.interrupt(cpu)).collect();
    assert_eq!(woken, [false, true, false, true], "all but itself, and but the one that is disabled");
    send(&mut platform, 3, 0x400);
    send(&mut platform, 3, 0x400);
    assert_eq!((platform.take_signal(3), platform.take_signal(3)), (Some(CpuSignal::Nmi), None));
    platform.deliver(5, &Input::Nmi).unwrap();
    assert!((0..4).all(|cpu| platform.take_signal(cpu) == Some(CpuSignal::Nmi)));
}

#[test]
fn lowest_priority_goes_to_the_least_busy() {
    let mut platform = board(2);
    enable_apics(&mut platform, 2);
    for cpu in 0..2 {
        platform.mmio_write(at(cpu, 0), APIC + 0xd0, 4, 1 << (24 + cpu));
    }
    platform.cr8_write(at(0, 0), 2);
    route(&mut platform, 4, (3 << 56) | (1 << 11) | (1 << 8) | 0x44);
    platform.port_write(at(0, 0), 0x3fc, 1, 8);
    platform.port_write(at(0, 0), 0x3f9, 1, 2);
    assert!(!platform.interrupt(0));
    assert_eq!(platform.acknowledge(at(1, 1)), Some(0x44));
}

#[test]
fn x2apic_and_tsc_deadline_by_msr() {
    let mut platform = board(1);
    platform.msr_write(at(0, 0), 0x1b, 0xfee0_0d00).unwrap();
    platform.msr_write(at(0, 0), 0x80f, 0x1ff).unwrap();
    platform.msr_write(at(0, 0), 0x832, 0x4_00ec).unwrap();
    platform.msr_write(at(0, 0), 0x6e0, 5000).unwrap();
    assert_eq!((platform.deadline(), platform.tsc(4999)), (5000, 4999));
    platform.advance(5000);
    assert_eq!(platform.acknowledge(at(0, 5000)), Some(0xec));
    assert_eq!(platform.deadline(), u64::MAX);
}

#[test]
fn anchors_move_deadlines() {
    let mut platform = board(1);
    platform.msr_write(at(0, 0), 0x1b, 0xfee0_0d00).unwrap();
    platform.msr_write(at(0, 0), 0x80f, 0x1ff).unwrap();
    platform.msr_write(at(0, 0), 0x832, 0x4_00ec).unwrap();
    platform.msr_write(at(0, 0), 0x6e0, 10_000).unwrap();
    let anchor = Input::ClockAnchor(ClockAnchor { time_ns: 1000, rate: 2 << 32 });
    platform.deliver(1000, &anchor).unwrap();
    assert_eq!(platform.deadline(), 5500);
    let anchor = Input::ClockAnchor(ClockAnchor { time_ns: 20_000, rate: 1 << 32 });
    platform.deliver(2000, &anchor).unwrap();
    assert_eq!(platform.deadline(), 2000, "due at once");
    let back = Input::ClockAnchor(ClockAnchor { time_ns: 19_999, rate: 1 << 32 });
    assert!(matches!(platform.deliver(2000, &back), Err(InputError::Clock(_))));
}

#[test]
fn outputs_and_power_want_attention() {
    let mut platform = board(1);
    assert!(!platform.attention());
    platform.port_write(at(0, 0), 0x3f8, 1, u32::from(b'x'));
    assert!(platform.attention());
    let sent = Output::CharTransmit { port: CharPort::Serial(0), data: vec![b'x'] };
    assert_eq!(platform.take_outputs(), [sent]);
    assert!(!platform.attention());
    platform.port_write(at(0, 0), 0xcf9, 1, 6);
    platform.port_write(at(0, 0), 0xf4, 4, 0);
    assert_eq!(platform.take_power_action(), Some(PowerAction::Reset), "the first one counts");
}

#[test]
fn inputs_for_missing_devices_are_refused() {
    let mut platform = board(1);
    let data = vec![1];
    for port in [CharPort::Serial(2), CharPort::DebugCon] {
        let error = platform.deliver(0, &Input::CharReceive { port, data: data.clone() }).unwrap_err();
        assert_eq!(error, InputError::NoChannel { port });
    }
    let input = Input::NetLink { device: DeviceIndex(1), up: true };
    assert!(matches!(platform.deliver(0, &input), Err(InputError::Device(_))));
}

#[test]
fn wide_accesses_of_byte_ports_are_split() {
    let mut platform = board(1);
    platform.port_write(at(0, 0), 0x3fb, 1, 0x80);
    platform.port_write(at(0, 0), 0x3f8, 2, 0x1234);
    assert_eq!(platform.port_read(at(0, 0), 0x3f8, 2), 0x1234, "both bytes of the divisor");
    assert_eq!(platform.port_read(at(0, 1_000_000_000), 0x608, 4), 3_579_545);
    assert_eq!(platform.port_read(at(0, 0), 0xffff, 4) & 0xff, 0xff);
    platform.port_write(at(0, 0), 0xcf8, 4, 0x8000_0000);
    assert_eq!(platform.port_read(at(0, 0), 0xcfc, 4), 0x0008_1b36);
    assert_eq!(platform.mmio_read(at(0, 0), ECAM.start, 4), 0x0008_1b36);
}

#[test]
fn reset_returns_to_power_on_but_keeps_the_clock() {
    let mut platform = board(2);
    enable_apics(&mut platform, 2);
    platform.deliver(0, &Input::RtcOrigin { unix_ns: 1_700_000_000_000_000_000 }).unwrap();
    platform.port_write(at(0, 100), 0x70, 1, 0x50);
    platform.port_write(at(0, 100), 0x71, 1, 0x77);
    platform.port_write(at(0, 100), 0x3ff, 1, 0x55);
    platform.reset(200);
    assert_eq!(platform.mmio_read(at(0, 200), APIC + 0xf0, 4), 0xff);
    assert_eq!(platform.port_read(at(0, 200), 0x3ff, 1), 0);
    platform.port_write(at(0, 200), 0x70, 1, 0x50);
    assert_eq!(platform.port_read(at(0, 200), 0x71, 1), 0x77, "CMOS is on the battery");
    assert_eq!(platform.now_ns(200), 200);
}

/// Memory decoding and bus mastering on, for every function.
fn enable_functions(platform: &mut Platform) {
    for device in 1..=5 {
        platform.mmio_write(at(0, 0), ECAM.start + (device << 15) + 4, 2, 6);
    }
}

/// Junk from a seeded generator.
struct Junk(u64);

impl Junk {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn address(&mut self) -> u64 {
        let bases = [APIC, IOAPIC, ECAM.start, ECAM.start + 0x8000, PCI_WINDOW.start, PCI_WINDOW.start, 0xfff0_0000];
        let base = bases[usize::try_from(self.below(bases.len() as u64)).unwrap()];
        base + self.below(if base == PCI_WINDOW.start { 0x4_0000 } else { 0x1000 })
    }

    fn port(&mut self) -> u16 {
        let ranges: [(u64, u64); 12] = [
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
        let (base, size) = ranges[usize::try_from(self.below(12)).unwrap()];
        u16::try_from(base + self.below(size)).unwrap()
    }

    fn value(&mut self) -> u64 {
        let value = self.next();
        match value & 3 {
            0 => value >> 56,
            1 => value >> 32,
            2 => u64::MAX,
            _ => value,
        }
    }
}

/// One step of a hostile guest; deterministic for equal states of `junk` and `platform`.
fn hostile_step(platform: &mut Platform, junk: &mut Junk, count: u64) {
    let cx = at(usize::try_from(junk.below(2)).unwrap(), count);
    let size = 1 << junk.below(4);
    let value = junk.value();
    match junk.below(10) {
        0..=2 => platform.mmio_write(cx, junk.address(), size, value),
        3 => {
            platform.mmio_read(cx, junk.address(), size);
        }
        4..=6 => platform.port_write(cx, junk.port(), size.min(4), crate::bits::low32(value)),
        7 => {
            platform.port_read(cx, junk.port(), size.min(4));
        }
        8 => {
            let index = [0x1b, 0x6e0][usize::try_from(junk.below(2)).unwrap()];
            let index = if junk.below(3) == 0 { index } else { 0x800 + crate::bits::low32(junk.below(0x100)) };
            let value = if index == 0x1b { 0xfee0_0000 | value & 0xd00 } else { value };
            let _ = platform.msr_write(cx, index, value);
            let _ = platform.msr_read(cx, index);
        }
        _ => {
            platform.cr8_write(cx, value & 0xf);
            if platform.interrupt(cx.cpu) {
                platform.acknowledge(cx);
            }
            platform.take_signal(cx.cpu);
        }
    }
    platform.advance(count);
    assert!(platform.deadline() > count, "a timer stays due");
}

#[test]
fn a_hostile_guest_never_breaks_the_board() {
    for seed in 1..=8 {
        let mut platform = board(2);
        enable_functions(&mut platform);
        let mut junk = Junk(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed));
        let mut count = 0;
        for step in 0..20_000 {
            let limit = 1 << junk.below(24);
            count += 1 + junk.below(limit);
            hostile_step(&mut platform, &mut junk, count);
            platform.take_outputs();
            if platform.take_power_action().is_some() {
                platform.reset(count);
            }
            if step % 1000 == 0 {
                let saved = platform.save();
                let mut other = board(2);
                other.restore(saved.clone()).unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error}"));
                assert_eq!(other.save(), saved, "seed {seed}, step {step}");
                assert_eq!(other.deadline(), platform.deadline(), "seed {seed}, step {step}");
            }
        }
        check_snapshot(&mut platform, board(2));
    }
}

#[test]
fn a_restored_board_goes_on_like_the_original() {
    for seed in 1..=4 {
        let mut platform = board(2);
        enable_functions(&mut platform);
        let mut junk = Junk(0xd134_2543_de82_ef95u64.wrapping_mul(seed));
        let mut count = 0;
        for _ in 0..3000 {
            count += 1 + junk.below(5000);
            hostile_step(&mut platform, &mut junk, count);
            platform.take_outputs();
            platform.take_power_action();
        }
        let mut other = board(2);
        // Guest memory is not part of the board's state.
        for page in 0..platform.ram.page_count() {
            let address = vm_memory::GuestAddress(platform.ram.page_address(page));
            vm_memory::Bytes::write_slice(other.ram.memory(), &platform.ram.page(page), address).unwrap();
        }
        other.restore(platform.save()).unwrap();
        let mut twin = Junk(junk.0);
        for step in 0..3000 {
            count += 1 + step;
            hostile_step(&mut platform, &mut junk, count);
            hostile_step(&mut other, &mut twin, count);
            assert_eq!(platform.take_outputs(), other.take_outputs());
            platform.take_power_action();
            other.take_power_action();
        }
        assert_eq!(platform.save(), other.save(), "seed {seed}");
    }
}
