//! What the engine asks of the computer around it.
//!
//! The engine knows RAM and registers; everything else (device memory, ports, interrupt controllers,
//! time) is behind [`Bus`]. All calls are synchronous and happen at a definite position, which the caller
//! passes as [`BusContext`]: a bus never looks at a clock.

use std::any::Any;

/// Where and when a bus access happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusContext {
    /// Index of the vCPU that makes the access.
    pub cpu: usize,
    /// Steps executed by all vCPUs before the instruction that makes the access.
    pub count: u64,
}

/// A signal to a vCPU that is not a maskable interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuSignal {
    /// INIT: reset to wait-for-SIPI (application processors) or the reset vector (boot processor).
    Init,
    /// Start-up IPI with its vector: execution starts at `vector << 12` in real mode.
    Startup(u8),
    /// Non-maskable interrupt.
    Nmi,
}

/// An access that the bus refuses: the instruction raises #GP(0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// The computer around the vCPUs.
///
/// After every call that may write, the engine re-reads [`Bus::deadline`], [`Bus::interrupt`] and
/// [`Bus::signal`], so a device may change them in any call.
pub trait Bus: Any + Send {
    /// Reads 1, 2, 4 or 8 bytes of physical memory that is not RAM. Unclaimed addresses read as ones.
    fn mmio_read(&mut self, cx: BusContext, address: u64, size: usize) -> u64;

    /// Writes 1, 2, 4 or 8 bytes of physical memory that is not RAM. Unclaimed addresses ignore writes.
    fn mmio_write(&mut self, cx: BusContext, address: u64, size: usize, value: u64);

    /// IN: reads 1, 2 or 4 bytes of a port. Unclaimed ports read as ones.
    fn port_read(&mut self, cx: BusContext, port: u16, size: usize) -> u32;

    /// OUT: writes 1, 2 or 4 bytes of a port.
    fn port_write(&mut self, cx: BusContext, port: u16, size: usize, value: u32);

    /// RDMSR of a register that lives outside the core: APIC base (0x1b), TSC deadline (0x6e0) and the
    /// x2APIC range (0x800 to 0x8ff).
    ///
    /// # Errors
    /// [`Refused`] when the register does not exist or its mode is off.
    fn msr_read(&mut self, cx: BusContext, index: u32) -> Result<u64, Refused>;

    /// WRMSR of a register that lives outside the core.
    ///
    /// # Errors
    /// [`Refused`] when the register does not exist, its mode is off, or reserved bits are set.
    fn msr_write(&mut self, cx: BusContext, index: u32, value: u64) -> Result<(), Refused>;

    /// MOV from CR8: task priority bits 7:4 of the local APIC, as 0 to 15.
    fn cr8_read(&mut self, cx: BusContext) -> u64;

    /// MOV to CR8; `value` is 0 to 15.
    fn cr8_write(&mut self, cx: BusContext, value: u64);

    /// The time-stamp counter at `count`, before the guest's own TSC offset.
    fn tsc(&self, count: u64) -> u64;

    /// True when a maskable interrupt waits for `cpu` and its priority allows delivery.
    fn interrupt(&self, cpu: usize) -> bool;

    /// Takes the interrupt that [`Bus::interrupt`] announced and returns its vector; `None` when it is
    /// gone meanwhile.
    fn acknowledge(&mut self, cx: BusContext) -> Option<u8>;

    /// True when [`Bus::take_signal`] has something for `cpu`.
    fn signal(&self, cpu: usize) -> bool;

    /// Takes the next pending signal of `cpu`, in the order in which they were sent.
    fn take_signal(&mut self, cpu: usize) -> Option<CpuSignal>;

    /// The earliest count at which some device changes state by itself (a timer); `u64::MAX` for never.
    /// May be in the past, meaning now.
    fn deadline(&self) -> u64;

    /// Brings all devices to `count`: timers that are due fire.
    fn advance(&mut self, count: u64);

    /// True when the machine must stop after the current instruction: an output wants attention, power-off,
    /// reset. The engine returns from `run` with every instruction so far complete.
    fn attention(&self) -> bool;

    /// 64 random bits for RDRAND and RDSEED.
    fn random(&mut self) -> u64;
}
