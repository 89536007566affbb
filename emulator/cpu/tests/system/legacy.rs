//! What 64-bit systems leave to old code: 16-bit gates, SYSEXIT to 32-bit code, BOUND, ARPL.

use iced_x86::code_asm::*;
use virtft_cpu::state::{CS, SS};

use crate::kit::*;

const IF: u64 = 1 << 9;
const ZF: u64 = 1 << 6;
/// Types of gates for 16-bit code.
const INTERRUPT16: u64 = 6;
const TRAP16: u64 = 7;

/// Raises INT 0x21 through a gate of some type in 32-bit protected mode. Returns the machine in the handler.
fn through_gate(kind: u64) -> Machine {
    let mut machine = Machine::protected();
    machine.put(IDT + 8 * 0x21, gate(handler(0x21), KERNEL_CODE32, kind, 0, 0)[0]);
    machine.code(32, CODE, |a| a.int(0x21).unwrap());
    machine.edit(|cpu| cpu.rflags |= IF);
    machine.run();
    assert_eq!(machine.vector(), Some(0x21));
    machine
}

#[test]
fn a_16_bit_gate_pushes_words() {
    for (kind, interrupts) in [(INTERRUPT16, 0), (TRAP16, IF)] {
        let machine = through_gate(kind);
        let cpu = machine.cpu();
        assert_eq!(cpu.gpr[4], STACK - 6, "three words");
        assert_eq!(machine.get16(STACK - 6), (CODE + 2) as u16);
        assert_eq!(machine.get16(STACK - 4), KERNEL_CODE32);
        assert_eq!(machine.get16(STACK - 2), 0x202);
        assert_eq!(cpu.rflags & IF, interrupts, "a trap gate leaves interrupts on");
    }
}

#[test]
fn a_16_bit_gate_pushes_the_error_code_as_a_word() {
    let mut machine = Machine::protected();
    machine.put(IDT + 8 * 13, gate(handler(13), KERNEL_CODE32, INTERRUPT16, 0, 0)[0]);
    machine.code(32, CODE, |a| {
        a.mov(eax, 0xfff8).unwrap();
        a.mov(ds, ax).unwrap();
    });
    machine.run();
    assert_eq!(machine.vector(), Some(13));
    assert_eq!(machine.cpu().gpr[4], STACK - 8);
    assert_eq!((machine.get16(STACK - 8), machine.get16(STACK - 6)), (0xfff8, (CODE + 5) as u16));
}

#[test]
fn a_16_bit_iret_takes_words_and_keeps_the_rest() {
    let mut machine = Machine::protected();
    machine.put(IDT + 8 * 0x21, gate(handler(0x21), KERNEL_CODE32, TRAP16, 0, 0)[0]);
    machine.code(32, CODE, |a| {
        a.int(0x21).unwrap();
        a.hlt().unwrap();
    });
    machine.code(32, handler(0x21), |a| {
        a.inc(ebx).unwrap();
        // IRET with 16-bit operands.
        a.db(&[0x66, 0xcf]).unwrap();
    });
    machine.edit(|cpu| {
        cpu.gpr[3] = 0;
        cpu.rflags |= IF | 1 << 21;
    });
    // CODE lies above 64 KiB: the words name the address below it.
    machine.code(32, (CODE + 2) & 0xffff, |a| a.hlt().unwrap());
    machine.run();
    let cpu = machine.cpu();
    assert_eq!((cpu.gpr[3], cpu.gpr[4], cpu.rip), (1, STACK, ((CODE + 2) & 0xffff) + 1));
    assert_eq!(cpu.rflags & (IF | 1 << 21), IF | 1 << 21, "upper flags stay");
}

#[test]
fn a_16_bit_gate_is_refused_in_long_mode() {
    let mut machine = Machine::long();
    machine.set_gate(0x21, gate(handler(0x21), KERNEL_CODE, INTERRUPT16, 0, 0));
    machine.code64(CODE, |a| a.int(0x21).unwrap());
    machine.expect_fault(13, Some(0x21 * 8 + 2), CODE);
}

#[test]
fn sysexit_goes_to_32_bit_code() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        a.mov(rdx, 0xffff_ffff_0000_0000 | (USER_CODE + 0x100)).unwrap();
        a.mov(rcx, USER_STACK - 64).unwrap();
        a.sysexit().unwrap();
    });
    machine.code(32, USER_CODE + 0x100, |a| a.ud2().unwrap());
    machine.edit(|cpu| cpu.sys.sysenter_cs = KERNEL_CODE.into());
    machine.step(3);
    let cpu = machine.cpu();
    assert_eq!((cpu.rip, cpu.gpr[4], cpu.sys.cpl), (USER_CODE + 0x100, USER_STACK - 64, 3));
    assert_eq!(cpu.sys.segs[CS].selector, (KERNEL_CODE + 16) | 3);
    assert_eq!(cpu.sys.segs[SS].selector, (KERNEL_CODE + 24) | 3);
    // L is clear, D is set: compatibility mode.
    assert_eq!(cpu.sys.segs[CS].flags & 0x6000, 0x4000);
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rip), (6, USER_CODE + 0x100));
}

#[test]
fn bound_compares_signed_and_inclusive() {
    for (index, inside) in [(-5i32, true), (-6, false), (0, true), (9, true), (10, false)] {
        let mut machine = Machine::protected();
        machine.put(DATA, u64::from((-5_i32).cast_unsigned()) | 9 << 32);
        machine.code(32, CODE, |a| {
            a.bound(ecx, ptr(DATA as u32)).unwrap();
            a.hlt().unwrap();
        });
        machine.edit(|cpu| cpu.gpr[1] = u64::from(index.cast_unsigned()));
        machine.run();
        assert_eq!(machine.vector(), if inside { None } else { Some(5) }, "{index}");
        if !inside {
            assert_eq!(machine.get32(machine.cpu().gpr[4]), CODE as u32, "a fault: the address of BOUND itself");
        }
    }
}

#[test]
fn bound_with_words_looks_at_words() {
    for (index, inside) in [(0xffff_u32, true), (0x1_0005, true), (0x6, false), (0x8000, false)] {
        let mut machine = Machine::protected();
        machine.put(DATA, 0xdead_0005_fff0);
        machine.code(32, CODE, |a| {
            a.bound(cx, ptr(DATA as u32)).unwrap();
            a.hlt().unwrap();
        });
        machine.edit(|cpu| cpu.gpr[1] = index.into());
        machine.run();
        assert_eq!(machine.vector(), if inside { None } else { Some(5) }, "{index:x}");
    }
}

#[test]
fn arpl_raises_the_requested_privilege_level() {
    for (old, with, result, changed) in
        [(0x10, 3, 0x13, true), (0x13, 1, 0x13, false), (0x11, 1, 0x11, false), (0x10, 2, 0x12, true)]
    {
        let mut machine = Machine::protected();
        machine.put(DATA, 0xffff_0000 | old);
        machine.code(32, CODE, |a| {
            a.arpl(ax, cx).unwrap();
            a.pushfd().unwrap();
            a.arpl(word_ptr(DATA), cx).unwrap();
            a.hlt().unwrap();
        });
        machine.edit(|cpu| {
            cpu.gpr[0] = 0x7777_0000 | old;
            cpu.gpr[1] = with;
        });
        machine.run();
        let cpu = machine.cpu();
        let register_zf = u64::from(machine.get32(cpu.gpr[4])) & ZF;
        let zf = if changed { ZF } else { 0 };
        assert_eq!((cpu.gpr[0], register_zf), (0x7777_0000 | result, zf), "register: {old:x} {with}");
        assert_eq!((machine.get32(DATA), cpu.rflags & ZF), (0xffff_0000 | result as u32, zf), "memory: {old:x} {with}");
    }
}

#[test]
fn arpl_and_bound_do_not_exist_in_64_bit_code_or_real_mode() {
    // In 64-bit code 63 is MOVSXD and 62 undefined; ARPL of real mode is undefined.
    let mut machine = Machine::long();
    machine.put_bytes(CODE, &[0x62, 0x08]);
    machine.run();
    assert_eq!(machine.vector(), Some(6));
    let mut machine = Machine::real();
    machine.put_bytes(0x7000, &[0x63, 0xc8]);
    machine.run();
    assert_eq!(machine.vector(), Some(6));
}
