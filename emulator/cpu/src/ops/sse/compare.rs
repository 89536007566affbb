//! COMISS, COMISD, UCOMISS, UCOMISD: ZF, PF and CF say greater (000), less (001), equal (100) or unordered (111).

use iced_x86::{Instruction, Mnemonic};

use super::super::in_memory;
use super::float::{Float, Kind, execute, load_operand, under_mxcsr};
use super::moves::registers;
use super::scalar::{not_denormal_32, not_denormal_64, scalar};
use super::vector::{Vector, low};
use crate::core::Core;
use crate::flags::{CF, PF, ZF};
use crate::mmu::CodeMode;
use crate::op::{Done, Handler, Op};

fn set_flags<F: Float>(core: &mut Core, a: Vector, b: Vector) -> Done {
    let result = execute::<F>(core, a, b)?;
    core.flags.set_arithmetic(low(result) & (ZF | PF | CF));
    Ok(())
}

fn reg<F: Float>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    set_flags::<F>(core, core.xmm(op.dst), core.xmm(op.src))
}

fn mem<F: Float>(core: &mut Core, op: &Op) -> Done {
    core.check_sse()?;
    let b = load_operand::<F>(core, op)?;
    set_flags::<F>(core, core.xmm(op.dst), b)
}

/// The result of the host's comparison is its flags, low byte. It raises nothing where the operands compare and
/// neither is denormal.
macro_rules! comparison {
    ($name:ident, $asm:literal, $double:literal, $bytes:literal, $not_denormal:ident) => {
        scalar!(
            $name,
            concat!($asm, " {a}, {b}\nlahf\nmovzx eax, ah\nmovd {a}, eax"),
            Safe,
            $double,
            $bytes,
            |a, b, result| low(result) & PF == 0 && $not_denormal(a) && $not_denormal(b),
            out("rax") _
        );
    };
}

comparison!(Comiss, "comiss", false, 4, not_denormal_32);
comparison!(Comisd, "comisd", true, 8, not_denormal_64);
comparison!(Ucomiss, "ucomiss", false, 4, not_denormal_32);
comparison!(Ucomisd, "ucomisd", true, 8, not_denormal_64);

fn form<F: Float>(ins: &Instruction) -> Handler {
    if in_memory(ins, 1) { mem::<F> } else { reg::<F> }
}

/// Handler of an instruction of this family.
pub(super) fn select(ins: &Instruction, op: &mut Op, _mode: CodeMode) -> Option<Handler> {
    let handler = match ins.mnemonic() {
        Mnemonic::Comiss => form::<Comiss>(ins),
        Mnemonic::Comisd => form::<Comisd>(ins),
        Mnemonic::Ucomiss => form::<Ucomiss>(ins),
        Mnemonic::Ucomisd => form::<Ucomisd>(ins),
        _ => return None,
    };
    registers(ins, op);
    Some(handler)
}
