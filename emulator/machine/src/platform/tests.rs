//! The board through the engine's eyes.

use virtft_cpu::bus::{Bus, BusContext, CpuSignal};

use super::fuzz::{self, board};
use super::fuzz_code;
use super::*;
use crate::io::{ClockAnchor, DeviceIndex};

const APIC: u64 = 0xfee0_0000;
const IOAPIC: u64 = 0xfec0_0000;

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

/// Bytes of a seeded generator.
fn junk(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        crate::bits::low8(state >> 24)
    };
    (0..bytes).map(|_| next()).collect()
}

#[test]
fn a_hostile_guest_never_breaks_the_board() {
    for seed in 1..=8 {
        fuzz::hostile_guest(&junk(seed, 200_000));
    }
}

#[test]
fn a_damaged_snapshot_never_breaks_the_board() {
    for seed in 1..=60 {
        fuzz::damaged_state(&junk(seed + 100, 6000));
    }
}

#[test]
fn a_restored_board_goes_on_like_the_original() {
    for seed in 1..=4 {
        fuzz::twins(&junk(seed + 200, 60_000));
    }
}

#[test]
fn junk_is_executed_without_a_trace_of_caches() {
    for seed in 0..300 {
        let mut bytes = junk(seed + 300, 3000);
        bytes[0] = crate::bits::low8(seed);
        fuzz_code::junk_code(&bytes);
    }
}
