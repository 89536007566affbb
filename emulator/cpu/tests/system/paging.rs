//! Translation: all modes, rights, accessed and dirty bits, reserved bits, and a TLB that cannot be seen.

use iced_x86::code_asm::*;

use crate::kit::*;

/// A page that tests map as they like; its own frame.
const PAGE: u64 = 0x80_0000;
const FRAME: u64 = 0x20_0000;

/// Page-fault error code bits.
const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const RESERVED: u64 = 8;
const FETCH: u64 = 16;

const SMEP: u64 = 1 << 20;
const SMAP: u64 = 1 << 21;
const WP: u64 = 1 << 16;
const AC: u64 = 1 << 18;

/// What a program does with [`PAGE`].
#[derive(Clone, Copy)]
enum Act {
    Read,
    Write,
    Execute,
}

/// Does it, as user or supervisor; gives the error code of the page fault, if there is one.
fn access(machine: &mut Machine, user: bool, act: Act) -> Option<u64> {
    access_at(machine, PAGE, user, act)
}

/// The same at a page of the caller's choice.
fn access_at(machine: &mut Machine, page: u64, user: bool, act: Act) -> Option<u64> {
    machine.put_bytes(FRAME, &[0x0f, 0x0b]);
    let at = if user { USER_CODE } else { CODE };
    machine.code64(at, |a| {
        a.mov(rbx, page).unwrap();
        match act {
            Act::Read => a.mov(rax, qword_ptr(rbx)).unwrap(),
            Act::Write => a.mov(qword_ptr(rbx), rax).unwrap(),
            Act::Execute => a.jmp(rbx).unwrap(),
        }
        a.ud2().unwrap();
    });
    if user {
        machine.enter_user();
    }
    let (vector, frame) = machine.run_to_handler();
    if vector == 6 {
        return None;
    }
    assert_eq!((vector, machine.cpu().sys.cr2), (14, page));
    let faulting = if matches!(act, Act::Execute) { page } else { at + 10 };
    assert_eq!(frame.rip, faulting);
    frame.error
}

fn mapped(bits: u64) -> Machine {
    let mut machine = Machine::long();
    machine.map(PAGE, FRAME, bits);
    machine
}

#[test]
fn rights_of_the_user() {
    assert_eq!(access(&mut mapped(P | U), true, Act::Read), None);
    assert_eq!(access(&mut mapped(P | U), true, Act::Write), Some(PRESENT | WRITE | USER));
    assert_eq!(access(&mut mapped(P | W | U), true, Act::Write), None);
    assert_eq!(access(&mut mapped(P | W), true, Act::Read), Some(PRESENT | USER));
    assert_eq!(access(&mut mapped(P | U), true, Act::Execute), None);
    assert_eq!(access(&mut mapped(P | U | NX), true, Act::Execute), Some(PRESENT | USER | FETCH));
    assert_eq!(access(&mut mapped(P | U | NX), true, Act::Read), None);
    assert_eq!(access(&mut mapped(0), true, Act::Write), Some(WRITE | USER));
}

#[test]
fn rights_of_the_supervisor() {
    assert_eq!(access(&mut mapped(P), false, Act::Write), Some(PRESENT | WRITE), "CR0.WP is set");
    let mut unprotected = mapped(P);
    unprotected.edit(|cpu| cpu.sys.cr0 &= !WP);
    assert_eq!(access(&mut unprotected, false, Act::Write), None);
    assert_eq!(access(&mut mapped(P | U), false, Act::Read), None);
    assert_eq!(access(&mut mapped(P | U), false, Act::Execute), None);
    assert_eq!(access(&mut mapped(P | NX), false, Act::Execute), Some(PRESENT | FETCH));
}

#[test]
fn smep_and_smap_keep_the_supervisor_out_of_user_pages() {
    let with = |bits: u64, more: u64, ac: bool| {
        let mut machine = mapped(bits);
        machine.edit(|cpu| {
            cpu.sys.cr4 |= more;
            cpu.rflags |= if ac { AC } else { 0 };
        });
        machine
    };
    assert_eq!(access(&mut with(P | U, SMEP, false), false, Act::Execute), Some(PRESENT | FETCH));
    assert_eq!(access(&mut with(P | U, SMEP, false), false, Act::Read), None);
    assert_eq!(access(&mut with(P | U | W, SMAP, false), false, Act::Read), Some(PRESENT));
    assert_eq!(access(&mut with(P | U | W, SMAP, false), false, Act::Write), Some(PRESENT | WRITE));
    assert_eq!(access(&mut with(P | U | W, SMAP, true), false, Act::Write), None, "EFLAGS.AC suspends it");
    assert_eq!(access(&mut with(P | U | W, SMAP, false), false, Act::Execute), None);
}

#[test]
fn stac_and_clac_take_effect_at_once() {
    let mut machine = mapped(P | W | U);
    machine.put(FRAME, 5);
    machine.edit(|cpu| cpu.sys.cr4 |= SMAP);
    machine.code64(CODE, |a| {
        a.mov(rbx, PAGE).unwrap();
        a.stac().unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.clac().unwrap();
        a.mov(rcx, qword_ptr(rbx)).unwrap();
    });
    machine.expect_fault(14, Some(PRESENT), CODE + 10 + 3 + 3 + 3);
    assert_eq!((machine.cpu().gpr[0], machine.cpu().gpr[1]), (5, 0));
}

#[test]
fn rights_of_every_level_count() {
    // A page that shares no entry with the rest.
    let page = 0xffff_8080_4020_0000;
    for level in 0..4 {
        for (bit, act, extra) in [(W, Act::Write, WRITE), (U, Act::Read, 0), (NX, Act::Execute, FETCH)] {
            let mut machine = Machine::long();
            machine.map(page, FRAME, P | W | U);
            assert_eq!(access_at(&mut machine, page, true, act), None);
            let mut machine = Machine::long();
            machine.map(page, FRAME, P | W | U);
            let at = machine.entry(page, level);
            let entry = machine.get(at);
            machine.put(at, entry ^ bit);
            assert_eq!(access_at(&mut machine, page, true, act), Some(PRESENT | USER | extra), "level {level}");
        }
    }
}

#[test]
fn reserved_bits_fault() {
    assert_eq!(access(&mut mapped(P | U | 1 << 51), true, Act::Read), Some(PRESENT | USER | RESERVED));
    assert_eq!(access(&mut mapped(P | U | 1 << 46), true, Act::Read), Some(PRESENT | USER | RESERVED));
    assert_eq!(access(&mut mapped(P | U | 1 << 58), true, Act::Read), None, "bits 62:52 are ignored");
    let mut machine = mapped(P | U | NX);
    machine.edit(|cpu| cpu.sys.efer &= !(1 << 11));
    assert_eq!(access(&mut machine, true, Act::Read), Some(PRESENT | USER | RESERVED), "NX without EFER.NXE");
    // A large page whose frame is not aligned.
    let mut machine = Machine::long();
    let at = machine.entry(PAGE, 1);
    machine.put(at, 0x20_0000 | 1 << 13 | P | W | U | PS);
    assert_eq!(access(&mut machine, true, Act::Read), Some(PRESENT | USER | RESERVED));
}

#[test]
fn accessed_and_dirty_bits_are_set_as_needed() {
    let mut machine = mapped(P | W | U);
    let entry = machine.entry(PAGE, 0);
    let table = machine.entry(PAGE, 1);
    assert_eq!(machine.get(table) & (A | D), 0);
    assert_eq!(access(&mut machine, false, Act::Read), None);
    assert_eq!(machine.get(entry), FRAME | P | W | U | A);
    assert_eq!(machine.get(table) & (A | D), A);
    let mut machine = mapped(P | W | U);
    assert_eq!(access(&mut machine, false, Act::Write), None);
    assert_eq!(machine.get(entry), FRAME | P | W | U | A | D);
    // A fault sets nothing in the entry that forbids.
    let mut machine = mapped(P | U);
    assert!(access(&mut machine, true, Act::Write).is_some());
    assert_eq!(machine.get(entry), FRAME | P | U);
}

#[test]
fn a_write_after_a_read_sets_the_dirty_bit() {
    let mut machine = mapped(P | W);
    let entry = machine.entry(PAGE, 0);
    machine.code64(CODE, |a| {
        a.mov(rbx, PAGE).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.mov(rcx, qword_ptr(entry)).unwrap();
        a.mov(qword_ptr(rbx), rax).unwrap();
        a.mov(rdx, qword_ptr(entry)).unwrap();
        a.hlt().unwrap();
    });
    machine.run();
    assert_eq!((machine.cpu().gpr[1] & (A | D), machine.cpu().gpr[2] & (A | D)), (A, A | D));
}

#[test]
fn large_pages_of_2_mib_and_1_gib() {
    let mut machine = Machine::long();
    let at = machine.entry(PAGE, 1);
    machine.put(at, 0x20_0000 | P | W | PS);
    machine.put(0x20_0000 + 0x12_3458, 42);
    let huge = 0x40_0000_0000;
    let at = machine.entry(huge, 2);
    machine.put(at, P | W | PS);
    machine.put(0x34_5678, 43);
    machine.code64(CODE, |a| {
        a.mov(rbx, PAGE + 0x12_3458).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.mov(rbx, huge + 0x34_5678).unwrap();
        a.mov(rcx, qword_ptr(rbx)).unwrap();
        a.mov(qword_ptr(rbx), rcx).unwrap();
        a.hlt().unwrap();
    });
    machine.run();
    assert_eq!((machine.cpu().gpr[0], machine.cpu().gpr[1]), (42, 43));
    assert_eq!(machine.get(at) & (A | D), A | D);
}

#[test]
fn a_store_into_a_page_table_is_seen_without_invlpg() {
    let mut machine = mapped(P | W);
    let entry = machine.entry(PAGE, 0);
    machine.put(FRAME, 1);
    machine.put(FRAME + 0x1000, 2);
    machine.code64(CODE, |a| {
        a.mov(rbx, PAGE).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.add(qword_ptr(entry), 0x1000).unwrap();
        a.mov(rcx, qword_ptr(rbx)).unwrap();
        a.mov(qword_ptr(rbx), 3).unwrap();
        a.and(qword_ptr(entry), !1i32).unwrap();
        a.mov(rdx, qword_ptr(rbx)).unwrap();
    });
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.error), (14, Some(0)));
    assert_eq!((machine.cpu().gpr[0], machine.cpu().gpr[1]), (1, 2));
    assert_eq!((machine.get(FRAME), machine.get(FRAME + 0x1000)), (1, 3));
}

#[test]
fn a_dirty_bit_that_is_cleared_is_set_again() {
    let mut machine = mapped(P | W);
    let entry = machine.entry(PAGE, 0);
    machine.code64(CODE, |a| {
        a.mov(rbx, PAGE).unwrap();
        a.mov(qword_ptr(rbx), 3).unwrap();
        a.mov(rax, qword_ptr(entry)).unwrap();
        a.and(qword_ptr(entry), !(0x60i32)).unwrap();
        a.mov(rcx, qword_ptr(entry)).unwrap();
        a.mov(qword_ptr(rbx), 3).unwrap();
        a.mov(rdx, qword_ptr(entry)).unwrap();
        a.hlt().unwrap();
    });
    machine.run();
    let bits = |register: usize| machine.cpu().gpr[register] & (A | D);
    assert_eq!((bits(0), bits(1), bits(2)), (A | D, 0, A | D));
}

#[test]
fn a_store_into_an_upper_table_through_an_alias_is_seen() {
    let mut machine = mapped(P | W);
    let upper = machine.entry(PAGE, 1);
    machine.map(0x90_0000, upper & !0xfff, P | W);
    let alias = 0x90_0000 + (upper & 0xfff);
    machine.code64(CODE, |a| {
        a.mov(rbx, PAGE).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
        a.mov(rsi, alias).unwrap();
        a.mov(qword_ptr(rsi), 0).unwrap();
        a.mov(rax, qword_ptr(rbx)).unwrap();
    });
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.error, machine.cpu().sys.cr2), (14, Some(0), PAGE));
}

#[test]
fn code_is_fetched_through_the_present_mapping() {
    let mut machine = mapped(P | W);
    let entry = machine.entry(PAGE, 0);
    machine.code64(FRAME, |a| {
        a.mov(eax, 1).unwrap();
        a.ret().unwrap();
    });
    machine.code64(FRAME + 0x1000, |a| {
        a.mov(eax, 2).unwrap();
        a.ret().unwrap();
    });
    machine.code64(CODE, |a| {
        a.mov(rbx, PAGE).unwrap();
        a.call(rbx).unwrap();
        a.mov(ecx, eax).unwrap();
        a.add(qword_ptr(entry), 0x1000).unwrap();
        a.call(rbx).unwrap();
        a.hlt().unwrap();
    });
    machine.run();
    assert_eq!((machine.cpu().gpr[1], machine.cpu().gpr[0]), (1, 2));
}

#[test]
fn an_access_across_pages_faults_before_it_writes() {
    let mut machine = mapped(P | W);
    machine.map(PAGE + 0x1000, 0, 0);
    machine.code64(CODE, |a| {
        a.mov(rbx, PAGE + 0xffc).unwrap();
        a.mov(qword_ptr(rbx), -1).unwrap();
    });
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.error, machine.cpu().sys.cr2), (14, Some(WRITE), PAGE + 0x1000));
    assert_eq!(machine.get32(FRAME + 0xffc), 0);
}

#[test]
fn addresses_that_are_not_canonical() {
    for (code, vector) in [(true, 13), (false, 12)] {
        let mut machine = Machine::long();
        machine.code64(CODE, |a| {
            a.mov(rbp, 1u64 << 47).unwrap();
            a.mov(rbx, rbp).unwrap();
            if code {
                a.mov(rax, qword_ptr(rbx)).unwrap();
            } else {
                a.mov(rax, qword_ptr(rbp)).unwrap();
            }
        });
        machine.expect_fault(vector, Some(0), CODE + 13);
    }
}

#[test]
fn thirty_two_bit_paging_with_4_mib_pages() {
    let mut machine = Machine::protected();
    let directory = 0x11_0000u64;
    let table = 0x11_1000u64;
    let put = |machine: &mut Machine, at: u64, value: u32| machine.put_bytes(at, &value.to_le_bytes());
    // 4 MiB identity page, then a table whose first page leads to FRAME, read-only for the user.
    put(&mut machine, directory, 0x83);
    put(&mut machine, directory + 4, 0x0040_0083);
    put(&mut machine, directory + 8, table as u32 | 7);
    put(&mut machine, table, FRAME as u32 | 5);
    machine.put(FRAME, 0x77);
    machine.code(32, CODE, |a| {
        a.mov(eax, directory as u32).unwrap();
        a.mov(cr3, eax).unwrap();
        a.mov(eax, 0x10).unwrap();
        a.mov(cr4, eax).unwrap();
        a.mov(eax, 0x8001_0031u32).unwrap();
        a.mov(cr0, eax).unwrap();
        a.mov(ebx, dword_ptr(PAGE as u32)).unwrap();
        a.mov(dword_ptr(PAGE as u32), ebx).unwrap();
    });
    machine.run();
    assert_eq!(machine.vector(), Some(14));
    assert_eq!((machine.cpu().gpr[3], machine.cpu().sys.cr2), (0x77, PAGE));
    assert_eq!(u64::from(machine.get32(machine.cpu().gpr[4])), PRESENT | WRITE);
    assert_eq!(machine.get32(table), FRAME as u32 | 5 | A as u32);
    assert_eq!(machine.get32(directory) & 0x60, 0x60, "the stack lies in the large page");
}

#[test]
fn pae_paging_loads_its_directory_pointers_with_cr3() {
    let mut machine = Machine::protected();
    let (pointers, directory) = (0x11_0000u64, 0x11_1000u64);
    machine.put(pointers, directory | P);
    for index in 0..4 {
        machine.put(directory + 8 * index, index << 21 | P | W | PS);
    }
    machine.put(directory + 8 * 4, 0x20_0000 | P | PS | NX);
    machine.put(FRAME + 8, 0x66);
    machine.code(32, CODE, |a| {
        a.mov(eax, pointers as u32).unwrap();
        a.mov(cr3, eax).unwrap();
        a.mov(eax, 0x20).unwrap();
        a.mov(cr4, eax).unwrap();
        a.mov(ecx, 0xc000_0080u32).unwrap();
        a.mov(eax, 0x800).unwrap();
        a.xor(edx, edx).unwrap();
        a.wrmsr().unwrap();
        a.mov(eax, 0x8001_0031u32).unwrap();
        a.mov(cr0, eax).unwrap();
        a.mov(ebx, dword_ptr(PAGE as u32 + 8)).unwrap();
        // The pointers are registers: a store into them is seen with the next load of CR3.
        a.mov(dword_ptr(pointers as u32), 0).unwrap();
        a.mov(esi, dword_ptr(PAGE as u32 + 8)).unwrap();
        a.mov(eax, PAGE as u32).unwrap();
        a.jmp(eax).unwrap();
    });
    machine.run();
    assert_eq!(machine.vector(), Some(14));
    let cpu = machine.cpu();
    assert_eq!((cpu.gpr[3], cpu.gpr[6], cpu.sys.cr2), (0x66, 0x66, PAGE));
    assert_eq!(u64::from(machine.get32(cpu.gpr[4])), PRESENT | FETCH);
}

#[test]
fn pae_pointers_with_reserved_bits_are_refused() {
    let mut machine = Machine::protected();
    machine.put(0x11_0000, 0x11_1000 | P | W);
    machine.code(32, CODE, |a| {
        a.mov(eax, 0x11_0000).unwrap();
        a.mov(cr3, eax).unwrap();
        a.mov(eax, 0x20).unwrap();
        a.mov(cr4, eax).unwrap();
        a.mov(eax, 0x8001_0031u32).unwrap();
        a.mov(cr0, eax).unwrap();
    });
    machine.run();
    assert_eq!(machine.vector(), Some(13));
    assert_eq!(machine.cpu().sys.cr0 >> 31, 0);
}

#[test]
fn device_memory_is_reached_through_the_bus() {
    let mut machine = mapped(P | W);
    machine.map(PAGE, 0xfee0_0000, P | W);
    machine.board().device.insert(0xfee0_0020, 0x99);
    machine.code64(CODE, |a| {
        a.mov(rbx, PAGE).unwrap();
        a.mov(eax, dword_ptr(rbx + 0x20)).unwrap();
        a.mov(dword_ptr(rbx + 0x80), 0x1234).unwrap();
        a.hlt().unwrap();
    });
    machine.run();
    assert_eq!(machine.cpu().gpr[0], 0x99);
    assert_eq!(machine.board().device[&0xfee0_0080], 0x1234);
}
