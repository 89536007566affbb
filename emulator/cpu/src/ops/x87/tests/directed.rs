//! What user space cannot show, or no two processors show alike: availability, pending exceptions, pointers, faults that
//! must leave state alone, and formats of other modes.

use super::super::float::{C1, DE, IE, INDEFINITE, ONE, SF, ZE};
use super::super::unit::{BUSY, ES};
use super::{OPERAND, expect_fault, guest, legacy, run, word, write_memory};
use crate::core::Core;
use crate::fault::vector;
use crate::mmu::cr0;
use crate::state::FpuState;

const FLD1: [u8; 2] = [0xd9, 0xe8];
const FLDZ: [u8; 2] = [0xd9, 0xee];
const FDIVP: [u8; 2] = [0xde, 0xf9];
const FWAIT: [u8; 1] = [0x9b];
const FNSTSW_AX: [u8; 2] = [0xdf, 0xe0];
const FNINIT: [u8; 2] = [0xdb, 0xe3];
const FNSTENV: [u8; 2] = [0xd9, 0x36];
const FLDENV: [u8; 2] = [0xd9, 0x26];
const FSTP_M64: [u8; 2] = [0xdd, 0x1e];

const FXSAVE: &[u8] = &[0x0f, 0xae, 0x06];
const FXRSTOR: &[u8] = &[0x0f, 0xae, 0x0e];

/// Leaves a masked-out division by zero pending.
fn divide_by_zero(core: &mut Core) {
    core.fpu.set_control(0x37f & !4);
    run(core, &FLD1);
    run(core, &FLDZ);
    core.rip = 0x1234;
    core.r[17] = 0x1234;
    run(core, &FDIVP);
}

#[test]
fn unavailable_unit() {
    for bits in [cr0::TS, cr0::EM] {
        let mut core = guest();
        core.sys.cr0 |= bits;
        for instruction in [&FLD1[..], &FNINIT, &FNSTSW_AX, &FNSTENV, FXSAVE, FXRSTOR] {
            expect_fault(&mut core, instruction, vector::NM);
        }
        assert_eq!(core.fpu, FpuState::default());
    }
    let mut core = guest();
    core.sys.cr0 |= cr0::TS;
    expect_fault(&mut core, &FWAIT, vector::NM);
    core.sys.cr0 &= !cr0::MP;
    run(&mut core, &FWAIT);
    core.sys.cr0 |= cr0::EM;
    assert!(core.mmx_ready().is_err());
    assert_eq!(core.fault.vector, vector::UD);
}

#[test]
fn pending_exception_is_reported_by_the_next_waiting_instruction() {
    let mut core = guest();
    divide_by_zero(&mut core);
    assert_eq!(core.fpu.status & (ZE | ES | BUSY), ZE | ES | BUSY);
    // Operands and stack are as before.
    assert_eq!((core.fpu.top(), core.fpu.get(1)), (6, ONE));
    let before = core.fpu;
    for instruction in [&FWAIT[..], &FLD1, &[0xd9, 0x2e], &FLDENV] {
        expect_fault(&mut core, instruction, vector::MF);
    }
    assert!(core.mmx_ready().is_err());
    assert_eq!(core.fault.vector, vector::MF);
    assert_eq!(core.fpu, before);
    run(&mut core, &FNSTSW_AX);
    assert_eq!(core.r[0] as u16, before.status);
    // Without CR0.NE there is nothing to report it to.
    core.sys.cr0 &= !cr0::NE;
    run(&mut core, &FWAIT);
    core.sys.cr0 |= cr0::NE;
    run(&mut core, &[0xdb, 0xe2]);
    run(&mut core, &FWAIT);
    assert_eq!(core.fpu.status & 0x80ff, 0);
}

#[test]
fn unmasking_makes_pending() {
    let mut core = guest();
    run(&mut core, &FLD1);
    run(&mut core, &FLDZ);
    run(&mut core, &FDIVP);
    run(&mut core, &FWAIT);
    write_memory(&mut core, OPERAND, &0x37bu16.to_le_bytes());
    run(&mut core, &[0xd9, 0x2e]);
    expect_fault(&mut core, &FWAIT, vector::MF);
    // FNSTENV stores the pending state and then masks everything.
    run(&mut core, &FNSTENV);
    assert_eq!(word(&mut core, 4) & ES, ES);
    run(&mut core, &FWAIT);
    assert_eq!(core.fpu.control, 0x37f);
}

#[test]
fn pointers() {
    let mut core = guest();
    core.r[17] = 0x1_0000_2000;
    run(&mut core, &FLD1);
    assert_eq!((core.fpu.instruction, core.fpu.opcode), (0x1_0000_2000, 0));
    run(&mut core, &FNSTSW_AX);
    core.r[17] = 0x5000;
    run(&mut core, &[0xd9, 0x3e]);
    assert_eq!(core.fpu.instruction, 0x1_0000_2000, "control instructions do not count");
    // FDIV m32 by zero, unmasked: now opcode and operand are noted.
    core.fpu.set_control(0x37b);
    core.r[17] = 0x6000;
    write_memory(&mut core, OPERAND, &[0; 8]);
    run(&mut core, &[0xd8, 0x36]);
    assert_eq!((core.fpu.instruction, core.fpu.opcode, core.fpu.operand), (0x6000, 0x036, OPERAND));
    run(&mut core, &FNINIT);
    assert_eq!((core.fpu.instruction, core.fpu.opcode, core.fpu.operand), (0, 0, 0));
}

#[test]
fn faulting_store_changes_nothing() {
    let mut core = guest();
    run(&mut core, &FLD1);
    core.fpu.regs[7].mantissa |= 1;
    let before = core.fpu;
    core.r[6] = 1 << 63;
    // FSTP m64, FISTP m32, FSTP m80, FBSTP, FNSAVE, FNSTENV: the address is not canonical.
    for code in [FSTP_M64, [0xdb, 0x1e], [0xdb, 0x3e], [0xdf, 0x36], [0xdd, 0x36], FNSTENV] {
        expect_fault(&mut core, &code, vector::GP);
        assert_eq!(core.fpu, before, "{code:02x?}");
    }
    // With an unmasked stack fault nothing is stored, so nothing faults.
    run(&mut core, &FNINIT);
    core.fpu.set_control(0x37e);
    run(&mut core, &FSTP_M64);
    assert_eq!(core.fpu.status & (IE | SF | C1 | ES), IE | SF | ES);
}

#[test]
fn stack_overflow_and_denormal_load() {
    let mut core = guest();
    for _ in 0..8 {
        run(&mut core, &FLD1);
    }
    run(&mut core, &FLD1);
    assert_eq!(core.fpu.status & (IE | SF | C1), IE | SF | C1);
    assert_eq!(core.fpu.get(0), INDEFINITE);
    // A denormal double is loaded, and reported, even when #D is unmasked.
    run(&mut core, &FNINIT);
    core.fpu.set_control(0x37d);
    write_memory(&mut core, OPERAND, &1u64.to_le_bytes());
    run(&mut core, &[0xdd, 0x06]);
    assert_eq!((core.fpu.top(), core.fpu.status & (DE | ES)), (7, DE | ES));
}

#[test]
fn environment_formats() {
    // 16-bit code addresses with SI as [rsi] in 32-bit code does, by another encoding.
    let store = |bits32: bool| if bits32 { [0xd9, 0x36] } else { [0xd9, 0x34] };
    let load = |bits32: bool| if bits32 { [0xd9, 0x26] } else { [0xd9, 0x24] };
    let expected: [(bool, bool, &[u16]); 4] = [
        (false, false, &[0x37f, 0, 0xffff, 0xbcde, 0xa5a5, 0x1234, 0xf000]),
        (false, true, &[0x37f, 0, 0xffff, 0xbcde, 0, 0x1234, 0]),
        (true, true, &[0x37f, 0xffff, 0, 0xffff, 0xffff, 0xffff, 0xbcde, 0xa, 0, 0x5a5, 0x1234, 0xf, 0, 0xffff]),
        (
            true,
            false,
            &[0x37f, 0xffff, 0, 0xffff, 0xffff, 0xffff, 0xbcde, 0xffff, 0xa5a5, 0, 0x1234, 0xffff, 0xf000, 0],
        ),
    ];
    for (bits32, protected, words) in expected {
        let mut core = legacy(bits32, protected);
        let before = core.fpu;
        run(&mut core, &store(bits32));
        let stored: Vec<u16> = (0..words.len() as u64).map(|at| word(&mut core, 2 * at)).collect();
        assert_eq!(stored, words, "32-bit {bits32}, protected {protected}");
        run(&mut core, &FNINIT);
        run(&mut core, &load(bits32));
        let expected = match (bits32, protected) {
            (false, true) => FpuState { instruction: 0xbcde, operand: 0x1234, opcode: 0, ..before },
            _ => before,
        };
        assert_eq!(core.fpu, expected, "32-bit {bits32}, protected {protected}");
    }
}

#[test]
fn limits_of_images() {
    let mut core = legacy(true, true);
    let before = core.fpu;
    core.sys.segs[3].limit = OPERAND as u32 + 26;
    expect_fault(&mut core, &FNSTENV, vector::GP);
    core.sys.segs[3].limit = OPERAND as u32 + 106;
    expect_fault(&mut core, &[0xdd, 0x36], vector::GP);
    assert_eq!(core.fpu, before);
    core.sys.segs[3].limit = OPERAND as u32 + 107;
    run(&mut core, &[0xdd, 0x36]);
}
