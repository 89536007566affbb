//! Single step and breakpoints.

use iced_x86::code_asm::*;

use crate::kit::*;

const TF: u64 = 1 << 8;
const RF: u64 = 1 << 16;
const STEP: u64 = 1 << 14;
const DR6_CLEAR: u64 = 0xffff_0ff0;

#[test]
fn a_step_traps_after_each_instruction() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        a.inc(rax).unwrap();
        a.inc(rax).unwrap();
    });
    machine.edit(|cpu| cpu.rflags |= TF);
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rip, machine.cpu().gpr[0]), (1, CODE + 3, 1));
    assert_eq!(frame.rflags & (TF | RF), TF);
    assert_eq!(machine.cpu().rflags & TF, 0);
    assert_eq!(machine.cpu().sys.dr6, DR6_CLEAR | STEP);
}

#[test]
fn popf_and_iret_start_steps_after_the_next_instruction() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        a.push(0x102).unwrap();
        a.popfq().unwrap();
        a.inc(rax).unwrap();
        a.inc(rax).unwrap();
    });
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, machine.cpu().gpr[0]), (1, 1));
    assert_eq!(frame.rip, CODE + 5 + 1 + 3);
}

#[test]
fn a_fault_is_delivered_instead_of_the_step() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| a.ud2().unwrap());
    machine.edit(|cpu| cpu.rflags |= TF);
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rip), (6, CODE));
    assert_eq!(frame.rflags & TF, TF);
    assert_eq!(machine.cpu().sys.dr6, DR6_CLEAR);
}

#[test]
fn int_n_does_not_report_its_step() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| a.int(0x40).unwrap());
    machine.edit(|cpu| cpu.rflags |= TF);
    assert_eq!(machine.run_to_handler().0, 0x40);
}

#[test]
fn mov_ss_moves_the_step_behind_the_next_instruction() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        a.mov(ss, eax).unwrap();
        a.inc(rbx).unwrap();
        a.inc(rbx).unwrap();
    });
    machine.edit(|cpu| {
        cpu.gpr[0] = KERNEL_DATA.into();
        cpu.rflags |= TF;
    });
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rip, machine.cpu().gpr[3]), (1, CODE + 5, 1));
}

#[test]
fn a_masked_syscall_reports_no_step_and_sysret_reports_one() {
    let mut machine = Machine::long();
    machine.code64(USER_CODE, |a| {
        a.syscall().unwrap();
        a.inc(rax).unwrap();
    });
    machine.code64(CODE, |a| {
        a.inc(rbx).unwrap();
        a.sysretq().unwrap();
    });
    machine.enter_user();
    machine.edit(|cpu| {
        cpu.sys.lstar = CODE;
        cpu.sys.fmask = TF;
        cpu.rflags |= TF;
    });
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rip), (1, USER_CODE + 2));
    assert_eq!((machine.cpu().gpr[0], machine.cpu().gpr[3]), (0, 1));
}

#[test]
fn each_iteration_of_a_repeated_instruction_is_a_step() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        a.rep().stosb().unwrap();
        a.nop().unwrap();
    });
    machine.edit(|cpu| {
        cpu.rflags |= TF;
        cpu.gpr[1] = 3;
        cpu.gpr[7] = DATA;
    });
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rip, machine.cpu().gpr[1]), (1, CODE, 2));
    assert_eq!(frame.rflags & RF, RF, "RF is pushed between iterations");
}

#[test]
fn a_code_breakpoint_comes_before_the_instruction_and_rf_passes_it() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        a.inc(rax).unwrap();
        a.inc(rax).unwrap();
        a.hlt().unwrap();
    });
    machine.code64(handler(1), |a| {
        a.inc(rbx).unwrap();
        a.bts(qword_ptr(rsp + 16), 16).unwrap();
        a.iretq().unwrap();
    });
    machine.edit(|cpu| {
        cpu.sys.debug_address[0] = CODE + 3;
        cpu.sys.dr7 = 0x401;
    });
    machine.run();
    let cpu = machine.cpu();
    assert_eq!((cpu.gpr[0], cpu.gpr[3], cpu.rip), (2, 1, CODE + 7));
    assert_eq!(cpu.sys.dr6, DR6_CLEAR | 1);
}

#[test]
fn a_data_breakpoint_traps_after_the_access() {
    let mut machine = Machine::long();
    let length = machine.code64(CODE, |a| {
        a.mov(rax, qword_ptr(DATA)).unwrap();
        a.mov(byte_ptr(DATA + 3), 1).unwrap();
    });
    machine.put_bytes(CODE + length, &[0x90]);
    machine.edit(|cpu| {
        cpu.sys.debug_address[2] = DATA;
        // DR2: writes, 4 bytes, global.
        cpu.sys.dr7 = 0x400 | 1 << 5 | 0b1101 << 24;
    });
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rip), (1, CODE + length));
    assert_eq!(machine.cpu().sys.dr6, DR6_CLEAR | 4);
    assert_eq!(machine.get(DATA), 0x0100_0000);
}

#[test]
fn a_port_breakpoint_needs_cr4_de() {
    for (de, expected) in [(0, None), (1 << 3, Some(1))] {
        let mut machine = Machine::long();
        machine.code64(CODE, |a| {
            a.out(0x42, al).unwrap();
            a.hlt().unwrap();
        });
        machine.edit(|cpu| {
            cpu.sys.cr4 |= de;
            cpu.sys.debug_address[0] = 0x42;
            cpu.sys.dr7 = 0x402 | 0b10 << 16;
        });
        machine.run();
        assert_eq!(machine.vector(), expected);
    }
}

#[test]
fn general_detect_faults_and_is_cleared() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| a.mov(rax, dr0).unwrap());
    machine.edit(|cpu| cpu.sys.dr7 |= 1 << 13);
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rip), (1, CODE));
    assert_eq!(machine.cpu().sys.dr6, DR6_CLEAR | 1 << 13);
    assert_eq!(machine.cpu().sys.dr7, 0x400);
}

#[test]
fn debug_registers_keep_their_fixed_bits() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        a.xor(eax, eax).unwrap();
        a.mov(dr6, rax).unwrap();
        a.mov(dr7, rax).unwrap();
        a.mov(rbx, dr6).unwrap();
        a.mov(rcx, dr7).unwrap();
        a.hlt().unwrap();
    });
    machine.run();
    assert_eq!((machine.cpu().gpr[3], machine.cpu().gpr[1]), (DR6_CLEAR, 0x400));
    let mut machine = Machine::long();
    let length = machine.code64(CODE, |a| a.mov(rax, 1u64 << 32).unwrap());
    machine.code64(CODE + length, |a| a.mov(dr7, rax).unwrap());
    machine.expect_fault(13, Some(0), CODE + length);
}
