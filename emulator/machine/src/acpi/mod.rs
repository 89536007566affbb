//! ACPI tables (ACPI 6.5, chapter 5).
//!
//! RSDP, XSDT, FADT with FACS, MADT, MCFG and DSDT, laid out from [`TABLES_BASE`] in the area that an operating system
//! searches for the RSDP. The tables follow from the configuration alone, so every replica builds the same bytes.

mod dsdt;
#[cfg(test)]
mod tests;

use std::ops::Range;

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use crate::bits::low32;
use crate::devices::acpi_pm::{
    ACPI_DISABLE, ACPI_ENABLE, GPE0, GPE0_BYTES, PM_TIMER, PM1_CONTROL, PM1_EVENT, SCI, SMI_COMMAND,
};
use crate::devices::ioapic::IOAPIC_BASE;
use crate::devices::system::{RESET_CONTROL, RESET_VALUE};
use crate::platform::ECAM;

/// Where the tables start; the RSDP is first.
pub const TABLES_BASE: u64 = 0xe_0000;
/// End of the area for tables.
pub const TABLES_END: u64 = 0x10_0000;

const OEM: [u8; 6] = *b"VIRTFT";
const OEM_TABLE: [u8; 8] = *b"VIRTFTPC";
const OEM_REVISION: u32 = 1;
const LOCAL_APIC: u32 = 0xfee0_0000;

/// What the tables describe beyond what every machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableConfig {
    /// Number of vCPUs.
    pub vcpus: u8,
    /// 64-bit window for PCI device memory.
    pub pci_window_64: Range<u64>,
}

/// The tables as bytes to be put at [`TABLES_BASE`].
///
/// # Panics
/// When the tables do not fit their area, which no configuration within the machine's limits reaches.
#[must_use]
pub fn build(config: &TableConfig) -> Vec<u8> {
    let mut area = Area { bytes: vec![0; Rsdp::len()] };
    let dsdt = area.add(&dsdt::build(config));
    let facs = area.add(&acpi_tables::facs::FACS::new());
    let fadt = area.add(&FadtTable(fadt(dsdt, facs)));
    let madt = area.add(&madt(config));
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(ECAM.start, 0, 0, 0xff);
    let mcfg = area.add(&mcfg);
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    for table in [fadt, madt, mcfg] {
        xsdt.add_entry(table);
    }
    let xsdt = area.add(&xsdt);
    let rsdp = bytes_of(&Rsdp::new(OEM, xsdt));
    area.bytes[..rsdp.len()].copy_from_slice(&rsdp);
    assert!(area.bytes.len() as u64 <= TABLES_END - TABLES_BASE, "ACPI tables of {} bytes", area.bytes.len());
    area.bytes
}

/// Tables one behind the other, each on a 64-byte boundary as the FACS wants it.
struct Area {
    bytes: Vec<u8>,
}

impl Area {
    /// Appends a table and returns its physical address.
    fn add(&mut self, table: &dyn Aml) -> u64 {
        let start = self.bytes.len().next_multiple_of(64);
        self.bytes.resize(start, 0);
        self.bytes.extend(bytes_of(table));
        TABLES_BASE + start as u64
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// The crate gives its FADT no name that can be passed on before it is finished.
struct FadtTable(FADTBuilder);

impl Aml for FadtTable {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        self.0.finalize().to_aml_bytes(sink);
    }
}

fn io_block(port: u16, bytes: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bytes * 8, 0, access, u64::from(port))
}

fn fadt(dsdt: u64, facs: u64) -> FADTBuilder {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // There is a fixed power button and no sleep button; the RTC wakes nothing.
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    fadt.firmware_ctrl = low32(facs).into();
    fadt.dsdt = low32(dsdt).into();
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = u16::from(SCI.0).into();
    fadt.smi_cmd = u32::from(SMI_COMMAND).into();
    fadt.acpi_enable = ACPI_ENABLE;
    fadt.acpi_disable = ACPI_DISABLE;
    fadt.pm1a_evt_blk = u32::from(PM1_EVENT).into();
    fadt.x_pm1a_evt_blk = io_block(PM1_EVENT, 4, AccessSize::WordAccess);
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(PM1_CONTROL).into();
    fadt.x_pm1a_cnt_blk = io_block(PM1_CONTROL, 2, AccessSize::WordAccess);
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_blk = u32::from(PM_TIMER).into();
    fadt.x_pm_tmr_blk = io_block(PM_TIMER, 4, AccessSize::DwordAccess);
    fadt.pm_tmr_len = 4;
    fadt.gpe0_blk = u32::from(GPE0).into();
    fadt.x_gpe0_blk = io_block(GPE0, GPE0_BYTES, AccessSize::ByteAccess);
    fadt.gpe0_blk_len = GPE0_BYTES;
    // Latencies beyond these limits say that there is no C2 and no C3.
    fadt.p_lvl2_lat = 101.into();
    fadt.p_lvl3_lat = 1001.into();
    fadt.century = 0x32;
    // Legacy devices, an i8042, no VGA.
    fadt.iapc_boot_arch = 0x0007.into();
    fadt.reset_reg = io_block(RESET_CONTROL, 1, AccessSize::ByteAccess);
    fadt.reset_value = RESET_VALUE;
    fadt
}

/// Multiple APIC description: local APICs, the IO-APIC, the two ISA lines that are not as usual, NMI on LINT1.
fn madt(config: &TableConfig) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", 44, 5, OEM, OEM_TABLE, OEM_REVISION);
    madt.write_u32(36, LOCAL_APIC);
    // A pair of 8259 is there too.
    madt.write_u32(40, 1);
    for id in 0..config.vcpus {
        // Type 0: processor local APIC, enabled.
        madt.append_slice(&[0, 8, id, id, 1, 0, 0, 0]);
    }
    let [a, b, c, d] = low32(IOAPIC_BASE).to_le_bytes();
    madt.append_slice(&[1, 12, 0, 0, a, b, c, d, 0, 0, 0, 0]);
    // Type 2: source override. The 8254 is on pin 2; the SCI is level-triggered and active high.
    madt.append_slice(&[2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    madt.append_slice(&[2, 10, 0, SCI.0, SCI.0, 0, 0, 0, 0x0d, 0]);
    // Type 4: NMI on LINT1 of every processor.
    madt.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    madt
}
