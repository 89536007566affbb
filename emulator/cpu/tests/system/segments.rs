//! Loads of segment registers and what depends on segments: limits, types, privilege.

use iced_x86::code_asm::*;
use virtft_cpu::state::{DS, ES, FS, SS};

use crate::kit::*;

const NULL_DESCRIPTOR: u64 = 0;

/// MOV DS, AX at CPL 0 with `entry` as the descriptor; gives the vector and error code, if any.
fn load(entry: u64, selector: u16, into: usize) -> Option<(u8, u64)> {
    let mut machine = Machine::long();
    machine.set_descriptor(SPARE, entry);
    machine.code64(CODE, |a| {
        match into {
            DS => a.mov(ds, eax).unwrap(),
            ES => a.mov(es, eax).unwrap(),
            FS => a.mov(fs, eax).unwrap(),
            _ => a.mov(ss, eax).unwrap(),
        }
        a.hlt().unwrap();
    });
    machine.edit(|cpu| cpu.gpr[0] = selector.into());
    machine.run();
    let vector = machine.vector()?;
    Some((vector, machine.frame(vector).error.unwrap_or(u64::MAX)))
}

#[test]
fn loads_are_checked() {
    let data = |access| descriptor(0x1000, 0xfff, access, 4);
    let named = u64::from(SPARE);
    assert_eq!(load(data(0x93), SPARE, DS), None);
    assert_eq!(load(data(0x13), SPARE, DS), Some((11, named)), "not present");
    assert_eq!(load(data(0x13), SPARE, SS), Some((12, named)), "a stack that is not present is #SS");
    assert_eq!(load(data(0x99), SPARE, DS), Some((13, named)), "code that cannot be read");
    assert_eq!(load(data(0x9b), SPARE, DS), None, "code that can");
    assert_eq!(load(data(0x9b), SPARE, SS), Some((13, named)), "never as a stack");
    assert_eq!(load(data(0x91), SPARE, SS), Some((13, named)), "a stack must be writable");
    assert_eq!(load(data(0x89), SPARE, DS), Some((13, named)), "a system segment");
    assert_eq!(load(data(0x93), SPARE | 3, DS), Some((13, named)), "RPL 3 with DPL 0");
    assert_eq!(load(data(0x9f), SPARE | 3, DS), None, "conforming code does not mind");
    assert_eq!(load(data(0xf3), SPARE | 3, SS), Some((13, named)), "SS wants RPL, DPL and CPL equal");
    assert_eq!(load(NULL_DESCRIPTOR, 0, DS), None);
    assert_eq!(load(NULL_DESCRIPTOR, 0, SS), None, "in 64-bit mode ring 0 may have a null stack segment");
    assert_eq!(load(NULL_DESCRIPTOR, 3, SS), Some((13, 0)));
    assert_eq!(load(NULL_DESCRIPTOR, 0x400, DS), Some((13, 0x400)), "beyond the table");
    assert_eq!(load(NULL_DESCRIPTOR, 0x0c, DS), Some((13, 0x0c)), "no local table");
}

#[test]
fn a_load_sets_the_accessed_bit_and_the_base() {
    let mut machine = Machine::long();
    machine.set_descriptor(SPARE, descriptor(DATA, 0xfff, 0xf2, 4));
    machine.put(DATA + 0x10, 77);
    machine.code64(CODE, |a| {
        a.mov(fs, eax).unwrap();
        a.mov(rbx, qword_ptr(0x10).fs()).unwrap();
        a.mov(ecx, fs).unwrap();
        a.hlt().unwrap();
    });
    machine.edit(|cpu| cpu.gpr[0] = u64::from(SPARE) | 3);
    machine.run();
    assert_eq!((machine.cpu().gpr[3], machine.cpu().gpr[1]), (77, u64::from(SPARE) | 3));
    assert_eq!(machine.get(GDT + u64::from(SPARE)) >> 40 & 0xff, 0xf3);
}

#[test]
fn mov_to_cs_is_undefined() {
    let mut machine = Machine::long();
    machine.put_bytes(CODE, &[0x8e, 0xc8]);
    machine.expect_fault(6, None, CODE);
}

/// Runs 32-bit code with DS replaced by the descriptor, and gives the vector of its exception.
fn with_ds(entry: u64, write: impl FnOnce(&mut CodeAssembler)) -> (Option<u8>, Machine) {
    let mut machine = Machine::protected();
    machine.set_descriptor(SPARE, entry);
    let length = machine.code(32, CODE, |a| a.mov(ds, eax).unwrap());
    machine.code(32, CODE + length, |a| {
        write(a);
        a.hlt().unwrap();
    });
    machine.edit(|cpu| cpu.gpr[0] = SPARE.into());
    machine.run();
    (machine.vector(), machine)
}

#[test]
fn limits_count_in_32_bit_code() {
    let entry = descriptor(DATA, 0xfff, 0x93, 4);
    let (vector, machine) = with_ds(entry, |a| a.mov(dword_ptr(0xffc), 5).unwrap());
    assert_eq!((vector, machine.get32(DATA + 0xffc)), (None, 5));
    let (vector, machine) = with_ds(entry, |a| a.mov(dword_ptr(0xffd), 5).unwrap());
    assert_eq!((vector, machine.get32(DATA + 0xffd)), (Some(13), 0));
    assert_eq!(machine.get32(machine.cpu().gpr[4]), 0, "the error code is zero");
}

#[test]
fn expand_down_segments_are_valid_above_their_limit() {
    let entry = descriptor(DATA, 0xfff, 0x97, 0);
    assert_eq!(with_ds(entry, |a| a.mov(eax, dword_ptr(0x1000)).unwrap()).0, None);
    assert_eq!(with_ds(entry, |a| a.mov(eax, dword_ptr(0xfff)).unwrap()).0, Some(13));
    assert_eq!(with_ds(entry, |a| a.mov(eax, dword_ptr(0xfffc)).unwrap()).0, None);
    assert_eq!(with_ds(entry, |a| a.mov(eax, dword_ptr(0xfffd)).unwrap()).0, Some(13), "the top is 64 KiB without B");
}

#[test]
fn segment_types_count_in_32_bit_code() {
    let read_only = descriptor(DATA, 0xfff, 0x91, 4);
    assert_eq!(with_ds(read_only, |a| a.mov(eax, dword_ptr(0)).unwrap()).0, None);
    assert_eq!(with_ds(read_only, |a| a.mov(dword_ptr(0), eax).unwrap()).0, Some(13));
    let code = descriptor(DATA, 0xfff, 0x9b, 4);
    assert_eq!(with_ds(code, |a| a.mov(dword_ptr(0), eax).unwrap()).0, Some(13));
    let (vector, _) = with_ds(read_only, |a| {
        a.xor(eax, eax).unwrap();
        a.mov(ds, eax).unwrap();
        a.mov(eax, dword_ptr(0)).unwrap();
    });
    assert_eq!(vector, Some(13), "a null segment cannot be used");
}

#[test]
fn the_stack_faults_with_ss() {
    let mut machine = Machine::protected();
    machine.set_descriptor(SPARE, descriptor(DATA, 0xff, 0x93, 4));
    machine.code(32, CODE, |a| {
        a.mov(ss, eax).unwrap();
        a.mov(esp, 0x100).unwrap();
        a.push(eax).unwrap();
        a.mov(esp, 0x102).unwrap();
        a.push(eax).unwrap();
    });
    // The handler runs on a task stack of its own ring, so go through a fault in ring 0 with a good limit: the push of
    // the frame fits.
    machine.edit(|cpu| cpu.gpr[0] = SPARE.into());
    machine.step(3);
    assert_eq!(machine.get32(DATA + 0xfc), u32::from(SPARE));
    // #SS for the push; its frame does not fit either: a fault while a contributory one is delivered, then a third.
    let until = machine.core.count() + 10;
    assert_eq!(machine.core.run(until), virtft_cpu::RunExit::TripleFault { cpu: 0 });
}

#[test]
fn a_16_bit_stack_wraps_in_64_kib() {
    let mut machine = Machine::protected();
    machine.set_descriptor(SPARE, descriptor(DATA, 0xffff, 0x93, 0));
    machine.code(32, CODE, |a| {
        a.mov(ss, eax).unwrap();
        a.mov(esp, 0x1234_0000u32).unwrap();
        a.push(0x55).unwrap();
        a.pushfd().unwrap();
        a.hlt().unwrap();
    });
    machine.edit(|cpu| cpu.gpr[0] = SPARE.into());
    machine.run();
    assert_eq!(machine.cpu().gpr[4], 0x1234_fff8);
    assert_eq!((machine.get32(DATA + 0xfffc), machine.get32(DATA + 0xfff8)), (0x55, 2));
}

#[test]
fn far_pointers_load_segment_and_register() {
    let mut machine = Machine::long();
    machine.put(DATA, 0x1122_3344_5566_7788);
    machine.put(DATA + 8, USER_SS.into());
    machine.code64(CODE, |a| {
        a.db(&[0x48, 0x0f, 0xb4, 0x04, 0x25]).unwrap(); // lfs rax, [DATA]
        a.dd(&[DATA as u32]).unwrap();
        a.hlt().unwrap();
    });
    machine.run();
    assert_eq!(machine.cpu().gpr[0], 0x1122_3344_5566_7788);
    assert_eq!(machine.cpu().sys.segs[FS].selector, USER_SS);
}

#[test]
fn selectors_are_inspected_without_faults() {
    let mut machine = Machine::long();
    machine.set_descriptor(SPARE, descriptor(0, 0x12, 0x93, 0x8));
    machine.code64(CODE, |a| {
        a.mov(eax, u32::from(SPARE)).unwrap();
        a.lsl(ebx, eax).unwrap();
        a.lar(ecx, eax).unwrap();
        a.verr(eax).unwrap();
        a.setz(dl).unwrap();
        a.mov(eax, u32::from(KERNEL_CODE)).unwrap();
        a.verw(eax).unwrap();
        a.setz(dh).unwrap();
        a.mov(eax, 0x7f8).unwrap();
        a.mov(esi, 0x55).unwrap();
        a.lsl(esi, eax).unwrap();
        a.hlt().unwrap();
    });
    machine.run();
    let cpu = machine.cpu();
    assert_eq!(cpu.gpr[3], 0x1_2fff);
    assert_eq!(cpu.gpr[1], 0x0080_9300);
    assert_eq!(cpu.gpr[2] & 0xffff, 0x0001);
    assert_eq!((cpu.gpr[6], cpu.rflags & 0x40), (0x55, 0), "out of the table: nothing is written, ZF is clear");
}

#[test]
fn ltr_marks_the_task_busy_and_lldt_loads_a_wide_base() {
    let mut machine = Machine::long();
    machine.set_descriptor(SPARE, descriptor(0x1234_5000, 0xf, 0x82, 0));
    machine.set_descriptor(SPARE + 8, 0xffff_8000);
    machine.code64(CODE, |a| {
        a.mov(eax, u32::from(TASK)).unwrap();
        a.ltr(ax).unwrap();
        a.mov(eax, u32::from(SPARE)).unwrap();
        a.lldt(ax).unwrap();
        a.sldt(ebx).unwrap();
        a.str(ecx).unwrap();
        a.hlt().unwrap();
    });
    machine.run();
    let cpu = machine.cpu();
    assert_eq!(machine.get(GDT + u64::from(TASK)) >> 40 & 0xf, 11);
    assert_eq!(cpu.sys.ldtr.base, 0xffff_8000_1234_5000);
    assert_eq!((cpu.gpr[3], cpu.gpr[1]), (SPARE.into(), TASK.into()));
    // A busy task cannot be loaded again.
    machine.code64(CODE, |a| {
        a.mov(eax, u32::from(TASK)).unwrap();
        a.ltr(ax).unwrap();
    });
    machine.edit(|cpu| {
        cpu.rip = CODE;
        cpu.gpr[4] = STACK;
        cpu.sys.activity = Default::default();
    });
    machine.expect_fault(13, Some(TASK.into()), CODE + 5);
}

#[test]
fn the_local_table_serves_selectors_with_ti() {
    let mut machine = Machine::long();
    machine.put(LDT + 8, descriptor(0x5000, 0xfff, 0xf3, 4));
    machine.edit(|cpu| {
        cpu.sys.ldtr.base = LDT;
        cpu.sys.ldtr.limit = 0xf;
        cpu.sys.ldtr.flags = 0x82;
        cpu.gpr[0] = 0xf;
    });
    machine.code64(CODE, |a| {
        a.mov(fs, eax).unwrap();
        a.hlt().unwrap();
    });
    machine.run();
    assert_eq!(machine.cpu().sys.segs[FS].base, 0x5000);
    assert_eq!(machine.cpu().sys.segs[SS].selector, KERNEL_DATA);
}
