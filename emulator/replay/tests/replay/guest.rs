//! A guest that looks at time and random numbers, is interrupted by its timer, echoes what is typed, and powers off at a `q`.
//!
//! A Multiboot image: 32-bit flat code at 1 MiB.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use virtft_machine::MachineConfig;
use virtft_machine::boot::BootSource;

const LOAD: u32 = 0x10_0000;
const HEADER_BYTES: u32 = 32;
const APIC: u64 = 0xfee0_0000;
const TABLE: u64 = 0x11_0000;
const ARENA: u64 = 0x20_0000;

/// A machine with 16 MiB that runs the guest.
pub fn config() -> MachineConfig {
    let boot = BootSource { kernel: image().into(), initrd: None, command_line: "replay".into() };
    MachineConfig { memory_bytes: 16 << 20, ..MachineConfig::new(boot) }
}

fn image() -> Vec<u8> {
    let mut assembler = CodeAssembler::new(32).unwrap();
    write(&mut assembler).unwrap();
    let code = assembler.assemble(u64::from(LOAD + HEADER_BYTES)).unwrap();
    let (magic, flags) = (0x1bad_b002u32, 1u32 << 16);
    let checksum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    let header = [magic, flags, checksum, LOAD, LOAD, 0, 0, LOAD + HEADER_BYTES];
    header.iter().flat_map(|word| word.to_le_bytes()).chain(code).collect()
}

fn write(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut start, mut work, mut mix) = (a.create_label(), a.create_label(), a.create_label());
    a.mov(esp, 0x9_0000)?;
    a.call(start)?;
    handler(a)?;
    a.set_label(&mut start)?;
    a.pop(eax)?;
    set_gate(a)?;
    for (offset, value) in [(0xf0, 0x1ff), (0x3e0, 0xb), (0x320, 0x2_0020), (0x380, 50_000)] {
        a.mov(dword_ptr(APIC + offset), value)?;
    }
    a.sti()?;
    a.set_label(&mut work)?;
    a.mov(ecx, 40)?;
    a.set_label(&mut mix)?;
    a.rdtsc()?;
    a.mov(edi, eax)?;
    a.rdrand(eax)?;
    a.add(edi, eax)?;
    a.inc(ebx)?;
    a.imul_3(esi, ebx, 0x10cd)?;
    a.and(esi, 0xf_fffc)?;
    a.xor(dword_ptr(esi + ARENA), edi)?;
    a.dec(ecx)?;
    a.jne(mix)?;
    // The counter of iterations decides whether to wait, so that time and count part.
    a.test(ebx, 0x1ff)?;
    a.jne(work)?;
    a.hlt()?;
    a.jmp(work)
}

/// Prints a letter that depends on the random numbers now and then, echoes what was typed, ends the interrupt.
fn handler(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut quiet, mut stay) = (a.create_label(), a.create_label());
    a.pushad()?;
    a.mov(edx, 0x3fd)?;
    a.in_(al, dx)?;
    a.test(al, 1)?;
    a.je(quiet)?;
    a.mov(edx, 0x3f8)?;
    a.in_(al, dx)?;
    a.out(dx, al)?;
    a.cmp(al, i32::from(b'q'))?;
    a.jne(stay)?;
    a.mov(edx, 0x604)?;
    a.mov(eax, 0x2000 | 5 << 10)?;
    a.out(dx, ax)?;
    a.set_label(&mut stay)?;
    a.rdrand(eax)?;
    a.and(eax, 0xf)?;
    a.add(eax, 0x61)?;
    a.mov(edx, 0x3f8)?;
    a.out(dx, al)?;
    a.set_label(&mut quiet)?;
    a.mov(dword_ptr(APIC + 0xb0), 0)?;
    a.popad()?;
    a.iretd()
}

/// Gate 0x20 for the code at the address in EAX.
fn set_gate(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(ecx, eax)?;
    a.and(eax, 0xffff)?;
    a.or(eax, 0x0010_0000)?;
    a.mov(dword_ptr(TABLE + 0x20 * 8), eax)?;
    a.shr(ecx, 16)?;
    a.shl(ecx, 16)?;
    a.or(ecx, 0x8e00)?;
    a.mov(dword_ptr(TABLE + 0x20 * 8 + 4), ecx)?;
    // The operand of LIDT is put together on the stack.
    a.push(0)?;
    a.push(0x7ff)?;
    a.mov(dword_ptr(esp + 2), 0x11_0000)?;
    a.lidt(ptr(esp))
}
