//! What a device is given with every call, and what it may cause.
//!
//! A device never calls another device, the CPU or the host. It reads and writes guest memory, and leaves what
//! it wants to happen in [`Effects`]; the platform carries that out, in order, before the next instruction.

use std::fmt::Debug;

use virtft_cpu::memory::GuestMemory;

use crate::io::Output;

/// An interrupt line of the board (global system interrupt): 0 to 15 are the ISA lines, 16 to 23 PCI INTx.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterruptLine(pub u8);

/// A message-signalled interrupt: a write of `data` to `address` (Intel SDM volume 3, 11.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsiMessage {
    /// Physical address, 0xfee0_0000 to 0xfeef_ffff for one that reaches a vCPU.
    pub address: u64,
    /// Vector, delivery mode, trigger mode.
    pub data: u32,
}

/// How the machine ends or starts over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerAction {
    /// ACPI S5 or the debug exit port: the machine is off. The status is 0 for S5.
    Off {
        /// Exit status that the guest asked for.
        status: u8,
    },
    /// The reset line was asserted by the guest (i8042, port 0xcf9, ACPI reset register).
    Reset,
}

/// What a device causes, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// A line changes its level.
    Line(InterruptLine, bool),
    /// A message-signalled interrupt is sent.
    Msi(MsiMessage),
    /// Something to be done outside.
    Output(Output),
    /// The machine ends or starts over.
    Power(PowerAction),
}

/// Collects effects of device calls.
pub type Effects = Vec<Effect>;

/// Where the machine's random bytes come from: a generator whose state belongs to the machine.
///
/// The bytes follow from the seeds delivered as [`crate::io::Input::EntropySeed`] and from the calls made so
/// far, so every replica draws the same ones.
pub trait EntropySource: Debug {
    /// Fills `bytes` from the generator.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// What a device may use during a call.
#[derive(Debug)]
pub struct DeviceContext<'a> {
    /// Guest RAM; DMA happens now or not at all.
    pub memory: &'a GuestMemory,
    /// Guest time in nanoseconds.
    pub now_ns: u64,
    /// What the call causes.
    pub effects: &'a mut Effects,
    /// Random bytes for virtio-rng.
    pub entropy: &'a mut dyn EntropySource,
}
