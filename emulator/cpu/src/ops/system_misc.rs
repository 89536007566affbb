//! HLT, PAUSE, CPUID, time-stamp counter, random numbers, bases of FS and GS, BOUND.

use super::system::set_sized;
use crate::core::Core;
use crate::fault::vector;
use crate::flags::CF;
use crate::mmu::cr4;
use crate::op::{Done, Op};
use crate::state::{Activity, GS};
use crate::width::Width;

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;

pub(super) fn hlt(core: &mut Core, _op: &Op) -> Done {
    core.require_ring0()?;
    core.sys.activity = Activity::Halted;
    core.yielded = true;
    core.leave_block();
    Ok(())
}

pub(super) fn pause(core: &mut Core, _op: &Op) -> Done {
    core.yielded = true;
    core.leave_block();
    Ok(())
}

pub(super) fn cpuid(core: &mut Core, _op: &Op) -> Done {
    let [a, b, c, d] = core.own_cpuid(core.r[RAX] as u32, core.r[RCX] as u32);
    core.r[RAX] = u64::from(a);
    core.r[RBX] = u64::from(b);
    core.r[RCX] = u64::from(c);
    core.r[RDX] = u64::from(d);
    Ok(())
}

/// #GP(0) for programs when CR4.TSD is set.
fn check_tsc(core: &mut Core) -> Done {
    if core.sys.cr4 & cr4::TSD != 0 { core.require_ring0() } else { Ok(()) }
}

pub(super) fn rdtsc(core: &mut Core, _op: &Op) -> Done {
    check_tsc(core)?;
    let tsc = core.tsc();
    core.set_edx_eax(tsc);
    Ok(())
}

pub(super) fn rdtscp(core: &mut Core, _op: &Op) -> Done {
    check_tsc(core)?;
    let tsc = core.tsc();
    core.set_edx_eax(tsc);
    core.r[RCX] = core.sys.tsc_aux & 0xffff_ffff;
    Ok(())
}

/// RDPMC: there are no counters.
pub(super) fn rdpmc(core: &mut Core, _op: &Op) -> Done {
    Err(core.gp(0))
}

/// RDRAND and RDSEED: there is always a number.
pub(super) fn rdrand(core: &mut Core, op: &Op) -> Done {
    let value = core.bus.random();
    set_sized(core, op.dst, value, op.aux);
    core.flags.set_arithmetic(CF);
    Ok(())
}

pub(super) fn swapgs(core: &mut Core, _op: &Op) -> Done {
    core.require_ring0()?;
    let base = core.sys.segs[GS].base;
    core.set_segment_base(GS, core.sys.kernel_gs_base);
    core.sys.kernel_gs_base = base;
    Ok(())
}

/// #UD unless CR4.FSGSBASE is set.
fn check_fsgsbase(core: &mut Core) -> Done {
    if core.sys.cr4 & cr4::FSGSBASE != 0 { Ok(()) } else { Err(core.ud()) }
}

pub(super) fn read_base(core: &mut Core, op: &Op) -> Done {
    check_fsgsbase(core)?;
    let base = core.sys.segs[usize::from(op.src)].base;
    set_sized(core, op.dst, base, op.aux);
    Ok(())
}

pub(super) fn write_base(core: &mut Core, op: &Op) -> Done {
    check_fsgsbase(core)?;
    let value = u64::get(core, op.dst);
    let base = if op.aux == 8 { value } else { value & 0xffff_ffff };
    if !crate::access::is_canonical(base) {
        return Err(core.gp(0));
    }
    core.set_segment_base(usize::from(op.src), base);
    Ok(())
}

/// BOUND: #BR when the signed index is outside the pair of bounds in memory.
pub(super) fn bound(core: &mut Core, op: &Op) -> Done {
    let size = u64::from(op.aux);
    let linear = core.linear(op, 2 * size, false)?;
    let second = linear.wrapping_add(size) & core.code_view.linear_mask;
    let (index, low, high) = if size == 2 {
        (u16::get(core, op.dst).sx(), core.read::<u16>(linear, op.seg)?.sx(), core.read::<u16>(second, op.seg)?.sx())
    } else {
        (u32::get(core, op.dst).sx(), core.read::<u32>(linear, op.seg)?.sx(), core.read::<u32>(second, op.seg)?.sx())
    };
    if (index as i64) < low as i64 || index as i64 > high as i64 {
        return Err(core.raise(vector::BR));
    }
    Ok(())
}
