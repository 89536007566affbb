//! Layouts, components and refusals of FXSAVE, XSAVE and their relatives.

use super::{OPERAND, expect_fault, guest, legacy, quad, read_memory, run, write_memory};
use crate::core::Core;
use crate::fault::vector;
use crate::mmu::{cr0, cr4};
use crate::state::{FpuState, VectorState};

const FXSAVE: &[u8] = &[0x0f, 0xae, 0x06];
const FXRSTOR: &[u8] = &[0x0f, 0xae, 0x0e];
const XSAVE: &[u8] = &[0x0f, 0xae, 0x26];
const XSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x26];
const XSAVEOPT: &[u8] = &[0x0f, 0xae, 0x36];
const XSAVEC: &[u8] = &[0x0f, 0xc7, 0x26];
const XRSTOR: &[u8] = &[0x0f, 0xae, 0x2e];
const XRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x2e];

/// Fills every register with something recognisable.
fn fill(core: &mut Core) {
    core.fpu = FpuState { control: 0x27f, status: 0x3100, tags: 0x5a, opcode: 0x123, ..FpuState::default() };
    core.fpu.instruction = 0x1122_3344_5566_7788;
    core.fpu.operand = 0x99aa_bbcc_ddee_ff00;
    for (n, register) in (0..).zip(&mut core.fpu.regs) {
        register.mantissa = 1 << 63 | n;
        register.sign_exponent = 0x4000 + n as u16;
    }
    for (n, register) in (0..).zip(&mut core.vector.regs) {
        *register = [0x100 + n, 0x200 + n, 0, 0];
    }
    core.vector.mxcsr = 0x1fa0;
}

#[test]
fn fxsave_layout() {
    for wide in [false, true] {
        let mut core = guest();
        fill(&mut core);
        write_memory(&mut core, OPERAND, &[0xcc; 512]);
        let prefix: &[u8] = if wide { &[0x48] } else { &[] };
        run(&mut core, &[prefix, FXSAVE].concat());
        assert_eq!(quad(&mut core, 0), 0x0123_005a_3100_027f);
        let pointers = (quad(&mut core, 8), quad(&mut core, 16));
        let expected = if wide { (0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00) } else { (0x5566_7788, 0xddee_ff00) };
        assert_eq!(pointers, expected);
        assert_eq!(quad(&mut core, 24), 0xffff_0000_1fa0);
        // TOP is 6: ST(0) is R6.
        assert_eq!((quad(&mut core, 32), quad(&mut core, 40)), (1 << 63 | 6, 0x4006));
        assert_eq!((quad(&mut core, 64), quad(&mut core, 72)), (1 << 63, 0x4000));
        assert_eq!((quad(&mut core, 160), quad(&mut core, 168)), (0x100, 0x200));
        assert_eq!((quad(&mut core, 400), quad(&mut core, 408)), (0x10f, 0x20f));
        assert_eq!(read_memory(&mut core, OPERAND + 416, 96), [0xcc; 96], "reserved bytes stay");

        let (fpu, vector) = (core.fpu, core.vector);
        core.fpu = FpuState::default();
        core.vector = VectorState::default();
        run(&mut core, &[prefix, FXRSTOR].concat());
        let restored = FpuState { instruction: expected.0, operand: expected.1, ..fpu };
        assert_eq!((core.fpu, core.vector), (restored, vector));
    }
}

#[test]
fn fxsave_faults() {
    let mut core = guest();
    core.r[6] = OPERAND + 8;
    expect_fault(&mut core, FXSAVE, vector::GP);
    expect_fault(&mut core, FXRSTOR, vector::GP);
    core.r[6] = OPERAND;
    write_memory(&mut core, OPERAND + 24, &0x1_1f80u32.to_le_bytes());
    let before = core.fpu;
    expect_fault(&mut core, FXRSTOR, vector::GP);
    assert_eq!((core.fpu, core.vector), (before, VectorState::default()));
}

#[test]
fn fxsave_outside_64_bit_mode_has_eight_registers() {
    let mut core = legacy(true, true);
    fill(&mut core);
    write_memory(&mut core, OPERAND, &[0; 512]);
    run(&mut core, FXSAVE);
    assert_eq!((quad(&mut core, 160 + 112), quad(&mut core, 160 + 128)), (0x107, 0));
    core.vector.regs[8] = [7, 8, 0, 0];
    run(&mut core, FXRSTOR);
    assert_eq!(core.vector.regs[8], [7, 8, 0, 0]);
}

/// EDX:EAX for the XSAVE family.
fn request(core: &mut Core, components: u64) {
    core.r[0] = components & 0xffff_ffff;
    core.r[2] = components >> 32;
}

#[test]
fn xsave_by_component() {
    let mut core = guest();
    fill(&mut core);
    write_memory(&mut core, OPERAND, &[0; 1024]);
    write_memory(&mut core, OPERAND + 512, &u64::MAX.to_le_bytes());
    request(&mut core, 2);
    run(&mut core, XSAVE);
    assert_eq!((quad(&mut core, 0), quad(&mut core, 32)), (0, 0), "x87 was not asked for");
    assert_eq!((quad(&mut core, 24), quad(&mut core, 160)), (0xffff_0000_1fa0, 0x100));
    assert_eq!(quad(&mut core, 512), u64::MAX, "bits of other components stay");
    // All asked for, but only those in XCR0 are saved.
    request(&mut core, u64::MAX);
    run(&mut core, XSAVE64);
    assert_eq!(quad(&mut core, 512), !3 | 3);
    assert_eq!(quad(&mut core, 8), 0x1122_3344_5566_7788);
    write_memory(&mut core, OPERAND + 512, &[0; 64]);
    run(&mut core, XSAVE64);
    assert_eq!((quad(&mut core, 512), quad(&mut core, 520)), (3, 0));

    let (fpu, vector) = (core.fpu, core.vector);
    core.fpu = FpuState::default();
    core.vector = VectorState::default();
    run(&mut core, XRSTOR64);
    assert_eq!((core.fpu, core.vector), (fpu, vector));
    // A component that is not present is initialised; MXCSR is loaded all the same.
    write_memory(&mut core, OPERAND + 512, &1u64.to_le_bytes());
    run(&mut core, XRSTOR64);
    assert_eq!((core.fpu, core.vector.regs), (fpu, [[0; 4]; 16]));
    assert_eq!(core.vector.mxcsr, 0x1fa0);
    // What is not asked for stays.
    write_memory(&mut core, OPERAND + 512, &0u64.to_le_bytes());
    core.vector = vector;
    request(&mut core, 1);
    run(&mut core, XRSTOR64);
    assert_eq!((core.fpu, core.vector), (FpuState::default(), vector));
}

#[test]
fn xsaveopt_and_xsavec_leave_out_what_is_initial() {
    let mut core = guest();
    fill(&mut core);
    core.vector.regs = [[0; 4]; 16];
    write_memory(&mut core, OPERAND, &[0xcc; 1024]);
    write_memory(&mut core, OPERAND + 512, &[0; 64]);
    request(&mut core, 3);
    run(&mut core, XSAVEOPT);
    assert_eq!(quad(&mut core, 512), 1);
    assert_eq!((quad(&mut core, 24), quad(&mut core, 160)), (0xffff_0000_1fa0, 0xcccc_cccc_cccc_cccc));

    // MXCSR that is not initial counts as SSE state in the compacted format.
    run(&mut core, XSAVEC);
    assert_eq!((quad(&mut core, 512), quad(&mut core, 520)), (3, 1 << 63 | 3));
    core.vector.mxcsr = 0x1f80;
    core.fpu = FpuState::default();
    run(&mut core, XSAVEC);
    assert_eq!((quad(&mut core, 512), quad(&mut core, 520)), (0, 1 << 63 | 3));
    fill(&mut core);
    run(&mut core, XRSTOR);
    assert_eq!((core.fpu, core.vector), (FpuState::default(), VectorState::default()));
}

#[test]
fn avx_component() {
    for (save, restore) in [(XSAVE, XRSTOR), (XSAVEC, XRSTOR)] {
        let mut core = guest();
        core.sys.xcr0 = 7;
        fill(&mut core);
        for (n, register) in (0..).zip(&mut core.vector.regs) {
            register[2] = 0x300 + n;
            register[3] = 0x400 + n;
        }
        write_memory(&mut core, OPERAND, &[0; 1024]);
        request(&mut core, 6);
        run(&mut core, save);
        assert_eq!((quad(&mut core, 576), quad(&mut core, 576 + 248)), (0x300, 0x40f));
        assert_eq!(quad(&mut core, 512), 6);
        let vector = core.vector;
        core.vector = VectorState::default();
        run(&mut core, restore);
        assert_eq!(core.vector, vector);
    }
}

#[test]
fn xrstor_refuses() {
    let mut core = guest();
    fill(&mut core);
    let (fpu, vector) = (core.fpu, core.vector);
    request(&mut core, 3);
    // XSTATE_BV beyond XCR0; XCOMP_BV in the standard format; reserved header bytes; XSTATE_BV beyond XCOMP_BV;
    // XCOMP_BV beyond XCR0.
    let headers: [[u64; 4]; 6] = [
        [4, 0, 0, 0],
        [3, 1, 0, 0],
        [3, 0, 1, 0],
        [3, 1 << 63 | 1, 0, 0],
        [3, 1 << 63 | 7, 0, 0],
        [3, 1 << 63 | 3, 0, 1],
    ];
    for header in headers {
        write_memory(&mut core, OPERAND, &[0; 576]);
        for (at, word) in (0..).zip(header) {
            write_memory(&mut core, OPERAND + 512 + 8 * at, &word.to_le_bytes());
        }
        expect_fault(&mut core, XRSTOR, vector::GP);
    }
    // The standard format does not look at the last 40 bytes of its header.
    write_memory(&mut core, OPERAND, &[0; 576]);
    write_memory(&mut core, OPERAND + 512, &1u64.to_le_bytes());
    write_memory(&mut core, OPERAND + 536, &[1]);
    write_memory(&mut core, OPERAND + 24, &0x1_0000u32.to_le_bytes());
    expect_fault(&mut core, XRSTOR, vector::GP);
    assert_eq!((core.fpu, core.vector), (fpu, vector));
    write_memory(&mut core, OPERAND + 24, &[0; 4]);
    run(&mut core, XRSTOR);

    core.r[6] = OPERAND + 32;
    for instruction in [XSAVE, XSAVEOPT, XSAVEC, XRSTOR] {
        expect_fault(&mut core, instruction, vector::GP);
    }
    core.sys.cr0 |= cr0::TS;
    expect_fault(&mut core, XSAVE, vector::NM);
    core.sys.cr4 &= !cr4::OSXSAVE;
    expect_fault(&mut core, XSAVE, vector::UD);
}
