//! Body of the fuzz target for the instruction decoder and everything that it leads to: bytes are executed as code.

use virtft_cpu::state::{CS, CpuState, Segment, TableRegister};
use virtft_cpu::{Core, memory::GuestRam};
use vm_memory::{Bytes, GuestAddress};

use super::Platform;
use super::fuzz::board;
use crate::bits::to_usize;

/// Where the code lies; page tables, a GDT and an IDT of junk lie in front.
const CODE: u64 = 0x8000;
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
/// Steps of a run, and after how many of them the second core forgets its caches.
const STEPS: u64 = 3000;
const PIECE: u64 = 61;

/// 0 real, 1 protected, 2 long mode; the first byte of the input picks.
fn state(mode: u8) -> CpuState {
    let mut cpu = CpuState::power_on(true);
    let (code, cr0, cr4, efer) = match mode {
        0 => (0x009b, 0x10, 0, 0),
        1 => (0xc09b, 0x31, 0x600, 0),
        // PE, ET, NE, WP, PG; PAE, OSFXSR, OSXMMEXCPT; SCE, LME, LMA, NXE.
        _ => (0xa09b, 0x8001_0031, 0x620, 0xd01),
    };
    let limit = if mode == 0 { 0xffff } else { 0xffff_ffff };
    let (selector, data) = if mode == 0 { (0, 0x0093) } else { (0x10, 0xc093) };
    cpu.sys.segs = [Segment { selector, base: 0, limit, flags: data }; 6];
    cpu.sys.segs[CS] = Segment { selector: if mode == 0 { 0 } else { 8 }, base: 0, limit, flags: code };
    cpu.sys.gdtr = TableRegister { base: GDT, limit: 0x7f };
    cpu.sys.idtr = TableRegister { base: if mode == 0 { 0 } else { IDT }, limit: 0xfff };
    (cpu.sys.cr0, cpu.sys.cr4, cpu.sys.efer, cpu.sys.cr3) = (cr0, cr4, efer, PML4);
    cpu.gpr = [0x1_2340; 16];
    cpu.gpr[1] = 9;
    cpu.gpr[4] = 0x7000;
    cpu.rip = CODE;
    cpu.rflags = 2;
    cpu
}

/// A core on a full board with the bytes in its memory.
fn core(data: &[u8]) -> Core {
    let ram = GuestRam::new(4 << 20).expect("4 MiB can be had");
    let put = |address: u64, bytes: &[u8]| ram.memory().write_slice(bytes, GuestAddress(address)).expect("inside RAM");
    let mode = data.first().map_or(2, |byte| byte % 3);
    let code = data.get(1..).unwrap_or_default();
    let code = &code[..code.len().min(to_usize((4 << 20) - CODE))];
    put(CODE, code);
    for (table, entry) in [(PML4, PDPT | 7), (PDPT, DIRECTORY | 7), (DIRECTORY, 0xe7), (DIRECTORY + 8, 0x20_00e7)] {
        put(table, &entry.to_le_bytes());
    }
    for (index, entry) in
        [0_u64, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_9b00_0000_ffff].into_iter().enumerate()
    {
        put(GDT + 8 * index as u64, &entry.to_le_bytes());
    }
    // Exceptions go on somewhere in the code.
    for vector in 0..256_u64 {
        let target = CODE + vector * 3 % (code.len() as u64).max(1);
        let (selector, size) = if mode == 1 { (0x18, 8) } else { (8, 16) };
        let gate = target & 0xffff | selector << 16 | 0x8e << 40 | (target >> 16) << 48;
        put(IDT + vector * size, &gate.to_le_bytes());
        if mode == 0 {
            put(vector * 4, &crate::bits::low32(target).to_le_bytes());
        }
    }
    let platform: Platform = board(1);
    let mut core = Core::new(ram, 1, Box::new(platform));
    core.set_cpu(0, &state(mode));
    core
}

/// Executes the bytes twice: in one go, and in pieces between which caches are dropped. Both must end alike.
///
/// # Panics
/// When they do not, or the engine is broken.
pub fn junk_code(data: &[u8]) {
    let (mut whole, mut pieces) = (core(data), core(data));
    whole.run(STEPS);
    while pieces.count() < whole.count() {
        let before = pieces.count();
        pieces.run((before + PIECE).min(whole.count()));
        pieces.flush_caches();
        if pieces.count() == before {
            break;
        }
    }
    assert_eq!(whole.count(), pieces.count(), "one of them stopped early");
    assert_eq!(whole.cpu(0), pieces.cpu(0));
    for page in 0..whole.ram().page_count() {
        assert!(whole.ram().page(page) == pieces.ram().page(page), "page {page} differs");
    }
}
