//! Local APIC, one per vCPU (Intel SDM volume 3, chapter 11).
//!
//! xAPIC registers in memory and x2APIC registers as MSRs, over one register core. Deviations and choices:
//!
//! - The base address is fixed at 0xfee0_0000; moving it raises #GP. The APIC ID is read-only.
//! - Version 0x15: six LVT entries (no CMCI), EOI broadcast suppression.
//! - The timer counts at [`APIC_TIMER_HZ`], one tick per nanosecond of guest time before the divider; the TSC
//!   deadline is compared with the TSC before the guest's own adjustment.
//! - A periodic timer that missed periods, because time stepped or the machine was busy, fires once and goes on in
//!   its original phase (coalescing).
//! - Lowest-priority delivery picks the vCPU with the lowest processor-priority class; among equals the vector
//!   modulo their number decides. So the choice is a function of state.
//! - There is no SMM: SMI messages are dropped. ExtINT messages are dropped too, the 8259 reaches vCPUs through
//!   LINT0 only.

mod access;
mod device;
mod message;
mod registers;
#[cfg(test)]
mod tests;
mod timer;

pub use device::{ApicEvent, LocalApic};
pub use message::{DeliveryMode, InterruptMessage};
pub use registers::{ApicRegisters, TimerRegisters};
pub use timer::APIC_TIMER_HZ;
