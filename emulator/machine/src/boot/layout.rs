//! Where the loader puts things, and the memory map that the kernel is told.
//!
//! ```text
//! 0x00500   GDT                      0x20000   command line
//! 0x06000   PVH or Multiboot info    0x9fc00   end of conventional memory
//! 0x07000   Linux zero page          0xe0000   ACPI tables
//! 0x08ff0   stack                    1 MiB     kernel, initrd
//! 0x09000   page tables (6 pages)
//! ```

use virtft_cpu::memory::GuestRam;

use crate::devices::ioapic::IOAPIC_BASE;
use crate::platform::ECAM;

/// Global descriptor table of the boot processor.
pub const GDT: u64 = 0x500;
/// Start information of PVH or Multiboot, one page.
pub const START_INFO: u64 = 0x6000;
/// Linux zero page.
pub const ZERO_PAGE: u64 = 0x7000;
/// Initial stack pointer.
pub const STACK: u64 = 0x8ff0;
/// Identity mapping of the first 4 GiB: PML4, PDPT, four page directories.
pub const PAGE_TABLES: u64 = 0x9000;
/// Command line.
pub const COMMAND_LINE: u64 = 0x2_0000;
/// Room for the command line in bytes, its terminating zero included.
pub const COMMAND_LINE_BYTES: u64 = 0x1_0000;
/// End of conventional memory.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// Where extended memory starts.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// What a range of the memory map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryKind {
    /// Free to use: e820 type 1.
    Usable,
    /// Not for the kernel: e820 type 2.
    Reserved,
}

impl MemoryKind {
    /// The number in e820, PVH and Multiboot maps.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Usable => 1,
            Self::Reserved => 2,
        }
    }
}

/// One range of the memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRange {
    /// First address.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// What it is.
    pub kind: MemoryKind,
}

/// The memory map, ascending.
#[must_use]
pub fn memory_map(ram: &GuestRam) -> Vec<MemoryRange> {
    let range = |start: u64, end: u64, kind| MemoryRange { start, size: end - start, kind };
    let mut map = vec![
        range(0, CONVENTIONAL_END, MemoryKind::Usable),
        range(CONVENTIONAL_END, 0xa_0000, MemoryKind::Reserved),
        range(crate::acpi::TABLES_BASE, crate::acpi::TABLES_END, MemoryKind::Reserved),
    ];
    for (base, size) in ram.ranges() {
        let start = base.max(HIGH_MEMORY);
        if base + size > start {
            map.push(range(start, base + size, MemoryKind::Usable));
        }
    }
    map.push(range(ECAM.start, ECAM.end, MemoryKind::Reserved));
    map.push(range(IOAPIC_BASE, IOAPIC_BASE + 0x1000, MemoryKind::Reserved));
    map.push(range(0xfee0_0000, 0xfee0_1000, MemoryKind::Reserved));
    map.sort_by_key(|range| range.start);
    map
}
