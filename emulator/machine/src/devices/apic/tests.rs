//! The local APIC against the SDM.

use super::registers::offset;
use super::*;
use crate::context::MsiMessage;
use crate::devices::testing::check_snapshot;

const X2APIC_ON: u64 = 0xfee0_0d00;

fn enabled() -> LocalApic {
    let mut apic = LocalApic::new(0);
    apic.mmio_write(offset::SVR, 0x1ff, 0);
    apic
}

#[test]
fn priorities_decide_delivery() {
    let mut apic = enabled();
    assert!(apic.accept(0x41, false));
    assert!(apic.accept(0x52, true));
    assert_eq!(apic.acknowledge(), Some(0x52));
    assert!(!apic.ready(), "a lower class waits for the end of interrupt");
    assert!(apic.accept(0x61, false));
    assert_eq!(apic.acknowledge(), Some(0x61));
    assert_eq!(apic.mmio_write(offset::EOI, 0, 0), None, "edge");
    assert_eq!(apic.mmio_write(offset::EOI, 0, 0), Some(ApicEvent::EndOfInterrupt(0x52)), "level");
    apic.set_cr8(5);
    assert!(!apic.ready(), "task priority masks its class and below");
    apic.set_cr8(3);
    assert_eq!(apic.acknowledge(), Some(0x41));
    assert_eq!(apic.mmio_read(offset::PPR, 0), 0x40);
    assert_eq!(apic.mmio_read(offset::ISR + 0x20, 0), 2);
}

#[test]
fn one_shot_and_periodic_timer() {
    let mut apic = enabled();
    apic.mmio_write(offset::DIVIDE, 0x3, 0);
    apic.mmio_write(offset::LVT_TIMER, 0x30, 0);
    apic.mmio_write(offset::INITIAL_COUNT, 1000, 0);
    assert_eq!(apic.deadline_ns(), 16_000);
    assert_eq!(apic.mmio_read(offset::CURRENT_COUNT, 8_000), 500);
    apic.settle(16_000);
    assert_eq!(apic.acknowledge(), Some(0x30));
    assert_eq!((apic.mmio_read(offset::CURRENT_COUNT, 17_000), apic.deadline_ns()), (0, u64::MAX));
    apic.mmio_write(offset::EOI, 0, 0);

    apic.mmio_write(offset::LVT_TIMER, 0x2_0030, 20_000);
    apic.mmio_write(offset::INITIAL_COUNT, 1000, 20_000);
    apic.settle(20_000 + 16_000 * 5 + 7);
    assert_eq!(apic.acknowledge(), Some(0x30));
    assert!(!apic.ready(), "five periods make one interrupt");
    assert_eq!(apic.deadline_ns(), 20_000 + 16_000 * 6, "in the original phase");
}

#[test]
fn an_expiry_while_masked_is_not_delivered_later() {
    let mut apic = enabled();
    apic.mmio_write(offset::DIVIDE, 0xb, 0);
    apic.mmio_write(offset::LVT_TIMER, 0x1_0030, 0);
    apic.mmio_write(offset::INITIAL_COUNT, 100, 0);
    assert_eq!(apic.deadline_ns(), u64::MAX);
    apic.mmio_write(offset::LVT_TIMER, 0x30, 200);
    apic.settle(300);
    assert!(!apic.ready());
}

#[test]
fn tsc_deadline() {
    let mut apic = enabled();
    apic.msr_write(0x6e0, 500, 0).unwrap();
    assert_eq!(apic.msr_read(0x6e0, 0), Ok(0), "ignored outside the mode");
    apic.mmio_write(offset::LVT_TIMER, 0x4_00ec, 0);
    apic.msr_write(0x6e0, 500, 10).unwrap();
    assert_eq!((apic.deadline_ns(), apic.msr_read(0x6e0, 499)), (500, Ok(500)));
    assert_eq!(apic.msr_read(0x6e0, 500), Ok(0), "disarmed by firing");
    assert_eq!(apic.acknowledge(), Some(0xec));
    apic.mmio_write(offset::EOI, 0, 500);
    apic.msr_write(0x6e0, 400, 600).unwrap();
    assert!(apic.ready(), "a deadline in the past fires at once");
    apic.msr_write(0x6e0, 9000, 600).unwrap();
    apic.mmio_write(offset::LVT_TIMER, 0xec, 600);
    assert_eq!(apic.deadline_ns(), u64::MAX, "leaving the mode disarms");
}

#[test]
fn base_register_transitions() {
    let mut apic = LocalApic::new(0);
    assert_eq!(apic.msr_read(0x1b, 0), Ok(0xfee0_0900));
    assert!(apic.msr_write(0x1b, 0xfed0_0900, 0).is_err(), "the address is fixed");
    assert!(apic.msr_write(0x1b, 0xfee0_0800, 0).is_err(), "the BSP flag is fixed");
    assert!(apic.msr_read(0x802, 0).is_err(), "not in x2APIC mode");
    apic.msr_write(0x1b, X2APIC_ON, 0).unwrap();
    assert_eq!(apic.mmio_read(offset::VERSION, 0), u32::MAX, "the page is not decoded");
    assert!(apic.msr_write(0x1b, 0xfee0_0900, 0).is_err(), "no way back to xAPIC mode");
    apic.msr_write(0x1b, 0xfee0_0100, 0).unwrap();
    assert!(apic.msr_write(0x1b, X2APIC_ON, 0).is_err(), "not from disabled");
    assert!(apic.accepts_external(), "off: LINT0 is INTR");
    apic.msr_write(0x1b, 0xfee0_0900, 0).unwrap();
    assert_eq!(apic.mmio_read(offset::SVR, 0), 0xff, "enabling starts from power-on state");
}

#[test]
fn x2apic_registers() {
    let mut apic = LocalApic::new(17);
    apic.msr_write(0x1b, 0xfee0_0c00, 0).unwrap();
    assert_eq!(apic.msr_read(0x802, 0), Ok(17));
    assert_eq!(apic.msr_read(0x80d, 0), Ok(0x1_0002));
    assert!(apic.msr_write(0x80d, 0, 0).is_err(), "read-only");
    assert!(apic.msr_read(0x80e, 0).is_err(), "no DFR");
    assert!(apic.msr_write(0x80b, 1, 0).is_err(), "EOI takes 0 only");
    apic.msr_write(0x80f, 0x1ff, 0).unwrap();
    assert_eq!(apic.msr_write(0x83f, 0x77, 0), Ok(None));
    assert_eq!(apic.acknowledge(), Some(0x77));
    let event = apic.msr_write(0x830, (5 << 32) | 0x44, 0).unwrap();
    let Some(ApicEvent::Ipi(message)) = event else { panic!("{event:?}") };
    assert_eq!((message.destination, message.wide, message.vector), (5, true, 0x44));
    assert!(apic.msr_write(0x830, 1 << 20, 0).is_err());
    for index in 0x800..=0x8ff {
        let _ = apic.msr_read(index, 0);
        let _ = apic.msr_write(index, 0, 0);
    }
    check_snapshot(&mut apic, LocalApic::new(17));
}

#[test]
fn commands() {
    let mut apic = enabled();
    apic.mmio_write(offset::ICR_HIGH, 3 << 24, 0);
    let event = apic.mmio_write(offset::ICR_LOW, 0x4500, 0);
    let Some(ApicEvent::Ipi(message)) = event else { panic!("{event:?}") };
    assert_eq!((message.destination, message.mode), (3, DeliveryMode::Init));
    assert_eq!(apic.mmio_write(offset::ICR_LOW, 0x8500, 0), None, "INIT de-assert");
    let event = apic.mmio_write(offset::ICR_LOW, 0xc_4699, 0);
    let Some(ApicEvent::IpiOthers(message)) = event else { panic!("{event:?}") };
    assert_eq!((message.vector, message.mode), (0x99, DeliveryMode::Startup));
    assert_eq!(apic.mmio_write(offset::ICR_LOW, 0x4_0055, 0), None);
    assert_eq!(apic.acknowledge(), Some(0x55), "to itself");
    let event = apic.mmio_write(offset::ICR_LOW, 0x8_0056, 0);
    let Some(ApicEvent::Ipi(message)) = event else { panic!("{event:?}") };
    assert!(apic.is_target(&message) && LocalApic::new(7).is_target(&message));
}

#[test]
fn errors_are_latched_and_reported() {
    let mut apic = enabled();
    apic.mmio_write(offset::LVT_ERROR, 0xfe, 0);
    apic.mmio_write(offset::ICR_LOW, 0x05, 0);
    assert_eq!(apic.acknowledge(), Some(0xfe));
    assert_eq!(apic.mmio_read(offset::ESR, 0), 0, "visible after a write");
    apic.mmio_write(offset::ESR, 0, 0);
    assert_eq!(apic.mmio_read(offset::ESR, 0), 0x20);
    apic.mmio_read(0x3d0, 0);
    apic.accept(3, false);
    apic.mmio_write(offset::ESR, 0, 0);
    assert_eq!(apic.mmio_read(offset::ESR, 0), 0xc0);
}

#[test]
fn destinations() {
    let to = |destination, logical| InterruptMessage {
        destination,
        wide: false,
        logical,
        mode: DeliveryMode::Fixed,
        vector: 0x40,
        level: false,
    };
    let mut apic = LocalApic::new(3);
    apic.mmio_write(offset::LDR, 0x0800_0000, 0);
    assert!(apic.is_target(&to(3, false)) && !apic.is_target(&to(4, false)) && apic.is_target(&to(0xff, false)));
    assert!(apic.is_target(&to(0x18, true)) && !apic.is_target(&to(0x07, true)));
    apic.mmio_write(offset::DFR, 0, 0);
    apic.mmio_write(offset::LDR, 0x2400_0000, 0);
    assert!(apic.is_target(&to(0x24, true)) && apic.is_target(&to(0xf4, true)));
    assert!(!apic.is_target(&to(0x34, true)) && !apic.is_target(&to(0x28, true)));

    let msi = InterruptMessage::from_msi(MsiMessage { address: 0xfee0_300c, data: 0x4041 }).unwrap();
    assert_eq!((msi.destination, msi.logical, msi.vector), (3, true, 0x41));
    assert_eq!(msi.mode, DeliveryMode::LowestPriority);
    assert!(InterruptMessage::from_msi(MsiMessage { address: 0xfed0_3000, data: 0 }).is_none());
}

#[test]
fn external_interrupts_reach_through_lint0() {
    let mut apic = LocalApic::new(0);
    assert!(!apic.accepts_external(), "masked after reset");
    apic.set_virtual_wire();
    assert!(apic.accepts_external());
    apic.mmio_write(offset::LVT_TIMER + 0x30, 0x31, 0);
    assert!(!apic.accepts_external());
    apic.raise_lint0();
    assert_eq!(apic.acknowledge(), Some(0x31));
    apic.mmio_write(offset::SVR, 0xff, 0);
    assert_eq!(apic.mmio_read(offset::LVT_TIMER + 0x30, 0), 0x1_0031, "software disable masks");
    assert!(!apic.accept(0x99, false));
    check_snapshot(&mut apic, LocalApic::new(0));
}
