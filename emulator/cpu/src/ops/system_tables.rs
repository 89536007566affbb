//! Descriptor-table registers, LDTR and TR, the machine status word, and LAR, LSL, VERR, VERW, ARPL.

use super::source;
use super::system::{set_sized, store_selector};
use crate::core::Core;
use crate::flags;
use crate::mmu::cr4;
use crate::op::{Done, OP_MEMORY, Op, Stop};
use crate::state::TableRegister;
use crate::sys::{Descriptor, is_null, kind};
use crate::width::Width;

/// UMIP: #GP(0) for instructions that show system registers to programs.
fn refuse_users(core: &mut Core) -> Done {
    if core.sys.cpl > 0 && core.sys.cr4 & cr4::UMIP != 0 { Err(core.gp(0)) } else { Ok(()) }
}

/// #UD outside protected mode.
fn require_protected(core: &mut Core) -> Done {
    if core.protected() { Ok(()) } else { Err(core.ud()) }
}

fn store_table(core: &mut Core, op: &Op, table: TableRegister) -> Done {
    refuse_users(core)?;
    let base_size = if op.aux == 8 { 8 } else { 4 };
    let linear = core.linear(op, 2 + base_size, true)?;
    core.probe_write(linear, 2 + base_size, op.seg)?;
    core.write::<u16>(linear, op.seg, table.limit)?;
    let at = linear.wrapping_add(2) & core.code_view.linear_mask;
    if base_size == 8 {
        core.write::<u64>(at, op.seg, table.base)
    } else {
        core.write::<u32>(at, op.seg, table.base as u32)
    }
}

fn load_table(core: &mut Core, op: &Op) -> Result<TableRegister, Stop> {
    core.require_ring0()?;
    let base_size = if op.aux == 8 { 8 } else { 4 };
    let linear = core.linear(op, 2 + base_size, false)?;
    let limit = core.read::<u16>(linear, op.seg)?;
    let at = linear.wrapping_add(2) & core.code_view.linear_mask;
    let base = match op.aux {
        8 => core.read::<u64>(at, op.seg)?,
        4 => u64::from(core.read::<u32>(at, op.seg)?),
        // With 16-bit operands the base has 24 bits.
        _ => u64::from(core.read::<u32>(at, op.seg)?) & 0xff_ffff,
    };
    if !crate::access::is_canonical(base) {
        return Err(core.gp(0));
    }
    Ok(TableRegister { base, limit })
}

pub(super) fn sgdt(core: &mut Core, op: &Op) -> Done {
    let table = core.sys.gdtr;
    store_table(core, op, table)
}

pub(super) fn sidt(core: &mut Core, op: &Op) -> Done {
    let table = core.sys.idtr;
    store_table(core, op, table)
}

pub(super) fn lgdt(core: &mut Core, op: &Op) -> Done {
    core.sys.gdtr = load_table(core, op)?;
    Ok(())
}

pub(super) fn lidt(core: &mut Core, op: &Op) -> Done {
    core.sys.idtr = load_table(core, op)?;
    Ok(())
}

pub(super) fn sldt(core: &mut Core, op: &Op) -> Done {
    require_protected(core)?;
    refuse_users(core)?;
    let selector = core.sys.ldtr.selector;
    store_selector(core, op, selector)
}

pub(super) fn str(core: &mut Core, op: &Op) -> Done {
    require_protected(core)?;
    refuse_users(core)?;
    let selector = core.sys.tr.selector;
    store_selector(core, op, selector)
}

/// SMSW: to a register as much of CR0 as fits.
pub(super) fn smsw(core: &mut Core, op: &Op) -> Done {
    refuse_users(core)?;
    let word = core.sys.cr0;
    if op.has(OP_MEMORY) {
        return core.store::<u16>(op, word as u16);
    }
    set_sized(core, op.dst, word, op.aux);
    Ok(())
}

pub(super) fn lldt(core: &mut Core, op: &Op) -> Done {
    require_protected(core)?;
    core.require_ring0()?;
    let selector = source::<u16>(core, op)?;
    core.load_ldt(selector)
}

pub(super) fn ltr(core: &mut Core, op: &Op) -> Done {
    require_protected(core)?;
    core.require_ring0()?;
    let selector = source::<u16>(core, op)?;
    core.load_task(selector)
}

pub(super) fn lmsw(core: &mut Core, op: &Op) -> Done {
    core.require_ring0()?;
    let word = source::<u16>(core, op)?;
    core.write_machine_status(word)
}

fn set_zf(core: &mut Core, value: bool) {
    let word = core.flags.arithmetic() & !flags::ZF;
    core.flags.set_arithmetic(word | if value { flags::ZF } else { 0 });
}

/// The descriptor that a selector names, when there is one that the program may see.
fn visible(core: &mut Core, selector: u16) -> Result<Option<Descriptor>, Stop> {
    if is_null(selector) {
        return Ok(None);
    }
    let Some(address) = core.entry_address(selector, 8) else { return Ok(None) };
    let raw = core.read_system(address, 8)?;
    let descriptor = Descriptor { raw, address, selector };
    let outranked = descriptor.dpl() < core.sys.cpl.max(descriptor.rpl());
    Ok((descriptor.conforming() || !outranked).then_some(descriptor))
}

fn verify(core: &mut Core, op: &Op, good: fn(&Descriptor) -> bool) -> Done {
    require_protected(core)?;
    let selector = source::<u16>(core, op)?;
    let found = visible(core, selector)?;
    set_zf(core, found.is_some_and(|descriptor| good(&descriptor)));
    Ok(())
}

pub(super) fn verr(core: &mut Core, op: &Op) -> Done {
    verify(core, op, Descriptor::readable)
}

pub(super) fn verw(core: &mut Core, op: &Op) -> Done {
    verify(core, op, Descriptor::writable_data)
}

/// LAR and LSL: the descriptor, when its type is code, data or one of `kinds`. In long mode a system descriptor
/// has 16 bytes and the 16-bit kinds do not exist.
fn inspected(core: &mut Core, op: &Op, kinds: &[u8]) -> Result<Option<Descriptor>, Stop> {
    require_protected(core)?;
    let selector = source::<u16>(core, op)?;
    let Some(found) = visible(core, selector)? else { return Ok(None) };
    let Some(kind) = found.kind() else { return Ok(Some(found)) };
    if !kinds.contains(&kind) {
        return Ok(None);
    }
    if core.long_active() {
        let narrow = [kind::TSS16, kind::TSS16_BUSY, kind::CALL_GATE16, kind::TASK_GATE];
        if narrow.contains(&kind) || core.entry_address(selector, 16).is_none() {
            return Ok(None);
        }
        let upper = core.read_system(found.address.wrapping_add(8), 8)?;
        if upper >> 40 & 0x1f != 0 {
            return Ok(None);
        }
    }
    Ok(Some(found))
}

pub(super) fn lar(core: &mut Core, op: &Op) -> Done {
    let kinds = [
        kind::TSS16,
        kind::LDT,
        kind::TSS16_BUSY,
        kind::CALL_GATE16,
        kind::TASK_GATE,
        kind::TSS,
        kind::TSS_BUSY,
        kind::CALL_GATE,
    ];
    let found = inspected(core, op, &kinds)?;
    if let Some(descriptor) = found {
        let rights = descriptor.raw >> 32 & 0x00f0_ff00;
        set_sized(core, op.dst, rights, op.aux);
    }
    set_zf(core, found.is_some());
    Ok(())
}

pub(super) fn lsl(core: &mut Core, op: &Op) -> Done {
    let kinds = [kind::TSS16, kind::LDT, kind::TSS16_BUSY, kind::TSS, kind::TSS_BUSY];
    let found = inspected(core, op, &kinds)?;
    if let Some(descriptor) = found {
        set_sized(core, op.dst, u64::from(descriptor.limit()), op.aux);
    }
    set_zf(core, found.is_some());
    Ok(())
}

pub(super) fn arpl(core: &mut Core, op: &Op) -> Done {
    require_protected(core)?;
    let wanted = u16::get(core, op.src) & 3;
    let raise = |selector: u16| if selector & 3 < wanted { selector & !3 | wanted } else { selector };
    if op.has(OP_MEMORY) {
        return core.modify::<u16>(op, |core, old| {
            set_zf(core, raise(old) != old);
            raise(old)
        });
    }
    let old = u16::get(core, op.dst);
    set_zf(core, raise(old) != old);
    u16::set(core, op.dst, raise(old));
    Ok(())
}
