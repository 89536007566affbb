//! How many bytes of an instruction are looked at: undefined opcodes at the end of a page, and instructions of 15 bytes and more.

use crate::kit::*;

/// A page that nothing is mapped behind.
const LAST: u64 = 0x70_0000;

/// Runs bytes that end where the mapped memory does; returns the vector raised and the address in CR2.
fn at_the_end(bytes: &[u8]) -> (u8, u64) {
    let mut machine = Machine::long();
    machine.map(LAST + 0x1000, 0, 0);
    let at = LAST + 0x1000 - bytes.len() as u64;
    machine.put_bytes(at, bytes);
    machine.edit(|cpu| cpu.rip = at);
    let (vector, frame) = machine.run_to_handler();
    assert_eq!(frame.rip, at, "{bytes:x?}");
    (vector, machine.cpu().sys.cr2)
}

#[test]
fn an_undefined_opcode_needs_no_byte_behind_it() {
    for bytes in [&[0x06][..], &[0x0f, 0x04], &[0x66, 0x0f, 0x24], &[0x0f, 0x38, 0x0c], &[0xd6], &[0x48, 0x0f, 0x36]] {
        assert_eq!(at_the_end(bytes), (6, 0), "{bytes:x?}");
    }
}

#[test]
fn a_defined_opcode_wants_its_other_bytes() {
    for bytes in [
        &[0x0f][..],
        &[0x89],
        &[0x0f, 0x38],
        &[0xb8, 1, 2],
        &[0xc4, 0xe2],
        &[0xc5],
        &[0x41, 0x67, 0xc4],
        &[0x66; 3],
        &[0x48],
        &[0x0f, 0xc7],
    ] {
        assert_eq!(at_the_end(bytes), (14, LAST + 0x1000), "{bytes:x?}");
    }
}

/// The vector that bytes raise, with room behind them; None when the first instruction is retired.
fn raised(bytes: &[u8]) -> Option<u8> {
    let mut machine = Machine::long();
    machine.put_bytes(CODE, bytes);
    machine.put_bytes(CODE + bytes.len() as u64, &[0xf4; 32]);
    machine.edit(|cpu| cpu.gpr = [DATA; 16]);
    machine.edit(|cpu| cpu.gpr[4] = STACK);
    machine.run();
    machine.vector()
}

#[test]
fn fifteen_bytes_are_the_most() {
    let prefixed = |count: usize, rest: &[u8]| [&vec![0x66; count][..], rest].concat();
    assert_eq!(raised(&prefixed(14, &[0x90])), None, "15 bytes");
    assert_eq!(raised(&prefixed(15, &[0x90])), Some(13), "16 bytes");
    assert_eq!(raised(&prefixed(14, &[0x89, 0xc0])), Some(13), "16 bytes with a ModRM byte");
    assert_eq!(raised(&prefixed(13, &[0x89, 0xc0])), None, "15 bytes with a ModRM byte");
    assert_eq!(raised(&prefixed(14, &[0x06])), Some(6), "an undefined opcode in the last byte");
    assert_eq!(raised(&prefixed(13, &[0x0f, 0x04])), Some(6), "an undefined opcode of two bytes");
    assert_eq!(raised(&prefixed(14, &[0x0f, 0x04])), Some(13), "its second byte would be the sixteenth");
    assert_eq!(raised(&[&[0xf0; 14][..], &[0x90]].concat()), Some(6), "LOCK where it may not be");
    assert_eq!(raised(&prefixed(12, &[0xc7, 0x00, 1, 0])), Some(13), "an immediate that ends behind");
}

#[test]
fn hints_do_nothing() {
    // 0F 0D and 0F 18 to 0F 1F are where processors put instructions that older ones pass over: prefetches, MPX, CET's ENDBR and
    // RDSSP, CLDEMOTE. None touches memory here, whatever its operand.
    for opcode in [0x0d].into_iter().chain(0x18..=0x1f) {
        let mut code = Vec::new();
        for prefix in [&[][..], &[0x66], &[0xf2], &[0xf3], &[0xf3, 0x48]] {
            for modrm in 0..=0xff_u8 {
                // SIB and displacement, as ModRM asks; the base registers point nowhere.
                let tail: &[u8] = match (modrm >> 6, modrm & 7) {
                    (0, 4) => &[0x23],
                    (0, 5) | (2, 0..=3 | 5..=7) => &[0, 0, 0, 0x10],
                    (1, 4) => &[0x23, 1],
                    (1, _) => &[1],
                    (2, _) => &[0x23, 0, 0, 0, 0x10],
                    _ => &[],
                };
                code.extend([prefix, &[0x0f, opcode, modrm], tail].concat());
            }
        }
        code.push(0xf4);
        let mut machine = Machine::long();
        machine.put_bytes(CODE, &code);
        machine.edit(|cpu| {
            cpu.gpr = [0x1234_5678_9abc; 16];
            cpu.gpr[4] = STACK;
        });
        let before = machine.cpu().gpr;
        machine.run();
        if let Some(vector) = machine.vector() {
            let at = (machine.frame(vector).rip - CODE) as usize;
            panic!("vector {vector} by {:02x?}", &code[at..at + 5]);
        }
        assert_eq!((machine.cpu().rip, machine.cpu().gpr), (CODE + code.len() as u64, before), "0F {opcode:02X}");
    }
}
