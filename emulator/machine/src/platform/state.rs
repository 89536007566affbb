//! Saved state of the board.

use serde::{Deserialize, Serialize};

use super::interrupts::{InterruptControllers, InterruptState};
use super::{Devices, Platform};
use crate::clock::{Clock, ClockState};
use crate::context::PowerAction;
use crate::devices::acpi_pm::{AcpiPm, AcpiPmState};
use crate::devices::apic::LocalApic;
use crate::devices::i8042::{I8042, I8042State};
use crate::devices::ioapic::IoApic;
use crate::devices::pci::{PciHost, PciHostState};
use crate::devices::pic::PicPair;
use crate::devices::pit::{Pit, PitState};
use crate::devices::rtc::{Rtc, RtcState};
use crate::devices::system::{SystemPorts, SystemPortsState};
use crate::devices::uart::{Uart, UartRegisters};
use crate::entropy::{Entropy, EntropyState};
use crate::io::Output;
use crate::snapshot::{RestoreError, Snapshot};

/// State of [`Platform`]. Not in here: RAM, which is saved by pages, and deadlines, which are rebuilt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformState {
    /// Guest clock.
    pub clock: ClockState,
    /// Random numbers.
    pub entropy: EntropyState,
    /// Interrupt controllers.
    pub interrupts: InterruptState,
    /// 8254.
    pub pit: PitState,
    /// Clock and CMOS.
    pub rtc: RtcState,
    /// COM1 and COM2.
    pub serial: [UartRegisters; 2],
    /// i8042.
    pub keyboard: I8042State,
    /// ACPI power management.
    pub acpi: AcpiPmState,
    /// Small ports.
    pub system: SystemPortsState,
    /// PCI bus with everything on it.
    pub pci: PciHostState,
    /// Outputs that were not taken.
    pub outputs: Vec<Output>,
    /// Power action that was not carried out: 0 for reset, status + 1 for off.
    pub power: Option<u16>,
}

/// Name and version of each part with a state of fixed layout, as a snapshot records them.
#[must_use]
pub fn part_versions() -> Vec<(String, u16)> {
    fn of<T: Snapshot>() -> (String, u16) {
        (T::KIND.into(), T::VERSION)
    }
    vec![
        of::<Platform>(),
        of::<Clock>(),
        of::<Entropy>(),
        of::<InterruptControllers>(),
        of::<LocalApic>(),
        of::<IoApic>(),
        of::<PicPair>(),
        of::<Pit>(),
        of::<Rtc>(),
        of::<Uart>(),
        of::<I8042>(),
        of::<AcpiPm>(),
        of::<SystemPorts>(),
        of::<PciHost>(),
    ]
}

impl Platform {
    fn try_restore(&mut self, state: PlatformState) -> Result<(), RestoreError> {
        let PlatformState {
            clock,
            entropy,
            interrupts,
            pit,
            rtc,
            serial: [com1, com2],
            keyboard,
            acpi,
            system,
            pci,
            outputs,
            power,
        } = state;
        self.clock.restore(clock)?;
        self.entropy.restore(entropy)?;
        self.interrupts.restore(interrupts)?;
        self.devices.pit.restore(pit)?;
        self.devices.rtc.restore(rtc)?;
        self.devices.serial[0].restore(com1)?;
        self.devices.serial[1].restore(com2)?;
        self.devices.keyboard.restore(keyboard)?;
        self.devices.acpi.restore(acpi)?;
        self.devices.system.restore(system)?;
        self.devices.pci.restore(pci)?;
        self.outputs = outputs;
        self.power = power.map(load_power);
        self.effects.clear();
        // Found anew by `settle`; never equal to a real deadline's cached count.
        self.deadline_ns = u64::MAX;
        self.deadline = u64::MAX;
        self.settle();
        Ok(())
    }
}

fn load_power(saved: u16) -> PowerAction {
    match saved.checked_sub(1) {
        None => PowerAction::Reset,
        Some(status) => PowerAction::Off { status: crate::bits::low8(u64::from(status)) },
    }
}

impl Snapshot for Platform {
    const KIND: &'static str = "platform";
    const VERSION: u16 = 1;
    type State = PlatformState;

    fn save(&self) -> PlatformState {
        let Self { ram: _, clock, entropy, interrupts, devices, outputs, power, deadline_ns: _, deadline: _, effects } =
            self;
        assert!(effects.is_empty(), "effects are carried out within the call that causes them");
        let Devices { pit, rtc, serial, keyboard, acpi, system, pci } = devices;
        PlatformState {
            clock: clock.save(),
            entropy: entropy.save(),
            interrupts: interrupts.save(),
            pit: pit.save(),
            rtc: rtc.save(),
            serial: [serial[0].save(), serial[1].save()],
            keyboard: keyboard.save(),
            acpi: acpi.save(),
            system: system.save(),
            pci: pci.save(),
            outputs: outputs.clone(),
            power: power.map(|action| match action {
                PowerAction::Reset => 0,
                PowerAction::Off { status } => u16::from(status) + 1,
            }),
        }
    }

    fn restore(&mut self, state: PlatformState) -> Result<(), RestoreError> {
        let old = self.save();
        let result = self.try_restore(state);
        if result.is_err() {
            self.try_restore(old).expect("a platform accepts its own state");
        }
        result
    }
}
