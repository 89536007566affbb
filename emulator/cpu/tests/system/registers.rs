//! Control registers, MSRs, CPUID, time, ports and their privilege.

use iced_x86::code_asm::*;
use virtft_cpu::cpuid;

use crate::kit::*;

const IF: u64 = 1 << 9;

/// Runs one privileged piece of code at CPL 0 and gives the vector, if it faults.
fn kernel(write: impl FnOnce(&mut CodeAssembler)) -> (Option<u8>, Machine) {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        write(a);
        a.hlt().unwrap();
    });
    machine.run();
    (machine.vector(), machine)
}

fn wrmsr(index: u32, value: u64) -> (Option<u8>, Machine) {
    kernel(|a| {
        a.mov(ecx, index).unwrap();
        a.mov(eax, value as u32).unwrap();
        a.mov(edx, (value >> 32) as u32).unwrap();
        a.wrmsr().unwrap();
        a.rdmsr().unwrap();
    })
}

/// Writes and reads back.
#[track_caller]
fn keeps(index: u32, value: u64) {
    let (vector, machine) = wrmsr(index, value);
    let cpu = machine.cpu();
    assert_eq!((vector, cpu.gpr[2] << 32 | cpu.gpr[0]), (None, value), "MSR {index:x}");
}

#[test]
fn registers_that_keep_what_is_written() {
    for index in [0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0100, 0xc000_0101, 0xc000_0102, 0x175, 0x176] {
        keeps(index, 0x7fff_1234_5678);
    }
    keeps(0xc000_0084, 0x4_7700);
    keeps(0x174, 0x10);
    keeps(0x48, 0x401);
    keeps(0x277, 0x0407_0506_0001_0506);
    keeps(0x2ff, 0xc06);
    keeps(0x200, 0xc000_0000);
    keeps(0x201, 0x3fff_c000_0800);
    keeps(0x26f, 0x0606_0505_0404_0101);
    keeps(0xc000_0103, 0xffff_ffff);
    keeps(0x3b, u64::MAX - 5);
}

#[test]
fn registers_that_refuse() {
    let refused: [(u32, u64); 14] = [
        (0x1234, 0),
        (0xc001_0015, 0),
        (0x4b56_4d00, 0),
        (0xc000_0082, 1 << 47),
        (0xc000_0100, 0x8000_0000_0000),
        (0x277, 2),
        (0x277, 3 << 8),
        (0x2ff, 2),
        (0x200, 1 << 46),
        (0xc000_0080, 1 << 1),
        (0x48, 1 << 3),
        (0x10a, 0),
        (0xfe, 0),
        (0xc000_0103, 1 << 32),
    ];
    for (index, value) in refused {
        assert_eq!(wrmsr(index, value).0, Some(13), "MSR {index:x} = {value:x}");
    }
    // LME cannot change while paging is on.
    assert_eq!(wrmsr(0xc000_0080, 0xc01).0, Some(13));
    // IBPB can be written and not read.
    let (vector, machine) = wrmsr(0x49, 1);
    assert_eq!((vector, machine.frame(13).rip), (Some(13), CODE + 17));
}

#[test]
fn fixed_registers_read_as_documented() {
    let read = |index: u32| {
        let (vector, machine) = kernel(|a| {
            a.mov(ecx, index).unwrap();
            a.rdmsr().unwrap();
        });
        assert_eq!(vector, None, "MSR {index:x}");
        machine.cpu().gpr[2] << 32 | machine.cpu().gpr[0]
    };
    assert_eq!(read(0x10a), cpuid::ARCH_CAPABILITIES);
    assert_eq!(read(0xfe), 0x508);
    assert_eq!(read(0x3a), 1);
    assert_eq!(read(0x17), 0);
    assert_eq!(read(0x1a0), 0x1801);
    assert_eq!(read(0xc000_0080), 0xd01);
}

#[test]
fn msrs_of_the_user_are_refused() {
    let mut machine = Machine::long();
    machine.code64(USER_CODE, |a| a.rdmsr().unwrap());
    machine.enter_user();
    machine.edit(|cpu| cpu.gpr[1] = 0xc000_0100);
    machine.expect_fault(13, Some(0), USER_CODE);
}

#[test]
fn the_counter_follows_the_count_and_its_adjustment() {
    let (vector, machine) = kernel(|a| {
        a.rdtsc().unwrap();
        a.mov(esi, eax).unwrap();
        a.mov(ecx, 0x10).unwrap();
        a.mov(eax, 1000).unwrap();
        a.xor(edx, edx).unwrap();
        a.wrmsr().unwrap();
        a.rdtscp().unwrap();
    });
    let cpu = machine.cpu();
    assert_eq!((vector, cpu.gpr[6]), (None, 0));
    assert_eq!(cpu.gpr[0], 1000 + TSC_PER_STEP);
    assert_eq!(cpu.gpr[1], 0, "TSC_AUX");
    assert_eq!(cpu.sys.tsc_adjust, 1000 - 5 * TSC_PER_STEP);
}

#[test]
fn a_deadline_is_passed_on_in_terms_of_the_machine() {
    let mut machine = Machine::long();
    machine.board().msrs.insert(0x6e0, 0);
    machine.edit(|cpu| cpu.sys.tsc_adjust = 500);
    machine.code64(CODE, |a| {
        a.mov(ecx, 0x6e0).unwrap();
        a.mov(eax, 2000).unwrap();
        a.xor(edx, edx).unwrap();
        a.wrmsr().unwrap();
        a.hlt().unwrap();
        a.mov(ecx, 0x3b).unwrap();
        a.mov(eax, 700).unwrap();
        a.wrmsr().unwrap();
        a.mov(ecx, 0x6e0).unwrap();
        a.rdmsr().unwrap();
        a.hlt().unwrap();
    });
    machine.run();
    assert_eq!(machine.board().msrs[&0x6e0], 1500);
    machine.edit(|cpu| cpu.sys.activity = Default::default());
    machine.run();
    assert_eq!(machine.board().msrs[&0x6e0], 1300);
    assert_eq!(machine.cpu().gpr[0], 2000);
}

#[test]
fn control_registers_refuse_reserved_bits_and_bad_transitions() {
    let cr = |write: fn(&mut CodeAssembler), value: u64| {
        kernel(|a| {
            a.mov(rax, value).unwrap();
            write(a);
        })
        .0
    };
    let cr0w: fn(&mut CodeAssembler) = |a| a.mov(cr0, rax).unwrap();
    let cr3w: fn(&mut CodeAssembler) = |a| a.mov(cr3, rax).unwrap();
    let cr4w: fn(&mut CodeAssembler) = |a| a.mov(cr4, rax).unwrap();
    let cr8w: fn(&mut CodeAssembler) = |a| a.mov(cr8, rax).unwrap();
    assert_eq!(cr(cr0w, 0x8001_0033), None);
    assert_eq!(cr(cr0w, 0x8001_0030), Some(13), "paging without protection");
    assert_eq!(cr(cr0w, 0x31), Some(13), "64-bit code cannot turn paging off");
    assert_eq!(cr(cr0w, 0xa001_0031), Some(13), "NW without CD");
    assert_eq!(cr(cr0w, 1 << 32 | 0x8001_0031), Some(13));
    assert_eq!(cr(cr3w, PML4 | 1 << 46), Some(13));
    assert_eq!(cr(cr3w, PML4 | 1 << 63), Some(13), "the hint exists with PCIDs only");
    assert_eq!(cr(cr4w, 0x600), Some(13), "PAE cannot go in long mode");
    assert_eq!(cr(cr4w, 0x620 | 1 << 13), Some(13), "VMX");
    assert_eq!(cr(cr4w, 0x620 | 1 << 17), None, "PCIDE");
    assert_eq!(cr(cr4w, 0x620 | 0x37_0b84), None);
    assert_eq!(cr(cr8w, 15), None);
    assert_eq!(cr(cr8w, 16), Some(13));
}

#[test]
fn pcids_need_a_zero_pcid_to_start_and_keep_the_hint_out() {
    let (vector, machine) = kernel(|a| {
        a.mov(rax, PML4 | 8).unwrap();
        a.mov(cr3, rax).unwrap();
        a.mov(eax, 0x2_0620).unwrap();
        a.mov(cr4, rax).unwrap();
    });
    assert_eq!(vector, Some(13));
    assert_eq!(machine.cpu().sys.cr4, 0x620);
    let (vector, machine) = kernel(|a| {
        a.mov(eax, 0x2_0620).unwrap();
        a.mov(cr4, rax).unwrap();
        a.mov(rax, PML4 | 5 | 1 << 63).unwrap();
        a.mov(cr3, rax).unwrap();
        a.mov(rbx, cr3).unwrap();
    });
    assert_eq!((vector, machine.cpu().gpr[3]), (None, PML4 | 5));
}

#[test]
fn cr8_is_the_task_priority_of_the_bus() {
    let (vector, mut machine) = kernel(|a| {
        a.mov(eax, 9).unwrap();
        a.mov(cr8, rax).unwrap();
        a.mov(rbx, cr8).unwrap();
    });
    assert_eq!((vector, machine.cpu().gpr[3], machine.board().cr8), (None, 9, 9));
}

#[test]
fn control_registers_that_do_not_exist_are_undefined() {
    for register in [1u8, 5, 6, 7] {
        let mut machine = Machine::long();
        machine.put_bytes(CODE, &[0x0f, 0x22, 0xc0 | register << 3]);
        machine.expect_fault(6, None, CODE);
    }
}

#[test]
fn privileged_instructions_fault_in_user_mode() {
    let instructions: [(&str, &[u8]); 15] = [
        ("hlt", &[0xf4]),
        ("clts", &[0x0f, 0x06]),
        ("invd", &[0x0f, 0x08]),
        ("wbinvd", &[0x0f, 0x09]),
        ("mov cr0", &[0x0f, 0x22, 0xc0]),
        ("mov from cr4", &[0x0f, 0x20, 0xe0]),
        ("mov dr7", &[0x0f, 0x23, 0xf8]),
        ("lgdt", &[0x0f, 0x01, 0x14, 0x25, 0, 0, 0, 0]),
        ("lidt", &[0x0f, 0x01, 0x1c, 0x25, 0, 0, 0, 0]),
        ("lldt", &[0x0f, 0x00, 0xd0]),
        ("ltr", &[0x0f, 0x00, 0xd8]),
        ("lmsw", &[0x0f, 0x01, 0xf0]),
        ("invlpg", &[0x0f, 0x01, 0x38]),
        ("in", &[0xec]),
        ("cli", &[0xfa]),
    ];
    for (name, bytes) in instructions {
        let mut machine = Machine::long();
        machine.put_bytes(USER_CODE, bytes);
        machine.enter_user();
        let (vector, frame) = machine.run_to_handler();
        assert_eq!((vector, frame.error, frame.rip), (13, Some(0), USER_CODE), "{name}");
    }
}

#[test]
fn umip_hides_tables_from_the_user() {
    for (umip, expected) in [(0, 6), (1 << 11, 13)] {
        let mut machine = Machine::long();
        machine.code64(USER_CODE, |a| {
            a.sgdt(ptr(USER_DATA)).unwrap();
            a.ud2().unwrap();
        });
        machine.enter_user();
        machine.edit(|cpu| cpu.sys.cr4 |= umip);
        assert_eq!(machine.run_to_handler().0, expected);
        let stored = if umip == 0 { GDT } else { 0 };
        assert_eq!(machine.get(USER_DATA + 2), stored);
    }
}

#[test]
fn the_io_map_opens_single_ports() {
    let mut machine = Machine::long();
    // Port 0x60 is allowed, 0x61 not.
    machine.put_bytes(TSS + TSS_SIZE + 0x60 / 8, &[0xfe]);
    machine.code64(USER_CODE, |a| {
        a.in_(al, 0x60).unwrap();
        a.in_(ax, 0x60).unwrap();
    });
    machine.enter_user();
    machine.expect_fault(13, Some(0), USER_CODE + 2);
    assert_eq!(machine.cpu().gpr[0] & 0xff, 0x60);
    // With IOPL 3 the map is not asked.
    let mut machine = Machine::long();
    machine.code64(USER_CODE, |a| {
        a.in_(ax, 0x60).unwrap();
        a.cli().unwrap();
        a.ud2().unwrap();
    });
    machine.enter_user();
    machine.edit(|cpu| cpu.rflags |= 0x3000 | IF);
    let (vector, frame) = machine.run_to_handler();
    assert_eq!((vector, frame.rflags & IF), (6, 0));
}

#[test]
fn outs_and_ins_move_one_item_each_step() {
    let mut machine = Machine::long();
    machine.put(DATA, 0x4433_2211);
    machine.code64(CODE, |a| {
        a.rep().outsw().unwrap();
        a.mov(ecx, 3).unwrap();
        a.rep().insb().unwrap();
        a.hlt().unwrap();
    });
    machine.edit(|cpu| {
        cpu.gpr[1] = 2;
        cpu.gpr[2] = 0x99;
        cpu.gpr[6] = DATA;
        cpu.gpr[7] = DATA + 0x100;
    });
    machine.run();
    let written: Vec<_> = machine.board().port_writes.iter().map(|w| (w.count, w.port, w.size, w.value)).collect();
    assert_eq!(written, [(0, 0x99, 2, 0x2211), (1, 0x99, 2, 0x4433)]);
    assert_eq!(machine.get(DATA + 0x100), 0x99_9999);
    let cpu = machine.cpu();
    assert_eq!((cpu.gpr[1], cpu.gpr[6], cpu.gpr[7]), (0, DATA + 4, DATA + 0x103));
    assert_eq!(machine.core.count(), 2 + 1 + 3 + 1);
}

#[test]
fn popf_respects_privilege() {
    let mut machine = Machine::long();
    machine.code64(USER_CODE, |a| {
        a.push(0x3cd7).unwrap();
        a.popfq().unwrap();
        a.ud2().unwrap();
    });
    machine.enter_user();
    machine.edit(|cpu| cpu.rflags |= IF);
    let (_, frame) = machine.run_to_handler();
    assert_eq!(frame.rflags, 0x1_0ed7, "IF and IOPL stay, DF and the arithmetic flags change");
}

#[test]
fn lahf_sahf_and_single_flags() {
    let (vector, machine) = kernel(|a| {
        a.stc().unwrap();
        a.lahf().unwrap();
        a.mov(ebx, eax).unwrap();
        a.mov(ah, 0xd7u32 as i32).unwrap();
        a.sahf().unwrap();
        a.cmc().unwrap();
        a.std().unwrap();
        a.pushfq().unwrap();
        a.pop(rcx).unwrap();
        a.cld().unwrap();
    });
    assert_eq!((vector, machine.cpu().gpr[3]), (None, 0x0300));
    assert_eq!(machine.cpu().gpr[1], 0x4d6);
}

#[test]
fn cpuid_is_the_table() {
    let (_, machine) = kernel(|a| {
        a.mov(eax, 1).unwrap();
        a.xor(ecx, ecx).unwrap();
        a.cpuid().unwrap();
    });
    let cpu = machine.cpu();
    let caller = cpuid::Caller { vcpus: 1, index: 0, osxsave: false, long: true };
    let registers = [cpu.gpr[0], cpu.gpr[3], cpu.gpr[1], cpu.gpr[2]].map(|value| value as u32);
    assert_eq!(registers, cpuid::cpuid(1, 0, caller));
}

#[test]
fn xsetbv_checks_its_bits() {
    for (index, value, expected) in
        [(0, 3u32, None), (0, 1, None), (0, 2, Some(13)), (0, 7, Some(13)), (1, 3, Some(13))]
    {
        let (vector, machine) = kernel(|a| {
            a.mov(eax, 0x4_0620).unwrap();
            a.mov(cr4, rax).unwrap();
            a.mov(ecx, index).unwrap();
            a.mov(eax, value).unwrap();
            a.xor(edx, edx).unwrap();
            a.xsetbv().unwrap();
        });
        assert_eq!(vector, expected, "XCR{index} = {value}");
        if expected.is_none() {
            assert_eq!(machine.cpu().sys.xcr0, u64::from(value));
        }
    }
    assert_eq!(kernel(|a| a.xgetbv().unwrap()).0, Some(6), "without CR4.OSXSAVE");
}

#[test]
fn random_numbers_come_from_the_bus() {
    let (_, mut machine) = kernel(|a| {
        a.mov(eax, -1).unwrap();
        a.rdrand(rax).unwrap();
        a.setb(bl).unwrap();
        a.mov(rcx, u64::MAX).unwrap();
        a.rdseed(ecx).unwrap();
    });
    assert_eq!(machine.board().random, 2);
    let cpu = machine.cpu();
    assert_eq!((cpu.gpr[0], cpu.gpr[3]), (0x9e37_79b9_7f4a_7c15, 1));
    assert_eq!(cpu.gpr[1], 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(2) & 0xffff_ffff);
    assert_eq!(cpu.rflags & 0x8d5, 1);
}

#[test]
fn bases_by_instruction_need_cr4_and_canonical_values() {
    assert_eq!(kernel(|a| a.rdfsbase(rax).unwrap()).0, Some(6));
    let with = |value: u64| {
        kernel(|a| {
            a.mov(eax, 0x1_0620).unwrap();
            a.mov(cr4, rax).unwrap();
            a.mov(rax, value).unwrap();
            a.wrfsbase(rax).unwrap();
            a.rdfsbase(rbx).unwrap();
            a.mov(rcx, qword_ptr(0).fs()).unwrap();
        })
    };
    let (vector, machine) = with(CODE);
    assert_eq!((vector, machine.cpu().gpr[3]), (None, CODE));
    assert_eq!(machine.cpu().gpr[1], machine.get(CODE));
    assert_eq!(with(1 << 47).0, Some(13));
}

#[test]
fn invpcid_checks_its_descriptor() {
    let with = |kind: u64, low: u64, address: u64| {
        kernel(|a| {
            a.mov(rax, low).unwrap();
            a.mov(qword_ptr(DATA), rax).unwrap();
            a.mov(rax, address).unwrap();
            a.mov(qword_ptr(DATA + 8), rax).unwrap();
            a.mov(rax, kind).unwrap();
            a.invpcid(rax, xmmword_ptr(DATA)).unwrap();
        })
        .0
    };
    assert_eq!(with(0, 0, 0), None);
    assert_eq!(with(2, 0, 1 << 47), None);
    assert_eq!(with(0, 0, 1 << 47), Some(13));
    assert_eq!(with(0, 1, 0), Some(13), "a PCID with CR4.PCIDE clear");
    assert_eq!(with(1, 1 << 12, 0), Some(13));
    assert_eq!(with(4, 0, 0), Some(13));
}

#[test]
fn lmsw_cannot_leave_protected_mode() {
    let (vector, machine) = kernel(|a| {
        a.mov(eax, 0xe).unwrap();
        a.lmsw(ax).unwrap();
        a.smsw(ebx).unwrap();
        a.clts().unwrap();
    });
    assert_eq!((vector, machine.cpu().gpr[3]), (None, 0x8001_003f));
    assert_eq!(machine.cpu().sys.cr0, 0x8001_0037);
}
