//! How software reaches the registers: the xAPIC page and the x2APIC MSRs.

use virtft_cpu::bus::Refused;

use super::device::{ApicEvent, LocalApic};
use super::registers::{
    BASE_ENABLE, BASE_X2APIC, ERROR_REGISTER, LVT_READ_ONLY, LVT_TIMER, LVT_WRITABLE, SVR_MASK, VERSION, offset,
};
use super::timer::TimerMode;
use crate::bits::{low32, to_usize};

impl LocalApic {
    /// MMIO read of 4 bytes at a register's offset. Ones when the page is not decoded (APIC off or x2APIC mode).
    pub fn mmio_read(&mut self, offset: u32, now_ns: u64) -> u32 {
        if !self.mmio_decoded() {
            return u32::MAX;
        }
        let value = match offset {
            offset::ID => Some(self.registers.id << 24),
            offset::DFR => Some(self.registers.dfr),
            offset::LDR => Some(self.registers.ldr),
            // Arbitration priority and remote read exist on no processor since the Pentium 4; they read as 0.
            0x090 | 0x0c0 => Some(0),
            offset::ICR_HIGH => Some(low32(self.registers.icr >> 32)),
            offset::ICR_LOW => Some(low32(self.registers.icr)),
            // The EOI register is write-only and reads as 0.
            offset::EOI => Some(0),
            _ => self.read_common(offset, now_ns),
        };
        value.unwrap_or_else(|| {
            self.raise_error(ERROR_REGISTER);
            0
        })
    }

    /// MMIO write of 4 bytes at a register's offset.
    pub fn mmio_write(&mut self, offset: u32, value: u32, now_ns: u64) -> Option<ApicEvent> {
        if !self.mmio_decoded() {
            return None;
        }
        match offset {
            offset::LDR => self.registers.ldr = value & 0xff00_0000,
            offset::DFR => self.registers.dfr = value | 0x0fff_ffff,
            offset::ICR_HIGH => {
                self.registers.icr = (self.registers.icr & 0xffff_ffff) | (u64::from(value & 0xff00_0000) << 32);
            }
            offset::ICR_LOW => {
                self.registers.icr = (self.registers.icr & !0xffff_ffff) | u64::from(value & 0x000c_cfff);
                return self.send(self.registers.icr, false);
            }
            // Read-only registers ignore writes.
            offset::ID | offset::VERSION | 0x090 | offset::PPR | 0x0c0 | offset::CURRENT_COUNT => {}
            _ => match self.write_common(offset, value, now_ns) {
                Some(event) => return event,
                None => self.raise_error(ERROR_REGISTER),
            },
        }
        None
    }

    /// RDMSR of 0x1b, 0x6e0 or 0x800 to 0x8ff.
    ///
    /// # Errors
    /// When the register does not exist or its mode is off.
    pub fn msr_read(&mut self, index: u32, now_ns: u64) -> Result<u64, Refused> {
        match index {
            0x1b => return Ok(self.registers.base),
            0x6e0 => {
                self.settle(now_ns);
                return Ok(self.registers.timer.tsc_deadline);
            }
            _ => {}
        }
        if !self.registers.x2apic() || !(0x800..=0x8ff).contains(&index) {
            return Err(Refused);
        }
        match (index - 0x800) << 4 {
            offset::ID => Ok(u64::from(self.registers.id)),
            offset::LDR => Ok(u64::from(self.registers.x2apic_logical_id())),
            offset::ICR_LOW => Ok(self.registers.icr),
            other => self.read_common(other, now_ns).map(u64::from).ok_or(Refused),
        }
    }

    /// WRMSR of 0x1b, 0x6e0 or 0x800 to 0x8ff.
    ///
    /// # Errors
    /// When the register does not exist, is read-only, its mode is off, or reserved bits are set.
    pub fn msr_write(&mut self, index: u32, value: u64, now_ns: u64) -> Result<Option<ApicEvent>, Refused> {
        match index {
            0x1b => return self.write_base(value).map(|()| None),
            0x6e0 => {
                self.settle(now_ns);
                if TimerMode::from_lvt(self.registers.lvt[LVT_TIMER]) == TimerMode::TscDeadline {
                    self.registers.timer.tsc_deadline = value;
                    self.settle(now_ns);
                }
                return Ok(None);
            }
            _ => {}
        }
        if !self.registers.x2apic() || !(0x800..=0x8ff).contains(&index) {
            return Err(Refused);
        }
        let offset = (index - 0x800) << 4;
        if offset == offset::ICR_LOW {
            if value & 0xfff3_3000 != 0 {
                return Err(Refused);
            }
            self.registers.icr = value;
            return Ok(self.send(value, true));
        }
        let value = u32::try_from(value).map_err(|_| Refused)?;
        if offset == offset::SELF_IPI {
            if value & !0xff != 0 {
                return Err(Refused);
            }
            return Ok(self.send(u64::from(value) | (1 << 18), true));
        }
        if value & reserved_bits(offset) != 0 {
            return Err(Refused);
        }
        self.write_common(offset, value, now_ns).ok_or(Refused)
    }

    fn mmio_decoded(&self) -> bool {
        self.registers.base & (BASE_ENABLE | BASE_X2APIC) == BASE_ENABLE
    }

    /// Registers that both modes read alike; `None` when there is none at the offset.
    fn read_common(&mut self, offset: u32, now_ns: u64) -> Option<u32> {
        let registers = &self.registers;
        Some(match offset {
            offset::VERSION => VERSION,
            offset::TPR => registers.tpr,
            offset::PPR => self.ppr(),
            offset::SVR => registers.svr,
            offset::ISR..0x300 if offset & 0xf == 0 && offset < offset::ESR => {
                let words = match offset & 0x380 {
                    offset::ISR => &registers.isr,
                    offset::TMR => &registers.tmr,
                    _ => &registers.irr,
                };
                let index = to_usize(u64::from((offset >> 4) & 7));
                low32(words[index / 2] >> (32 * (index % 2)))
            }
            offset::ESR => registers.esr,
            offset::LVT_TIMER..=offset::LVT_ERROR if offset & 0xf == 0 => registers.lvt[lvt_index(offset)],
            offset::INITIAL_COUNT => registers.timer.initial,
            offset::CURRENT_COUNT => {
                self.settle(now_ns);
                self.registers.timer.current(now_ns)
            }
            offset::DIVIDE => registers.timer.divide,
            _ => return None,
        })
    }

    /// Registers that both modes write alike; `None` when there is none at the offset.
    fn write_common(&mut self, offset: u32, value: u32, now_ns: u64) -> Option<Option<ApicEvent>> {
        match offset {
            offset::TPR => {
                self.registers.tpr = value & 0xff;
                self.update();
            }
            offset::EOI => return Some(self.end_of_interrupt()),
            offset::SVR => self.write_svr(value & SVR_MASK, now_ns),
            offset::ESR => {
                self.registers.esr = self.registers.esr_pending;
                self.registers.esr_pending = 0;
            }
            offset::LVT_TIMER..=offset::LVT_ERROR if offset & 0xf == 0 => self.write_lvt(offset, value, now_ns),
            offset::INITIAL_COUNT => {
                self.settle(now_ns);
                if TimerMode::from_lvt(self.registers.lvt[LVT_TIMER]) != TimerMode::TscDeadline {
                    self.registers.timer.start(value, now_ns);
                }
            }
            offset::DIVIDE => {
                self.settle(now_ns);
                self.registers.timer.set_divide(value, now_ns);
            }
            _ => return None,
        }
        Some(None)
    }
}

/// Index of the LVT entry at an offset.
pub(super) fn lvt_index(offset: u32) -> usize {
    to_usize(u64::from((offset - offset::LVT_TIMER) >> 4))
}

/// Bits that an x2APIC write must leave clear.
fn reserved_bits(offset: u32) -> u32 {
    match offset {
        offset::TPR => !0xff,
        offset::EOI | offset::ESR => u32::MAX,
        offset::SVR => !SVR_MASK,
        offset::LVT_TIMER..=offset::LVT_ERROR if offset & 0xf == 0 => {
            !(LVT_WRITABLE[lvt_index(offset)] | LVT_READ_ONLY)
        }
        offset::DIVIDE => !0xb,
        _ => 0,
    }
}
