//! The board: every device, and the buses between them and the vCPUs.
//!
//! [`Platform`] implements the engine's [`Bus`]. An access goes to the device that answers there, with guest time computed
//! from the position; what the device causes is carried out, in order, before the access returns. Ports of ISA
//! devices are eight bits wide: a wider access is split into bytes, lowest first, as the bus does it.
//!
//! ```text
//! 0                RAM up to 3 GiB (LOW_RAM_END)
//! 0xc000_0000      PCI device memory, 512 MiB
//! 0xe000_0000      ECAM, 256 MiB (buses 0 to 255)
//! 0xfec0_0000      IO-APIC
//! 0xfee0_0000      local APIC of the accessing vCPU
//! 0x1_0000_0000    rest of RAM, then the 64-bit window for PCI device memory
//! ```

mod bus;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz_code;
pub mod interrupts;
pub mod ports;
mod state;
#[cfg(test)]
mod tests;

use std::ops::Range;

use virtft_cpu::bus::Bus;
use virtft_cpu::memory::{GuestRam, HIGH_RAM_START};

use crate::clock::{Clock, ClockError};
use crate::context::{DeviceContext, Effect, Effects, InterruptLine, PowerAction};
use crate::devices::Device;
use crate::devices::acpi_pm::AcpiPm;
use crate::devices::i8042::I8042;
use crate::devices::pci::{DeliverError, PciHost};
use crate::devices::pit::Pit;
use crate::devices::rtc::Rtc;
use crate::devices::system::SystemPorts;
use crate::devices::uart::Uart;
use crate::entropy::Entropy;
use crate::io::{CharPort, Input, Output};
use interrupts::InterruptControllers;
use ports::{COM1, COM2};
pub use state::{PlatformState, part_versions};

/// The window for PCI device memory below 4 GiB.
pub const PCI_WINDOW: Range<u64> = 0xc000_0000..0xe000_0000;
/// PCI configuration space in memory: 256 buses.
pub const ECAM: Range<u64> = 0xe000_0000..0xf000_0000;
/// Size of the 64-bit window for PCI device memory.
pub const PCI_WINDOW_64_BYTES: u64 = 1 << 36;

/// The window for PCI device memory above RAM, aligned to its size.
#[must_use]
pub fn pci_window_64(ram: &GuestRam) -> Range<u64> {
    let top = ram.ranges().iter().map(|(base, size)| base + size).max().unwrap_or(0).max(HIGH_RAM_START);
    let base = top.next_multiple_of(PCI_WINDOW_64_BYTES);
    base..base + PCI_WINDOW_64_BYTES
}

/// An input that the machine cannot take: a fault of the host or of a log, never of the guest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InputError {
    /// The clock would run backwards or stand still.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// No device takes it, or it cannot have happened to it.
    #[error(transparent)]
    Device(#[from] DeliverError),
    /// There is no such serial port, or it takes no input.
    #[error("the machine has no character channel {port:?} that takes input")]
    NoChannel {
        /// The channel named.
        port: CharPort,
    },
}

/// The devices on the board, without interrupt controllers.
#[derive(Debug)]
pub struct Devices {
    pub(crate) pit: Pit,
    pub(crate) rtc: Rtc,
    pub(crate) serial: [Uart; 2],
    pub(crate) keyboard: I8042,
    pub(crate) acpi: AcpiPm,
    pub(crate) system: SystemPorts,
    pub(crate) pci: PciHost,
}

/// Everything around the vCPUs.
#[derive(Debug)]
pub struct Platform {
    pub(crate) ram: GuestRam,
    pub(crate) clock: Clock,
    pub(crate) entropy: Entropy,
    pub(crate) interrupts: InterruptControllers,
    pub(crate) devices: Devices,
    /// What waits to be taken by the host, in order.
    outputs: Vec<Output>,
    /// The machine is to end or start over.
    power: Option<PowerAction>,
    /// Earliest time at which a device changes by itself, and its count; rebuilt after every call.
    deadline_ns: u64,
    deadline: u64,
    /// Kept for its allocation; empty between calls.
    effects: Effects,
}

/// Calls a device with a context made of the fields that devices may use.
macro_rules! with_context {
    ($platform:expr, $now_ns:expr, |$devices:ident, $cx:ident| $body:expr) => {{
        let Platform { ram, entropy, devices: $devices, effects, .. } = $platform;
        let $cx = &mut DeviceContext { memory: ram.memory(), now_ns: $now_ns, effects, entropy };
        $body
    }};
}
pub(crate) use with_context;

impl Platform {
    /// A board with its devices in power-on state.
    #[must_use]
    pub fn new(ram: GuestRam, vcpus: usize, rate: u64, pci: PciHost) -> Self {
        let mut rtc = Rtc::new();
        let size_of = |base| ram.ranges().iter().find(|range| range.0 == base).map_or(0, |range| range.1);
        rtc.set_memory_size(size_of(0), size_of(HIGH_RAM_START));
        let serial = [Uart::new(0, COM1, InterruptLine(4)), Uart::new(1, COM2, InterruptLine(3))];
        let devices = Devices {
            pit: Pit::new(),
            rtc,
            serial,
            keyboard: I8042::new(),
            acpi: AcpiPm::new(),
            system: SystemPorts::new(),
            pci,
        };
        Self {
            ram,
            clock: Clock::new(rate),
            entropy: Entropy::new(),
            interrupts: InterruptControllers::new(vcpus),
            devices,
            outputs: Vec::new(),
            power: None,
            deadline_ns: u64::MAX,
            deadline: u64::MAX,
            effects: Effects::new(),
        }
    }

    /// Guest time at a count, in nanoseconds.
    #[must_use]
    pub fn now_ns(&self, count: u64) -> u64 {
        self.clock.time_ns(count)
    }

    /// Guest time of the next timer; `u64::MAX` for none.
    #[must_use]
    pub fn next_deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    /// Takes what waits for the host.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// True when something waits for the host.
    #[must_use]
    pub fn has_outputs(&self) -> bool {
        !self.outputs.is_empty()
    }

    /// Takes the request to end or to start over.
    pub fn take_power_action(&mut self) -> Option<PowerAction> {
        self.power.take()
    }

    /// Takes an input at a count.
    ///
    /// # Errors
    /// When it cannot have happened to this machine here; nothing changes then.
    pub fn deliver(&mut self, count: u64, input: &Input) -> Result<(), InputError> {
        self.advance(count);
        let now_ns = self.clock.time_ns(count);
        let result = self.deliver_now(count, now_ns, input);
        self.settle();
        result
    }

    fn deliver_now(&mut self, count: u64, now_ns: u64, input: &Input) -> Result<(), InputError> {
        match input {
            Input::ClockAnchor(anchor) => {
                self.clock.anchor(count, *anchor)?;
                // The count of the deadline changes with the rate even when its time does not.
                self.deadline_ns = u64::MAX;
                self.deadline = u64::MAX;
            }
            Input::RtcOrigin { unix_ns } => {
                with_context!(self, now_ns, |devices, cx| devices.rtc.set_origin(cx, *unix_ns));
            }
            Input::CharReceive { port: CharPort::Serial(index), data } => {
                let no_channel = InputError::NoChannel { port: CharPort::Serial(*index) };
                with_context!(self, now_ns, |devices, cx| {
                    let uart = devices.serial.get_mut(usize::from(*index)).ok_or(no_channel)?;
                    uart.receive(cx, data);
                });
            }
            Input::CharReceive { port: CharPort::DebugCon, .. } => {
                return Err(InputError::NoChannel { port: CharPort::DebugCon });
            }
            Input::Keyboard { scancodes } => {
                with_context!(self, now_ns, |devices, cx| devices.keyboard.receive(cx, scancodes));
            }
            Input::EntropySeed(seed) => self.entropy.mix(seed),
            Input::PowerButton => {
                with_context!(self, now_ns, |devices, cx| devices.acpi.press_power_button(cx));
            }
            Input::Reset => self.effects.push(Effect::Power(PowerAction::Reset)),
            Input::Nmi => self.interrupts.send_nmi(),
            Input::NetReceive { .. }
            | Input::NetLink { .. }
            | Input::BlockCompletion { .. }
            | Input::CharReceive { port: CharPort::Console(_), .. }
            | Input::BalloonTarget { .. } => {
                with_context!(self, now_ns, |devices, cx| devices.pci.deliver(cx, input))?;
            }
        }
        Ok(())
    }

    /// The reset line: every device returns to power-on. Clock, entropy, CMOS and what is in flight outside stay.
    pub fn reset(&mut self, count: u64) {
        self.advance(count);
        let now_ns = self.clock.time_ns(count);
        with_context!(self, now_ns, |devices, cx| {
            let Devices { pit, rtc, serial, keyboard, acpi, system, pci } = devices;
            pit.reset(cx);
            rtc.reset(cx);
            for uart in serial {
                uart.reset(cx);
            }
            keyboard.reset(cx);
            acpi.reset(cx);
            system.reset(cx);
            pci.reset(cx);
        });
        self.apply_effects();
        self.interrupts.reset();
        self.power = None;
        self.settle();
    }

    /// What firmware leaves behind when it starts a kernel.
    pub fn set_up_for_boot(&mut self) {
        self.interrupts.set_virtual_wire();
        self.settle();
    }

    /// Block requests that were handed out and not completed, and others that must be issued again after a restore.
    #[must_use]
    pub fn in_flight(&self) -> Vec<Output> {
        self.devices.pci.in_flight()
    }

    /// Events counted since the machine was made, by device and name: for people, never for decisions.
    #[must_use]
    pub fn counters(&self) -> Vec<(String, u64)> {
        let mut counters = vec![("interrupts.undelivered".to_owned(), self.interrupts.undelivered())];
        for (index, uart) in self.devices.serial.iter().enumerate() {
            counters.push((format!("serial{index}.dropped_bytes"), uart.dropped()));
        }
        for (index, function) in self.devices.pci.functions().enumerate() {
            let (name, place) = (function.name(), index + 1);
            let of_function = function.counters().into_iter();
            counters.extend(of_function.map(|(what, value)| (format!("pci{place}.{name}.{what}"), value)));
        }
        counters
    }

    /// Carries out what devices caused, in order.
    fn apply_effects(&mut self) {
        if self.effects.is_empty() {
            return;
        }
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Line(line, level) => self.interrupts.set_line(line, level),
                Effect::Msi(message) => self.interrupts.send_msi(message),
                Effect::Output(output) => self.outputs.push(output),
                // The first request wins until it is carried out.
                Effect::Power(action) => self.power = self.power.or(Some(action)),
            }
        }
        self.effects = effects;
    }

    /// After every call: effects are carried out and the deadline is found again.
    fn settle(&mut self) {
        self.apply_effects();
        let Devices { pit, rtc, serial, keyboard, acpi, system, pci: _ } = &self.devices;
        let deadline_ns = [
            self.interrupts.deadline_ns(),
            pit.deadline_ns(),
            rtc.deadline_ns(),
            serial[0].deadline_ns(),
            serial[1].deadline_ns(),
            keyboard.deadline_ns(),
            acpi.deadline_ns(),
            system.deadline_ns(),
        ]
        .into_iter()
        .fold(u64::MAX, u64::min);
        if deadline_ns != self.deadline_ns {
            self.deadline_ns = deadline_ns;
            self.deadline = self.clock.count_at(deadline_ns);
        }
    }
}
