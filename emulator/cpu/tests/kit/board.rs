//! The bus of the test computer.

use std::collections::{BTreeMap, VecDeque};

use virtft_cpu::bus::{Bus, BusContext, CpuSignal, Refused};

/// An OUT that the guest did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortWrite {
    pub count: u64,
    pub port: u16,
    pub size: usize,
    pub value: u32,
}

/// A bus that keeps what happened. The time-stamp counter is the count times 3.
#[derive(Debug, Default)]
pub struct Board {
    /// Every OUT, in order.
    pub port_writes: Vec<PortWrite>,
    /// What IN returns: the port number, unless set here.
    pub port_values: BTreeMap<u16, u32>,
    /// Interrupts that wait for vCPU 0.
    pub interrupts: VecDeque<u8>,
    /// Interrupts that become pending at a count, ascending.
    pub timers: VecDeque<(u64, u8)>,
    /// Signals that wait, by vCPU.
    pub signals: BTreeMap<usize, VecDeque<CpuSignal>>,
    /// Registers of the bus.
    pub msrs: BTreeMap<u32, u64>,
    /// Task priority.
    pub cr8: u64,
    /// Device memory by address: bytes as written.
    pub device: BTreeMap<u64, u64>,
    /// Numbers given out so far.
    pub random: u64,
}

/// TSC ticks per step.
pub const TSC_PER_STEP: u64 = 3;

impl Bus for Board {
    fn mmio_read(&mut self, _: BusContext, address: u64, _: usize) -> u64 {
        self.device.get(&address).copied().unwrap_or(u64::MAX)
    }
    fn mmio_write(&mut self, _: BusContext, address: u64, _: usize, value: u64) {
        self.device.insert(address, value);
    }
    fn port_read(&mut self, _: BusContext, port: u16, _: usize) -> u32 {
        self.port_values.get(&port).copied().unwrap_or(u32::from(port))
    }
    fn port_write(&mut self, cx: BusContext, port: u16, size: usize, value: u32) {
        self.port_writes.push(PortWrite { count: cx.count, port, size, value });
    }
    fn msr_read(&mut self, _: BusContext, index: u32) -> Result<u64, Refused> {
        self.msrs.get(&index).copied().ok_or(Refused)
    }
    fn msr_write(&mut self, _: BusContext, index: u32, value: u64) -> Result<(), Refused> {
        *self.msrs.get_mut(&index).ok_or(Refused)? = value;
        Ok(())
    }
    fn cr8_read(&mut self, _: BusContext) -> u64 {
        self.cr8
    }
    fn cr8_write(&mut self, _: BusContext, value: u64) {
        self.cr8 = value;
    }
    fn tsc(&self, count: u64) -> u64 {
        count * TSC_PER_STEP
    }
    fn interrupt(&self, cpu: usize) -> bool {
        cpu == 0 && self.interrupts.front().is_some_and(|&vector| u64::from(vector >> 4) > self.cr8)
    }
    fn acknowledge(&mut self, _: BusContext) -> Option<u8> {
        self.interrupts.pop_front()
    }
    fn signal(&self, cpu: usize) -> bool {
        self.signals.get(&cpu).is_some_and(|waiting| !waiting.is_empty())
    }
    fn take_signal(&mut self, cpu: usize) -> Option<CpuSignal> {
        self.signals.get_mut(&cpu)?.pop_front()
    }
    fn deadline(&self) -> u64 {
        self.timers.front().map_or(u64::MAX, |timer| timer.0)
    }
    fn advance(&mut self, count: u64) {
        while let Some(&(due, vector)) = self.timers.front()
            && due <= count
        {
            self.timers.pop_front();
            self.interrupts.push_back(vector);
        }
    }
    fn attention(&self) -> bool {
        false
    }
    fn random(&mut self) -> u64 {
        self.random += 1;
        self.random.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}
