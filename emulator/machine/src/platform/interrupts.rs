//! The wiring of interrupts: lines to the 8259 and the IO-APIC, messages to local APICs, signals to vCPUs.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use virtft_cpu::bus::{CpuSignal, Refused};

use crate::context::{InterruptLine, MsiMessage};
use crate::devices::apic::{ApicEvent, ApicRegisters, DeliveryMode, InterruptMessage, LocalApic};
use crate::devices::ioapic::{IoApic, IoApicRegisters};
use crate::devices::pic::{PicPair, PicState};
use crate::snapshot::{RestoreError, Snapshot};

/// Line of the 8254, which is on pin 2 of the IO-APIC.
const TIMER_LINE: u8 = 0;
const TIMER_PIN: usize = 2;
/// ISA lines; those above reach the IO-APIC only.
const ISA_LINES: u8 = 16;

/// A signal as saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedSignal {
    /// INIT.
    Init,
    /// Start-up with its vector.
    Startup(u8),
    /// Non-maskable interrupt.
    Nmi,
}

/// State of [`InterruptControllers`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterruptState {
    /// Local APICs by vCPU.
    pub apics: Vec<ApicRegisters>,
    /// IO-APIC.
    pub ioapic: IoApicRegisters,
    /// 8259 pair.
    pub pic: PicState,
    /// Signals that wait, by vCPU.
    pub signals: Vec<Vec<SavedSignal>>,
    /// Messages that reached no vCPU.
    pub undelivered: u64,
}

/// Every interrupt controller of the machine.
#[derive(Debug)]
pub struct InterruptControllers {
    apics: Vec<LocalApic>,
    ioapic: IoApic,
    pic: PicPair,
    /// At most one INIT, one start-up after it, and one NMI per vCPU.
    signals: Vec<VecDeque<CpuSignal>>,
    undelivered: u64,
    /// Level of the 8259's output, which is LINT0 of every local APIC; rebuilt from the 8259.
    lint0: bool,
}

/// The destinations of messages, apart from the controllers that send them.
struct Targets<'a> {
    apics: &'a mut [LocalApic],
    signals: &'a mut [VecDeque<CpuSignal>],
    undelivered: &'a mut u64,
}

impl Targets<'_> {
    /// Delivers to every vCPU that the message names except `without`; false when none took it.
    fn deliver(&mut self, message: InterruptMessage, without: Option<usize>) -> bool {
        let named: Vec<usize> =
            (0..self.apics.len()).filter(|&cpu| Some(cpu) != without && self.apics[cpu].is_target(&message)).collect();
        let taken = self.deliver_to(&named, message);
        if !taken {
            *self.undelivered += 1;
        }
        taken
    }

    fn deliver_to(&mut self, named: &[usize], message: InterruptMessage) -> bool {
        let signal = match message.mode {
            DeliveryMode::Fixed => {
                let mut taken = false;
                for &cpu in named {
                    taken |= self.apics[cpu].accept(message.vector, message.level);
                }
                return taken;
            }
            DeliveryMode::LowestPriority => {
                let Some(cpu) = self.arbitrate(named, message.vector) else { return false };
                return self.apics[cpu].accept(message.vector, message.level);
            }
            DeliveryMode::Nmi => CpuSignal::Nmi,
            DeliveryMode::Init => CpuSignal::Init,
            DeliveryMode::Startup => CpuSignal::Startup(message.vector),
            DeliveryMode::Smi | DeliveryMode::Reserved | DeliveryMode::ExtInt => return false,
        };
        for &cpu in named {
            self.signal(cpu, signal);
        }
        !named.is_empty()
    }

    /// The lowest priority class wins; among equals the vector decides.
    fn arbitrate(&self, named: &[usize], vector: u8) -> Option<usize> {
        let enabled = || named.iter().copied().filter(|&cpu| self.apics[cpu].enabled());
        let class = enabled().map(|cpu| self.apics[cpu].priority_class()).min()?;
        let equal: Vec<usize> = enabled().filter(|&cpu| self.apics[cpu].priority_class() == class).collect();
        equal.get(usize::from(vector) % equal.len()).copied()
    }

    fn signal(&mut self, cpu: usize, signal: CpuSignal) {
        let queue = &mut self.signals[cpu];
        match signal {
            CpuSignal::Init => {
                // The vCPU starts over: what was to happen to it before is void.
                queue.clear();
                queue.push_back(CpuSignal::Init);
                self.apics[cpu].init();
            }
            // One of each kind waits; a second start-up finds the vCPU started.
            CpuSignal::Startup(_) if queue.iter().any(|other| matches!(other, CpuSignal::Startup(_))) => {}
            CpuSignal::Nmi if queue.contains(&CpuSignal::Nmi) => {}
            _ => queue.push_back(signal),
        }
    }
}

impl InterruptControllers {
    /// Power-on state for a number of vCPUs.
    #[must_use]
    pub fn new(vcpus: usize) -> Self {
        Self {
            apics: (0u32..).take(vcpus).map(LocalApic::new).collect(),
            ioapic: IoApic::new(),
            pic: PicPair::new(),
            signals: vec![VecDeque::new(); vcpus],
            undelivered: 0,
            lint0: false,
        }
    }

    /// The reset line.
    pub fn reset(&mut self) {
        for apic in &mut self.apics {
            apic.reset();
        }
        self.ioapic.reset();
        self.pic.reset();
        for queue in &mut self.signals {
            queue.clear();
        }
        self.lint0 = self.pic.output();
    }

    /// What firmware sets up before it starts a kernel: virtual wire mode, every line of the 8259 masked.
    pub fn set_virtual_wire(&mut self) {
        self.pic.write(0x21, 0xff);
        self.pic.write(0xa1, 0xff);
        self.follow_pic();
        for apic in &mut self.apics {
            apic.set_virtual_wire();
        }
    }

    /// A line changes its level.
    pub fn set_line(&mut self, line: InterruptLine, level: bool) {
        let InterruptLine(number) = line;
        if number < ISA_LINES {
            self.pic.set_line(number, level);
            self.follow_pic();
        }
        let pin = match number {
            TIMER_LINE => TIMER_PIN,
            // The cascade has no pin of its own.
            2 => return,
            _ => usize::from(number),
        };
        self.with_ioapic(|ioapic, deliver| ioapic.set_pin(pin, level, deliver));
    }

    /// A message-signalled interrupt.
    pub fn send_msi(&mut self, message: MsiMessage) {
        match InterruptMessage::from_msi(message) {
            Some(message) => {
                self.targets().deliver(message, None);
            }
            None => self.undelivered += 1,
        }
    }

    /// An NMI for every vCPU.
    pub fn send_nmi(&mut self) {
        for cpu in 0..self.apics.len() {
            self.targets().signal(cpu, CpuSignal::Nmi);
        }
    }

    /// MMIO read of a local APIC's register.
    pub fn apic_read(&mut self, cpu: usize, offset: u32, now_ns: u64) -> u32 {
        self.apics[cpu].mmio_read(offset, now_ns)
    }

    /// MMIO write of a local APIC's register.
    pub fn apic_write(&mut self, cpu: usize, offset: u32, value: u32, now_ns: u64) {
        let event = self.apics[cpu].mmio_write(offset, value, now_ns);
        self.follow_event(cpu, event);
    }

    /// RDMSR of a local APIC's register.
    ///
    /// # Errors
    /// When the register does not exist or its mode is off.
    pub fn msr_read(&mut self, cpu: usize, index: u32, now_ns: u64) -> Result<u64, Refused> {
        self.apics[cpu].msr_read(index, now_ns)
    }

    /// WRMSR of a local APIC's register.
    ///
    /// # Errors
    /// When the register does not exist, its mode is off, or the value is not legal.
    pub fn msr_write(&mut self, cpu: usize, index: u32, value: u64, now_ns: u64) -> Result<(), Refused> {
        let event = self.apics[cpu].msr_write(index, value, now_ns)?;
        self.follow_event(cpu, event);
        Ok(())
    }

    /// The task priority of a vCPU as CR8.
    #[must_use]
    pub fn cr8(&self, cpu: usize) -> u64 {
        self.apics[cpu].cr8()
    }

    /// MOV to CR8.
    pub fn set_cr8(&mut self, cpu: usize, value: u64) {
        self.apics[cpu].set_cr8(value);
    }

    /// Read of the IO-APIC's window.
    #[must_use]
    pub fn ioapic_read(&self, offset: u64) -> u32 {
        self.ioapic.read(offset)
    }

    /// Write of the IO-APIC's window.
    pub fn ioapic_write(&mut self, offset: u64, value: u32) {
        self.with_ioapic(|ioapic, deliver| ioapic.write(offset, value, deliver));
    }

    /// Byte read of an 8259's port.
    pub fn pic_read(&mut self, port: u16) -> u8 {
        let value = self.pic.read(port);
        self.follow_pic();
        value
    }

    /// Byte write of an 8259's port.
    pub fn pic_write(&mut self, port: u16, value: u8) {
        self.pic.write(port, value);
        self.follow_pic();
    }

    /// True when a maskable interrupt may be delivered to a vCPU.
    #[inline]
    #[must_use]
    pub fn ready(&self, cpu: usize) -> bool {
        self.apics[cpu].ready() || (self.lint0 && self.apics[cpu].accepts_external())
    }

    /// The vector of the interrupt that [`InterruptControllers::ready`] announced. The 8259 goes first.
    pub fn acknowledge(&mut self, cpu: usize) -> Option<u8> {
        if self.lint0 && self.apics[cpu].accepts_external() {
            let vector = self.pic.acknowledge();
            self.follow_pic();
            return Some(vector);
        }
        self.apics[cpu].acknowledge()
    }

    /// True when a signal waits for a vCPU.
    #[inline]
    #[must_use]
    pub fn has_signal(&self, cpu: usize) -> bool {
        !self.signals[cpu].is_empty()
    }

    /// Takes the oldest signal.
    pub fn take_signal(&mut self, cpu: usize) -> Option<CpuSignal> {
        self.signals[cpu].pop_front()
    }

    /// Messages that reached no vCPU.
    #[must_use]
    pub fn undelivered(&self) -> u64 {
        self.undelivered
    }

    /// Guest time of the next timer interrupt of any local APIC.
    #[must_use]
    pub fn deadline_ns(&self) -> u64 {
        self.apics.iter().map(LocalApic::deadline_ns).min().unwrap_or(u64::MAX)
    }

    /// Brings all timers to `now_ns`.
    pub fn advance(&mut self, now_ns: u64) {
        for apic in &mut self.apics {
            apic.settle(now_ns);
        }
    }

    fn targets(&mut self) -> Targets<'_> {
        Targets { apics: &mut self.apics, signals: &mut self.signals, undelivered: &mut self.undelivered }
    }

    fn with_ioapic(&mut self, body: impl FnOnce(&mut IoApic, &mut dyn FnMut(InterruptMessage) -> bool)) {
        let mut targets =
            Targets { apics: &mut self.apics, signals: &mut self.signals, undelivered: &mut self.undelivered };
        body(&mut self.ioapic, &mut |message| targets.deliver(message, None));
    }

    fn follow_event(&mut self, cpu: usize, event: Option<ApicEvent>) {
        match event {
            None => {}
            Some(ApicEvent::Ipi(message)) => {
                self.targets().deliver(message, None);
            }
            Some(ApicEvent::IpiOthers(message)) => {
                let others = InterruptMessage { destination: u32::MAX, wide: true, ..message };
                self.targets().deliver(others, Some(cpu));
            }
            Some(ApicEvent::EndOfInterrupt(vector)) => {
                self.with_ioapic(|ioapic, deliver| ioapic.end_of_interrupt(vector, deliver));
            }
        }
    }

    /// The 8259's output may have changed: its rising edge is an event for LINT0 inputs that are not ExtINT.
    fn follow_pic(&mut self) {
        let level = self.pic.output();
        let rising = level && !self.lint0;
        self.lint0 = level;
        if rising {
            for cpu in 0..self.apics.len() {
                if let Some(signal) = self.apics[cpu].raise_lint0() {
                    self.targets().signal(cpu, signal);
                }
            }
        }
    }
}

impl Snapshot for InterruptControllers {
    const KIND: &'static str = "interrupt controllers";
    const VERSION: u16 = 1;
    type State = InterruptState;

    fn save(&self) -> InterruptState {
        let Self { apics, ioapic, pic, signals, undelivered, lint0: _ } = self;
        let save_signal = |signal: &CpuSignal| match *signal {
            CpuSignal::Init => SavedSignal::Init,
            CpuSignal::Startup(vector) => SavedSignal::Startup(vector),
            CpuSignal::Nmi => SavedSignal::Nmi,
        };
        InterruptState {
            apics: apics.iter().map(Snapshot::save).collect(),
            ioapic: ioapic.save(),
            pic: pic.save(),
            signals: signals.iter().map(|queue| queue.iter().map(save_signal).collect()).collect(),
            undelivered: *undelivered,
        }
    }

    fn restore(&mut self, state: InterruptState) -> Result<(), RestoreError> {
        let vcpus = self.apics.len();
        let too_many = state.signals.iter().any(|queue| queue.len() > 3);
        if state.apics.len() != vcpus || state.signals.len() != vcpus || too_many {
            let reason = format!("{} local APICs, this machine has {vcpus}", state.apics.len());
            return Err(RestoreError::Invalid { kind: Self::KIND, reason });
        }
        let mut fresh = Self::new(vcpus);
        for (apic, state) in fresh.apics.iter_mut().zip(state.apics) {
            apic.restore(state)?;
        }
        fresh.ioapic.restore(state.ioapic)?;
        fresh.pic.restore(state.pic)?;
        let load_signal = |signal| match signal {
            SavedSignal::Init => CpuSignal::Init,
            SavedSignal::Startup(vector) => CpuSignal::Startup(vector),
            SavedSignal::Nmi => CpuSignal::Nmi,
        };
        fresh.signals = state.signals.into_iter().map(|queue| queue.into_iter().map(load_signal).collect()).collect();
        fresh.undelivered = state.undelivered;
        fresh.lint0 = fresh.pic.output();
        *self = fresh;
        Ok(())
    }
}
