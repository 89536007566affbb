//! Instructions on RFLAGS as a whole and on single flags.

use crate::core::Core;
use crate::flags::{self, ARITHMETIC};
use crate::op::{Done, Op};
use crate::width::Width;

/// AH as a register slot.
const AH: u8 = 0x10;
/// Flags that LAHF and SAHF move.
const LOW_FLAGS: u64 = flags::CF | flags::PF | flags::AF | flags::ZF | flags::SF;

pub(super) fn clc(core: &mut Core, _op: &Op) -> Done {
    core.flags.carry = false;
    Ok(())
}

pub(super) fn stc(core: &mut Core, _op: &Op) -> Done {
    core.flags.carry = true;
    Ok(())
}

pub(super) fn cmc(core: &mut Core, _op: &Op) -> Done {
    core.flags.carry = !core.flags.carry;
    Ok(())
}

pub(super) fn cld(core: &mut Core, _op: &Op) -> Done {
    core.flags.control &= !flags::DF;
    Ok(())
}

pub(super) fn std(core: &mut Core, _op: &Op) -> Done {
    core.flags.control |= flags::DF;
    Ok(())
}

/// #GP(0) unless IOPL allows to change IF.
fn require_iopl(core: &mut Core) -> Done {
    if core.protected() && u64::from(core.sys.cpl) > core.iopl() { Err(core.gp(0)) } else { Ok(()) }
}

pub(super) fn cli(core: &mut Core, _op: &Op) -> Done {
    require_iopl(core)?;
    core.flags.control &= !flags::IF;
    Ok(())
}

/// STI: interrupts are held back for one more instruction, if they were off.
pub(super) fn sti(core: &mut Core, _op: &Op) -> Done {
    require_iopl(core)?;
    if !core.flags.has(flags::IF) {
        core.flags.control |= flags::IF;
        core.sys.interrupt_shadow = true;
        core.leave_block();
    }
    Ok(())
}

pub(super) fn clac(core: &mut Core, _op: &Op) -> Done {
    if core.sys.cpl > 0 {
        return Err(core.ud());
    }
    core.flags.control &= !flags::AC;
    core.update_privilege();
    Ok(())
}

pub(super) fn stac(core: &mut Core, _op: &Op) -> Done {
    if core.sys.cpl > 0 {
        return Err(core.ud());
    }
    core.flags.control |= flags::AC;
    core.update_privilege();
    Ok(())
}

pub(super) fn lahf(core: &mut Core, _op: &Op) -> Done {
    let word = core.flags.bits() & LOW_FLAGS | flags::RESERVED_ONE;
    u8::set(core, AH, word as u8);
    Ok(())
}

pub(super) fn sahf(core: &mut Core, _op: &Op) -> Done {
    let word = u64::from(u8::get(core, AH));
    let kept = core.flags.arithmetic() & (ARITHMETIC & !LOW_FLAGS);
    core.flags.set_arithmetic(word & LOW_FLAGS | kept);
    Ok(())
}

pub(super) fn pushf(core: &mut Core, op: &Op) -> Done {
    let word = core.flags.bits() & !(flags::VM | flags::RF);
    core.push_sized(word, u64::from(op.aux))
}

pub(super) fn popf(core: &mut Core, op: &Op) -> Done {
    let size = u64::from(op.aux);
    let image = core.peek_sized(0, size)?;
    core.release_stack(size);
    core.set_popped_flags(image, size);
    Ok(())
}
