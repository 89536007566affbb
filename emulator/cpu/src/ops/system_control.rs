//! MOV of control and debug registers, MSRs, XCR0, and what concerns caches and translations.

use crate::core::Core;
use crate::cpuid::XCR0_BITS;
use crate::mmu::{cr0, cr4};
use crate::op::{Done, Op};
use crate::width::Width;

const RCX: usize = 1;

pub(super) fn mov_from_control(core: &mut Core, op: &Op) -> Done {
    if !matches!(op.src, 0 | 2 | 3 | 4 | 8) {
        return Err(core.ud());
    }
    core.require_ring0()?;
    let Some(value) = core.read_control(op.src) else { return Err(core.ud()) };
    u64::set(core, op.dst, value);
    Ok(())
}

/// The value of a MOV to a control or debug register: 32 bits outside 64-bit mode.
fn moved(core: &Core, op: &Op) -> u64 {
    let value = u64::get(core, op.src);
    if op.aux == 8 { value } else { value & 0xffff_ffff }
}

pub(super) fn mov_to_control(core: &mut Core, op: &Op) -> Done {
    if !matches!(op.dst, 0 | 2 | 3 | 4 | 8) {
        return Err(core.ud());
    }
    core.require_ring0()?;
    let value = moved(core, op);
    core.write_control(op.dst, value)
}

pub(super) fn mov_from_debug(core: &mut Core, op: &Op) -> Done {
    let value = core.read_debug(op.src)?;
    u64::set(core, op.dst, value);
    Ok(())
}

pub(super) fn mov_to_debug(core: &mut Core, op: &Op) -> Done {
    let value = moved(core, op);
    core.write_debug(op.dst, value)
}

pub(super) fn clts(core: &mut Core, _op: &Op) -> Done {
    core.require_ring0()?;
    core.sys.cr0 &= !cr0::TS;
    Ok(())
}

pub(super) fn rdmsr(core: &mut Core, _op: &Op) -> Done {
    core.require_ring0()?;
    let index = core.r[RCX] as u32;
    let value = core.read_msr(index)?;
    core.set_edx_eax(value);
    Ok(())
}

pub(super) fn wrmsr(core: &mut Core, _op: &Op) -> Done {
    core.require_ring0()?;
    let index = core.r[RCX] as u32;
    let value = core.edx_eax();
    core.write_msr(index, value)
}

pub(super) fn xgetbv(core: &mut Core, _op: &Op) -> Done {
    if core.sys.cr4 & cr4::OSXSAVE == 0 {
        return Err(core.ud());
    }
    let value = match core.r[RCX] as u32 {
        0 => core.sys.xcr0,
        1 => core.sys.xcr0 & super::xsave::in_use(core),
        _ => return Err(core.gp(0)),
    };
    core.set_edx_eax(value);
    Ok(())
}

pub(super) fn xsetbv(core: &mut Core, _op: &Op) -> Done {
    if core.sys.cr4 & cr4::OSXSAVE == 0 {
        return Err(core.ud());
    }
    core.require_ring0()?;
    let value = core.edx_eax();
    if core.r[RCX] as u32 != 0 || value & !XCR0_BITS != 0 || value & 1 == 0 {
        return Err(core.gp(0));
    }
    core.sys.xcr0 = value;
    Ok(())
}

/// INVD, WBINVD, INVLPG: there is no cache, and no translation cache that could be seen.
pub(super) fn privileged_nothing(core: &mut Core, _op: &Op) -> Done {
    core.require_ring0()
}

/// INVPCID: only its checks.
pub(super) fn invpcid(core: &mut Core, op: &Op) -> Done {
    core.require_ring0()?;
    let kind = if op.aux == 8 { u64::get(core, op.dst) } else { u64::from(u32::get(core, op.dst)) };
    let linear = core.linear(op, 16, false)?;
    let descriptor = core.read128(linear, op.seg)?;
    let (low, address) = (descriptor as u64, (descriptor >> 64) as u64);
    let pcids = core.sys.cr4 & cr4::PCIDE != 0;
    let refused = match kind {
        0 => low >> 12 != 0 || !crate::access::is_canonical(address) || !pcids && low != 0,
        1 => low >> 12 != 0 || !pcids && low != 0,
        2 | 3 => false,
        _ => true,
    };
    if refused { Err(core.gp(0)) } else { Ok(()) }
}

/// CLFLUSH and CLFLUSHOPT: the checks of a load.
pub(super) fn clflush(core: &mut Core, op: &Op) -> Done {
    let linear = core.linear(op, 1, false)?;
    core.probe_read(linear, 1, op.seg)
}
