//! FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XSAVEC and XRSTOR, each with and without REX.W (Intel SDM volume 1, 10.5 and
//! chapter 13). XSAVES and XRSTORS are not in the model.
//!
//! A component counts as in use (XINUSE) exactly when its contents differ from the initial ones. XSAVEOPT leaves out what
//! is not in use; it never leaves out what is unmodified, so nothing depends on the history of the area. Selectors of
//! the last x87 instruction and operand are stored as zero, whatever was loaded.

use iced_x86::{Instruction, Mnemonic};

use super::x87::{pack, unpack};
use crate::core::Core;
use crate::fault::vector;
use crate::mmu::{CodeMode, cr0, cr4};
use crate::op::{Done, Handler, OP_O64, Op, Stop};
use crate::state::{FpuState, VectorState};

/// State component: x87.
const X87: u64 = 1;
/// State component: XMM registers and MXCSR.
const SSE: u64 = 1 << 1;
/// State component: upper halves of the YMM registers; not in `virtft-v2`, whose XCR0 never has it.
const AVX: u64 = 1 << 2;

/// MXCSR bits that exist, as FXSAVE reports them.
pub(crate) const MXCSR_MASK: u32 = 0xffff;
const MXCSR_INITIAL: u32 = 0x1f80;

/// Offset of MXCSR and its mask.
const MXCSR_AT: u64 = 24;
/// Offset of ST(0).
const STACK_AT: u64 = 32;
/// Offset of XMM0.
const XMM_AT: u64 = 160;
/// Size of the FXSAVE area, and offset of the XSAVE header.
const LEGACY_BYTES: u64 = 512;
/// Offset of the first extended component in both formats, and of the AVX component in the standard format.
const EXTENDED_AT: u64 = 576;
const AVX_BYTES: u64 = 256;
/// XCOMP_BV: the area is in the compacted format.
const COMPACTED: u64 = 1 << 63;

/// A save area: its linear address and the segment slot to report faults with.
#[derive(Debug, Clone, Copy)]
struct Area {
    linear: u64,
    seg: u8,
    /// 64-bit instruction and operand pointers (REX.W).
    wide: bool,
}

impl Area {
    fn read(self, core: &mut Core, offset: u64) -> Result<u64, Stop> {
        core.read::<u64>(core.linear_offset(self.linear, offset), self.seg)
    }

    fn write(self, core: &mut Core, offset: u64, value: u64) -> Done {
        core.write::<u64>(core.linear_offset(self.linear, offset), self.seg, value)
    }

    fn read128(self, core: &mut Core, offset: u64) -> Result<u128, Stop> {
        core.read128(core.linear_offset(self.linear, offset), self.seg)
    }

    fn write128(self, core: &mut Core, offset: u64, value: u128) -> Done {
        core.write128(core.linear_offset(self.linear, offset), self.seg, value)
    }

    /// Raises what writing `start..end` would raise.
    fn probe(self, core: &mut Core, start: u64, end: u64) -> Done {
        core.probe_write(core.linear_offset(self.linear, start), end - start, self.seg)
    }

    fn write_x87(self, core: &mut Core) -> Done {
        let fpu = core.fpu;
        let words = u64::from(fpu.control)
            | u64::from(fpu.status) << 16
            | u64::from(fpu.tags) << 32
            | u64::from(fpu.opcode & 0x7ff) << 48;
        let mask = if self.wide { u64::MAX } else { 0xffff_ffff };
        self.write(core, 0, words)?;
        self.write(core, 8, fpu.instruction & mask)?;
        self.write(core, 16, fpu.operand & mask)?;
        for i in 0..8 {
            let value = fpu.regs[(usize::from(fpu.top()) + i) & 7];
            self.write128(core, STACK_AT + 16 * i as u64, pack(value))?;
        }
        Ok(())
    }

    fn read_x87(self, core: &mut Core) -> Result<FpuState, Stop> {
        let words = self.read(core, 0)?;
        let mask = if self.wide { u64::MAX } else { 0xffff_ffff };
        let mut fpu = FpuState {
            status: (words >> 16) as u16,
            tags: (words >> 32) as u8,
            opcode: (words >> 48) as u16 & 0x7ff,
            instruction: self.read(core, 8)? & mask,
            operand: self.read(core, 16)? & mask,
            ..FpuState::default()
        };
        fpu.set_control(words as u16);
        for i in 0..8 {
            let packed = self.read128(core, STACK_AT + 16 * i as u64)?;
            fpu.regs[(usize::from(fpu.top()) + i) & 7] = unpack(packed);
        }
        Ok(fpu)
    }

    fn write_mxcsr(self, core: &mut Core) -> Done {
        let value = u64::from(core.vector.mxcsr) | u64::from(MXCSR_MASK) << 32;
        self.write(core, MXCSR_AT, value)
    }

    /// Reads MXCSR; #GP when it has bits that do not exist.
    fn read_mxcsr(self, core: &mut Core) -> Result<u32, Stop> {
        let value = self.read(core, MXCSR_AT)? as u32;
        if value & !MXCSR_MASK != 0 {
            return Err(core.gp(0));
        }
        Ok(value)
    }

    /// Writes one half (0: XMM, 1: upper) of each vector register from `at` on.
    fn write_halves(self, core: &mut Core, at: u64, half: usize) -> Done {
        for i in 0..vector_registers(core) {
            let words = &core.vector.regs[i][2 * half..];
            let value = u128::from(words[0]) | u128::from(words[1]) << 64;
            self.write128(core, at + 16 * i as u64, value)?;
        }
        Ok(())
    }

    fn read_halves(self, core: &mut Core, at: u64, half: usize, into: &mut VectorState) -> Done {
        for i in 0..vector_registers(core) {
            let value = self.read128(core, at + 16 * i as u64)?;
            into.regs[i][2 * half] = value as u64;
            into.regs[i][2 * half + 1] = (value >> 64) as u64;
        }
        Ok(())
    }
}

/// How many vector registers the current mode reaches; the others stay as they are.
fn vector_registers(core: &Core) -> usize {
    if core.code_mode() == CodeMode::Bits64 { 16 } else { 8 }
}

fn clear_halves(core: &Core, half: usize, into: &mut VectorState) {
    for register in &mut into.regs[..vector_registers(core)] {
        register[2 * half..2 * half + 2].fill(0);
    }
}

/// The components whose contents are not the initial ones; also what XGETBV with ECX=1 gives, ANDed with XCR0.
pub(crate) fn in_use(core: &Core) -> u64 {
    let reached = &core.vector.regs[..vector_registers(core)];
    let any = |half: usize| reached.iter().any(|register| register[2 * half..2 * half + 2] != [0, 0]);
    let mut components = 0;
    if core.fpu != FpuState::default() {
        components |= X87;
    }
    if any(0) {
        components |= SSE;
    }
    if any(1) {
        components |= AVX;
    }
    components
}

fn area(core: &mut Core, op: &Op, size: u64, alignment: u64, write: bool) -> Result<Area, Stop> {
    let linear = core.linear(op, size, write)?;
    if linear & (alignment - 1) != 0 {
        return Err(core.gp(0));
    }
    Ok(Area { linear, seg: op.seg, wide: op.has(OP_O64) })
}

fn fxsave(core: &mut Core, op: &Op) -> Done {
    core.x87_available()?;
    let area = area(core, op, LEGACY_BYTES, 16, true)?;
    area.probe(core, 0, LEGACY_BYTES)?;
    area.write_x87(core)?;
    area.write_mxcsr(core)?;
    area.write_halves(core, XMM_AT, 0)
}

fn fxrstor(core: &mut Core, op: &Op) -> Done {
    core.x87_available()?;
    let area = area(core, op, LEGACY_BYTES, 16, false)?;
    let fpu = area.read_x87(core)?;
    let mxcsr = area.read_mxcsr(core)?;
    let mut vector = core.vector;
    area.read_halves(core, XMM_AT, 0, &mut vector)?;
    core.fpu = fpu;
    core.vector = VectorState { mxcsr, ..vector };
    Ok(())
}

/// Which of the instructions that save by component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Save {
    Plain,
    Optimised,
    Compacted,
}

/// Checks common to the XSAVE family; the requested-feature bitmap.
fn requested(core: &mut Core) -> Result<u64, Stop> {
    if core.sys.cr4 & cr4::OSXSAVE == 0 {
        return Err(core.ud());
    }
    if core.sys.cr0 & cr0::TS != 0 {
        return Err(core.raise(vector::NM));
    }
    let mask = core.r[2] << 32 | core.r[0] & 0xffff_ffff;
    Ok(core.sys.xcr0 & mask)
}

fn save(core: &mut Core, op: &Op, kind: Save) -> Done {
    let requested = requested(core)?;
    let mut used = in_use(core);
    if kind == Save::Compacted && core.vector.mxcsr != MXCSR_INITIAL {
        used |= SSE;
    }
    let saved = if kind == Save::Plain { requested } else { requested & used };
    let end = if saved & AVX != 0 { EXTENDED_AT + AVX_BYTES } else { EXTENDED_AT };
    let area = area(core, op, end, 64, true)?;
    let with_mxcsr = if kind == Save::Compacted { saved & SSE != 0 } else { requested & (SSE | AVX) != 0 };
    let start = if saved & (X87 | SSE) != 0 || with_mxcsr { 0 } else { LEGACY_BYTES };
    area.probe(core, start, end)?;
    // The header's bits of components that were not requested stay, except in the compacted format.
    let (present, format) = match kind {
        Save::Compacted => (saved, Some(COMPACTED | requested)),
        _ => (area.read(core, LEGACY_BYTES)? & !requested | requested & used, None),
    };
    if saved & X87 != 0 {
        area.write_x87(core)?;
    }
    if with_mxcsr {
        area.write_mxcsr(core)?;
    }
    if saved & SSE != 0 {
        area.write_halves(core, XMM_AT, 0)?;
    }
    if saved & AVX != 0 {
        area.write_halves(core, EXTENDED_AT, 1)?;
    }
    area.write(core, LEGACY_BYTES, present)?;
    match format {
        Some(format) => area.write(core, LEGACY_BYTES + 8, format),
        None => Ok(()),
    }
}

fn xsave(core: &mut Core, op: &Op) -> Done {
    save(core, op, Save::Plain)
}

fn xsaveopt(core: &mut Core, op: &Op) -> Done {
    save(core, op, Save::Optimised)
}

fn xsavec(core: &mut Core, op: &Op) -> Done {
    save(core, op, Save::Compacted)
}

/// Reads and checks the header: the components present, and whether the area is compacted.
fn header(core: &mut Core, area: Area) -> Result<(u64, bool), Stop> {
    let mut words = [0; 8];
    for (index, word) in words.iter_mut().enumerate() {
        *word = area.read(core, LEGACY_BYTES + 8 * index as u64)?;
    }
    let [present, format, ..] = words;
    let compacted = format & COMPACTED != 0;
    let valid = if compacted {
        let components = format & !COMPACTED;
        components & !core.sys.xcr0 == 0 && present & !components == 0 && words[2..].iter().all(|&word| word == 0)
    } else {
        present & !core.sys.xcr0 == 0 && words[1..3] == [0, 0]
    };
    if valid { Ok((present, compacted)) } else { Err(core.gp(0)) }
}

fn xrstor(core: &mut Core, op: &Op) -> Done {
    let requested = requested(core)?;
    let area = area(core, op, EXTENDED_AT, 64, false)?;
    let (present, compacted) = header(core, area)?;
    let loaded = requested & present;
    let mut fpu = core.fpu;
    let mut vector = core.vector;
    if requested & X87 != 0 {
        fpu = if loaded & X87 != 0 { area.read_x87(core)? } else { FpuState::default() };
    }
    if compacted {
        if loaded & SSE != 0 {
            vector.mxcsr = area.read_mxcsr(core)?;
        } else if requested & SSE != 0 {
            vector.mxcsr = MXCSR_INITIAL;
        }
    } else if requested & (SSE | AVX) != 0 {
        // The standard format loads MXCSR whether or not the component is present.
        vector.mxcsr = area.read_mxcsr(core)?;
    }
    for (component, half, at) in [(SSE, 0, XMM_AT), (AVX, 1, EXTENDED_AT)] {
        if loaded & component != 0 {
            area.read_halves(core, at, half, &mut vector)?;
        } else if requested & component != 0 {
            clear_halves(core, half, &mut vector);
        }
    }
    core.fpu = fpu;
    core.vector = vector;
    Ok(())
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    let (handler, wide): (Handler, bool) = match ins.mnemonic() {
        Mnemonic::Fxsave => (fxsave, false),
        Mnemonic::Fxsave64 => (fxsave, true),
        Mnemonic::Fxrstor => (fxrstor, false),
        Mnemonic::Fxrstor64 => (fxrstor, true),
        Mnemonic::Xsave => (xsave, false),
        Mnemonic::Xsave64 => (xsave, true),
        Mnemonic::Xsaveopt => (xsaveopt, false),
        Mnemonic::Xsaveopt64 => (xsaveopt, true),
        Mnemonic::Xsavec => (xsavec, false),
        Mnemonic::Xsavec64 => (xsavec, true),
        Mnemonic::Xrstor => (xrstor, false),
        Mnemonic::Xrstor64 => (xrstor, true),
        _ => return None,
    };
    if wide {
        op.flags |= OP_O64;
    }
    Some(handler)
}
