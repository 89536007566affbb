//! Devices of the machine: each a register core without host, clock or other devices.
//!
//! A device learns the time and the guest's memory from the [`DeviceContext`](crate::context::DeviceContext) of the
//! call, and leaves what it causes in its effects.

pub mod acpi_pm;
pub mod apic;
pub mod i8042;
pub mod ioapic;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod rtc;
pub mod system;
#[cfg(test)]
pub(crate) mod testing;
pub mod uart;
pub mod virtio;

use std::fmt::Debug;

use crate::context::DeviceContext;
use crate::snapshot::Snapshot;

/// A device on the ISA bus: byte-wide ports, and changes by itself at a time.
pub trait Device: Snapshot + Debug {
    /// Reads a byte of a port that belongs to the device.
    fn read(&mut self, cx: &mut DeviceContext<'_>, port: u16) -> u8;

    /// Writes a byte of a port that belongs to the device.
    fn write(&mut self, cx: &mut DeviceContext<'_>, port: u16, value: u8);

    /// Guest time at which the device changes by itself; `u64::MAX` for never, a past time means now.
    fn deadline_ns(&self) -> u64;

    /// Brings the device to the time of the context. Afterwards the deadline lies after that time.
    fn advance(&mut self, cx: &mut DeviceContext<'_>);

    /// The reset line: the state of power-on, except what a real board keeps (clock, CMOS).
    fn reset(&mut self, cx: &mut DeviceContext<'_>);
}
