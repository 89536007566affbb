//! Control instructions: FNINIT, FNCLEX, FLDCW, FNSTCW, FNSTSW, FINCSTP, FDECSTP, FFREE, FNOP, FWAIT.

use super::float::C1;
use super::unit::{BUSY, ES, EXCEPTIONS};
use crate::core::Core;
use crate::fault::vector;
use crate::mmu::cr0;
use crate::op::{Done, OP_MEMORY, Op};
use crate::width::Width;

/// FNINIT.
pub(super) fn initialise(core: &mut Core, _op: &Op) -> Done {
    core.x87_available()?;
    core.fpu.initialise();
    Ok(())
}

/// FNCLEX: exceptions, stack fault, ES and B.
pub(super) fn clear_exceptions(core: &mut Core, _op: &Op) -> Done {
    core.x87_available()?;
    core.fpu.status &= !(EXCEPTIONS | super::float::SF | ES | BUSY);
    Ok(())
}

/// FLDCW. Unmasking an exception that is set makes it pending.
pub(super) fn load_control(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    let control = core.load::<u16>(op)?;
    core.fpu.set_control(control);
    Ok(())
}

/// FNSTCW.
pub(super) fn store_control(core: &mut Core, op: &Op) -> Done {
    core.x87_available()?;
    core.store::<u16>(op, core.fpu.control)
}

/// FNSTSW to memory or AX.
pub(super) fn store_status(core: &mut Core, op: &Op) -> Done {
    core.x87_available()?;
    if op.has(OP_MEMORY) {
        return core.store::<u16>(op, core.fpu.status);
    }
    u16::set(core, 0, core.fpu.status);
    Ok(())
}

/// FINCSTP and FDECSTP: `op.aux` is added to TOP.
pub(super) fn move_top(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    core.fpu.instruction = core.op_rip(op);
    core.fpu.status &= !C1;
    core.fpu.set_top(core.fpu.top().wrapping_add(op.aux));
    Ok(())
}

/// FFREE, and FFREEP with `op.aux` set.
pub(super) fn free(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    core.fpu.instruction = core.op_rip(op);
    core.fpu.status &= !C1;
    core.fpu.free(op.dst);
    if op.aux != 0 {
        core.fpu.pop();
    }
    Ok(())
}

/// FNENI, FNDISI, FNSETPM: what the 8087 and 287 needed and later processors ignore. They do not wait.
pub(super) fn obsolete(core: &mut Core, _op: &Op) -> Done {
    core.x87_available()
}

/// FNOP.
pub(super) fn nothing(core: &mut Core, op: &Op) -> Done {
    core.x87_ready()?;
    core.fpu.instruction = core.op_rip(op);
    Ok(())
}

/// FWAIT.
pub(super) fn wait(core: &mut Core, _op: &Op) -> Done {
    if core.sys.cr0 & (cr0::MP | cr0::TS) == cr0::MP | cr0::TS {
        return Err(core.raise(vector::NM));
    }
    core.x87_check_pending()
}
