//! Multiboot 1 (specification 0.6.96): ELF images and images with addresses in their header.

use virtft_cpu::state::CpuState;

use super::elf::{self, ElfImage};
use super::layout::{CONVENTIONAL_END, HIGH_MEMORY, START_INFO, memory_map};
use super::{BootError, Fields, Loader, cpu};
use crate::bits::low32;

const HEADER_MAGIC: u32 = 0x1bad_b002;
const LOADER_MAGIC: u64 = 0x2bad_b002;
/// The header lies in the first 8 KiB.
const SEARCH_BYTES: u64 = 8192;
const FLAG_ADDRESSES: u32 = 1 << 16;
/// Required features that this loader does not know: all but page alignment, memory map and video mode.
const FLAGS_UNKNOWN: u32 = 0xfff8;
const NAME: &[u8] = b"virtft\0";

/// Memory sizes, command line, modules, memory map and loader name are valid.
const INFO_FLAGS: u32 = 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
/// Places behind the information structure of 120 bytes.
const MODULE: u64 = START_INFO + 0x80;
const LOADER_NAME: u64 = START_INFO + 0xc0;
const MEMORY_MAP: u64 = START_INFO + 0x100;

/// A Multiboot header found in an image.
#[derive(Debug, Clone, Copy)]
pub(super) struct MultibootHeader {
    offset: u64,
    flags: u32,
}

/// Looks for a header whose checksum is right.
pub(super) fn find_header(image: &[u8]) -> Option<MultibootHeader> {
    let fields = Fields(image);
    (0..SEARCH_BYTES).step_by(4).find_map(|offset| {
        if fields.u32(offset).ok()? != HEADER_MAGIC {
            return None;
        }
        let flags = fields.u32(offset + 4).ok()?;
        let sum = HEADER_MAGIC.wrapping_add(flags).wrapping_add(fields.u32(offset + 8).ok()?);
        (sum == 0).then_some(MultibootHeader { offset, flags })
    })
}

/// Loads the image and enters it in flat protected mode.
pub(super) fn boot(
    loader: &mut Loader<'_>,
    header: MultibootHeader,
    image: Result<ElfImage, BootError>,
) -> Result<CpuState, BootError> {
    if header.flags & FLAGS_UNKNOWN != 0 {
        return Err(BootError::Damaged { reason: "its Multiboot header demands an unknown feature" });
    }
    let entry = if header.flags & FLAG_ADDRESSES != 0 {
        place_flat(loader, header)?
    } else {
        let image = image?;
        elf::place_segments(loader, &image)?;
        image.entry
    };
    place_info(loader)?;
    let mut state = cpu::protected_mode(loader, entry)?;
    state.gpr[0] = LOADER_MAGIC;
    state.gpr[3] = START_INFO;
    Ok(state)
}

/// The address fields of the header say where the image goes.
fn place_flat(loader: &mut Loader<'_>, header: MultibootHeader) -> Result<u64, BootError> {
    let kernel = std::sync::Arc::clone(&loader.source.kernel);
    let fields = Fields(&kernel);
    let address = |place: u64| fields.number(header.offset + place, 4);
    let (header_address, load, load_end) = (address(12)?, address(16)?, address(20)?);
    let (bss_end, entry) = (address(24)?, address(28)?);
    let damaged = BootError::Damaged { reason: "the addresses in its Multiboot header contradict each other" };
    let start = header_address.checked_sub(load).and_then(|before| header.offset.checked_sub(before));
    let Some(start) = start else { return Err(damaged) };
    let load_end = if load_end == 0 { load + kernel.len() as u64 - start } else { load_end };
    let bss_end = if bss_end == 0 { load_end } else { bss_end };
    if load_end < load || bss_end < load_end {
        return Err(damaged);
    }
    loader.claim(load, bss_end - load)?;
    loader.place(load, fields.bytes(start, load_end - load)?)?;
    let zeroes = vec![0; crate::bits::to_usize(bss_end - load_end)];
    loader.place(load_end, &zeroes)?;
    Ok(entry)
}

fn place_info(loader: &Loader<'_>) -> Result<(), BootError> {
    let command_line = loader.place_command_line(usize::MAX)?;
    let (module, module_bytes) = loader.place_initrd(0xffff_ffff)?;
    let upper = loader.ram.ranges().first().map_or(0, |range| range.1.saturating_sub(HIGH_MEMORY));
    let map: Vec<u8> = memory_map(loader.ram)
        .into_iter()
        .flat_map(|range| {
            let mut entry = 20u32.to_le_bytes().to_vec();
            entry.extend(range.start.to_le_bytes());
            entry.extend(range.size.to_le_bytes());
            entry.extend(range.kind.number().to_le_bytes());
            entry
        })
        .collect();
    let mut info = [0u32; 30];
    info[0] = INFO_FLAGS;
    info[1] = low32(CONVENTIONAL_END >> 10);
    info[2] = low32(upper >> 10);
    info[4] = low32(command_line);
    info[5] = u32::from(module_bytes != 0);
    info[6] = low32(MODULE);
    info[11] = low32(map.len() as u64);
    info[12] = low32(MEMORY_MAP);
    info[16] = low32(LOADER_NAME);
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    loader.place(START_INFO, &words(&info))?;
    let entry = [low32(module), low32(module + module_bytes), low32(command_line), 0];
    loader.place(MODULE, &words(&entry))?;
    loader.place(LOADER_NAME, NAME)?;
    loader.place(MEMORY_MAP, &map)
}
