//! FNSTENV, FLDENV, FNSAVE and FRSTOR in their four formats: 16-bit and 32-bit, real-address and protected mode
//! (Intel SDM volume 1, figures 8-9 to 8-12).
//!
//! The selectors of the last instruction and operand are stored as zero: our model, as Intel's since 2013, has them
//! deprecated (CPUID.7.EBX bit 13). In the real-address formats the offsets are stored as linear addresses.

use super::transfer::{pack, unpack};
use super::unit::EXCEPTIONS;
use crate::core::Core;
use crate::flags::VM;
use crate::mmu::{CodeMode, cr0};
use crate::op::{Done, OP_O16, Op, Stop};

/// Bytes of a register in FNSAVE's image.
const REGISTER_BYTES: u64 = 10;

/// The seven fields of the environment, in the width of its format.
type Fields = [u32; 7];

impl Core {
    /// Address `offset` bytes into an image; wraps at 4 GiB outside 64-bit mode.
    pub(crate) fn linear_offset(&self, linear: u64, offset: u64) -> u64 {
        let address = linear.wrapping_add(offset);
        if self.code_mode() == CodeMode::Bits64 { address } else { address & 0xffff_ffff }
    }

    fn is_real_format(&self) -> bool {
        self.sys.cr0 & cr0::PE == 0 || self.flags.has(VM)
    }
}

fn is_short(op: &Op) -> bool {
    op.has(OP_O16)
}

const fn environment_bytes(short: bool) -> u64 {
    if short { 14 } else { 28 }
}

/// The environment as fields; the unused upper halves of 32-bit fields are ones, as processors store them.
fn fields(core: &Core, short: bool) -> Fields {
    let fpu = &core.fpu;
    let (instruction, operand) = (fpu.instruction as u32, fpu.operand as u32);
    let opcode = u32::from(fpu.opcode & 0x7ff);
    let upper = 0xffff_0000;
    let head = [upper | u32::from(fpu.control), upper | u32::from(fpu.status), upper | u32::from(fpu.tag_word())];
    let tail = match (short, core.is_real_format()) {
        (true, true) => [instruction, instruction >> 4 & 0xf000 | opcode, operand, operand >> 4 & 0xf000],
        (true, false) => [instruction, 0, operand, 0],
        (false, true) => [
            upper | instruction & 0xffff,
            (instruction >> 16) << 12 | opcode,
            upper | operand & 0xffff,
            (operand >> 16) << 12,
        ],
        (false, false) => [instruction, opcode << 16, operand, upper],
    };
    [head[0], head[1], head[2], tail[0], tail[1], tail[2], tail[3]]
}

/// Loads an environment. Pending exceptions follow from its status and control words.
fn set_fields(core: &mut Core, short: bool, fields: &Fields) {
    let real = core.is_real_format();
    let [control, status, tags, ip, ip_high, data, data_high] = *fields;
    let fpu = &mut core.fpu;
    fpu.status = status as u16;
    fpu.set_tag_word(tags as u16);
    fpu.set_control(control as u16);
    let (instruction, operand, opcode) = match (short, real) {
        (true, true) => (ip & 0xffff | (ip_high & 0xf000) << 4, data & 0xffff | (data_high & 0xf000) << 4, ip_high),
        // The 16-bit protected format has no opcode.
        (true, false) => (ip & 0xffff, data & 0xffff, 0),
        (false, true) => {
            let high = |field: u32| (field & 0x0fff_f000) << 4;
            (ip & 0xffff | high(ip_high), data & 0xffff | high(data_high), ip_high)
        }
        (false, false) => (ip, data, ip_high >> 16),
    };
    fpu.instruction = u64::from(instruction);
    fpu.operand = u64::from(operand);
    fpu.opcode = opcode as u16 & 0x7ff;
    fpu.instruction_selector = 0;
    fpu.operand_selector = 0;
}

fn write_fields(core: &mut Core, op: &Op, linear: u64, fields: &Fields) -> Done {
    let short = is_short(op);
    for (index, &field) in fields.iter().enumerate() {
        let at = core.linear_offset(linear, index as u64 * if short { 2 } else { 4 });
        if short {
            core.write::<u16>(at, op.seg, field as u16)?;
        } else {
            core.write::<u32>(at, op.seg, field)?;
        }
    }
    Ok(())
}

fn read_fields(core: &mut Core, op: &Op, linear: u64) -> Result<Fields, Stop> {
    let short = is_short(op);
    let mut fields = [0; 7];
    for (index, field) in fields.iter_mut().enumerate() {
        let at = core.linear_offset(linear, index as u64 * if short { 2 } else { 4 });
        *field = if short { u32::from(core.read::<u16>(at, op.seg)?) } else { core.read::<u32>(at, op.seg)? };
    }
    Ok(fields)
}

/// FNSTENV: stores the environment, then masks all exceptions.
pub(super) fn store_environment(core: &mut Core, op: &Op) -> Done {
    core.x87_available()?;
    let bytes = environment_bytes(is_short(op));
    let linear = core.linear(op, bytes, true)?;
    core.probe_write(linear, bytes, op.seg)?;
    let fields = fields(core, is_short(op));
    write_fields(core, op, linear, &fields)?;
    core.fpu.control |= EXCEPTIONS;
    core.fpu.update_summary();
    Ok(())
}

/// FLDENV.
pub(super) fn load_environment(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let bytes = environment_bytes(is_short(op));
    let linear = core.linear(op, bytes, false)?;
    core.probe_read(linear, bytes, op.seg)?;
    let fields = read_fields(core, op, linear)?;
    set_fields(core, is_short(op), &fields);
    Ok(())
}

/// FNSAVE: stores the environment and the registers from ST(0) on, then initialises.
pub(super) fn save(core: &mut Core, op: &Op) -> Done {
    core.x87_available()?;
    let start = environment_bytes(is_short(op));
    let bytes = start + 8 * REGISTER_BYTES;
    let linear = core.linear(op, bytes, true)?;
    core.probe_write(linear, bytes, op.seg)?;
    let fields = fields(core, is_short(op));
    write_fields(core, op, linear, &fields)?;
    for i in 0..8 {
        let packed = pack(core.fpu.get(i));
        let at = start + REGISTER_BYTES * u64::from(i);
        core.write_slow(core.linear_offset(linear, at), packed, REGISTER_BYTES, op.seg)?;
    }
    core.fpu.initialise();
    Ok(())
}

/// FRSTOR.
pub(super) fn restore(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let start = environment_bytes(is_short(op));
    let bytes = start + 8 * REGISTER_BYTES;
    let linear = core.linear(op, bytes, false)?;
    core.probe_read(linear, bytes, op.seg)?;
    let fields = read_fields(core, op, linear)?;
    let mut registers = [0; 8];
    for (i, register) in registers.iter_mut().enumerate() {
        let at = start + REGISTER_BYTES * i as u64;
        *register = core.read_slow(core.linear_offset(linear, at), REGISTER_BYTES, op.seg)?;
    }
    set_fields(core, is_short(op), &fields);
    for (i, packed) in registers.into_iter().enumerate() {
        let physical = (usize::from(core.fpu.top()) + i) & 7;
        core.fpu.regs[physical] = unpack(packed);
    }
    Ok(())
}
