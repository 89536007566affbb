//! The map of I/O ports.

use crate::devices::acpi_pm::{GPE0, GPE0_BYTES, PM_TIMER, PM1_EVENT, SMI_COMMAND};

/// First port of COM1.
pub const COM1: u16 = 0x3f8;
/// First port of COM2.
pub const COM2: u16 = 0x2f8;

/// Who answers at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PortTarget {
    Pic,
    Pit,
    Rtc,
    Keyboard,
    Serial(usize),
    AcpiPm,
    System,
    Pci,
}

const PM1_LAST: u16 = PM_TIMER + 3;
const GPE0_LAST: u16 = GPE0 + GPE0_BYTES as u16 - 1;
const SMI_STATUS: u16 = SMI_COMMAND + 1;

/// The device at a port; `None` when nothing answers. Port 0xcf9 lies inside the PCI configuration ports: as a byte
/// it is the reset control register, which the caller looks at first.
pub(super) fn target(port: u16) -> Option<PortTarget> {
    Some(match port {
        0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => PortTarget::Pic,
        0x40..=0x43 | 0x61 => PortTarget::Pit,
        0x60 | 0x64 => PortTarget::Keyboard,
        0x70..=0x73 => PortTarget::Rtc,
        0x80 | 0x92 | 0xe9 | 0xf4 => PortTarget::System,
        SMI_COMMAND..=SMI_STATUS => PortTarget::AcpiPm,
        0x3f8..=0x3ff => PortTarget::Serial(0),
        0x2f8..=0x2ff => PortTarget::Serial(1),
        PM1_EVENT..=PM1_LAST | GPE0..=GPE0_LAST => PortTarget::AcpiPm,
        0xcf8..=0xcff => PortTarget::Pci,
        _ => return None,
    })
}
