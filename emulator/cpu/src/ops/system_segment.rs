//! MOV, PUSH and POP of segment registers; LDS, LES, LFS, LGS, LSS.

use super::source;
use super::system::{set_sized, store_selector};
use crate::core::Core;
use crate::op::{Done, Op, Stop};
use crate::state::{CS, SS};

/// A load of SS holds back interrupts and debug traps until the next instruction is done.
fn shadow(core: &mut Core, index: usize) {
    if index == SS {
        core.sys.interrupt_shadow = true;
        core.sys.debug_shadow = true;
        core.leave_block();
    }
}

pub(super) fn mov_to_segment(core: &mut Core, op: &Op) -> Done {
    let index = usize::from(op.dst);
    if index == CS || index > 5 {
        return Err(core.ud());
    }
    let selector = source::<u16>(core, op)?;
    core.load_segment(index, selector)?;
    shadow(core, index);
    Ok(())
}

pub(super) fn mov_from_segment(core: &mut Core, op: &Op) -> Done {
    let selector = core.sys.segs[usize::from(op.src)].selector;
    store_selector(core, op, selector)
}

pub(super) fn push_segment(core: &mut Core, op: &Op) -> Done {
    let selector = core.sys.segs[usize::from(op.dst)].selector;
    let size = u64::from(op.aux);
    if size == 4 {
        // Only the selector is written; the upper half of the slot stays what it was.
        let at = core.sp().wrapping_sub(4) & core.sp_mask();
        core.write_stack::<u16>(at, selector)?;
        core.set_sp(at);
        return Ok(());
    }
    core.push_sized(u64::from(selector), size)
}

pub(super) fn pop_segment(core: &mut Core, op: &Op) -> Done {
    let index = usize::from(op.dst);
    let size = u64::from(op.aux);
    let selector = core.peek_stack::<u16>(0)?;
    // POP SS releases with the stack size that it was read with.
    let mask = core.sp_mask();
    let pointer = core.sp().wrapping_add(size) & mask;
    core.load_segment(index, selector)?;
    let rsp = &mut core.r[crate::sys::RSP];
    *rsp = if mask == 0xffff { *rsp & !0xffff | pointer } else { pointer };
    shadow(core, index);
    Ok(())
}

/// Reads a far pointer of `size` bytes of offset: selector and offset.
pub(super) fn load_far(core: &mut Core, op: &Op, size: u64) -> Result<(u16, u64), Stop> {
    let linear = core.linear(op, size + 2, false)?;
    let offset = match size {
        2 => u64::from(core.read::<u16>(linear, op.seg)?),
        4 => u64::from(core.read::<u32>(linear, op.seg)?),
        _ => core.read::<u64>(linear, op.seg)?,
    };
    let at = linear.wrapping_add(size) & core.code_view.linear_mask;
    let selector = core.read::<u16>(at, op.seg)?;
    Ok((selector, offset))
}

pub(super) fn load_pointer(core: &mut Core, op: &Op) -> Done {
    let (selector, offset) = load_far(core, op, u64::from(op.aux))?;
    let index = usize::from(op.src);
    core.load_segment(index, selector)?;
    set_sized(core, op.dst, offset, op.aux);
    // Unlike MOV and POP, LSS sets a consistent stack by itself: there is no shadow.
    Ok(())
}
