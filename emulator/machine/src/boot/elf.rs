//! ELF kernels: segments, and the PVH note.

use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use virtft_cpu::state::CpuState;
use vm_memory::ByteValued;

use super::layout::{START_INFO, memory_map};
use super::{BootError, Fields, Loader, cpu, linux};
use crate::acpi::TABLES_BASE;

const MAGIC: &[u8] = b"\x7fELF";
const MACHINE_386: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;
/// XEN_ELFNOTE_PHYS32_ENTRY.
const NOTE_PHYS32_ENTRY: u32 = 18;
const START_MAGIC: u32 = 0x336e_c578;
/// More program headers than any kernel has.
const SEGMENT_LIMIT: u16 = 128;

/// A part of the image that goes to memory.
pub(super) struct ElfSegment {
    pub address: u64,
    pub offset: u64,
    pub file_bytes: u64,
    pub memory_bytes: u64,
}

/// What matters of an ELF image.
pub(super) struct ElfImage {
    pub class_64: bool,
    pub entry: u64,
    pub segments: Vec<ElfSegment>,
    /// Physical address of the PVH entry.
    pub pvh_entry: Option<u64>,
}

/// Reads the headers of a 32-bit or 64-bit image.
pub(super) fn parse(image: &[u8]) -> Result<ElfImage, BootError> {
    let fields = Fields(image);
    if !image.starts_with(MAGIC) {
        return Err(BootError::NotAKernel);
    }
    let class_64 = fields.number(4, 1)? == 2;
    let machine = fields.u16(18)?;
    if fields.number(5, 1)? != 1 || machine != if class_64 { MACHINE_X86_64 } else { MACHINE_386 } {
        return Err(BootError::Architecture { machine });
    }
    let word = if class_64 { 8 } else { 4 };
    let entry = fields.number(24, word)?;
    let table = fields.number(24 + word, word)?;
    let (entry_size, count) =
        if class_64 { (fields.u16(54)?, fields.u16(56)?) } else { (fields.u16(42)?, fields.u16(44)?) };
    if count == 0 || count > SEGMENT_LIMIT || entry_size < if class_64 { 56 } else { 32 } {
        return Err(BootError::Damaged { reason: "its program header table is impossible" });
    }
    let mut result = ElfImage { class_64, entry, segments: Vec::new(), pvh_entry: None };
    for index in 0..count {
        let overflow = BootError::Damaged { reason: "an offset overflows" };
        let at = table.checked_add(u64::from(index) * u64::from(entry_size)).ok_or(overflow)?;
        let kind = fields.u32(at)?;
        // Offset, physical address, size in the file and in memory lie in other places in the two classes.
        let [offset, address, file_bytes, memory_bytes] = if class_64 { [8, 24, 32, 40] } else { [4, 12, 16, 20] };
        let field = |place: u64| fields.number(at + place, word);
        let segment = ElfSegment {
            address: field(address)?,
            offset: field(offset)?,
            file_bytes: field(file_bytes)?,
            memory_bytes: field(memory_bytes)?,
        };
        match kind {
            SEGMENT_LOAD if segment.memory_bytes != 0 => {
                fields.bytes(segment.offset, segment.file_bytes)?;
                if segment.file_bytes > segment.memory_bytes {
                    return Err(BootError::Damaged { reason: "a segment is larger in the file than in memory" });
                }
                result.segments.push(segment);
            }
            SEGMENT_NOTE => {
                let notes = Fields(fields.bytes(segment.offset, segment.file_bytes)?);
                result.pvh_entry = result.pvh_entry.or(find_pvh_entry(notes));
            }
            _ => {}
        }
    }
    if result.segments.is_empty() {
        return Err(BootError::Damaged { reason: "it has nothing to load" });
    }
    Ok(result)
}

/// Walks a note segment. Notes that do not add up end the walk.
fn find_pvh_entry(notes: Fields<'_>) -> Option<u64> {
    let mut at = 0;
    loop {
        let name_size = u64::from(notes.u32(at).ok()?);
        let data_size = u64::from(notes.u32(at + 4).ok()?);
        let kind = notes.u32(at + 8).ok()?;
        let name = at + 12;
        let data = name + name_size.next_multiple_of(4);
        if kind == NOTE_PHYS32_ENTRY && notes.bytes(name, name_size).ok()? == b"Xen\0" {
            return notes.number(data, data_size.min(8)).ok();
        }
        at = data + data_size.next_multiple_of(4);
    }
}

/// Copies the segments to their physical addresses.
pub(super) fn place_segments(loader: &mut Loader<'_>, image: &ElfImage) -> Result<(), BootError> {
    let kernel = std::sync::Arc::clone(&loader.source.kernel);
    for segment in &image.segments {
        loader.claim(segment.address, segment.memory_bytes)?;
        let bytes = Fields(&kernel).bytes(segment.offset, segment.file_bytes)?;
        loader.place(segment.address, bytes)?;
        let rest = segment.memory_bytes - segment.file_bytes;
        zero(loader, segment.address + segment.file_bytes, rest)?;
    }
    Ok(())
}

/// Clears memory that is not zero already; a fresh machine's pages stay untouched.
fn zero(loader: &Loader<'_>, mut address: u64, mut size: u64) -> Result<(), BootError> {
    while size > 0 {
        let chunk = (0x1000 - (address & 0xfff)).min(size);
        let page = loader.ram.page_index(address).ok_or_else(|| loader.does_not_fit(address, size))?;
        if loader.ram.flags(page) & virtft_cpu::memory::PAGE_DIRTY != 0 || loader.ram.page(page) != [0; 4096] {
            loader.place(address, &[0; 4096][..crate::bits::to_usize(chunk)])?;
        }
        address += chunk;
        size -= chunk;
    }
    Ok(())
}

/// Loads an ELF kernel and enters it: by PVH if it has the note, else as a 64-bit Linux.
pub(super) fn boot(loader: &mut Loader<'_>, image: &ElfImage) -> Result<CpuState, BootError> {
    if image.pvh_entry.is_none() && !image.class_64 {
        return Err(BootError::NotAKernel);
    }
    place_segments(loader, image)?;
    match image.pvh_entry {
        Some(entry) => boot_pvh(loader, entry),
        None => linux::boot_elf(loader, image.entry),
    }
}

fn boot_pvh(loader: &Loader<'_>, entry: u64) -> Result<CpuState, BootError> {
    let command_line = loader.place_command_line(usize::MAX)?;
    let (initrd, initrd_bytes) = loader.place_initrd(0x7fff_ffff)?;
    let map: Vec<u8> = memory_map(loader.ram)
        .into_iter()
        .flat_map(|range| {
            let entry =
                hvm_memmap_table_entry { addr: range.start, size: range.size, type_: range.kind.number(), reserved: 0 };
            entry.as_slice().to_vec()
        })
        .collect();
    let info_bytes = size_of::<hvm_start_info>() as u64;
    let module = START_INFO + info_bytes;
    let memory_map_at = module + size_of::<hvm_modlist_entry>() as u64;
    let info = hvm_start_info {
        magic: START_MAGIC,
        version: 1,
        flags: 0,
        nr_modules: u32::from(initrd_bytes != 0),
        modlist_paddr: if initrd_bytes != 0 { module } else { 0 },
        cmdline_paddr: command_line,
        rsdp_paddr: TABLES_BASE,
        memmap_paddr: memory_map_at,
        memmap_entries: crate::bits::low32(map.len() as u64 / size_of::<hvm_memmap_table_entry>() as u64),
        reserved: 0,
    };
    let entry_of_initrd = hvm_modlist_entry { paddr: initrd, size: initrd_bytes, cmdline_paddr: 0, reserved: 0 };
    loader.place(START_INFO, info.as_slice())?;
    loader.place(module, entry_of_initrd.as_slice())?;
    loader.place(memory_map_at, &map)?;
    let mut state = cpu::protected_mode(loader, entry)?;
    state.gpr[3] = START_INFO;
    Ok(state)
}
