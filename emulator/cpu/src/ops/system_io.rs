//! IN, OUT, INS, OUTS. Every access ends the running block: a device may have asked for something. So a repeated one
//! takes one iteration at a time.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::string::{address_size, advance, destination, destination_linear, mask, read_source};
use super::{by_width, segment_slot};
use crate::core::Core;
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, OP_REP, OP_REPNE, Op, Stop};
use crate::width::Width;

const RDX: usize = 2;
const RSI: usize = 6;
const RDI: usize = 7;

/// Handler of an instruction of this family. `aux` is 1 when the port is in DX, else the port is in `imm`.
pub(super) fn select(ins: &Instruction, op: &mut Op, mode: CodeMode) -> Option<Handler> {
    let accumulator = |index: u32| ins.op_register(index).size();
    Some(match ins.mnemonic() {
        Mnemonic::In => {
            set_port(ins, 1, op);
            by_width!(accumulator(0), input)
        }
        Mnemonic::Out => {
            set_port(ins, 0, op);
            by_width!(accumulator(1), output)
        }
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => {
            op.flags |= address_size(ins);
            by_width!(string_size(ins), input_string)
        }
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => {
            op.flags |= address_size(ins);
            op.seg = segment_slot(ins.memory_segment(), mode);
            by_width!(string_size(ins), output_string)
        }
        _ => return None,
    })
}

fn string_size(ins: &Instruction) -> usize {
    match ins.mnemonic() {
        Mnemonic::Insb | Mnemonic::Outsb => 1,
        Mnemonic::Insw | Mnemonic::Outsw => 2,
        _ => 4,
    }
}

fn set_port(ins: &Instruction, index: u32, op: &mut Op) {
    if ins.op_kind(index) == OpKind::Register {
        op.aux = 1;
    } else {
        op.imm = u64::from(ins.immediate8());
    }
}

fn port(core: &Core, op: &Op) -> u16 {
    if op.aux == 1 { core.r[RDX] as u16 } else { op.imm as u16 }
}

fn read_port<T: Width>(core: &mut Core, port: u16) -> T {
    let position = core.position();
    let value = core.bus.port_read(position, port, T::BYTES as usize);
    core.drop_stale();
    core.leave_block();
    core.note_port_breakpoint(port, T::BYTES);
    T::from_u64(u64::from(value))
}

fn write_port<T: Width>(core: &mut Core, port: u16, value: T) {
    let position = core.position();
    core.bus.port_write(position, port, T::BYTES as usize, value.zx() as u32);
    core.drop_stale();
    core.leave_block();
    core.note_port_breakpoint(port, T::BYTES);
}

fn input<T: Width>(core: &mut Core, op: &Op) -> Done {
    let port = port(core, op);
    core.check_ports(port, T::BYTES)?;
    let value = read_port::<T>(core, port);
    T::set(core, 0, value);
    Ok(())
}

fn output<T: Width>(core: &mut Core, op: &Op) -> Done {
    let port = port(core, op);
    core.check_ports(port, T::BYTES)?;
    let value = T::get(core, 0);
    write_port(core, port, value);
    Ok(())
}

/// One iteration of INS. The destination is checked before the device is read: reading may have effects.
fn input_once<T: Width>(core: &mut Core, op: &Op) -> Done {
    let port = core.r[RDX] as u16;
    core.check_ports(port, T::BYTES)?;
    let to = destination_linear::<T>(core, op, true)?;
    core.probe_write(to, T::BYTES, destination(op))?;
    let value = read_port::<T>(core, port);
    core.write::<T>(to, destination(op), value)?;
    advance(core, RDI, T::BYTES, mask(op));
    Ok(())
}

fn output_once<T: Width>(core: &mut Core, op: &Op) -> Done {
    let port = core.r[RDX] as u16;
    core.check_ports(port, T::BYTES)?;
    let value = read_source::<T>(core, op)?;
    write_port(core, port, value);
    advance(core, RSI, T::BYTES, mask(op));
    Ok(())
}

/// The permission is checked even when the count is zero, as processors do.
fn repeated<T: Width>(core: &mut Core, op: &Op, once: fn(&mut Core, &Op) -> Done) -> Done {
    if op.flags & (OP_REP | OP_REPNE) == 0 {
        return once(core, op);
    }
    core.check_ports(core.r[RDX] as u16, T::BYTES)?;
    let body = |core: &mut Core, _most: u64| -> Result<u64, Stop> {
        once(core, op)?;
        Ok(1)
    };
    core.repeat(op, body, |_| false)
}

fn input_string<T: Width>(core: &mut Core, op: &Op) -> Done {
    repeated::<T>(core, op, input_once::<T>)
}

fn output_string<T: Width>(core: &mut Core, op: &Op) -> Done {
    repeated::<T>(core, op, output_once::<T>)
}
