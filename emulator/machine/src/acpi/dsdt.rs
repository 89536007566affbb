//! The DSDT: PCI root, legacy devices, processors, S5.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path,
    ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;

use super::{OEM, OEM_REVISION, OEM_TABLE, TableConfig, bytes_of};
use crate::bits::low32;
use crate::devices::acpi_pm::{GPE0, GPE0_BYTES, PM1_EVENT, SLEEP_S5, SMI_COMMAND};
use crate::devices::pci::interrupt_line;
use crate::platform::ports::{COM1, COM2};
use crate::platform::{ECAM, PCI_WINDOW};

const PCI_DEVICES: u8 = 32;

pub(super) fn build(config: &TableConfig) -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&system_bus(config));
    let off = Package::new(vec![&SLEEP_S5, &SLEEP_S5, &0u8, &0u8]);
    dsdt.append_slice(&bytes_of(&Name::new(Path::new("_S5_"), &off)));
    dsdt
}

/// Scope `\_SB`.
fn system_bus(config: &TableConfig) -> Vec<u8> {
    let mut children = pci_root(config);
    children.extend(board());
    let devices: [(&str, &str, u8, &[IO], u32); 4] = [
        ("COM1", "PNP0501", 1, &[IO::new(COM1, COM1, 8, 8)], 4),
        ("COM2", "PNP0501", 2, &[IO::new(COM2, COM2, 8, 8)], 3),
        ("RTC_", "PNP0B00", 0, &[IO::new(0x70, 0x70, 1, 4)], 8),
        ("KBD_", "PNP0303", 0, &[IO::new(0x60, 0x60, 1, 1), IO::new(0x64, 0x64, 1, 1)], 1),
    ];
    for (name, id, uid, ports, line) in devices {
        children.extend(isa_device(name, id, uid, ports, line));
    }
    children.extend(isa_timer());
    for cpu in 0..config.vcpus {
        let id = Name::new(Path::new("_HID"), &"ACPI0007");
        let uid = Name::new(Path::new("_UID"), &cpu);
        children.extend(bytes_of(&Device::new(Path::new(&format!("C{cpu:03}")), vec![&id, &uid])));
    }
    Scope::raw(Path::new("\\_SB_"), children)
}

/// The PCI Express root with its windows and the routing of INTA.
fn pci_root(config: &TableConfig) -> Vec<u8> {
    let window = |range: &std::ops::Range<u64>| (range.start, range.end - 1);
    let (low, low_last) = window(&PCI_WINDOW);
    let (high, high_last) = window(&config.pci_window_64);
    let buses = AddressSpace::new_bus_number(0x0u16, 0xff);
    let config_ports = IO::new(0xcf8, 0xcf8, 1, 8);
    let ports_below = AddressSpace::new_io(0u16, 0xcf7, None);
    let ports_above = AddressSpace::new_io(0xd00u16, 0xffff, None);
    let memory = AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, low32(low), low32(low_last), None);
    let memory_64 = AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, high, high_last, None);
    let resources = ResourceTemplate::new(vec![&buses, &config_ports, &ports_below, &ports_above, &memory, &memory_64]);
    let routes: Vec<(u32, u32)> = (0..PCI_DEVICES)
        .map(|device| ((u32::from(device) << 16) | 0xffff, u32::from(interrupt_line(device).0)))
        .collect();
    let routes: Vec<Package<'_>> = routes
        .iter()
        // Pin A of every function; the source 0 means that the index is a global system interrupt.
        .map(|(address, line)| Package::new(vec![address, &0u8, &0u8, line]))
        .collect();
    let routes = Package::new(routes.iter().map(|route| route as &dyn Aml).collect());
    bytes_of(&Device::new(
        Path::new("PCI0"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0A08")),
            &Name::new(Path::new("_CID"), &EISAName::new("PNP0A03")),
            &Name::new(Path::new("_SEG"), &0u8),
            &Name::new(Path::new("_BBN"), &0u8),
            &Name::new(Path::new("_UID"), &0u8),
            &Name::new(Path::new("_CCA"), &1u8),
            &Name::new(Path::new("_CRS"), &resources),
            &Name::new(Path::new("_PRT"), &routes),
        ],
    ))
}

/// Resources of the board itself: ECAM, power management and the small ports.
fn board() -> Vec<u8> {
    let ecam = Memory32Fixed::new(true, low32(ECAM.start), low32(ECAM.end - ECAM.start));
    let power = IO::new(PM1_EVENT, PM1_EVENT, 1, 12);
    let general = IO::new(GPE0, GPE0, 1, GPE0_BYTES);
    let smi = IO::new(SMI_COMMAND, SMI_COMMAND, 1, 2);
    let resources = ResourceTemplate::new(vec![&ecam, &power, &general, &smi]);
    bytes_of(&Device::new(
        Path::new("BRD_"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C02")),
            &Name::new(Path::new("_UID"), &0u8),
            &Name::new(Path::new("_CRS"), &resources),
        ],
    ))
}

fn isa_device(name: &str, id: &str, uid: u8, ports: &[IO], line: u32) -> Vec<u8> {
    let interrupt = Interrupt::new(true, true, false, false, line);
    let mut parts: Vec<&dyn Aml> = ports.iter().map(|port| port as &dyn Aml).collect();
    parts.push(&interrupt);
    let resources = ResourceTemplate::new(parts);
    bytes_of(&Device::new(
        Path::new(name),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new(id)),
            &Name::new(Path::new("_UID"), &uid),
            &Name::new(Path::new("_CRS"), &resources),
        ],
    ))
}

/// The 8254, which has no interrupt resource: its line is the business of the MADT.
fn isa_timer() -> Vec<u8> {
    let ports = IO::new(0x40, 0x40, 1, 4);
    let resources = ResourceTemplate::new(vec![&ports]);
    bytes_of(&Device::new(
        Path::new("TIMR"),
        vec![&Name::new(Path::new("_HID"), &EISAName::new("PNP0100")), &Name::new(Path::new("_CRS"), &resources)],
    ))
}
