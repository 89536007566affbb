//! Register state of the boot processor at the entry of a kernel.

use virtft_cpu::state::{CS, CpuState, SS, Segment, TableRegister};

use super::layout::{GDT, PAGE_TABLES, STACK};
use super::{BootError, Loader};

/// Selectors of the Linux boot protocol.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

/// Descriptor bits 40 to 55 without the limit.
const FLAGS_CODE_32: u16 = 0xc09b;
const FLAGS_CODE_64: u16 = 0xa09b;
const FLAGS_DATA: u16 = 0xc093;
const FLAGS_TASK: u16 = 0x008b;

const CR0_PROTECTED: u64 = 1 << 0 | 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG: u64 = 1 << 8 | 1 << 10;

/// MTRRs on, everything write-back: what firmware leaves, and what Linux wants before it uses PAT.
pub(crate) const MTRR_DEFAULT: u64 = 0xc06;

fn flat(selector: u16, flags: u16) -> Segment {
    Segment { selector, base: 0, limit: u32::MAX, flags }
}

/// An 8-byte descriptor of a flat segment.
fn descriptor(flags: u16) -> u64 {
    // Limit 0xfffff in bits 15:0 and 51:48.
    (u64::from(flags) << 40) | (0xf << 48) | 0xffff
}

/// Flat protected mode without paging: Linux 32-bit, PVH and Multiboot entries.
pub(super) fn protected_mode(loader: &Loader<'_>, entry: u64) -> Result<CpuState, BootError> {
    let mut state = segments(loader, FLAGS_CODE_32)?;
    state.sys.cr0 = CR0_PROTECTED;
    state.rip = entry;
    Ok(state)
}

/// 64-bit mode with the first 4 GiB mapped to themselves.
pub(super) fn long_mode(loader: &Loader<'_>, entry: u64) -> Result<CpuState, BootError> {
    let mut state = segments(loader, FLAGS_CODE_64)?;
    let mut tables = vec![0u64; 6 * 512];
    tables[0] = (PAGE_TABLES + 0x1000) | 3;
    for gib in 0..4u64 {
        let slot = crate::bits::to_usize(gib);
        tables[512 + slot] = (PAGE_TABLES + 0x2000 + gib * 0x1000) | 3;
    }
    for (index, entry) in (0u64..).zip(&mut tables[1024..]) {
        // Present, writable, 2 MiB.
        *entry = (index << 21) | 0x83;
    }
    let bytes: Vec<u8> = tables.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    loader.place(PAGE_TABLES, &bytes)?;
    state.sys.cr0 = CR0_PROTECTED | CR0_PAGING;
    state.sys.cr3 = PAGE_TABLES;
    state.sys.cr4 = CR4_PAE;
    state.sys.efer = EFER_LONG;
    state.rip = entry;
    Ok(state)
}

/// Power-on state with flat segments and a table that holds them.
fn segments(loader: &Loader<'_>, code: u16) -> Result<CpuState, BootError> {
    // A TSS of 104 bytes at address 0.
    let task = (u64::from(FLAGS_TASK) << 40) | 0x67;
    let table = [0, 0, descriptor(code), descriptor(FLAGS_DATA), task, 0];
    let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    loader.place(GDT, &bytes)?;
    let mut state = CpuState::power_on(true);
    state.sys.segs = [flat(DATA, FLAGS_DATA); 6];
    state.sys.segs[CS] = flat(CODE, code);
    state.sys.segs[SS] = flat(DATA, FLAGS_DATA);
    state.sys.tr = Segment { selector: TASK, base: 0, limit: 0x67, flags: FLAGS_TASK };
    state.sys.gdtr = TableRegister { base: GDT, limit: 47 };
    state.sys.idtr = TableRegister { base: 0, limit: 0 };
    state.sys.cpl = 0;
    state.sys.mtrr_def_type = MTRR_DEFAULT;
    state.gpr = [0; 16];
    state.gpr[4] = STACK;
    state.gpr[5] = STACK;
    state.rflags = 2;
    Ok(state)
}
