//! Registers of the local APIC: offsets, masks, and the plain state.

use serde::{Deserialize, Serialize};

/// Offsets in the register page; the x2APIC MSR is `0x800 + (offset >> 4)`.
pub(super) mod offset {
    pub const ID: u32 = 0x020;
    pub const VERSION: u32 = 0x030;
    pub const TPR: u32 = 0x080;
    pub const PPR: u32 = 0x0a0;
    pub const EOI: u32 = 0x0b0;
    pub const LDR: u32 = 0x0d0;
    pub const DFR: u32 = 0x0e0;
    pub const SVR: u32 = 0x0f0;
    pub const ISR: u32 = 0x100;
    pub const TMR: u32 = 0x180;
    pub const ESR: u32 = 0x280;
    pub const ICR_LOW: u32 = 0x300;
    pub const ICR_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_ERROR: u32 = 0x370;
    pub const INITIAL_COUNT: u32 = 0x380;
    pub const CURRENT_COUNT: u32 = 0x390;
    pub const DIVIDE: u32 = 0x3e0;
    pub const SELF_IPI: u32 = 0x3f0;
}

/// Version register: version 0x15, highest LVT entry 5, EOI broadcast suppression.
pub(super) const VERSION: u32 = 0x0105_0015;

/// IA32_APIC_BASE: the address, and its three flags.
pub(super) const BASE_ADDRESS: u64 = 0xfee0_0000;
pub(super) const BASE_BSP: u64 = 1 << 8;
pub(super) const BASE_X2APIC: u64 = 1 << 10;
pub(super) const BASE_ENABLE: u64 = 1 << 11;

/// Spurious-vector register: software enable, and EOI broadcast suppression.
pub(super) const SVR_ENABLE: u32 = 1 << 8;
pub(super) const SVR_NO_BROADCAST: u32 = 1 << 12;
pub(super) const SVR_MASK: u32 = 0x13ff;

/// Error status bits.
pub(super) const ERROR_SEND_VECTOR: u32 = 1 << 5;
pub(super) const ERROR_RECEIVE_VECTOR: u32 = 1 << 6;
pub(super) const ERROR_REGISTER: u32 = 1 << 7;

/// LVT entries by index.
pub(super) const LVT_TIMER: usize = 0;
pub(super) const LVT_LINT0: usize = 3;
pub(super) const LVT_LINT1: usize = 4;
pub(super) const LVT_ERROR: usize = 5;
pub(super) const LVT_MASKED: u32 = 1 << 16;
pub(super) const LVT_LEVEL: u32 = 1 << 15;

/// Writable bits of each LVT entry: timer, thermal, performance, LINT0, LINT1, error.
pub(super) const LVT_WRITABLE: [u32; 6] =
    [0x0007_00ff, 0x0001_07ff, 0x0001_07ff, 0x0001_a7ff, 0x0001_a7ff, 0x0001_00ff];
/// Read-only bits that a write may carry without fault: delivery status and remote IRR.
pub(super) const LVT_READ_ONLY: u32 = (1 << 12) | (1 << 14);

/// State of one local APIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApicRegisters {
    /// APIC ID, equal to the index of the vCPU.
    pub id: u32,
    /// IA32_APIC_BASE.
    pub base: u64,
    /// Task priority, 8 bits.
    pub tpr: u32,
    /// Logical destination as the guest reads it; derived from the ID in x2APIC mode.
    pub ldr: u32,
    /// Destination format (xAPIC only).
    pub dfr: u32,
    /// Spurious vector, software enable.
    pub svr: u32,
    /// In-service vectors, vector `v` in bit `v & 63` of word `v >> 6`.
    pub isr: [u64; 4],
    /// Trigger mode of accepted vectors; set for level.
    pub tmr: [u64; 4],
    /// Requested vectors.
    pub irr: [u64; 4],
    /// Error status as the guest reads it.
    pub esr: u32,
    /// Errors since the last write of the error status register.
    pub esr_pending: u32,
    /// Interrupt command, both halves.
    pub icr: u64,
    /// Local vector table: timer, thermal, performance, LINT0, LINT1, error.
    pub lvt: [u32; 6],
    /// Timer.
    pub timer: TimerRegisters,
}

/// State of the APIC timer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerRegisters {
    /// Initial count.
    pub initial: u32,
    /// Divide configuration as the guest wrote it.
    pub divide: u32,
    /// True while the counter runs towards zero.
    pub running: bool,
    /// Counter value at `base_ns`.
    pub base_count: u32,
    /// Guest time at which the counter had `base_count`.
    pub base_ns: u64,
    /// TSC deadline; 0 when it is disarmed.
    pub tsc_deadline: u64,
}

impl ApicRegisters {
    /// Power-on state of vCPU `id`; the APIC is enabled by hardware and disabled by software.
    pub(super) fn power_on(id: u32) -> Self {
        let bsp = if id == 0 { BASE_BSP } else { 0 };
        Self {
            id,
            base: BASE_ADDRESS | BASE_ENABLE | bsp,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: [0; 4],
            tmr: [0; 4],
            irr: [0; 4],
            esr: 0,
            esr_pending: 0,
            icr: 0,
            lvt: [LVT_MASKED; 6],
            timer: TimerRegisters::default(),
        }
    }

    /// True in x2APIC mode.
    pub(super) fn x2apic(&self) -> bool {
        self.base & (BASE_X2APIC | BASE_ENABLE) == BASE_X2APIC | BASE_ENABLE
    }

    /// Logical ID of an APIC in x2APIC mode: cluster in the upper half, bit of the member in the lower.
    pub(super) fn x2apic_logical_id(&self) -> u32 {
        ((self.id >> 4) << 16) | (1 << (self.id & 0xf))
    }
}

/// The highest vector set, if any.
pub(super) fn highest(words: &[u64; 4]) -> Option<u8> {
    let (index, word) =
        [3, 2, 1, 0].map(|index: u8| (index, words[usize::from(index)])).into_iter().find(|(_, word)| *word != 0)?;
    Some(index * 64 + crate::bits::low8(u64::from(63 - word.leading_zeros())))
}

/// Sets or clears a vector.
pub(super) fn assign(words: &mut [u64; 4], vector: u8, set: bool) {
    let word = &mut words[usize::from(vector >> 6)];
    let bit = 1 << (vector & 63);
    *word = if set { *word | bit } else { *word & !bit };
}

/// True when a vector is set.
pub(super) fn contains(words: &[u64; 4], vector: u8) -> bool {
    words[usize::from(vector >> 6)] & (1 << (vector & 63)) != 0
}
