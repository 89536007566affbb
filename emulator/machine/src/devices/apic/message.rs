//! Interrupt messages: what travels between local APICs, the IO-APIC and devices.

use super::registers::{ApicRegisters, BASE_ENABLE};
use crate::bits::{low8, low32};
use crate::context::MsiMessage;

/// Delivery mode field of ICR, LVT, IO-APIC entries and MSI data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryMode {
    /// To every vCPU of the destination.
    Fixed,
    /// To one vCPU of the destination.
    LowestPriority,
    /// System management interrupt: dropped, there is no SMM.
    Smi,
    /// Reserved encoding: dropped.
    Reserved,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up.
    Startup,
    /// From an external controller.
    ExtInt,
}

impl DeliveryMode {
    /// From the 3-bit field.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup,
            7 => Self::ExtInt,
            _ => Self::Reserved,
        }
    }
}

/// An interrupt on its way to vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterruptMessage {
    /// Destination field; the values of `wide` say how it is read.
    pub destination: u32,
    /// True for a 32-bit x2APIC destination, false for one of 8 bits.
    pub wide: bool,
    /// Logical instead of physical destination.
    pub logical: bool,
    /// Delivery mode.
    pub mode: DeliveryMode,
    /// Vector.
    pub vector: u8,
    /// Level-triggered.
    pub level: bool,
}

impl InterruptMessage {
    /// A message-signalled interrupt (SDM volume 3, 11.11); `None` when the address reaches no vCPU.
    #[must_use]
    pub fn from_msi(message: MsiMessage) -> Option<Self> {
        if message.address & !0xf_ffff != 0xfee0_0000 {
            return None;
        }
        let data = u64::from(message.data);
        let hint = message.address & (1 << 3) != 0;
        let mode = DeliveryMode::from_bits(data >> 8);
        Some(Self {
            destination: u32::from(low8(message.address >> 12)),
            wide: false,
            // The SDM lets the destination mode count only with the redirection hint; processors honour it always,
            // and Linux relies on that.
            logical: message.address & (1 << 2) != 0,
            mode: if hint && mode == DeliveryMode::Fixed { DeliveryMode::LowestPriority } else { mode },
            vector: low8(data),
            level: data & (1 << 15) != 0,
        })
    }

    /// From the interrupt command register; the destination is in bits 63:56, or 63:32 when `wide`.
    pub(super) fn from_icr(icr: u64, wide: bool) -> Self {
        Self {
            destination: if wide { low32(icr >> 32) } else { low32(icr >> 56) },
            wide,
            logical: icr & (1 << 11) != 0,
            mode: DeliveryMode::from_bits(icr >> 8),
            vector: low8(icr),
            level: false,
        }
    }

    /// True when the destination names the APIC with these registers.
    pub(super) fn reaches(&self, registers: &ApicRegisters) -> bool {
        if registers.base & BASE_ENABLE == 0 {
            return false;
        }
        let broadcast = if self.wide { u32::MAX } else { 0xff };
        if self.destination == broadcast {
            return true;
        }
        if !self.logical {
            return self.destination == registers.id;
        }
        if registers.x2apic() {
            let own = registers.x2apic_logical_id();
            return self.destination >> 16 == own >> 16 && self.destination & own & 0xffff != 0;
        }
        let own = registers.ldr >> 24;
        if registers.dfr >> 28 == 0xf {
            return self.destination & own & 0xff != 0;
        }
        let cluster = (self.destination >> 4) & 0xf;
        (cluster == own >> 4 || cluster == 0xf) && self.destination & own & 0xf != 0
    }
}
