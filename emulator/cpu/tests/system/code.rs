//! Stores into code are seen by the next instruction.

use iced_x86::code_asm::*;

use crate::kit::*;

#[test]
fn a_store_into_the_same_block_is_executed() {
    let mut machine = Machine::long();
    // The immediate of the MOV that follows becomes 7.
    machine.code64(CODE, |a| {
        a.mov(byte_ptr(CODE + 9), 7).unwrap();
        a.mov(eax, 1).unwrap();
        a.hlt().unwrap();
    });
    machine.run();
    assert_eq!(machine.cpu().gpr[0], 7);
}

#[test]
fn a_loop_that_rewrites_itself_counts_what_it_wrote() {
    let mut machine = Machine::long();
    let mut patch = 0;
    machine.code64(CODE, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.add(ebx, 0x11).unwrap();
        a.inc(byte_ptr(CODE + 2)).unwrap();
        a.dec(ecx).unwrap();
        a.jne(top).unwrap();
        a.hlt().unwrap();
        patch = 2;
    });
    assert_eq!(patch, 2, "the immediate is the third byte");
    machine.edit(|cpu| cpu.gpr[1] = 5);
    machine.run();
    assert_eq!(machine.cpu().gpr[3], (0x11..0x16).sum::<u64>());
}

#[test]
fn an_instruction_across_pages_sees_stores_into_both() {
    let mut machine = Machine::long();
    let at = CODE + 0xffe;
    // mov eax, imm32 with two bytes in the first page.
    machine.code64(at, |a| {
        a.mov(eax, 0x0101_0101).unwrap();
        a.ret().unwrap();
    });
    machine.code64(CODE, |a| {
        a.call(at).unwrap();
        a.mov(ebx, eax).unwrap();
        a.mov(byte_ptr(at + 1), 2).unwrap();
        a.call(at).unwrap();
        a.mov(ecx, eax).unwrap();
        a.mov(byte_ptr(at + 4), 3).unwrap();
        a.call(at).unwrap();
        a.hlt().unwrap();
    });
    machine.run();
    let cpu = machine.cpu();
    assert_eq!((cpu.gpr[3], cpu.gpr[1], cpu.gpr[0]), (0x0101_0101, 0x0101_0102, 0x0301_0102));
}

#[test]
fn a_store_through_another_mapping_is_seen() {
    let mut machine = Machine::long();
    machine.map(0x80_0000, CODE, P | W);
    machine.code64(CODE + 0x100, |a| {
        a.mov(eax, 1).unwrap();
        a.ret().unwrap();
    });
    machine.code64(CODE, |a| {
        a.call(CODE + 0x100).unwrap();
        a.mov(byte_ptr(0x80_0101), 9).unwrap();
        a.call(CODE + 0x100).unwrap();
        a.hlt().unwrap();
    });
    machine.run();
    assert_eq!(machine.cpu().gpr[0], 9);
}

#[test]
fn a_repeated_store_over_itself_stops_being_itself() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        a.rep().stosb().unwrap();
        a.nop().unwrap();
        a.hlt().unwrap();
    });
    // The second iteration replaces the prefix by a NOP: what remains is one STOSB without a count.
    machine.edit(|cpu| {
        cpu.gpr[0] = 0x90;
        cpu.gpr[1] = 100;
        cpu.gpr[7] = CODE - 1;
    });
    machine.run();
    let cpu = machine.cpu();
    assert_eq!((cpu.gpr[1], cpu.gpr[7]), (98, CODE + 2));
    assert_eq!(cpu.rip, CODE + 4);
}

#[test]
fn code_that_a_device_replaces_is_fetched_again() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| {
        let mut top = a.create_label();
        a.set_label(&mut top).unwrap();
        a.mov(eax, 1).unwrap();
        a.jmp(top).unwrap();
    });
    machine.step(10);
    machine.put_bytes(CODE + 1, &[5]);
    machine.step(2);
    assert_eq!(machine.cpu().gpr[0], 5);
}

#[test]
fn instructions_longer_than_15_bytes_are_refused() {
    let mut machine = Machine::long();
    let mut bytes = [0x66; 16];
    bytes[15] = 0x90;
    machine.put_bytes(CODE, &bytes);
    machine.expect_fault(13, Some(0), CODE);
}

#[test]
fn undefined_instructions_are_counted() {
    let mut machine = Machine::long();
    machine.code64(CODE, |a| a.ud2().unwrap());
    machine.run();
    assert_eq!(machine.core.statistics().undefined.values().sum::<u64>(), 1);
    assert!(machine.core.statistics().undefined.contains_key("0f 0b"));
}
