//! The engine's view: memory outside RAM, ports, registers of the interrupt controllers, time.

use virtft_cpu::bus::{Bus, BusContext, CpuSignal, Refused};

use super::ports::{PortTarget, target};
use super::{Devices, ECAM, Platform, with_context};
use crate::bits::{byte, low8, low32, ones};
use crate::context::DeviceContext;
use crate::devices::Device;
use crate::devices::ioapic::IOAPIC_BASE;
use crate::devices::system::RESET_CONTROL;

const LOCAL_APIC_BASE: u64 = 0xfee0_0000;
const PAGE_MASK: u64 = !0xfff;

impl Platform {
    /// A byte of a port.
    fn port_read_byte(&mut self, now_ns: u64, port: u16) -> u8 {
        if port == RESET_CONTROL {
            return with_context!(self, now_ns, |devices, cx| devices.system.read(cx, port));
        }
        match target(port) {
            Some(PortTarget::Pic) => self.interrupts.pic_read(port),
            Some(PortTarget::Pci) => {
                let value = with_context!(self, now_ns, |devices, cx| devices.pci.io_read(cx, port, 1));
                low8(u64::from(value))
            }
            Some(target) => with_context!(self, now_ns, |devices, cx| read_device(devices, target, cx, port)),
            None => 0xff,
        }
    }

    fn port_write_byte(&mut self, now_ns: u64, port: u16, value: u8) {
        if port == RESET_CONTROL {
            with_context!(self, now_ns, |devices, cx| devices.system.write(cx, port, value));
            return;
        }
        match target(port) {
            Some(PortTarget::Pic) => self.interrupts.pic_write(port, value),
            Some(PortTarget::Pci) => {
                with_context!(self, now_ns, |devices, cx| devices.pci.io_write(cx, port, 1, u32::from(value)));
            }
            Some(target) => {
                with_context!(self, now_ns, |devices, cx| write_device(devices, target, cx, port, value));
            }
            None => {}
        }
        // Bytes of a wider access act one after the other.
        self.apply_effects();
    }

    fn mmio_read_now(&mut self, cx: BusContext, now_ns: u64, address: u64, size: usize) -> u64 {
        match address & PAGE_MASK {
            LOCAL_APIC_BASE => {
                let offset = low32(address & 0xfff);
                let value = self.interrupts.apic_read(cx.cpu, offset & !3, now_ns);
                register_bytes(value, address)
            }
            IOAPIC_BASE => {
                let value = self.interrupts.ioapic_read(address & 0xff & !3);
                register_bytes(value, address)
            }
            _ if ECAM.contains(&address) => {
                let offset = address - ECAM.start;
                with_context!(self, now_ns, |devices, cx| devices.pci.ecam_read(cx, offset, size))
            }
            _ => {
                with_context!(self, now_ns, |devices, cx| devices.pci.mmio_read(cx, address, size)).unwrap_or(u64::MAX)
            }
        }
    }

    fn mmio_write_now(&mut self, cx: BusContext, now_ns: u64, address: u64, size: usize, value: u64) {
        match address & PAGE_MASK {
            // The registers are 32 bits wide and take nothing else (SDM volume 3, 11.4.1).
            LOCAL_APIC_BASE if size >= 4 && address & 3 == 0 => {
                let offset = low32(address & 0xfff);
                self.interrupts.apic_write(cx.cpu, offset, low32(value), now_ns);
            }
            IOAPIC_BASE if size >= 4 && address & 3 == 0 => {
                self.interrupts.ioapic_write(address & 0xff, low32(value));
            }
            LOCAL_APIC_BASE | IOAPIC_BASE => {}
            _ if ECAM.contains(&address) => {
                let offset = address - ECAM.start;
                with_context!(self, now_ns, |devices, cx| devices.pci.ecam_write(cx, offset, size, value));
            }
            _ => {
                with_context!(self, now_ns, |devices, cx| devices.pci.mmio_write(cx, address, size, value));
            }
        }
    }
}

fn read_device(devices: &mut Devices, target: PortTarget, cx: &mut DeviceContext<'_>, port: u16) -> u8 {
    match target {
        PortTarget::Pit => devices.pit.read(cx, port),
        PortTarget::Rtc => devices.rtc.read(cx, port),
        PortTarget::Keyboard => devices.keyboard.read(cx, port),
        PortTarget::Serial(index) => devices.serial[index].read(cx, port),
        PortTarget::AcpiPm => devices.acpi.read(cx, port),
        PortTarget::System => devices.system.read(cx, port),
        PortTarget::Pic | PortTarget::Pci => 0xff,
    }
}

fn write_device(devices: &mut Devices, target: PortTarget, cx: &mut DeviceContext<'_>, port: u16, value: u8) {
    match target {
        PortTarget::Pit => devices.pit.write(cx, port, value),
        PortTarget::Rtc => devices.rtc.write(cx, port, value),
        PortTarget::Keyboard => devices.keyboard.write(cx, port, value),
        PortTarget::Serial(index) => devices.serial[index].write(cx, port, value),
        PortTarget::AcpiPm => devices.acpi.write(cx, port, value),
        PortTarget::System => devices.system.write(cx, port, value),
        PortTarget::Pic | PortTarget::Pci => {}
    }
}

/// The bytes of a 32-bit register from an address on; zero beyond the register.
fn register_bytes(value: u32, address: u64) -> u64 {
    u64::from(value) >> (8 * (address & 3))
}

/// PCI configuration ports as a whole: anything but a byte at the reset control register.
fn is_pci_config(port: u16, size: usize) -> bool {
    (0xcf8..=0xcff).contains(&port) && size > 1
}

impl Bus for Platform {
    fn mmio_read(&mut self, cx: BusContext, address: u64, size: usize) -> u64 {
        let now_ns = self.clock.time_ns(cx.count);
        let value = self.mmio_read_now(cx, now_ns, address, size);
        self.settle();
        value & ones(size)
    }

    fn mmio_write(&mut self, cx: BusContext, address: u64, size: usize, value: u64) {
        let now_ns = self.clock.time_ns(cx.count);
        self.mmio_write_now(cx, now_ns, address, size, value & ones(size));
        self.settle();
    }

    fn port_read(&mut self, cx: BusContext, port: u16, size: usize) -> u32 {
        let now_ns = self.clock.time_ns(cx.count);
        let value = if is_pci_config(port, size) {
            with_context!(self, now_ns, |devices, cx| devices.pci.io_read(cx, port, size))
        } else {
            let bytes = (0u16..).take(size.min(4));
            bytes.fold(0, |value, index| {
                let byte = self.port_read_byte(now_ns, port.wrapping_add(index));
                value | (u32::from(byte) << (8 * index))
            })
        };
        self.settle();
        value
    }

    fn port_write(&mut self, cx: BusContext, port: u16, size: usize, value: u32) {
        let now_ns = self.clock.time_ns(cx.count);
        if is_pci_config(port, size) {
            with_context!(self, now_ns, |devices, cx| devices.pci.io_write(cx, port, size, value));
        } else {
            for index in (0u16..).take(size.min(4)) {
                let byte = byte(u64::from(value), u32::from(index));
                self.port_write_byte(now_ns, port.wrapping_add(index), byte);
            }
        }
        self.settle();
    }

    fn msr_read(&mut self, cx: BusContext, index: u32) -> Result<u64, Refused> {
        let now_ns = self.clock.time_ns(cx.count);
        let result = self.interrupts.msr_read(cx.cpu, index, now_ns);
        self.settle();
        result
    }

    fn msr_write(&mut self, cx: BusContext, index: u32, value: u64) -> Result<(), Refused> {
        let now_ns = self.clock.time_ns(cx.count);
        let result = self.interrupts.msr_write(cx.cpu, index, value, now_ns);
        self.settle();
        result
    }

    fn cr8_read(&mut self, cx: BusContext) -> u64 {
        self.interrupts.cr8(cx.cpu)
    }

    fn cr8_write(&mut self, cx: BusContext, value: u64) {
        self.interrupts.set_cr8(cx.cpu, value);
    }

    fn tsc(&self, count: u64) -> u64 {
        // One tick per nanosecond of guest time: see `clock::TSC_HZ`.
        self.clock.time_ns(count)
    }

    fn interrupt(&self, cpu: usize) -> bool {
        self.interrupts.ready(cpu)
    }

    fn acknowledge(&mut self, cx: BusContext) -> Option<u8> {
        self.interrupts.acknowledge(cx.cpu)
    }

    fn signal(&self, cpu: usize) -> bool {
        self.interrupts.has_signal(cpu)
    }

    fn take_signal(&mut self, cpu: usize) -> Option<CpuSignal> {
        self.interrupts.take_signal(cpu)
    }

    fn deadline(&self) -> u64 {
        self.deadline
    }

    fn advance(&mut self, count: u64) {
        let now_ns = self.clock.time_ns(count);
        if now_ns < self.deadline_ns {
            return;
        }
        self.interrupts.advance(now_ns);
        with_context!(self, now_ns, |devices, cx| {
            let Devices { pit, rtc, serial, keyboard, acpi, system, pci: _ } = devices;
            pit.advance(cx);
            rtc.advance(cx);
            for uart in serial {
                uart.advance(cx);
            }
            keyboard.advance(cx);
            acpi.advance(cx);
            system.advance(cx);
        });
        self.settle();
    }

    fn attention(&self) -> bool {
        !self.outputs.is_empty() || self.power.is_some()
    }

    fn random(&mut self) -> u64 {
        self.entropy.next_u64()
    }
}
