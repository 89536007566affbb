//! Memory map, descriptors and page-table bits of the test computer.

/// RAM size in bytes.
pub const RAM: u64 = 8 << 20;
/// Top page table; three more follow it.
pub const PML4: u64 = 0x1000;
/// Where the kit takes further page tables from.
pub const SPARE_TABLES: u64 = 0x10_0000;
pub const IDT: u64 = 0x8000;
pub const GDT: u64 = 0x9000;
pub const LDT: u64 = 0x9800;
pub const TSS: u64 = 0xa000;
/// Bytes of the TSS in front of its I/O map.
pub const TSS_SIZE: u64 = 0x68;
/// The stubs: one every 16 bytes.
pub const HANDLERS: u64 = 0xd000;
/// Supervisor code.
pub const CODE: u64 = 0x1_0000;
/// User code; the page is a user page, and so are the next 15.
pub const USER_CODE: u64 = 0x2_0000;
/// Data of the supervisor.
pub const DATA: u64 = 0x3_0000;
/// Data of the user.
pub const USER_DATA: u64 = 0x2_8000;
/// Top of the user's stack.
pub const USER_STACK: u64 = 0x2_f000;
/// Top of the supervisor's stack at the start.
pub const STACK: u64 = 0x5_0000;
/// Top of the stack that the TSS names for ring 0.
pub const RSP0: u64 = 0x6_0000;
/// Top of the stack of IST 1; number n lies 64 KiB times n - 1 further.
pub const IST1: u64 = 0x7_0000;

/// Selectors of the GDT.
pub const KERNEL_CODE: u16 = 0x08;
pub const KERNEL_DATA: u16 = 0x10;
pub const USER_CODE32: u16 = 0x18 | 3;
pub const USER_SS: u16 = 0x20 | 3;
pub const USER_CS: u16 = 0x28 | 3;
pub const TASK: u16 = 0x30;
/// 32-bit code for ring 0.
pub const KERNEL_CODE32: u16 = 0x40;
/// 16-bit code and data for ring 0.
pub const KERNEL_CODE16: u16 = 0x48;
pub const KERNEL_DATA16: u16 = 0x50;
/// Entries that tests fill in.
pub const SPARE: u16 = 0x58;

/// Page-table bits.
pub const P: u64 = 1;
pub const W: u64 = 2;
pub const U: u64 = 4;
pub const A: u64 = 1 << 5;
pub const D: u64 = 1 << 6;
pub const PS: u64 = 1 << 7;
pub const G: u64 = 1 << 8;
pub const NX: u64 = 1 << 63;

/// Where the stub of a vector lies.
pub const fn handler(vector: u8) -> u64 {
    HANDLERS + vector as u64 * 16
}

/// A 64-bit gate: type 14 interrupt, 15 trap.
pub const fn gate(target: u64, selector: u16, kind: u64, dpl: u64, ist: u64) -> [u64; 2] {
    let low = target & 0xffff
        | (selector as u64) << 16
        | ist << 32
        | (0x80 | dpl << 5 | kind) << 40
        | (target >> 16 & 0xffff) << 48;
    [low, target >> 32]
}

/// A code or data descriptor with base and limit; `access` is bits 40 to 47, `size` bits 52 to 55.
pub const fn descriptor(base: u64, limit: u64, access: u64, size: u64) -> u64 {
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | size << 52
        | (base >> 24) << 56
}

/// The GDT that every mode starts with; the TSS takes two entries.
pub const fn gdt(tss_kind: u64) -> [u64; 16] {
    let tss = descriptor(TSS, 0x20ff, 0x80 | tss_kind, 0);
    [
        0,
        descriptor(0, 0xf_ffff, 0x9b, 0xa),
        descriptor(0, 0xf_ffff, 0x93, 0xc),
        descriptor(0, 0xf_ffff, 0xfb, 0xc),
        descriptor(0, 0xf_ffff, 0xf3, 0xc),
        descriptor(0, 0xf_ffff, 0xfb, 0xa),
        tss,
        0,
        descriptor(0, 0xf_ffff, 0x9b, 0xc),
        descriptor(0, 0xffff, 0x9b, 0),
        descriptor(0, 0xffff, 0x93, 0),
        0,
        0,
        0,
        0,
        0,
    ]
}
