//! Linux boot protocol: bzImage, and ELF kernels that are entered like one.

use std::io::Cursor;

use linux_loader::loader::KernelLoader;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::bzimage::BzImage;
use virtft_cpu::state::CpuState;
use vm_memory::{ByteValued, GuestAddress};

use super::layout::{HIGH_MEMORY, ZERO_PAGE, memory_map};
use super::{BootError, Fields, Loader, cpu};
use crate::acpi::TABLES_BASE;
use crate::bits::{byte, low8, low32, to_usize};

const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// Offset of the setup header in the image.
const HEADER: u64 = 0x1f1;
const VERSION: u64 = 0x206;
/// Oldest protocol whose bzImage the 32-bit entry takes as written here (initrd limit, relocation fields).
const OLDEST_VERSION: u16 = 0x204;
const VERSION_64_BIT: u16 = 0x20c;
const LOADED_HIGH: u8 = 1;
const KERNEL_64: u16 = 1;
/// "Unknown boot loader" without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
/// Offset of the 64-bit entry from the start of the protected-mode kernel.
const ENTRY_64: u64 = 0x200;
const DEFAULT_INITRD_LAST: u32 = 0x37ff_ffff;
const DEFAULT_COMMAND_LINE: u32 = 255;

/// True for an image with the magic numbers of a bzImage.
pub(super) fn is_bzimage(image: &[u8]) -> bool {
    let fields = Fields(image);
    fields.u16(0x1fe) == Ok(BOOT_FLAG) && fields.u32(0x202) == Ok(HEADER_MAGIC)
}

/// The setup header and where the protected-mode kernel lies in the image.
pub(super) struct BzImageHeader {
    pub header: setup_header,
    pub kernel_offset: u64,
}

/// Reads and checks the setup header.
pub(super) fn parse_header(image: &[u8]) -> Result<BzImageHeader, BootError> {
    let fields = Fields(image);
    let version = fields.u16(VERSION)?;
    if version < OLDEST_VERSION {
        return Err(BootError::Protocol { major: byte(u64::from(version), 1), minor: low8(u64::from(version)) });
    }
    // The byte at 0x201 is the displacement of a short jump over the header from 0x202 on: it tells the header's length.
    let end = 0x202 + fields.number(0x201, 1)?;
    let known = HEADER + size_of::<setup_header>() as u64;
    let present = fields.bytes(HEADER, end.min(known) - HEADER)?;
    let mut header = setup_header::default();
    header.as_mut_slice()[..present.len()].copy_from_slice(present);
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(BootError::Damaged { reason: "it is a zImage, or its load flags are wrong" });
    }
    let sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
    let kernel_offset = (sectors + 1) * 512;
    // The size is counted in units of 16 bytes.
    let expected = kernel_offset + u64::from(header.syssize) * 16;
    let found = image.len() as u64;
    // Signatures may follow, and the last paragraph may be short.
    if found + 15 < expected || found <= kernel_offset {
        return Err(BootError::Truncated { expected, found });
    }
    Ok(BzImageHeader { header, kernel_offset })
}

/// Loads a bzImage and enters it.
pub(super) fn boot_bzimage(loader: &mut Loader<'_>) -> Result<CpuState, BootError> {
    let image: &[u8] = &loader.source.kernel;
    let BzImageHeader { header, kernel_offset } = parse_header(image)?;
    let size = image.len() as u64 - kernel_offset;
    // Before 2.10 the header does not say how much memory the kernel needs; it decompresses to a few times its size.
    let needed = if header.init_size == 0 { size * 4 } else { u64::from(header.init_size).max(size) };
    let address = load_address(loader, &header, needed)?;
    loader.claim(address, needed)?;
    BzImage::load(loader.ram.memory(), Some(GuestAddress(address)), &mut Cursor::new(image), None)
        .map_err(|_| loader.does_not_fit(address, size))?;
    let long = header.version >= VERSION_64_BIT && header.xloadflags & KERNEL_64 != 0;
    let zero_page = zero_page(loader, header, address)?;
    loader.place(ZERO_PAGE, zero_page.as_slice())?;
    let mut state =
        if long { cpu::long_mode(loader, address + ENTRY_64)? } else { cpu::protected_mode(loader, address)? };
    state.gpr[6] = ZERO_PAGE;
    Ok(state)
}

/// The preferred address if it is free, else for a relocatable kernel the lowest one that is aligned.
fn load_address(loader: &Loader<'_>, header: &setup_header, needed: u64) -> Result<u64, BootError> {
    let preferred = if header.version >= 0x20a { header.pref_address } else { HIGH_MEMORY };
    if loader.check(preferred, needed).is_ok() && preferred >= HIGH_MEMORY {
        return Ok(preferred);
    }
    let alignment = u64::from(header.kernel_alignment).max(0x1000);
    let lowest = HIGH_MEMORY.next_multiple_of(alignment);
    if header.relocatable_kernel != 0 && loader.check(lowest, needed).is_ok() {
        return Ok(lowest);
    }
    Err(loader.does_not_fit(preferred.max(HIGH_MEMORY), needed))
}

/// Enters a 64-bit ELF kernel that was loaded already.
pub(super) fn boot_elf(loader: &mut Loader<'_>, entry: u64) -> Result<CpuState, BootError> {
    let header = setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: VERSION_64_BIT,
        loadflags: LOADED_HIGH,
        kernel_alignment: 0x100_0000,
        cmdline_size: 2047,
        initrd_addr_max: 0x7fff_ffff,
        ..setup_header::default()
    };
    let zero_page = zero_page(loader, header, entry)?;
    loader.place(ZERO_PAGE, zero_page.as_slice())?;
    let mut state = cpu::long_mode(loader, entry)?;
    state.gpr[6] = ZERO_PAGE;
    Ok(state)
}

/// Command line, initrd, memory map and ACPI root in a zero page.
fn zero_page(loader: &Loader<'_>, mut header: setup_header, address: u64) -> Result<boot_params, BootError> {
    let limit = match header.cmdline_size {
        0 => DEFAULT_COMMAND_LINE,
        limit => limit,
    };
    let command_line = loader.place_command_line(to_usize(u64::from(limit)))?;
    let last = match header.initrd_addr_max {
        0 => DEFAULT_INITRD_LAST,
        last => last,
    };
    let (initrd, initrd_bytes) = loader.place_initrd(u64::from(last))?;
    header.type_of_loader = LOADER_UNDEFINED;
    header.code32_start = low32(address);
    header.cmd_line_ptr = low32(command_line);
    header.ramdisk_image = low32(initrd);
    header.ramdisk_size = low32(initrd_bytes);
    // Video mode "normal": there is no display to ask.
    header.vid_mode = 0xffff;
    let mut page = boot_params { hdr: header, acpi_rsdp_addr: TABLES_BASE, ..boot_params::default() };
    let map = memory_map(loader.ram);
    let mut table = page.e820_table;
    for (entry, range) in table.iter_mut().zip(&map) {
        *entry = boot_e820_entry { addr: range.start, size: range.size, r#type: range.kind.number() };
    }
    page.e820_table = table;
    page.e820_entries = low8(map.len() as u64);
    Ok(page)
}
