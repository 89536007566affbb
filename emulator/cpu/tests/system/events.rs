//! Delivery of exceptions and interrupts.

use iced_x86::code_asm::*;
use virtft_cpu::RunExit;
use virtft_cpu::bus::CpuSignal;
use virtft_cpu::state::{Activity, SS};

use crate::kit::*;

const RF: u64 = 1 << 16;
const IF: u64 = 1 << 9;
const NT: u64 = 1 << 14;

#[test]
fn a_fault_pushes_an_aligned_frame_with_rf() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| a.ud2().unwrap());
    machine.edit(|cpu| {
        cpu.gpr[4] = STACK - 8;
        cpu.rflags = IF | NT | 0xd7;
    });
    let (vector, frame) = machine.run_to_handler();
    assert_eq!(vector, 6);
    let expected = Frame {
        error: None,
        rip: CODE,
        cs: KERNEL_CODE.into(),
        rflags: RF | IF | NT | 0xd7,
        rsp: STACK - 8,
        ss: KERNEL_DATA.into(),
    };
    assert_eq!(frame, expected);
    assert_eq!(machine.cpu().gpr[4], STACK - 16 - 40, "the frame is pushed below a 16-byte boundary");
    assert_eq!(machine.cpu().rflags, 0xd7, "IF, NT, RF and TF are clear in the handler");
    assert_eq!(machine.core.count(), 2, "the delivery and the HLT");
}

#[test]
fn a_trap_gate_keeps_interrupts_on() {
    let mut machine = Machine::long();
    machine.set_gate(6, gate(handler(6), KERNEL_CODE, 15, 0, 0));
    machine.code64(CODE, |a| a.ud2().unwrap());
    machine.edit(|cpu| cpu.rflags |= IF);
    machine.run();
    assert_eq!(machine.vector(), Some(6));
    assert_ne!(machine.cpu().rflags & IF, 0);
}

#[test]
fn a_fault_of_the_user_changes_to_the_stack_of_the_tss() {
    let mut machine = Machine::long();
    machine.code64(USER_CODE, |a| a.cli().unwrap());
    machine.enter_user();
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.error), (13, Some(0)));
    assert_eq!((frame.cs, frame.ss), (USER_CS.into(), USER_SS.into()));
    assert_eq!((frame.rip, frame.rsp), (USER_CODE, USER_STACK));
    let cpu = machine.cpu();
    assert_eq!(cpu.gpr[4], RSP0 - 48);
    assert_eq!(cpu.sys.cpl, 0);
    assert_eq!(cpu.sys.segs[SS].selector, 0, "SS is null in ring 0");
}

#[test]
fn an_ist_entry_is_used_without_a_change_of_privilege_too() {
    let mut machine = Machine::long();
    machine.set_gate(6, gate(handler(6), KERNEL_CODE, 14, 0, 3));
    machine.code64(CODE, |a| a.ud2().unwrap());
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rsp), (6, STACK));
    assert_eq!(machine.cpu().gpr[4], IST1 + 2 * 0x1_0000 - 40);
    assert_eq!(machine.cpu().sys.segs[SS].selector, KERNEL_DATA);
}

#[test]
fn int_n_checks_the_gate_and_returns_behind_itself() {
    let mut machine = Machine::long();
    machine.code64(USER_CODE, |a| a.int(0x80).unwrap());
    machine.enter_user();
    machine.expect_fault(13, Some(0x80 * 8 + 2), USER_CODE);

    let mut machine = Machine::long();
    machine.set_gate(0x80, gate(handler(0x80), KERNEL_CODE, 14, 3, 0));
    machine.code64(USER_CODE, |a| a.int(0x80).unwrap());
    machine.enter_user();
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rip), (0x80, USER_CODE + 2));
    assert_eq!(frame.rflags & RF, 0);
}

#[test]
fn int3_of_the_user_needs_a_gate_of_dpl_3() {
    let mut machine = Machine::long();
    machine.code64(USER_CODE, |a| a.int3().unwrap());
    machine.enter_user();
    machine.expect_fault(13, Some(3 * 8 + 2), USER_CODE);

    let mut machine = Machine::long();
    machine.set_gate(3, gate(handler(3), KERNEL_CODE, 15, 3, 0));
    machine.code64(USER_CODE, |a| a.int3().unwrap());
    machine.enter_user();
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rip), (3, USER_CODE + 1));
}

#[test]
fn a_gate_that_is_not_present_is_reported_with_idt_and_ext_bits() {
    let mut machine = Machine::long();
    let [low, high] = gate(handler(6), KERNEL_CODE, 14, 0, 0);
    machine.set_gate(6, [low & !(0x80 << 40), high]);
    machine.code64(CODE, |a| a.ud2().unwrap());
    machine.expect_fault(11, Some(6 * 8 + 2 + 1), CODE);
    // The same by INT n is not external.
    let mut machine = Machine::long();
    machine.set_gate(0x33, [low & !(0x80 << 40), high]);
    machine.code64(CODE, |a| a.int(0x33).unwrap());
    machine.expect_fault(11, Some(0x33 * 8 + 2), CODE);
}

#[test]
fn a_vector_beyond_the_table_is_a_general_protection_fault() {
    let mut machine = Machine::long();
    machine.edit(|cpu| cpu.sys.idtr.limit = 32 * 16 - 1);
    machine.code64(CODE, |a| a.int(0x20).unwrap());
    machine.expect_fault(13, Some(0x20 * 8 + 2), CODE);
}

#[test]
fn contributory_faults_make_a_double_fault() {
    let mut machine = Machine::long();
    // #GP whose gate names a selector outside the GDT: #GP, so #DF with error code 0.
    machine.set_gate(13, gate(handler(13), 0x7f8, 14, 0, 0));
    machine.code64(CODE, |a| a.int(0x80).unwrap());
    machine.set_gate(0x80, [0, 0]);
    machine.set_gate(8, gate(handler(8), KERNEL_CODE, 14, 0, 1));
    machine.expect_fault(8, Some(0), CODE);
    assert_eq!(machine.cpu().gpr[4], IST1 - 48);
}

#[test]
fn a_fault_during_a_benign_one_is_delivered_by_itself() {
    let mut machine = Machine::long();
    machine.set_gate(6, gate(handler(6), 0x7f8, 14, 0, 0));
    machine.code64(CODE, |a| a.ud2().unwrap());
    machine.expect_fault(13, Some(0x7f8 + 1), CODE);
}

#[test]
fn a_page_fault_during_a_page_fault_is_a_double_fault_and_sets_cr2() {
    let mut machine = Machine::long();
    machine.map(0x60_0000, 0, 0);
    machine.map(0x61_0000, 0, 0);
    machine.code64(CODE, |a| {
        a.mov(rsp, 0x61_0800u64).unwrap();
        a.mov(rax, qword_ptr(0x60_0000)).unwrap();
    });
    machine.set_gate(8, gate(handler(8), KERNEL_CODE, 14, 0, 1));
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.error), (8, Some(0)));
    // The second fault is the one that CR2 names: the lowest byte of the frame that could not be pushed.
    assert_eq!(machine.cpu().sys.cr2, 0x61_0800 - 48);
}

#[test]
fn a_fault_during_a_double_fault_shuts_down() {
    let mut machine = Machine::long();
    machine.edit(|cpu| cpu.sys.idtr.limit = 0);
    machine.code64(CODE, |a| a.ud2().unwrap());
    assert_eq!(machine.core.run(100), RunExit::TripleFault { cpu: 0 });
    assert_eq!(machine.cpu().sys.activity, Activity::Shutdown);
    assert_eq!(machine.cpu().rip, CODE, "nothing was committed");
    assert_eq!(machine.cpu().gpr[4], STACK);
    assert_eq!(machine.core.run(200), RunExit::TripleFault { cpu: 0 });
}

#[test]
fn an_interrupt_is_delivered_between_instructions_at_its_count() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.inc(rax).unwrap();
        a.jmp(top).unwrap();
    });
    machine.edit(|cpu| cpu.rflags |= IF);
    machine.board().timers.push_back((1001, 0x55));
    let (vector, frame) = machine.run_to_handler();
    assert_eq!(vector, 0x55);
    assert_eq!(machine.cpu().gpr[0], 501);
    assert_eq!(frame.rip, CODE + 3);
    assert_eq!(machine.core.count(), 1003);
}

#[test]
fn hlt_waits_for_an_interrupt_and_goes_on_behind_it() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        a.sti().unwrap();
        a.hlt().unwrap();
        a.mov(ebx, 7).unwrap();
        a.hlt().unwrap();
    });
    machine.code64(handler(0x40), |a| a.iretq().unwrap());
    assert_eq!(machine.core.run(1000), RunExit::Idle);
    assert_eq!(machine.core.count(), 2);
    machine.board().interrupts.push_back(0x40);
    assert_eq!(machine.core.run(1000), RunExit::Idle);
    assert_eq!(machine.cpu().gpr[3], 7);
    assert_eq!(machine.core.count(), 6);
}

#[test]
fn sti_holds_an_interrupt_back_for_one_instruction() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        a.sti().unwrap();
        a.inc(rax).unwrap();
        a.inc(rax).unwrap();
    });
    machine.board().interrupts.push_back(0x40);
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rip), (0x40, CODE + 4));
    assert_eq!(machine.cpu().gpr[0], 1);
}

#[test]
fn sti_does_not_hold_back_when_interrupts_were_on() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        a.sti().unwrap();
        a.inc(rax).unwrap();
    });
    machine.edit(|cpu| cpu.rflags |= IF);
    machine.step(1);
    machine.board().interrupts.push_back(0x40);
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rip), (0x40, CODE + 1));
}

#[test]
fn mov_ss_holds_an_interrupt_back_for_one_instruction() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        a.mov(ss, eax).unwrap();
        a.nop().unwrap();
        a.nop().unwrap();
    });
    machine.edit(|cpu| {
        cpu.gpr[0] = KERNEL_DATA.into();
        cpu.rflags |= IF;
    });
    machine.step(1);
    machine.board().interrupts.push_back(0x40);
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rip), (0x40, CODE + 3));
}

#[test]
fn nmis_wait_for_iret() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        a.nop().unwrap();
        a.hlt().unwrap();
    });
    machine.code64(handler(2), |a| {
        a.inc(rbx).unwrap();
        a.nop().unwrap();
        a.iretq().unwrap();
    });
    machine.board().signals.insert(0, [CpuSignal::Nmi].into());
    // Taking the signal, delivering the exception, INC.
    machine.step(3);
    assert_eq!((machine.cpu().gpr[3], machine.cpu().sys.nmi_blocked), (1, true));
    machine.board().signals.insert(0, [CpuSignal::Nmi].into());
    // Taking the second one, NOP, IRET.
    machine.step(3);
    assert_eq!((machine.cpu().gpr[3], machine.cpu().sys.nmi_blocked), (1, false), "the IRET has just run");
    machine.step(2);
    assert_eq!(machine.cpu().gpr[3], 2, "and the second NMI follows it at once");
}

#[test]
fn real_mode_pushes_three_words() {
    let mut machine = Machine::real();
    machine.code(16, 0x7000, |a| {
        a.int(0x21).unwrap();
    });
    machine.edit(|cpu| cpu.rflags |= IF);
    machine.run();
    assert_eq!(machine.vector(), Some(0x21));
    let top = machine.cpu().gpr[4];
    assert_eq!(top, 0x8000 - 6);
    assert_eq!(machine.get16(top), 0x7002);
    assert_eq!(machine.get16(top + 2), 0);
    assert_eq!(machine.get16(top + 4), 0x202);
    assert_eq!(machine.cpu().rflags & IF, 0);
}

#[test]
fn real_mode_iret_restores() {
    let mut machine = Machine::real();
    machine.code(16, 0x7000, |a| {
        a.int(0x21).unwrap();
        a.mov(bx, 5).unwrap();
        a.hlt().unwrap();
    });
    machine.code(16, handler(0x21), |a| a.iret().unwrap());
    machine.edit(|cpu| cpu.rflags |= 0x8d5);
    machine.run();
    assert_eq!((machine.cpu().gpr[3], machine.cpu().rflags), (5, 0x8d7));
    assert_eq!(machine.cpu().gpr[4], 0x8000);
}

#[test]
fn protected_mode_faults_change_to_ring_0_through_the_32_bit_tss() {
    let mut machine = Machine::protected();
    machine.code(32, USER_CODE, |a| a.cli().unwrap());
    machine.enter_user();
    machine.edit(|cpu| {
        cpu.sys.segs[1].selector = USER_CODE32;
        cpu.sys.segs[1].flags = 0xc0fb;
    });
    machine.run();
    assert_eq!(machine.vector(), Some(13));
    let cpu = machine.cpu();
    let top = cpu.gpr[4];
    assert_eq!(top, RSP0 - 24);
    let words: Vec<u32> = (0..6).map(|index| machine.get32(top + 4 * index)).collect();
    let flags = (2 | RF) as u32;
    assert_eq!(words, [0, USER_CODE as u32, USER_CODE32.into(), flags, USER_STACK as u32, USER_SS.into()]);
    assert_eq!((cpu.sys.cpl, cpu.sys.segs[SS].selector), (0, KERNEL_DATA));
}

#[test]
fn task_gates_are_refused() {
    let mut machine = Machine::protected();
    machine.put(IDT + 8 * 0x30, 0x0000_8500_0030_0000);
    machine.code(32, CODE, |a| a.int(0x30).unwrap());
    machine.run();
    assert_eq!(machine.vector(), Some(13));
    assert_eq!(machine.get32(machine.cpu().gpr[4]), 0x30 * 8 + 2);
}
