//! SYSCALL, SYSENTER, IRET and far transfers.

use iced_x86::code_asm::*;
use virtft_cpu::state::{CS, DS, FS, SS, Segment};

use crate::kit::*;

const IF: u64 = 1 << 9;
const NT: u64 = 1 << 14;
const AC: u64 = 1 << 18;
const RF: u64 = 1 << 16;

#[test]
fn syscall_and_sysret_go_there_and_back() {
    let mut machine = Machine::long();
    machine.code64(USER_CODE, |a| {
        a.syscall().unwrap();
        a.mov(ebx, 9).unwrap();
        a.int3().unwrap();
    });
    machine.code64(CODE, |a| {
        a.mov(r8, rsp).unwrap();
        a.pushfq().unwrap();
        a.pop(r9).unwrap();
        a.sysretq().unwrap();
    });
    machine.set_gate(3, gate(handler(3), KERNEL_CODE, 14, 3, 0));
    machine.enter_user();
    machine.edit(|cpu| {
        cpu.sys.lstar = CODE;
        cpu.sys.fmask = IF | 0x400;
        cpu.rflags = IF | AC | 0x402 | 0x41;
    });
    let (vector, frame) = machine.run_to_handler();
    let cpu = machine.cpu();
    assert_eq!((vector, cpu.gpr[3]), (3, 9));
    assert_eq!(cpu.gpr[1], USER_CODE + 2, "RCX is the return address");
    assert_eq!(cpu.gpr[11], IF | AC | 0x402 | 0x41, "R11 is the flags");
    assert_eq!(cpu.gpr[8], USER_STACK, "RSP is not touched");
    assert_eq!(cpu.gpr[9], AC | 2 | 0x41, "the mask has cleared IF and DF");
    assert_eq!((frame.cs, frame.ss), (USER_CS.into(), USER_SS.into()));
    assert_eq!(frame.rflags, IF | AC | 0x402 | 0x41);
}

#[test]
fn syscall_needs_sce_and_64_bit_code() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| a.syscall().unwrap());
    machine.edit(|cpu| cpu.sys.efer &= !1);
    machine.expect_fault(6, None, CODE);

    let mut machine = Machine::long();
    machine.code64(USER_CODE, |a| a.syscall().unwrap());
    machine.enter_user();
    machine.edit(|cpu| {
        cpu.sys.segs[CS].selector = USER_CODE32;
        cpu.sys.segs[CS].flags = 0xc0fb;
    });
    machine.expect_fault(6, None, USER_CODE);
}

#[test]
fn sysret_to_a_non_canonical_address_faults_in_ring_0() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| a.sysretq().unwrap());
    machine.edit(|cpu| cpu.gpr[1] = 1 << 47);
    machine.expect_fault(13, Some(0), CODE);
    assert_eq!(machine.cpu().sys.cpl, 0);
    assert_eq!(machine.cpu().gpr[4], STACK - 48);
}

#[test]
fn sysret_can_go_to_compatibility_mode() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| a.sysret().unwrap());
    machine.code(32, USER_CODE, |a| {
        a.inc(eax).unwrap();
        a.ud2().unwrap();
    });
    machine.edit(|cpu| {
        cpu.gpr[1] = USER_CODE;
        cpu.gpr[0] = u64::MAX;
    });
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.cs, frame.rip), (6, USER_CODE32.into(), USER_CODE + 1), "INC EAX has one byte there");
    assert_eq!(machine.cpu().gpr[0], 0);
}

#[test]
fn sysenter_and_sysexit() {
    let mut machine = Machine::long();
    machine.code64(USER_CODE, |a| a.sysenter().unwrap());
    machine.code64(CODE, |a| {
        a.mov(rdx, USER_CODE + 0x100).unwrap();
        a.mov(rcx, USER_STACK - 64).unwrap();
        a.sysexitq().unwrap();
    });
    machine.code64(USER_CODE + 0x100, |a| a.ud2().unwrap());
    machine.enter_user();
    machine.edit(|cpu| {
        cpu.sys.sysenter_cs = KERNEL_CODE.into();
        cpu.sys.sysenter_eip = CODE;
        cpu.sys.sysenter_esp = STACK;
        cpu.rflags |= IF;
    });
    machine.step(1);
    let cpu = machine.cpu();
    assert_eq!((cpu.rip, cpu.gpr[4], cpu.sys.cpl, cpu.rflags & IF), (CODE, STACK, 0, 0));
    assert_eq!(cpu.sys.segs[SS].selector, KERNEL_CODE + 8);
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rip, frame.rsp), (6, USER_CODE + 0x100, USER_STACK - 64));
    assert_eq!((frame.cs, frame.ss), (u64::from(KERNEL_CODE) + 35, u64::from(KERNEL_CODE) + 43));
}

#[test]
fn sysenter_without_a_segment_is_refused() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| a.sysenter().unwrap());
    machine.edit(|cpu| cpu.sys.sysenter_cs = 3);
    machine.expect_fault(13, Some(0), CODE);
}

#[test]
fn swapgs_exchanges_the_bases_in_ring_0_only() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        a.swapgs().unwrap();
        a.mov(rax, qword_ptr(8).gs()).unwrap();
        a.hlt().unwrap();
    });
    machine.put(DATA + 8, 0x1234);
    machine.edit(|cpu| {
        cpu.sys.segs[5].base = 0xffff_8000_0000_0000;
        cpu.sys.kernel_gs_base = DATA;
    });
    machine.run();
    assert_eq!(machine.cpu().gpr[0], 0x1234);
    assert_eq!(machine.cpu().sys.kernel_gs_base, 0xffff_8000_0000_0000);

    let mut machine = Machine::long();
    machine.code64(USER_CODE, |a| a.swapgs().unwrap());
    machine.enter_user();
    machine.expect_fault(13, Some(0), USER_CODE);
}

/// Writes an IRETQ frame at the top of the stack and executes IRETQ.
fn iretq(machine: &mut Machine, frame: [u64; 5]) {
    for (index, word) in frame.into_iter().enumerate() {
        machine.put(STACK - 40 + 8 * index as u64, word);
    }
    machine.code64(CODE, |a| a.iretq().unwrap());
    machine.edit(|cpu| cpu.gpr[4] = STACK - 40);
}

#[test]
fn iretq_goes_to_the_user_and_drops_inner_segments() {
    let mut machine = Machine::long();
    machine.code64(USER_CODE, |a| a.ud2().unwrap());
    iretq(&mut machine, [USER_CODE, USER_CS.into(), IF | 0x3000 | 2, USER_STACK, USER_SS.into()]);
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rip, frame.cs, frame.ss), (6, USER_CODE, USER_CS.into(), USER_SS.into()));
    assert_eq!((frame.rsp, frame.rflags), (USER_STACK, IF | 0x3000 | RF | 2));
    assert_eq!(machine.cpu().sys.segs[DS], Segment::default(), "a data segment of ring 0 becomes null");
}

#[test]
fn iretq_stays_in_ring_0_with_a_null_stack_segment() {
    let mut machine = Machine::long();
    machine.code64(CODE + 0x100, |a| a.hlt().unwrap());
    iretq(&mut machine, [CODE + 0x100, KERNEL_CODE.into(), 2, 0x1_2345, 0]);
    machine.run();
    let cpu = machine.cpu();
    assert_eq!((cpu.rip, cpu.gpr[4], cpu.sys.segs[SS].selector), (CODE + 0x101, 0x1_2345, 0));
    assert_eq!(cpu.sys.segs[DS].selector, KERNEL_DATA);
}

#[test]
fn iretq_checks_what_it_goes_to() {
    let good = [USER_CODE, u64::from(USER_CS), 2, USER_STACK, u64::from(USER_SS)];
    let cases: [(usize, u64, u64); 7] = [
        (0, 1 << 47, 0),
        (1, 0, 0),
        (1, 0x7f8 | 3, 0x7f8),
        (1, USER_SS.into(), u64::from(USER_SS) & !3),
        (1, (KERNEL_CODE | 3).into(), KERNEL_CODE.into()),
        (4, 0, 0),
        (4, KERNEL_DATA.into(), KERNEL_DATA.into()),
    ];
    for (slot, value, error) in cases {
        let mut machine = Machine::long();
        let mut frame = good;
        frame[slot] = value;
        iretq(&mut machine, frame);
        machine.expect_fault(13, Some(error), CODE);
        assert_eq!(machine.frame(13).rsp, STACK - 40, "slot {slot}: the stack pointer is where it was");
    }
}

#[test]
fn iretq_in_a_nested_task_is_refused_in_long_mode() {
    let mut machine = Machine::long();
    iretq(&mut machine, [CODE, KERNEL_CODE.into(), 2, STACK, KERNEL_DATA.into()]);
    machine.edit(|cpu| cpu.rflags |= NT);
    machine.expect_fault(13, Some(0), CODE);
}

#[test]
fn iret_of_the_user_cannot_change_iopl_or_if() {
    let mut machine = Machine::long();
    machine.code64(USER_CODE, |a| a.iretq().unwrap());
    machine.code64(USER_CODE + 0x100, |a| a.ud2().unwrap());
    let frame = [USER_CODE + 0x100, USER_CS.into(), 0x3000 | 0x41 | 2, USER_STACK, USER_SS.into()];
    for (index, word) in frame.into_iter().enumerate() {
        machine.put(USER_STACK - 40 + 8 * index as u64, word);
    }
    machine.enter_user();
    machine.edit(|cpu| {
        cpu.gpr[4] = USER_STACK - 40;
        cpu.rflags |= IF;
    });
    let (_, frame) = machine.run_to_handler();
    assert_eq!(frame.rflags, IF | RF | 0x41 | 2);
}

#[test]
fn far_return_and_far_call_through_memory() {
    let mut machine = Machine::long();
    machine.put(DATA, CODE + 0x100);
    machine.put(DATA + 8, KERNEL_CODE.into());
    machine.code64(CODE, |a| {
        a.db(&[0x48, 0xff, 0x1c, 0x25]).unwrap(); // call far m16:64 [DATA]
        a.dd(&[DATA as u32]).unwrap();
        a.mov(ebx, 5).unwrap();
        a.hlt().unwrap();
    });
    machine.code64(CODE + 0x100, |a| {
        a.mov(rcx, rsp).unwrap();
        a.db(&[0x48, 0xcb]).unwrap(); // retfq
    });
    machine.run();
    let cpu = machine.cpu();
    assert_eq!((cpu.gpr[3], cpu.gpr[1], cpu.gpr[4]), (5, STACK - 16, STACK));
    assert_eq!((machine.get(STACK - 16), machine.get(STACK - 8)), (CODE + 8, KERNEL_CODE.into()));
}

#[test]
fn a_64_bit_call_gate_changes_the_stack() {
    let mut machine = Machine::long();
    let [low, high] = gate(CODE, KERNEL_CODE, 12, 3, 0);
    machine.set_descriptor(SPARE, low);
    machine.set_descriptor(SPARE + 8, high);
    machine.put(USER_DATA, u64::from(SPARE | 3) << 32);
    machine.code64(USER_CODE, |a| {
        a.db(&[0xff, 0x1c, 0x25]).unwrap(); // call far m16:32 [USER_DATA]
        a.dd(&[USER_DATA as u32]).unwrap();
        a.ud2().unwrap();
    });
    machine.code64(CODE, |a| {
        a.mov(rbx, rsp).unwrap();
        a.db(&[0x48, 0xca, 0, 0]).unwrap(); // retfq 0
    });
    machine.enter_user();
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rip, frame.cs, frame.rsp), (6, USER_CODE + 7, USER_CS.into(), USER_STACK));
    let bottom = RSP0 - 32;
    assert_eq!(machine.cpu().gpr[3], bottom);
    assert_eq!(machine.get(bottom + 16), USER_STACK);
    assert_eq!(machine.get(bottom + 24), u64::from(USER_SS));
}

#[test]
fn a_32_bit_call_gate_copies_parameters() {
    let mut machine = Machine::protected();
    let low = gate(CODE, KERNEL_CODE32, 12, 3, 2)[0];
    machine.set_descriptor(SPARE, low);
    machine.code(32, USER_CODE, |a| {
        a.push(0x1111).unwrap();
        a.push(0x2222).unwrap();
        a.db(&[0x9a, 0, 0, 0, 0]).unwrap(); // call far SPARE:0
        a.dw(&[SPARE | 3]).unwrap();
        a.cli().unwrap();
    });
    machine.code(32, CODE, |a| {
        a.mov(ebx, esp).unwrap();
        a.mov(eax, dword_ptr(esp + 8)).unwrap();
        a.mov(ecx, dword_ptr(esp + 12)).unwrap();
        a.retf_1(8).unwrap();
    });
    machine.enter_user();
    machine.edit(|cpu| {
        cpu.sys.segs[CS].selector = USER_CODE32;
        cpu.sys.segs[CS].flags = 0xc0fb;
    });
    machine.run();
    assert_eq!(machine.vector(), Some(13));
    let cpu = machine.cpu();
    assert_eq!((cpu.gpr[0], cpu.gpr[1]), (0x2222, 0x1111));
    assert_eq!(cpu.gpr[3], RSP0 - 24);
    assert_eq!(machine.get32(cpu.gpr[4] + 16), USER_STACK as u32, "both stacks are released");
}

#[test]
fn far_jumps_change_the_code_size() {
    let mut machine = Machine::long();
    machine.put(DATA, (CODE + 0x100) | u64::from(KERNEL_CODE32) << 32);
    machine.code64(CODE, |a| {
        a.db(&[0xff, 0x2c, 0x25]).unwrap(); // jmp far m16:32 [DATA]
        a.dd(&[DATA as u32]).unwrap();
    });
    machine.code(32, CODE + 0x100, |a| {
        a.inc(eax).unwrap(); // 40: a REX prefix in 64-bit code
        a.db(&[0xea]).unwrap();
        a.dd(&[CODE as u32 + 0x200]).unwrap();
        a.dw(&[KERNEL_CODE]).unwrap();
    });
    machine.code64(CODE + 0x200, |a| {
        a.mov(r9d, 3).unwrap();
        a.hlt().unwrap();
    });
    machine.run();
    assert_eq!((machine.cpu().gpr[0], machine.cpu().gpr[9]), (1, 3));
}

#[test]
fn real_mode_enters_protected_and_long_mode() {
    let mut machine = Machine::long();
    machine.put_bytes(0x7c00, &[0xff, 0x00]);
    machine.put_bytes(0x7c02, &(GDT as u32).to_le_bytes());
    machine.code(16, 0x7000, |a| {
        a.lgdt(dword_ptr(0x7c00)).unwrap();
        a.mov(eax, 0x11).unwrap();
        a.mov(cr0, eax).unwrap();
        a.db(&[0x66, 0xea]).unwrap();
        a.dd(&[CODE as u32]).unwrap();
        a.dw(&[KERNEL_CODE32]).unwrap();
    });
    machine.code(32, CODE, |a| {
        a.mov(eax, u32::from(KERNEL_DATA)).unwrap();
        a.mov(ss, eax).unwrap();
        a.mov(ds, eax).unwrap();
        a.mov(eax, 0x20).unwrap();
        a.mov(cr4, eax).unwrap();
        a.mov(eax, PML4 as u32).unwrap();
        a.mov(cr3, eax).unwrap();
        a.mov(ecx, 0xc000_0080u32).unwrap();
        a.rdmsr().unwrap();
        a.or(eax, 0x100).unwrap();
        a.wrmsr().unwrap();
        a.mov(eax, cr0).unwrap();
        a.or(eax, 0x8000_0000u32 as i32).unwrap();
        a.mov(cr0, eax).unwrap();
        a.db(&[0xea]).unwrap();
        a.dd(&[CODE as u32 + 0x200]).unwrap();
        a.dw(&[KERNEL_CODE]).unwrap();
    });
    machine.code64(CODE + 0x200, |a| {
        a.mov(r15, 0x1_2345_6789u64).unwrap();
        a.hlt().unwrap();
    });
    machine.edit(|cpu| {
        let fresh = virtft_cpu::state::CpuState::power_on(true);
        cpu.sys = fresh.sys;
        for segment in &mut cpu.sys.segs {
            segment.selector = 0;
            segment.base = 0;
        }
        cpu.rip = 0x7000;
    });
    machine.run();
    let cpu = machine.cpu();
    assert_eq!(cpu.gpr[15], 0x1_2345_6789);
    assert_eq!(cpu.sys.efer & 0x500, 0x500);
    assert_eq!(cpu.sys.segs[FS].selector, 0);
}

#[test]
fn enter_and_leave_keep_nested_frames() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        a.enter(32, 0).unwrap();
        a.mov(rax, rsp).unwrap();
        a.leave().unwrap();
        a.enter(16, 2).unwrap();
        a.mov(rbx, rsp).unwrap();
        a.leave().unwrap();
        a.hlt().unwrap();
    });
    machine.put(DATA - 8, 0xabc);
    machine.edit(|cpu| cpu.gpr[5] = DATA);
    machine.run();
    let cpu = machine.cpu();
    assert_eq!((cpu.gpr[0], cpu.gpr[4], cpu.gpr[5]), (STACK - 8 - 32, STACK, DATA));
    assert_eq!(cpu.gpr[3], STACK - 24 - 16);
    assert_eq!(machine.get(STACK - 8), DATA);
    assert_eq!(machine.get(STACK - 16), 0xabc, "the frame pointer of the outer level");
    assert_eq!(machine.get(STACK - 24), STACK - 8);
}
