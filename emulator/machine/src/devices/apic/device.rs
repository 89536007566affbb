//! The register core of a local APIC.

use virtft_cpu::bus::{CpuSignal, Refused};

use super::access::lvt_index;
use super::message::{DeliveryMode, InterruptMessage};
use super::registers::{
    ApicRegisters, BASE_ADDRESS, BASE_BSP, BASE_ENABLE, BASE_X2APIC, ERROR_RECEIVE_VECTOR, ERROR_SEND_VECTOR,
    LVT_ERROR, LVT_LEVEL, LVT_LINT0, LVT_LINT1, LVT_MASKED, LVT_TIMER, LVT_WRITABLE, SVR_ENABLE, SVR_NO_BROADCAST,
    assign, contains, highest,
};
use super::timer::TimerMode;
use crate::bits::{low8, low32};
use crate::snapshot::{RestoreError, Snapshot};

/// What an access to a local APIC asks of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApicEvent {
    /// An inter-processor interrupt by destination field.
    Ipi(InterruptMessage),
    /// An inter-processor interrupt to all others.
    IpiOthers(InterruptMessage),
    /// A level-triggered vector was completed and IO-APICs must know.
    EndOfInterrupt(u8),
}

/// Local APIC of one vCPU.
#[derive(Debug, Clone)]
pub struct LocalApic {
    pub(super) registers: ApicRegisters,
    /// Highest requested vector above the processor priority; rebuilt from the registers.
    deliverable: Option<u8>,
}

impl LocalApic {
    /// The APIC of vCPU `id` in its power-on state.
    #[must_use]
    pub fn new(id: u32) -> Self {
        Self { registers: ApicRegisters::power_on(id), deliverable: None }
    }

    /// Power-on state, as after the reset line.
    pub fn reset(&mut self) {
        *self = Self::new(self.registers.id);
    }

    /// INIT: like reset, but IA32_APIC_BASE keeps its value.
    pub fn init(&mut self) {
        let base = self.registers.base;
        self.reset();
        self.registers.base = base;
    }

    /// Virtual wire mode, as firmware hands over: enabled, LINT0 is the 8259, LINT1 is NMI (MP 1.4, 3.6.2.2).
    pub fn set_virtual_wire(&mut self) {
        self.registers.svr = SVR_ENABLE | 0xff;
        if self.registers.id == 0 {
            self.registers.lvt[LVT_LINT0] = 7 << 8;
        }
        self.registers.lvt[LVT_LINT1] = 4 << 8;
        self.update();
    }

    /// True when a maskable interrupt waits and its priority allows delivery.
    #[inline]
    #[must_use]
    pub fn ready(&self) -> bool {
        self.deliverable.is_some()
    }

    /// Takes the interrupt that [`LocalApic::ready`] announced into service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.deliverable?;
        assign(&mut self.registers.irr, vector, false);
        assign(&mut self.registers.isr, vector, true);
        self.update();
        Some(vector)
    }

    /// True when the INTR output of the 8259 reaches the vCPU.
    #[must_use]
    pub fn accepts_external(&self) -> bool {
        if self.registers.base & BASE_ENABLE == 0 {
            // With the APIC off, LINT0 is the processor's INTR pin; it is wired on the boot processor only.
            return self.registers.id == 0;
        }
        let lvt = self.registers.lvt[LVT_LINT0];
        lvt & LVT_MASKED == 0 && DeliveryMode::from_bits(u64::from(lvt >> 8)) == DeliveryMode::ExtInt
    }

    /// LINT0 rises. ExtINT needs nothing here; the other modes act on the edge.
    pub fn raise_lint0(&mut self) -> Option<CpuSignal> {
        if self.registers.base & BASE_ENABLE == 0 {
            return None;
        }
        let lvt = self.registers.lvt[LVT_LINT0];
        if lvt & LVT_MASKED != 0 {
            return None;
        }
        match DeliveryMode::from_bits(u64::from(lvt >> 8)) {
            DeliveryMode::Fixed => {
                self.accept(low8(u64::from(lvt)), lvt & LVT_LEVEL != 0);
                None
            }
            DeliveryMode::Nmi => Some(CpuSignal::Nmi),
            _ => None,
        }
    }

    /// True when the destination of `message` names this APIC.
    #[must_use]
    pub fn is_target(&self, message: &InterruptMessage) -> bool {
        message.reaches(&self.registers)
    }

    /// True when the APIC takes maskable interrupts.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.registers.base & BASE_ENABLE != 0 && self.registers.svr & SVR_ENABLE != 0
    }

    /// Processor priority class, 0 to 15: what lowest-priority delivery compares.
    #[must_use]
    pub fn priority_class(&self) -> u32 {
        self.ppr() >> 4
    }

    /// Requests a vector; false when the APIC does not take it.
    pub fn accept(&mut self, vector: u8, level: bool) -> bool {
        if !self.enabled() {
            return false;
        }
        if vector < 16 {
            self.raise_error(ERROR_RECEIVE_VECTOR);
            return false;
        }
        assign(&mut self.registers.irr, vector, true);
        assign(&mut self.registers.tmr, vector, level);
        self.update();
        true
    }

    /// Guest time of the next timer interrupt; `u64::MAX` for none.
    #[must_use]
    pub fn deadline_ns(&self) -> u64 {
        let lvt = self.registers.lvt[LVT_TIMER];
        if lvt & LVT_MASKED != 0 {
            // A masked expiry changes nothing that is not computed when it is looked at.
            return u64::MAX;
        }
        self.registers.timer.due_ns(TimerMode::from_lvt(lvt))
    }

    /// Brings the timer to `now_ns` and requests its interrupt when it expired unmasked.
    pub fn settle(&mut self, now_ns: u64) {
        let lvt = self.registers.lvt[LVT_TIMER];
        if self.registers.timer.settle(TimerMode::from_lvt(lvt), now_ns) && lvt & LVT_MASKED == 0 {
            self.accept(low8(u64::from(lvt)), false);
        }
    }

    /// The task priority as CR8.
    #[must_use]
    pub fn cr8(&self) -> u64 {
        u64::from(self.registers.tpr >> 4)
    }

    /// MOV to CR8.
    pub fn set_cr8(&mut self, value: u64) {
        self.registers.tpr = low32(value & 0xf) << 4;
        self.update();
    }

    pub(super) fn write_svr(&mut self, value: u32, now_ns: u64) {
        self.settle(now_ns);
        self.registers.svr = value;
        if value & SVR_ENABLE == 0 {
            for lvt in &mut self.registers.lvt {
                *lvt |= LVT_MASKED;
            }
        }
        self.update();
    }

    pub(super) fn write_lvt(&mut self, offset: u32, value: u32, now_ns: u64) {
        self.settle(now_ns);
        let index = lvt_index(offset);
        let mut value = value & LVT_WRITABLE[index];
        if self.registers.svr & SVR_ENABLE == 0 {
            value |= LVT_MASKED;
        }
        if index == LVT_TIMER {
            let old = TimerMode::from_lvt(self.registers.lvt[LVT_TIMER]);
            self.registers.timer.change_mode(old, TimerMode::from_lvt(value));
        }
        self.registers.lvt[index] = value;
    }

    pub(super) fn write_base(&mut self, value: u64) -> Result<(), Refused> {
        let fixed = BASE_ADDRESS | (self.registers.base & BASE_BSP);
        if value & !(BASE_ENABLE | BASE_X2APIC) != fixed {
            return Err(Refused);
        }
        let old = self.registers.base & (BASE_ENABLE | BASE_X2APIC);
        let new = value & (BASE_ENABLE | BASE_X2APIC);
        // SDM volume 3, figure 11-27: the only way into x2APIC mode is through xAPIC mode, the only way out is off.
        let allowed = new == old
            || new == 0
            || (old == 0 && new == BASE_ENABLE)
            || (old == BASE_ENABLE && new == BASE_ENABLE | BASE_X2APIC);
        if !allowed {
            return Err(Refused);
        }
        if new == 0 && old != 0 {
            self.reset();
        }
        self.registers.base = value;
        self.update();
        Ok(())
    }

    /// Acts on a command; interrupts to itself are requested at once.
    pub(super) fn send(&mut self, icr: u64, wide: bool) -> Option<ApicEvent> {
        let message = InterruptMessage::from_icr(icr, wide);
        let fixed = matches!(message.mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        if fixed && message.vector < 16 {
            self.raise_error(ERROR_SEND_VECTOR);
            return None;
        }
        // INIT level de-assert does nothing on processors with this APIC.
        if message.mode == DeliveryMode::Init && icr & (1 << 14) == 0 && icr & (1 << 15) != 0 {
            return None;
        }
        match (icr >> 18) & 3 {
            0 => Some(ApicEvent::Ipi(message)),
            3 => Some(ApicEvent::IpiOthers(message)),
            // To itself, and to all including itself, only fixed is a valid mode (SDM volume 3, table 11-3).
            _ if message.mode != DeliveryMode::Fixed => None,
            1 => {
                self.accept(message.vector, false);
                None
            }
            _ => {
                let destination = if wide { u32::MAX } else { 0xff };
                Some(ApicEvent::Ipi(InterruptMessage { destination, logical: false, ..message }))
            }
        }
    }

    pub(super) fn end_of_interrupt(&mut self) -> Option<ApicEvent> {
        let vector = highest(&self.registers.isr)?;
        assign(&mut self.registers.isr, vector, false);
        self.update();
        let level = contains(&self.registers.tmr, vector);
        let broadcast = level && self.registers.svr & SVR_NO_BROADCAST == 0;
        broadcast.then_some(ApicEvent::EndOfInterrupt(vector))
    }

    pub(super) fn raise_error(&mut self, bit: u32) {
        let new = self.registers.esr_pending & bit == 0;
        self.registers.esr_pending |= bit;
        let lvt = self.registers.lvt[LVT_ERROR];
        let vector = low8(u64::from(lvt));
        // An error vector that is itself illegal sets the bit only, or it would raise itself without end.
        if new && lvt & LVT_MASKED == 0 && vector >= 16 {
            self.accept(vector, false);
        } else if new && lvt & LVT_MASKED == 0 {
            self.registers.esr_pending |= ERROR_RECEIVE_VECTOR;
        }
    }

    pub(super) fn ppr(&self) -> u32 {
        let in_service = highest(&self.registers.isr).map_or(0, u32::from);
        if self.registers.tpr & 0xf0 >= in_service & 0xf0 { self.registers.tpr } else { in_service & 0xf0 }
    }

    /// Rebuilds what is derived from the registers.
    pub(super) fn update(&mut self) {
        let class = self.ppr() >> 4;
        let ready = |vector: &u8| u32::from(vector >> 4) > class;
        self.deliverable = highest(&self.registers.irr).filter(ready).filter(|_| self.enabled());
    }
}

impl Snapshot for LocalApic {
    const KIND: &'static str = "local APIC";
    const VERSION: u16 = 1;
    type State = ApicRegisters;

    fn save(&self) -> ApicRegisters {
        let Self { registers, deliverable: _ } = self;
        registers.clone()
    }

    fn restore(&mut self, state: ApicRegisters) -> Result<(), RestoreError> {
        let impossible_mode = state.base & (BASE_ENABLE | BASE_X2APIC) == BASE_X2APIC;
        let address = state.base & !(BASE_ENABLE | BASE_X2APIC | BASE_BSP);
        if state.id != self.registers.id || address != BASE_ADDRESS || impossible_mode {
            let reason = format!("id {} with base {:#x}", state.id, state.base);
            return Err(RestoreError::Invalid { kind: Self::KIND, reason });
        }
        self.registers = state;
        self.update();
        Ok(())
    }
}
